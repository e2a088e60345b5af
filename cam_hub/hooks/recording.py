"""The only place that registers hooks: records activations and gradients."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from cam_hub.errors import LayerNotFound, NoMap, nearest_names

__all__ = [
    "Taps",
    "foreign_hooks",
    "main_tensor",
    "modules_by_name",
    "observe",
    "same_values",
    "unobserved",
    "watch_writes",
]


@dataclass
class GradientTap:
    """Receives the gradient of one layer's output during a backward pass.

    Attributes:
        name: The layer.
        visit: Called with the name and the gradient; None while no gradients are wanted.
    """

    name: str
    visit: Callable[[str, Tensor], None] | None = None


class Mark(torch.autograd.Function):
    """Passes a tensor on, and in the backward pass hands its gradient to a tap.

    What goes on is the same memory under a tensor of its own. So what follows may write to it as
    it would without the mark (to a leaf or to a view it could not), writes are counted for both,
    and what follows this layer is distinguished from other uses of its tensor, as in a layer that
    returns its input. The graph starts at the first mark, since the seed asks for a gradient.
    """

    @staticmethod
    def forward(ctx: Any, seed: Tensor, found: Tensor, tap: GradientTap) -> Tensor:
        """Args: a scalar that asks for a gradient, the tensor, and its tap."""
        del seed
        ctx.set_materialize_grads(False)
        ctx.tap = tap
        return found.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Shows the gradient and hands it on."""
        (gradient,) = gradients
        if gradient is not None and ctx.tap.visit is not None:
            ctx.tap.visit(ctx.tap.name, gradient)
        return None, gradient, None


Visit = Callable[[str, Any], Any]

_DEEPEST = 500
"""More modules than that within one another are one that contains itself."""

_running: ContextVar[object] = ContextVar("cam_hub_running_recorder")
# torch counts hook handles without a lock: two threads could be given the same number.
_registering = threading.Lock()


def modules_by_name(module: nn.Module) -> dict[str, nn.Module]:
    """Every submodule under each of its names, the root left out."""
    # In the order of ``named_modules``, in a tenth of the time.
    found: dict[str, nn.Module] = {}
    waiting = [("", module)]
    while waiting:
        name, child = waiting.pop()
        if name:
            found[name] = child
            if name.count(".") > _DEEPEST:
                raise RecursionError(f"modules that contain themselves: {name[:80]}…")
        prefix = f"{name}." if name else ""
        for part, each in reversed(child._modules.items()):
            if each is not None:
                waiting.append((prefix + part, each))
    return found


def foreign_hooks(module: nn.Module) -> list[Any]:
    """The hooks on one module that are not of ours; another thread's pass may be under way."""
    places = module._forward_hooks, module._forward_pre_hooks
    return [
        hook
        for hooks in places
        if hooks
        for hook in list(hooks.values())
        if getattr(hook, "__module__", None) != __name__
    ]


@contextmanager
def observe(module: nn.Module, visit: Visit, names: Iterable[str] | None = None) -> Iterator[None]:
    """Calls ``visit(name, output)`` each time a submodule has returned.

    Args:
        module: The model whose passes, within this context and thread, are observed.
        visit: Receives the submodule's name and what it returned. What it returns in its turn
            replaces the output, unless it is None.
        names: Which submodules; None for all, each under its first name.

    Raises:
        LayerNotFound: If a name is not one of the model's.
    """
    wanted: dict[str, nn.Module] = {}
    if names is None:
        # Scripted parts take no hooks.
        scripted = torch.jit._script.RecursiveScriptModule
        parts = module.named_modules()
        wanted = {name: child for name, child in parts if name and not isinstance(child, scripted)}
    for name in names or ():
        try:
            wanted[name] = module.get_submodule(name)
        except AttributeError:  # none, or one that an attribute of the class hides
            known = modules_by_name(module)
            if name not in known:
                raise LayerNotFound(name, nearest_names(str(name), known)) from None
            wanted[name] = known[name]
    token = _running.set(recorder := object())
    handles = []
    try:
        for name, child in wanted.items():

            def hook(_module: nn.Module, _inputs: Any, output: Any, name: str = name) -> Any:
                return visit(name, output) if _running.get(None) is recorder else None

            with _registering:
                handles.append(child.register_forward_hook(hook))
        yield
    finally:
        for handle in reversed(handles):
            handle.remove()
        _running.reset(token)


