"""One whole pass: chunks of images forwards, classes backwards, maps of layers and methods."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cam_hub.attribution.passes.accumulator import Accumulator, Allowance
from cam_hub.attribution.passes.forward import Trace, record
from cam_hub.attribution.passes.job import Job, Pass, rows_of, stacked
from cam_hub.attribution.passes.model_state import anatomy
from cam_hub.errors import NoMap, OutOfMemory
from cam_hub.hooks.frozen_eval import frozen_eval, mixes_batch
from cam_hub.hooks.memory import in_chunks, is_out_of_memory
from cam_hub.hooks.recording import tap
from cam_hub.layers.layouts import LayerInfo, batch_axes, to_maps
from cam_hub.methods import Evidence
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.base import Target
from cam_hub.targets.classes import ResolvedClasses, Weights

__all__ = [
    "EVIDENCE",
    "Finished",
    "forward_activations",
    "must_pass_alone",
    "run",
    "run_backward",
]

_LOG = logging.getLogger("cam_hub")

EVIDENCE = 4
"""Evidence may take this part of what traces may."""


@dataclass(frozen=True)
class Finished:
    """A pass, and what of it can be kept.

    Attributes:
        found: What it has brought back.
        target: The target.
        traces: Those whose way back is still open, in the order of their images: all of them, or
            the first alone, which holds the clean image, or none.
        evidence: That of the clean image, by class index and layer, as far as it is kept.
    """

    found: Pass
    target: Target
    traces: list[Trace]
    evidence: Mapping[tuple[int, str], Evidence]


def run(job: Job, *, keep: int = 0) -> Finished:
    """Runs the network forwards once per chunk and backwards once per chunk and class.

    Where memory does not suffice, chunks are halved.

    Args:
        job: What to find out.
        keep: Bytes of traces to keep open for later; evidence takes a part of as many more.

    Raises:
        ModelRefused: If the model raises on this input or returns what its task cannot read.
        NoMap: If the scores are not finite, nothing can be explained, a layer did not run, no
            score depends on it, or a map is not finite.
        OutOfMemory: If memory does not suffice for one image at a time.
    """
    size = job.size
    if size > 1 and must_pass_alone(job.model):
        size = 1
    copying = False
    while True:
        try:
            return _Run(job, size, keep, copying=copying).finish()
        except NoMap as error:
            if copying or not isinstance(error.__cause__, RuntimeError):
                raise
            copying = True
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemory(job.model.id, _too_large(job)) from None
            size //= 2
            _LOG.warning("%s: out of memory; at most %d images pass at once", job.model.id, size)
        keep = 0


def must_pass_alone(model: LoadedModel) -> bool:
    """Whether images pass the network one at a time."""
    return model.execution.one_by_one or mixes_batch(model.module, anatomy(model))


class _Run:
    """One attempt at a job, with chunks of a fixed size."""

    def __init__(self, job: Job, size: int, keep: int, *, copying: bool) -> None:
        self._job = job
        self._size = size
        self._left = keep
        self._accumulator = Accumulator(job.methods, job.samples, Allowance(keep // EVIDENCE))
        self._copying = copying
        self._traces: list[Trace] = []
        self._settled = ResolvedClasses(())

    def finish(self) -> Finished:
        job = self._job
        total = -(-(1 + job.samples) // self._size)
        target = job.aim()
        standings = None
        for number, batch in enumerate(_chunks(job, self._size)):
            trace, found = record(
                job.model,
                batch,
                job.layers,
                target,
                clean=standings is None,
                setting=job.setting,
                copying=self._copying,
            )
            if found is not None:
                standings = found
                self._settled = job.settled(standings, target)
            self._go_back(trace, number, total)
        if standings is None:
            raise AssertionError("there is always a chunk with the clean image")
        accumulated = self._accumulator
        done = Pass(
            standings,
            self._settled,
            target.labels,
            target.describe(),
            accumulated.maps,
            accumulated.agreements,
        )
        traces = self._traces
        if len(traces) < total:
            traces = traces[:1]
        return Finished(done, target, traces, accumulated.evidence)

    def _go_back(self, trace: Trace, number: int, total: int) -> None:
        classes, against = self._settled.classes, self._settled.contrast
        count = len(classes)
        keep = self._left > 0 and len(self._traces) == number and trace.bytes <= self._left
        if keep:
            self._left -= trace.bytes
            self._traces.append(trace)
        for step, index in enumerate(classes):
            self._job.tell((number + (step + 1) / (count + 1)) / total, step, classes)
            last = not keep and step + 1 == count
            run_backward(trace, index, against, self._accumulator, keep_graph=not last)


def run_backward(
    trace: Trace,
    index: int,
    contrast: Weights | None,
    accumulator: Accumulator,
    *,
    noisy: bool = True,
    keep_graph: bool,
) -> None:
    """Takes one class's way back through a trace.

    Args:
        trace: The trace.
        index: The class.
        contrast: The classes whose scores are taken off, with weights; None for none.
        accumulator: Takes in the gradients.
        noisy: Whether its noisy copies are wanted.
        keep_graph: Whether another backward pass follows.

    Raises:
        NoMap: If the score does not depend on a layer; with torch's error as its cause where the
            network has overwritten what the backward pass needs.
    """

    def visit(name: str, gradient: Tensor) -> None:
        activation = trace.activation(name) if trace.clean else None
        accumulator.take(index, name, activation, gradient)

    trace.back(index, contrast, visit, noisy=noisy, keep_graph=keep_graph)


def forward_activations(
    model: LoadedModel, image: Tensor, layers: Mapping[str, LayerInfo]
) -> dict[str, Tensor]:
    """The activations of some layers, without gradients.

    Args:
        model: The model.
        image: ``(1, channels, rows, cols)`` or ``(1, channels, frames, rows, cols)``, preprocessed,
            on the model's device.
        layers: The layers.

    Returns:
        ``(channels, rows, cols)`` each; of a clip ``(channels, steps * rows, cols)``.

    Raises:
        ModelRefused: If the model raises on this input.
        NoMap: If a layer did not run.
    """
    lies = {name: layer.arrangement for name, layer in layers.items()}
    taken = tap(
        model.module,
        list(layers),
        chosen={name: layer.call for name, layer in layers.items() if layer.calls > 1},
        **batch_axes(lies),
    )
    with frozen_eval(model.module), torch.no_grad(), taken as taps:
        model.run(image)
    found = {}
    for name, layer in layers.items():
        if name not in taps.activations or layer.arrangement is None:
            raise NoMap("it did not run, or returned no floating-point tensor", layer=name)
        found[name] = to_maps(taps.activations[name].detach(), layer.arrangement)[0].clone()
    return found


def _chunks(job: Job, size: int) -> Iterator[Tensor]:
    """The clean image and its noisy copies, at most ``size`` at a time."""
    for chunk in in_chunks(rows_of(job), size):
        yield stacked(chunk, job)


def _too_large(job: Job) -> str:
    layers = f"{len(job.layers)} layers" if len(job.layers) > 1 else "the layer"
    return (
        f"one image of {tuple(job.image.shape[1:])} at a time, with the backward pass to {layers}, "
        f"does not fit into the memory of {job.image.device}. Fewer or later layers, a smaller "
        "input or another device would need less."
    )
