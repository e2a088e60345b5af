"""Source of timm models on the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.errors as hub_errors
import timm
from huggingface_hub import hf_hub_download

from cam_hub.errors import HubUnavailable, ModelNotFound, ModelRefused
from cam_hub.sources import timm_models
from cam_hub.sources.base import LoadedModel, Request

__all__ = ["HubSource"]

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"


class HubSource:
    """Loads repos that timm can read, and bare timm names by the repo that timm keeps them in."""

    name = "hub"

    def claims(self, request: Request) -> bool:
        """Whether pretrained weights of a repo or of a bare timm name are asked for."""
        return request.pretrained and request.id.kind in ("hub", "timm")

    def load(self, request: Request) -> LoadedModel:
        """Fetches configuration and weights (into the Hub's own cache) and builds the model."""
        id = str(request.id)
        repo = request.id.name if request.id.kind == "hub" else _repo_of_bare_name(request)
        with _plain_errors(request, repo):
            config = hf_hub_download(
                repo, _CONFIG, revision=request.id.revision, token=request.token
            )
        declared = _read_config(id, Path(config))
        commit = Path(config).parent.name
        with _plain_errors(request, repo):
            hf_hub_download(repo, _WEIGHTS, revision=commit, token=request.token)
        try:
            module = timm.create_model(f"local-dir:{Path(config).parent}", pretrained=True)
        except Exception as error:  # timm lets bare errors of every kind through
            raise ModelRefused(id, f"timm could not build it from its files ({error}).") from error
        suffix = f"@{request.id.revision}" if request.id.revision else ""
        return timm_models.as_loaded(
            module,
            request,
            id=repo + suffix,
            source=self.name,
            revision=commit,
            declared=declared,
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """The IDs of timm's own weights; their architectures can be built without them, too."""
        return timm_models.hub_ids()


def _repo_of_bare_name(request: Request) -> str:
    """The repo of ``architecture.tag``; of ``architecture`` alone if it has only one."""
    name = request.id.name
    tags = [name] if "." in name else timm_models.tags_of(name)
    if len(tags) > 1:
        raise timm_models.ambiguous(request.id, tags)
    repo = timm_models.hub_id_of(tags[0]) if tags else None
    if repo is None:
        raise ModelNotFound(name)
    return repo


def _read_config(id: str, path: Path) -> dict[str, Any]:
    """The repo's configuration; what is not a timm model is refused before much is fetched."""
    try:
        config: Any = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise ModelRefused(id, f"its {_CONFIG} cannot be read ({error}).") from error
    architecture = config.get("architecture") if isinstance(config, dict) else None
    if architecture is None:
        other = config.get("model_type") if isinstance(config, dict) else None
        kind = f"a transformers model of type {other!r}" if other else "not a timm model"
        raise ModelRefused(
            id,
            f"it is {kind} (its {_CONFIG} names no timm architecture). Repos that timm can "
            "read work.",
        )
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelRefused(id, f"the installed timm has no architecture {architecture!r}.")
    return dict(config)


@contextmanager
def _plain_errors(request: Request, repo: str) -> Iterator[None]:
    """Turns what huggingface_hub raises into errors of ours."""
    id = str(request.id)
    try:
        yield
    except hub_errors.GatedRepoError as error:
        raise ModelRefused(
            id, "it is gated: accept its terms on the Hub and give a token of that account."
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ModelNotFound(
            id, [repo], f"The repo has no revision {request.id.revision!r}."
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            id, hint="The Hub has no such repo, or it is private and needs a token."
        ) from error
    except hub_errors.LocalEntryNotFoundError as error:
        raise HubUnavailable(
            id, "the Hub cannot be reached and the model is not in the local cache."
        ) from error
    except hub_errors.EntryNotFoundError as error:
        raise ModelRefused(
            id,
            f"it has no {_CONFIG} or no {_WEIGHTS}, so it is not a timm model that can be "
            "loaded safely.",
        ) from error
    except (hub_errors.HfHubHTTPError, OSError) as error:
        raise HubUnavailable(id, f"the Hub answered with an error ({error}).") from error
