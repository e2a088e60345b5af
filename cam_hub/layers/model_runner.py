"""Runs a network for the experiment, and determines how it has to be run.

The passes of the experiment also show whether a pass draws random numbers or writes to buffers,
whether the network takes a batch at all, and whether the clean input has the same output alone and
among others. Only where something is odd do further passes follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub.hooks.execution import PLAIN, Execution, changed_numbers, watch
from cam_hub.hooks.frozen_eval import unwrapped
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.hooks.recording import main_tensor, observe, unobserved
from cam_hub.targets.base import Task

__all__ = ["ExecutionChanged", "ModelRunner", "Run", "run_observed"]

Run = Callable[[nn.Module, Tensor], Any]
"""How a model is run on a batch."""

_TOLERANCE = 1e-3
"""Answers that differ by more than this part of the greatest value are not the same but for
rounding. What looks so is examined further before anything is concluded."""

_SAME = 1e-6
"""The same for passes that compute alike: batches of one size."""


class ExecutionChanged(Exception):
    """The network has to be run in another way than assumed: the experiment starts again.

    Attributes:
        execution: That way.
    """

    def __init__(self, execution: Execution) -> None:
        super().__init__(execution)
        self.execution = execution


class ModelRunner:
    """Runs a network on batches of inputs, the first of which is the clean one alone.

    Args:
        module: The network.
        task: How it is called.
        execution: How it has to be run, as far as it is known.
        certain: Whether that is all that there is to find out.

    Attributes:
        execution: As given.
    """

    def __init__(
        self, module: nn.Module, task: Task, execution: Execution = PLAIN, *, certain: bool = False
    ) -> None:
        self.execution = execution
        self._module, self._task, self._certain = module, task, certain
        self._clean: Tensor | None = None
        self._clean_output: Tensor | None = None
        self._compared = False

    @property
    def one_by_one(self) -> bool:
        """Whether images pass one at a time."""
        return self.execution.one_by_one

    @property
    def folded(self) -> bool:
        """Whether outputs may have the frames of the only input in place of the batch."""
        return self.execution.folded

    def __call__(self, module: nn.Module, batch: Tensor) -> Any:
        """Runs the network, or a copy of it.

        Raises:
            ExecutionChanged: If it has to be run in another way.
        """
        if self._certain or module is not self._module:  # a copy in double precision
            return self._run(module, batch)
        if self._clean_output is None:
            return self._first(batch)
        try:
            output = self._run(module, batch)
        except Exception as error:
            if len(batch) == 1 or is_out_of_memory(error):
                raise
            raise ExecutionChanged(replace(self.execution, one_by_one=True)) from error
        if self._clean is not None and torch.equal(batch[:1], self._clean):
            with unobserved():
                self._compare(main_tensor(output), len(batch))
        return output

    def _run(self, module: nn.Module, batch: Tensor) -> Any:
        with self.execution.around(module):
            return self._task.run(unwrapped(module), batch)

    def _first(self, clean: Tensor) -> Any:
        if not (self.execution.draws or self.execution.varies or self.execution.written):
            with watch(self._module) as seen:
                output = self._task.run(unwrapped(self._module), clean)
            if seen.drawn or seen.written:
                with unobserved():
                    varies = seen.drawn and self._differs(clean)
                found = replace(self.execution, draws=seen.drawn, written=seen.written)
                raise ExecutionChanged(self._varying(found, clean) if varies else found)
        else:
            output = self._run(self._module, clean)
        answer = main_tensor(output)
        self._clean = clean
        self._clean_output = torch.empty(0) if answer is None else answer.detach().clone()
        return output

    def _compare(self, answer: Tensor | None, images: int) -> None:
        """Makes sure that the clean input, first in its batch, gets the answer it gets alone."""
        alone, clean = self._clean_output, self._clean
        if alone is None or clean is None or self._compared or answer is None or not alone.numel():
            return
        if alone.shape[:1] == (1,) and answer.shape[1:] == alone.shape[1:]:
            if len(answer) == images and _difference(answer[:1], alone) <= _TOLERANCE:
                return
        elif images == 1 or alone.shape[:1] != (1,):
            return  # no answer per image, as of detectors
        self._compared = True
        if self._differs(clean):
            if not self.execution.varies:
                raise ExecutionChanged(self._varying(replace(self.execution, draws=True), clean))
            if self.execution.settled:
                raise ExecutionChanged(replace(self.execution, settled=False))
        elif images > 1 and (len(answer) != images or self._mixes(clean)):
            raise ExecutionChanged(replace(self.execution, one_by_one=True))

    def _varying(self, execution: Execution, clean: Tensor) -> Execution:
        """The execution of a network whose outputs vary: all possible reasons are held constant."""
        with unobserved(), torch.no_grad(), watch(self._module):
            numbers = changed_numbers(
                self._module, lambda: self._task.run(unwrapped(self._module), clean)
            )
        written = tuple(dict.fromkeys((*execution.written, *numbers)))
        return replace(execution, varies=True, one_by_one=True, written=written)

    def _differs(self, clean: Tensor) -> bool:
        """Whether two passes of the clean input, each with other random numbers, differ."""
        outputs = []
        with torch.no_grad():
            for seed in (1, 2):
                if self.execution.varies:  # seeded already
                    output = self._run(self._module, clean)
                else:
                    with watch(self._module, seed=seed):
                        output = self._task.run(unwrapped(self._module), clean)
                outputs.append(main_tensor(output))
        one, other = outputs
        if one is None or other is None:
            return False
        return one.shape != other.shape or _difference(one, other) > _SAME

    def _mixes(self, clean: Tensor) -> bool:
        """Whether the clean input's output depends on the other images of the batch."""
        others = [torch.zeros_like(clean), clean.flip(-1) * 2]
        with torch.no_grad():
            outputs = [self._run(self._module, torch.cat([clean, each])) for each in others]
        one, other = map(main_tensor, outputs)
        if one is None or other is None:
            return False
        return _difference(one[:1], other[:1]) > _SAME


