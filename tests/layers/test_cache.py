"""The files of the layer cache: what is read, what is ignored, and that nothing fails."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cam_hub.layers import cache

KEY = "0123456789abcdef" * 4
OTHER = "f" * 64
ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"name": "layer4", "grid": [7, 7], "usable": True, "reason": "7×7", "stage": None}]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which does not exist yet."""
    monkeypatch.setenv("CAM_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layers"


def file_of(root: Path, key: str = KEY) -> Path:
    return root / f"{key}.json"


def content(key: object = KEY, payload: object = ROWS, digest_of: object = None) -> bytes:
    """A file's content, as written by ``write``."""
    text = json.dumps(payload if digest_of is None else digest_of)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"key": key, "sha256": digest, "payload": payload}).encode()


def test_what_was_written_is_read_back_under_its_key_only():
    assert cache.read(KEY) is None
    cache.write(KEY, ROWS)
    assert cache.read(KEY) == ROWS
    assert cache.read(OTHER) is None


def test_a_later_answer_takes_the_place_of_an_earlier_one():
    cache.write(KEY, ROWS)
    cache.write(KEY, [])
    assert cache.read(KEY) == []


def test_one_file_is_left_per_key(root):
    for key in (KEY, OTHER, KEY):
        cache.write(key, ROWS)
    assert sorted(path.name for path in root.iterdir()) == [f"{KEY}.json", f"{OTHER}.json"]


def test_reading_changes_nothing_on_disk(root):
    cache.write(KEY, ROWS)
    os.utime(file_of(root), (1000, 1000))
    before = file_of(root).read_bytes()
    cache.read(KEY)
    cache.read(OTHER)
    assert file_of(root).stat().st_mtime == 1000
    assert file_of(root).read_bytes() == before
    assert len(list(root.iterdir())) == 1


def test_reading_makes_no_folder(root):
    cache.read(KEY)
    assert not root.parent.exists()


# The location of the folder.


