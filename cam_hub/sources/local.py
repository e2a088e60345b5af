"""Source of models in folders of this machine, as timm saves them; for Python and the CLI only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.sources import timm_models
from cam_hub.sources.base import LoadedModel, Request
from cam_hub.sources.checkpoint import choose_weights
from cam_hub.sources.foreign import foreign
from cam_hub.sources.repo_config import CONFIG, read_config
from cam_hub.sources.timm_repo import build

__all__ = ["LocalSource"]

_KIND = "local"


class LocalSource:
    """Loads a folder with a ``config.json`` and weights beside it."""

    name = "local"

    def claims(self, request: Request) -> bool:
        """Whether the ID names a folder."""
        kind: str = request.id.kind
        return kind == _KIND

    def load(self, request: Request) -> LoadedModel:
        """Reads configuration and weights; the revision is a digest of both."""
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
            reason = foreign(files, None, None) or f"the folder has no {CONFIG}."
            raise ModelRefused(id, reason)
        config_path = _inside(id, folder, CONFIG)
        config = read_config(id, config_path)
        weights = choose_weights(files, pickles=True)
        if weights is None:
            raise ModelRefused(id, "the folder has no weights (model.safetensors).")
        path = _inside(id, folder, weights)
        _admit(request, path)
        module = build(id, config, path, pickles=request.limits.pickles)
        return timm_models.as_loaded(
            module,
            request,
            id=id,
            source=self.name,
            revision=_digest(config_path, path),
            declared=config.raw,
        )

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """None: folders are nobody's to propose."""
        del pretrained
        return ()


def _files(id: str, folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        raise ModelNotFound(id, hint="There is no such folder.") from None
    except NotADirectoryError:
        raise ModelNotFound(id, hint=f"It is a file; a folder with a {CONFIG} works.") from None
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
        raise ModelRefused(id, f"{name} is no file.")
    # The link's own name tells the format of what it leads to.
    return folder / name


def _admit(request: Request, weights: Path) -> None:
    """Refuses more parameters than are allowed, as the size of the file tells of them."""
    most = request.limits.parameters
    count = weights.stat().st_size // 4
    if most is not None and count > most:
        raise ModelRefused(
            str(request.id),
            f"its weights are about {count:,} parameters, and at most {most:,} are loaded here.",
        )


def _digest(*paths: Path) -> str:
    """What exactly was loaded."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{total.hexdigest()}"
