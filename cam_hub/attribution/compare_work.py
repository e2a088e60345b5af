"""The rows of a comparison: each model's explanations of all columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from PIL import Image

from cam_hub._text import first_line
from cam_hub.attribution.choice import AUTO
from cam_hub.attribution.compare_columns import Class, Columns, own_class
from cam_hub.attribution.explain import explain
from cam_hub.attribution.passes import Progress
from cam_hub.attribution.preparation import Prepared, prepare
from cam_hub.errors import CamHubError, ClassNotFound, ModelRefused, NoMap, OutOfMemory, TooMuch
from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.layers.listing import FAITHFUL, list_layers, resolve_layers, suggest_layers
from cam_hub.models.loaded_model import LoadedModel, with_output
from cam_hub.results.comparison_grid import Cell, Cost, Row
from cam_hub.results.explanation import Explanation
from cam_hub.targets.classes import Top

__all__ = [
    "CellQuery",
    "Done",
    "ProgressReport",
    "Worker",
    "answers",
    "empty_cell",
    "foreseen",
    "forward_seconds",
    "make_row",
]


_FOUND = 0.2
"""The part of a row's progress after which the model and its layers are there."""


def make_row(
    model: LoadedModel, question: CellQuery, report: ProgressReport, started: float
) -> Row:
    """Asks one model everything.

    Args:
        model: The model.
        question: The query.
        report: Called with the progress of this row.
        started: When loading the model began (``time.perf_counter``).

    Returns:
        The row, with one cell per column, or per layer that a word stands for.

    Raises:
        CamHubError: If nothing can be had from this model at all.
    """
    report(_FOUND / 2, "finding layers")
    model = with_output(model, question.options.get("output"))
    prepared = prepare(model, question.picture_for(model))
    list_layers(model, input_size=prepared.tensor.shape[1:])
    names = _names_of(model, question, prepared.tensor.shape[1:])
    loading = time.perf_counter() - started
    forward = forward_seconds(model, prepared)
    worker = Worker(model, question, forward, report)
    columns = question.columns
    report.span(_FOUND, 1 - _FOUND)
    if columns.kind == "methods":
        cells = _by_methods(worker, columns)
    elif columns.kind == "layers":
        cells = _by_layers(worker, columns, names, prepared.tensor.shape[1:])
    else:
        cells = _by_classes(worker, columns)
    results = [cell.explanation for cell in cells if cell.explanation is not None]
    return Row(
        model=model.id,
        cells=tuple(cells),
        predictions=results[0].predictions if results else (),
        notes=(*model.notes, *model.execution.notes),
        has_random_weights=model.pretrained is False,
        loading_seconds=loading,
        forward_seconds=forward,
    )


def empty_cell(columns: Columns, place: int, error: CamHubError) -> Cell:
    """A place of the grid without a map, as far as it is known without the model."""
    layer = None
    if isinstance(columns.layers, tuple):
        layer = columns.layers[place if columns.kind == "layers" else 0]
    method = columns.methods[place if columns.kind == "methods" else 0]
    return Cell(method, layer, label=columns.class_name(place), error=error)


def _names_of(model: LoadedModel, question: CellQuery, size: tuple[int, ...]) -> tuple[str, ...]:
    """The layers that are columns."""
    columns = question.columns
    if columns.kind != "layers" or columns.layers is None:
        return ()
    if isinstance(columns.layers, tuple):
        return columns.layers
    names = suggest_layers(model, columns.layers, input_size=size)
    if question.most is not None and len(names) > question.most:
        raise TooMuch(
            "target_layers",
            columns.layers,
            f"at most {question.most} layers, and these are {len(names)} of {model.id}; name some "
            "of them, or take 'stages'",
        )
    return tuple(names)


def _by_methods(worker: Worker, columns: Columns) -> list[Cell]:
    classes, cells = _classes_of(worker.model, columns), []
    share = (1 - _FOUND) / len(columns.methods)
    for place, method in enumerate(columns.methods):
        worker.report.span(_FOUND + place * share, share)
        try:
            done = worker.explain(method, columns.layers, classes, 1)
        except CamHubError as error:
            if worker.report.stopped:
                raise
            cells.append(empty_cell(columns, place, error))
        else:
            cells.append(_cell(done, done.result.layers[0], done.result.classes[0]))
    return cells


def _by_layers(
    worker: Worker, columns: Columns, names: tuple[str, ...], size: tuple[int, ...]
) -> list[Cell]:
    classes, method = _classes_of(worker.model, columns), columns.methods[0]
    found: dict[str, Done | CamHubError] = {}
    for name in names:
        try:
            resolve_layers(worker.model, [name], size)
        except CamHubError as error:
            found[name] = error
    good = [name for name in names if name not in found]
    found |= answers(
        good, lambda some: worker.explain(method, some, classes, len(some)), worker.report
    )
    return [
        _cell(done, name, done.result.classes[0])
        if isinstance(done := found[name], Done)
        else replace(empty_cell(columns, 0, done), layer=name)
        for name in names
    ]


