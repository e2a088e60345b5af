"""Depth of a layer: its position among the leaf modules in order of execution.

A *leaf* is a module that ran while none of its submodules did; if it ran several times, its last
run counts. Its output has *positions* if at least two of its axes other than the batch are longer
than 1, so that it is not a vector. The leaves *before pooling* are those up to the last leaf whose
output has positions. The position of a layer is the point at which it last finished, so a container
directly follows its last leaf.

A layer is deep if at most a tenth of these leaves ran after it. Blocks may be longer than that, and
with a class token the patches of the last block have no gradient, so that its first norm is the
right choice. Therefore a layer also counts as deep if it is in the last block: at most a tenth of
the leaves ran after that block. A *block* is the innermost repeated module that is, or contains,
the layer. A module is *repeated* if it contains leaves and has a similar sibling (of the same
class; for plain containers, also with children of the same classes) that also contains leaves. A
repeated module that is, or has as a child, a plain container of parts that are themselves repeated
is a stage, not a block, and does not count. (Named parts are parallel: the streams of a block with
several scales.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Depth", "find_depth"]

TAIL = 0.1
"""The share of the leaves before pooling that may run after the layer, or after its block."""


_PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Depth:
    """The position of a layer.

    Attributes:
        leaves: Number of leaves before pooling.
        after: Number of these leaves that ran after the layer.
        after_block: Number that ran after the block that contains it; ``after`` without a block.
        block_leaves: Number of leaves of that block; 0 without a block.
    """

    leaves: int
    after: int
    after_block: int
    block_leaves: int

    @property
    def in_last_tenth(self) -> bool:
        """Whether at most a tenth of the leaves ran after the layer."""
        return self.after <= TAIL * self.leaves

    @property
    def deep(self) -> bool:
        """Whether the layer is in the last tenth, or in the last block."""
        return self.in_last_tenth or (
            self.block_leaves > 0 and self.after_block <= TAIL * self.leaves
        )


def find_depth(module: nn.Module, image: Tensor, layer: str) -> Depth:
    """Runs the network once and finds the position of a layer.

    Args:
        module: The network, in evaluation mode.
        image: An input, batch first.
        layer: The layer's name, as in ``named_modules``.

    Raises:
        LookupError: If the layer did not run.
    """
    trace = _trace(module, image)
    names = _first_names(module)
    chosen = module.get_submodule(layer)
    if chosen not in trace.finished:
        raise LookupError(f"the layer {layer!r} did not run")
    leaves = [each for each in trace.order if not _ran_within(each, trace)]
    last = max((i for i, leaf in enumerate(leaves) if trace.places[leaf]), default=-1)
    times = [trace.finished[leaf] for leaf in leaves[: last + 1]]

    def after(part: nn.Module) -> int:
        return sum(time > trace.finished[part] for time in times)

    block = _block(module, names[chosen], trace)
    inside = set(block.modules()) if block is not None else set()
    return Depth(
        leaves=len(times),
        after=after(chosen),
        after_block=after(block if block is not None else chosen),
        block_leaves=sum(leaf in inside for leaf in leaves[: last + 1]),
    )


@dataclass(frozen=True)
class _Trace:
    """A record of a pass: when each module finished last, and whether its output had positions."""

    finished: dict[nn.Module, int]
    places: dict[nn.Module, bool]

    @property
    def order(self) -> list[nn.Module]:
        return sorted(self.finished, key=self.finished.__getitem__)


def _trace(module: nn.Module, image: Tensor) -> _Trace:
    trace = _Trace({}, {})
    clock = 0

    def visit(child: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal clock
        clock += 1
        trace.finished[child] = clock
        trace.places[child] = _has_places(output)

    handles = [child.register_forward_hook(visit) for child in module.modules()]
    try:
        with torch.no_grad():
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def _has_places(output: Any) -> bool:
    if isinstance(output, Tensor):
        return sum(length > 1 for length in output.shape[1:]) >= 2
    if isinstance(output, dict):
        output = output.values()
    elif not isinstance(output, (tuple, list)):
        return False
    return any(map(_has_places, output))


def _ran_within(module: nn.Module, trace: _Trace) -> bool:
    return any(child in trace.finished for child in module.modules() if child is not module)


def _first_names(module: nn.Module) -> dict[nn.Module, str]:
    return {child: name for name, child in module.named_modules()}


def _block(module: nn.Module, name: str, trace: _Trace) -> nn.Module | None:
    """The block that is, or contains, the module of this name; None if there is none."""
    while name:
        parent_name, _, _ = name.rpartition(".")
        here, parent = module.get_submodule(name), module.get_submodule(parent_name)
        if _repeated(here, parent, trace):
            parts = [here, *(child for child in here.children() if isinstance(child, _PLAIN))]
            stage = any(
                _repeated(part, owner, trace)
                for owner in parts
                if isinstance(owner, _PLAIN)
                for part in owner.children()
            )
            return None if stage else here
        name = parent_name
    return None


def _repeated(here: nn.Module, parent: nn.Module, trace: _Trace) -> bool:
    """Whether a module contains leaves and has a similar sibling that also does."""
    return _ran_within(here, trace) and any(
        _alike(here, sibling) and _ran_within(sibling, trace)
        for sibling in parent.children()
        if sibling is not here
    )


def _alike(one: nn.Module, other: nn.Module) -> bool:
    if type(one) is not type(other):
        return False
    return not isinstance(one, _PLAIN) or set(map(type, one.children())) == set(
        map(type, other.children())
    )
