"""Every error that cam_hub raises on purpose, in one place.

The message of each class states what was wrong, what was found and what would work. The same facts
are attributes, so that programs need not parse the message. ``code`` is a short, stable word for
clients of the app.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from heapq import nlargest

from cam_hub._text import clean_text, shortened

__all__ = [
    "CamHubError",
    "ClassNotFound",
    "ClusterUnavailable",
    "DiskUnavailable",
    "HubRefused",
    "HubUnavailable",
    "ImageRefused",
    "InvalidArgument",
    "LayerNotFound",
    "MethodNotFound",
    "ModelNotFound",
    "ModelRefused",
    "NoMap",
    "OutOfMemory",
    "PackageMissing",
    "RowNotFound",
    "SaveFailed",
    "SourceUnavailable",
    "TooMuch",
    "WorkerDied",
]


_NAME_CHARS = 64
"""Maximum length of a name, in characters, for which others are suggested."""

_COMPARED = 500
"""Maximum number of names that a name is compared with in full, which takes quadratic time."""


class CamHubError(Exception):
    """Parent of all errors of cam_hub.

    Attributes:
        code: A stable word that names the kind of error, for programs.
    """

    code = "error"

    def __init__(self, message: str) -> None:
        message = clean_text(message)
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # Children that are also KeyErrors would otherwise show their message in quotes.
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Children take other arguments than ``args``; rebuild them without calling __init__, so
        # that an error survives the way between processes.
        return _rebuild, (type(self), self.args, self.__dict__)


class InvalidArgument(CamHubError, ValueError):
    """An argument has a value that can never work, whatever the model.

    Attributes:
        argument: The argument's name.
        value: What was given.
    """

    code = "invalid_argument"

    def __init__(self, argument: str, value: object, expected: str) -> None:
        super().__init__(f"{argument}={_short(value)} does not work: expected {expected}.")
        self.argument = argument
        self.value = value


class TooMuch(InvalidArgument):
    """An argument asks for more than is allowed here; where the limits are wider it would work.

    Attributes:
        argument: The argument's name.
        value: What was given.
    """

    code = "too_much"


class _NotFound(CamHubError, LookupError):
    """Something was asked for by a name that nothing has."""

    kind = "name"
    works = ""
    """What works in general: the hint by default."""

    def __init__(self, name: object, nearest: Sequence[str] = (), hint: str = "") -> None:
        if not nearest and not hint:
            hint = self.works
        parts = [f"No {self.kind} {_short(name)}."]
        if nearest:
            # Labels may hold commas of their own.
            separator = "; " if any("," in name for name in nearest) else ", "
            parts.append(f"Nearest: {separator.join(nearest)}.")
        if hint:
            parts.append(hint)
        super().__init__(" ".join(parts))
        self.name = name
        self.nearest = tuple(nearest)
        self.hint = hint


class ModelNotFound(_NotFound):
    """No model answers to this ID, or more than one does.

    Attributes:
        name: The ID that was given.
        nearest: IDs that do exist, closest first.
    """

    code = "model_not_found"
    kind = "model with the ID"


class LayerNotFound(_NotFound):
    """The model has no such layer.

    Attributes:
        name: The layer's name that was given.
        nearest: Names of layers that the model has, closest first.
    """

    code = "layer_not_found"
    kind = "layer"
    works = "Names in the list work, and best, stages, blocks, convs and all."


class ClassNotFound(_NotFound):
    """The model has no class of this index or label, or several of this label.

    Attributes:
        name: The index or label that was given.
        nearest: Labels that the model has, closest first.
    """

    code = "class_not_found"
    kind = "class"
    works = "Labels, indices and top(3) work."


class MethodNotFound(_NotFound, KeyError):
    """No method of this name is registered.

    Attributes:
        name: The name that was given.
        nearest: Names that are registered, closest first.
    """

    code = "method_not_found"
    kind = "method"


class RowNotFound(_NotFound, KeyError):
    """A report has no row of this key.

    Attributes:
        name: The key that was given.
        nearest: Keys that there are, closest first.
    """

    code = "row_not_found"
    kind = "row with the key"


class ModelRefused(CamHubError):
    """The model exists, but cannot be explained or must not be loaded.

    Attributes:
        model_id: The model's ID.
        reason: Why.
    """

    code = "model_refused"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(f"{_short(model_id)} was refused: {reason}")
        self.model_id = model_id
        self.reason = reason


class ImageRefused(CamHubError, ValueError):
    """What was given is not an image that can be explained.

    Attributes:
        reason: Why.
    """

    code = "image_refused"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The image was refused: {reason}")
        self.reason = reason


class NoMap(CamHubError):
    """A map would be blank, not finite or not spatial, so none is shown.

    Attributes:
        layer: The layer that was asked for, or None when no layer would do.
        reason: Why.
    """

    code = "no_map"

    def __init__(self, reason: str, layer: str | None = None) -> None:
        where = f" at layer {layer!r}" if layer is not None else ""
        super().__init__(f"No map{where}: {reason}")
        self.layer = layer
        self.reason = reason


class OutOfMemory(CamHubError):
    """The device's memory does not suffice, however small the chunks.

    Attributes:
        model_id: The model's ID.
        reason: What does not fit, and what would need less.
    """

    code = "out_of_memory"

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(f"{_short(model_id)} ran out of memory: {reason}")
        self.model_id = model_id
        self.reason = reason


class WorkerDied(CamHubError):
    """Every process that explained this image died: it crashed, or the system ended it.

    Attributes:
        attempts: How many processes died.
    """

    code = "worker_died"

    def __init__(self, attempts: int) -> None:
        super().__init__(
            f"{attempts} processes died while they explained this image: it crashes the network or "
            "a decoder, or does not fit in memory"
        )
        self.attempts = attempts


class ClusterUnavailable(CamHubError, ConnectionError):
    """Ray does not start, cannot be reached, or has no room for a worker.

    Attributes:
        reason: What happened.
    """

    code = "cluster_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Ray cannot be used: {reason}")
        self.reason = reason


class PackageMissing(CamHubError, ImportError):
    """A package of an extra is not installed.

    Attributes:
        package: The package.
        command: What installs it.
    """

    code = "package_missing"

    def __init__(self, package: str, purpose: str, command: str) -> None:
        super().__init__(f"{purpose} needs the package {package}, which is missing: {command}")
        self.package = package
        self.command = command


class SaveFailed(CamHubError, OSError):
    """The system refused to write a result: a full disk, no permission, a read-only folder.

    Attributes:
        path: Where the result was to be saved.
        reason: The system's reason.
    """

    code = "save_failed"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{_short(path)} could not be written: {reason}. What was there before is unchanged."
        )
        self.path = path
        self.reason = reason


class HubUnavailable(CamHubError, ConnectionError):
    """The hub, or the server of a model's weights, did not answer as it should.

    Attributes:
        model_id: The model that was wanted, or the repo that was to be written to.
        reason: What happened.
    """

    code = "hub_unavailable"

    def __init__(self, model_id: str, reason: str, wanted: str = "fetched") -> None:
        super().__init__(f"{_short(model_id)} could not be {wanted}: {reason}")
        self.model_id = model_id
        self.reason = reason


class HubRefused(CamHubError, PermissionError):
    """The hub answered, and does not let this repo be written to.

    Attributes:
        repo_id: The repo, as ``owner/name``.
        reason: Why, and what would work.
    """

    code = "hub_refused"

    def __init__(self, repo_id: str, reason: str) -> None:
        super().__init__(f"{_short(repo_id)} was not written to: {reason}")
        self.repo_id = repo_id
        self.reason = reason


class SourceUnavailable(CamHubError, ConnectionError):
    """A dataset on another machine cannot be read: it is not there, not allowed, or not reached.

    Attributes:
        source: Its address or ID, without passwords.
        reason: Why.
    """

    code = "source_unavailable"

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{_short(source)} cannot be read: {reason}")
        self.source = source
        self.reason = reason


class DiskUnavailable(CamHubError, OSError):
    """Files cannot be written: the disk is full or read-only, or a limit is reached.

    Attributes:
        reason: The cause.
    """

    code = "disk_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Files could not be written: {reason}.")
        self.reason = reason

    @classmethod
    def of(cls, error: BaseException) -> DiskUnavailable | None:
        """The error of this kind that stands for one of the operating system's.

        Args:
            error: Any error.

        Returns:
            None if the error is not about the disk.
        """
        if isinstance(error, cls):
            return error
        if isinstance(error, SaveFailed) and error.__cause__ is not None:
            error = error.__cause__
        if not isinstance(error, OSError) or isinstance(error, CamHubError):
            return None
        reason = _DISK_REASONS.get(error.errno or 0)
        # NumPy counts what was written instead of passing the cause on.
        if error.errno is None and _SHORT_WRITE.search(str(error)):
            reason = _DISK_REASONS[errno.ENOSPC]
        return cls(reason) if reason else None


_DISK_REASONS = {
    errno.ENOSPC: "the disk is full. Make room, or try again later",
    errno.EDQUOT: "the disk quota is used up. Make room, or try again later",
    errno.EFBIG: "a limit on the size of files is reached",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "the folder may not be written to (permission denied)",
    errno.EPERM: "the folder may not be written to (operation not permitted)",
}
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def nearest_names(name: str, known: Iterable[str], limit: int = 5) -> list[str]:
    """Names out of ``known`` that ``name`` may have been meant for, closest first.

    Args:
        name: What was typed.
        known: The names that exist.
        limit: How many to return at most.

    Returns:
        Names as they are spelt in ``known``: first those that contain ``name``, the shortest
        first, then those that resemble it; case does not matter.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    wanted = name.lower()
    if not 0 < len(wanted) <= _NAME_CHARS:
        return []
    containing = sorted((key for key in by_lower if wanted in key), key=lambda key: (len(key), key))
    similar = get_close_matches(wanted, _candidates(wanted, by_lower), n=limit, cutoff=0.6)
    return [by_lower[key] for key in dict.fromkeys([*containing, *similar])][:limit]


def _candidates(wanted: str, known: Iterable[str]) -> list[str]:
    """The names that share most pairs of letters with a name, to be compared with it in full."""
    short = [name for name in known if len(name) <= 2 * _NAME_CHARS]
    if len(short) <= _COMPARED:
        return short
    pairs = {wanted[place : place + 2] for place in range(len(wanted))}
    return nlargest(_COMPARED, short, key=lambda name: sum(pair in name for pair in pairs))


def _short(value: object, limit: int = 120) -> str:
    """``repr`` of a value, cut so that a hostile one cannot flood a message."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 (nested too deep, too many digits, a class with a bug)
        text = f"a {type(value).__name__}"
    return shortened(text, limit)


def _rebuild(cls: type[CamHubError], args: tuple[object, ...], state: dict[str, object]) -> object:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
