"""One budget for visitors' files on the disk, and correct errors for a full disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from cam_hub.errors import CamHubError, DiskUnavailable
from cam_hub.sources import disk_cache
from space.service.result_files import MAX_FILES, FileBudget, Workspace
from tests.fakes.space_app import SETTINGS, serve
from tests.fakes.space_process import RunningApp, run_app

KB = 1024


@pytest.fixture
def budget(tmp_path: Path) -> FileBudget:
    (tmp_path / "cam_hub").mkdir()
    return FileBudget(tmp_path, tmp_path / "cam_hub", 100 * KB, 50 * KB)


def upload(budget: FileBudget, digit: str, size: int, age: float, visitor: str = "") -> Path:
    """A folder like that of an upload, written some seconds ago."""
    folder = budget.root / (digit * 64)
    folder.mkdir()
    (folder / "photo.png").write_bytes(bytes(size))
    os.utime(folder, (time.time() - age,) * 2)
    budget.add(folder, visitor)
    return folder


def result(budget: FileBudget, name: str, size: int, age: float) -> Path:
    folder = budget.results / name
    folder.mkdir()
    (folder / "cam.npy").write_bytes(bytes(size))
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def test_the_oldest_uploads_and_results_are_removed_first(budget: FileBudget):
    oldest, old = result(budget, "r1", 40 * KB, 900), upload(budget, "a", 30 * KB, 800)
    young = upload(budget, "b", 20 * KB, 700)
    budget.make_room(10 * KB)
    assert oldest.exists()
    budget.make_room(10 * KB)
    assert not oldest.exists()
    assert old.exists()
    budget.make_room(50 * KB)
    assert not old.exists()
    assert young.exists()


def test_what_is_in_use_or_was_just_used_stays_and_the_rest_is_refused(budget: FileBudget):
    queued, fresh = upload(budget, "a", 40 * KB, 900), result(budget, "r", 40 * KB, 5)
    budget.in_use = lambda: {queued.name}
    with pytest.raises(DiskUnavailable, match="no room"):
        budget.make_room(40 * KB)
    assert queued.exists()
    assert fresh.exists()
    budget.in_use = frozenset
    budget.make_room(40 * KB)
    assert (queued.exists(), fresh.exists()) == (False, True)


def test_what_is_announced_counts_until_it_is_given_back(budget: FileBudget):
    budget.make_room(90 * KB)
    with pytest.raises(DiskUnavailable):
        budget.make_room(20 * KB)
    budget.release(90 * KB)
    budget.make_room(20 * KB)


def test_a_visitor_who_uploads_too_much_loses_uploads_of_their_own(budget: FileBudget):
    others = upload(budget, "a", 20 * KB, 900, "somebody")
    first = upload(budget, "b", 30 * KB, 30, "greedy")
    second = upload(budget, "c", 15 * KB, 20, "greedy")
    budget.make_room(20 * KB, "greedy")
    assert not first.exists()
    assert others.exists()
    assert second.exists()


def test_uploads_that_are_still_arriving_take_no_more_than_one_visitors_share(budget: FileBudget):
    budget.make_room(40 * KB, "slow")
    with pytest.raises(DiskUnavailable, match="still arriving"):
        budget.make_room(20 * KB, "slow")
    budget.make_room(20 * KB, "other")
    budget.release(40 * KB, "slow")
    budget.make_room(20 * KB, "slow")


def test_many_tiny_files_count_as_well(budget: FileBudget):
    folders = [upload(budget, digit, 1, 900 + n) for n, digit in enumerate("0123456789abcdef")]
    budget.make_room(0)
    assert sum(folder.exists() for folder in folders) == 100 * KB // 8192


def test_other_folders_are_not_affected(budget: FileBudget):
    other = budget.root / "another-app"
    other.mkdir()
    (other / "file").write_bytes(bytes(500 * KB))
    budget.make_room(90 * KB)
    assert other.exists()


def test_weights_uploads_and_results_share_one_bound(
    budget: FileBudget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    weights = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(bytes(30 * KB))
    os.utime(weights, (time.time() - 3000,) * 2)
    oldest, young = upload(budget, "a", 30 * KB, 5000), result(budget, "r", 30 * KB, 2000)
    disk_cache.trim(70 * KB, folders=budget.evictable())
    assert [path.exists() for path in (oldest, weights, young)] == [False, True, True]
    disk_cache.trim(40 * KB, folders=budget.evictable())
    assert [path.exists() for path in (weights, young)] == [False, True]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "size of files"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
    ],
)
def test_the_disks_own_errors_become_one_of_ours(number: int, words: str):
    found = DiskUnavailable.of(OSError(number, "the system's own message", "/secret/path"))
    assert found is not None
    assert words in str(found)
    assert "/secret" not in str(found)
    assert DiskUnavailable.of(found) is found


def test_other_errors_do_not():
    for error in (OSError(errno.ENOENT, "x"), ValueError(), OSError("x"), CamHubError("x")):
        assert DiskUnavailable.of(error) is None


def limited(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in a process whose files are limited to 64 KiB."""
    lead = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
    return subprocess.run(
        [sys.executable, "-c", lead + code, str(folder)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_result_that_cannot_be_written_leaves_nothing_and_is_reported(tmp_path: Path):
    code = (
        "import sys, pathlib, numpy as np\n"
        "from space.service.result_files import Workspace\n"
        "root = pathlib.Path(sys.argv[1]) / 'cam_hub'\n"
        "try:\n"
        "    with Workspace(root, 60).writing() as folder:\n"
        "        (folder / 'small').write_bytes(b'x')\n"
        "        np.save(folder / 'cam.npy', np.zeros(10**5))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(list(root.iterdir()))\n"
    )
    done = limited(code, tmp_path)
    assert done.stdout.startswith("DiskUnavailable Files could not be written: "), done
    assert done.stdout.endswith("[]\n")


def test_a_folder_stays_when_all_went_well(tmp_path: Path):
    workspace = Workspace(tmp_path / "cam_hub", 60)
    with workspace.writing() as folder:
        (folder / "file").write_bytes(bytes(10 * KB))
    assert workspace.budget.taken() == 10 * KB


# The running app


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    """An app with room for three photos of 100 KB."""
    limits = replace(SETTINGS.limits, max_file_bytes=100 * KB)
    settings = replace(
        SETTINGS, limits=limits, upload_bytes=250 * KB, visitor_bytes=320 * KB, file_bytes=2**30
    )
    with serve(settings) as address:
        yield address


def noise(seed: int, size: int = 90 * KB) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def send(address: str, *contents: bytes) -> httpx.Response:
    files = [("files", (f"photo{n}.png", content)) for n, content in enumerate(contents)]
    return httpx.post(f"{address}gradio_api/upload", files=files, timeout=60)


def test_an_upload_is_bounded_as_a_whole(small: str):
    assert send(small, noise(1), noise(2)).status_code == 200
    for contents in ([noise(n) for n in range(3)], [noise(1, 101 * KB)]):
        answer = send(small, *contents)
        assert (answer.status_code, answer.json()["title"]) == (413, "too_much")
    many = send(small, *[noise(n, 10) for n in range(MAX_FILES + 1)])
    assert (many.status_code, many.json()["title"]) == (400, "invalid_argument")


def test_a_visitors_oldest_upload_makes_room_for_the_newest(small: str):
    paths = [Path(send(small, noise(seed)).json()[0]) for seed in range(10, 16)]
    assert [path.exists() for path in paths] == [False] * 3 + [True] * 3
    assert paths[-1].read_bytes() == noise(15)


def test_an_upload_that_breaks_off_leaves_nothing(small: str):
    root = Path(os.environ["GRADIO_TEMP_DIR"])

    def files() -> set[Path]:
        return {*root.glob("cam_hub/upload-*"), *root.glob("tmp*")}

    before = files()  # of apps that other test files have run in this process

    def wait_for(wanted: bool) -> None:
        end = time.monotonic() + 45  # the app gives up on a silent upload after 30 seconds
        while bool(files() - before) != wanted and time.monotonic() < end:
            time.sleep(0.01)
        assert bool(files() - before) == wanted, files() - before

    def cut() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        yield noise(99)
        wait_for(True)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        httpx.post(
            f"{small}gradio_api/upload",
            content=cut(),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
    wait_for(False)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    """An app whose files are on a file system of 2 MiB, if this process may create one."""
    folder = tmp_path_factory.mktemp("full")
    files = folder / "files"
    files.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(files)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except OSError:
        pytest.skip("this process cannot mount a file system")
    if done.returncode:
        pytest.skip("this process may not mount a small file system")
    try:
        with run_app(folder) as running:
            yield running
    finally:
        subprocess.run(["umount", "-l", str(files)], check=False)


@pytest.mark.slow
def test_a_full_disk_is_named_and_nothing_is_left(full: RunningApp, photos):
    files = full.output.parent / "files"
    answer = httpx.post(f"{full.api}/upload", files={"files": ("a.png", noise(0, 3 * KB * KB))})
    assert (answer.status_code, answer.json()["title"]) == (507, "disk_unavailable")
    assert "the disk is full" in answer.json()["error"]
    assert not list(files.glob("cam_hub/upload-*"))
    photo = files.parent / "photo.png"
    photos["cat"].save(photo)
    path = httpx.post(f"{full.api}/upload", files={"files": photo.read_bytes()}).json()[0]
    left = os.statvfs(files)
    (files / "filler").write_bytes(bytes(left.f_bavail * left.f_bsize - 100 * KB))
    body = {"image": {"path": path}, "method": "layercam"}
    event = httpx.post(f"{full.api}/call/v2/explain", json=body).json()["event_id"]
    text = httpx.get(f"{full.api}/call/v2/explain/{event}", timeout=120).text
    assert "event: error" in text
    assert "disk_unavailable" in text
    assert "Traceback" not in full.log()
    (files / "filler").unlink()
    event = httpx.post(f"{full.api}/call/v2/explain", json=body).json()["event_id"]
    assert "event: complete" in httpx.get(f"{full.api}/call/v2/explain/{event}", timeout=120).text