@contextmanager
def unobserved() -> Iterator[None]:
    """Passes of this context and thread are not observed, also within an ``observe``."""
    token = _running.set(None)
    try:
        yield
    finally:
        _running.reset(token)


@dataclass(eq=False)
class Taps:
    """The activations of the target layers of one forward pass, and the backward pass to them.

    Run the model once while ``record`` observes the layers, with autograd on and no parameter
    asking for gradients: then the pass is free of a graph up to the first of the layers.

    Attributes:
        overwritten: The layers whose output is written to by what follows; None if that is not
            known, so that it must be expected of all. Afterwards ``intact`` is false if others
            were written to.
        rows: Which images of the batch are recorded; None for all. The backward pass is that of
            all of them.
        batch_second: The layers whose output has the batch in its second dimension.
        folded: The layers whose output has parts of the only image (frames) in place of the batch;
            they are recorded as ``(1, parts, …)``.
        chosen: Of layers that run several times, which call is recorded, from 0; the last one of
            the others.
        activations: The last output of each layer that has run, by name, in the order in which
            they finished, with the batch in the first dimension, as gradients have it. They are
            part of the autograd graph and must not be written to.
        calls: How often each layer has run.
    """

    overwritten: Container[str] | None = None
    rows: Sequence[int] | None = None
    batch_second: Container[str] = ()
    folded: Container[str] = ()
    chosen: Mapping[str, int] = field(default_factory=dict)
    activations: dict[str, Tensor] = field(default_factory=dict, init=False)
    calls: dict[str, int] = field(default_factory=dict, init=False)
    _passed: dict[str, int] = field(default_factory=dict, init=False)
    _gradient_taps: dict[str, GradientTap] = field(default_factory=dict, init=False)
    _versions: dict[str, int] = field(default_factory=dict, init=False)
    _seed: Tensor | None = field(default=None, init=False)

    @property
    def intact(self) -> bool:
        """Whether no recorded activation was written to after it was recorded."""
        for name, version in self._versions.items():
            if self.activations[name]._version != version:
                return False
        return True

    def record(self, name: str, output: Any) -> Any:
        """Records the output of a layer that has returned.

        Returns:
            The output for what follows, from which the graph starts; None to leave it as it is.
        """
        number = self._passed.get(name, 0)
        self._passed[name] = number + 1
        if self.chosen.get(name, number) != number:
            return None
        found = main_tensor(output)
        if found is None or not found.is_floating_point():
            return None
        returned, second = found, name in self.batch_second
        if second and found.ndim < 2:
            return None
        found = found.transpose(0, 1) if second else found
        folded = name in self.folded
        found = found[None] if folded else found
        if self.rows and max(self.rows) >= len(found):
            return None  # not one row per image
        if self._seed is None:
            self._seed = found.new_zeros(()).requires_grad_()
        gradient_tap = self._gradient_taps[name] = GradientTap(name)
        passed: Tensor = Mark.apply(self._seed, found, gradient_tap)
        in_danger = self.overwritten is None or name in self.overwritten
        self.activations.pop(name, None)
        self._versions.pop(name, None)
        goes_on = passed
        if self.rows is not None and len(self.rows) < len(passed):
            first = range(len(self.rows))  # of which a view suffices
            listed = list(self.rows)
            kept = passed[: len(first)] if listed == list(first) else passed[listed]
            if in_danger and kept._is_view():
                kept = kept.clone()  # the rest of the batch may go
        else:
            kept = passed
            if in_danger:
                # In-place layers that follow (ReLU after a batch norm) may write to the copy.
                goes_on = passed.clone()
        if not in_danger:
            self._versions[name] = kept._version
        self.activations[name] = kept
        self.calls[name] = self.calls.get(name, 0) + 1
        goes_on = goes_on.transpose(0, 1) if second else goes_on[0] if folded else goes_on
        return _replace(output, returned, goes_on)

    @contextmanager
    def visiting(self, score: Tensor, visit: Callable[[str, Tensor], None]) -> Iterator[Tensor]:
        """Within this context, a backward pass shows the gradients and keeps none of them.

        So they need not fit in memory side by side. The pass ends at the first of the layers. One
        thread at a time may run it.

        Args:
            score: A scalar computed from the same forward pass.
            visit: Called with a layer's name and its gradient, of the shape of all of the batch's
                activations, during the backward pass; not for layers on which the score does not
                depend. What it raises stops the pass.

        Yields:
            What to differentiate the score by, with ``allow_unused=True``.

        Raises:
            NoMap: If the score depends on none of the layers.
        """
        if self._seed is None or not score.requires_grad:
            raise NoMap(
                "the class score does not depend on it, or the model cuts the gradient "
                "(detach, no_grad, rounding) on the way; take an earlier layer",
                layer=next(iter(self._gradient_taps)) if len(self._gradient_taps) == 1 else None,
            )
        try:
            for each in self._gradient_taps.values():
                each.visit = visit
            yield self._seed
        finally:
            for each in self._gradient_taps.values():
                each.visit = None

    def visit_gradients(
        self, score: Tensor, visit: Callable[[str, Tensor], None], *, keep_graph: bool = True
    ) -> None:
        """The backward pass from a score, as ``visiting`` shows it.

        Args:
            score: As for ``visiting``.
            visit: As for ``visiting``.
            keep_graph: Whether another score may be differentiated after this one.

        Raises:
            NoMap: As ``visiting``.
        """
        with self.visiting(score, visit) as seed:
            torch.autograd.grad(score, seed, retain_graph=keep_graph, allow_unused=True)

    def gradients(
        self, outputs: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> dict[str, Tensor] | None:
        """The gradients of several scores by one backward pass, which keeps all of them.

        Args:
            outputs: Tensors computed in the same forward pass.
            weights: For each of them ``(K, *shape)``: what is added up for each of the K scores.

        Returns:
            ``(K, *shape)`` for each layer on which the outputs depend; None if there is none, or
            torch cannot do so for a part of this network.
        """
        marks: dict[str, Any] = {}
        for output in outputs:
            marks |= self._marks(output)
        if not marks:
            return None
        asked = [GradientEdge(mark, 0) for mark in marks.values()]

        def backward(each: list[Tensor]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(list(outputs), asked, each, retain_graph=True)

        try:
            with warnings.catch_warnings(action="ignore"):  # parts that are run score by score
                found = torch.func.vmap(backward)(list(weights))
        except RuntimeError:
            return None
        return dict(zip(marks, found, strict=True))

    def upstream(self, tensor: Tensor, stop: str | None = None) -> set[str]:
        """The layers from whose recorded output a tensor was computed, by the graph alone.

        Args:
            tensor: Something computed in the same forward pass, or a recorded activation.
            stop: A layer that is not passed through, nor named.
        """
        return set(self._marks(tensor, stop))

    def _marks(self, tensor: Tensor, stop: str | None = None) -> dict[str, Any]:
        """The same layers, each with the node of the graph that its mark is."""
        last = {id(each): name for name, each in self._gradient_taps.items()}
        found: dict[str, Any] = {}
        waiting, seen = [tensor.grad_fn], {tensor.grad_fn}
        while waiting:
            node = waiting.pop()
            if node is None:
                continue
            name = last.get(id(getattr(node, "tap", None)))
            if name is not None and name == stop:
                continue
            if name is not None:
                found[name] = node
            more = {fed for fed, _ in node.next_functions} - seen
            seen |= more
            waiting += more
        return found


def watch_writes(tensor: Tensor) -> Callable[[], bool]:
    """A question that can be asked later: was this tensor written to since? It is kept till then.

    For a tensor that keeps no count of writes (made in inference mode) the answer is yes.
    """
    if tensor.is_inference():
        return lambda: True
    alias, version = tensor.detach(), tensor._version  # an alias shares the count of writes
    return lambda: alias._version != version


def same_values(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same memory, read alike: what one holds the other holds, too."""
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.dtype == other.dtype
    )


def main_tensor(output: Any) -> Tensor | None:
    """The tensor that a layer's output is about: itself, or the first one in its containers."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = output.values()
    elif not isinstance(output, (tuple, list)):
        return None
    return next((found for part in output if (found := main_tensor(part)) is not None), None)


def _replace(output: Any, old: Tensor, new: Tensor) -> Any:
    """``output`` with one of its tensors exchanged; containers keep their type."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        changed = {key: _replace(value, old, new) for key, value in output.items()}
        return changed if type(output) is dict else type(output)(changed)  # type: ignore[call-arg]
    if isinstance(output, (tuple, list)):
        parts = [_replace(part, old, new) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output
