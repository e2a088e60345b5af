"""What is asked of a model, and the one place in which it is explained, with the time it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from PIL import Image

from cam_hub.attribution.compare_columns import Columns
from cam_hub.attribution.explain import explain
from cam_hub.attribution.passes import Progress
from cam_hub.attribution.preparation import Prepared
from cam_hub.errors import CamHubError, ModelRefused, OutOfMemory
from cam_hub.hooks.frozen_eval import quiet
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.comparison_cells import Cost
from cam_hub.results.explanation import Explanation

__all__ = ["Done", "Question", "Teller", "Worker", "answers", "foreseen", "forward_seconds"]

Item = TypeVar("Item")

_TRIALS = 3
_TRIAL_SECONDS = 0.3
"""A forward pass is timed so often, unless this time is spent."""


@dataclass(frozen=True)
class Question:
    """What every model is asked.

    Attributes:
        image: The picture, as it was given.
        photo: The same, opened once for all models; None where each makes its own of it (tensors,
            clips).
        columns: Methods, layers, classes.
        options: Further arguments of ``explain``, the same for all.
        most: Most layers that a word may stand for; None for any number.
    """

    image: object
    photo: Image.Image | None
    columns: Columns
    options: Mapping[str, Any]
    most: int | None = None

    def picture_for(self, model: LoadedModel) -> object:
        """The picture as this model takes it: of an animation, models of clips see all frames."""
        is_clip = len(model.input_size) == 4
        return self.image if self.photo is None or is_clip else self.photo


@dataclass(frozen=True)
class Done:
    """A piece of work that went well."""

    result: Explanation
    cost: Cost


class Teller:
    """Passes on how far the work is, and remembers whether it was told to stop.

    What is told never falls, also where a piece of work is done again in parts.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._row, self._span, self._prefix = (0.0, 1.0), (0.0, 1.0), ""
        self._most = 0.0
        self.stopped = False

    def row(self, number: int, count: int, prefix: str) -> None:
        """What is told from now on is about one of so many rows."""
        self._row, self._span, self._prefix = (number / count, 1 / count), (0.0, 1.0), prefix

    def span(self, start: float, length: float) -> None:
        """What is told from now on is about this part of the row."""
        self._span = (start, length)

    def __call__(self, part: float, what: str) -> None:
        """Tells of a part, in [0, 1], of what ``span`` has named."""
        if self._progress is None:
            return
        for start, length in (self._span, self._row):
            part = start + length * min(part, 1.0)
        self._most = max(self._most, part)
        try:
            self._progress(self._most, f"{self._prefix}{what}")
        except BaseException:
            self.stopped = True
            raise


@contextmanager
def foreseen(model_id: str, tell: Teller) -> Iterator[None]:
    """Makes errors that no one foresaw the model's own, so that other rows go on.

    Raises:
        ModelRefused: In place of whatever was raised, other than to stop the work.
    """
    try:
        yield
    except CamHubError:
        raise
    except Exception as error:  # whatever the code of a network raises on its way back
        if tell.stopped:
            raise
        first = (str(error) or type(error).__name__).splitlines()[0]
        if is_out_of_memory(error):
            raise OutOfMemory(model_id, f"{first}; a smaller input needs less.") from error
        raise ModelRefused(model_id, f"explaining it failed: {first}") from error


@dataclass(frozen=True)
class Worker:
    """Explains one picture by one model.

    Attributes:
        model: The model.
        question: What is asked.
        forward: Seconds of a plain forward pass.
        tell: Told how far it is.
    """

    model: LoadedModel
    question: Question
    forward: float
    tell: Teller

    def explain(self, method: str, layers: Any, classes: Any, maps: int) -> Done:
        """Makes some maps together: the only call of the engine.

        Args:
            method: Of all maps.
            layers: As ``explain`` takes them, and so are the classes.
            classes: The classes.
            maps: How many maps it is meant to give.

        Raises:
            CamHubError: As ``explain``.
        """
        start = _now(self.model.device)
        with foreseen(self.model.id, self.tell):
            result = explain(
                self.model,
                self.question.picture_for(self.model),
                method=method,
                target_layers=layers,
                classes=classes,
                reuse=False,  # else the cost of a map would be that of finding it
                progress=self.tell,
                **self.question.options,
            )
        seconds = _now(self.model.device) - start
        photo = self.question.photo
        if photo is not None and not result.pictures.clip:
            result = result.showing(photo)  # one copy for the whole grid
        return Done(result, Cost(seconds, seconds / self.forward, maps))


def answers(
    items: Sequence[Item], work: Callable[[list[Item]], Done], tell: Teller
) -> dict[Item, Done | CamHubError]:
    """Does work for several things at once, and finds those that make it fail.

    What fails is halved until the culprits stand alone: one of n costs about ``2 log2 n`` more
    pieces of work.

    Args:
        items: The things.
        work: Does it for some of them together.
        tell: Knows whether the work is to stop.

    Returns:
        For each the work that it is in, or its error.
    """
    if not items:
        return {}
    try:
        return dict.fromkeys(items, work(list(items)))
    except CamHubError as error:
        if tell.stopped:
            raise
        if len(items) == 1:
            return {items[0]: error}
    half = len(items) // 2
    return answers(items[:half], work, tell) | answers(items[half:], work, tell)


def forward_seconds(model: LoadedModel, prepared: Prepared) -> float:
    """How long one plain forward pass takes, once the model is warm: the shortest of a few.

    Raises:
        ModelRefused: If the network raises.
    """
    times: list[float] = []
    with quiet(model.module), torch.no_grad():
        model.run(prepared.tensor)
        while len(times) < _TRIALS and sum(times) < _TRIAL_SECONDS:
            start = _now(model.device)
            model.run(prepared.tensor)
            times.append(max(_now(model.device) - start, 1e-9))
    return min(times)


def _now(device: torch.device) -> float:
    """Seconds, after all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
