"""``/search``: models by words of their IDs, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from typing import TypedDict

import gradio as gr
from gradio.events import api

from cam_hub.sources.registry import ModelHit, find_models
from space.api.endpoint import document
from space.config.settings import SEARCHING
from space.service.errors import readable, searching_as

__all__ = ["HitRow", "add_search_endpoint", "search"]


class HitRow(TypedDict):
    """One model: the facts of ``cam_hub.ModelHit``."""

    id: str
    source: str
    downloads: int | None
    likes: int | None
    parameters: int | None
    bytes: int | None
    licence: str | None
    gated: bool
    private: bool
    task: str | None
    library: str | None


_INPUTS = {
    "query": "words, all of which must stand in the ID; an ID, or a repo's URL; empty: the most "
    "downloaded models",
    "limit": "how many models at most, 1 to 100",
}

_OUTPUTS = {
    "models": "one row per model, best first; source: hub, timm or torchvision; bytes: of the "
    "weights; gated: terms must be accepted on the Hub first; null: not known",
}


def search(query: str = "", limit: int = 20, visitor: gr.OAuthToken | None = None) -> list[HitRow]:
    """Finds image models on the Hub, in timm and in torchvision by words of their IDs.

    Args:
        query: Words, an ID or a URL.
        limit: How many models at most.
        visitor: Access token, so that private models are found, too; Gradio hands it over.

    Returns:
        One row per model, best first.
    """
    with readable(as_html=False):
        found = find_models(query, limit=limit, token=searching_as(visitor))
        return [_row(hit) for hit in found.hits]


def add_search_endpoint() -> None:
    """Adds ``/search`` to the app that is being built, with names and words for its values."""
    document(api(search, api_name="search", **SEARCHING), _INPUTS, _OUTPUTS)


def _row(hit: ModelHit) -> HitRow:
    return HitRow(
        id=hit.id,
        source=hit.source,
        downloads=hit.downloads,
        likes=hit.likes,
        parameters=hit.parameters,
        bytes=hit.bytes,
        licence=hit.licence,
        gated=hit.gated,
        private=hit.private,
        task=hit.task,
        library=hit.library,
    )
