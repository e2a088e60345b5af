"""Object detectors: boxes and their scores."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cam_hub.errors import InvalidArgument, NoMap
from cam_hub.options import OutputChoice
from cam_hub.targets.base import (
    ClassScores,
    Reference,
    Target,
    Task,
    WholeOutput,
    are_detections,
    unexpected,
)
from cam_hub.targets.region import Region

__all__ = [
    "THRESHOLD",
    "Detected",
    "Detection",
]


THRESHOLD = "score_thresh"
"""The attribute in which torchvision's detectors keep the score below which they drop a box."""


def run_leniently(
    module: nn.Module, images: list[Tensor], *strict: type[nn.Module]
) -> tuple[Any, float]:
    """Calls a detector with its score thresholds at 0, without writing to it.

    Other threads may be calling the same module, so the parts that hold a threshold, and
    the modules that contain them, are replaced by shallow copies. Everything else, hooks too, is
    shared.

    Args:
        module: The detector.
        images: ``(channels, rows, cols)`` each.
        *strict: Parts that keep their threshold.

    Returns:
        The output of the detector, and the highest threshold that was set to 0.
    """
    found: list[float] = []
    view = _lenient(module, strict, found)
    return view(images), max(found, default=0.0)


def _lenient(
    module: nn.Module, strict: tuple[type[nn.Module], ...], found: list[float]
) -> nn.Module:
    changed: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        view = _lenient(child, strict, found)
        if view is not child:
            changed[name] = view
    own = getattr(module, THRESHOLD, None)
    lower = isinstance(own, (int, float)) and not isinstance(module, strict)
    if not changed and not lower:
        return module
    view = copy.copy(module)
    # The copy shares its dictionaries with the original.
    view.__dict__["_modules"] = {**module._modules, **changed}
    if lower:
        found.append(float(own))  # type: ignore[arg-type]
        setattr(view, THRESHOLD, 0.0)
    return view


@dataclass(frozen=True)
class Detected:
    """What a detector has found.

    Attributes:
        images: Per image ``boxes`` ``(B, 4)`` in input pixels, ``labels`` ``(B,)`` and ``scores``
            ``(B,)``, also of boxes that the detector itself would drop.
        threshold: The score below which it would drop them.
    """

    images: Sequence[Mapping[str, Tensor]]
    threshold: float


