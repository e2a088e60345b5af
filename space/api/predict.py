"""``/predict``: what a model sees in a photo, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from typing import Any, TypedDict

import gradio as gr

from space.api.endpoint import (
    PARAMETERS,
    Parameter,
    PredictionRow,
    add_documented,
    option_parameters,
    row_of,
)
from space.config.settings import Settings
from space.service.errors import cancellable_progress, readable
from space.service.explain_form import read_limited_options, read_model_id, read_whole
from space.service.explainer import Explainer
from space.service.photos import read_photo

__all__ = ["add_predict_endpoint"]


class SeenRow(TypedDict):
    """What the model saw, and which of its scores and outputs the predictions are of."""

    photo_size: list[int]
    input_size: list[int]
    seen: list[float]
    target: str
    output: str | None


Answer = tuple[list[PredictionRow], SeenRow]

_PARAMETERS = {
    "image": PARAMETERS["image"],
    "model_id": PARAMETERS["model_id"],
    "top": Parameter(int, "how many classes at most, at least 1", 5),
    **option_parameters("predict"),
}

_OUTPUTS = {
    "predictions": "the most probable classes, the first the most probable; none of a model that "
    "has no classes",
    "facts": "photo_size: columns, rows; input_size: channels, rows, columns of what the model "
    "saw; seen: left, top, right, bottom of that on the photo, in its pixels; target: the score in "
    "words; output: the name of the output that was read, of a network with several; else null",
}


def add_predict_endpoint(explainer: Explainer, settings: Settings) -> None:
    """Adds ``/predict`` to the app that is being built."""

    def predict(values: dict[str, Any], visitor: str | None) -> Answer:
        """Predicts the most probable classes of a photo."""
        with readable(as_html=False):
            limits = settings.limits
            found = explainer.predict(
                read_photo(values["image"], limits.photo_rules),
                read_model_id(values["model_id"], limits),
                read_whole("top", values["top"], limits.max_top),
                cancellable_progress(gr.Progress()),
                visitor,
                read_limited_options(values, limits, "predict")["output"],
            )
            rows = [row_of(PredictionRow, each) for each in found.predictions]
            return rows, row_of(SeenRow, found)

    add_documented(settings, "predict", predict, _PARAMETERS, _OUTPUTS)
