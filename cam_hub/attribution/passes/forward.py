"""Some images through the network, with the graph for the backward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.attribution.passes.model_state import anatomy
from cam_hub.errors import ModelRefused, NoMap
from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.hooks.recording import Taps, tap
from cam_hub.images.preprocessing import is_finite
from cam_hub.layers.layouts import LayerInfo, batch_axes, to_maps
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.targets.base import ClassScores, Target
from cam_hub.targets.classes import Weights

__all__ = ["BackwardPath", "Setting", "Trace", "record", "run_forward", "saved", "score_of"]


def saved(root: Tensor) -> Iterator[Tensor]:
    """The tensors that a graph keeps for the backward pass."""
    pending, seen = [root.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        pending += [parent for parent, _ in node.next_functions]
        for name in _saved_names(type(node)):
            try:
                found = getattr(node, name)
            except RuntimeError:  # overwritten since: the backward pass raises
                continue
            parts = found if isinstance(found, (tuple, list)) else (found,)
            yield from (part for part in parts if isinstance(part, Tensor))


_names: dict[type, tuple[str, ...]] = {}


def _saved_names(kind: type) -> tuple[str, ...]:
    """Under which attributes nodes of a kind keep tensors."""
    if kind not in _names:
        found = [name for name in dir(kind) if name.startswith("_saved_")]
        if "saved_tensors" in dir(kind):
            found.append("saved_tensors")
        _names[kind] = tuple(found)
    return _names[kind]


@dataclass(frozen=True)
class Setting:
    """How the network is run.

    Attributes:
        autocast: Floating-point type of torch's autocast, or None for the model's own.
        memory_format: That of the batch. Convolutions hand it on, whatever their weights' own is.
    """

    autocast: torch.dtype | None = None
    memory_format: torch.memory_format = torch.contiguous_format

    def around(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast)


class BackwardPath:
    """The graph of one forward pass, back to the target layers.

    Attributes:
        layers: The target layers.
    """

    def __init__(self, taps: Taps, layers: Mapping[str, LayerInfo]) -> None:
        self.layers = dict(layers)
        self._taps = taps
        self._lock = threading.Lock()

    def activation(self, name: str, row: int = 0) -> Tensor:
        """``(1, channels, rows, cols)``: what a layer put out for one of the recorded images."""
        return self._maps(name, self._taps.activations[name].detach()[row : row + 1])

    def follow(
        self, score: Tensor, images: int, visit: Callable[[str, Tensor], None], *, keep_graph: bool
    ) -> None:
        """The backward pass of a score, for the images of the batch together.

        Args:
            score: A sum of scores of the images.
            images: For how many of them, from the first on, gradients are shown.
            visit: Called for each layer with its name and the gradient of each image's score by
                its own activation, ``(images, channels, rows, cols)``; the last layer first.
            keep_graph: Whether another backward pass follows.

        Raises:
            NoMap: If the score depends on none of the layers; with torch's error as its cause where
                the network has overwritten what the backward pass needs.
        """
        told = set()

        def tell(name: str, gradient: Tensor) -> None:
            if name in self.layers:
                told.add(name)
                visit(name, self._maps(name, gradient[:images]))
                if not keep_graph:
                    del self._taps.activations[name]  # as the graph goes, so do the records

        try:
            with self._lock:
                self._taps.visit_gradients(score, tell, keep_graph=keep_graph)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise NoMap(f"the backward pass failed: {first}") from error
        for name in self.layers:
            if name not in told:
                kept = self._taps.activations[name]
                visit(name, self._maps(name, kept.new_zeros((images, *kept.shape[1:]))))

    def _maps(self, name: str, tensor: Tensor) -> Tensor:
        arrangement = self.layers[name].arrangement
        if arrangement is None:
            raise AssertionError("target layers lie on the image")
        return to_maps(tensor, arrangement)


class Trace(BackwardPath):
    """One forward pass of one picture and its noisy copies.

    Attributes:
        clean: Whether the first image is the clean one; the others are noisy copies.
        samples: How many noisy copies there are.
        scores: ``(N, K)``, with their graph.
    """

    def __init__(
        self, taps: Taps, scores: Tensor, layers: Mapping[str, LayerInfo], *, clean: bool
    ) -> None:
        super().__init__(taps, layers)
        self.scores = scores
        self.clean = clean
        self.samples = len(scores) - clean
        self._bytes: int | None = None

    def back(
        self,
        index: int,
        contrast: Weights | None,
        visit: Callable[[str, Tensor], None],
        *,
        noisy: bool = True,
        keep_graph: bool,
    ) -> None:
        """The backward pass of one class.

        Args:
            index: The class.
            contrast: The classes whose scores are taken off, with weights; None for none.
            visit: As for ``follow``.
            noisy: Whether the noisy copies are wanted, too; else the clean image is shown alone.
            keep_graph: Whether another backward pass follows.

        Raises:
            NoMap: As ``follow``.
        """
        # On a caller's thread, where autograd may be off.
        with torch.inference_mode(False), torch.enable_grad():
            rows = len(self.scores) if noisy else 1
            score = score_of(self.scores[:rows], index, contrast)
        self.follow(score, rows, visit, keep_graph=keep_graph)

    @property
    def bytes(self) -> int:
        """What graph and records keep in memory before the backward pass, without weights."""
        if self._bytes is None:
            sizes = {}
            for tensor in (self.scores, *self._taps.activations.values(), *saved(self.scores)):
                if not isinstance(tensor, nn.Parameter):
                    storage = tensor.untyped_storage()
                    sizes[storage.data_ptr()] = storage.nbytes()
            self._bytes = sum(sizes.values())
        return self._bytes


def score_of(scores: Tensor, index: int, contrast: Weights | None) -> Tensor:
    """The sum over images of a class's score, or of how far it is above those of others.

    Args:
        scores: ``(N, K)``.
        index: The class.
        contrast: The other classes with their weights, or None.
    """
    score = scores[:, index].sum()
    for other, weight in contrast or ():
        taken_off = scores[:, other].sum()
        score = score - (taken_off if weight == 1 else weight * taken_off)
    return score


def run_forward(
    model: LoadedModel,
    batch: Tensor,
    layers: Mapping[str, LayerInfo],
    *,
    rows: Sequence[int],
    setting: Setting,
    copying: bool = False,
) -> tuple[Taps, Any]:
    """Runs a batch through a network that is held quiet.

    Args:
        model: The model.
        batch: ``(N, channels, rows, cols)`` or ``(N, channels, frames, rows, cols)``, on the
            model's device, in the memory format of the setting.
        layers: The target layers.
        rows: The images whose activations are recorded.
        setting: How to run the network.
        copying: Whether every record is a copy, and the network goes on with another: slow and
            large, but safe with networks that overwrite what the backward pass needs.

    Returns:
        The taps, and what the network has answered.

    Raises:
        ModelRefused: If the model raises on this input.
        NoMap: If a layer did not run.
    """
    overwritten = {name for name, layer in layers.items() if layer.overwritten}
    lies = {name: layer.arrangement for name, layer in layers.items()}
    tokens = any(each and (each.prefix_tokens or each.suffix_tokens) for each in lies.values())
    axes = batch_axes(lies)
    chosen = {name: layer.call for name, layer in layers.items() if layer.calls > 1}

    def run(*, safely: bool) -> tuple[Taps, Any]:
        known = None if safely else overwritten
        which = None if copying or model.execution.one_by_one else rows
        taken = tap(
            model.module,
            list(layers),
            overwritten=known,
            rows=which,
            chosen=chosen,
            **axes,
        )
        with taken as taps, setting.around(batch.device):
            return taps, model.run(batch, tokens=tokens)

    taps, output = run(safely=copying)
    if not taps.intact:  # something else is written to than when the layers were found
        taps, output = run(safely=True)
    for name in layers:
        if name not in taps.activations:
            raise NoMap("it did not run, or returned no floating-point tensor", layer=name)
    return taps, output


def record(
    model: LoadedModel,
    batch: Tensor,
    layers: Mapping[str, LayerInfo],
    target: Target,
    *,
    clean: bool,
    setting: Setting,
    copying: bool = False,
) -> tuple[Trace, ClassScores | None]:
    """Runs a batch through the network.

    Args:
        model: The model.
        batch: ``(N, channels, rows, cols)`` or ``(N, channels, frames, rows, cols)``, on the
            model's device, in the memory format of the setting.
        layers: The target layers.
        target: What is differentiated.
        clean: Whether the first image is the clean one.
        setting: How to run the network.
        copying: As for ``run_forward``.

    Returns:
        The trace, and how the classes stand in the clean image if there is one.

    Raises:
        ModelRefused: If the model raises on this input or returns what its task cannot read.
        NoMap: If the clean image's scores are not finite, or a layer did not run.
    """
    rows = range(int(clean))
    with frozen_eval(model.module, anatomy(model)):
        taps, output = run_forward(
            model, batch, layers, rows=rows, setting=setting, copying=copying
        )
        scores = _scores(model, target, output, len(batch))
        standings = None
        if clean:
            if not is_finite(scores[0]):
                raise NoMap("the model's scores for this picture are not finite (NaN or infinity)")
            standings = target.class_scores(output)
    return Trace(taps, scores, layers, clean=clean), standings


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
