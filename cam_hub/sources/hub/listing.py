"""The search for models on the Hub, by words of their IDs."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass
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
"""The task labels of repos whose models can be explained; many repos have none."""

_WIDTHS = {"64": 8, "32": 4, "16": 2, "8": 1}
"""Byte width by the digits in safetensors' names of types (F32, BF16, I8)."""


@dataclass(frozen=True)
class ModelHit:
    """A model found by a search.

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
        library: The library of the repo, ``"timm"`` or ``"torchvision"``.

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
    """A repo in the Hub's list; None if this package cannot explain its model.

    The Hub's own fields have the right types. Those from cards are of unknown origin.
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
    """Parameters and their bytes, from the Hub's summary of safetensors headers."""
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


_LIST = "the list of models"
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
_MAX_REQUESTS = 4
"""Maximum number of concurrent requests."""

Hits = tuple[ModelHit, ...]


@dataclass(frozen=True)
class _Query:
    search: str
    author: str | None
    limit: int
    anonymous: bool


class HubListing:
    """The Hub's list of timm models, cached for a while.

    It serves requests at every few keystrokes: equal requests are sent once; after a failure, none
    is sent for some seconds; and a request never takes longer than its time-out, even if resolving
    the host name hangs. Responses to a caller's own token are neither cached nor shared.

    Args:
        patience: The time-out in seconds.
        pause: Seconds without requests after a failure.
        keep_seconds: How long a response is cached, in seconds.
        keep: Maximum number of cached responses.
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
        self._responses: OrderedDict[_Query, tuple[float, Hits]] = OrderedDict()
        self._pending: dict[_Query, Future[Hits]] = {}
        self._active = 0
        self._failure: tuple[float, HubUnavailable] | None = None

    def find(
        self, search: str = "", *, author: str | None = None, limit: int = 20, token: Token = None
    ) -> Hits:
        """The Hub's timm models, those with the most downloads first.

        Args:
            search: A part of their IDs; empty for all.
            author: The owner of the repos; None for all owners.
            limit: Maximum number of models.
            token: The access token, for private repos.

        Raises:
            HubUnavailable: If the Hub does not respond in time or as it should, or did not a moment
                ago.
            InvalidArgument: If the token is malformed, or the Hub does not accept it.
        """
        check_token(token)
        query = _Query(search, author, limit, token is False)
        own = isinstance(token, str)
        with self._lock:
            if not own and (known := self._cached(query)) is not None:
                return known
            if self._failure is not None and time.monotonic() < self._failure[0]:
                raise copy(self._failure[1])
            pending = None if own else self._pending.get(query)
            if pending is None:
                pending = self._start(query, token, shared=not own)
        try:
            return pending.result(self.patience)
        except TimeoutError:
            error = HubUnavailable(_LIST, f"no answer within {self.patience:g} seconds.")
            self._record_failure(error)
            raise error from None
        except CamHubError as shared:
            raise copy(shared) from None  # other threads may wait for the same response

    def forget(self) -> None:
        """Clears the cache and the record of the last failure."""
        with self._lock:
            self._responses.clear()
            self._failure = None

    def _cached(self, query: _Query) -> Hits | None:
        found = self._responses.get(query)
        if found is None or time.monotonic() - found[0] > self.keep_seconds:
            return None
        self._responses.move_to_end(query)
        return found[1]

    def _start(self, query: _Query, token: Token, *, shared: bool) -> Future[Hits]:
        if self._active >= _MAX_REQUESTS:
            raise HubUnavailable(_LIST, "too many searches are under way; try again.")
        pending: Future[Hits] = Future()
        self._active += 1
        if shared:
            self._pending[query] = pending
        # A daemon thread does not delay the exit of the process.
        threading.Thread(
            target=self._work, args=(query, token, pending, shared), daemon=True
        ).start()
        return pending

    def _work(self, query: _Query, token: Token, pending: Future[Hits], shared: bool) -> None:
        hits: Hits | None = None
        try:
            hits = _ask(query, token, self.patience)
        except CamHubError as error:
            if isinstance(error, HubUnavailable):
                self._record_failure(error)
            pending.set_exception(error)
        with self._lock:
            self._active -= 1
            if shared:
                del self._pending[query]
            if hits is None:
                return
            self._failure = None
            if shared:
                self._responses[query] = (time.monotonic(), hits)
                while len(self._responses) > self.keep:
                    self._responses.popitem(last=False)
        pending.set_result(hits)

    def _record_failure(self, error: HubUnavailable) -> None:
        with self._lock:
            self._failure = (time.monotonic() + self.pause, error)


shared_listing = HubListing()
"""The listing that all calls in this process share."""


def _ask(query: _Query, token: Token, patience: float) -> Hits:
    """Sends a request to the Hub.

    It uses the client's session but not ``list_models``, which has no time-out and retries for half
    a minute.
    """
    parameters: dict[str, Any] = {
        "filter": "timm",
        "search": query.search or None,
        "author": query.author,
        "sort": "downloads",
        "limit": query.limit,
        "expand": list(_EXPAND),
    }
    try:
        response = get_session().get(
            f"{constants.ENDPOINT}/api/models",
            params={name: value for name, value in parameters.items() if value is not None},
            headers=build_hf_headers(token=token),
            timeout=patience,
        )
        hf_raise_for_status(response)
    except OfflineModeIsEnabled:
        raise HubUnavailable(_LIST, "HF_HUB_OFFLINE is set.") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403) and isinstance(token, str):
            expected = "one that the Hub accepts (it may have expired)"
            raise InvalidArgument("token", "(hidden)", expected) from None
        raise HubUnavailable(_LIST, f"the Hub answered with status {status}.") from error
    except Exception as error:  # errors of the session's HTTP library
        what = str(error) or type(error).__name__
        raise HubUnavailable(_LIST, f"the Hub cannot be reached ({what}).") from error
    try:
        rows = response.json()
    except ValueError as error:
        raise HubUnavailable(_LIST, "the Hub's answer is not JSON.") from error
    if not isinstance(rows, list):
        raise HubUnavailable(_LIST, "the Hub's answer is not a list.")
    hits = (read_hit(row) for row in rows[: query.limit] if isinstance(row, Mapping))
    return tuple(hit for hit in hits if hit is not None)
