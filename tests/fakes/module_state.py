"""The state that an explanation must not change."""

from __future__ import annotations

from torch import nn

__all__ = ["state_of"]


def state_of(module: nn.Module) -> list[object]:
    """All state of a module that an explanation must not change."""
    state: list[object] = []
    for child in module.modules():
        hooks = [value for key, value in vars(child).items() if "hooks" in key]
        state += [child.training, *(len(found) for found in hooks if found is not None)]
    for weight in module.parameters():
        state += [weight.requires_grad, weight.grad is None, weight._version]
    return state
