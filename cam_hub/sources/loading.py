"""A model on its way into a store: wanted, being loaded, kept."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import torch

from cam_hub.errors import CamHubError
from cam_hub.models.limits import LoadLimits
from cam_hub.models.loaded_model import LoadedModel, Progress
from cam_hub.models.model_id import ModelId
from cam_hub.sources.registry import describe_model, load_model

__all__ = ["Kept", "Loading", "Wanted"]

_TELL_EVERY = 0.2
"""Seconds between two looks at how far another thread has come with loading."""


@dataclass(frozen=True)
class Wanted:
    """Which model, for whom, and what loading it may cost."""

    id: ModelId
    pretrained: bool
    device: torch.device
    token: str | bool | None = field(repr=False)
    limits: LoadLimits

    @property
    def key(self) -> Hashable:
        """What it is kept under. What one caller must not load is not handed to it either.

        What this machine's own token has opened is not for callers who come with another one, or
        with none.
        """
        own = self.token is None or self.token is True
        limits = self.limits
        return str(self.id), self.pretrained, self.device, own, limits.pickles, limits.local

    @property
    def passing(self) -> bool:
        """Whether it is not kept.

        What a given token opens is not for others, and what lies in a folder may be something else
        by the next time.
        """
        return isinstance(self.token, str) or self.id.kind == "local"

    def unsigned_if_public(self) -> Wanted:
        """Without the token that was given, where it opens nothing: then it can be shared.

        Raises:
            CamHubError: As ``describe_model``.
        """
        if not isinstance(self.token, str):
            return self
        if self.pretrained:
            facts = describe_model(str(self.id), token=self.token, limits=self.limits)
            if facts.restricted:
                return self
        return replace(self, token=False)

    def load(self, progress: Progress | None) -> LoadedModel:
        """Loads it; errors as for ``load_model``."""
        return load_model(
            str(self.id),
            pretrained=self.pretrained,
            device=self.device,
            token=self.token,
            limits=self.limits,
            progress=progress,
        )


@dataclass(eq=False)
class Kept:
    """A model in the store, and how many are using it."""

    key: Hashable
    id: str
    model: LoadedModel
    users: int

    @property
    def bytes(self) -> int:
        """Of its weights, and of copies that are kept with it (as in double precision)."""
        return _bytes(self.model)

    def is_beside(self, other: Kept) -> bool:
        """Whether both are on the same device."""
        return self.model.device == other.model.device


@dataclass(eq=False)
class Loading:
    """A model that a thread is loading."""

    id: str
    limits: LoadLimits
    done: threading.Event = field(default_factory=threading.Event)
    state: tuple[float, str] | None = None
    error: CamHubError | None = None

    def teller(self, progress: Progress | None) -> Progress:
        """Notes how far loading is, for those who wait, and passes it on."""

        def tell(part: float, what: str) -> None:
            self.state = part, what
            if progress is not None:
                progress(part, what)

        return tell

    def wait(self, progress: Progress | None) -> None:
        """Waits for the end, and tells of the way there in the thread that waits."""
        told = None
        while not self.done.wait(_TELL_EVERY if progress is not None else None):
            if progress is not None and self.state is not None and self.state != told:
                told = self.state
                progress(*told)


def _bytes(model: LoadedModel) -> int:
    own = sum(each.nbytes for each in (*model.module.parameters(), *model.module.buffers()))
    facts = list(model.facts.values())
    copies = (fact for fact in facts if isinstance(fact, LoadedModel) and fact is not model)
    return own + sum(map(_bytes, copies))