def run_observed(
    module: nn.Module,
    batch: Tensor,
    run: Run,
    visit: Callable[[str, Any], None],
    names: Iterable[str],
) -> None:
    """Runs a batch and shows the layers' outputs for all of it.

    Args:
        module: The network.
        batch: ``(N, …)``.
        run: How to run it; where its ``one_by_one`` is true, images pass one at a time, and their
            outputs are put together. An output of several parts for one image (frames folded into
            the batch) then gets a dimension of its own: ``(N, parts, …)``.
        visit: Called with each layer's name and output.
        names: The layers.
    """
    if not getattr(run, "one_by_one", False):
        with observe(module, visit, names):
            run(module, batch)
        return
    outputs: dict[tuple[str, int], list[Tensor | None]] = {}
    layers = list(names)
    for image in torch.split(batch, 1):
        calls: dict[str, int] = {}

        def collect(name: str, output: Any, calls: dict[str, int] = calls) -> None:
            tensor = main_tensor(output)
            key = name, calls.get(name, 0)
            calls[name] = key[1] + 1
            outputs.setdefault(key, []).append(None if tensor is None else tensor.detach().clone())

        with observe(module, collect, layers):
            run(module, image)
    for (name, _), parts in outputs.items():
        visit(name, _joined(parts, len(batch)))


def _joined(parts: list[Tensor | None], images: int) -> Tensor | None:
    """The outputs of several images in one; None where they do not fit together."""
    tensors = [part for part in parts if part is not None]
    if len(tensors) != images or len({part.shape for part in tensors}) != 1:
        return None
    shape = tensors[0].shape
    if shape[:1] == (1,):
        return torch.cat(tensors)
    if len(shape) == 3 and shape[1] == 1:  # (L, N, C)
        return torch.cat(tensors, dim=1)
    return torch.stack(tensors)


def _difference(one: Tensor, other: Tensor) -> float:
    """The greatest difference as a part of the greatest value; 0 where it is undefined."""
    if one.shape != other.shape or not one.numel() or not one.is_floating_point():
        return 0.0
    one, other = one.detach().float(), other.detach().float()
    greatest = float(torch.maximum(one.abs().amax(), other.abs().amax()))
    difference = float((one - other).abs().amax())
    return difference / greatest if greatest > 0 and isfinite(difference) else 0.0
