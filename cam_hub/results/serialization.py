"""The folder of a saved result: its file names, how it is written, and how it is read again.

The manifest of a folder lists each of its files with a SHA-256 digest. Saving into the folder again
replaces or deletes exactly those files, as long as name and digest match; any other file stays, and
one of the same name as a new file is refused before anything is written.

A new result replaces an earlier one in four steps, so that the folder holds one of them in full at
any moment, even if the process is killed. All files are written into a staging folder. This is
renamed to ``.cam_hub-save``, which commits the new result: from then on it is the one that is
loaded. Then the earlier files make room, the new ones take their places, the manifest last. Where
this is interrupted, reading looks in both places, and the next save finishes the work first.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from cam_hub._text import shortened
from cam_hub.errors import CamHubError, ImageRefused, InvalidArgument, SaveFailed
from cam_hub.images.decoding import local_path, open_image
from cam_hub.images.remote import is_address

__all__ = [
    "MANIFEST",
    "PHOTO",
    "TABLE",
    "ResultFolder",
    "Writer",
    "check_name",
    "check_place",
    "digest_of",
    "folder_path",
    "frame_files",
    "manifest_text",
    "read_folder",
    "save_array",
    "save_folder",
    "save_picture",
    "saved_files",
    "write_manifest",
]

MANIFEST = "manifest.json"
TABLE = "comparison.json"
PHOTO = "photo.png"

Writer = Callable[[Path], object]
"""Writes one file to the path that it is given."""

Read = TypeVar("Read")

_FILES = "files"  # the manifest's listing: digest by name
_JOURNAL = ".cam_hub-save"
_NEW, _OLD = "new", "old"  # folders in the journal
_UNKNOWN = "0" * 64  # stands for the manifest's own digest while that is computed

_MAX_MANIFEST_BYTES = 32 << 20
_MAX_CELLS = 1 << 26  # of one map: 256 MiB
_MAX_HEADER = 4096
_LOCK_SECONDS = 60.0

# Names that Windows gives to devices, in any folder and with any suffix.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')


def folder_path(place: object, argument: str = "folder") -> Path:
    """The path that a caller names: ``~`` is the user's home, a ``file:`` URL its path.

    Args:
        place: A path as text, bytes or an ``os.PathLike``.
        argument: The name of the argument, for the message.

    Raises:
        InvalidArgument: If it is something else, empty, an address, or no system has such a path.
    """
    try:
        text = os.fsdecode(place)  # type: ignore[arg-type]
        if not text.strip():  # as of a variable that is not set
            raise InvalidArgument(argument, place, "a path; that of the current folder is '.'")
        if is_address(text):
            raise InvalidArgument(argument, place, "a path on this machine, not an address")
        path = local_path(text)
        if b"\0" in os.fsencode(path):
            raise InvalidArgument(argument, place, "a path without NUL")
    except (TypeError, UnicodeError) as error:
        raise InvalidArgument(argument, place, "the path of a folder") from error
    except ImageRefused as error:
        raise InvalidArgument(argument, place, "a path on this machine") from error
    return path


def frame_files(frames: Sequence[Image.Image]) -> list[str]:
    """The file of each frame of a clip; a picture that stands for several frames has one file."""
    first: dict[int, int] = {}
    return [
        f"frame-{first.setdefault(id(frame), position):03d}.png"
        for position, frame in enumerate(frames)
    ]


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a PNG with the fastest compression.

    On a photo the default takes five times as long for 5 percent.
    """
    picture.save(path, "PNG", compress_level=1)


def save_array(array: NDArray[Any], path: Path) -> None:
    """Writes an NPY file."""
    np.save(path, array)


def check_name(name: object, suffix: str = "") -> str:
    """A plain file name: no path, nothing hidden, nothing that some system reads differently.

    Args:
        name: The name, perhaps from a stranger's manifest.
        suffix: The required end of the name.

    Returns:
        The name.

    Raises:
        ValueError: If it is anything else.
    """
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= 200
        or _UNSAFE.search(name)
        or name.startswith(".")
        or name.endswith((".", " "))
        or _DEVICES.fullmatch(name)
        or not name.isprintable()
        or not name.endswith(suffix)
    ):
        shown = shortened(repr(name), 120)
        raise ValueError(f"{shown} is not the plain name of a file{suffix and f' in {suffix}'}")
    return name


