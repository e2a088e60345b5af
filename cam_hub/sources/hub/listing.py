"""Models on the Hub by words of their IDs."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers

from cam_hub._text import clean_line
from cam_hub.errors import CamHubError, HubUnavailable, InvalidArgument, ModelNotFound
from cam_hub.models.model_id import ModelId
from cam_hub.sources.hub.client import Token, check_token

__all__ = ["HubListing", "ModelHit", "Token", "read_hit", "shared_listing"]


_TASKS = (None, "image-classification", "image-feature-extraction", "feature-extraction")
"""What a repo may call the task of a model that can be explained; many do not say."""

_WIDTHS = {"64": 8, "32": 4, "16": 2, "8": 1}
"""Bytes of a number, by the digits that safetensors' names of types hold (F32, BF16, I8)."""


@dataclass(frozen=True)
class ModelHit:
    """A model that answers a search.

    Attributes:
        id: What ``load_model`` takes.
        source: ``"hub"`` if the Hub listed it, ``"torchvision"``, or ``"timm"`` for weights that
            timm knows by name.
        downloads: In the last month, as the Hub counts.
        likes: On the Hub.
        parameters: How many.
        bytes: Size of the weights.
        licence: As the repo's card names it, such as ``"apache-2.0"``.
        gated: Whether terms must be accepted on the Hub first.
        private: Whether only some accounts may read it.
        task: As the Hub calls it, such as ``"image-classification"``.
        library: Likewise, ``"timm"`` or ``"torchvision"``.

    What is not known is None.
    """

    id: str
    source: str
    downloads: int | None = None
    likes: int | None = None
    parameters: int | None = None
    bytes: int | None = None
    licence: str | None = None
    gated: bool = False
    private: bool = False
    task: str | None = None
    library: str | None = None


def read_hit(row: Mapping[str, Any]) -> ModelHit | None:
    """A repo as the Hub describes it; None if it is not for this package.

    The Hub's own fields are as they should be, but what comes out of cards is anybody's.
    """
    id, library, task = row.get("id"), row.get("library_name"), row.get("pipeline_tag")
    if library not in (None, "timm") or task not in _TASKS or row.get("disabled"):
        return None
    try:
        name = str(ModelId("hub", str(id)))
    except ModelNotFound:
        return None
    parameters, size = _weights(row.get("safetensors"))
    return ModelHit(
        id=name,
        source="hub",
        downloads=_number(row.get("downloads")),
        likes=_number(row.get("likes")),
        parameters=parameters,
        bytes=size,
        licence=_licence(row),
        gated=bool(row.get("gated")),
        private=bool(row.get("private")),
        task=task,
        library=library,
    )


def _weights(described: object) -> tuple[int | None, int | None]:
    """Parameters, and their bytes, out of what the Hub read in a safetensors file's header."""
    if not isinstance(described, Mapping):
        return None, None
    kinds = described.get("parameters")
    if not isinstance(kinds, Mapping) or not kinds:
        return _number(described.get("total")), None
    counts = {str(kind): _number(count) or 0 for kind, count in kinds.items()}
    sizes = [
        count * next((width for digits, width in _WIDTHS.items() if digits in kind), 1)
        for kind, count in counts.items()
    ]
    return _number(described.get("total")) or sum(counts.values()), sum(sizes)


def _licence(row: Mapping[str, Any]) -> str | None:
    card, tags = row.get("cardData"), row.get("tags")
    named = card.get("license") if isinstance(card, Mapping) else None
    if isinstance(named, str) and named:
        return clean_line(named, 60)
    marked = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    return next((clean_line(tag[8:], 60) for tag in marked if tag.startswith("license:")), None)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


_WHAT = "the list of models"
_EXPAND = (
    "downloads",
    "likes",
    "gated",
    "private",
    "disabled",
    "library_name",
    "pipeline_tag",
    "safetensors",
    "cardData",
    "tags",
)
_MOST_AT_ONCE = 4
"""Questions that may wait for the Hub at the same time."""

Hits = tuple[ModelHit, ...]


@dataclass(frozen=True)
class _Question:
    search: str
    author: str | None
    limit: int
    anonymous: bool


@dataclass
class _Pending:
    """A question that was put to the Hub."""

    done: threading.Event = field(default_factory=threading.Event)
    hits: Hits = ()
    error: CamHubError | None = None


