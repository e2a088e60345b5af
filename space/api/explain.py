"""``/explain``: the endpoint for programs (``gradio_client``, plain HTTP)."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr
from gradio.components.api_component import Api
from gradio.context import Context
from gradio.events import api

from cam_hub.errors import NoMap
from cam_hub.options import options_for
from cam_hub.results.explanation import Explanation
from cam_hub.targets.predictions import Prediction
from space.config.settings import Settings
from space.service.errors import readable
from space.service.explain_form import read_request
from space.service.explainer import Explainer
from space.service.exports import Artifacts
from space.service.request_context import teller, token_of, warn
from space.service.result_files import Workspace

__all__ = [
    "PredictionRow",
    "add_endpoint",
    "document",
    "file_of",
    "make_explain",
    "prediction_rows",
]


class PredictionRow(TypedDict):
    """One predicted class."""

    class_index: int
    label: str
    probability: float | None
    score: float | None


Answer = tuple[gr.FileData, list[PredictionRow], list[gr.FileData], dict[str, Any], gr.FileData]

# The defaults that the documentation shows; nothing ever writes to them.
_NAMED: list[str] = []
_ANYWHERE: list[float] = []

_INPUTS = {
    "image": "the photo, as handle_file(path or URL): JPEG, PNG, WebP, GIF (its first frame) …",
    "model_id": "'owner/name[@revision]' on the Hub, 'torchvision/name[@weights]' or a timm name",
    "method": "smoothgradcampp, layercam, gradcam, gradcampp or xgradcam",
    "target_layers": "layer names, or a word: best, stages, convs, all; empty: the recommended one",
    "classes": "class indices or labels as texts, or 'top(3)'; empty: the predicted class",
    "num_samples": "noisy copies that SmoothGradCAM++ averages over, at least 1",
    "std": "standard deviation of their noise, in units of the normalised input, at least 0",
    "seed": "of the noise; the same seed gives the same maps",
    "alpha": "opacity of the heatmap over the photo, from 0 to 1",
    "colormap": "name of a colour map of matplotlib's",
    "contrast": "one class, as an index or label, or several as 'tabby; 0.5*lynx': why the classes "
    "rather than this; empty: none",
    "region": "for segmentation and detection: left, top, right, bottom in the photo's pixels; "
    "empty: all of it",
    "reference": "for models without classes: a photo to compare with; none: the photo itself",
    **{name: option.help for name, option in options_for("explain").items()},
    "scale": "of the colours: own, each map's own; common, one for all maps; or low, high in the "
    "units of the map",
    "colorbar": "whether the colours and the values at their ends stand below the overlays",
}

_OUTPUTS = {
    "overlay": "PNG at the photo's size: the first class with a map, the fusion of all its layers; "
    "the photo alone where no map can be drawn",
    "predictions": "the most probable classes, the first the most probable",
    "maps": "NPY per class and layer, in the manifest's order: float32 (rows, cols), un-normalised",
    "manifest": "everything that is needed to make the same maps again",
    "archive": "ZIP of photo, overlays, maps and manifest",
}


def make_explain(
    explainer: Explainer, workspace: Workspace, settings: Settings
) -> Callable[..., Answer]:
    """The endpoint's function for one app."""

    def explain(
        image: gr.FileData,
        model_id: str = settings.default_model,
        method: str = "smoothgradcampp",
        target_layers: list[str] = _NAMED,
        classes: list[str] = _NAMED,
        num_samples: int = 4,
        std: float = 0.3,
        seed: int = 0,
        alpha: float = 0.5,
        colormap: str = "jet",
        contrast: str = "",
        region: list[float] = _ANYWHERE,
        reference: gr.FileData | None = None,
        sign: str = "for",
        target: str = "logit",
        output: str = "",
        call: str = "",
        background: gr.FileData | None = None,
        batch_size: int = 8,
        autocast: str = "",
        reuse: bool = True,
        scale: str = "own",
        colorbar: bool = False,
        sampling: str = "adaptive",
        visitor: gr.OAuthToken | None = None,
    ) -> Answer:
        """Shows which pixels of a photo support which class of an image model.

        Args:
            image: The photo.
            model_id: A timm or torchvision model, such as timm/resnet50.a1_in1k.
            method: smoothgradcampp, layercam, gradcam, gradcampp or xgradcam.
            target_layers: Layer names, or one of the words best, stages, convs, all; empty for
                the recommended layer.
            classes: Class indices or labels as texts, or top(3); empty for the predicted class.
            num_samples: Noisy copies that smoothgradcampp averages over.
            std: Standard deviation of their noise, in units of the normalised input.
            seed: Seed of the noise.
            alpha: Opacity of the heatmap, from 0 to 1.
            colormap: Name of a colour map of matplotlib's, such as jet or viridis.
            contrast: One class: why the others rather than this one; or several as
                tabby; 0.5*lynx; empty for none.
            region: The part of the photo that a segmentation or detection model is asked about:
                left, top, right, bottom in its pixels; empty for all of it.
            reference: A photo that the features of a model without classes are compared with;
                none for the photo itself.
            sign: for: what speaks for the classes; against: what speaks against them; both: the
                first less the second, in two hues.
            target: What is explained: logit, or probability.
            output: Of a network with several outputs: the key or index of the explained one;
                empty for the main one.
            call: Of a layer that runs several times: which of its calls, from 0; empty for the
                last.
            background: A photo of the same proportions to draw maps on; none for the photo itself.
            batch_size: Maximum number of images in one pass, noisy copies included.
            autocast: bfloat16 or float16 for lower precision; empty for the model's own.
            reuse: Whether results of recent passes over the same photo are used.
            scale: Scale of the colours: own, each map's own; common, one for all maps; or low,
                high in the units of the map.
            colorbar: Whether the colours and the values at their ends stand below the overlays.
            sampling: adaptive: smoothgradcampp takes more than num_samples noisy copies, at
                most 64, for maps that another seed would change; fixed: exactly num_samples.
            visitor: Access token, for private and gated models; Gradio hands it over.

        Returns:
            The overlay, the predictions, the maps, the manifest, and an archive of everything.
        """
        with readable(as_html=False):
            request = read_request(
                image=image,
                model_id=model_id,
                method=method,
                target_layers=target_layers,
                classes=classes,
                num_samples=num_samples,
                std=std,
                seed=seed,
                alpha=alpha,
                colormap=colormap,
                contrast=contrast,
                region=region,
                reference=reference,
                background=background,
                scale=scale,
                colorbar=colorbar,
                options={
                    "sign": sign,
                    "target": target,
                    "output": output,
                    "call": call,
                    "batch_size": batch_size,
                    "autocast": autocast,
                    "reuse": reuse,
                    "sampling": sampling,
                },
                limits=settings.limits,
            )
            # Gradio finds out by itself which request this is the progress of.
            tell = teller(gr.Progress())
            explained = explainer.explain(request, tell, token_of(visitor))
            result = explained.result
            warn(explained.layers.notes)
            tell(0.9, "Writing files")
            with workspace.writing() as folder:
                result.save_data(folder)
                files = Artifacts(
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
                    prediction_rows(result.predictions),
                    [file_of(path) for path in files.maps()],
                    dict(result.manifest),
                    file_of(files.archive()),
                )

    return explain