def write_manifest(path: Path, facts: Mapping[str, Any]) -> None:
    """Writes the manifest of the files beside it, which are complete, and of those in subfolders.

    The digest listed for the manifest itself is that of its text with 64 zeros in the digest's
    place.

    Args:
        path: The manifest's path.
        facts: The manifest's content, without the listing.
    """
    files = {
        file.relative_to(path.parent).as_posix(): digest_of(file)
        for file in sorted(path.parent.rglob("*"))
        if file.is_file() and file != path
    }
    path.write_bytes(manifest_text(path.name, facts, files).encode())


def manifest_text(name: str, facts: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """The text of a manifest, its listing included.

    Args:
        name: Its file name.
        facts: Its content, without the listing.
        files: Digest of each other file, by name.
    """
    content = {**facts, _FILES: {**files, name: _UNKNOWN}}
    # Lone surrogates have no UTF-8; escaped, they are valid JSON.
    text = json.dumps(content, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2)
    text += "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    head, _, tail = text.rpartition(_UNKNOWN)
    return head + digest + tail


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ResultFolder:
    """A saved result to read, perhaps a stranger's. Nothing outside the folder is opened.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bases, self._roots = _bases(path), _roots(path)

    def inside(self, name: object) -> ResultFolder:
        """A folder in this one.

        Raises:
            ValueError: If the name is not plain.
        """
        name = check_name(name)
        inner = copy.copy(self)
        inner.path = self.path / name
        inner._roots = [found for root in self._roots for found in _roots(root / name)]
        return inner

    def holds(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return any(os.path.lexists(root / name) for root in self._roots)

    def file(self, name: object, suffix: str = "") -> Path:
        """The path of a file in the folder.

        Links are followed within the folder, and from a snapshot in the Hub's cache to the files of
        the same repo.

        Raises:
            ValueError: If the name is not plain, or it is a link that leads elsewhere, or no file.
            FileNotFoundError: If it is missing.
        """
        name = check_name(name, suffix)
        for root in self._roots:
            if not os.path.lexists(root / name):
                continue
            real = (root / name).resolve()
            if not any(real.is_relative_to(base) for base in self._bases):
                raise ValueError(f"{name!r} is a link that leads out of the folder")
            if not stat.S_ISREG(real.stat().st_mode):
                raise ValueError(f"{name!r} is not a file")
            return real
        raise FileNotFoundError(f"the file {name!r} is missing")

    def manifest(self, name: str) -> dict[str, Any]:
        """The content of a manifest, without its listing of files.

        Raises:
            ValueError: If it is too large or not a JSON object.
            OSError: If it cannot be read.
        """
        path = self.file(name)
        _check_size(path, _MAX_MANIFEST_BYTES)
        content = _json(path.read_bytes())
        content.pop(_FILES, None)
        return content

    def picture(self, name: object) -> Image.Image:
        """A picture in the folder.

        Raises:
            ImageRefused: If it is damaged or too large.
            ValueError: As for :meth:`file`.
            OSError: If it cannot be read.
        """
        return open_image(self.file(name, ".png"))

    def array(self, name: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A map in the folder.

        Args:
            name: Its file.
            shape: Its shape. A file of another one is refused before its content is read.

        Raises:
            ValueError: If it is not a float32 array of this shape; as for :meth:`file`.
            OSError: If it cannot be read.
        """
        path = self.file(name, ".npy")
        cells = int(np.prod([float(side) for side in shape]))
        if cells > _MAX_CELLS:
            raise ValueError(f"a map of {shape} is larger than {_MAX_CELLS:,} values")
        with path.open("rb") as file:
            version = npy.read_magic(file)
            if version == (1, 0):
                found = npy.read_array_header_1_0(file, max_header_size=_MAX_HEADER)
            elif version == (2, 0):
                found = npy.read_array_header_2_0(file, max_header_size=_MAX_HEADER)
            else:
                raise ValueError(f"{name!r} is an NPY file of version {version}")
            if found[0] != shape or found[2] != np.dtype(np.float32):
                raise ValueError(f"{name!r} holds {found[2]} {found[0]}, not float32 {shape}")
            data = file.read(4 * cells + 1)
        if len(data) != 4 * cells:
            raise ValueError(f"{name!r} is cut off, or goes on after its array")
        return np.frombuffer(data, np.float32).reshape(shape, order="F" if found[1] else "C")


def read_folder(path: Path, manifest: str, read: Callable[[ResultFolder], Read]) -> Read:
    """Reads a result; a second time, with saves held off, if one got in the way.

    Args:
        path: The folder.
        manifest: File name of the manifest.
        read: Reads from the folder. Its errors are those of the reading.
    """
    before = _version(path, manifest)
    try:
        found = read(ResultFolder(path))
    except Exception:
        if before is not None and before == _version(path, manifest):
            raise
    else:
        if before is not None and before == _version(path, manifest):
            return found
    if not path.is_dir():
        return read(ResultFolder(path))
    with _locked(path, shared=True):
        return read(ResultFolder(path))


def _version(path: Path, manifest: str) -> tuple[int, int, int] | None:
    """Which save a folder's content is of; None while a save moves its files."""
    try:
        if os.path.lexists(path / _JOURNAL):
            return None
        found = (path / manifest).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def save_folder(
    folder: Path, manifest: str, facts: Mapping[str, Any], files: Mapping[str, Writer]
) -> None:
    """Writes a result into a folder, in place of an earlier one of ours.

    Args:
        folder: Where to; made if need be, with its parents.
        manifest: File name of the manifest.
        facts: The manifest's content, without the listing of files.
        files: What writes each other file, by name; ``folder/name`` for one in a subfolder. They
            are written in this order.

    Raises:
        InvalidArgument: If ``folder`` is a file, or holds something that is not provably ours where
            a new file belongs. Nothing is written then.
        SaveFailed: If the system refuses, as with a full disk. The earlier result is as before.
    """
    names = [*files, manifest]
    for name in names:
        for part in name.split("/"):
            check_name(part)
    if len({_folded(name) for name in names}) < len(names):
        raise ValueError(f"two files of one name among {sorted(names)}")

    def write(staging: Path) -> None:
        for name, writer in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            writer(staging / name)
        write_manifest(staging / manifest, facts)

    try:
        if not os.path.lexists(folder) and _save_new(folder, write):
            return
        _save_into(folder, manifest, names, write)
    except CamHubError:
        raise
    except OSError as error:
        raise SaveFailed(str(folder), error.strerror or str(error)) from error


def check_place(folder: Path, manifest: str) -> None:
    """Checks early, before anything is computed, that a result can be saved to a folder.

    Raises:
        InvalidArgument: If it is a file, or its manifest is not provably ours.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise _no_folder(folder)
    _check_way(folder, manifest, [manifest])


def _no_folder(path: Path) -> InvalidArgument:
    return InvalidArgument("folder", str(path), "a folder, and this is a file")


def _save_new(folder: Path, write: Callable[[Path], None]) -> bool:
    """Writes a folder that is not there yet; False if another process was faster."""
    made = [path for path in (folder.parent, *folder.parent.parents) if not path.exists()]
    staging = folder.parent / _random_name()
    try:
        staging.mkdir(parents=True)
        write(staging)
        try:
            staging.rename(folder)
        except OSError:
            if os.path.lexists(folder):
                return False
            raise
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # there only if the rename failed
    return True


def _save_into(
    folder: Path, manifest: str, names: Sequence[str], write: Callable[[Path], None]
) -> None:
    """Writes into a folder that exists, by the steps of the module's docstring."""
    if not folder.is_dir():
        raise _no_folder(folder)
    with _locked(folder):
        _finish_interrupted(folder, manifest)
        _check_way(folder, manifest, names)
        staging = folder / _random_name()
        try:
            (staging / _NEW).mkdir(parents=True)
            (staging / _OLD).mkdir()
            write(staging / _NEW)
            _check_way(folder, manifest, names)  # writing takes time
            if (folder / manifest).exists():
                shutil.copyfile(folder / manifest, staging / _OLD / manifest)
            staging.rename(folder / _JOURNAL)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        _move_into_place(folder, manifest, undo=True)
        with suppress(OSError):  # the new result is complete; the next save tries again
            _discard_journal(folder, manifest)


def _move_into_place(folder: Path, manifest: str, *, undo: bool) -> None:
    """Takes the earlier files out of a folder and puts the new ones of its journal in.

    With ``undo``, an error restores the earlier result; otherwise the journal stays.
    """
    journal = folder / _JOURNAL
    earlier, new = _listing(journal / _OLD, manifest), _listing(journal / _NEW, manifest)
    undone: list[tuple[Path, Path]] = []  # moves, with which each can be taken back

    def move(source: Path, target: Path) -> None:
        _make_folders(target.parent, folder)
        source.replace(target)
        undone.append((target, source))

    try:
        for name, digest in earlier.items():
            if name != manifest and new.get(name) != digest and _is(folder, name, digest):
                move(folder / name, journal / _OLD / name)
        for name in new:
            if name != manifest and (journal / _NEW / name).exists():
                if os.path.lexists(folder / name) and not _is(folder, name, new[name]):
                    raise _in_the_way(folder, [name])
                move(journal / _NEW / name, folder / name)
        if _differs(folder / manifest, journal / _OLD / manifest):
            raise _in_the_way(folder, [manifest])
        (journal / _NEW / manifest).replace(folder / manifest)
    except BaseException:
        if undo:
            for now, before in reversed(undone):
                now.replace(before)
            aborted = folder / _random_name()
            journal.rename(aborted)  # takes back the commit
            shutil.rmtree(aborted, ignore_errors=True)
            _remove_empty(folder, new)
        raise
    _remove_empty(folder, earlier)


def _finish_interrupted(folder: Path, manifest: str) -> None:
    """Finishes an earlier save that was killed after its commit."""
    journal = folder / _JOURNAL
    if not os.path.lexists(journal):
        return
    if _is_folder(journal) and (journal / _NEW / manifest).exists():
        _move_into_place(folder, manifest, undo=False)
    if _is_folder(journal):
        _discard_journal(folder, manifest)
    if os.path.lexists(journal):
        raise InvalidArgument(
            "folder",
            str(folder),
            f"a folder without {_JOURNAL!r}, in which something lies that an interrupted save "
            "did not leave there. Move that away, or name another folder",
        )


def _discard_journal(folder: Path, manifest: str) -> None:
    """Removes what a finished save has left of its journal: the earlier files."""
    journal = folder / _JOURNAL
    earlier = _listing(journal / _OLD, manifest)
    for name, digest in earlier.items():
        if name != manifest and _is(journal / _OLD, name, digest):
            (journal / _OLD / name).unlink()
    _remove_empty(journal / _OLD, earlier)
    for path in sorted((journal / _NEW).rglob("*"), reverse=True):
        with suppress(OSError):  # a file, or a folder with one
            path.rmdir()
    if earlier and [path.name for path in (journal / _OLD).iterdir()] == [manifest]:
        (journal / _OLD / manifest).unlink()
    for path in (journal / _NEW, journal / _OLD, journal):
        with suppress(OSError):  # not empty, or gone
            path.rmdir()


def _check_way(folder: Path, manifest: str, names: Iterable[str]) -> None:
    """Raises ``InvalidArgument`` if something that is not ours is where a new file belongs."""
    ours = _listing(folder, manifest)
    taken: list[str] = []
    changed: list[str] = []
    present: dict[Path, dict[str, list[str]]] = {}
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts, start=1):
            path = folder.joinpath(*parts[:depth])
            known = "/".join(parts[:depth])
            if path.parent not in present:
                present[path.parent] = _by_folded_name(path.parent)
            for found in present[path.parent].get(_folded(part), ()):
                inner = "/".join([*parts[: depth - 1], found])
                if depth < len(parts) and found == part and _is_folder(path):
                    continue
                if inner in ours and (inner == manifest or _is(folder, inner, ours[inner])):
                    continue
                (changed if known in ours else taken).append(inner)
    if manifest in taken and (reason := _stale(folder / manifest)):
        expected = f"another folder, or this one without its earlier result: {manifest} {reason}"
        raise InvalidArgument("folder", str(folder), expected)
    if changed:
        listed = ", ".join(dict.fromkeys(changed))
        raise InvalidArgument(
            "folder",
            str(folder),
            f"a folder whose files are as they were saved; changed since: {listed}. Move that "
            "away, or name another folder",
        )
    if taken:
        raise _in_the_way(folder, taken)


