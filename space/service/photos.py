"""The photo of a request: an uploaded file, or one at a public URL.

An address could otherwise lead to what only the server can reach: its own services, those of its
network, the metadata of its cloud. So a host is looked up once, every address that it has must be
public, and the connection goes to the address that was checked, whatever the host's name means a
moment later.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LookupTimeout
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
from gradio.utils import get_upload_folder
from PIL import Image

from cam_hub._text import clean_line, shortened
from cam_hub._version import __version__
from cam_hub.errors import ImageRefused
from cam_hub.images.decoding import open_image
from space.config.settings import Limits, PhotoRules, Resolver

__all__ = [
    "Photo",
    "check_url",
    "fetch_photo",
    "is_public",
    "look_up",
    "read_photo",
    "url_name",
]


Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_FOR_ALL = (
    ipaddress.ip_network("168.63.129.16/32"),  # a cloud's own service inside of its machines
    ipaddress.ip_network("192.88.99.0/24"),  # relays into tunnels
)
_ISATAP = 0x00005EFE

# Looking up cannot be interrupted; a host whose name servers are slow must not hold up more.
_LOOKUPS = ThreadPoolExecutor(8, "look-up")


class NotPublic(OSError):
    """A host has no address, or one that is not public; which of them is private."""


def is_public(text: str) -> bool:
    """Whether an address is public, so that reaching it reveals nothing.

    Args:
        text: An IPv4 or IPv6 address. Addresses within addresses (mapped, NAT64, 6to4, ISATAP)
            must be public, too.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return _is_public_v4(address)
    if address.scope_id is not None:
        return False
    if (mapped := address.ipv4_mapped) is not None:
        return _is_public_v4(mapped)
    if address in _NAT64:
        return _is_public_v4(_last_four(address))
    if address not in _UNICAST or not address.is_global or address.teredo is not None:
        return False
    if (tunnelled := address.sixtofour) is not None:
        return _is_public_v4(tunnelled)
    if (int(address) >> 32) & 0xFDFFFFFF == _ISATAP:
        return _is_public_v4(_last_four(address))
    return True


def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system finds them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Deadline:
    """The end of the time for something, in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self, most: float | None = None) -> float:
        """Seconds that are left, at most ``most``.

        Raises:
            httpcore2.ReadTimeout: If none are.
        """
        seconds = self._at - time.monotonic()
        if seconds <= 0:
            raise httpcore2.ReadTimeout("its time is over")
        return seconds if most is None else min(seconds, most)


@dataclass(frozen=True)
class PublicBackend(httpcore2.NetworkBackend):
    """Makes the connections of an HTTP client.

    Attributes:
        deadline: Nothing goes on after it, however slowly bytes drip.
        resolve: Looks hosts up.
        loopback: Whether this machine may be connected to as well; for tests.
    """

    deadline: Deadline
    resolve: Resolver = look_up
    loopback: bool = False
    _plain: httpcore2.NetworkBackend = field(default_factory=httpcore2.SyncBackend)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        """Connects to the first address of a host that answers.

        Raises:
            NotPublic: If the host has no address, or one of them is not public.
            httpcore2.ConnectError, httpcore2.ConnectTimeout: If none answers.
        """
        addresses = self._addresses(host, port)
        for number, address in enumerate(addresses, 1):
            with suppress(*(_FAILED if number < len(addresses) else ())):
                stream = self._plain.connect_tcp(
                    address, port, self.deadline.left(timeout), local_address, socket_options
                )
                return _Stream(stream, self.deadline)
        raise AssertionError("the last address raises or answers")

    def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = _LOOKUPS.submit(self.resolve, host, port).result(self.deadline.left())
        except LookupTimeout:
            raise httpcore2.ConnectTimeout("its host was not found in time") from None
        except (OSError, UnicodeError):
            addresses = []
        if not addresses or not all(map(self._allowed, addresses)):
            raise NotPublic(f"{host} is not public")
        return addresses

    def _allowed(self, text: str) -> bool:
        if self.loopback and ipaddress.ip_address(text).is_loopback:
            return True
        return is_public(text) and not _is_own(text)


class _Stream(httpcore2.NetworkStream):
    """A connection that ends with the deadline."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left = self._deadline.left(timeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


_FAILED = (httpcore2.ConnectError, httpcore2.ConnectTimeout)


