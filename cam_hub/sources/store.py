"""``ModelStore``: loaded models, bounded, shared by threads."""

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


_TELL_EVERY = 0.2
"""Seconds between two looks at how far another thread has come with loading."""


@dataclass(frozen=True)
class ModelKey:
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

    def unsigned_if_public(self) -> ModelKey:
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
class StoreEntry:
    """A model in the store, and how many are using it."""

    key: Hashable
    id: str
    model: LoadedModel
    users: int

    @property
    def bytes(self) -> int:
        """Of its weights, and of copies that are kept with it (as in double precision)."""
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


DEFAULT_LIMIT = 4 * 2**30
"""Bytes of weights that the store of this process keeps per device."""

DEFAULT_PATIENCE = 30.0
"""Seconds to wait for room."""


class ModelStore:
    """Loaded models, the least recently used forgotten first.

    What is asked for by several threads at once is loaded once. A model that is leased is never
    forgotten, and counts. Where those in use leave no room for another, that one waits, and is
    refused after a while; alone, a model of any size has room.

    A model stays as it was loaded: of a branch that has moved on, the newer commit comes after
    the model was forgotten, or when it is asked for by its commit. Private and gated models that an
    access token that was given has opened are for the caller only, and those of folders may change:
    they are counted while they are leased, and never kept. For public models such a token is not
    used.

    Args:
        limit: Bytes of weights to keep on each device.
        patience: Seconds to wait for room until a model is refused.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT, *, patience: float = DEFAULT_PATIENCE) -> None:
        if limit < 0:
            raise InvalidArgument("limit", limit, "a number of bytes, at least 0")
        if not patience >= 0:
            raise InvalidArgument("patience", patience, "a number of seconds, at least 0")
        self.limit = limit
        self.patience = patience
        self._kept: OrderedDict[Hashable, StoreEntry] = OrderedDict()
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
        """The model of this ID, for the time of a ``with`` block; it is loaded if need be.

        Args:
            model_id: As ``load_model``'s, and so are the others.
            pretrained: Whether trained weights are wanted.
            device: Where the model is to be.
            token: Access token. What is here for callers without any (``False``) is given to one
                with a token of theirs, too.
            limits: How much loading may cost. What is here costs nothing.
            progress: Told how far loading is, also if another thread is doing it.

        Raises:
            CamHubError: As ``load_model``. Threads that waited for a loading that failed get the
                same error, unless they had other limits.
            ModelRefused: If the models in use left no room for it as long as ``patience``.
        """
        id = parse_model_id(model_id, limits.local)
        wanted = ModelKey(id, pretrained, pick_device(device), token, limits)
        kept = self._find(wanted.key)
        if kept is None:
            wanted = wanted.unsigned_if_public()
        passing = kept is None and wanted.passing
        if passing:
            kept = self._load(object(), wanted, progress)
        elif kept is None:
            kept = self._load_once(wanted, progress)
        try:
            yield kept.model
        finally:
            with self._room:
                kept.users -= 1
                if passing:
                    del self._kept[kept.key]
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
        """The model of this ID, for callers that hold on to it themselves.

        It may be forgotten here while they do, and lives on with them, uncounted. Arguments and
        errors as ``lease``'s.
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
        """A model that is here, and unchanged since it was loaded; None if there is none.

        Args:
            model_id: As ``LoadedModel.id``.
            revision: As ``LoadedModel.revision``.
            device: Where it must be.
        """
        with self._room:
            kept = [entry.model for entry in self._kept.values()]
        for model in reversed(kept):
            if (
                (model.id, model.revision) == (model_id, revision)
                and device in (model.device, torch.device(model.device.type))
                and is_as_loaded(model)
            ):
                return model
        return None

    def clear(self) -> None:
        """Forgets all models that nobody is using."""
        with self._room:
            for key in [key for key, kept in self._kept.items() if not kept.users]:
                del self._kept[key]

    @property
    def ids(self) -> frozenset[str]:
        """The IDs of all models that are here or on their way."""
        with self._room:
            here = {name for kept in self._kept.values() for name in (kept.id, kept.model.id)}
            return frozenset(here | {loading.id for loading in self._loading.values()})

    def _find(self, key: Hashable) -> StoreEntry | None:
        """Leases what is here."""
        with self._room:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                kept.users += 1
            return kept

    def _load_once(self, wanted: ModelKey, progress: Progress | None) -> StoreEntry:
        """Loads a model, or waits for the thread that is loading it; leases it."""
        while True:
            with self._room:
                loading = self._loading.get(wanted.key)
                if loading is None:
                    # It may have come while this thread was on its way.
                    if (kept := self._find(wanted.key)) is not None:
                        return kept
                    self._loading[wanted.key] = Loading(str(wanted.id), wanted.limits)
                    break
            loading.wait(progress)
            if loading.error is not None and loading.limits == wanted.limits:
                raise copy.copy(loading.error)  # one of its own: raising writes to an error
        return self._load(wanted.key, wanted, progress)

    def _load(self, key: Hashable, wanted: ModelKey, progress: Progress | None) -> StoreEntry:
        """Loads and leases a model; whoever waits for it is woken, whatever happens."""
        with self._room:
            loading = self._loading.setdefault(key, Loading(str(wanted.id), wanted.limits))
        try:
            model = wanted.load(loading.teller(progress))
            return self._admit(StoreEntry(key, str(wanted.id), model, users=1))
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
            self._kept[new.key] = new
            self._forget(new)
        return new

    def _has_room_beside_those_in_use(self, new: StoreEntry) -> bool:
        used = [kept.bytes for kept in self._kept.values() if kept.users and kept.is_beside(new)]
        return not used or sum(used) + new.bytes <= self.limit

    def _forget(self, new: StoreEntry) -> None:
        """Forgets idle models until the rest fits."""
        beside = [kept for kept in self._kept.values() if kept.is_beside(new)]
        total = sum(kept.bytes for kept in beside)
        for kept in beside:
            if total > self.limit and not kept.users:
                total -= kept.bytes
                del self._kept[kept.key]


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
