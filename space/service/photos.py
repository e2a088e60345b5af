"""The photo of a request: an uploaded file, or one at a public URL."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpcore2
import httpx2
from gradio.utils import get_upload_folder
from PIL import Image

from cam_hub._version import __version__
from cam_hub.errors import ImageRefused
from cam_hub.images.decoding import open_image
from space.config.settings import PhotoRules
from space.service.public_network import Deadline, NotPublic, PublicBackend, look_up

__all__ = ["Photo", "check_url", "fetch_photo", "is_url", "read_photo", "url_name"]


_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST = 2048
_HEADERS = (
    (b"User-Agent", f"cam_hub/{__version__}".encode()),
    (b"Accept", b"image/*"),
    (b"Accept-Encoding", b"identity"),  # what is unpacked could grow beyond the limit
)


def is_url(text: str) -> bool:
    """Whether a text is meant to be a URL: of any scheme, since others are refused by name."""
    return "://" in text[:40] or text[:5].lower() == "data:"


def url_name(url: str) -> str:
    """What the photo is called: the last part of the URL's path, at most 100 characters."""
    try:
        name = httpx2.URL(url).path.rstrip("/").rpartition("/")[2]
    except httpx2.InvalidURL:
        name = ""
    kept = "".join(sign for sign in name if sign.isprintable() and sign not in "\\:")
    return kept[-100:] or "photo"


def check_url(url: str, rules: PhotoRules) -> httpx2.URL:
    """Judges a URL without contacting anybody.

    Args:
        url: An absolute one.
        rules: What may be fetched.

    Returns:
        Its parts.

    Raises:
        ImageRefused: If it is no URL, of another scheme than http and https, names a user or a
            password, or a port other than 80 and 443: nobody should knock at other services
            through this app.
    """
    if not rules.allowed:
        raise ImageRefused("this app fetches no photos from URLs; upload it")
    if len(url) > _LONGEST:
        raise ImageRefused(f"its URL has {len(url)} characters, and at most {_LONGEST} are taken")
    try:
        parts = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, ValueError) as error:
        raise ImageRefused(f"{_quoted(url)} is no URL: {error}") from None
    if parts.scheme not in _PORTS:
        raise ImageRefused(
            f"{_quoted(url)} cannot be fetched: only http:// and https:// URLs can; upload the "
            "photo instead"
        )
    if not parts.host:
        raise ImageRefused(f"{_quoted(url)} names no host")
    if parts.userinfo:
        # Not repeated: it may be a password.
        raise ImageRefused("its URL holds a user name or password; only public photos are fetched")
    if parts.port not in (None, *_PORTS.values()) and not rules.loopback:
        raise ImageRefused(f"{_quoted(url)} names port {parts.port}; only 80 and 443 are contacted")
    return parts


def fetch_photo(
    url: str, rules: PhotoRules, tell: Callable[[int], None] = lambda arrived: None
) -> bytes:
    """Fetches a photo. Whether it is one is judged by whoever opens it, not by what is declared.

    Args:
        url: Of the photo.
        rules: What may be fetched.
        tell: Called with the bytes that have arrived; what it raises ends the work.

    Returns:
        The bytes of the photo's file.

    Raises:
        ImageRefused: If the URL is refused, its host or one that it leads to is not public, or no
            photo of the allowed size arrives in time.
    """
    backend = PublicBackend(
        Deadline.after(rules.total_seconds), rules.resolve or look_up, rules.loopback
    )
    parts = check_url(url, rules)
    for _ in range(rules.redirects + 1):
        found = _get(parts, rules, backend, tell)
        if isinstance(found, bytes):
            return found
        parts = check_url(found, rules)
    raise ImageRefused(f"{_quoted(url)} is redirected more than {rules.redirects} times")


def _get(
    parts: httpx2.URL, rules: PhotoRules, backend: PublicBackend, tell: Callable[[int], None]
) -> bytes | str:
    """One request: the photo, or the URL that it leads to."""
    where = _quoted(str(parts))
    # Made of the very parts that were judged: no other reading of the URL comes in between.
    target = httpcore2.URL(
        scheme=parts.raw_scheme,
        host=parts.raw_host,
        port=parts.port or _PORTS[parts.scheme],
        target=parts.raw_path,
    )
    timeout = {"connect": rules.connect_seconds, "read": rules.read_seconds}
    timeout |= {"write": rules.read_seconds, "pool": rules.total_seconds}
    # Knows of no proxies: those of the environment would look the host up anew.
    pool = httpcore2.ConnectionPool(rules.trust or _trusted(), network_backend=backend)
    try:
        with (
            pool,
            pool.stream(
                "GET",
                target,
                headers=[(b"Host", parts.netloc), *_HEADERS],
                extensions={"timeout": timeout},
            ) as answer,
        ):
            headers = {name.lower(): value for name, value in answer.headers}
            if answer.status in _REDIRECTS and b"location" in headers:
                return _joined(parts, headers[b"location"])
            if answer.status != 200:
                raise ImageRefused(f"{where} was answered with status {answer.status}")
            return _body(answer, where, rules.max_bytes, tell)
    except NotPublic:
        raise ImageRefused(
            f"{where} does not lead to a public address; only photos that anybody can fetch are "
            "fetched, others can be uploaded"
        ) from None
    except httpcore2.TimeoutException:
        raise ImageRefused(
            f"{where} did not arrive in time; at most {rules.total_seconds:g} seconds are waited"
        ) from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError, OSError) as error:
        what = _plain(str(error)) or type(error).__name__
        raise ImageRefused(f"{where} could not be fetched: {what}") from None


