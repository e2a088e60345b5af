"""Several pictures through the network and back together.

The clean pictures and their noisy copies form one row, which is cut into chunks wherever one is
full. Of each chunk, the scores of all its pictures are differentiated at once: in evaluation mode
one picture's score does not depend on another, so every row receives the gradient of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cam_hub.batch_layout import laid_out
from cam_hub.errors import CamHubError, ModelRefused, NoMap
from cam_hub.guard import mixes_batch, quiet
from cam_hub.introspection.layouts import Arrangement, to_maps
from cam_hub.methods import Evidence, MomentSum
from cam_hub.passes import Noise, Progress
from cam_hub.recording import Taps, tap
from cam_hub.sources.base import LoadedModel
from cam_hub.tasks.base import Standings, Target

__all__ = ["Passed", "run_together"]


@dataclass(frozen=True)
class Passed:
    """What has come back for one picture.

    Attributes:
        standings: How the classes stand in the clean image.
        classes: The classes that were differentiated.
        evidence: Per class index and layer, what the methods need.
    """

    standings: Standings
    classes: tuple[int, ...]
    evidence: Mapping[tuple[int, str], Evidence]


def run_together(
    model: LoadedModel,
    images: Sequence[Tensor],
    layers: Mapping[str, Arrangement],
    targets: Sequence[Target],
    choose: Callable[[Target, Standings], Sequence[int]],
    *,
    noise: Noise | None,
    batch_size: int,
    progress: Progress | None = None,
) -> list[Passed | CamHubError | None]:
    """Runs the network forwards once per chunk, and backwards as often as classes are asked for.

    Args:
        model: The model.
        images: ``(1, channels, rows, cols)`` or ``(1, channels, frames, rows, cols)`` each, all of
            one size, preprocessed, on the model's device.
        layers: The target layers and how each lies on the image.
        targets: What is differentiated; a fresh one per image.
        choose: Names the classes of an image, given its target and how they stand.
        noise: The noisy copies to make of each; None for the clean images alone.
        batch_size: Most images per chunk.
        progress: Told after each chunk.

    Returns:
        Per image what came back, or an error that is about this image; None if
        it could not be passed along with the others, and must be passed alone.
    """
    shares = [_Share(target) for target in targets]
    size = 1 if mixes_batch(model.module) else batch_size
    copies = 1 + (noise.num_samples if noise is not None else 0)
    passed = 0
    for owners, batch in _chunks(images, shares, noise, size):
        counts = Counter(owners)  # which keeps the order
        chunk = [shares[owner] for owner in counts]
        try:
            _pass(model, batch, layers, chunk, list(counts.values()), choose)
        except CamHubError:
            for share in chunk:
                share.alone = True
        passed += len(owners)
        if progress is not None:
            progress(min(passed / (copies * len(images)), 1.0), f"{len(images)} pictures")
    return [share.result() for share in shares]


@dataclass
class _Share:
    """One picture's part in the work: its target, and what has come back for it."""

    target: Target
    standings: Standings | None = None
    classes: tuple[int, ...] = ()
    clean: dict[tuple[int, str], tuple[Tensor, Tensor]] = field(default_factory=dict)
    sums: dict[tuple[int, str], MomentSum] = field(default_factory=dict)
    error: CamHubError | None = None
    alone: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more can come of it here."""
        return self.alone or self.error is not None

    def score(
        self, output: object, images: int, choose: Callable[[Target, Standings], Sequence[int]]
    ) -> Tensor | None:
        """``(images, K)`` scores, with the classes settled by the first image; None if over."""
        try:
            scores = self.target.scores(output)
            if len(scores) != images or not bool(torch.isfinite(scores[0].detach()).all()):
                self.alone = True
            elif self.standings is None:
                self.standings = self.target.standings(output)
                self.classes = tuple(choose(self.target, self.standings))
                self.target.check(self.classes)
        except ModelRefused:  # alone, it says so under the model's ID
            self.alone = True
        except CamHubError as error:
            self.error = error
        return None if self.over else scores

    def take(self, step: int, name: str, activation: Tensor, gradient: Tensor) -> None:
        """Keeps what came back for one of the classes, by its place among them, and a layer.

        Activation and gradient are ``(images, channels, rows, cols)``.
        """
        key = self.classes[step], name
        if key not in self.clean:
            self.clean[key] = activation[:1].clone(), gradient[:1].clone()
            gradient = gradient[1:]
        if len(gradient):
            self.sums.setdefault(key, MomentSum()).add(gradient[:, None])

    def result(self) -> Passed | CamHubError | None:
        """What ``run_together`` returns for it."""
        if self.error is not None or self.alone or self.standings is None:
            return self.error
        evidence = {
            key: Evidence(*clean, self.sums[key].mean() if key in self.sums else None)
            for key, clean in self.clean.items()
        }
        return Passed(self.standings, self.classes, evidence)


def _chunks(
    images: Sequence[Tensor], shares: Sequence[_Share], noise: Noise | None, size: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Each image and then its noisy copies, at most ``size`` at a time, with whose they are.

    Images of which nothing more can come are left out.
    """
    owners: list[int] = []
    rows: list[Tensor] = []
    for owner, image in enumerate(images):
        for row in _rows(image, noise):
            if shares[owner].over:
                break
            owners.append(owner)
            rows.append(row)
            if len(rows) == size:
                yield owners, torch.cat(rows)
                owners, rows = [], []
    if rows:
        yield owners, torch.cat(rows)


