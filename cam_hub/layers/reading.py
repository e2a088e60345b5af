"""From the experiment's findings to how each output is read, by measurement or by its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cam_hub.layers.correspondence import SELECTIVE, Match
from cam_hub.layers.layouts import Arrangement
from cam_hub.layers.probe import Finding

__all__ = ["Reading", "read"]

_LEANING = 0.5
"""Correlation from which an output whose shape shows rows and columns is taken by its shape."""

_STRIDES = (1, 2, 4)
"""By how much a grid may be coarser than one that was measured, to be its successor."""


@dataclass(frozen=True)
class Reading:
    """How an output lies on the image.

    Attributes:
        arrangement: The layout with its numbers.
        match: How well the output follows the image under it.
        measured: True if the experiment shows it. False if its cells answer to all disturbances
            alike, and it is read as the measured outputs of the same network are: networks with
            random weights may tell all places of everything.
        doubtful: Whether it is read as a sequence a stride coarser than a measured one. Latents
            may be of such a length by chance: ``recommendation.confirmed`` settles it.
    """

    arrangement: Arrangement
    match: Match
    measured: bool
    doubtful: bool = False


def read(findings: Mapping[str, Finding]) -> dict[str, Reading]:
    """Settles how outputs lie on the image.

    Args:
        findings: From ``disturb``.

    Returns:
        One reading per output that does, in the same order.
    """
    measured = {
        reading: None
        for finding in findings.values()
        if finding.spatial and (reading := finding.arrangement) is not None
    }
    found = {}
    for name, finding in findings.items():
        if finding.spatial and finding.arrangement is not None:
            found[name] = Reading(finding.arrangement, finding.match, measured=True)
        elif (assumed := _by_shape(finding, list(measured))) is not None:
            found[name] = assumed
    return found


def _by_shape(finding: Finding, measured: list[Arrangement]) -> Reading | None:
    """The reading that continues what was measured, where nothing speaks against it."""
    if not finding.moved:
        return None
    fitting = [
        (_stride(reading, measured), reading, match)
        for reading, match in finding.readings
        if match.selectivity < SELECTIVE or (reading.explicit and match.correlation >= _LEANING)
    ]
    fitting = [choice for choice in fitting if choice[0]]
    if not fitting:
        return None
    # Of several, the one that differs least from what was measured; then the finest.
    stride, reading, match = min(fitting, key=lambda choice: (choice[0], -choice[1].cells))
    doubtful = stride > 1 and not reading.explicit
    return Reading(reading, match, measured=False, doubtful=doubtful)


def _stride(reading: Arrangement, measured: list[Arrangement]) -> int:
    """By how much it is coarser than a measured grid; 0 if than none.

    A sequence must have the extra tokens of a measured one, and its grid or one that is a stride
    coarser: hidden units, latents and merged tokens are as long as they like.
    """
    sequences = [known for known in measured if not known.explicit]
    if reading.explicit:
        alike = [known for known in measured if known.explicit and known.layout == reading.layout]
        before = alike or sequences
    else:
        before = [known for known in sequences if _extra(known) == _extra(reading)]
    for stride in _STRIDES:
        for known in before:
            coarser = tuple(-(-side // stride) for side in known.grid)
            # Time is never coarser in a sequence of the same grid: that is another sequence.
            exact = stride == 1 and not reading.explicit
            fits = reading.frames == known.frames if exact else reading.frames <= known.frames
            if coarser == reading.grid and fits:
                return stride
    return 0


def _extra(reading: Arrangement) -> tuple[int, int]:
    return reading.prefix_tokens, reading.suffix_tokens
