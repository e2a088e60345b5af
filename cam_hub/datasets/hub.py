"""Datasets on the Hub, by their IDs: which of their rows are read, at which commit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import huggingface_hub.errors as hub_errors
from huggingface_hub import HfApi

from cam_hub._text import clean_line, first_line
from cam_hub._version import __version__
from cam_hub.datasets.rows import require
from cam_hub.errors import InvalidArgument, PackageMissing
from cam_hub.images.remote import plain_errors

__all__ = ["HubRows", "HubSplit", "open_split", "read_split"]

_PREFIX: Final = "hf://datasets/"
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ID = re.compile(
    rf"(?P<repo>{_PART}(?:/{_PART})?)(?:@(?P<revision>[^:@\s]+))?"
    r"(?::(?:(?P<config>[^:/\s]+)/)?(?P<split>[\w.]+))?"
)
_LISTED: Final = 20  # names in a message
_LOG_IN: Final = "with `hf auth login` or a token in HF_TOKEN"


@dataclass(frozen=True)
class HubSplit:
    """Rows of a dataset on the Hub.

    Attributes:
        repo: ``owner/name``.
        revision: A branch, a tag or a commit; None for the newest commit.
        config: The configuration; None for the only one.
        split: The split; None for the only one.
    """

    repo: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        text = f"{_PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")
        if self.split is None:
            return text
        return f"{text}:{self.config}/{self.split}" if self.config else f"{text}:{self.split}"


def read_split(text: str) -> HubSplit | None:
    """Reads ``owner/name``, maybe with ``@revision`` and ``:split`` or ``:config/split``.

    Args:
        text: As that, or as ``hf://datasets/owner/name…``.

    Returns:
        None for any other text, such as the path of a file in a repo.
    """
    marked = text.startswith(_PREFIX)
    found = _ID.fullmatch(text.removeprefix(_PREFIX).removesuffix("/"))
    if found is None or not (marked or "/" in found["repo"]):
        return None
    return HubSplit(**found.groupdict())


@dataclass(frozen=True)
class HubRows:
    """The rows of a split, whose images stay encoded.

    Attributes:
        split: What is read, at a commit.
        count: How many rows there are; None if the dataset does not state it.
        image: The column of the images.
        label: That of the labels, or None.
        key: That of the keys, or None.
        class_names: The labels of class indices, or None.
    """

    split: HubSplit
    count: int | None
    image: str
    label: str | None
    key: str | None
    class_names: Sequence[str] | None
    _stream: Any

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows in their order.

        Raises:
            SourceUnavailable: If the Hub does not answer any more.
        """
        with plain_errors(str(self.split), _reason):
            yield from self._stream


def open_split(
    wanted: HubSplit, images: Sequence[str], labels: Sequence[str], keys: Sequence[str]
) -> HubRows:
    """Opens a dataset on the Hub; its rows are streamed, and no code of it is run.

    Args:
        wanted: What is to be read.
        images: Names of columns that hold images; those of which the dataset states it come
            first, whatever their names.
        labels: Names of columns that hold labels; the likeliest first.
        keys: Names of columns that hold keys.

    Raises:
        InvalidArgument: If there are several splits or configurations, and none or another was
            named; or no column of images.
        PackageMissing: If the library ``datasets`` is missing, or too old.
        SourceUnavailable: If there is no such dataset for this user, or the Hub does not answer.
    """
    datasets = _library()
    with plain_errors(str(wanted), _reason):
        api = HfApi(library_name="cam_hub", library_version=__version__)
        commit = api.dataset_info(wanted.repo, revision=wanted.revision).sha
        # A folder of the same name here is not meant: it would have been opened before.
        path = f"{_PREFIX}{wanted.repo}" if Path(wanted.repo).exists() else wanted.repo
        try:
            found = datasets.load_dataset(path, wanted.config, revision=commit, streaming=True)
        except ValueError:
            _check_config(wanted, datasets.get_dataset_config_names(path, revision=commit))
            raise
        split = _split_of(wanted, list(found))
        stream, facts = found[split], found[split].info
        if stream.features is not None:
            stream = stream.decode(False)
        features = stream.features or dict.fromkeys(next(iter(stream), {}))
    image = (
        _named(features, images, "Image") or _of_kind(features, "Image") or _named(features, images)
    )
    if image is None:
        listed = ", ".join(map(repr, features)) or "none"
        raise InvalidArgument("source", str(wanted), f"a column of images, and it has {listed}")
    label = (
        _named(features, labels, "ClassLabel")
        or _named(features, labels)
        or _of_kind(features, "ClassLabel")
    )
    key = _named(features, keys)
    stream = stream.select_columns([name for name in (image, label, key) if name is not None])
    return HubRows(
        split=HubSplit(wanted.repo, commit, facts.config_name or "default", split),
        count=getattr((facts.splits or {}).get(split), "num_examples", None),
        image=image,
        label=label,
        key=key,
        class_names=None if label is None else getattr(features[label], "names", None),
        _stream=stream,
    )


def _named(features: Mapping[str, Any], names: Sequence[str], kind: str = "") -> str | None:
    """The first of these columns that there is, of a kind if one is given."""
    known = (name for name in names if name in features)
    return next((name for name in known if not kind or _kind(features[name]) == kind), None)


def _of_kind(features: Mapping[str, Any], kind: str) -> str | None:
    return next((name for name in features if _kind(features[name]) == kind), None)


def _kind(feature: object) -> str:
    return type(feature).__name__


def _check_config(wanted: HubSplit, names: Sequence[str]) -> None:
    if wanted.config not in names:
        listed = ", ".join(f"{wanted.repo}:{name}/…" for name in names[:_LISTED])
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        expected = f"one of its configurations, with a split: {listed}{more}"
        raise InvalidArgument("source", str(wanted), expected)


def _split_of(wanted: HubSplit, names: Sequence[str]) -> str:
    """The split that is wanted, or the only one."""
    chosen = names[0] if wanted.split is None and len(names) == 1 else wanted.split
    if chosen is None or chosen not in names:
        start = f"{wanted.repo}:{wanted.config}/" if wanted.config else f"{wanted.repo}:"
        expected = f"one of its splits: {', '.join(start + name for name in names[:_LISTED])}"
        raise InvalidArgument("source", str(wanted), expected)
    return chosen


def _library() -> Any:
    """The library ``datasets``, from version 4 on, which runs no code of a repo."""
    command, purpose = "pip install 'datasets>=4'", "A dataset on the Hub"
    found = require("datasets", purpose, command)
    if int(found.__version__.partition(".")[0]) < 4:
        raise PackageMissing("datasets>=4", purpose, command)
    return found


def _reason(error: BaseException) -> str:
    """Why ``huggingface_hub`` or ``datasets`` failed."""
    if isinstance(error, hub_errors.OfflineModeIsEnabled):
        return (
            "HF_HUB_OFFLINE is set. Datasets in the cache can be given as objects: "
            "datasets.load_dataset(…)"
        )
    if isinstance(error, hub_errors.GatedRepoError) or "is a gated dataset" in str(error):
        return f"it is gated: accept its terms on its page on the Hub, and log in {_LOG_IN}"
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return f"there is no dataset of this name; or it is private: then log in {_LOG_IN}"
    return clean_line(first_line(error), 300)