def add_endpoint(explainer: Explainer, workspace: Workspace, settings: Settings) -> None:
    """Adds ``/explain`` to the app that is being built, with names and words for its values."""
    event = api(
        make_explain(explainer, workspace, settings),
        api_name="explain",
        concurrency_id="model",
        concurrency_limit=settings.concurrency,
    )
    document(event, _INPUTS, _OUTPUTS)


def why_no_picture(result: Explanation, class_index: int) -> str:
    """Why the map of a class cannot be drawn."""
    try:
        result.cam(class_index)
    except NoMap as error:
        return error.message
    raise AssertionError("this class has a map")


def prediction_rows(predictions: Iterable[Prediction]) -> list[PredictionRow]:
    """Predicted classes as programs get them."""
    return [
        PredictionRow(
            class_index=found.class_index,
            label=found.label,
            probability=found.probability,
            score=found.score,
        )
        for found in predictions
    ]


def document(
    event: Mapping[str, Any], inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> None:
    """Gives the values of an endpoint of the app that is being built their names and words.

    Args:
        event: What ``gradio.events.api`` returned.
        inputs: Meaning by name of the function's arguments, in any order.
        outputs: Meaning by name, in the order of what it returns.
    """
    root = Context.root_block
    function = None if root is None else root.fns[event["id"]].fn
    if root is None or function is None:
        raise AssertionError("Gradio would have refused before")
    arguments = signature(function).parameters
    ordered = {name: inputs[name] for name in arguments if name in inputs}
    for ids, documented, place in (
        (event["inputs"], ordered, "additional_description"),
        (event["outputs"], outputs, "description"),
    ):
        for id, (name, words) in zip(ids, documented.items(), strict=True):
            value = root.blocks[id]
            if not isinstance(value, Api):
                raise AssertionError("gr.api makes Api components only")
            value.label = name
            value._api_info = {**value._api_info, place: words}


def file_of(path: Path) -> Any:
    """A file of ours as Gradio hands it over; a dictionary, as only those are found in lists."""
    return gr.FileData(path=str(path), orig_name=path.name, size=path.stat().st_size).model_dump()
