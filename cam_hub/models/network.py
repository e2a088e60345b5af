"""Builds the network of a timm repo with timm's own loader; checks the form of wrapped networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import PretrainedCfg
from torch import Tensor, fx, nn

from cam_hub._text import shortened
from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.hooks.frozen_eval import unwrapped
from cam_hub.images.preprocessing import Preprocessing
from cam_hub.models.checkpoint import (
    check_finite,
    read_content,
    tensors_in,
    unwrap,
    without_prefixes,
)
from cam_hub.models.config import CONFIG, RepoConfig
from cam_hub.models.initialisation import build_on_meta, build_without_initialisation
from cam_hub.models.loading import FloatType, check_memory, pick_stored

__all__ = ["build", "check_form", "quantized_parts"]


_CPU = torch.device("cpu")

_MAX_GROWTH = 4
"""A network may have so many times the parameters of its file: some are made of fewer weights."""

_SPARE = 2**22
_CALLS_PER_WEIGHT = 40  # timm's architectures take at most 14
_CALLS = 5_000

_ORDINARY = frozenset({"num_classes", "in_chans", "global_pool", "img_size", "drop_rate"})
"""Arguments that make no network much larger, within the bounds of a configuration."""

_ORDINARY_SIDE = 512

_cut = partial(shortened, limit=240)  # one line of torch's account of what does not fit


class _ConfigWithWeights(PretrainedCfg):
    """A configuration with the weights in it.

    timm takes weights so, but copies them whenever it turns its configuration into a dictionary;
    here they are handed on.
    """

    def to_dict(self, remove_source: bool = False, remove_null: bool = True) -> dict[str, Any]:
        bare = replace(self, state_dict=None)
        facts: dict[str, Any] = PretrainedCfg.to_dict(bare, remove_source, remove_null)
        return {**facts, "state_dict": self.state_dict}


def build(
    id: str,
    config: RepoConfig,
    weights: Path,
    *,
    pickles: bool = True,
    dtype: FloatType = "auto",
    device: torch.device = _CPU,
    own_memory: bool = False,
    poll: Callable[[], None] = lambda: None,
) -> nn.Module:
    """Builds the network of a repo and loads its weights.

    In float32, its outputs are those of ``timm.create_model("local-dir:…", pretrained=True)`` on
    the same files, to the bit. Weights under a prefix, or in tables within tables, which timm does
    not find, are found by the names that end in the architecture's own.

    Args:
        id: The model's ID, for messages.
        config: The repo's configuration.
        weights: The file of its weights.
        pickles: Whether that may be a pickle.
        dtype: The type of the weights.
        device: Where they will be moved to; they must fit there.
        own_memory: Whether the file may be written to while the network lives; it then maps
            nothing of it.
        poll: Called again and again; what it raises ends the loading.

    Raises:
        ModelRefused: If the weights cannot be read or do not fit into memory, the network cannot
            be built or is far larger than its weights, they do not fit each other, or the weights
            are not finite.
    """
    content = read_content(id, weights, pickles=pickles, poll=poll)
    tensors = unwrap(id, weights, content, poll)
    kind = pick_stored(dtype, tensors.values())
    numbers = sum(tensor.numel() for tensor in tensors.values())
    check_memory(id, numbers * kind.itemsize, device)
    try:
        module = _create(id, config, tensors, kind, own_memory, poll)
    except ModelRefused:
        everything = tensors_in(id, weights, content, poll)
        expected = _state(id, config, len(everything), poll)
        found = without_prefixes(everything, expected) if expected else None
        if found is None or found.keys() == tensors.keys():
            raise
        module = _create(id, config, found, kind, own_memory, poll)
    try:
        Preprocessing.from_timm(resolve_model_data_config(module))
    except InvalidArgument as error:
        raise ModelRefused(id, f"its {CONFIG} describes no possible input: {error}") from error
    check_finite(id, module, poll)
    return module


def _create(
    id: str,
    config: RepoConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype,
    own_memory: bool,
    poll: Callable[[], None],
) -> nn.Module:
    if _unusual(config, tensors):
        _try_out(id, config, tensors, poll)

    def create() -> nn.Module:
        pretrained = _ConfigWithWeights(**config.pretrained_cfg, state_dict=dict(tensors))
        module: nn.Module = timm.create_model(
            config.architecture, pretrained=True, pretrained_cfg=pretrained, **_arguments(config)
        )
        # The configuration outlives the weights' file, of which it must hold nothing.
        vars(module)["pretrained_cfg"].pop("state_dict")
        return module

    try:
        module = build_without_initialisation(create, dtype=dtype, own_memory=own_memory, poll=poll)
    except Exception as error:  # timm lets bare errors of every kind through
        why = _misfits(error) or _differences(id, config, tensors, poll) or _first_line(error)
        raise ModelRefused(id, f"timm could not build it from its files. {why}") from error
    return module


def _arguments(config: RepoConfig) -> dict[str, Any]:
    args = dict(config.model_args)
    # timm keeps a second copy as what the weights were saved with.
    return {**args, "pretrained_model_args": dict(args)} if args else {}


def _unusual(config: RepoConfig, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a configuration asks for something that its architecture's name does not bound."""
    side = config.model_args.get("img_size")
    sides = [
        *(config.pretrained_cfg.get("input_size") or ())[1:],
        *([side] if isinstance(side, int) else side if isinstance(side, list) else ()),
    ]
    known = {side for tensor in tensors.values() for side in tensor.shape}
    offset = config.pretrained_cfg.get("label_offset") or 0
    return (
        not config.model_args.keys() <= _ORDINARY
        or max(sides, default=0) > _ORDINARY_SIDE
        or (config.num_classes > 0 and config.num_classes + offset not in known)
    )


