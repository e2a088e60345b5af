"""Files behind addresses such as ``s3://bucket/photo.jpg``, read through fsspec."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final
from urllib.parse import quote, urljoin, urlsplit

from cam_hub._text import clean_line
from cam_hub.errors import (
    CamHubError,
    ImageRefused,
    InvalidArgument,
    PackageMissing,
    SourceUnavailable,
)

__all__ = ["MAX_BYTES", "RemoteFile", "is_address", "plain_errors"]

MAX_BYTES: Final = 256 << 20
"""Larger files are not read into memory."""

_ADDRESS = re.compile(r"(?!(?:file|local):)[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\"]*", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a text is an address as fsspec takes it, rather than a path on this machine."""
    return _ADDRESS.match(text) is not None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file, a folder or a glob behind an address, which is not read before it is opened.

    Attributes:
        filesystem: The ``fsspec.AbstractFileSystem``, which files of one source share.
        path: Its path there.
        address: The whole address, which may hold a password or a signature.
    """

    filesystem: Any
    path: str
    address: str

    @classmethod
    def at(cls, address: str) -> RemoteFile:
        """The file behind an address; whether it is there is not checked.

        Raises:
            InvalidArgument: If fsspec does not have such addresses.
            PackageMissing: If a package is missing that reads from there.
        """
        from fsspec.core import url_to_fs  # noqa: PLC0415 - only where something is remote

        shown, scheme = _public(address), address.partition("://")[0]
        try:
            filesystem, path = url_to_fs(address)
        except ImportError as error:
            package = getattr(error.__cause__, "name", None) or scheme
            command = f"pip install {package}"
            raise PackageMissing(package, f"An address {scheme}://…", command) from error
        except Exception as error:
            expected = f"an address that fsspec can open ({_reason(error)})"
            raise InvalidArgument("source", shown, expected) from error
        if path != address and "::" not in address:
            bare = address.rstrip("/")
            address = bare if bare.endswith(path) else f"{scheme}://{path}"
        return cls(filesystem, path, address)

    @property
    def is_web(self) -> bool:
        """Whether it is behind ``http://`` or ``https://``, where all folders are also files."""
        return self.address.lower().startswith(("http://", "https://"))

    @property
    def name(self) -> str:
        """The last part of the path."""
        path = urlsplit(self.path).path if self.is_web else self.path
        return path.rpartition("/")[2]

    @property
    def shown(self) -> str:
        """The address without what may be secret: user and password, and a web address's query."""
        return _public(self.address)

    @property
    def is_public(self) -> bool:
        """Whether ``shown`` is the whole address."""
        return self.address == self.shown

    def other(self, path: str) -> RemoteFile:
        """Another file of the same file system, by its path there."""
        start = self.address[: len(self.address) - len(self.path)]
        return RemoteFile(self.filesystem, path, start + path)

    def beside(self, text: str) -> RemoteFile:
        """The file that a text in this one names, by a path relative to this one's folder."""
        text = text.lstrip("/")
        if self.is_web:
            return self.other(urljoin(self.path, quote(text)))
        return self.other(posixpath.normpath(posixpath.join(posixpath.dirname(self.path), text)))

    def open(self) -> IO[bytes]:
        """The file, opened to be read.

        Raises:
            SourceUnavailable: If that is not possible.
        """
        with plain_errors(self.shown):
            found: IO[bytes] = self.filesystem.open(self.path, "rb")
        return found

    def read(self) -> bytes:
        """All bytes of the file.

        Raises:
            ImageRefused: If it cannot be read, or is too large.
        """
        try:
            with plain_errors(self.shown), self.open() as file:
                found = _content(file)
        except SourceUnavailable as error:
            raise ImageRefused(f"{self.shown} cannot be read: {error.reason}") from error
        if len(found) > MAX_BYTES:
            raise ImageRefused(f"{self.shown} has more than {MAX_BYTES:,} bytes, the limit")
        return found


def _content(file: IO[bytes]) -> bytes:
    """The rest of a file, or the first bytes of it if it is too large."""
    pieces: list[bytes] = []
    size = 0
    # Streams from the web give what has arrived, before their end.
    while size <= MAX_BYTES and (piece := file.read(MAX_BYTES + 1 - size)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _reason(error: BaseException) -> str:
    """Why a client failed; its message may show the address."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # web servers that do not answer are "not found" to fsspec
    if isinstance(error, FileNotFoundError):
        return "there is nothing of this name, or it is hidden from these credentials"
    words = clean_line(_public(str(error)) or type(error).__name__, 200)
    if isinstance(error, PermissionError):
        return f"access is denied ({words}): check the credentials"
    return words


@contextmanager
def plain_errors(shown: str, reason: Callable[[BaseException], str] = _reason) -> Iterator[None]:
    """Turns whatever a client raises into an error of ours.

    Args:
        shown: The address for the message.
        reason: Why the client failed; that of a file system by default.

    Raises:
        SourceUnavailable: In place of the client's error.
    """
    try:
        yield
    except CamHubError:
        raise
    except Exception as error:
        raise SourceUnavailable(shown, reason(error)) from error


def _public(address: str) -> str:
    return _QUERY.sub(r"\1", _USER.sub("", address))
