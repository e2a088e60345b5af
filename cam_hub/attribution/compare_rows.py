"""One row of the grid: everything that is asked of one model."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from cam_hub.attribution.compare_columns import Class, Columns
from cam_hub.attribution.compare_labels import own_class
from cam_hub.attribution.compare_work import (
    Done,
    Question,
    Teller,
    Worker,
    answers,
    forward_seconds,
)
from cam_hub.attribution.preparation import prepare
from cam_hub.errors import CamHubError, ClassNotFound, NoMap, TooMuch
from cam_hub.layers.layers import list_layers, suggest_layers
from cam_hub.layers.selection import resolve_layers
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.outputs import with_output
from cam_hub.results.comparison_cells import Cell, Row
from cam_hub.targets.classes import Top

__all__ = ["empty_cell", "make_row"]


_FOUND = 0.2
"""The part of a row's work, as it is told, after which the model and its layers are there."""


def make_row(model: LoadedModel, question: Question, tell: Teller, started: float) -> Row:
    """Asks one model everything.

    Args:
        model: The model.
        question: What is asked.
        tell: Told how far this row is.
        started: When loading the model began (``time.perf_counter``).

    Returns:
        The row, with one cell per column, or per layer that a word stands for.

    Raises:
        CamHubError: If nothing can be had from this model at all.
    """
    tell(_FOUND / 2, "finding layers")
    model = with_output(model, question.options.get("output"))
    prepared = prepare(model, question.picture_for(model))
    list_layers(model, input_size=prepared.size)
    names = _names_of(model, question, prepared.size)
    loading = time.perf_counter() - started
    forward = forward_seconds(model, prepared)
    worker = Worker(model, question, forward, tell)
    columns = question.columns
    tell.span(_FOUND, 1 - _FOUND)
    if columns.kind == "methods":
        cells = _by_methods(worker, columns)
    elif columns.kind == "layers":
        cells = _by_layers(worker, columns, names, prepared.size)
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


def _names_of(model: LoadedModel, question: Question, size: tuple[int, ...]) -> tuple[str, ...]:
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
        worker.tell.span(_FOUND + place * share, share)
        try:
            done = worker.explain(method, columns.layers, classes, 1)
        except CamHubError as error:
            if worker.tell.stopped:
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
        good, lambda some: worker.explain(method, some, classes, len(some)), worker.tell
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
        worker.tell,
    )
    if count and not named and isinstance(failed := best[Top(count)], CamHubError):
        raise failed
    found = answers(
        list(dict.fromkeys(known)),
        lambda some: worker.explain(method, layers, some, len(some)),
        worker.tell,
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
