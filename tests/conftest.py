"""Shared fixtures: an isolated cache, the embedded model, photos with known content, the app."""

from __future__ import annotations

import gc
import os
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


HUB_PORT = _free_port()
"""The port on which tests may serve their own hub; it is unused otherwise."""

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # the workers share the cores
    _WORKERS = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))

# Before huggingface_hub or torch is imported: no test uses the user's caches or the network.
_CACHE = tempfile.mkdtemp(prefix="cam-hub-tests-")
os.environ["HF_HOME"] = str(Path(_CACHE) / "hf")
os.environ["TORCH_HOME"] = str(Path(_CACHE) / "torch")
os.environ["CAM_HUB_CACHE"] = str(Path(_CACHE) / "cam_hub")
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_PORT}"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_TEMP_DIR"] = str(Path(_CACHE) / "gradio")

import certifi

# An HTTP client takes a thirtieth of a second to read all certificates that the system trusts, for
# every request of gradio_client, and all servers here are on loopback, without TLS: one is enough
# (hf_xet does not start without any).
_ONE = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----")
os.environ.pop("SSL_CERT_DIR", None)
os.environ["SSL_CERT_FILE"] = str(Path(_CACHE) / "certificate.pem")
Path(os.environ["SSL_CERT_FILE"]).write_text("".join(_ONE[:2]) + "\n", "utf-8")

import numpy as np
import pytest
from PIL import Image

import cam_hub
from tests.fakes.chromium import DESKTOP, Visitor, chromium
from tests.fakes.hub import FakeHub, serve

# Fixtures import what takes long themselves: pytest-xdist's main process, which waits for nothing
# else, needs none of it.
if TYPE_CHECKING:
    from gradio_client import Client


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """No garbage is looked for while all modules are imported, nor among them later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


PHOTOS = {
    "lion": (291, "lion"),
    "cheetah": (293, "cheetah"),
    "cat": (282, "tiger cat"),
    "espresso": (967, "espresso"),
    "tripod": (872, "tripod"),
    "moped": (665, "moped"),
}
"""The default model's prediction for each photo: class index and one of its label's names."""


def _gradio_photo(name: str) -> Image.Image:
    spec = find_spec("gradio")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "media_assets" / "images"
    return Image.open(folder / name).convert("RGB")


@pytest.fixture(scope="session")
def photos() -> dict[str, Image.Image]:
    """Real photos of the objects in PHOTOS."""
    import skimage.data

    return {
        "lion": _gradio_photo("lion.jpg"),
        "cheetah": _gradio_photo("cheetah1.jpg"),
        "cat": Image.fromarray(skimage.data.chelsea()),
        "espresso": Image.fromarray(skimage.data.coffee()),
        "tripod": Image.fromarray(skimage.data.camera()).convert("RGB"),
        "moped": Image.fromarray(skimage.data.stereo_motorcycle()[0]),
    }


@pytest.fixture(scope="session")
def lion(photos: dict[str, Image.Image]) -> Image.Image:
    """The photo of a lion, 256 by 256."""
    return photos["lion"]


@pytest.fixture(scope="session")
def lite0() -> cam_hub.LoadedModel:
    """The embedded default model, with its real weights."""
    return cam_hub.load_model(cam_hub.DEFAULT_MODEL, device="cpu")


@pytest.fixture(scope="session", autouse=True)
def short_pauses() -> Iterator[None]:
    """Downloads that are cut off go on soon, but later than their next report of progress."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cam_hub.sources.download._PAUSE", 0.25)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the Hub's cache; huggingface_hub reads the setting only once."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def hub(hub_cache: Path) -> Iterator[FakeHub]:
    """A hub with one repo, none of which is cached."""
    from tests.fakes.hub.bread import REPO, bread_repo  # imports torch

    hub = FakeHub()
    hub.repos[REPO] = bread_repo()
    with serve(hub, HUB_PORT):
        yield hub


@pytest.fixture
def fresh_listing() -> Iterator[None]:
    """The Hub's list of models is not cached, neither before nor after a test."""
    from cam_hub.sources.hub.listing import shared_listing

    shared_listing.forget()
    yield
    shared_listing.forget()


@pytest.fixture
def bakery_hub() -> Iterator[FakeHub]:
    """A hub with the repos of ``bakery``."""
    from tests.fakes.hub.bakery import bakery

    hub = bakery()
    with serve(hub, HUB_PORT):
        yield hub


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """URL of the running app, which the modules of a process share: it takes seconds to start."""
    from tests.fakes.space_app import serve  # imports torch

    with serve() as address:
        yield address


@pytest.fixture(scope="session")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A client of the running app."""
    from gradio_client import Client

    return Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="module")
def photo(lion: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the photo of a lion."""
    path = tmp_path_factory.mktemp("photos") / "lion.png"
    lion.save(path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium."""
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Visitor]]:
    """Opens the page; afterwards the console must be free of errors, and no other host
    contacted."""
    visitors = []

    def open_page(options: dict[str, Any] = DESKTOP, query: str = "") -> Visitor:
        visitors.append(Visitor(browser, url, options, query))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.close()
        assert visitor.complaints == []
        assert {host for host in visitor.hosts if host not in ("data", "blob")} == {
            url.split("/")[2]
        }


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch with one thread, as in the sweep over all architectures."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
