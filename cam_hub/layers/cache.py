"""What experiments found, kept on disk: one small file per fingerprint.

A cache must never be the reason why something fails. So nothing here raises: a folder that cannot
be written is no cache, a file that is not what this module wrote is no answer, and the next
``write`` puts a good one in its place.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["MAX_FILES", "MAX_PACKED", "MAX_PLAIN", "folder", "read", "write"]

SCHEMA = 1
"""Number of the form in which files are written; files of another are ignored."""

MAX_FILES = 2000
"""How many answers are kept; beyond that, the oldest go."""

MAX_PACKED = 2**20
"""Bytes of a file at most; a longer one is neither written nor read."""

MAX_PLAIN = 8 * 2**20
"""Bytes of an unpacked file at most, so that none can fill the memory."""

_KEY = re.compile(r"[0-9a-f]{64}")
_ENDING = ".json.gz"
_UNFINISHED = ".tmp"
_ABANDONED = 3600.0
"""Seconds after which an unfinished file is taken to be left over from a process that died."""


def folder() -> Path | None:
    """Where answers are kept, by the environment as it is now.

    Returns:
        ``layers`` in ``$CAM_HUB_CACHE``, else in ``$XDG_CACHE_HOME/cam_hub``, else in
        ``~/.cache/cam_hub``; it need not exist. None if ``CAM_HUB_CACHE`` is empty or ``off``, or
        there is no home.
    """
    chosen = os.environ.get("CAM_HUB_CACHE")
    if chosen is not None and chosen.strip().lower() in ("", "off"):
        return None
    shared = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if chosen is not None:
            return Path(chosen).expanduser() / "layers"
        # The XDG specification has relative paths ignored.
        base = Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "cam_hub" / "layers"


def read(key: str) -> Any | None:
    """Reads what ``write`` has kept under a key, and changes nothing on disk.

    Args:
        key: 64 hexadecimal digits, as of ``fingerprint``.

    Returns:
        The payload as JSON knows it (tuples have become lists), or None if there is none: no
        file, no cache, or a file that is damaged, too large, no regular file, or not this key's.
        That it is well-formed JSON is all that is known about it.
    """
    path = _path(key)
    if path is None:
        return None
    # RecursionError (nested too deeply) is a RuntimeError, a number too long a ValueError.
    with suppress(OSError, EOFError, zlib.error, ValueError, RuntimeError, MemoryError):
        kept = json.loads(_unpacked(_content(path)))
        if isinstance(kept, dict) and (kept.get("schema"), kept.get("key")) == (SCHEMA, key):
            return kept.get("payload")
    return None


def write(key: str, payload: Any) -> None:
    """Keeps a payload under a key, in place of what was there, or does nothing if it cannot.

    Safe with any number of processes and threads at once: a file appears whole or not at all.

    Args:
        key: 64 hexadecimal digits, as of ``fingerprint``.
        payload: What JSON can hold; anything else is not kept.
    """
    path = _path(key)
    if path is None:
        return
    with suppress(OSError, TypeError, ValueError, RuntimeError, MemoryError):
        plain = json.dumps({"schema": SCHEMA, "key": key, "payload": payload}).encode()
        packed = gzip.compress(plain, 6, mtime=0)
        if len(plain) > MAX_PLAIN or len(packed) > MAX_PACKED:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _put(path, packed)
        _prune(path.parent)


def _path(key: str) -> Path | None:
    root = folder()
    return root / (key + _ENDING) if root is not None and _KEY.fullmatch(key) else None


def _content(path: Path) -> bytes:
    """A regular file's bytes; links are not followed, pipes not waited for."""
    if path.is_symlink():  # for systems without O_NOFOLLOW
        raise OSError
    with open(path, "rb", opener=_open) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_PACKED:
            raise OSError
        return file.read(MAX_PACKED)


def _open(path: str, flags: int) -> int:
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags | careful)


def _unpacked(packed: bytes) -> bytes:
    """Unpacks gzip up to ``MAX_PLAIN`` bytes; zlib checks length and checksum at its end."""
    unpacking = zlib.decompressobj(wbits=31)
    plain = unpacking.decompress(packed, MAX_PLAIN)
    if not unpacking.eof or unpacking.unused_data:
        raise EOFError
    return plain


def _put(path: Path, content: bytes) -> None:
    """Writes a file whole, beside its place, and moves it there."""
    handle, unfinished = tempfile.mkstemp(_UNFINISHED, path.name, path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        try:
            Path(unfinished).replace(path)
        except (IsADirectoryError, PermissionError):
            # An empty folder in the file's place; a full one is somebody's, and stays.
            path.rmdir()
            Path(unfinished).replace(path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _prune(root: Path) -> None:
    """Removes the oldest answers above ``MAX_FILES``, and unfinished files that were left behind.

    Files that are not named as ours stay.
    """
    answers: list[tuple[float, str]] = []
    unfinished: list[tuple[float, str]] = []
    with os.scandir(root) as entries:
        for entry in entries:
            for ending, found in ((_ENDING, answers), (_UNFINISHED, unfinished)):
                if _KEY.match(entry.name) and entry.name.endswith(ending):
                    with suppress(FileNotFoundError):  # another process prunes, too
                        found.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    stale = time.time() - _ABANDONED
    doomed = sorted(answers)[: max(len(answers) - MAX_FILES, 0)]
    doomed += [(changed, path) for changed, path in unfinished if changed < stale]
    for _, path in doomed:
        with suppress(OSError):
            Path(path).unlink()
