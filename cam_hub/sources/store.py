"""``ModelStore``: a bounded cache of loaded models, shared by threads."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain

import torch

from cam_hub.errors import CamHubError, InvalidArgument, ModelRefused
from cam_hub.models.loaded_model import LoadedModel, is_as_loaded
from cam_hub.models.loading import UNLIMITED, LoadLimits, LoadRequest, Progress, pick_device
from cam_hub.models.model_id import ModelId, parse_model_id
from cam_hub.sources.hub.client import is_commit
from cam_hub.sources.registry import describe_model, load_requested

__all__ = ["SHARED", "Loading", "ModelStore", "StoreEntry", "reopen"]


_POLL_SECONDS = 0.2
"""Seconds between two checks of another thread's progress."""


@dataclass(eq=False)
class StoreEntry:
    """A model in the store, with its number of users."""

    key: Hashable
    id: ModelId
    model: LoadedModel
    users: int

    @property
    def bytes(self) -> int:
        """The size of its weights and of copies of it (as in double precision), in bytes."""
        models, size = [self.model], 0
        for model in models:  # which grows by the copies
            for tensor in chain(model.module.parameters(), model.module.buffers()):
                size += tensor.nbytes
            for fact in list(model.facts.values()):  # to which other threads may add
                if isinstance(fact, LoadedModel) and fact not in models:
                    models.append(fact)
        return size


@dataclass(eq=False)
class Loading:
    """A model that a thread is loading, with that thread's progress function."""

    id: ModelId
    limits: LoadLimits
    progress: Progress | None
    done: threading.Event = field(default_factory=threading.Event)
    state: tuple[float, str] | None = None
    error: CamHubError | None = None

    def report(self, part: float, what: str) -> None:
        """Reports the progress, and records it for waiting threads."""
        self.state = part, what
        if self.progress is not None:
            self.progress(part, what)

    def wait(self, progress: Progress | None) -> None:
        """Waits until the model is loaded, and reports the progress in the waiting thread."""
        reported = None
        while not self.done.wait(_POLL_SECONDS if progress is not None else None):
            if progress is not None and self.state is not None and self.state != reported:
                reported = self.state
                progress(*reported)


DEFAULT_LIMIT = 4 * 2**30
"""Maximum size of the weights in this process's store, in bytes per device."""

DEFAULT_PATIENCE = 30.0
"""Seconds to wait for memory."""


