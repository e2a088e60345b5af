"""Variants of a loaded model: with another output, or in double precision."""

from __future__ import annotations

import copy
import logging
import threading
import warnings
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.errors import InvalidArgument, ModelRefused, OutOfMemory
from cam_hub.hooks.execution import watch
from cam_hub.hooks.frozen_eval import unwrapped
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.models.loaded_model import EXECUTION, LoadedModel
from cam_hub.options import OutputChoice
from cam_hub.targets.base import Task
from cam_hub.targets.classification import Classification
from cam_hub.targets.reading import probes

__all__ = ["double_copy", "double_pair", "in_double", "with_output"]


_OUTPUTS = "outputs"
"""The fact of a model that holds it with an output settled, by the choice of the output."""

_MAX_OUTPUTS = 8
"""Outputs of one model that are kept; a function that is written anew for each call is another."""

_LOG = logging.getLogger("cam_hub")


def with_output(model: LoadedModel, output: OutputChoice = None) -> LoadedModel:
    """The model with the output that is explained, and how it is read, settled in its task.

    A wrapped module is run on a few inputs for that, once, and so is a network of other packages
    that is registered with timm. Networks of timm and torchvision themselves return the scores that
    their configurations declare.

    Args:
        model: The model; it stays as it is.
        output: The output that the caller has chosen; None for the one that the model was wrapped
            with, else for the main one.

    Raises:
        InvalidArgument: If there is no such output.
        ModelRefused: If an output was chosen and the network cannot be run.
    """
    chosen = output if output is not None else model.task.wanted
    package = type(model.module).__module__.partition(".")[0]
    declared = model.source != "module" and package in ("timm", "torchvision")
    if (chosen is None and declared) or (model.task.settled and chosen == model.task.wanted):
        return model
    with model.lock:
        known: dict[Any, LoadedModel] = model.facts.setdefault(_OUTPUTS, {})
        if chosen not in known:
            found = _settled(model, chosen)
            if found is None:
                return model
            while len(known) >= _MAX_OUTPUTS:
                del known[next(iter(known))]
            known[chosen] = found
        return known[chosen]


def _settled(model: LoadedModel, chosen: OutputChoice) -> LoadedModel | None:
    """The model after a look at what its network returns; None if it cannot be run."""
    names = model.class_names
    own = model.task.names if isinstance(model.task, Classification) else None
    if own is not None:
        names = own.labels
    try:
        with watch(model.module):  # which leaves random numbers and buffers as they are
            task = model.task.read_from(
                unwrapped(model.module),
                probes(model.input_size, torch.empty(0, dtype=model.dtype, device=model.device)),
                choice=chosen,
                labels=None if names is None or (own and own.declared) else len(names),
            )
    except InvalidArgument:
        raise
    except Exception as error:  # whatever a network raises
        if chosen is None:
            return None  # the next run reports that
        if is_out_of_memory(error):
            raise OutOfMemory(model.id, "a forward pass of one image does not fit.") from error
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelRefused(model.id, f"its forward pass failed: {first}") from error
    notes = _notes(model.id, task, chosen=chosen is not None)
    found = replace(
        model,
        task=replace(task, wanted=chosen, settled=True),
        notes=(*model.notes, *notes),
    )
    if chosen == model.task.wanted:  # whose facts are the model's own
        return found
    return replace(found, facts={}, lock=threading.RLock())


def _notes(model_id: str, task: Task, *, chosen: bool) -> list[str]:
    """The notes for users; a value that cannot be a logit is a warning, too."""
    notes = []
    if task.head is not None and not chosen and len(task.head.others) > 1:
        others = ", ".join(task.head.others)
        notes.append(
            f"the network returns several outputs ({others}); {task.head.name!r} is explained, "
            "and output= selects another"
        )
    if isinstance(task, Classification) and task.inner is not None:
        what = "log-probabilities" if task.inner.startswith("log_") else "probabilities"
        notes.append(f"the network returns {what}, which are taken as they are")
    if isinstance(task, Classification) and task.value is not None:
        low, high = task.value
        notes.append(
            f"its single output lies between {low:.4g} and {high:.4g} for a few inputs, so it "
            "cannot be a logit, and no probability is stated; if it is a value, pass "
            "task='regression'"
        )
        warnings.warn(f"{model_id}: {notes[-1]}", stacklevel=2)
    for note in notes:
        _LOG.info("%s: %s", model_id, note)
    return notes


_DOUBLE = "in_double"


def in_double(model: LoadedModel) -> LoadedModel:
    """The same model in double precision, made once and kept with it.

    Args:
        model: The model; it stays as it is.

    Returns:
        A copy with its own weights, twice the size; on the CPU where the device has no double
        precision (MPS). The model itself if it is in double precision already, or if its module
        cannot be copied.
    """
    if model.dtype == torch.float64:
        return model
    with model.lock:
        if _DOUBLE not in model.facts:
            model.facts[_DOUBLE] = twin = _twin(model)
            if twin is not model:
                _LOG.info("%s: computed in double precision as well, which takes a copy", model.id)
        found: LoadedModel = model.facts[_DOUBLE]
    return found


def double_copy(module: nn.Module) -> nn.Module | None:
    """A copy in double precision, on the CPU where the device has none (MPS).

    Args:
        module: The module; it stays as it is.

    Returns:
        None if it cannot be copied.
    """
    try:
        copied = copy.deepcopy(module)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    tensors = chain(copied.parameters(), copied.buffers())
    if any(tensor.device.type == "mps" for tensor in tensors):
        copied = copied.cpu()
    for child in copied.modules():
        # Tensors that are neither parameters nor buffers do not follow by themselves.
        for name, value in vars(child).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(child)[name] = value.detach().double()
    return copied.double()


def double_pair(module: nn.Module, clean: Tensor) -> tuple[nn.Module, Tensor] | None:
    """A copy of a module and of its input in double precision, both on the same device.

    Args:
        module: The module; it stays as it is.
        clean: Its input.

    Returns:
        None if they are in double precision already, or if the module cannot be copied.
    """
    finer = double_copy(module) if clean.dtype != torch.float64 else None
    if finer is None:
        return None
    place = next(chain(finer.parameters(), finer.buffers()), clean).device
    return finer, clean.to(place).double()


def _twin(model: LoadedModel) -> LoadedModel:
    module = double_copy(model.module)
    if module is None:
        return model
    facts = {EXECUTION: model.execution}
    return replace(model, module=module, facts=facts, lock=threading.RLock())
