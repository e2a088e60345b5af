"""Addresses of the Hub's pages, as people copy them from a browser, and the repo that they name."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from urllib.parse import SplitResult, unquote, urlsplit

from cam_hub.errors import ModelNotFound

__all__ = ["kind_of_other", "looks_like_url", "read_hub_url"]

_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://")

_OTHERS = {
    "datasets": "a dataset",
    "spaces": "a Space",
    "buckets": "a bucket of files",
    "kernels": "a kernel",
    "collections": "a collection",
    "papers": "a paper",
    "models": "a list of models",
    "docs": "documentation",
    "blog": "an article",
    "api": "a part of the Hub's API",
}
"""What the Hub keeps below these first parts of a path, instead of models."""

_VIEWS = frozenset({"tree", "blob", "resolve", "raw", "commit", "commits", "blame", "edit"})
"""Pages of a repo that show one revision of it, named in the next part of the path."""

_PAGES = frozenset({"discussions", "settings", "activity"})
"""Pages of a repo that are about all of it."""

_WORKS = "What works is the address of a model, such as https://huggingface.co/OWNER/NAME."


def kind_of_other(part: str) -> str | None:
    """What the Hub keeps below this first part of a path, such as ``datasets``; None for models."""
    return _OTHERS.get(part)


def looks_like_url(text: str) -> bool:
    """Whether a text is meant as an address rather than an ID.

    Args:
        text: Without white space around it.

    Returns:
        True if it starts with a scheme (``https://``), or with a host of the Hub's and a path.
    """
    host, slash, _ = text.partition("/")
    return bool(_SCHEME.match(text) or (slash and host.lower() in _HOSTS))


def read_hub_url(text: str) -> tuple[str, str | None]:
    """Reads the address of a model's page or file on the Hub.

    The Hub is huggingface.co, hf.co, or whatever ``HF_ENDPOINT`` names at this moment.

    Args:
        text: An address, with or without its scheme; query and fragment are dropped.

    Returns:
        ``owner/name`` (as it stands there; whether that can be a repo is for the grammar of IDs),
        and the revision if the address names one.

    Raises:
        ModelNotFound: If it is the address of something else; it says of what.
    """
    try:
        url = urlsplit(text if _SCHEME.match(text) else f"https://{text}")
        prefix = _prefix_of(url)
    except ValueError:  # a host in brackets, or with characters that turn into others
        raise ModelNotFound(text, hint="It is no valid address.") from None
    if url.username is not None or url.password is not None:
        raise ModelNotFound(_shown(url), hint="Its address holds a password: remove that part.")
    if url.scheme not in ("http", "https"):
        raise ModelNotFound(_shown(url), hint=f"Its scheme is {url.scheme}://. {_WORKS}")
    if prefix is None:
        raise ModelNotFound(_shown(url), hint=f"It is an address outside the Hub. {_WORKS}")
    parts = url.path.removeprefix(prefix).removeprefix("/").rstrip("/").split("/")
    if (other := kind_of_other(parts[0])) is not None:
        raise ModelNotFound(
            _shown(url), hint=f"It is the address of {other}, not of a model. {_WORKS}"
        )
    if len(parts) < 2:
        what = f"the address of all repos of {parts[0]!r}" if parts[0] else "the Hub's front page"
        raise ModelNotFound(_shown(url), hint=f"It is {what}. {_WORKS}")
    name = "/".join(parts[:2]).removesuffix(".git")
    return name, _revision(url, parts[2:])


def _revision(url: SplitResult, rest: list[str]) -> str | None:
    """The revision that the path behind the repo's name leads to."""
    if not rest or rest[0] in _PAGES:
        return None
    if rest[0] not in _VIEWS:
        raise ModelNotFound(
            _shown(url), hint=f"A repo on the Hub has no page {rest[0]!r}. {_WORKS}"
        )
    if len(rest) > 3 and rest[1] == "refs":
        return "/".join(rest[1:4])  # refs/pr/3, with its slashes as they are
    # Slashes of other revisions are escaped, since a path follows.
    return unquote(rest[1]) if len(rest) > 1 else None


def _prefix_of(url: SplitResult) -> str | None:
    """The path below which the Hub has its repos at this host; None if this is not the Hub."""
    place = url.hostname, url.port
    with suppress(ValueError):  # what the environment holds may be no address
        own = urlsplit(os.environ.get("HF_ENDPOINT") or "")
        if own.hostname and place == (own.hostname, own.port):
            return own.path.rstrip("/")
    return "" if url.hostname in _HOSTS and url.port in (None, 80, 443) else None


def _shown(url: SplitResult) -> str:
    """The address without what may be secret."""
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
