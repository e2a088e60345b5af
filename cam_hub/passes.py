"""One way through the network and back: what the target layers did, what the scores make of it.

The clean image and its noisy copies travel as one batch (in chunks, if there are many). No graph
is kept before the first target layer; the way back goes from the class scores to the target
layers and no further, once per class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cam_hub.errors import ModelRefused, NoMap
from cam_hub.guard import mixes_batch, quiet
from cam_hub.introspection.layouts import Arrangement, to_maps
from cam_hub.methods import Evidence, MomentSum
from cam_hub.recording import tap
from cam_hub.sources.base import LoadedModel
from cam_hub.tasks.base import Standings, Target

__all__ = ["Noise", "Pass", "Progress", "forward_activations", "run"]

Progress = Callable[[float, str], None]
"""Called with the part of the work that is done, in [0, 1], and what is being done."""


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the model's input.

    Attributes:
        num_samples: How many noisy copies.
        std: Standard deviation, in units of the normalised input.
        seed: The same seed gives the same copies; the first ones do not depend on how many there
            are.
    """

    num_samples: int
    std: float
    seed: int

    def copies(self, image: Tensor) -> Iterator[Tensor]:
        """Noisy copies of an image or clip, ``(1, …)``, drawn on the CPU on every device."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.num_samples):
            noise = torch.randn(image.shape, generator=generator) * self.std
            yield image + noise.to(image)


@dataclass(frozen=True)
class Pass:
    """What a pass has brought back.

    Attributes:
        standings: How the classes stand in the clean image.
        classes: The classes that were differentiated.
        evidence: Per class index and layer, what the methods need.
    """

    standings: Standings
    classes: tuple[int, ...]
    evidence: Mapping[tuple[int, str], Evidence]


def run(
    model: LoadedModel,
    image: Tensor,
    layers: Mapping[str, Arrangement],
    target: Target,
    choose: Callable[[Standings], Sequence[int]],
    *,
    noise: Noise | None,
    batch_size: int,
    progress: Progress | None = None,
) -> Pass:
    """Runs the network forwards once per chunk and backwards once per chunk and class.

    Args:
        model: The model.
        image: ``(1, channels, rows, cols)`` or ``(1, channels, frames, rows, cols)``, preprocessed,
            on the model's device.
        layers: The target layers and how each lies on the image.
        target: What is differentiated; a fresh one.
        choose: Names the classes, given how they stand in the clean image.
        noise: The noisy copies to make; None for the clean image alone.
        batch_size: Most images per chunk.
        progress: Told after each step.

    Raises:
        ModelRefused: If the model raises on this input or returns what its task cannot read.
        NoMap: If the scores are not finite, nothing can be explained, a layer did not run, or no
            score depends on it.
    """
    names = list(layers)
    clean: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    sums: dict[tuple[int, str], MomentSum] = {}
    classes: tuple[int, ...] = ()
    standings: Standings | None = None
    size = 1 if mixes_batch(model.module) else batch_size
    chunks = _chunks(image, noise, size)
    total = -(-(1 + (noise.num_samples if noise else 0)) // size)
    for number, chunk in enumerate(chunks):
        has_clean = standings is None
        with quiet(model.module), tap(model.module, names) as taps:
            output = model.run(chunk)
            scores = _scores(model, target, output, len(chunk))
            if standings is None:
                _check_scores(scores[0].detach())
                standings = target.standings(output)
                classes = tuple(choose(standings))
                target.check(classes)
            for step, index in enumerate(classes):
                if progress is not None:
                    part = (number + (step + 1) / (len(classes) + 1)) / total
                    progress(part, f"class {step + 1} of {len(classes)}")
                _check_ran(names, taps.activations)
                gradients = taps.gradients(
                    scores[:, index].sum(), names, keep_graph=step + 1 < len(classes)
                )
                for name, arrangement in layers.items():
                    gradient = to_maps(gradients[name], arrangement)
                    if has_clean:
                        activation = to_maps(taps.activations[name].detach()[:1], arrangement)
                        clean[index, name] = activation.clone(), gradient[:1].clone()
                    noisy = gradient[1:] if has_clean else gradient
                    if len(noisy):
                        sums.setdefault((index, name), MomentSum()).add(noisy[:, None])
    if standings is None:
        raise AssertionError("there is always a chunk with the clean image")
    evidence = {
        key: Evidence(activation, gradient, sums[key].mean() if key in sums else None)
        for key, (activation, gradient) in clean.items()
    }
    return Pass(standings, classes, evidence)


def forward_activations(
    model: LoadedModel, image: Tensor, layers: Mapping[str, Arrangement]
) -> dict[str, Tensor]:
    """The activations of some layers, without gradients.

    Args:
        model: The model.
        image: ``(1, channels, rows, cols)`` or ``(1, channels, frames, rows, cols)``, preprocessed,
            on the model's device.
        layers: The layers and how each lies on the image.

    Returns:
        ``(channels, rows, cols)`` each; of a clip ``(channels, steps * rows, cols)``.

    Raises:
        ModelRefused: If the model raises on this input.
        NoMap: If a layer did not run.
    """
    with quiet(model.module), torch.no_grad(), tap(model.module, list(layers)) as taps:
        model.run(image)
    _check_ran(list(layers), taps.activations)
    return {
        name: to_maps(taps.activations[name].detach(), arrangement)[0].clone()
        for name, arrangement in layers.items()
    }


def _chunks(image: Tensor, noise: Noise | None, size: int) -> Iterator[Tensor]:
    """The clean image and then its noisy copies, at most ``size`` at a time."""
    pending = [image]
    for copy in noise.copies(image) if noise is not None else ():
        if len(pending) == size:
            yield torch.cat(pending)
            pending = []
        pending.append(copy)
    yield torch.cat(pending)


def _scores(model: LoadedModel, target: Target, output: object, images: int) -> Tensor:
    """``(N, K)`` scores of what the network has answered for N images."""
    try:
        scores = target.scores(output)
    except ModelRefused as error:  # tasks do not know the model's ID
        raise ModelRefused(model.id, error.reason) from error
    if len(scores) != images:
        raise ModelRefused(
            model.id, f"it returns scores of {len(scores)} images for a batch of {images}."
        )
    return scores


def _check_scores(scores: Tensor) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise NoMap("the model's scores for this picture are not finite (NaN or infinity)")


def _check_ran(names: Sequence[str], activations: Mapping[str, Tensor]) -> None:
    for name in names:
        if name not in activations:
            raise NoMap("it did not run, or returned no floating-point tensor", layer=name)