def _rows(image: Tensor, noise: Noise | None) -> Iterator[Tensor]:
    yield image
    if noise is not None:
        yield from noise.copies(image)


def _pass(
    model: LoadedModel,
    batch: Tensor,
    layers: Mapping[str, Arrangement],
    shares: Sequence[_Share],
    counts: Sequence[int],
    choose: Callable[[Target, Standings], Sequence[int]],
) -> None:
    """Runs one chunk and gives each picture its share of what comes back.

    Args:
        model: The model.
        batch: The chunk.
        layers: The target layers.
        shares: Whose images are in it, in their order.
        counts: How many images of each.
        choose: Names the classes of an image.

    Raises:
        CamHubError: If the chunk does not work as one; what it says is not meant for anyone.
    """
    taken = tap(model.module, list(layers))
    with quiet(model.module), laid_out(model, batch) as laid, taken as taps:
        outputs = model.task.split(model.run(laid), counts)
        scored = [
            share.score(output, count, choose)
            for share, output, count in zip(shares, outputs, counts, strict=True)
        ]
        steps = max((len(share.classes) for share in shares if not share.over), default=0)
        activations = _activations(taps, layers, counts) if steps else {}
        for step in range(steps):
            asked = [
                (position, scores[:, share.classes[step]].sum())
                for position, (share, scores) in enumerate(zip(shares, scored, strict=True))
                if scores is not None and step < len(share.classes)
            ]
            found = taps.gradients(
                torch.stack([score for _, score in asked]).sum(),
                list(layers),
                keep_graph=step + 1 < steps,
            )
            for name, arrangement in layers.items():
                gradients = torch.split(to_maps(found[name], arrangement), list(counts))
                for position, _ in asked:
                    shares[position].take(
                        step, name, activations[name][position], gradients[position]
                    )


def _activations(
    taps: Taps, layers: Mapping[str, Arrangement], counts: Sequence[int]
) -> dict[str, tuple[Tensor, ...]]:
    """What each layer put out, apart by pictures."""
    found = {}
    for name, arrangement in layers.items():
        if name not in taps.activations or len(taps.activations[name]) != sum(counts):
            raise NoMap("it did not run once with one answer per image", layer=name)
        maps = to_maps(taps.activations[name].detach(), arrangement)
        found[name] = torch.split(maps, list(counts))
    return found
