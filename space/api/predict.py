"""``/predict``: what a model sees in a photo, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from collections.abc import Callable
from typing import TypedDict

import gradio as gr
from gradio.events import api

from cam_hub.attribution.predict import Predicted
from cam_hub.options import options_for
from space.api.explain import PredictionRow, document, prediction_rows
from space.config.settings import Settings
from space.service.errors import readable
from space.service.explain_form import read_limited_options, read_model_id, read_whole
from space.service.explainer import Explainer
from space.service.photos import read_photo
from space.service.request_context import teller, token_of

__all__ = ["SeenRow", "add_predict_endpoint", "make_predict"]


class SeenRow(TypedDict):
    """What the model saw, and which of its scores and outputs the predictions are of."""

    photo_size: list[int]
    input_size: list[int]
    seen: list[float]
    target: str
    output: str | None


Answer = tuple[list[PredictionRow], SeenRow]

_INPUTS = {
    "image": "the photo, as handle_file(path or URL): JPEG, PNG, WebP, GIF (its first frame) …",
    "model_id": "'owner/name[@revision]' on the Hub, 'torchvision/name[@weights]' or a timm name",
    "top": "how many classes at most, at least 1",
    **{name: option.help for name, option in options_for("predict").items()},
}

_OUTPUTS = {
    "predictions": "the most probable classes, the first the most probable; none of a model that "
    "has no classes",
    "facts": "photo_size: columns, rows; input_size: channels, rows, columns of what the model "
    "saw; seen: left, top, right, bottom of that on the photo, in its pixels; target: the score in "
    "words; output: the name of the output that was read, of a network with several; else null",
}


def make_predict(explainer: Explainer, settings: Settings) -> Callable[..., Answer]:
    """The endpoint's function for one app."""

    def predict(
        image: gr.FileData,
        model_id: str = settings.default_model,
        top: int = 5,
        output: str = "",
        visitor: gr.OAuthToken | None = None,
    ) -> Answer:
        """Tells what an image model sees in a photo: its most probable classes.

        Args:
            image: The photo.
            model_id: A timm or torchvision model.
            top: How many classes at most.
            output: Of a network with several outputs: the key or index of the one that is read;
                empty for the main one.
            visitor: Access token, for private and gated models; Gradio hands it over.

        Returns:
            The classes with their probabilities, and what the model saw of the photo.
        """
        with readable(as_html=False):
            limits = settings.limits
            found = explainer.predict(
                read_photo(image, limits.photo_rules),
                read_model_id(model_id, limits),
                read_whole("top", top, limits.max_top),
                teller(gr.Progress()),
                token_of(visitor),
                read_limited_options({"output": output}, limits.max_text, "predict")["output"],
            )
            return prediction_rows(found.predictions), _seen(found)

    return predict


def add_predict_endpoint(explainer: Explainer, settings: Settings) -> None:
    """Adds ``/predict`` to the app that is being built, with names and words for its values."""
    event = api(
        make_predict(explainer, settings),
        api_name="predict",
        concurrency_id="model",
        concurrency_limit=settings.concurrency,
    )
    document(event, _INPUTS, _OUTPUTS)


def _seen(found: Predicted) -> SeenRow:
    return SeenRow(
        photo_size=list(found.photo_size),
        input_size=list(found.input_size),
        seen=list(found.seen),
        target=found.target,
        output=found.output,
    )
