"""``/search``: models by words of their IDs, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from typing import Any, TypedDict

from cam_hub.sources.registry import find_models
from space.api.endpoint import Parameter, add_documented, row_of
from space.config.settings import SEARCHING, Settings
from space.service.errors import readable

__all__ = ["add_search_endpoint"]


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


_PARAMETERS = {
    "query": Parameter(
        str,
        "words, all of which must stand in the ID; an ID, or a repo's URL; empty: the most "
        "downloaded models",
        "",
    ),
    "limit": Parameter(int, "how many models at most, 1 to 100", 20),
}

_OUTPUTS = {
    "models": "one row per model, best first; source: hub, timm or torchvision; bytes: of the "
    "weights; gated: terms must be accepted on the Hub first; null: not known",
}


def add_search_endpoint(settings: Settings) -> None:
    """Adds ``/search`` to the app that is being built."""

    def search(values: dict[str, Any], visitor: str | None) -> list[HitRow]:
        """Finds image models on the Hub, in timm and in torchvision by words of their IDs."""
        with readable(as_html=False):
            # Not by this machine's own token, which must not open models to visitors.
            found = find_models(values["query"], limit=values["limit"], token=visitor or False)
            return [row_of(HitRow, hit) for hit in found.hits]

    add_documented(settings, "search", search, _PARAMETERS, _OUTPUTS, **SEARCHING)
