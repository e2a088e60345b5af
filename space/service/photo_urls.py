"""Photos by their URL, fetched by the server: from public addresses, bounded in bytes and time."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache

import httpcore2
import httpx2

from cam_hub._version import __version__
from cam_hub.errors import ImageRefused
from space.config.settings import PhotoRules
from space.service.public_network import Deadline, NotPublic, PublicBackend, look_up

__all__ = ["check_url", "fetch_photo", "is_url", "url_name"]

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