def _is_public_v4(address: ipaddress.IPv4Address) -> bool:
    if any(address in network for network in _NOT_FOR_ALL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _last_four(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)


def _is_own(text: str) -> bool:
    """Whether it is an address of this machine's: those, and no others, can be listened at."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((text, 0))
        return True
    return False


_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_LONGEST = 2048
_HEADERS = (
    (b"User-Agent", f"cam_hub/{__version__}".encode()),
    (b"Accept", b"image/*"),
    (b"Accept-Encoding", b"identity"),  # what is unpacked could grow beyond the limit
)


def url_name(url: str) -> str:
    """What the photo is called: the last part of the URL's path, at most 100 characters."""
    try:
        name = httpx2.URL(url).path.rstrip("/").rpartition("/")[2]
    except httpx2.InvalidURL:
        name = ""
    kept = "".join(sign for sign in name if sign.isprintable() and sign not in "\\:")
    return kept[-100:] or "photo"


def check_url(url: str, rules: PhotoRules) -> httpx2.URL:
    """Checks a URL without any connection.

    Args:
        url: An absolute one.
        rules: What may be fetched.

    Returns:
        Its parts.

    Raises:
        ImageRefused: If it is not a URL, of another scheme than http and https, names a user or a
            password, or a port other than 80 and 443: other services must not be reached
            through this app.
    """
    if not rules.allowed:
        raise ImageRefused("this app fetches no photos from URLs; upload it")
    if len(url) > _LONGEST:
        raise ImageRefused(f"its URL has {len(url)} characters, and at most {_LONGEST} are taken")
    try:
        parts = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, ValueError) as error:
        raise ImageRefused(f"{_quoted(url)} is not a URL: {error}") from None
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
    url: str, rules: PhotoRules, report: Callable[[int], None] = lambda arrived: None
) -> bytes:
    """Fetches a photo. Whether it is one is judged when it is opened, not by what is declared.

    Args:
        url: The photo's URL.
        rules: What may be fetched.
        report: Called with the bytes that have arrived; what it raises ends the work.

    Returns:
        The bytes of the photo's file.

    Raises:
        ImageRefused: If the URL is refused, its host or one that it leads to is not public, or no
            photo of the allowed size arrives in time.
    """
    backend = PublicBackend(Deadline(rules.total_seconds), rules.resolve or look_up, rules.loopback)
    parts = check_url(url, rules)
    for _ in range(rules.redirects + 1):
        found = _get(parts, rules, backend, report)
        if isinstance(found, bytes):
            return found
        parts = check_url(found, rules)
    raise ImageRefused(f"{_quoted(url)} is redirected more than {rules.redirects} times")


def _get(
    parts: httpx2.URL, rules: PhotoRules, backend: PublicBackend, report: Callable[[int], None]
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
            return _body(answer, where, rules.max_bytes, report)
    except NotPublic:
        raise ImageRefused(
            f"{where} does not lead to a public address; only photos at public addresses are "
            "fetched, others can be uploaded"
        ) from None
    except httpcore2.TimeoutException:
        raise ImageRefused(
            f"{where} did not arrive in time; at most {rules.total_seconds:g} seconds are waited"
        ) from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError, OSError) as error:
        # A library's message, cut; it may repeat what the other server sent.
        what = clean_line(error, 160) or type(error).__name__
        raise ImageRefused(f"{where} could not be fetched: {what}") from None


def _body(
    answer: httpcore2.Response, where: str, most: int, report: Callable[[int], None]
) -> bytes:
    body = bytearray()
    for part in answer.iter_stream():
        body += part
        if len(body) > most:
            raise ImageRefused(f"{where} has more than {most:,} bytes, which is the limit")
        report(len(body))
    return bytes(body)


def _joined(parts: httpx2.URL, location: bytes) -> str:
    try:
        return str(parts.join(location.decode("utf-8")))
    except (httpx2.InvalidURL, ValueError):
        raise ImageRefused(f"{_quoted(str(parts))} is redirected to an invalid URL") from None


@cache
def _trusted() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


def _quoted(url: str) -> str:
    return shortened(repr(url), 160)


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

    def open(self, limits: Limits, progress: Callable[[float, str], None]) -> Image.Image:
        """Fetches it if need be, and opens it.

        Args:
            limits: What may be fetched, and how many pixels are decoded.
            progress: Called with 0 and a few words, and again whenever bytes arrive; an exception
                that it raises ends the work.

        Returns:
            As ``cam_hub.images.decoding.open_image``.

        Raises:
            ImageRefused: If it cannot be fetched or opened, or is beyond the limits.
        """
        # Bytes, not a path: messages should not name folders of this machine.
        if self.url is not None:
            words = "Fetching the photo"
            progress(0.0, words)
            content = fetch_photo(self.url, limits.photo_rules, lambda _: progress(0.0, words))
        else:
            progress(0.0, "Opening the photo")
            try:
                content = self.path.read_bytes() if self.path is not None else b""
            except FileNotFoundError:  # it was kept for its time
                raise ImageRefused(
                    "it is no longer among the uploaded files; upload it again"
                ) from None
        return open_image(content, max_pixels=limits.max_pixels)


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
    text = path.strip()
    if "://" in text[:40] or text[:5].lower() == "data:":  # others than http are refused by name
        url = str(check_url(path, rules))
        return Photo(url_name(url), url=url)
    if not isinstance(image, Mapping):
        raise ImageRefused(
            "a text must be a URL that begins with http:// or https://; a file is uploaded first "
            "(gradio_client: handle_file(path))"
        )
    # Gradio checks paths only in mappings that claim to be files, so it is checked here again that
    # no request names a file of this machine.
    try:
        found = Path(path).resolve()
        here = found.is_relative_to(Path(get_upload_folder()).resolve()) and found.is_file()
    except (OSError, ValueError):  # a name with a NUL, or too long
        here = False
    if not here:
        raise ImageRefused("it is not, or no longer, among the uploaded files; upload it again")
    name = image.get("orig_name")
    return Photo(Path(name).name if isinstance(name, str) and name else found.name, path=found)
