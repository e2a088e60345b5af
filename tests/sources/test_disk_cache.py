"""The limit on the disk space of downloaded weights."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from cam_hub.errors import InvalidArgument
from cam_hub.sources.disk_cache import trim
from tests.conftest import HUB_PORT
from tests.fakes.hub import FakeHub, serve

KB = 1000
NAMES = ["a/old", "b/middle", "c/new"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Empty caches; huggingface_hub reads its settings only once, so they are passed explicitly."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub"


@pytest.fixture
def hub():
    hub = FakeHub()
    for name in NAMES:
        hub.repos[name] = {"model.safetensors": name.encode() * 20 * KB}  # 100 to 160 kB
    with serve(hub, HUB_PORT):
        yield hub


@pytest.fixture
def three(hub, cache) -> FakeHub:
    """Three repos in the cache, the first least recently used, all written an hour ago."""
    for hours, name in zip((9, 6, 3), NAMES, strict=True):
        download(cache, name, hours)
    return hub


def download(cache: Path, name: str, hours: float = 0, revision: str | None = None) -> None:
    path = Path(hf_hub_download(name, "model.safetensors", cache_dir=cache, revision=revision))
    age(path.resolve(), hours)


def age(path: Path, hours: float) -> None:
    """Sets when it was last read; it was written even earlier."""
    os.utime(path, (time.time() - 3600 * hours, time.time() - 3600 * (hours + 1)))


def checkpoint(cache: Path, name: str, size: int, hours: float) -> Path:
    path = cache.parent / "torch" / "hub" / "checkpoints" / name
    path.write_bytes(bytes(size))
    age(path, hours)
    return path


def repos(cache: Path) -> list[str]:
    return sorted(path.name.removeprefix("models--").replace("--", "/") for path in
                  cache.glob("models--*"))  # fmt: skip


def size(cache: Path) -> int:
    return sum(path.lstat().st_size for path in cache.rglob("blobs/*"))


def test_what_was_used_least_recently_goes_first(three, cache):
    before = size(cache)
    assert trim(300 * KB) == before - size(cache) > 0
    assert repos(cache) == ["b/middle", "c/new"]


def test_nothing_goes_while_all_fits(three, cache):
    assert trim(500 * KB) == 0
    assert repos(cache) == NAMES


def test_everything_goes_if_it_must(three, cache):
    trim(0)
    assert size(cache) == 0


@pytest.mark.parametrize("id", ["a/old", "a/old@main"])
def test_models_to_keep_stay_and_count(three, cache, id):
    trim(150 * KB, keep=[id])
    assert repos(cache) == ["a/old"]


def test_what_was_kept_counts_as_just_used(three, cache):
    trim(500 * KB, keep=["a/old"])
    trim(300 * KB, grace=0)
    assert repos(cache) == ["a/old", "c/new"]


def test_a_bare_name_keeps_the_repo_of_timm(hub, cache):
    hub.repos["timm/net.tag"] = {"model.safetensors": bytes(100 * KB)}
    download(cache, "timm/net.tag", 5)
    trim(0, keep=["net.tag"])
    assert repos(cache) == ["timm/net.tag"]


def test_a_repo_that_is_being_written_stays(three, cache):
    download(cache, "a/old")  # from the cache, and then part of another file
    (cache / "models--a--old" / "blobs" / "abc.incomplete").write_bytes(bytes(KB))
    trim(0)
    assert repos(cache) == ["a/old"]


def test_pieces_of_broken_downloads_go_when_they_are_old(three, cache):
    piece = cache / "models--c--new" / "blobs" / "abc.incomplete"
    piece.write_bytes(bytes(50 * KB))
    age(piece, 20)
    total = size(cache)
    assert trim(total - 10 * KB) == 50 * KB
    assert not piece.exists()
    assert repos(cache) == NAMES


def test_an_old_revision_goes_without_the_new_one(hub, cache):
    download(cache, "a/old", 9)
    first = hub.commit("a/old")
    hub.repos["a/old"]["model.safetensors"] = bytes(110 * KB)
    download(cache, "a/old", 3)
    trim(120 * KB)
    snapshots = [path.name for path in (cache / "models--a--old" / "snapshots").iterdir()]
    assert snapshots == [hub.commit("a/old")] != [first]
    hub.broken = True
    assert hf_hub_download("a/old", "model.safetensors", cache_dir=cache, local_files_only=True)


def test_what_was_deleted_is_fetched_again(three, cache):
    trim(0)
    download(cache, "a/old")
    assert repos(cache) == ["a/old"]


def test_checkpoints_of_torchvision_also_count_and_are_removed(three, cache):
    old = checkpoint(cache, "alexnet-owt-7be5be79.pth", 100 * KB, 20)
    new = checkpoint(cache, "resnet18-f37072fd.pth", 100 * KB, 1)
    total = size(cache) + 200 * KB
    assert trim(total - 1) == 100 * KB
    assert (old.exists(), new.exists()) == (False, True)


def test_checkpoints_of_models_to_keep_stay(cache):
    kept = checkpoint(cache, "resnet18-f37072fd.pth", 100 * KB, 20)
    other = checkpoint(cache, "alexnet-owt-7be5be79.pth", 100 * KB, 1)
    trim(0, keep=["torchvision/resnet18@IMAGENET1K_V1", "torchvision/no_such_model"])
    assert (kept.exists(), other.exists()) == (True, False)


def test_caches_that_are_not_there_are_empty(cache):
    assert trim(0) == 0


def test_a_damaged_cache_raises_nothing_and_the_rest_is_trimmed(three, cache):
    (cache / "models--a--old" / "snapshots" / "junk").write_bytes(b"not a folder")
    (cache / "models--x--empty").mkdir()
    (cache / "stray").write_bytes(b"?")
    trim(0)
    assert not {"b/middle", "c/new"} & set(repos(cache))


def test_a_cache_that_is_a_file_is_none(cache):
    cache.write_bytes(b"")
    assert trim(0) == 0


def test_threads_that_trim_at_once_do_no_harm(three, cache):
    errors = []

    def work() -> None:
        try:
            trim(150 * KB)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert repos(cache) == ["c/new"]


@pytest.mark.parametrize("numbers", [{"limit_bytes": -1}, {"limit_bytes": 0, "grace": -1}])
def test_negative_numbers_are_refused(numbers):
    with pytest.raises(InvalidArgument):
        trim(**numbers)


def test_a_trim_that_failed_does_not_stand_in_the_way_of_the_next(three, cache):
    with pytest.raises(TypeError):
        trim("much")  # type: ignore[arg-type]
    assert trim(0) > 0
