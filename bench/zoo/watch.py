"""Observes a model from outside: changes to its state, and the cost of layer discovery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Cost", "State", "counted", "state_of"]

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


@dataclass(frozen=True)
class State:
    """The facts that must not change, by the names of modules and parameters."""

    facts: dict[str, object]

    def differences(self, later: State) -> list[str]:
        """The differences of a later state from this one, in words; empty if there are none."""
        names = [*self.facts, *(name for name in later.facts if name not in self.facts)]
        return [
            f"{name}: {self.facts.get(name, 'absent')} became {later.facts.get(name, 'absent')}"
            for name in names
            if self.facts.get(name, "absent") != later.facts.get(name, "absent")
        ]


def state_of(module: nn.Module) -> State:
    """Hooks, training flags and own ``forward`` of modules; flags and writes of parameters."""
    facts: dict[str, object] = {}
    for name, child in module.named_modules():
        where = name or "the model"
        facts[f"{where}, training"] = child.training
        facts[f"{where}, hooks"] = sum(len(getattr(child, hooks)) for hooks in _HOOKS)
        facts[f"{where}, forward replaced"] = "forward" in vars(child)
    for name, weight in module.named_parameters():
        facts[f"{name}, requires_grad"] = weight.requires_grad
        facts[f"{name}, has a gradient"] = weight.grad is not None
        facts[f"{name}, times written to"] = weight._version
    return State(facts)


@dataclass
class Cost:
    """The passes through a network.

    Attributes:
        forward: Images.
        backward: Calls of autograd.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(module: nn.Module) -> Iterator[Cost]:
    """Counts passes through a model, or through copies that are made of it meanwhile.

    Forward passes are counted in images, by a hook on the root (which copies inherit); backward
    passes by the calls of ``torch.autograd.grad`` and ``backward``.
    """
    cost = Cost()

    def before(_module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        cost.forward += _images([*inputs, *keywords.values()])

    def counting(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            cost.backward += 1
            return function(*args, **kwargs)

        return call

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    grad, backward = torch.autograd.grad, torch.autograd.backward
    torch.autograd.grad, torch.autograd.backward = counting(grad), counting(backward)
    try:
        yield cost
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward
        handle.remove()


def _images(inputs: Sequence[Any]) -> int:
    """The number of images in a call: the length of the batch, or of the list of images."""
    first = inputs[0] if inputs else None
    if isinstance(first, Tensor):
        return len(first) if first.ndim else 1
    return len(first) if isinstance(first, (list, tuple)) else 1
