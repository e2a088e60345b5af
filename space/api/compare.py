"""``/compare``: models beside each other on one photo, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from typing import Any

import gradio as gr

from cam_hub.results.comparison import CellFacts
from cam_hub.results.comparison_grid import SCALES
from space.api.endpoint import (
    METHOD_NAMES,
    PARAMETERS,
    Parameter,
    add_documented,
    file_of,
    option_parameters,
)
from space.config.settings import Settings
from space.service.errors import cancellable_progress, readable, warn
from space.service.explain_form import DEFAULTS, read_compare_request
from space.service.explainer import Explainer
from space.service.exports import write_compare_files
from space.service.result_files import Workspace

__all__ = ["add_compare_endpoint"]

Answer = tuple[gr.FileData, list[CellFacts], gr.FileData]

_PARAMETERS = {
    "image": PARAMETERS["image"],
    "models": Parameter(
        list[str],
        "IDs, the rows: 'owner/name[@revision]', 'torchvision/name[@weights]' or timm names; "
        "empty: the default model",
        [],
    ),
    "methods": Parameter(
        list[str],
        f"auto, {METHOD_NAMES}; several: the columns; empty: auto",
        [],
    ),
    "target_layers": Parameter(
        list[str],
        "layer names, or one word: stages, convs, all; several: the columns; empty: each model's "
        "recommended one",
        [],
    ),
    "classes": Parameter(
        list[str],
        "class indices or labels as texts, or 'top(3)'; several: the columns; empty: each model's "
        "predicted class",
        [],
    ),
    **{name: PARAMETERS[name] for name in ("num_samples", "std", "seed")},
    "scale": Parameter(
        str, "; ".join(f"{name}: {words}" for name, words in SCALES.items()), "shares"
    ),
    **{name: PARAMETERS[name] for name in ("alpha", "colormap")},
    "contrast": Parameter(
        str,
        "one class: why the others rather than this, or several as 'tabby; 0.5*lynx', "
        "or 'nearest(3)'; empty: none",
        "",
    ),
    **{name: PARAMETERS[name] for name in ("region", "reference")},
    **option_parameters("compare"),
}

_OUTPUTS = {
    "sheet": "PNG of all maps with their captions, costs and reasons",
    "cells": "one row per cell, row by row; seconds and forward_passes are those of the work that "
    "'maps' maps came out of together; error and reason: why there is no map; null: not known",
    "archive": "ZIP of sheet, photo, table, maps (NPY) with their manifests, and, of layers, an "
    "animation per model; Comparison.load reads it once it is unpacked",
}


def add_compare_endpoint(explainer: Explainer, workspace: Workspace, settings: Settings) -> None:
    """Adds ``/compare`` to the app that is being built."""

    def compare(values: dict[str, Any], visitor: str | None) -> Answer:
        """Puts maps of one photo beside each other: models by methods, layers or classes.

        The rows are models. The columns are the methods, the target layers or the classes:
        whichever has several values. A model that fails and a map that is blank leave the others
        theirs; their cells give the reason.
        """
        with readable(as_html=False):
            values["models"] = values["models"] or [settings.default_model]
            values["methods"] = values["methods"] or [DEFAULTS["method"]]
            request = read_compare_request(**values, limits=settings.limits)
            report = cancellable_progress(gr.Progress())
            grid = explainer.compare(request, report, visitor)
            warn(note for row in grid.rows for note in row.notes)
            report(0.9, "Writing files")
            with workspace.writing() as folder:
                files = write_compare_files(
                    grid, folder, request.scale, request.form.alpha, request.form.colormap
                )
            return file_of(files.sheet), grid.table(), file_of(files.archive)

    add_documented(settings, "compare", compare, _PARAMETERS, _OUTPUTS)
