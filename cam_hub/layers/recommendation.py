"""The layout of each output, by measurement or by its shape, and the recommended layer."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from operator import itemgetter
from typing import NamedTuple

from torch import Tensor, nn

from cam_hub.hooks.memory import copies_at_once
from cam_hub.layers.correspondence import (
    CLEAR_HALVES,
    CLEAR_QUADRANTS,
    SELECTIVE,
    Match,
    quadrant_leads,
)
from cam_hub.layers.findings import Finding
from cam_hub.layers.layouts import Arrangement
from cam_hub.layers.model_runner import Run
from cam_hub.layers.reachability import Dependence, Dependences
from cam_hub.models.loaded_model import double_pair

__all__ = [
    "Reading",
    "Recommendation",
    "alternatives",
    "choose",
    "confirmed",
    "late_layers",
    "read_layouts",
    "unread_after",
]


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
            random weights may spread everything over all places.
        doubtful: Whether it is read as a sequence a stride coarser than a measured one. Latents
            may be of such a length by chance: ``recommendation.confirmed`` settles it.
    """

    arrangement: Arrangement
    match: Match
    measured: bool
    doubtful: bool = False


def read_layouts(findings: Mapping[str, Finding]) -> dict[str, Reading]:
    """Determines the layout of each output on the image.

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
    """The reading that continues what was measured, where nothing contradicts it."""
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


_TAIL = 0.1
"""The part of the leaves that may run after a layer of the end."""


def late_layers(findings: Mapping[str, Finding]) -> set[str]:
    """Names the layers after which at most a tenth of the leaf modules run.

    A leaf is a module that ran and of which no submodule ran. Those after the last one whose
    output has places (two dimensions besides the batch's that are longer than 1), which stand
    behind the pooling, do not count.

    Args:
        findings: From ``disturb``, in the order in which the layers finished.
    """
    leaves = _leaves_before_pooling(findings)
    counted, after = set(leaves), len(leaves)
    found = set()
    for name in findings:
        after -= name in counted
        if after <= _TAIL * len(leaves):
            found.add(name)
    return found


def unread_after(
    name: str, findings: Mapping[str, Finding], readable: Container[str]
) -> tuple[list[str], int]:
    """Looks whether a layer is the deepest only because most of what follows could not be read.

    Args:
        name: The layer.
        findings: From ``disturb``, in the order in which the layers finished.
        readable: The layers of which it is known how they lie on the image.

    Returns:
        The leaves after it that have places but could not be read, and how many leaves run after
        it before pooling. None are named where the layer stands at the end, or where most of what
        follows could be read (but is not asked for as a whole, or has no evidence).
    """
    if name in late_layers(findings):
        return [], 0
    order = {other: place for place, other in enumerate(findings)}
    after = [leaf for leaf in _leaves_before_pooling(findings) if order[leaf] > order[name]]
    unread = [leaf for leaf in after if leaf not in readable and _has_places(findings[leaf])]
    return (unread, len(after)) if 2 * len(unread) > len(after) else ([], len(after))


def _leaves_before_pooling(findings: Mapping[str, Finding]) -> list[str]:
    parents: set[str] = set()
    for name in findings:
        while name := name.rpartition(".")[0]:
            parents.add(name)
    leaves = [name for name in findings if name not in parents]
    while leaves and not _has_places(findings[leaves[-1]]):
        leaves.pop()
    return leaves


def _has_places(finding: Finding) -> bool:
    # The first dimension of what does not keep the images apart stands for the batch.
    shape = finding.shape or ()
    return sum(side > 1 for side in (shape if finding.batched else shape[1:])) >= 2


_WHOLE = 0.9
"""Scores depend on an output as a whole if this part of its channels, and of its cells, counts."""

_MANY = 1 / 3
"""Of a block that holds the chosen layer and has all its cells count, this many channels do."""

_FITS = ((_WHOLE, _WHOLE), (_MANY, _WHOLE), (_MANY, 1 / 4))
"""Parts of the channels and cells of an alternative that count at least, the best fit first. What
follows may read every second row and column only."""

_DEEP = 0.9
"""What was measured goes before what is read by its shape, if it lies behind this part of the
layers."""

_OWN, _OWN_OF_ALL = 0.1, 0.25
"""The least lead of a layer's own quadrants over the others, in an earlier layer, from which a
layer that is read by its shape is recommended; and that of every quadrant, from which a doubtful
reading holds."""

_LINKS = 8
"""From so many layers a way back to a measured one is looked for."""

_PARTS = 2
"""So many parts of a block are asked whether they stand beside another part."""


class Recommendation(NamedTuple):
    """The layer to explain.

    Attributes:
        name: Its name.
        branches: Where other branches of the network end, which do not pass through it (several
            streams, several scales); the last first.
        instead_of: The deepest layer, if it was passed over since it mixes the picture's quadrants.
    """

    name: str
    branches: tuple[str, ...]
    instead_of: str | None = None


def confirmed(readings: Mapping[str, Reading], reached: Dependences) -> dict[str, Reading]:
    """Drops the doubtful readings whose places do not depend on their own in measured layers.

    Those of one grid stand or fall together, with the last of them: residual connections lead from
    there through all of them, while keys and values beside them lead nowhere.

    Args:
        readings: How layers lie on the image.
        reached: The layers that scores depend on, with the graph still open.

    Returns:
        The readings that are left, in the same order.
    """
    last: dict[object, str] = {}
    for name, reading in readings.items():
        if reading.doubtful and name in reached:
            last[_tokens(reading)] = name
    confirmed_grids = {
        grid
        for grid, name in last.items()
        if _supported(name, readings, reached, every_quadrant=True)
    }
    return {
        name: reading
        for name, reading in readings.items()
        if not reading.doubtful or _tokens(reading) in confirmed_grids
    }


def _tokens(reading: Reading) -> object:
    """What doubtful readings of one kind share."""
    return replace(reading.arrangement, layout="", channels=0)


def recommend(
    order: Sequence[str],
    readings: Mapping[str, Reading],
    reached: Dependences,
    *,
    dense: bool = False,
) -> Recommendation | None:
    """Picks the deepest layer: the last to finish with positive evidence, and that as a whole.

    Where the scores depend on part of an output only (the last block of a class-token
    transformer, of which only the class token is asked for), an earlier output is the better
    choice. So it is where the output has no positive evidence for the predicted class, so that its
    map would be blank. A block goes before its own parts.

    Args:
        order: All layers that ran, in the order in which they finished.
        readings: How layers lie on the image.
        reached: The layers that scores depend on, with the graph still open.
        dense: Whether the model answers for every place. Then a layer whose channels are classes
            already is the answer itself, and explains nothing.

    Returns:
        None if there is no such layer.
    """
    usable = [name for name in order if name in readings and name in reached]
    if dense:
        usable = [name for name in usable if not _is_output(name, readings, reached)] or usable
    if not usable:
        return None
    deepest = _deepest(order, usable, readings, reached)
    name = _outermost(deepest, usable, readings, reached)
    source = _source(deepest, name, usable, readings, reached)
    if source is not None:
        name = _outermost(source, usable, readings, reached)
    return Recommendation(name, _other_ends(name, usable, readings, reached))


def _is_output(
    name: str, readings: Mapping[str, Reading], reached: Mapping[str, Dependence]
) -> bool:
    """Whether the channels of a layer are a dense model's answer: one class each, or one mask."""
    return reached[name].sorted or readings[name].arrangement.channels == 1


def alternatives(
    best: str,
    order: Sequence[str],
    readings: Mapping[str, Reading],
    reached: Mapping[str, Dependence],
    among: Container[str],
) -> list[str]:
    """Names what could be explained in place of the deepest layer.

    Args:
        best: The deepest layer.
        order: All layers that ran, in the order in which they finished.
        readings: How layers lie on the image.
        reached: The layers that scores depend on.
        among: The layers that are deep enough.

    Returns:
        Layers before it that are measured and have positive evidence, the first choice first: those
        that scores depend on as a whole, from the last to the first; then, in the same order, those
        with some dead channels, and those of which only every second row and column counts.
    """
    found: list[tuple[int, str]] = []
    for name in reversed(order[: order.index(best)]):
        if name not in among or name not in readings or name not in reached:
            continue
        counts = reached[name]
        if readings[name].measured and counts.has_positive_evidence and not counts.sorted:
            fit = (
                counts.channels >= channels and counts.cells >= cells for channels, cells in _FITS
            )
            found += [(place, name) for place, fits in enumerate(fit) if fits][:1]
    return [name for _, name in sorted(found, key=itemgetter(0))]


def _deepest(
    order: Sequence[str], usable: list[str], readings: Mapping[str, Reading], reached: Dependences
) -> str:
    whole = [name for name in usable if min(reached[name].channels, reached[name].cells) >= _WHOLE]
    supporting = [name for name in whole if reached[name].has_positive_evidence]
    found = supporting or whole or usable
    measured = [name for name in found if readings[name].measured]
    place = {name: index for index, name in enumerate(order)}
    if not measured:
        return found[-1]
    near = place[measured[-1]] >= _DEEP * place[found[-1]]
    return measured[-1] if near or not _supported(found[-1], readings, reached) else found[-1]


def _supported(
    name: str,
    readings: Mapping[str, Reading],
    reached: Dependences,
    *,
    every_quadrant: bool = False,
) -> bool:
    """Whether a layer that is read by its shape lies on the image as measured ones before it do.

    It need not depend on a measured one directly: each may lie as another one before it does.
    """
    waiting, seen = [name], {name}
    min_lead = _OWN_OF_ALL if every_quadrant else _OWN
    for _ in range(_LINKS):
        if not waiting:
            return False
        leads = reached.quadrant_leads(waiting.pop(), every=every_quadrant)
        alike = [other for other in readings if leads.get(other, 0.0) >= min_lead]
        if any(readings[other].measured for other in alike):
            return True
        # The earliest one leads furthest back.
        waiting += [other for other in reversed(alike) if other not in seen]
        seen.update(alike)
    return False


def _source(
    name: str,
    block: str,
    usable: list[str],
    readings: Mapping[str, Reading],
    reached: Dependences,
) -> str | None:
    """The layer that queries, keys and values are made of, if the given one is one of them.

    In a class-token transformer the last block's values are the last to count as a whole, but the
    keys beside them count as well: a map of the values alone would leave them out. Where all are
    one layer, it does not count as a whole, and the norm before it is explained; so is it here.
    The same goes for adapters (LoRA), which stand beside the layer that they adapt.

    Args:
        name: The deepest layer.
        block: The block that it stands for.
        usable: All usable layers, in order.
        readings: How layers lie on the image.
        reached: The layers that scores depend on.

    Returns:
        None if nothing stands beside the layer, or nothing with positive evidence feeds them all.
    """
    if block != name and reached[block].channels >= _WHOLE:
        return None
    around = [other for other in readings if name.startswith(f"{other}.")]
    if around and all(other in reached and _counts_as_whole(reached[other]) for other in around):
        return None  # what follows counts, too, without positive evidence: no part is left out
    grid = readings[name].arrangement.grid
    place = usable.index(name)

    def counts_beside(other: str) -> bool:
        counts = reached[other]
        return (
            _in_one_block(name, other)
            and readings[other].arrangement.grid == grid
            and counts.cells >= _WHOLE
            and counts.channels >= _MANY
        )

    beside = [other for other in usable[:place] if counts_beside(other)]
    beside = [other for other in beside if other not in reached.feeding(name)]
    common: set[str] = set()
    if beside:
        common = reached.feeding(name) & reached.feeding(beside[0])
    elif reached[block].channels < _WHOLE:
        # Part of a block that does not count as a whole: look at its other parts.
        inside = [other for other in usable[place + 1 :] if other.startswith(f"{block}.")]
        for other in [other for other in inside if counts_beside(other)][:_PARTS]:
            others_feeding = reached.feeding(other)
            if name not in others_feeding:
                common = reached.feeding(name) & others_feeding
                break
    sources = [
        other
        for other in usable[:place]
        if other in common
        and readings[other].arrangement.grid == grid
        and readings[other].measured >= readings[name].measured
        and reached[other].has_positive_evidence
        and min(reached[other].channels, reached[other].cells) >= _WHOLE
    ]
    return sources[-1] if sources else None


def _counts_as_whole(counts: Dependence) -> bool:
    return min(counts.channels, counts.cells) >= _WHOLE


def _in_one_block(name: str, other: str) -> bool:
    """Whether two layers are parts of one block, neither of the other, and no items of a list."""
    parts = list(zip(name.split("."), other.split("."), strict=False))
    shared = next((place for place, (one, two) in enumerate(parts) if one != two), len(parts))
    return 0 < shared < len(parts) and not any(part.isdigit() for part in parts[shared])


def _outermost(
    name: str, usable: list[str], readings: Mapping[str, Reading], reached: Dependences
) -> str:
    """The outermost block that ends with the layer and has positive evidence, or the layer itself.

    Some of its channels may be dead to what follows (a ReLU behind a normalisation whose weights
    have not been trained).
    """
    blocks = [
        other
        for other in usable
        if name.startswith(f"{other}.")
        and readings[other].measured >= readings[name].measured
        and reached[other].has_positive_evidence
        and reached[other].cells >= _WHOLE
        and reached[other].channels >= _MANY
    ]
    return min(blocks, key=len, default=name)


def _other_ends(
    name: str, usable: list[str], readings: Mapping[str, Reading], reached: Dependences
) -> tuple[str, ...]:
    """The last whole layer of each grid, among those that the layer itself does not depend on."""
    feeding = reached.feeding(name)
    ends: dict[tuple[int, int], str] = {}
    for other in usable[: usable.index(name)]:
        # Queries, keys and values stand side by side without being branches.
        sibling = other.rpartition(".")[0] == name.rpartition(".")[0] != ""
        aside = readings[other].measured and other not in feeding and not sibling
        if aside and reached[other].has_positive_evidence and reached[other].cells >= _WHOLE:
            ends[readings[other].arrangement.grid] = other
    return tuple(reversed(ends.values()))


_MIN_LEAD = 0.05
"""The minimum lead of the quadrants of a layer that replaces the deepest one."""


def choose(
    module: nn.Module,
    clean: Tensor,
    run: Run,
    findings: Mapping[str, Finding],
    readings: Mapping[str, Reading],
    reached: Dependences,
    *,
    dense: bool = False,
) -> Recommendation | None:
    """Picks the deepest layer, or a late one that does not mix the picture's quadrants as it does.

    Where the bands leave no doubt that the deepest layer keeps them apart, no further pass is made.

    Args:
        module: The model.
        clean: The input that it was disturbed from.
        run: How to run it on a batch.
        findings: From ``disturb``.
        readings: How layers lie on the image.
        reached: The layers that scores depend on, with the graph still open.
        dense: Whether the model answers for every place.

    Returns:
        None if no layer can be explained.
    """
    best = recommend(list(findings), readings, reached, dense=dense)
    if best is None or readings[best.name].match.halves >= CLEAR_HALVES:
        return best
    late = late_layers(findings)
    others = alternatives(best.name, list(findings), readings, reached, late)
    if not others:
        return best
    if findings[best.name].below_precision:
        module, clean = double_pair(module, clean) or (module, clean)
    separating = _separating(module, clean, run, best.name, others, findings, readings)
    if not separating:
        return best
    name, usable = separating[0], [other for other in readings if other in reached]
    return Recommendation(name, _other_ends(name, usable, readings, reached), best.name)


def _separating(
    module: nn.Module,
    clean: Tensor,
    run: Run,
    best: str,
    others: Sequence[str],
    findings: Mapping[str, Finding],
    readings: Mapping[str, Reading],
) -> list[str]:
    """Which of the others keep the quadrants apart; none if the best layer does, too."""
    names = (best, *others)
    layers = {name: (findings[name].shape or (), readings[name].arrangement) for name in names}
    largest = max(prod(finding.shape or ()) for finding in findings.values())
    at_once = copies_at_once(largest * clean.element_size(), clean.device)
    rounds = quadrant_leads(module, clean, run, layers, at_once=at_once)
    for number, leads in enumerate(rounds, start=1):
        others = [name for name in others if leads[name] > 0]
        if not others or leads[best] >= CLEAR_QUADRANTS / number:
            return []
    # A lead may be NaN, which fulfils neither condition.
    return [] if leads[best] > 0 else [name for name in others if leads[name] >= _MIN_LEAD]