def _in_the_way(folder: Path, names: Iterable[str]) -> InvalidArgument:
    listed = ", ".join(dict.fromkeys(names))
    return InvalidArgument(
        "folder",
        str(folder),
        f"a folder without files of the names {listed}, or with an earlier result of ours that "
        "lists them. Move them away, or name another folder",
    )


def _listing(folder: Path, manifest: str) -> dict[str, str]:
    """The files of a result of ours, by name, with their digests.

    Empty if the manifest is missing, not ours, or was changed since it was written.
    """
    path = folder / manifest
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return {}
        _check_size(path, _MAX_MANIFEST_BYTES)
        data = path.read_bytes()
        files = _json(data)[_FILES]
        own = files[manifest].encode()
        if hashlib.sha256(data.replace(own, _UNKNOWN.encode())).hexdigest().encode() != own:
            return {}
        for name, digest in files.items():
            for part in name.split("/"):
                check_name(part)
            if not isinstance(digest, str):
                return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return dict(files)


def saved_files(folder: Path) -> frozenset[str]:
    """The names of the files in a folder that a saved result lists as its own; perhaps none."""
    return frozenset(name for manifest in (MANIFEST, TABLE) for name in _listing(folder, manifest))


def _stale(path: Path) -> str:
    """Why a manifest of ours does not prove which files are ours; empty if it is not ours."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return ""
        _check_size(path, _MAX_MANIFEST_BYTES)
        content = _json(path.read_bytes())
    except (OSError, ValueError):
        return ""
    ours = ({"model", "method", "maps", "versions"}, {"kind", "titles", "rows"})
    if not any(parts <= content.keys() for parts in ours):
        return ""
    if _FILES in content:
        return "was changed after it was saved"
    return (
        "comes from an earlier version, which listed no digests, so that nothing proves which "
        "files here are ours"
    )


def _differs(path: Path, earlier: Path) -> bool:
    """Whether something is at a path that is not the earlier file."""
    if not os.path.lexists(path):
        return False
    regular = stat.S_ISREG(path.lstat().st_mode)
    return not (regular and earlier.exists() and path.read_bytes() == earlier.read_bytes())


def _is(folder: Path, name: str, digest: str) -> bool:
    """Whether there is a file of this name and digest, and no link on the way to it."""
    parts = name.split("/")
    if not all(_is_folder(folder.joinpath(*parts[:depth])) for depth in range(1, len(parts))):
        return False
    path = folder / name
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        return digest_of(path) == digest
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    """Whether it is a folder itself, and not a link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _by_folded_name(folder: Path) -> dict[str, list[str]]:
    """What is in a folder, by its name as it is where case makes no difference."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 (twice as fast for many files)
            found.setdefault(_folded(name), []).append(name)
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _make_folders(path: Path, top: Path) -> None:
    """Makes a folder below ``top``; raises rather than going through a link."""
    for part in reversed([path, *path.parents]):
        if part == top or not part.is_relative_to(top):
            continue
        if not _is_folder(part):
            part.mkdir()


def _remove_empty(folder: Path, names: Iterable[str]) -> None:
    """Removes the subfolders of these files that hold nothing."""
    found = {parent for name in names for parent in list(Path(name).parents)[:-1]}
    for path in sorted(found, key=lambda path: -len(path.parts)):
        with suppress(OSError):
            (folder / path).rmdir()


def _random_name() -> str:
    return f".cam_hub-{secrets.token_hex(8)}"


def _roots(path: Path) -> list[Path]:
    """The places where the files of a result lie: of a save that was interrupted two."""
    committed = path / _JOURNAL / _NEW
    if _is_folder(path / _JOURNAL) and _is_folder(committed):
        return [committed, path]
    return [path]


def _bases(path: Path) -> list[Path]:
    """The folders out of which no link may lead."""
    real = path.resolve()
    # The Hub's cache: REPO/snapshots/COMMIT/… links to REPO/blobs.
    of_hub = [
        repo.parent / "blobs" for repo in real.parents if repo.name == "snapshots" and repo != real
    ]
    return [real, *of_hub[:1]]


def _check_size(path: Path, most: int) -> None:
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path.name} has {size:,} bytes, and {most:,} is the limit")


def _json(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


@contextmanager
def _locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds a folder against saves into it, where the system can do that.

    Several may hold it as ``shared``; if a save does not end, such a caller goes on without.
    """
    try:
        import fcntl  # noqa: PLC0415
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline and shared:
                    break
                if time.monotonic() > deadline:
                    raise SaveFailed(
                        str(folder), "another save into it is still under way"
                    ) from None
                time.sleep(0.02)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(handle)