def _by_classes(worker: Worker, columns: Columns) -> list[Cell]:
    method, layers = columns.methods[0], columns.layers
    named: dict[Class, Class | ClassNotFound] = {}
    for item, _ in columns.class_columns:
        if not isinstance(item, Top):
            try:
                named[item] = own_class(item, worker.model.class_names)
            except ClassNotFound as error:
                named[item] = error
    known = [item for item in named.values() if not isinstance(item, CamHubError)]
    count = max([item.count for item, _ in columns.class_columns if isinstance(item, Top)] or [0])
    # The model's own best classes take a pass of their own: in a result that contains named
    # classes as well, the two kinds cannot be distinguished.
    best = answers(
        [Top(count)] if count else [],
        lambda tops: worker.explain(method, layers, tops[0], count),
        worker.report,
    )
    if count and not named and isinstance(failed := best[Top(count)], CamHubError):
        raise failed
    found = answers(
        list(dict.fromkeys(known)),
        lambda some: worker.explain(method, layers, some, len(some)),
        worker.report,
    )
    cells = []
    for place, (item, rank) in enumerate(columns.class_columns):
        if isinstance(item, Top):
            cells.append(_ranked(best[Top(count)], rank, columns, place))
            continue
        own = named[item]
        done = own if isinstance(own, CamHubError) else found[own]
        if isinstance(done, Done):
            # A text that is left is the name of the only score of a model without classes.
            index = own if isinstance(own, int) else done.result.classes[0]
            cells.append(_cell(done, done.result.layers[0], index))
        else:
            cells.append(empty_cell(columns, place, done))
    return cells


def _ranked(done: Done | CamHubError, rank: int, columns: Columns, place: int) -> Cell:
    """The cell of one of a model's own best classes."""
    if not isinstance(done, Done):
        return empty_cell(columns, place, done)
    classes = done.result.classes
    if rank < len(classes):
        return _cell(done, done.result.layers[0], classes[rank])
    few = NoMap(f"the model has only {len(classes)} classes for this picture")
    return empty_cell(columns, place, few)


def _classes_of(model: LoadedModel, columns: Columns) -> Any:
    """The one class that all columns are about, as ``explain`` takes it."""
    if not isinstance(columns.classes, tuple):
        return columns.classes
    ((named, _),) = columns.class_columns
    return [named if isinstance(named, Top) else own_class(named, model.class_names)]


def _cell(done: Done, layer: str, index: int) -> Cell:
    result = done.result
    said = next(entry for entry in result.manifest["classes"] if entry["class_index"] == index)
    cell = Cell(
        method=result.method,
        layer=layer,
        class_index=index,
        label=result.labels[index],
        probability=said.get("probability"),
        cost=done.cost,
    )
    try:
        result.cam(index, layer)
    except NoMap as error:
        return replace(cell, error=error)
    return replace(cell, explanation=result)


Item = TypeVar("Item")

_TRIALS = 3
_TRIAL_SECONDS = 0.3
"""A forward pass is timed so often, unless this time is spent."""


@dataclass(frozen=True)
class CellQuery:
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


class ProgressReport:
    """Reports progress, and records whether the receiver has stopped the work.

    The reported part never falls, also where a piece of work is done again in parts.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._row, self._span, self._prefix = (0.0, 1.0), (0.0, 1.0), ""
        self._most = 0.0
        self.stopped = False

    def row(self, number: int, count: int, prefix: str) -> None:
        """From now on progress is that of one of so many rows."""
        self._row, self._span, self._prefix = (number / count, 1 / count), (0.0, 1.0), prefix

    def span(self, start: float, length: float) -> None:
        """From now on progress is that of this part of the row."""
        self._span = (start, length)

    def __call__(self, part: float, what: str) -> None:
        """Reports a part, in [0, 1], of what ``span`` has named."""
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
def foreseen(model_id: str, report: ProgressReport) -> Iterator[None]:
    """Makes errors that no one foresaw the model's own, so that other rows go on.

    Raises:
        ModelRefused: In place of whatever was raised, other than to stop the work.
    """
    try:
        yield
    except CamHubError:
        raise
    except Exception as error:  # whatever the code of a network raises on its way back
        if report.stopped:
            raise
        first = first_line(error)
        if is_out_of_memory(error):
            raise OutOfMemory(model_id, f"{first}; a smaller input needs less.") from error
        raise ModelRefused(model_id, f"explaining it failed: {first}") from error


@dataclass(frozen=True)
class Worker:
    """Explains one picture by one model.

    Attributes:
        model: The model.
        question: The query.
        forward: Seconds of a plain forward pass.
        report: Called with the progress.
    """

    model: LoadedModel
    question: CellQuery
    forward: float
    report: ProgressReport

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
        with foreseen(self.model.id, self.report):
            result = explain(
                self.model,
                self.question.picture_for(self.model),
                method=method,
                target_layers=layers,
                classes=classes,
                # Else its cost would be that of finding it; but a choice rests on earlier images.
                reuse=method == AUTO or layers == FAITHFUL,
                progress=self.report,
                **self.question.options,
            )
        seconds = _now(self.model.device) - start
        photo = self.question.photo
        if photo is not None and not result.pictures.clip:
            result = result.showing(photo)  # one copy for the whole grid
        return Done(result, Cost(seconds, seconds / self.forward, maps))


def answers(
    items: Sequence[Item], work: Callable[[list[Item]], Done], report: ProgressReport
) -> dict[Item, Done | CamHubError]:
    """Does work for several things at once, and finds those that make it fail.

    What fails is halved until the culprits stand alone: one of n costs about ``2 log2 n`` more
    pieces of work.

    Args:
        items: The things.
        work: Does it for some of them together.
        report: Its ``stopped`` shows whether the work is to stop.

    Returns:
        For each the work that it is in, or its error.
    """
    if not items:
        return {}
    try:
        return dict.fromkeys(items, work(list(items)))
    except CamHubError as error:
        if report.stopped:
            raise
        if len(items) == 1:
            return {items[0]: error}
    half = len(items) // 2
    return answers(items[:half], work, report) | answers(items[half:], work, report)


def forward_seconds(model: LoadedModel, prepared: Prepared) -> float:
    """How long one plain forward pass takes, once the model is warm: the shortest of a few.

    Raises:
        ModelRefused: If the network raises.
    """
    times: list[float] = []
    with frozen_eval(model.module), torch.no_grad():
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
