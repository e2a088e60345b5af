"""Source of models in folders of this machine, as timm saves them; for Python and the CLI only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.models.checkpoint import pickle_notes
from cam_hub.models.config import CONFIG, read_config
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import LoadRequest, ModelFacts, check_limits
from cam_hub.models.model_id import path_hint
from cam_hub.models.network import build
from cam_hub.models.repo_files import choose_weights, why_no_weights, why_other_library
from cam_hub.sources.download import caller_may_stop, poll_of
from cam_hub.sources.timm import as_loaded

__all__ = ["LocalSource"]


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
        check_limits(_facts(id, weights), request.limits)
        parsed = read_config(id, config)
        with caller_may_stop():
            module = build(
                id,
                parsed,
                weights,
                pickles=request.limits.pickles,
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
        return _facts(str(request.id), _contents(request)[1])

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


def _facts(id: str, weights: Path) -> ModelFacts:
    return ModelFacts(
        id=id,
        source=LocalSource.name,
        weights_file=weights.name,
        weights_bytes=weights.stat().st_size,
        fetch_bytes=0,
        library="timm",
    )


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
