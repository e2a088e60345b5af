"""``ModelStore``: a bounded cache of loaded models, shared by threads."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from cam_hub.errors import CamHubError, InvalidArgument, ModelRefused
from cam_hub.models.limits import UNLIMITED, LoadLimits
from cam_hub.models.loaded_model import LoadedModel, Progress, is_as_loaded, pick_device
from cam_hub.models.model_id import ModelId, parse_model_id
from cam_hub.sources.hub.client import is_commit
from cam_hub.sources.registry import describe_model, load_model

__all__ = ["Loading", "ModelKey", "ModelStore", "StoreEntry", "get"]


_POLL_SECONDS = 0.2
"""Seconds between two checks of another thread's progress."""


@dataclass(frozen=True)
class ModelKey:
    """A request for a model: its ID, the caller's access token, and the limits."""

    id: ModelId
    pretrained: bool
    device: torch.device
    token: str | bool | None = field(repr=False)
    limits: LoadLimits

    @property
    def key(self) -> Hashable:
        """The key in the store: it differs for callers with different rights and limits.

        A model loaded with this machine's own token is not shared with callers who use another
        token, or none.
        """
        own = self.token is None or self.token is True
        limits = self.limits
        return str(self.id), self.pretrained, self.device, own, limits.pickles, limits.local

    @property
    def passing(self) -> bool:
        """Whether the model is not cached.

        Models loaded with a caller's token are for that caller only, and the content of a folder
        may change.
        """
        return isinstance(self.token, str) or self.id.kind == "local"

    def unsigned_if_public(self) -> ModelKey:
        """The request without the caller's token if the model is public, so that it can be shared.

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
class StoreEntry:
    """A model in the store, with its number of users."""

    key: Hashable
    id: str
    model: LoadedModel
    users: int

    @property
    def bytes(self) -> int:
        """The size of its weights and of copies of it (as in double precision), in bytes."""
        return _bytes(self.model)

    def is_beside(self, other: StoreEntry) -> bool:
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

    def reporter(self, progress: Progress | None) -> Progress:
        """A progress function that also records the progress, for waiting threads."""

        def report(part: float, what: str) -> None:
            self.state = part, what
            if progress is not None:
                progress(part, what)

        return report

    def wait(self, progress: Progress | None) -> None:
        """Waits until the model is loaded, and reports the progress in the waiting thread."""
        reported = None
        while not self.done.wait(_POLL_SECONDS if progress is not None else None):
            if progress is not None and self.state is not None and self.state != reported:
                reported = self.state
                progress(*reported)


def _bytes(model: LoadedModel) -> int:
    own = sum(each.nbytes for each in (*model.module.parameters(), *model.module.buffers()))
    facts = list(model.facts.values())
    copies = (fact for fact in facts if isinstance(fact, LoadedModel) and fact is not model)
    return own + sum(map(_bytes, copies))


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
        request = ModelKey(id, pretrained, pick_device(device), token, limits)
        entry = self._find(request.key)
        if entry is None:
            request = request.unsigned_if_public()
        passing = entry is None and request.passing
        if passing:
            entry = self._load(object(), request, progress)
        elif entry is None:
            entry = self._load_once(request, progress)
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
            here = {name for entry in self._entries.values() for name in (entry.id, entry.model.id)}
            return frozenset(here | {loading.id for loading in self._loading.values()})

    def _find(self, key: Hashable) -> StoreEntry | None:
        """Leases a cached model."""
        with self._room:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                entry.users += 1
            return entry

    def _load_once(self, request: ModelKey, progress: Progress | None) -> StoreEntry:
        """Loads a model, or waits for the thread that is loading it; leases it."""
        while True:
            with self._room:
                loading = self._loading.get(request.key)
                if loading is None:
                    # Another thread may have loaded it meanwhile.
                    if (entry := self._find(request.key)) is not None:
                        return entry
                    self._loading[request.key] = Loading(str(request.id), request.limits)
                    break
            loading.wait(progress)
            if loading.error is not None and loading.limits == request.limits:
                raise copy.copy(loading.error)  # one of its own: raising writes to an error
        return self._load(request.key, request, progress)

    def _load(self, key: Hashable, request: ModelKey, progress: Progress | None) -> StoreEntry:
        """Loads and leases a model; waiting threads are woken in any case."""
        with self._room:
            loading = self._loading.setdefault(key, Loading(str(request.id), request.limits))
        try:
            model = request.load(loading.reporter(progress))
            return self._admit(StoreEntry(key, str(request.id), model, users=1))
        except CamHubError as error:
            loading.error = copy.copy(error)
            raise
        finally:
            with self._room:
                del self._loading[key]
            loading.done.set()

    def _admit(self, new: StoreEntry) -> StoreEntry:
        """Makes room for a model and leases it.

        Raises:
            ModelRefused: If there is none for too long.
        """
        deadline = time.monotonic() + self.patience
        with self._room:
            while not self._has_room_beside_those_in_use(new):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ModelRefused(
                        new.id,
                        f"its {_mib(new.bytes)} of weights do not fit beside the models that are "
                        f"in use now (all together at most {_mib(self.limit)}). Try again when "
                        "they are done.",
                    )
                self._room.wait(left)
            self._entries[new.key] = new
            self._forget(new)
        return new

    def _has_room_beside_those_in_use(self, new: StoreEntry) -> bool:
        used = [
            entry.bytes for entry in self._entries.values() if entry.users and entry.is_beside(new)
        ]
        return not used or sum(used) + new.bytes <= self.limit

    def _forget(self, new: StoreEntry) -> None:
        """Evicts idle models until the rest fits."""
        beside = [entry for entry in self._entries.values() if entry.is_beside(new)]
        total = sum(entry.bytes for entry in beside)
        for entry in beside:
            if total > self.limit and not entry.users:
                total -= entry.bytes
                del self._entries[entry.key]


_shared = ModelStore()


def get(model_id: str, *, device: str | torch.device = "auto") -> LoadedModel:
    """The pretrained model of this ID out of the store that all calls of this process share."""
    return _shared.get(model_id, device=device)


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
    if (found := _shared.find(model_id, revision, place)) is not None:
        return found
    id = parse_model_id(model_id, local=True)
    exact = id.kind == "torchvision" or (id.kind == "hub" and is_commit(revision))
    model = _shared.get(f"{id.repo}@{revision}" if exact else model_id, device=place)
    if model.revision != revision:
        raise ModelRefused(
            model_id,
            f"its weights are {model.revision} here, and {revision} where it was pickled. Load it "
            "by its ID instead.",
        )
    return model if model.id == model_id else replace(model, id=model_id)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
