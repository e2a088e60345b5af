"""Keeps loaded models for the next call, up to a bound, for any number of threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import partial

import torch

from cam_hub.errors import InvalidArgument
from cam_hub.limits import UNLIMITED, LoadLimits
from cam_hub.model_id import parse_model_id
from cam_hub.sources.base import LoadedModel, Progress, pick_device
from cam_hub.sources.registry import load_model

__all__ = ["ModelStore", "get"]

DEFAULT_LIMIT = 4 * 2**30
"""Bytes of weights that the store of this process keeps."""

Key = tuple[str, bool, torch.device, bool]


class ModelStore:
    """Loaded models, the least recently used forgotten first.

    A model that is asked for by several threads at once is loaded once. One that is still in use
    elsewhere lives on there after it was forgotten here. Models loaded with an access token that
    was given are never kept: they must not be handed to anyone else.

    Args:
        limit: Bytes of weights to keep; the model asked for last is kept in any case.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        if limit < 0:
            raise InvalidArgument("limit", limit, "a number of bytes, at least 0")
        self.limit = limit
        self._models: OrderedDict[Key, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()
        self._loading: dict[Key, threading.Lock] = {}

    def get(
        self,
        model_id: str,
        *,
        pretrained: bool = True,
        device: str | torch.device = "auto",
        token: str | bool | None = None,
        limits: LoadLimits = UNLIMITED,
        progress: Progress | None = None,
    ) -> LoadedModel:
        """The model of this ID, loaded if need be; arguments and errors as ``load_model``'s."""
        load = partial(load_model, limits=limits, progress=progress)
        id = str(parse_model_id(model_id))
        place = pick_device(device)
        if isinstance(token, str):
            return load(id, pretrained=pretrained, device=place, token=token)
        # What this machine's own token has opened is not for callers who come without any.
        key = (id, pretrained, place, token is False)
        if (found := self._find(key)) is not None:
            return found
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            if (found := self._find(key)) is None:
                found = load(id, pretrained=pretrained, device=place, token=token)
                self._keep(key, found)
        with self._lock:
            self._loading.pop(key, None)
        return found

    def clear(self) -> None:
        """Forgets all models."""
        with self._lock:
            self._models.clear()

    def _find(self, key: Key) -> LoadedModel | None:
        with self._lock:
            found = self._models.get(key)
            if found is not None:
                self._models.move_to_end(key)
            return found

    def _keep(self, key: Key, model: LoadedModel) -> None:
        with self._lock:
            self._models[key] = model
            while len(self._models) > 1 and sum(map(_bytes, self._models.values())) > self.limit:
                self._models.popitem(last=False)


def _bytes(model: LoadedModel) -> int:
    tensors = [*model.module.parameters(), *model.module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


_shared = ModelStore()


def get(model_id: str, *, device: str | torch.device = "auto") -> LoadedModel:
    """The pretrained model of this ID out of the store that all calls of this process share."""
    return _shared.get(model_id, device=device)
