"""Source of timm models on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
from torch import nn

from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.sources import timm_models
from cam_hub.sources.base import LoadedModel, Request
from cam_hub.sources.facts import ModelFacts
from cam_hub.sources.hub_snapshot import CONFIG, facts_of, open_snapshot

__all__ = ["HubSource"]


class HubSource:
    """Loads repos that timm can read, and bare timm names by the repo that timm keeps them in."""

    name = "hub"

    def claims(self, request: Request) -> bool:
        """Whether pretrained weights of a repo or of a bare timm name are asked for."""
        return request.pretrained and request.id.kind in ("hub", "timm")

    def load(self, request: Request) -> LoadedModel:
        """Asks for the facts, fetches what is missing (into the Hub's own cache), builds it."""
        id, repo = str(request.id), _repo(request)
        with open_snapshot(request, repo) as snapshot:
            config = _read_config(id, snapshot.path(CONFIG))
            module = _build(id, config, snapshot.weights())
        return timm_models.as_loaded(
            module,
            request,
            id=_name(request, repo),
            source=self.name,
            revision=snapshot.commit,
            declared=config.raw,
        )

    def describe(self, request: Request) -> ModelFacts:
        """What the Hub says about the repo; without it, what the cache tells."""
        repo = _repo(request)
        return replace(facts_of(request, repo), id=_name(request, repo))

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """The IDs of timm's own weights; their architectures can be built without them, too."""
        return timm_models.hub_ids()


def _name(request: Request, repo: str) -> str:
    """The ID under which the same model is found again."""
    return repo + (f"@{request.id.revision}" if request.id.revision else "")


def _repo(request: Request) -> str:
    """The repo: as named, or of ``architecture.tag``; of ``architecture`` if it has only one."""
    name = request.id.name
    if request.id.kind == "hub":
        return name
    tags = [name] if "." in name else timm_models.tags_of(name)
    if len(tags) > 1:
        raise timm_models.ambiguous(request.id, tags)
    repo = timm_models.hub_id_of(tags[0]) if tags else None
    if repo is None:
        raise ModelNotFound(name)
    return repo


@dataclass(frozen=True)
class _Config:
    raw: dict[str, Any]


def _read_config(id: str, path: Path) -> _Config:
    """The repo's configuration; what is not a timm model is refused before much is fetched."""
    try:
        config: Any = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise ModelRefused(id, f"its {CONFIG} cannot be read ({error}).") from error
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if architecture is None:
        other = config.get("model_type") if isinstance(config, dict) else None
        kind = f"a transformers model of type {other!r}" if other else "not a timm model"
        raise ModelRefused(
            id,
            f"it is {kind} (its {CONFIG} names no timm architecture). Repos that timm can "
            "read work.",
        )
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelRefused(id, f"the installed timm has no architecture {architecture!r}.")
    return _Config(dict(config))


def _build(id: str, config: _Config, weights: Path) -> nn.Module:
    """The network with its weights, which lie beside its configuration."""
    del config
    try:
        return timm.create_model(f"local-dir:{weights.parent}", pretrained=True)
    except Exception as error:  # timm lets bare errors of every kind through
        raise ModelRefused(id, f"timm could not build it from its files ({error}).") from error
