"""Forms of a network in which its layers cannot be explained, and what to pass instead."""

from __future__ import annotations

import torch
from torch import fx, nn

from cam_hub.errors import ModelRefused
from cam_hub.hooks.eager import unwrapped

__all__ = ["check_form", "quantized_parts"]

_SHARDED = "FullyShardedDataParallel"
"""Its weights live in flat parameters; those of its successor ``fully_shard`` need no care."""

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def check_form(module: object, id: str) -> None:
    """Refuses a network that has left Python: its layers do not run one by one.

    Args:
        module: What is to be wrapped.
        id: What to call it in the message.

    Raises:
        ModelRefused: With what to pass instead.
    """
    if isinstance(module, nn.Module):
        module = unwrapped(module)
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        kind = "a TorchScript module (scripted, traced or frozen)"
        lack = "its layers cannot be observed one by one"
        instead = "pass the Python module that was scripted or traced, before torch.jit"
    elif type(module).__module__.startswith("torch.export") and not isinstance(module, nn.Module):
        kind, lack = "a torch.export program", "it is a list of operators without layers"
        instead = "pass the Python module that was exported"
    elif isinstance(module, fx.GraphModule) and _is_exported(module):
        kind, lack = "an exported graph", "it is a list of operators without layers"
        instead = "pass the Python module that it was made from"
    elif isinstance(module, nn.Module) and any(map(_is_sharded, module.modules())):
        kind, lack = "sharded (FSDP)", "its weights are not whole outside of its own passes"
        instead = "pass the plain module with the weights of a full state dict"
    else:
        return
    raise ModelRefused(id, f"it is {kind}: {lack}; {instead}.")


def quantized_parts(module: nn.Module) -> list[str]:
    """Names of the parts that compute in whole numbers, which have no gradient."""
    return [
        name
        for name, child in module.named_modules()
        if type(child).__module__.startswith(_QUANTIZED) and name
    ]


def _is_sharded(module: nn.Module) -> bool:
    return type(module).__name__ == _SHARDED


def _is_exported(module: fx.GraphModule) -> bool:
    """Whether it calls operators of torch's core, which only exported graphs do."""
    return any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes)