def _try_out(
    id: str, config: RepoConfig, tensors: Mapping[str, Tensor], poll: Callable[[], None]
) -> None:
    """Refuses what would be far larger than its weights, before it is built."""
    present = sum(tensor.numel() for tensor in tensors.values())
    try:
        module = _without_memory(id, config, len(tensors), poll)
    except ModelRefused:
        raise
    except Exception as error:  # whatever an architecture's constructor raises
        raise ModelRefused(
            id, f"timm could not build it from its files. {_first_line(error)}"
        ) from error
    required = sum(parameter.numel() for parameter in module.parameters())
    if required > _MAX_GROWTH * present + _SPARE:
        raise ModelRefused(
            id,
            f"its {CONFIG} asks for a network of {required:,} parameters, and its weights have "
            f"{present:,}.",
        )


def _without_memory(
    id: str, config: RepoConfig, tensors: int, poll: Callable[[], None]
) -> nn.Module:
    """The network without values, if that takes no more than its number of weights explains."""
    plain = PretrainedCfg(**config.pretrained_cfg)

    def create() -> nn.Module:
        return timm.create_model(
            config.architecture, pretrained=False, pretrained_cfg=plain, **_arguments(config)
        )

    return build_on_meta(id, create, _CALLS + _CALLS_PER_WEIGHT * tensors, poll)


def _misfits(error: Exception) -> str | None:
    """Torch's account of weights that do not fit, cut; None for other errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) < 2 or not lines[0].startswith("Error(s) in loading state_dict"):
        return None
    more = [f"… and {len(lines) - 4} more."] if len(lines) > 4 else []
    return " ".join(["Its weights do not fit:", *map(_cut, lines[1:4]), *more])


def _differences(
    id: str, config: RepoConfig, tensors: Mapping[str, Tensor], poll: Callable[[], None]
) -> str | None:
    """How the weights' names differ from the network's; None if they are much the same.

    timm renames weights of other origin, so that some difference proves nothing.
    """
    expected = _state(id, config, len(tensors), poll)
    if expected is None:
        return None
    missing, extra = [
        sorted(a.keys() - b.keys()) for a, b in ((expected, tensors), (tensors, expected))
    ]
    if len(missing) * 2 < len(expected):
        return None
    return (
        f"Its weights are not those of {config.architecture!r}: {len(missing)} of {len(expected)} "
        f"are missing (such as {_cut(', '.join(missing[:3]))}), {len(extra)} belong to something "
        f"else (such as {_cut(', '.join(extra[:3]))})."
    )


def _state(
    id: str, config: RepoConfig, tensors: int, poll: Callable[[], None]
) -> Mapping[str, Tensor] | None:
    """The network's parameters and buffers without values; None if it cannot be built."""
    try:
        state: Mapping[str, Tensor] = _without_memory(id, config, tensors, poll).state_dict()
    except Exception:  # noqa: BLE001 - the network itself is what cannot be built
        return None
    return state


def _first_line(error: Exception) -> str:
    kind = type(error).__name__
    lines = str(error).strip().splitlines()
    return f"{kind}: {_cut(lines[0])}" if lines else kind


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
    elif isinstance(module, nn.Module) and any(
        type(child).__name__ == _SHARDED for child in module.modules()
    ):
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


def _is_exported(module: fx.GraphModule) -> bool:
    """Whether it calls operators of torch's core, which only exported graphs do."""
    return any(isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes)
