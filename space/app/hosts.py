"""Which hosts and origins the app answers.

A browser sends requests to this machine on behalf of any site that a visitor has open. Two checks
keep such sites out. The ``Host`` header must name this app: a site that has its own name point to
this machine (DNS rebinding) is refused. The ``Origin`` header, where there is one, must be the page
itself. Programs send no ``Origin``, so nothing changes for them.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers

from space.config.settings import Settings

__all__ = ["Authority", "KnownHosts", "read_authority", "read_origin"]

_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|\w[\w.-]{0,252})(?::[0-9]{1,5})?\Z", re.ASCII)
"""A name or an address (IPv6 in brackets), perhaps with a port."""

_DEFAULT_PORTS = ("80", "443")


@dataclass(frozen=True)
class Authority:
    """A host and perhaps a port.

    Attributes:
        host: In lower case, without brackets and without a dot at the end.
        port: Its digits; empty if there is none, or a default one.
    """

    host: str
    port: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine's own loopback address, or its usual name."""
        return self.host == "localhost" or self._address("is_loopback")

    @property
    def is_address(self) -> bool:
        """Whether it is an IP address rather than a name."""
        return self._address("version")

    def _address(self, attribute: str) -> bool:
        try:
            found = ip_address(self.host)
        except ValueError:
            return False
        if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        return bool(getattr(found, attribute))


def read_authority(text: str) -> Authority | None:
    """Parses the value of a ``Host`` header; None if it is malformed."""
    text = text.strip()
    if not _AUTHORITY.match(text):
        return None
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
        try:
            IPv6Address(host)
        except ValueError:
            return None
    elif ":" in text:
        host, _, port = text.partition(":")
    host = host.lower().rstrip(".")
    return Authority(host, "" if port in _DEFAULT_PORTS else port) if host else None


class KnownHosts:
    """The hosts under which the app is reached, and the origins that may send it requests.

    Loopback is always known. An app that listens on all addresses of its machine is reached by any
    IP address and by the machine's name: an address cannot be rebound, since no lookup is involved.

    Args:
        names: Names and addresses by which the app is reached.
        trusted: Further ones, from whose pages requests are accepted as well. One with a port
            stands for that port only.
        any_address: Whether the app is reached by any IP address.
    """

    def __init__(
        self, names: Iterable[str] = (), trusted: Iterable[str] = (), *, any_address: bool = False
    ) -> None:
        self._trusted = {found for name in trusted if (found := read_authority(name)) is not None}
        self._names = {found.host for name in names if (found := read_authority(name)) is not None}
        self._any_address = any_address

    @classmethod
    def of(cls, settings: Settings) -> KnownHosts:
        """The known hosts of an app."""
        host = settings.host.strip("[]")
        trusted = list(settings.allowed_hosts)
        if settings.space_id:
            trusted.append(settings.space_host or _space_host(settings.space_id))
        if host in ("0.0.0.0", "::"):  # noqa: S104 (a comparison)
            machine = socket.gethostname()
            names = [machine, f"{machine.partition('.')[0]}.local"]
            return cls(names, trusted, any_address=True)
        return cls([f"[{host}]" if ":" in host else host], trusted)

    def serves(self, host: Authority) -> bool:
        """Whether the app may be reached under this host."""
        if host.is_loopback or host.host in self._names or self.trusts(host):
            return True
        return self._any_address and host.is_address

    def trusts(self, origin: Authority) -> bool:
        """Whether pages of this origin may send requests."""
        return bool({origin, Authority(origin.host)} & self._trusted)

    def refusal(self, headers: Headers) -> str:
        """The reason why a request is refused for the host that it names; empty if it is not."""
        if len(headers.getlist("host")) > 1:
            return "The request names more than one host."
        for text in _named_hosts(headers):
            host = read_authority(text)
            if host is None:
                return "The Host header is malformed."
            if not self.serves(host):
                return (
                    f"This app does not answer under the host {host.host!r}. If it is yours, start "
                    f"it with --allowed-hosts {host.host} (or CAM_HUB_ALLOWED_HOSTS)."
                )
        return ""

    def is_foreign(self, headers: Headers, method: str, path: str) -> bool:
        """Whether a request comes from the page of another site.

        Args:
            headers: Of the request; ``refusal`` has found nothing wrong with them.
            method: Of the request.
            path: Its path, after the prefix of the API.
        """
        if origins := headers.getlist("origin"):
            return not all(self._is_own(read_origin(origin), headers) for origin in origins)
        site = headers.get("sec-fetch-site", "none").strip().lower()
        if site in ("none", "same-origin"):
            return False
        if method not in ("GET", "HEAD"):
            return True
        # A link to the page and a frame with the page are navigations. Pictures may be shown.
        navigates = headers.get("sec-fetch-mode", "navigate").strip().lower() == "navigate"
        return not navigates and not path.startswith("/file=")

    def _is_own(self, origin: Authority | None, headers: Headers) -> bool:
        if origin is None:
            return False
        return self.trusts(origin) or origin in map(read_authority, _named_hosts(headers))


def _named_hosts(headers: Headers) -> list[str]:
    """The host that a request names, and the one that a proxy passes on."""
    forwarded = [text.split(",")[0] for text in headers.getlist("x-forwarded-host")]
    return headers.getlist("host") + forwarded


def read_origin(text: str) -> Authority | None:
    """Parses the value of an ``Origin`` header; None for ``null`` and for other schemes."""
    scheme, found, rest = text.strip().partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return None
    return read_authority(rest)


def _space_host(space_id: str) -> str:
    """The host of a Space by its ID, as the Hub forms it."""
    return re.sub(r"[^a-z0-9]+", "-", space_id.lower()).strip("-") + ".hf.space"