def test_the_folder_is_that_of_the_environment_at_the_time_of_the_call(tmp_path, monkeypatch):
    cache.write(KEY, ROWS)
    monkeypatch.setenv("CAM_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert cache.folder() == tmp_path / "elsewhere" / "layers"
    assert cache.read(KEY) is None


@pytest.mark.parametrize("word", ["", " ", "off", "OFF"])
def test_an_empty_variable_or_the_word_off_switches_it_off(word, tmp_path, monkeypatch):
    monkeypatch.setenv("CAM_HUB_CACHE", word)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cache.write(KEY, ROWS)
    assert cache.read(KEY) is None
    assert cache.folder() is None
    assert list(tmp_path.iterdir()) == []


def test_without_the_variable_it_is_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("CAM_HUB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "cam_hub" / "layers"
    for ignored in ("", "relative"):  # as in the XDG specification
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.folder() == tmp_path / "home" / ".cache" / "cam_hub" / "layers"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAM_HUB_CACHE", "~/mine")
    assert cache.folder() == tmp_path / "mine" / "layers"


# Damaged and foreign files.

DAMAGE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "no JSON": lambda: b"{",
    "cut short": lambda: content()[:-1],
    "more behind it": lambda: content() + b"more",
    "two in one": lambda: content() * 2,
    "gzip, as by earlier versions": lambda: gzip.compress(content()),
    "no text": lambda: b"\xff\xfe\xfd",
    "no object": lambda: b"[1, 2]",
    "nested without end": lambda: b"[" * 200_000,
    "a number without end": lambda: b"1" * 100_000,
    "another key inside": lambda: content(key=OTHER),
    "no payload inside": lambda: json.dumps({"key": KEY}).encode(),
    "a payload of another digest": lambda: content(digest_of=[]),
    "too long": lambda: content(payload="0" * cache.MAX_BYTES),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_or_foreign_file_is_ignored_and_overwritten(damage, root):
    root.mkdir(parents=True)
    file_of(root).write_bytes(damage())
    assert cache.read(KEY) is None
    cache.write(KEY, ROWS)
    assert cache.read(KEY) == ROWS


def test_the_files_of_the_tests_above_are_ignored_for_their_damage_alone(root):
    root.mkdir(parents=True)
    file_of(root).write_bytes(content())
    assert cache.read(KEY) == ROWS
    long = "0" * (cache.MAX_BYTES - 1000)
    file_of(root).write_bytes(content(payload=long))
    assert cache.read(KEY) == long


def test_every_single_flipped_byte_is_noticed_or_harmless(root):
    cache.write(KEY, ROWS)
    whole = file_of(root).read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        file_of(root).write_bytes(broken)
        assert cache.read(KEY) in (None, ROWS)


def test_a_link_is_not_followed_and_what_it_points_to_is_not_written_to(root, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(content())
    root.mkdir(parents=True)
    file_of(root).symlink_to(target)
    assert cache.read(KEY) is None
    cache.write(KEY, [])
    assert cache.read(KEY) == []
    assert not file_of(root).is_symlink()
    assert target.read_bytes() == content()


def test_an_empty_folder_in_a_files_place_is_replaced(root):
    file_of(root).mkdir(parents=True)
    assert cache.read(KEY) is None
    cache.write(KEY, ROWS)
    assert cache.read(KEY) == ROWS


def test_a_folder_with_something_in_it_stays_and_costs_only_this_one_answer(root):
    file_of(root).mkdir(parents=True)
    (file_of(root) / "kept").touch()
    cache.write(KEY, ROWS)
    cache.write(OTHER, ROWS)
    assert cache.read(KEY) is None
    assert cache.read(OTHER) == ROWS
    assert (file_of(root) / "kept").exists()
    assert len(list(root.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_a_pipe_in_a_files_place_is_not_waited_for(root):
    root.mkdir(parents=True)
    os.mkfifo(file_of(root))
    assert cache.read(KEY) is None
    cache.write(KEY, ROWS)
    assert cache.read(KEY) == ROWS


@pytest.mark.parametrize("key", ["", "short", "../" + KEY[3:], KEY.upper(), KEY + "\n", "a/" + KEY])
def test_an_invalid_key_reaches_no_file(key, tmp_path):
    cache.write(key, ROWS)
    assert cache.read(key) is None
    assert list(tmp_path.iterdir()) == []


# Locations and payloads that cannot be written.


def test_a_file_in_the_folders_place_means_no_cache(root):
    root.parent.write_bytes(b"mine")
    cache.write(KEY, ROWS)
    assert cache.read(KEY) is None
    assert root.parent.read_bytes() == b"mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anyway")
def test_a_folder_that_may_only_be_read_is_still_read(root):
    cache.write(KEY, ROWS)
    root.chmod(0o500)
    try:
        cache.write(OTHER, ROWS)
        assert cache.read(OTHER) is None
        assert cache.read(KEY) == ROWS
    finally:
        root.chmod(0o700)


def test_a_disk_that_takes_no_more_leaves_the_earlier_answer_and_no_scraps(root):
    resource = pytest.importorskip("resource")
    cache.write(KEY, ROWS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))  # in bytes, for any one file
    try:
        cache.write(KEY, list(range(1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert cache.read(KEY) == ROWS
    assert [path.name for path in root.iterdir()] == [f"{KEY}.json"]


@pytest.mark.parametrize("payload", [object(), {1, 2}, b"bytes", {("a", "b"): 1}])
def test_what_json_cannot_hold_is_not_kept(payload, root):
    cache.write(KEY, payload)
    assert cache.read(KEY) is None


def test_a_payload_that_holds_itself_is_not_kept():
    endless: list[object] = []
    endless.append(endless)
    cache.write(KEY, endless)
    assert cache.read(KEY) is None


def test_a_payload_that_could_not_be_read_back_is_not_written(root):
    cache.write(KEY, "0" * cache.MAX_BYTES)
    assert not root.exists()


# Limits.


def test_the_oldest_results_are_removed_if_there_are_too_many(root, monkeypatch):
    monkeypatch.setattr(cache, "MAX_FILES", 3)
    keys = [f"{number:064x}" for number in range(5)]
    for age, key in zip([50, 40, 30, 20], keys, strict=False):
        cache.write(key, age)
        changed = 1_000_000 - age
        os.utime(file_of(root, key), (changed, changed))
    cache.write(keys[4], 0)
    assert [cache.read(key) for key in keys] == [None, None, 30, 20, 0]


def test_files_of_others_are_neither_counted_nor_removed(root, monkeypatch):
    monkeypatch.setattr(cache, "MAX_FILES", 1)
    root.mkdir(parents=True)
    others = [root / "README.txt", root / "weights.json", root / "notes.tmp"]
    for path in others:
        path.touch()
        os.utime(path, (0, 0))
    cache.write(KEY, ROWS)
    assert all(path.exists() for path in others)
    assert cache.read(KEY) == ROWS


def test_an_unfinished_file_goes_once_it_is_old(root):
    root.mkdir(parents=True)
    old, fresh = (root / f"{KEY}.json{name}.tmp" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.write(OTHER, ROWS)
    assert not old.exists()
    assert fresh.exists()


# Concurrent writes.


@pytest.mark.slow
def test_processes_and_threads_that_write_one_key_at_once_leave_a_whole_answer(root):
    code = (
        "import sys; from cam_hub.layers import cache\n"
        "for turn in range(60):\n"
        f"    cache.write({KEY!r}, [int(sys.argv[1])] * (1 + 37 * turn))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, mark], cwd=ROOT) for mark in ("1", "2")
    ]
    stop = threading.Event()
    mixed: list[object] = []

    def rewrite() -> None:
        while not stop.wait(0.002):  # the processes need the cores, too
            cache.write(KEY, [3] * 500)

    def look() -> None:
        seen_any = False
        while not stop.wait(0.0005):
            seen = cache.read(KEY)
            # Once a file exists, it always exists, and is always complete.
            if (seen is None and seen_any) or (seen is not None and len(set(seen)) != 1):
                mixed.append(seen)
            seen_any = seen_any or seen is not None

    threads = [threading.Thread(target=work) for work in (rewrite, look, look)]
    for thread in threads:
        thread.start()
    ends = [writer.wait(60) for writer in writers]
    stop.set()
    for thread in threads:
        thread.join(10)
    assert ends == [0, 0]
    assert mixed == []
    assert len(set(cache.read(KEY))) == 1
    assert [path.name for path in root.iterdir()] == [f"{KEY}.json"]