class HubListing:
    """Asks the Hub for its timm models, and remembers for a while what it said.

    Meant to be asked at every few letters that somebody types. So a question that several ask is
    put once; after one that failed no other is put for some seconds; and nobody waits longer than
    told, even where looking up the Hub's name hangs. Answers to somebody's own token are neither
    remembered nor shared.

    Args:
        patience: Seconds that an answer may take.
        pause: Seconds without questions after a failure.
        keep_seconds: How long an answer is remembered.
        keep: How many are.
    """

    def __init__(
        self,
        *,
        patience: float = 3.0,
        pause: float = 15.0,
        keep_seconds: float = 300.0,
        keep: int = 256,
    ) -> None:
        self.patience = patience
        self.pause = pause
        self.keep_seconds = keep_seconds
        self.keep = keep
        self._lock = threading.Lock()
        self._known: OrderedDict[_Question, tuple[float, Hits]] = OrderedDict()
        self._pending: dict[_Question, _Pending] = {}
        self._asking = 0
        self._trouble: tuple[float, HubUnavailable] | None = None

    def find(
        self, search: str = "", *, author: str | None = None, limit: int = 20, token: Token = None
    ) -> Hits:
        """The timm models that the Hub has, those with the most downloads first.

        Args:
            search: What their IDs hold; empty for all.
            author: Whose repos; None for anybody's.
            limit: How many at most.
            token: Whose repos besides the public ones.

        Raises:
            HubUnavailable: If the Hub did not answer in time, or not as it should, or did not a
                moment ago.
            InvalidArgument: If the token cannot be one, or the Hub does not accept it.
        """
        check_token(token)
        question = _Question(search, author, limit, token is False)
        own = isinstance(token, str)
        with self._lock:
            if not own and (known := self._remembered(question)) is not None:
                return known
            if self._trouble is not None and time.monotonic() < self._trouble[0]:
                raise copy(self._trouble[1])
            pending = None if own else self._pending.get(question)
            if pending is None:
                pending = self._start(question, token, shared=not own)
        if not pending.done.wait(self.patience):
            error = HubUnavailable(_WHAT, f"no answer within {self.patience:g} seconds.")
            self._stumble(error)
            raise error
        if pending.error is not None:
            raise copy(pending.error)  # others may wait for the same answer
        return pending.hits

    def forget(self) -> None:
        """Forgets all answers and failures."""
        with self._lock:
            self._known.clear()
            self._trouble = None

    def _remembered(self, question: _Question) -> Hits | None:
        found = self._known.get(question)
        if found is None or time.monotonic() - found[0] > self.keep_seconds:
            return None
        self._known.move_to_end(question)
        return found[1]

    def _start(self, question: _Question, token: Token, *, shared: bool) -> _Pending:
        if self._asking >= _MOST_AT_ONCE:
            raise HubUnavailable(_WHAT, "too many searches are under way; try again.")
        pending = _Pending()
        self._asking += 1
        if shared:
            self._pending[question] = pending
        # A thread that does not hold up the end of the program.
        threading.Thread(
            target=self._work, args=(question, token, pending, shared), daemon=True
        ).start()
        return pending

    def _work(self, question: _Question, token: Token, pending: _Pending, shared: bool) -> None:
        try:
            pending.hits = _ask(question, token, self.patience)
        except HubUnavailable as error:
            pending.error = error
            self._stumble(error)
        except CamHubError as error:
            pending.error = error
        with self._lock:
            self._asking -= 1
            if shared:
                del self._pending[question]
            if pending.error is None:
                self._trouble = None
            if shared and pending.error is None:
                self._known[question] = (time.monotonic(), pending.hits)
                while len(self._known) > self.keep:
                    self._known.popitem(last=False)
        pending.done.set()

    def _stumble(self, error: HubUnavailable) -> None:
        with self._lock:
            self._trouble = (time.monotonic() + self.pause, error)


shared_listing = HubListing()
"""The one that all calls of this process share."""


def _ask(question: _Question, token: Token, patience: float) -> Hits:
    """Puts a question to the Hub.

    With the client's own session, but not through its ``list_models``: that takes no time-out, and
    tries for half a minute what is wanted at once or not at all.
    """
    wanted: dict[str, Any] = {
        "filter": "timm",
        "search": question.search or None,
        "author": question.author,
        "sort": "downloads",
        "limit": question.limit,
        "expand": list(_EXPAND),
    }
    try:
        response = get_session().get(
            f"{constants.ENDPOINT}/api/models",
            params={name: value for name, value in wanted.items() if value is not None},
            headers=build_hf_headers(token=token),
            timeout=patience,
        )
        hf_raise_for_status(response)
    except OfflineModeIsEnabled:
        raise HubUnavailable(_WHAT, "HF_HUB_OFFLINE is set.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403) and isinstance(token, str):
            expected = "one that the Hub accepts (it may have expired)"
            raise InvalidArgument("token", "(hidden)", expected) from None
        raise HubUnavailable(_WHAT, f"the Hub answered with status {status}.") from error
    except Exception as error:  # the session's own errors, of whichever library it is made of
        what = str(error) or type(error).__name__
        raise HubUnavailable(_WHAT, f"the Hub cannot be reached ({what}).") from error
    try:
        rows = response.json()
    except ValueError as error:
        raise HubUnavailable(_WHAT, "the Hub's answer is not JSON.") from error
    if not isinstance(rows, list):
        raise HubUnavailable(_WHAT, "the Hub's answer is not a list.")
    hits = (read_hit(row) for row in rows[: question.limit] if isinstance(row, Mapping))
    return tuple(hit for hit in hits if hit is not None)
