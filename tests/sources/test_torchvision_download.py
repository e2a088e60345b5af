"""Downloads of torchvision's checkpoints: resumed, verified, and an error for each fault."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import Weights, WeightsEnum
from torchvision.transforms._presets import ImageClassification

import cam_hub
from cam_hub.errors import HubUnavailable, InvalidArgument, ModelRefused
from cam_hub.models.loading import LoadRequest
from cam_hub.models.model_id import parse_model_id
from cam_hub.sources.torchvision import fetch_weights, weights_file
from tests.fakes.mirror import Mirror, serve


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    rows = torch.rand(300_000, generator=torch.Generator().manual_seed(0))
    torch.save({"rows": rows}, buffer)
    return buffer.getvalue()


ID = "torchvision/squeezenet1_1"
CONTENT = checkpoint()
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/models/tiny-{DIGEST[:8]}.pth"
META = {"_file_size": len(CONTENT) / 2**20, "num_params": 300_000, "categories": ["a"]}


class TinyWeights(WeightsEnum):
    """Weights like torchvision's own, with known digests."""

    V1 = Weights(f"https://download.pytorch.org{PATH}", ImageClassification, META)


@pytest.fixture(autouse=True)
def hub_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # huggingface_hub reads the setting only once.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def mirror(monkeypatch) -> Iterator[Mirror]:
    mirror = Mirror({PATH: CONTENT})
    with serve(mirror) as address:
        monkeypatch.setenv("CAM_HUB_TORCHVISION_URL", address)
        yield mirror


def fetch(progress: Any = None) -> Path:
    id = parse_model_id(ID)
    fetch_weights(LoadRequest(id, True, torch.device("cpu"), progress=progress), TinyWeights.V1)
    return weights_file(TinyWeights.V1)


def files(folder: Path) -> set[str]:
    """Names of the files in the folder, without locks."""
    return {path.name for path in folder.glob("*") if not path.name.endswith(".lock")}


def test_a_checkpoint_is_fetched_once_and_then_used_without_a_network(mirror, hub_folder):
    path = fetch()
    assert path == hub_folder / f"tiny-{DIGEST[:8]}.pth"
    assert path.read_bytes() == CONTENT
    assert files(hub_folder) == {path.name}
    mirror.status = 500
    assert fetch() == path
    assert mirror.requests == [(PATH, None)]


def test_progress_reports_all_bytes(mirror):
    heard: list[tuple[float, str]] = []
    fetch(lambda part, words: heard.append((part, words)))
    assert [part for part, _ in heard] == sorted(part for part, _ in heard)
    assert heard[-1][0] == pytest.approx(1, abs=0.01)
    assert heard[-1][1] == f"Fetching {ID}: 1.2 MB of 1.2 MB"


def test_a_cut_connection_is_taken_up_where_it_broke_off(mirror):
    mirror.cuts = [400_000, 300_000]
    assert fetch().read_bytes() == CONTENT
    assert [asked for _, asked in mirror.requests] == [None, "bytes=400000-", "bytes=700000-"]


def test_a_mirror_without_range_requests_starts_again(mirror):
    mirror.cuts, mirror.ranges = [400_000], False
    assert fetch().read_bytes() == CONTENT


def test_a_connection_that_breaks_repeatedly_leaves_bytes_that_the_next_try_resumes_from(
    mirror, hub_folder
):
    mirror.cuts = [500_000, 0, 0, 0]
    words = r"500,000 of about .* next try goes on where it was cut"
    with pytest.raises(HubUnavailable, match=words):
        fetch()
    assert files(hub_folder) == {f"tiny-{DIGEST[:8]}.pth.incomplete"}
    mirror.cuts, mirror.requests = [], []
    assert fetch().read_bytes() == CONTENT
    assert mirror.requests == [(PATH, "bytes=500000-")]


def test_a_length_that_lies_does_no_harm_to_a_file_that_is_whole(mirror):
    mirror.headers = {"Content-Length": "9999999"}
    assert fetch().read_bytes() == CONTENT


class Stop(ConnectionError):
    """An exception by which a caller ends a download; its base class is also raised by the
    network."""


