"""Checkpoints of networks with random weights, as pushed to the Hub."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import nn

from cam_hub.models.checkpoint import read_content, unwrap


def save(module: nn.Module, folder: Path, **config: object) -> None:
    """Writes a timm network with its configuration; no constructor produces any of its numbers.

    The values added to the weights average to zero: with a bias to one side, the outputs of a deep
    network without pretrained statistics overflow.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in module.state_dict().items():
        state[name] = tensor.clone()
        if tensor.is_floating_point():
            state[name] += 0.01 * (torch.rand(tensor.shape, generator=generator) - 0.5)
    save_file(state, folder / "model.safetensors")
    save_config_for_hf(module, str(folder / "config.json"), model_config=config or None)


def by_timm(folder: Path) -> nn.Module:
    """The network as loaded from such a folder by timm itself."""
    module: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return module


def everything(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, also those that no checkpoint contains."""
    return dict(
        [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
    )


def tensors_of(answer: object) -> list[torch.Tensor]:
    """All tensors in a network's output."""
    if isinstance(answer, torch.Tensor):
        return [answer]
    assert isinstance(answer, (dict, list, tuple))
    parts = answer.values() if isinstance(answer, dict) else answer
    return [tensor for part in parts for tensor in tensors_of(part)]


def same(one: object, other: object) -> bool:
    """Whether two outputs of a network are the same, bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    assert isinstance(one, (list, tuple)) and isinstance(other, (list, tuple))
    return len(one) == len(other) and all(map(same, one, other))


def read_checkpoint(id: str, path: Path, *, pickles: bool) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, by name."""
    return unwrap(id, path, read_content(id, path, pickles=pickles, poll=lambda: None))
