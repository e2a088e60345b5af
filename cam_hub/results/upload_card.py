"""The card of a dataset repo of explanations: its pictures, the newest first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import DatasetCardData

from cam_hub._text import clean_line

__all__ = ["NEWEST", "put_into_card", "section"]

NEWEST = 50
"""How many explanations a card shows; older ones stay in the repo."""

_BEGIN = "<!-- cam_hub: explanations, newest first; written anew with each one that is saved -->"
_END = "<!-- cam_hub: end of the explanations -->"
_ENTRY = "<!-- cam_hub: entry -->"

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+.!|~$:-])")


def section(manifest: Mapping[str, Any], path: str, files: Iterable[str]) -> str:
    """What a card says of one explanation, in Markdown.

    Args:
        manifest: Its manifest. Names in it may come from strangers and stay plain text.
        path: Of its folder, from where the card is; empty for the card's own folder.
        files: Names of the files in the folder.
    """
    prefix = f"{path}/" if path else ""
    model, present = manifest["model"], set(files)
    pictures = [("photo", "photo.png")]
    for entry in manifest["classes"]:
        index = entry["class_index"]
        name = _plain(entry["label"] or f"class {index}")
        drawn = {f"overlay-{index}.png", f"animation-{index}.gif"} & present
        pictures += [(name, file) for file in sorted(drawn, reverse=True)]
    labels = ", ".join(_plain(e["label"] or e["class_index"]) for e in manifest["classes"])
    facts = [
        f"model: {_plain(model['id'])}",
        f"revision: {_plain(model['revision'] or 'none')}",
        f"method: {_plain(manifest['method'])}",
        f"layers: {', '.join(map(_plain, manifest['layers']))}",
    ]
    return "\n".join(
        [
            f"## {labels}",
            "",
            *(f"- {fact}" for fact in facts),
            f"- [all that is needed to make it again]({prefix}manifest.json)",
            "",
            f"| {' | '.join(name for name, _ in pictures)} |",
            f"|{' --- |' * len(pictures)}",
            f"| {' | '.join(f'![{name}]({prefix}{file})' for name, file in pictures)} |",
            "",
        ]
    )


def put_into_card(card: str | None, entry: str) -> str | None:
    """A card with one more explanation in it.

    Args:
        card: The repo's present card, or None if it has none.
        entry: The explanation's ``section``.

    Returns:
        The new card. Of a card of ours only the list of explanations changes; one that somebody
        wrote without that list is left alone: then None.
    """
    if card is None:
        card = _new_card()
    head, begin, rest = card.partition(_BEGIN)
    entries, end, tail = rest.partition(_END)
    if not begin or not end:
        return None
    known = [found.strip() for found in entries.split(_ENTRY) if found.strip()]
    kept = list(dict.fromkeys([entry.strip(), *known]))[:NEWEST]
    listed = "\n\n".join(f"{_ENTRY}\n{found}" for found in kept)
    return f"{head}{_BEGIN}\n{listed}\n{_END}{tail}"


def _new_card() -> str:
    data = DatasetCardData(
        pretty_name="Explanations of image classifiers",
        tags=["cam_hub", "class-activation-map", "explainability"],
        task_categories=["image-classification"],
    )
    return (
        f"---\n{data.to_yaml()}\n---\n\n# Which pixels spoke for which class\n\n"
        "Class activation maps that cam_hub made. Each folder holds the photo, overlays, the maps "
        "as NPY, and a manifest; `cam_hub.Explanation.load` reads it once it is downloaded.\n\n"
        f"{_BEGIN}\n{_END}\n"
    )


def _plain(text: object) -> str:
    """A text in Markdown that shows as it is, on one line, whatever is in it."""
    line = clean_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)
