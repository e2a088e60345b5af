"""``/explain``: the endpoint for programs (``gradio_client``, plain HTTP)."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from typing import Any

import gradio as gr

from cam_hub.errors import NoMap
from cam_hub.results.explanation import Explanation
from space.api.endpoint import (
    PARAMETERS,
    Parameter,
    PredictionRow,
    add_documented,
    file_of,
    option_parameters,
)
from space.config.settings import Settings
from space.service.errors import cancellable_progress, readable, warn
from space.service.explain_form import read_request
from space.service.explainer import Explainer
from space.service.exports import Exports
from space.service.result_files import Workspace

__all__ = ["add_endpoint"]

Answer = tuple[gr.FileData, list[PredictionRow], list[gr.FileData], dict[str, Any], gr.FileData]

_SCALE = {
    "scale": Parameter(
        str,
        "of the colours: own, each map's own; common, one for all maps; or low, high in the "
        "units of the map",
        "own",
    ),
    "colorbar": Parameter(
        bool, "whether the colours and the values at their ends stand below the overlays", False
    ),
}

_OUTPUTS = {
    "overlay": "PNG at the photo's size: the first class with a map, the fusion of all its layers; "
    "the photo alone where no map can be drawn",
    "predictions": "the most probable classes, the first the most probable",
    "maps": "NPY per class and layer, in the manifest's order: float32 (rows, cols), un-normalised",
    "manifest": "everything that is needed to make the same maps again; its 'evidence': verdict "
    "and tests, if some were asked for",
    "archive": "ZIP of photo, overlays, maps and manifest",
}


def add_endpoint(explainer: Explainer, workspace: Workspace, settings: Settings) -> None:
    """Adds ``/explain`` to the app that is being built."""

    def explain(values: dict[str, Any], visitor: str | None) -> Answer:
        """Shows which pixels of a photo support which class of an image model."""
        with readable(as_html=False):
            request = read_request(**values, limits=settings.limits)
            # Gradio derives from the thread which request this is the progress of.
            report = cancellable_progress(gr.Progress())
            explained = explainer.explain(request, report, visitor)
            result = explained.result
            warn(explained.notes)
            report(0.9, "Writing files")
            with workspace.writing() as folder:
                result.save_data(folder)
                files = Exports(
                    result,
                    folder,
                    request.alpha,
                    request.colormap,
                    request.scale,
                    colorbar=request.colorbar,
                )
                shown = next(filter(result.has_map, result.classes), result.classes[0])
                overlay = files.overlay(shown)
                if overlay is None:
                    warn([why_no_picture(result, shown)])
                return (
                    file_of(overlay or files.photo),
                    result.manifest["predictions"],
                    list(map(file_of, files.maps)),
                    dict(result.manifest),
                    file_of(files.archive()),
                )

    parameters = dict(PARAMETERS)
    # Values may be listed without names, so new parameters go to the end.
    for name, parameter in option_parameters("explain").items():
        parameters[name] = parameter
        if name == "reuse":
            parameters.update(_SCALE)
    add_documented(settings, "explain", explain, parameters, _OUTPUTS)


def why_no_picture(result: Explanation, class_index: int) -> str:
    """Why the map of a class cannot be drawn."""
    try:
        result.cam(class_index)
    except NoMap as error:
        return error.message
    raise AssertionError("this class has a map")