def _body(answer: httpcore2.Response, where: str, most: int, tell: Callable[[int], None]) -> bytes:
    body = bytearray()
    for part in answer.iter_stream():
        body += part
        if len(body) > most:
            raise ImageRefused(f"{where} has more than {most:,} bytes, which is the limit")
        tell(len(body))
    return bytes(body)


def _joined(parts: httpx2.URL, location: bytes) -> str:
    try:
        return str(parts.join(location.decode("utf-8")))
    except (httpx2.InvalidURL, ValueError):
        raise ImageRefused(f"{_quoted(str(parts))} is redirected to what is no URL") from None


@cache
def _trusted() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def _quoted(url: str) -> str:
    text = repr(url)
    return text if len(text) <= 160 else text[:159] + "…"


def _plain(text: str) -> str:
    """What a library said, cut; it may repeat what the other server sent."""
    return " ".join(text.split())[:160]


@dataclass(frozen=True)
class Photo:
    """A photo that was sent or named, not yet opened.

    Attributes:
        name: Its file's name on the visitor's machine, or at its URL.
        path: The uploaded file, as it was sent; None for one at a URL.
        url: Where it lies; None for an uploaded one.
    """

    name: str
    path: Path | None = None
    url: str | None = None

    def open(
        self, rules: PhotoRules, max_pixels: int, tell: Callable[[int], None] = lambda arrived: None
    ) -> Image.Image:
        """Fetches it if need be, and opens it.

        Args:
            rules: What may be fetched.
            max_pixels: More are refused before they are decoded.
            tell: Called with the bytes that have arrived; what it raises ends the work.

        Returns:
            As ``cam_hub.images.decoding.open_image``.

        Raises:
            ImageRefused: If it cannot be fetched or opened.
        """
        # Bytes, not a path: messages should not name folders of this machine.
        if self.url is not None:
            return open_image(fetch_photo(self.url, rules, tell), max_pixels=max_pixels)
        try:
            content = self.path.read_bytes() if self.path is not None else b""
        except FileNotFoundError:  # it was kept for its time
            raise ImageRefused(
                "it is no longer among the uploaded files; upload it again"
            ) from None
        return open_image(content, max_pixels=max_pixels)


def read_photo(image: object, rules: PhotoRules) -> Photo:
    """Checks what was sent for a photo, without fetching or opening anything.

    Args:
        image: A URL as a text, or Gradio's description of a file: a mapping with ``path`` (an
            uploaded file, or a URL) and perhaps ``orig_name``.
        rules: What may be fetched.

    Raises:
        ImageRefused: If it is neither an uploaded file nor a URL that may be fetched.
    """
    path = image.get("path") if isinstance(image, Mapping) else image
    if image is None or path == "":
        raise ImageRefused("there is none; upload, paste or take a photo first, or give its URL")
    if not isinstance(path, str):
        raise ImageRefused(
            "it did not arrive as an uploaded file or a URL (gradio_client: handle_file(path))"
        )
    if is_url(path.strip()):
        url = str(check_url(path, rules))
        return Photo(url_name(url), url=url)
    if not isinstance(image, Mapping):
        raise ImageRefused(
            "a text must be a URL that begins with http:// or https://; a file is uploaded first "
            "(gradio_client: handle_file(path))"
        )
    return _uploaded(path, image.get("orig_name"))


def _uploaded(path: str, name: object) -> Photo:
    """The file that was uploaded, and its name.

    Gradio checks paths only in mappings that claim to be files, so it is checked here again that
    nobody names a file of this machine.
    """
    try:
        found = Path(path).resolve()
        here = found.is_relative_to(Path(get_upload_folder()).resolve()) and found.is_file()
    except (OSError, ValueError):  # a name with a NUL, or too long
        here = False
    if not here:
        raise ImageRefused("it is not, or no longer, among the uploaded files; upload it again")
    return Photo(Path(name).name if isinstance(name, str) and name else found.name, path=found)
