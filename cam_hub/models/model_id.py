"""``ModelId``: the grammar of model IDs, and the addresses of the Hub's pages."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, unquote, urlsplit

from cam_hub.errors import ModelNotFound
from cam_hub.models.repo_files import PICKLES, SAFE

__all__ = [
    "ModelId",
    "local_model_id",
    "looks_like_url",
    "parse_model_id",
    "path_hint",
]


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


def looks_like_url(text: str) -> bool:
    """Whether a text is meant as an address rather than an ID.

    Args:
        text: Without white space around it.

    Returns:
        True if it starts with a scheme (``https://``), or with a host of the Hub's and a path.
    """
    host, slash, _ = text.partition("/")
    return bool(_SCHEME.match(text) or (slash and host.lower() in _HOSTS))


def _read_hub_url(text: str) -> tuple[str, str | None]:
    """``owner/name``, unchecked, and the revision in the address of a page or file on the Hub.

    The Hub is huggingface.co, hf.co, or whatever ``HF_ENDPOINT`` names at this moment.
    """
    try:
        url = urlsplit(text if _SCHEME.match(text) else f"https://{text}")
        prefix = _prefix_of(url)
    except ValueError:  # a host in brackets, or with characters that turn into others
        raise ModelNotFound(text, hint="It is not a valid address.") from None
    if url.username is not None or url.password is not None:
        raise ModelNotFound(_shown(url), hint="Its address holds a password: remove that part.")
    if url.scheme not in ("http", "https"):
        raise ModelNotFound(_shown(url), hint=f"Its scheme is {url.scheme}://. {_WORKS}")
    if prefix is None:
        raise ModelNotFound(_shown(url), hint=f"It is an address outside the Hub. {_WORKS}")
    parts = url.path.removeprefix(prefix).removeprefix("/").rstrip("/").split("/")
    if parts[0] in _OTHERS:
        hint = f"It is the address of {_OTHERS[parts[0]]}, not of a model. {_WORKS}"
        raise ModelNotFound(_shown(url), hint=hint)
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
    with suppress(ValueError):  # the variable may hold anything
        own = urlsplit(os.environ.get("HF_ENDPOINT") or "")
        if own.hostname and place == (own.hostname, own.port):
            return own.path.rstrip("/")
    return "" if url.hostname in _HOSTS and url.port in (None, 80, 443) else None


def _shown(url: SplitResult) -> str:
    """The address without what may be secret."""
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


Kind = Literal["hub", "torchvision", "timm", "local"]

_WORD = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?\Z")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]{0,254}[A-Za-z0-9_])?\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HUB_PREFIXES = ("hf-hub:", "hf_hub:")
_LOCAL_PREFIX = "local-dir:"
_FOLDER = re.compile(rf"\.\.?\Z|\.{{0,2}}/|~|{_LOCAL_PREFIX}")
_TORCHVISION = "torchvision"
_LONGEST = 4096
"""Characters of the longest text that is looked at: that of the longest path."""

_GRAMMAR = (
    "IDs look like 'timm/resnet50.a1_in1k', 'owner/name@revision', 'torchvision/resnet50', "
    "'torchvision/resnet50@IMAGENET1K_V2' or 'resnet50.a1_in1k'."
)
_FILES = (SAFE, *PICKLES, ".onnx", ".json", ".zip")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_NO_FOLDERS = (
    "It names a folder, and those are only loaded in Python (load_model) and from the command "
    "line, never by the page or its API."
)


@dataclass(frozen=True)
class ModelId:
    """One model, by name.

    Attributes:
        kind: Which naming scheme the ID follows: a repo on the Hub, a torchvision model, a bare
            name of timm's, or a folder of this machine.
        name: ``owner/name`` for a Hub repo, the absolute path of a folder, otherwise the model's
            name without prefix or revision.
        revision: Branch, tag or commit of a Hub repo; the weights' name for torchvision; None
            when the ID leaves the choice open.

    Raises:
        ModelNotFound: If the parts are not in the grammar.
    """

    kind: Kind
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        shown = self.name if self.revision is None else f"{self.name}@{self.revision}"
        if not (_is_path(self.name) if self.kind == "local" else _is_name(self.kind, self.name)):
            raise ModelNotFound(self.name, hint=_GRAMMAR)
        if self.revision is None:
            return
        if self.kind == "local":
            raise ModelNotFound(shown, hint="A folder takes no revision.")
        if not _is_revision(self.revision):
            raise ModelNotFound(shown, hint=_GRAMMAR)
        if self.kind == "timm":
            raise ModelNotFound(shown, [f"timm/{shown}"], "A bare timm name takes no revision.")

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def repo(self) -> str:
        """The ID without its revision."""
        prefix = {"torchvision": f"{_TORCHVISION}/", "local": _LOCAL_PREFIX}.get(self.kind, "")
        if self.kind == "hub" and self.name.startswith(f"{_TORCHVISION}/"):
            prefix = _HUB_PREFIXES[0]  # an owner of that name would be taken for the library
        return f"{prefix}{self.name}"


def parse_model_id(text: str, local: bool = False) -> ModelId:
    """Reads a model ID.

    Takes time linear in the text, and asks neither network nor disk.

    Args:
        text: An ID in the grammar above; white space around it is dropped.
        local: Whether folders of this machine may be named. Never true for what visitors sent.

    Returns:
        The ID, for which ``parse_model_id(str(id), local) == id``.

    Raises:
        ModelNotFound: If the text is not in the grammar, or names a folder that it may not.
    """
    if not isinstance(text, str):
        raise ModelNotFound(text, hint=_GRAMMAR)
    rest = text.strip()
    if len(rest) > _LONGEST or _CONTROL.search(rest):
        raise ModelNotFound(text[:_LONGEST], hint=_GRAMMAR)
    if _FOLDER.match(rest) or (not local and _DRIVE.match(rest)):
        if not local:
            raise ModelNotFound(text, hint=f"{_NO_FOLDERS} {_GRAMMAR}")
        return local_model_id(rest.removeprefix(_LOCAL_PREFIX))
    try:
        return _read(rest)
    except ModelNotFound as error:
        # The message shows what was typed, not a piece of it; but nothing secret of a URL.
        shown = error.name if looks_like_url(rest) else text
        hint = error.hint if error.hint.endswith(_GRAMMAR) else f"{error.hint} {_GRAMMAR}"
        path = path_hint(rest) if local and not looks_like_url(rest) else ""
        raise ModelNotFound(shown, error.nearest, f"{path} {hint}".strip()) from None


def path_hint(text: str) -> str:
    """What to do if a text was meant as a path; empty if it does not look like one.

    Args:
        text: What was given as an ID. Whether anything has this path is not asked.
    """
    place = text.removeprefix(_LOCAL_PREFIX)
    if place.lower().endswith(_FILES):
        folder = re.split(r"[\\/]", place)[:-1]
        shown = "\\".join(folder) if "\\" in place else "/".join(folder)
        return (
            "It looks like a file of weights. Give its folder, with its config.json, as "
            f"Path({(shown or '.')[:200]!r})."
        )
    if "\\" in place or place.count("/") > 1 or _FOLDER.match(text) or _DRIVE.match(place):
        return (
            f"It looks like a path. Give a folder as Path({place[:200]!r}), or on the command line "
            "with ./ or / in front."
        )
    return ""


def local_model_id(path: str | os.PathLike[str]) -> ModelId:
    """The ID of a folder, whatever its name looks like.

    Args:
        path: Path of the folder; ``~`` is the home folder, and a relative path starts at the
            working folder. The folder need not exist.

    Raises:
        ModelNotFound: If no folder can have this path (NUL, control characters, too long, empty).
    """
    name = os.fspath(path)
    if not isinstance(name, str) or not name or "\0" in name:
        raise ModelNotFound(name, hint="A folder's path is text, not empty and without NUL.")
    return ModelId("local", os.path.abspath(os.path.expanduser(name)))  # noqa: PTH100, PTH111


def _read(text: str) -> ModelId:
    """The ID in a text that does not name a folder."""
    if looks_like_url(text):
        return ModelId("hub", *_read_hub_url(text))
    on_hub = text.startswith(_HUB_PREFIXES)
    first, *more = text.split("/", 2)
    if len(more) == 2 and first in _OTHERS:
        raise ModelNotFound(text, hint=f"It is the ID of {_OTHERS[first]}, not of a model.")
    name, at, found = (text.partition(":")[2] if on_hub else text).partition("@")
    revision = found if at else None
    if on_hub:
        return ModelId("hub", name, revision)
    if name.startswith(f"{_TORCHVISION}/"):
        return ModelId("torchvision", name.removeprefix(f"{_TORCHVISION}/"), revision)
    return ModelId("hub" if "/" in name else "timm", name, revision)


def _is_name(kind: Kind, name: str) -> bool:
    words = name.split("/", 2)
    if (kind == "hub" and name.endswith(".git")) or ".." in name or "--" in name:
        return False
    return len(words) == (2 if kind == "hub" else 1) and all(map(_WORD.match, words))


def _is_revision(revision: str) -> bool:
    parts = revision.split("/")
    return (
        bool(_REVISION.match(revision))
        and ".." not in revision
        and all(part and not part.startswith(".") for part in parts)
    )


def _is_path(name: str) -> bool:
    """Whether it is an absolute path that survives the way through an ID's text."""
    fits = len(name) + len(_LOCAL_PREFIX) <= _LONGEST and not _CONTROL.search(name)
    return fits and name == name.strip() and os.path.isabs(name)  # noqa: PTH117
