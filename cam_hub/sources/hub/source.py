"""Source of timm models on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from timm.data.imagenet_info import infer_imagenet_subset

from cam_hub.errors import CamHubError, ModelNotFound
from cam_hub.models.checkpoint import pickle_notes
from cam_hub.models.config import CARD, CONFIG, CONFIG_BYTES, RepoConfig, read_config
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import LoadRequest, ModelFacts
from cam_hub.models.network import build
from cam_hub.sources.download import poll_of
from cam_hub.sources.hub.snapshot import RepoCache, Snapshot, facts_of, open_snapshot
from cam_hub.sources.timm import (
    ambiguous,
    as_loaded,
    class_names_of,
    hub_id_of,
    hub_ids,
    input_size_of,
    tags_of,
)

__all__ = ["HubSource"]


class HubSource:
    """Loads repos that timm can read, and bare timm names by the repo that timm keeps them in."""

    name = "hub"

    def claims(self, request: LoadRequest) -> bool:
        """Whether the request is for pretrained weights of a repo or of a bare timm name."""
        return request.pretrained and request.id.kind in ("hub", "timm")

    def load(self, request: LoadRequest) -> LoadedModel:
        """Requests the facts, fetches missing files into the Hub's cache, and builds the model."""
        id, repo = str(request.id), _repo(request)
        with open_snapshot(request, repo) as snapshot:
            config = _config(id, snapshot)
            weights = snapshot.weights()
            poll = poll_of(id, request.progress)
            module = build(id, config, weights, pickles=request.limits.pickles, poll=poll)
        return as_loaded(
            module,
            request,
            id=_name(request, repo),
            source=self.name,
            revision=snapshot.commit,
            declared=config.raw,
            notes=pickle_notes(id, weights.name),
        )

    def describe(self, request: LoadRequest) -> ModelFacts:
        """The facts from the Hub; without it, those from the cache."""
        repo = _repo(request)
        facts = facts_of(request, repo)
        size, labels = _declared(request, repo, facts)
        return replace(facts, id=_name(request, repo), input_size=size, class_names=labels)

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """The IDs of timm's own weights; their architectures can be built without them, too."""
        return hub_ids()


def _config(id: str, snapshot: Snapshot) -> RepoConfig:
    """The repo's configuration; its card is fetched where only that can hold the labels."""
    path = snapshot.path(CONFIG)
    config = read_config(id, path)
    if config.label_names or not config.num_classes or infer_imagenet_subset(config.pretrained_cfg):
        return config
    card = snapshot.facts.file(CARD)
    if card is None or (card.size or CONFIG_BYTES) >= CONFIG_BYTES:
        return config
    snapshot.path(CARD)
    return read_config(id, path)


def _declared(
    request: LoadRequest, repo: str, facts: ModelFacts
) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None]:
    """Input size and labels: from the configuration if it is cached, else from timm.

    A cached configuration of a restricted repo is used for this machine's user only.
    """
    owner, _, name = repo.partition("/")
    size = input_size_of(name) if owner == "timm" else None
    labels = class_names_of(name) if owner == "timm" else None
    path = RepoCache(repo).find(facts.revision, CONFIG)
    if path is None or (facts.restricted and not request.is_own):
        return size, labels
    try:
        config = read_config(facts.id, path)
    except CamHubError:
        return size, labels
    declared = config.pretrained_cfg.get("input_size")
    return tuple(declared) if declared else size, config.label_names or labels


def _name(request: LoadRequest, repo: str) -> str:
    """The ID that loads the same model."""
    return repo + (f"@{request.id.revision}" if request.id.revision else "")


def _repo(request: LoadRequest) -> str:
    """The repo of an ID: named in it, or that of timm's architecture, if it has only one tag."""
    name = request.id.name
    if request.id.kind == "hub":
        return name
    tags = [name] if "." in name else tags_of(name)
    if len(tags) > 1:
        raise ambiguous(request.id, tags)
    repo = hub_id_of(tags[0]) if tags else None
    if repo is None:
        raise ModelNotFound(name)
    return repo
