"""Numbers and tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bench.engine.timing import Spread

__all__ = ["head", "least", "most", "row", "span"]


def span(spread: Spread | None, factor: float = 1.0) -> str:
    """Median, minimum and maximum, times a factor."""
    if spread is None:
        return "–"
    digits = 1 if factor > 1 else 2
    middle, low, high = (
        f"{number * factor:.{digits}f}" for number in (spread.median, spread.least, spread.most)
    )
    return f"{middle} ({low}–{high})"


def least(words: Sequence[str]) -> str:
    """The text that begins with the smallest number."""
    return min(words, key=_number)


def most(words: Sequence[str]) -> str:
    """The text that begins with the largest number, or with none."""
    return max(words, key=_number)


def _number(words: str) -> float:
    try:
        return float(words.split(maxsplit=1)[0])
    except ValueError:
        return float("inf")


def head(names: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [row(names), row(["---"] * len(names))]


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
