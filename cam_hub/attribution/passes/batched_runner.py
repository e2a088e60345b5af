"""Several pictures through the network and back together.

The clean pictures and their noisy copies form one row, which is cut into chunks wherever one is
full. The scores of all pictures of a chunk are differentiated at once: in evaluation mode
one picture's score does not depend on another, so every row receives the gradient of its own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from cam_hub.attribution.passes.accumulator import Accumulator
from cam_hub.attribution.passes.forward import BackwardPath, run_forward, score_of
from cam_hub.attribution.passes.job import Job, Pass, Row, rows_of, stacked
from cam_hub.attribution.passes.model_state import anatomy
from cam_hub.attribution.passes.runner import must_pass_alone
from cam_hub.errors import CamHubError, ModelRefused, NoMap
from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.images.preprocessing import is_finite
from cam_hub.targets.base import ClassScores, Target
from cam_hub.targets.classes import ResolvedClasses

__all__ = ["BatchLimit", "run_together"]

_LOG = logging.getLogger("cam_hub")


@dataclass
class BatchLimit:
    """How many images pass the network at once; fewer from when memory did not suffice.

    Attributes:
        images: How many, at most.
    """

    images: int


def run_together(
    jobs: Sequence[Job], room: BatchLimit, *, progress: Callable[[float], None] | None = None
) -> list[Pass | CamHubError | None]:
    """Runs the network forwards once per chunk, and backwards as often as classes are asked for.

    Args:
        jobs: One per picture; of the same model, layers, noise and setting, and of inputs of one
            size. Their own batch size and progress do not matter here.
        room: Most images per chunk.
        progress: Called after each chunk with the part that is done; what it raises stops the
            work.

    Returns:
        Per picture what came back, or an error that is about this picture; None if it could not
        be passed along with the others, and must be passed alone.
    """
    if not jobs:
        return []
    if must_pass_alone(jobs[0].model):
        room = BatchLimit(1)
    shares = [_Share(job) for job in jobs]
    images = len(jobs) * (1 + jobs[0].samples)
    passed = 0
    for owners, batch in _chunks(shares, room):
        counts = Counter(owners)  # which keeps the order
        chunk = [shares[owner] for owner in counts]
        try:
            _pass(batch, chunk, list(counts.values()))
        except CamHubError:
            _leave(chunk)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _leave(chunk)
            room.images = max(1, room.images // 2)
            _LOG.warning(
                "%s: out of memory; at most %d images pass at once from here on",
                jobs[0].model.id,
                room.images,
            )
        passed += len(owners)
        if progress is not None:
            progress(min(passed / images, 1.0))
    return [share.result() for share in shares]


@dataclass
class _Share:
    """One picture's part in the work, and what has come back for it."""

    job: Job
    target: Target | None = None
    standings: ClassScores | None = None
    settled: ResolvedClasses = field(default_factory=partial(ResolvedClasses, ()))
    accumulator: Accumulator = field(init=False)
    error: CamHubError | None = None
    alone: bool = False

    def __post_init__(self) -> None:
        self.accumulator = Accumulator(self.job.methods, self.job.samples)

    @property
    def over(self) -> bool:
        """Whether nothing more can come of it here."""
        return self.alone or self.error is not None

    @property
    def begun(self) -> bool:
        """Whether its clean image has passed."""
        return self.standings is not None

    def aim(self) -> Target:
        """Its target."""
        if self.target is None:
            self.target = self.job.aim()
        return self.target

    def score(self, output: object, images: int) -> Tensor | None:
        """``(images, K)`` scores, with the classes settled by the first image; None if over."""
        job = self.job
        try:
            target = self.aim()
            scores = target.scores(output)
            if len(scores) != images or not is_finite(scores[0]):
                self.alone = True
            elif not self.begun:
                self.standings = target.class_scores(output)
                self.settled = job.settled(self.standings, target)
        except ModelRefused:  # alone, its error names the model
            self.alone = True
        except CamHubError as error:
            self.error = error
        return None if self.over else scores

    def take(self, step: int, name: str, activation: Tensor | None, gradients: Tensor) -> None:
        """Takes in what came back for one of the classes, by its place among them."""
        try:
            self.accumulator.take(self.settled.classes[step], name, activation, gradients)
        except CamHubError as error:
            self.error = error

    def result(self) -> Pass | CamHubError | None:
        """What ``run_together`` returns for it."""
        if self.error is not None or self.alone or self.standings is None or self.target is None:
            return self.error
        found, target = self.accumulator, self.target
        return Pass(
            self.standings,
            self.settled,
            target.labels,
            target.describe(),
            found.maps,
            found.agreements,
        )


def _leave(shares: Sequence[_Share]) -> None:
    """Leaves pictures to be passed alone, and frees what was kept of them."""
    for share in shares:
        share.alone = True
        share.accumulator = Accumulator(share.job.methods, share.job.samples)


def _chunks(shares: Sequence[_Share], room: BatchLimit) -> Iterator[tuple[list[int], Tensor]]:
    """Each picture and then its noisy copies, cut into chunks, with whose they are.

    Pictures of which nothing more can come are left out.
    """
    owners: list[int] = []
    rows: list[Row] = []
    for owner, share in enumerate(shares):
        for row in rows_of(share.job):
            if share.over:
                break
            owners.append(owner)
            rows.append(row)
            if len(rows) >= room.images:
                yield owners, stacked(rows, share.job)
                owners, rows = [], []
    if rows:
        yield owners, stacked(rows, shares[0].job)


def _pass(batch: Tensor, shares: Sequence[_Share], counts: Sequence[int]) -> None:
    """Runs one chunk and gives each picture its share of what comes back.

    Args:
        batch: The chunk.
        shares: Whose images are in it, in their order.
        counts: How many images of each.

    Raises:
        CamHubError: If the chunk does not work as one; its message is not shown.
    """
    job = shares[0].job
    model = job.model
    for share in shares:
        share.aim()  # which may cost passes of its own
    fresh = [not share.begun for share in shares]
    firsts = [sum(counts[:place]) for place in range(len(counts))]
    clean = [first for first, new in zip(firsts, fresh, strict=True) if new]
    with frozen_eval(model.module, anatomy(model)):
        taps, output = run_forward(model, batch, job.layers, rows=clean, setting=job.setting)
        scored = [
            share.score(part, count)
            for share, part, count in zip(
                shares, model.task.split(output, counts), counts, strict=True
            )
        ]
        trail = BackwardPath(taps, job.layers)
        steps = max((len(share.settled.classes) for share in shares if not share.over), default=0)
        for step in range(steps):
            asked = {
                place: score_of(scores, share.settled.classes[step], share.settled.contrast)
                for place, (share, scores) in enumerate(zip(shares, scored, strict=True))
                if scores is not None and step < len(share.settled.classes)
            }

            def visit(
                name: str, gradients: Tensor, step: int = step, places: Sequence[int] = tuple(asked)
            ) -> None:
                if len(gradients) != len(batch):
                    raise NoMap("it did not answer once per image", layer=name)
                parts = torch.split(gradients, list(counts))
                for place in places:
                    activation = None
                    if fresh[place]:
                        activation = trail.activation(name, clean.index(firsts[place]))
                    shares[place].take(step, name, activation, parts[place])

            score = torch.stack(list(asked.values())).sum()
            trail.follow(score, len(batch), visit, keep_graph=step + 1 < steps)
