"""Request in, explanation out, with the models that stay loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cam_hub
from cam_hub import disk_cache
from cam_hub.errors import InvalidArgument
from cam_hub.images import open_image
from cam_hub.introspection.layers import SUGGESTIONS, suggest_layers
from cam_hub.results import Explanation
from cam_hub.sources.base import LoadedModel
from cam_hub.store import ModelStore
from space.layer_table import LayerTable, make_table
from space.request import Request
from space.settings import Settings

__all__ = ["Explainer", "Progress"]

Progress = Callable[[float, str], None]
"""Called with the part of the work that is done, in [0, 1], and what comes next."""


class Explainer:
    """Answers requests; one for all visitors, used by several threads.

    Args:
        settings: Of the app.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = ModelStore(settings.model_bytes)

    def explain(self, request: Request, progress: Progress) -> Explanation:
        """Explains.

        Args:
            request: What to explain.
            progress: Told what is being done.

        Returns:
            The same as ``cam_hub.explain`` gives for the same arguments.

        Raises:
            CamHubError: As ``cam_hub.explain``; also if the photo or the number of layers is
                beyond the limits.
        """
        progress(0.0, "Opening the photo")
        # Its bytes, not its path: messages should not name folders of this machine.
        photo = open_image(request.photo.read_bytes(), max_pixels=self._settings.limits.max_pixels)
        progress(0.05, f"Loading {request.model_id}")
        with self._model(
            request.model_id, lambda part, what: progress(0.05 + 0.25 * part, what)
        ) as model:
            progress(0.3, "Finding layers")
            layers = self._layers(model, request.target_layers)
            progress(0.4, "Explaining")
            return cam_hub.explain(
                model,
                photo,
                method=request.method,
                target_layers=layers,
                classes=request.class_choice,
                num_samples=request.num_samples,
                std=request.std,
                seed=request.seed,
                progress=lambda part, what: progress(0.4 + 0.5 * part, f"Explaining: {what}"),
            )

    def layers(self, model_id: str, progress: Progress) -> LayerTable:
        """A model's layers.

        Raises:
            CamHubError: As ``cam_hub.load_model`` and ``cam_hub.list_layers``.
        """
        progress(0.0, f"Loading {model_id}")
        with self._model(model_id, lambda part, what: progress(0.4 * part, what)) as model:
            progress(0.4, "Finding layers")
            return make_table(model)

    @contextmanager
    def _model(self, model_id: str, progress: Progress) -> Iterator[LoadedModel]:
        """A model, held in memory and on the disk for as long as it is used."""
        was_here = model_id in self._store.ids
        with self._store.lease(
            model_id,
            pretrained=not self._settings.random_weights,
            device=self._settings.device,
            # Visitors of a Space do not act in the name of whoever runs it.
            token=False if self._settings.space_id else None,
            limits=self._settings.load_limits,
            progress=progress,
        ) as model:
            if self._settings.disk_bytes is not None and not was_here:
                disk_cache.trim(self._settings.disk_bytes, keep=self._store.ids)
            yield model

    def _layers(self, model: LoadedModel, wanted: tuple[str, ...]) -> list[str]:
        """Layer names; words among them are replaced by the layers that they stand for."""
        names: dict[str, None] = {}
        for name in wanted or ("best",):
            meant = suggest_layers(model, name) if name in SUGGESTIONS else [name]
            names.update(dict.fromkeys(meant))
        most = self._settings.limits.max_layers
        if len(names) > most:
            raise InvalidArgument(
                "target_layers",
                " ".join(wanted),
                f"at most {most} layers, and these are {len(names)} of this model",
            )
        return list(names)
