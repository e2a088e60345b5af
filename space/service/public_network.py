"""Connections to public addresses only, made within a deadline.

Whoever may name an address for the server to fetch could otherwise reach what only the server can
reach: its own services, those of its network, the metadata of its cloud. So a host is looked up
once, every address that it has must be public, and the connection goes to the address that was
looked at, whatever the host's name means a moment later.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LookupTimeout
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpcore2

from space.config.settings import Resolver

__all__ = ["Deadline", "NotPublic", "PublicBackend", "is_public", "look_up"]

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
    """A host has no address, or one that is not public. It is not said which: that is private."""


def is_public(text: str) -> bool:
    """Whether an address can be reached by anybody, so that reaching it gives nothing away.

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


@dataclass(frozen=True)
class Deadline:
    """The end of the time for something.

    Attributes:
        at: In seconds of ``time.monotonic``.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The one in so many seconds."""
        return cls(time.monotonic() + seconds)

    def left(self, most: float | None = None) -> float:
        """Seconds that are left, at most ``most``.

        Raises:
            httpcore2.ReadTimeout: If none are.
        """
        seconds = self.at - time.monotonic()
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
