"""What a Space needs of this repository, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from cam_hub.errors import InvalidArgument

__all__ = ["OWN_FOLDERS", "ROOT", "collect", "write"]

ROOT = Path(__file__).resolve().parent.parent
"""The folder that this code was started from."""

OWN_FOLDERS = ("cam_hub", "space")
"""The folders of a Space that hold nothing but what comes from here."""

_FILES = ("app.py", "requirements.txt", "LICENSE")
_CODE = (".py", ".typed")
_EXAMPLES = ("space", "examples")
_EXAMPLE_FILES = (".jpg", ".png", ".md")
_CARD = "README.md"


def collect(card: str, root: Path = ROOT) -> dict[str, bytes]:
    """The files of the Space.

    Code, examples, requirements, licence and the card; no tests, no caches, nothing hidden, and no
    link, since that could lead out of the repository.

    Args:
        card: Its ``README.md``.
        root: A clone of this repository, or a Space that was made from one.

    Returns:
        Content by path, sorted by path.

    Raises:
        InvalidArgument: If something that the Space needs is not in ``root``.
    """
    found = {_CARD: card.encode()}
    for name in _FILES:
        found[name] = _read(root, name)
    for folder in OWN_FOLDERS:
        if not (root / folder / "__init__.py").is_file():
            raise _incomplete(root, folder)
        for path in _walk(root / folder):
            name = path.relative_to(root).as_posix()
            if _belongs(name):
                found[name] = path.read_bytes()
    return dict(sorted(found.items()))


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes the files into a folder that is not there yet, or empty; all of them or none.

    Raises:
        InvalidArgument: If something is there, or it cannot be written to.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InvalidArgument("folder", str(folder), "a new folder or an empty one")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            staging = Path(name) / "files"
            for path, content in files.items():
                target = staging / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            if folder.exists():
                folder.rmdir()
            staging.rename(folder)
    except OSError as error:
        expected = f"a folder that can be written to ({error.strerror})"
        raise InvalidArgument("folder", str(folder), expected) from error


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.is_file():
            yield path


def _belongs(name: str) -> bool:
    path = PurePosixPath(name)
    if path.parts[:2] == _EXAMPLES:
        return path.suffix in _EXAMPLE_FILES
    return path.suffix in _CODE


def _read(root: Path, name: str) -> bytes:
    path = root / name
    if path.is_symlink() or not path.is_file():
        raise _incomplete(root, name)
    return path.read_bytes()


def _incomplete(root: Path, missing: str) -> InvalidArgument:
    return InvalidArgument("root", str(root), f"a clone of the repository; {missing!r} is missing")
