"""Text of unknown origin, made safe to print, to save and to send.

Labels, names and messages come from repos, image files and the networks of others. They may hold
control characters, which a terminal obeys; characters that reverse the direction of the text
around them; and halves of UTF-16 pairs, which no encoder accepts.
"""

from __future__ import annotations

import re

__all__ = ["clean_line", "clean_text", "counted", "first_line", "shortened"]

_SPACE = re.compile(r"[\t\n\x0b\x0c\r\x1c-\x1f\x85\u2028\u2029]+")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufff9-\ufffb]")
_DIRECTION = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean_line(text: object, limit: int | None = None) -> str:
    """Makes one line of text safe.

    Args:
        text: The text, or something whose ``str`` is meant.
        limit: Maximum length in characters; None for any.

    Returns:
        The text with single spaces for white space, U+FFFD for each control character and lone
        surrogate, without characters of direction, and with "…" where it was cut. In clean text,
        only white space changes.
    """
    line = " ".join(_clean(_SPACE.sub(" ", str(text))).split())
    return line if limit is None else shortened(line, limit)


def clean_text(text: str) -> str:
    """Makes text of several lines safe: as ``clean_line``, with tabs, line ends and spaces kept."""
    return "\n".join(
        "\t".join(_clean(_SPACE.sub(" ", part)) for part in line.split("\t"))
        for line in text.split("\n")
    )


def counted(count: int, noun: str) -> str:
    """A number and what it counts: "1 image", "1,200 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shortened(text: str, limit: int) -> str:
    """A text of at most ``limit`` characters, with "…" where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _clean(text: str) -> str:
    return _DIRECTION.sub("", _UNPRINTABLE.sub(_REPLACEMENT, text))
