"""The measured cases and their goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.engine import peers
from bench.engine.contenders import fresh, maps, plain, warm
from bench.engine.floor import FLOOR, one_more_class, whole
from bench.engine.subjects import Subject
from bench.engine.timing import Contender, Times

__all__ = ["CASES", "OURS", "Case", "Goal", "ratio_of"]

OURS = "cam_hub"


@dataclass(frozen=True)
class Goal:
    """A bound on a ratio of times.

    Attributes:
        against: A contender's name, or ``"plain"`` for the faster way of plain inference.
        limit: For plain inference, the maximum of our time as a multiple of it; for another
            library, the minimum of its time as a multiple of ours.
    """

    against: str
    limit: float

    def words(self, images: int) -> str:
        """The goal as shown in the report."""
        if self.against == "plain":
            return f"≤ {self.limit:g} × {_forwards(images)}"
        return f"≥ {self.limit:g} × faster than {self.against}"

    def held_by(self, ratio: float) -> bool:
        """Whether a median reaches the goal."""
        return ratio <= self.limit if self.against == "plain" else ratio >= self.limit


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: Its name on the command line.
        title: Its title in the report.
        images: Number of images for plain inference.
        goals: The goals of the case.
        contenders: Creates the contenders for a network; plain inference is added.
        only: The networks that it applies to; empty for all.
    """

    name: str
    title: str
    images: int
    goals: tuple[Goal, ...]
    contenders: Callable[[Subject], dict[str, Contender]]
    only: tuple[str, ...] = ()

    def all_contenders(self, subject: Subject) -> dict[str, Contender]:
        """The contenders: plain inference, cam_hub and the other libraries."""
        return {**plain(subject, self.images), **self.contenders(subject)}


def _forwards(images: int) -> str:
    return "one forward" if images == 1 else f"{images} forwards"


def _layercam(subject: Subject) -> dict[str, Contender]:
    found = {
        OURS: fresh(maps(subject, methods=["layercam"])),
        FLOOR: whole(subject, 1),
        "torchcam": Contender(peers.torchcam_maps(subject, [subject.recommended], smooth=False)),
    }
    if peers.has_grad_cam():
        found["grad-cam"] = Contender(peers.grad_cam_layercam(subject))
    return found


def _both(subject: Subject) -> dict[str, Contender]:
    return {
        OURS: fresh(maps(subject)),
        FLOOR: whole(subject, 5),
        "torchcam": Contender(peers.torchcam_maps(subject, [subject.recommended])),
        "easy-explain": Contender(peers.easy_explain_shaped(subject)),
    }


def _five(subject: Subject) -> dict[str, Contender]:
    return {
        OURS: fresh(maps(subject, classes=5)),
        FLOOR: whole(subject, 5, classes=5),
        "torchcam": Contender(peers.torchcam_maps(subject, [subject.recommended], classes=5)),
    }


def _stages(subject: Subject) -> dict[str, Contender]:
    return {
        OURS: fresh(maps(subject, subject.stages)),
        FLOOR: whole(subject, 5, subject.stages),
        "torchcam": Contender(peers.torchcam_maps(subject, subject.stages)),
    }


def _features(subject: Subject) -> dict[str, Contender]:
    return {
        OURS: fresh(maps(subject, subject.features)),
        "torchcam": Contender(peers.torchcam_maps(subject, subject.features)),
    }


def _warm(what: str, title: str) -> Case:
    def contenders(subject: Subject) -> dict[str, Contender]:
        found = {OURS: warm(subject, what)}
        return {**found, FLOOR: one_more_class(subject, 5)} if what == "class" else found

    return Case(f"warm-{what}", title, 1, (Goal("plain", 0.05),), contenders)


CASES = (
    Case("layercam", "LayerCAM, recommended layer", 1, (Goal("plain", 1.10),), _layercam),
    Case(
        "both",
        "SmoothGradCAM++ (4 samples) and LayerCAM together",
        5,
        (Goal("plain", 1.10), Goal("torchcam", 1.5)),
        _both,
    ),
    Case(
        "five-classes",
        "five classes, both methods",
        5,
        (Goal("plain", 1.25), Goal("torchcam", 6)),
        _five,
    ),
    _warm("class", "one more class of the same image"),
    _warm("layer", "one of the recorded layers alone"),
    _warm("method", "another method of the same image"),
    _warm("colour", "another colour map of the same image"),
    _warm("threshold", "another threshold of the same image"),
    Case(
        "stages",
        "all stages, both methods",
        5,
        (Goal("plain", 2.2), Goal("torchcam", 1.3)),
        _stages,
    ),
    Case(
        "features",
        "VGG-19, every one of its features, both methods",
        5,
        (Goal("torchcam", 1.5),),
        _features,
        only=("vgg19",),
    ),
)
"""All cases that are timed image by image."""


def ratio_of(times: Times, goal: Goal, plain_name: str | None) -> float | None:
    """The median to which a goal applies; None if it was not measured."""
    if goal.against == "plain":
        found = times.ratio(OURS, plain_name)
    else:
        found = times.ratio(goal.against, OURS)
    return found.median if found is not None else None
