"""``compare``: models beside each other on one photo."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Unpack

import numpy as np
from torch import Tensor, nn

from cam_hub._validation import with_hints
from cam_hub.attribution.choice import AUTO
from cam_hub.attribution.compare_columns import Columns, read_columns
from cam_hub.attribution.compare_work import (
    CellQuery,
    ProgressReport,
    empty_cell,
    foreseen,
    make_row,
)
from cam_hub.attribution.passes import Progress
from cam_hub.attribution.request import (
    ExplainArguments,
    ExplainOptions,
    model_of,
    takes_arguments,
)
from cam_hub.errors import CamHubError, InvalidArgument, NoMap
from cam_hub.hooks.modes import default_modes
from cam_hub.images.decoding import open_image
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.comparison import Comparison
from cam_hub.results.comparison_grid import Row
from cam_hub.targets.classes import is_iterable

__all__ = ["Lease", "RowMaker", "ask", "compare", "make_grid"]

Lease = Callable[[str, Progress], AbstractContextManager[LoadedModel]]
"""How a model is had by its ID, for the time of its row."""

RowMaker = Callable[[LoadedModel, CellQuery, ProgressReport, float], Row]
"""As ``make_row``, perhaps on another device."""


@with_hints
@default_modes()
@takes_arguments("compare")
def compare(
    models: LoadedModel | str | Iterable[LoadedModel | str],
    image: object,
    *,
    methods: str | Iterable[str] = AUTO,
    **arguments: Unpack[ExplainArguments],
) -> Comparison:
    """Explains one picture by several models, methods, layers or classes, for looking at together.

    The rows are models. The columns are the methods, the layers or the classes: whichever has
    several values. What cannot be had (a model that is not found, a class that a model lacks, a
    blank map) is a cell with a reason, and all the others go on.

        compare(["resnet50.a1_in1k", "torchvision/vgg19"], "cat.jpg", methods=METHODS).figure()
        compare("torchvision/vgg19", "cat.jpg", target_layers="all").save_animation("vgg19.gif")

    Args:
        models: A model or several: loaded ones, or IDs. One model is loaded at a time; those named
            by ID stay in memory for the next call, as far as there is room.
        image: As for ``explain``.
        methods: A name out of ``METHODS``, or several.
        target_layers: A layer's name, several, or None for each model's recommended layer. A word
            of ``suggest_layers`` (``"stages"``, ``"convs"``, ``"all"``) stands for the layers that
            each model has of that kind, first to last; the columns are their numbers.
        classes: A class index, a label, ``top(count)`` for each model's own most probable ones,
            several of these (``[top(1), "tabby"]`` for what was predicted beside what is true), a
            function of what the network returns, or None for each model's own predicted class. A
            label is looked for in each model's label set, also by each of its comma-separated
            names; an index means what it means in each model.
        contrast: As for ``explain``; the error of a model whose explained class it is.
        sign: As for ``explain``.
        target: As for ``explain``.
        output: As for ``explain``.
        call: As for ``explain``.
        sampling: As for ``explain``.
        region: As for ``explain``.
        reference: As for ``explain``.
        num_samples: As for ``explain``.
        std: As for ``explain``.
        seed: As for ``explain``; all models get the same noise, if their inputs are of one size.
        batch_size: As for ``explain``.
        autocast: As for ``explain``.
        progress: Called with the part that is done and a few words; what it raises stops the work.

    Returns:
        The grid. Each map is the one that ``explain`` gives for it alone; those of several layers,
        or several classes, of one model come out of one pass.

    Raises:
        InvalidArgument: If a number makes no sense, several of methods, layers and classes have
            several values, or something is empty or of another type.
        MethodNotFound: If there is no such method.
        ImageRefused: If the image cannot be read.
    """
    wanted = _models(models)
    progress = arguments.pop("progress", None)
    question = ask(image, methods, **arguments)
    return make_grid(wanted, question, _shared_store, progress)


@default_modes()
def ask(
    image: object,
    methods: str | Iterable[str] = AUTO,
    *,
    most: int | None = None,
    **arguments: Unpack[ExplainArguments],
) -> CellQuery:
    """Checks everything that can be judged without a model.

    Args:
        image: As for ``compare``, and so are the others.
        methods: Methods.
        most: Most layers that a word may stand for; None for any number.
        arguments: The other arguments.

    Raises:
        InvalidArgument, MethodNotFound, ImageRefused: As ``compare``.
    """
    columns = read_columns(
        methods, arguments.pop("target_layers", None), arguments.pop("classes", None)
    )
    request = ExplainOptions.checked(**arguments)
    checked = {**request.options, "contrast": request.contrast}
    options = {name: checked.get(name, value) for name, value in arguments.items()}
    held, photo = _opened(image)
    return CellQuery(held, photo, columns, options, most)


@default_modes()
def make_grid(
    models: Sequence[LoadedModel | str],
    question: CellQuery,
    lease: Lease,
    progress: Progress | None = None,
    row_maker: RowMaker = make_row,
) -> Comparison:
    """``compare`` of what was checked, for those who keep models in their own way.

    Args:
        models: The rows.
        question: What each is asked, as ``ask`` has checked it.
        lease: Hands out models by their IDs.
        progress: As for ``compare``.
        row_maker: Makes the row of a model.
    """
    report = ProgressReport(progress)
    rows: list[Row | CamHubError] = []
    for place, model in enumerate(models):
        name = model if isinstance(model, str) else model.id
        many = f"{name} ({place + 1} of {len(models)}): " if len(models) > 1 else f"{name}: "
        report.row(place, len(models), many)
        started = time.perf_counter()
        try:
            with foreseen(name, report), _held(model, lease, report) as loaded:
                rows.append(row_maker(loaded, question, report, started))
        except CamHubError as error:
            if report.stopped:
                raise
            rows.append(error)
        report.span(0.0, 1.0)
        report(1.0, "done")
    return _put_together(models, rows, question)


def _put_together(
    models: Sequence[LoadedModel | str], rows: Sequence[Row | CamHubError], question: CellQuery
) -> Comparison:
    columns = question.columns
    lengths = [len(row.cells) for row in rows if isinstance(row, Row)]
    count = columns.count or max([1, *lengths])
    filled = [
        _filled(row, count, columns)
        if isinstance(row, Row)
        else Row(
            model if isinstance(model, str) else model.id,
            tuple(empty_cell(columns, place, row) for place in range(count)),
        )
        for model, row in zip(models, rows, strict=True)
    ]
    return Comparison(question.photo, columns.kind, columns.titles(count), tuple(filled))


def _filled(row: Row, count: int, columns: Columns) -> Row:
    """A row with a cell in every column: of a word, models have different numbers of layers."""
    if len(row.cells) == count:
        return row
    few = NoMap(f"of {columns.layers!r} this model has only {len(row.cells)}")
    missing = [empty_cell(columns, place, few) for place in range(len(row.cells), count)]
    return Row(**{**vars(row), "cells": (*row.cells, *missing)})


@contextmanager
def _held(model: LoadedModel | str, lease: Lease, report: ProgressReport) -> Iterator[LoadedModel]:
    if isinstance(model, LoadedModel):
        yield model
        return
    report(0.0, "loading")
    with lease(model, report) as loaded:
        yield loaded


@contextmanager
def _shared_store(model_id: str, progress: Progress) -> Iterator[LoadedModel]:
    yield model_of(model_id)


def _models(models: Any) -> list[LoadedModel | str]:
    single = isinstance(models, (str, os.PathLike, LoadedModel, nn.Module))
    several = [models] if single or not is_iterable(models) else list(models)
    if not several:
        raise InvalidArgument("models", several, "at least one model")
    for model in several:
        if not isinstance(model, (str, LoadedModel)):
            expected = "loaded or wrapped models (wrap_model(module)), or IDs"
            raise InvalidArgument("models", type(model).__name__, expected)
    by_key = {model if isinstance(model, str) else id(model): model for model in several}
    return list(by_key.values())


def _opened(image: Any) -> tuple[object, Any]:
    """The picture in a form that can be opened more than once, and opened, if it is a photo."""
    frames = isinstance(image, (Tensor, list, tuple)) or (
        isinstance(image, np.ndarray) and image.ndim == 4
    )
    if frames:
        return image, None
    return image, open_image(image)