class ModelStore:
    """A cache of loaded models that evicts the least recently used first.

    A model requested by several threads at once is loaded once. A leased model counts and is never
    evicted. If the leased models leave no room for another one, that waits, and is refused after a
    while. A single model may exceed the limit.

    A cached model does not change: a newer commit of its branch is loaded after the model was
    evicted, or if requested by its commit. Private and gated models loaded with a caller's token
    are for that caller only, and the content of folders may change: they count while they are
    leased, and are never cached. For public models a caller's token is not used.

    Args:
        limit: Maximum size of the weights on each device, in bytes.
        patience: Seconds to wait for room until a model is refused.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT, *, patience: float = DEFAULT_PATIENCE) -> None:
        if limit < 0:
            raise InvalidArgument("limit", limit, "a number of bytes, at least 0")
        if not patience >= 0:
            raise InvalidArgument("patience", patience, "a number of seconds, at least 0")
        self.limit = limit
        self.patience = patience
        self._entries: OrderedDict[Hashable, StoreEntry] = OrderedDict()
        self._loading: dict[Hashable, Loading] = {}
        self._room = threading.Condition()

    @contextmanager
    def lease(
        self,
        model_id: str,
        *,
        pretrained: bool = True,
        device: str | torch.device = "auto",
        token: str | bool | None = None,
        limits: LoadLimits = UNLIMITED,
        progress: Progress | None = None,
    ) -> Iterator[LoadedModel]:
        """The model of this ID for a ``with`` block; it is loaded if necessary.

        Args:
            model_id: As ``load_model``'s, and so are the others.
            pretrained: False for random weights.
            device: The device of the model.
            token: Access token. Models cached for callers without one (``False``) are shared with
                callers with a token, too.
            limits: The limits for loading; a cached model always meets them.
            progress: Called with the progress, also if another thread is loading the model.

        Raises:
            CamHubError: As ``load_model``. If loading fails, waiting threads with the same limits
                get the same error.
            ModelRefused: If the models in use left no room for it as long as ``patience``.
        """
        id = parse_model_id(model_id, limits.local)
        request = LoadRequest(id, pretrained, pick_device(device), token, limits, progress)
        # Callers with different rights and limits do not share a model. One that was loaded with
        # this machine's own token is not for callers who use another token, or none.
        key: Hashable = (
            id,
            pretrained,
            request.device,
            request.is_own,
            limits.pickles,
            limits.local,
        )
        entry = self._find(key)
        passing = False
        if entry is None:
            if isinstance(token, str) and not (
                pretrained and describe_model(str(id), token=token, limits=limits).restricted
            ):
                request = replace(request, token=False)
            passing = isinstance(request.token, str) or id.kind == "local"
            entry = self._load(object() if passing else key, request)
        try:
            yield entry.model
        finally:
            with self._room:
                entry.users -= 1
                if passing:
                    del self._entries[entry.key]
                self._room.notify_all()

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
        """The model of this ID, for callers that keep a reference to it.

        The store may evict it meanwhile; then it no longer counts. Arguments and errors are those
        of ``lease``.
        """
        with self.lease(
            model_id,
            pretrained=pretrained,
            device=device,
            token=token,
            limits=limits,
            progress=progress,
        ) as model:
            return model

    def find(self, model_id: str, revision: str, device: torch.device) -> LoadedModel | None:
        """A cached model that is unchanged since it was loaded; None if there is none.

        Args:
            model_id: As ``LoadedModel.id``.
            revision: As ``LoadedModel.revision``.
            device: Its device.
        """
        with self._room:
            models = [entry.model for entry in self._entries.values()]
        for model in reversed(models):
            if (
                (model.id, model.revision) == (model_id, revision)
                and device in (model.device, torch.device(model.device.type))
                and is_as_loaded(model)
            ):
                return model
        return None

    def clear(self) -> None:
        """Evicts all models that are not in use."""
        with self._room:
            for key in [key for key, entry in self._entries.items() if not entry.users]:
                del self._entries[key]

    @property
    def ids(self) -> frozenset[str]:
        """The IDs of all models that are cached or being loaded."""
        with self._room:
            entries = self._entries.values()
            names = [name for entry in entries for name in (str(entry.id), entry.model.id)]
            return frozenset([*names, *(str(loading.id) for loading in self._loading.values())])

    def _find(self, key: Hashable) -> StoreEntry | None:
        """Leases a cached model."""
        with self._room:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                entry.users += 1
            return entry

    def _load(self, key: Hashable, request: LoadRequest) -> StoreEntry:
        """Loads a model, or waits for the thread that is loading it; leases it."""
        while True:
            with self._room:
                # Another thread may have loaded it meanwhile.
                if (entry := self._find(key)) is not None:
                    return entry
                loading = self._loading.get(key)
                if loading is None:
                    loading = Loading(request.id, request.limits, request.progress)
                    self._loading[key] = loading
                    break
            loading.wait(request.progress)
            if loading.error is not None and loading.limits == request.limits:
                raise copy.copy(loading.error)  # one of its own: raising writes to an error
        try:
            model = load_requested(replace(request, progress=loading.report))
            return self._admit(StoreEntry(key, request.id, model, users=1))
        except CamHubError as error:
            loading.error = copy.copy(error)
            raise
        finally:
            with self._room:
                del self._loading[key]
            loading.done.set()

    def _admit(self, new: StoreEntry) -> StoreEntry:
        """Adds a leased model, and evicts idle ones on its device until the rest fits.

        ``ModelRefused`` if models in use leave no room for it for too long.
        """
        deadline = time.monotonic() + self.patience
        size, place = new.bytes, new.model.device
        with self._room:
            while True:
                beside: list[StoreEntry] = []
                in_use, total = 0, size
                for entry in self._entries.values():
                    if entry.model.device == place:
                        beside.append(entry)
                        total += entry.bytes
                        in_use += entry.bytes if entry.users else 0
                if not in_use or in_use + size <= self.limit:
                    break
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ModelRefused(
                        str(new.id),
                        f"its {_mib(size)} of weights do not fit beside the models that are "
                        f"in use now (all together at most {_mib(self.limit)}). Try again when "
                        "they are done.",
                    )
                self._room.wait(left)
            for entry in beside:
                if total > self.limit and not entry.users:
                    total -= entry.bytes
                    del self._entries[entry.key]
            self._entries[new.key] = new
        return new


SHARED = ModelStore()
"""The store that all calls of this process share."""


def reopen(model_id: str, revision: str, device: str) -> LoadedModel:
    """A model that another process, or this one, has loaded by its ID.

    Args:
        model_id: Its ID, as ``LoadedModel.id``.
        revision: What exactly was loaded, as ``LoadedModel.revision``.
        device: Where it was; without such a device here it is where ``"auto"`` puts it.

    Raises:
        CamHubError: As ``load_model``.
        ModelRefused: If the ID stands for other weights by now.
    """
    try:
        place = pick_device(device)
    except InvalidArgument:
        place = pick_device("auto")
    if (found := SHARED.find(model_id, revision, place)) is not None:
        return found
    id = parse_model_id(model_id, local=True)
    exact = id.kind == "torchvision" or (id.kind == "hub" and is_commit(revision))
    model = SHARED.get(f"{id.repo}@{revision}" if exact else model_id, device=place)
    if model.revision != revision:
        raise ModelRefused(
            model_id,
            f"its weights are {model.revision} here, and {revision} where it was pickled. Load it "
            "by its ID instead.",
        )
    return model if model.id == model_id else replace(model, id=model_id)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
