"""Segmentation: one score per class and pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from cam_hub.targets.base import (
    ClassScores,
    Reference,
    Target,
    Task,
    main_output,
    unexpected,
)
from cam_hub.targets.classes import Names
from cam_hub.targets.reading import SIGMOIDS, WITHOUT_BATCH, Kind, Reading, text_of_scores
from cam_hub.targets.region import Region, as_weights

__all__ = ["Segmentation"]

BACKGROUND = "__background__"
"""How torchvision labels the class of what belongs to none of the others."""


@dataclass(frozen=True)
class Segmentation(Task):
    """The mean of a class's logit over a region.

    After Seg-Grad-CAM (Vinogradova, Dibrov, Myers 2020, eq. 2), which differentiates the sum
    Σ_{(i,j) ∈ M} y_ij^c over a set of pixels M. We differ in three things: the mean instead of the
    sum, so that scores of regions can be compared (a map changes by a factor only); pixels of the
    output that the region covers in part count in part; and every method can be used with it, not
    only Grad-CAM.

    Attributes:
        background: Index of the class of what belongs to none of the others, or None. It is
            explained only when it is named.
        names: Labels that are compared with the number of scores, or None.
        multi_label: Whether each score of a pixel has a sigmoid of its own, as the network shows.
    """

    name: ClassVar[str] = "segmentation"
    dense: ClassVar[bool] = True
    without_batch: ClassVar[tuple[int, ...]] = WITHOUT_BATCH["pixels"]
    takes_region: ClassVar[bool] = True
    has_probabilities: ClassVar[bool] = True
    outputs: ClassVar[Kind] = "pixels"
    background: int | None = None
    names: Names | None = field(default=None, repr=False)
    multi_label: bool = field(default=False, kw_only=True)

    @classmethod
    def make(cls, class_names: Sequence[str] | None) -> Segmentation:
        """The task for a model of these classes."""
        names = list(class_names or ())
        return cls(
            names.index(BACKGROUND) if BACKGROUND in names else None,
            Names(tuple(names)) if names else None,
        )

    def _interpreted(self, found: Reading) -> Segmentation:
        many = found.many_labels or found.inner in SIGMOIDS
        return replace(
            self,
            head=found.head,
            inner=found.inner,
            captured=found.captured,
            multi_label=self.multi_label or many,
        )

    def target(self, *, region: Region | None = None, reference: Reference | None = None) -> Target:
        """The class scores over a region, by default over all of the output."""
        del reference
        return _RegionScores(self, region)


class _RegionScores(Target):
    def __init__(self, task: Segmentation, region: Region | None) -> None:
        self._task = task
        self._names = task.names
        self._background = task.background
        self._region = region

    def scores(self, output: Any) -> Tensor:
        """``(N, K)`` of logits ``(N, K, rows, cols)``; ``(N, rows, cols)`` is a single class."""
        logits = self._logits(output)
        return torch.einsum("nkhw,hw->nk", logits, self._weights(logits))

    def probabilities(self, output: Any) -> Tensor:
        """``(N, K)``: the mean over the region of each pixel's probability."""
        logits = self._logits(output)
        alone = logits.shape[1] == 1 or self._task.multi_label
        each = logits.sigmoid() if alone else logits.softmax(dim=1)
        return torch.einsum("nkhw,hw->nk", each, self._weights(each))

    def class_scores(self, output: Any) -> ClassScores:
        """By the mean over the region of each pixel's probability."""
        logits = self._logits(output)[:1].detach().float()
        found = self.probabilities(logits)[0].cpu().double()
        scores = torch.einsum("nkhw,hw->nk", logits, self._weights(logits))[0].cpu().double()
        eligible = torch.ones(found.shape, dtype=torch.bool)
        if self._background is not None and len(found) > 1:
            eligible[self._background] = False
        return ClassScores(found, found.clamp(0, 1), eligible, scores)

    def describe(self) -> dict[str, Any]:
        """The region, as given."""
        region = self._region.describe() if self._region is not None else None
        where = "all pixels" if region is None else f"the pixels of a {next(iter(region))}"
        task = self._task
        score = "class score before softmax"
        if task.inner is not None:
            score = text_of_scores(task.inner, captured=task.captured)
        text = f"mean {score} over {where}"
        if task.head is not None:
            text += f", of the output {task.head.name!r}"
        return {
            "task": "segmentation",
            "text": text,
            "probabilities": "mean over the pixels",
            "region": region,
            **({"inner": task.inner} if task.inner is not None else {}),
            **(task.head.describe() if task.head is not None else {}),
        }

    def _logits(self, output: Any) -> Tensor:
        found = main_output(output)
        if found is not None and found.ndim == 3:
            found = found[:, None]
        if found is None or found.ndim != 4 or 0 in found.shape or not found.is_floating_point():
            raise unexpected("segmentation", output, "class scores (images, classes, rows, cols)")
        if self._names is not None:
            labels = self._names.of(found.shape[1])
            self.labels = labels[-1:] if found.shape[1] == 1 else labels
        return found

    def _weights(self, logits: Tensor) -> Tensor:
        # In this order: MPS has no double precision.
        return as_weights(self._region, *logits.shape[2:]).to(logits.dtype).to(logits.device)