def test_a_caller_can_end_a_download_and_the_next_try_resumes_it(mirror, hub_folder):
    def stop(part: float, words: str) -> None:
        raise Stop(words)

    with pytest.raises(Stop, match=f"Fetching {ID}"):
        fetch(stop)
    assert not (hub_folder / f"tiny-{DIGEST[:8]}.pth").exists()
    assert fetch().read_bytes() == CONTENT
    assert mirror.requests[1][1] is not None, "a part was there already"


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "not found": ({"status": 404}, r"does not have the file: error 404 \(Not Found\)"),
    "forbidden": ({"status": 403}, r"does not hand out the file: error 403 \(Forbidden\)"),
    "overloaded": ({"status": 503}, r"in trouble: error 503 \(Service Unavailable\)"),
    "too many requests": (
        {"status": 429, "headers": {"Retry-After": "17"}}, "too many requests.*in 17 seconds"
    ),
    "in circles": ({"status": 302, "headers": {"Location": PATH}}, "redirects in circles"),
    "silent": ({"delay": 1.5}, "no answer in time"),
    "a login page": ({"files": {PATH: b"<html>Please log in"}}, "a login page"),
    "damaged": ({"files": {PATH: CONTENT[:-1] + b"?"}}, f"instead of {DIGEST[:8]}"),
    "endless": ({"files": {PATH: bytes(5_000_000)}}, "more bytes than the file has"),
    "another part": ({"odd_range": True, "cuts": [1000]}, "another part of the file"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_is_named_and_the_next_try_works(case, mirror, hub_folder):
    faults, words = FAULTS[case]
    for name, value in faults.items():
        setattr(mirror, name, value)
    with pytest.raises(HubUnavailable, match=words) as caught:
        fetch()
    assert caught.value.model_id == ID
    assert not (hub_folder / f"tiny-{DIGEST[:8]}.pth").exists(), "no half file is ever used"
    assert str(hub_folder) not in str(caught.value)
    vars(mirror).update(vars(Mirror({PATH: CONTENT})))
    assert fetch().read_bytes() == CONTENT


def test_a_port_without_a_server_is_refused(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # reserved, but without a server
        monkeypatch.setenv("CAM_HUB_TORCHVISION_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(
            HubUnavailable, match=r"connection was refused.*CAM_HUB_TORCHVISION_URL"
        ):
            fetch()


def test_an_unknown_host_name_is_a_dns_error(monkeypatch):
    monkeypatch.setenv("CAM_HUB_TORCHVISION_URL", "http://mirror.invalid")
    with pytest.raises(HubUnavailable, match=r"not known \(DNS\)|cannot be reached"):
        fetch()


@pytest.mark.parametrize("address", ["file:///etc", "mirror.example", "ftp://mirror", "http://"])
def test_a_mirror_that_is_not_a_url_is_refused(address, monkeypatch):
    monkeypatch.setenv("CAM_HUB_TORCHVISION_URL", address)
    with pytest.raises(InvalidArgument, match="CAM_HUB_TORCHVISION_URL"):
        fetch()


def test_a_full_disk_is_named_and_gets_its_room_back(mirror, hub_folder):
    ours = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, ours[1]))
        with pytest.raises(HubUnavailable, match=r"disk is full.*TORCH_HOME"):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, ours)
        signal.signal(signal.SIGXFSZ, before)
    assert files(hub_folder) == set()
    assert fetch().read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made_is_named(mirror, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(HubUnavailable, match="torch's hub folder"):
        fetch()
    assert mirror.requests == []


def test_several_threads_fetch_it_once(mirror):
    found: list[Path] = []
    mirror.delay = 0.1
    threads = [threading.Thread(target=lambda: found.append(fetch())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert mirror.requests == [(PATH, None)]


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_malicious_file_in_the_hub_folder_is_refused_and_has_not_run(hub_folder, tmp_path):
    hub_folder.mkdir(parents=True)
    torch.save({"x": Malicious(tmp_path / "it ran")}, hub_folder / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(ModelRefused, match=r"removed from torch's hub folder it is fetched again"):
        cam_hub.load_model("torchvision/squeezenet1_1", device="cpu")
    assert not (tmp_path / "it ran").exists()


def test_a_checkpoint_of_another_network_is_refused(hub_folder):
    hub_folder.mkdir(parents=True)
    torch.save({"x": torch.ones(2)}, hub_folder / "squeezenet1_1-b8a52dc0.pth")
    with pytest.raises(ModelRefused, match="could not build it from its checkpoint"):
        cam_hub.load_model("torchvision/squeezenet1_1", device="cpu")


def test_what_is_sent_in_place_of_real_weights_is_not_loaded(mirror):
    mirror.files["/models/squeezenet1_1-b8a52dc0.pth"] = CONTENT
    with pytest.raises(HubUnavailable, match="instead of b8a52dc0"):
        cam_hub.load_model("torchvision/squeezenet1_1", device="cpu")


@pytest.mark.slow  # another process imports torch
def test_two_processes_fetch_it_once(mirror):
    mirror.delay = 0.2
    code = "from tests.sources.test_torchvision_download import fetch; fetch()"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
            for _ in range(2)]  # fmt: skip
    assert [process.wait(120) for process in both] == [0, 0]
    assert mirror.requests == [(PATH, None)]