@dataclass(frozen=True)
class Detection(Task):
    """The score of the best box of a class.

    In the clean image that is the box of the highest score, times its overlap (intersection over
    union) with the region that is asked about, if any. Noisy copies follow it: their score is the
    highest of a box of that class, times its overlap with the clean image's box. Overlaps are
    weights, and not differentiated: what is explained is the class, not the place.

    Attributes:
        num_classes: How many classes there are, the background included; None if not known.
    """

    name: ClassVar[str] = "detection"
    scattered: ClassVar[bool] = True
    saturating: ClassVar[bool] = True
    takes_region: ClassVar[bool] = True
    num_classes: int | None = None

    @classmethod
    def make(cls, class_names: Sequence[str] | None) -> Detection:
        """The task for a model of these classes."""
        return cls(len(class_names) if class_names else None)

    def run(self, module: nn.Module, batch: Tensor) -> Any:
        """Calls the network so that it returns the boxes whatever their score, as ``Detected``.

        Copies follow a box below the threshold, too, and a class score has a gradient however low
        it is. The first stage of detectors in two stages proposes what it would propose anyway;
        only where it proposes nothing for an image is it asked again for all that it has.
        """
        from torchvision.models.detection.rpn import RegionProposalNetwork  # noqa: PLC0415

        output, threshold = run_leniently(module, list(batch), RegionProposalNetwork)
        if are_detections(output) and any(len(found["scores"]) == 0 for found in output):
            output, _ = run_leniently(module, list(batch))
        found = Detected(output, threshold) if are_detections(output) else output
        return WholeOutput(output, found, len(batch)) if self.whole else found

    def read_from(
        self,
        module: nn.Module,
        inputs: Iterator[Tensor],
        *,
        choice: OutputChoice = None,
        labels: int | None = None,
    ) -> Detection:
        """The task itself.

        Raises:
            InvalidArgument: If an output was chosen.
        """
        del module, inputs, labels
        if choice is not None:
            expected = "None, since a detection model returns boxes with classes and scores"
            raise InvalidArgument("output", choice, expected)
        return self

    def split(self, output: Any, counts: Sequence[int]) -> list[Any]:
        """Takes what was found apart by images.

        Raises:
            ModelRefused: If the output does not hold one answer per image.
        """
        if not isinstance(output, Detected) or len(output.images) != sum(counts):
            return super().split(output, counts)
        starts = accumulate(counts, initial=0)
        return [
            Detected(output.images[start : start + count], output.threshold)
            for start, count in zip(starts, counts, strict=False)
        ]

    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The best box per class.

        Raises:
            InvalidArgument: If the region is a mask.
        """
        del reference
        if region is not None and region.mask is not None:
            raise InvalidArgument("region", "a mask", "a box, since detected boxes are compared")
        return _BoxScores(self.num_classes, region)


@dataclass
class _Fixed:
    """What the clean image has settled."""

    num_classes: int
    threshold: float
    boxes: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    ranks: dict[int, float] = field(default_factory=dict)
    explained: tuple[int, ...] = ()


class _BoxScores(Target):
    def __init__(self, num_classes: int | None, region: Region | None) -> None:
        self._num_classes = num_classes
        self._region = region
        self._fixed: _Fixed | None = None

    def scores(self, output: Any) -> Tensor:
        """``(N, K)``; 0 for a class of which an image has no (overlapping) box."""
        if not isinstance(output, Detected):
            raise unexpected(
                "detection", output, "a list with one dictionary of boxes, labels, scores per image"
            )
        if self._fixed is None:
            self._fixed = self._settle(output)
            first = self._clean(output.images[0], self._fixed)
            rest = [self._followed(found, self._fixed) for found in output.images[1:]]
            return torch.stack([first, *rest])
        return torch.stack([self._followed(found, self._fixed) for found in output.images])

    def class_scores(self, output: Any) -> ClassScores:
        """By score, times the overlap with the region; what the detector drops does not count."""
        del output
        fixed = self._settled()
        ranking, probabilities = torch.zeros((2, fixed.num_classes), dtype=torch.float64)
        for index, rank in fixed.ranks.items():
            if rank > 0 and fixed.scores[index] >= fixed.threshold:
                ranking[index], probabilities[index] = rank, min(fixed.scores[index], 1.0)
        return ClassScores(ranking, probabilities, ranking > 0)

    def check(self, classes: Sequence[int]) -> None:
        """Makes sure that each class was detected, those that were named at whatever score."""
        fixed = self._settled()
        if not classes:
            near = "" if self._whole else " that overlaps the region"
            best = max(fixed.scores.values(), default=0.0)
            raise NoMap(
                f"nothing was detected{near} (the best score anywhere is {best:.3f}, the model's "
                f"threshold {fixed.threshold:g}); try another photo or region, or name a class"
            )
        for index in classes:
            if fixed.ranks.get(index, 0.0) <= 0:
                ranked = sorted(fixed.ranks.items(), key=lambda entry: -entry[1])[:5]
                found = [label for label, rank in ranked if rank > 0]
                where = "" if self._whole else " overlapping the region"
                raise NoMap(
                    f"no box of class {index} was found{where}; the best found classes are "
                    f"{', '.join(map(str, found)) or 'none'}"
                )
        fixed.explained = tuple(classes)

    def describe(self) -> dict[str, Any]:
        """The region as given, and the explained box of each class in photo pixels."""
        boxes = self._fixed.boxes if self._fixed else {}
        explained = self._fixed.explained if self._fixed else ()
        asked = "" if self._whole else ", times its overlap with the region"
        return {
            "task": "detection",
            "text": f"score of the detected box of the highest score{asked}",
            "probabilities": "scores of the boxes",
            "region": self._region.describe() if self._region else None,
            "boxes": {str(index): self._on_photo(boxes[index]) for index in explained},
        }

    @property
    def _whole(self) -> bool:
        return self._region is None or self._region.whole

    def _settled(self) -> _Fixed:
        if self._fixed is None:
            raise AssertionError("scores() comes first")
        return self._fixed

    def _settle(self, output: Detected) -> _Fixed:
        """Finds the best box of each class in the clean image."""
        from torchvision.ops import box_area  # noqa: PLC0415  (takes a second)

        clean = output.images[0]
        labels = clean["labels"].tolist()
        fixed = _Fixed(self._num_classes or max(labels, default=0) + 1, output.threshold)
        boxes, scores = clean["boxes"].detach(), clean["scores"].detach()
        # A box without area is nowhere (those of untrained networks may be).
        ranks = scores * (box_area(boxes) > 0)
        if self._region is not None and not self._region.whole:
            wanted = torch.tensor([self._region.input_box()]).to(boxes)
            ranks = ranks * _overlap(boxes, wanted)
        for label, position in _best(labels, ranks, fixed.num_classes).items():
            fixed.boxes[label] = boxes[position]
            fixed.scores[label] = float(scores[position])
            fixed.ranks[label] = float(ranks[position])
        return fixed

    def _clean(self, found: Mapping[str, Tensor], fixed: _Fixed) -> Tensor:
        """The scores of the very boxes that were settled on."""
        weights = torch.zeros_like(found["scores"])
        for label, box in fixed.boxes.items():
            same = (found["labels"] == label) & (found["boxes"].detach() == box).all(dim=1)
            weights[same] = 1.0
        return _collect(found, weights, fixed.num_classes)

    def _followed(self, found: Mapping[str, Tensor], fixed: _Fixed) -> Tensor:
        """The best scores, times the overlap with the clean image's box of the same class."""
        boxes = found["boxes"].detach()
        weights = torch.zeros_like(found["scores"])
        for label, box in fixed.boxes.items():
            same = found["labels"] == label
            weights[same] = _overlap(boxes[same], box[None]).to(weights)
        return _collect(found, weights, fixed.num_classes)

    def _on_photo(self, box: Tensor) -> list[float]:
        left, top, right, bottom = map(float, box)
        if self._region is None:
            return [left, top, right, bottom]
        place = self._region.placement
        return [*place.to_photo(left, top), *place.to_photo(right, bottom)]


def _overlap(boxes: Tensor, box: Tensor) -> Tensor:
    """Intersection over union with one box; 0 for boxes without any area, not 0/0."""
    from torchvision.ops import box_iou  # noqa: PLC0415

    found: Tensor = box_iou(boxes, box)[:, 0]
    return found.nan_to_num(nan=0.0)


def _collect(found: Mapping[str, Tensor], weights: Tensor, num_classes: int) -> Tensor:
    """``(K,)``: per class the highest weighted score; differentiable by the scores."""
    weighted = found["scores"] * weights
    best = _best(found["labels"].tolist(), weighted.detach(), num_classes)
    collected = weighted.new_zeros(num_classes)
    if not best:
        return collected
    indices = torch.tensor(list(best), device=weighted.device)
    return collected.index_put((indices,), weighted[list(best.values())])


def _best(labels: Sequence[int], ranks: Tensor, num_classes: int) -> dict[int, int]:
    """The position of the best box by class; the first of equal ones."""
    best: dict[int, int] = {}
    values = ranks.tolist()
    for position, label in enumerate(labels):
        if 0 <= label < num_classes and (
            label not in best or values[position] > values[best[label]]
        ):
            best[label] = position
    return best
