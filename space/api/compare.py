"""``/compare``: models beside each other on one photo, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from collections.abc import Callable

import gradio as gr
from gradio.events import api

from cam_hub.options import options_for
from cam_hub.results.comparison_rows import CellFacts
from cam_hub.results.comparison_sheets import SCALES
from space.api.explain import document, file_of
from space.config.settings import Settings
from space.service.compare_form import read_compare_request
from space.service.errors import readable
from space.service.explainer import Explainer
from space.service.exports import write_compare_files
from space.service.request_context import teller, token_of, warn
from space.service.result_files import Workspace

__all__ = ["add_compare_endpoint", "make_compare"]

Answer = tuple[gr.FileData, list[CellFacts], gr.FileData]

# The defaults that the documentation shows; nothing ever writes to them.
_NAMED: list[str] = []
_ANYWHERE: list[float] = []

_INPUTS = {
    "image": "the photo, as handle_file(path or URL): JPEG, PNG, WebP, GIF (its first frame) …",
    "models": "IDs, the rows: 'owner/name[@revision]', 'torchvision/name[@weights]' or timm names; "
    "empty: the default model",
    "methods": "smoothgradcampp, layercam, gradcam, gradcampp or xgradcam; several: the columns; "
    "empty: smoothgradcampp",
    "target_layers": "layer names, or one word: stages, convs, all; several: the columns; empty: "
    "each model's recommended one",
    "classes": "class indices or labels as texts, or 'top(3)'; several: the columns; empty: each "
    "model's predicted class",
    "num_samples": "noisy copies that SmoothGradCAM++ averages over, at least 1",
    "std": "standard deviation of their noise, in units of the normalised input, at least 0",
    "seed": "of the noise; the same seed gives the same maps",
    "scale": "; ".join(f"{name}: {words}" for name, words in SCALES.items()),
    "alpha": "opacity of the heatmap over the photo, from 0 to 1",
    "colormap": "name of a colour map of matplotlib's",
    "contrast": "one class: why the others rather than this, or several as 'tabby; 0.5*lynx'; "
    "empty: none",
    "region": "for segmentation and detection: left, top, right, bottom in the photo's pixels; "
    "empty: all of it",
    "reference": "for models without classes: a photo to compare with; none: the photo itself",
    **{name: option.help for name, option in options_for("compare").items()},
}

_OUTPUTS = {
    "sheet": "PNG of all maps with their captions, costs and reasons",
    "cells": "one row per cell, row by row; seconds and forward_passes are those of the work that "
    "'maps' maps came out of together; error and reason: why there is no map; null: not known",
    "archive": "ZIP of sheet, photo, table, maps (NPY) with their manifests, and, of layers, an "
    "animation per model; Comparison.load reads it once it is unpacked",
}


def make_compare(
    explainer: Explainer, workspace: Workspace, settings: Settings
) -> Callable[..., Answer]:
    """The endpoint's function for one app."""

    def compare(
        image: gr.FileData,
        models: list[str] = _NAMED,
        methods: list[str] = _NAMED,
        target_layers: list[str] = _NAMED,
        classes: list[str] = _NAMED,
        num_samples: int = 4,
        std: float = 0.3,
        seed: int = 0,
        scale: str = "shares",
        alpha: float = 0.5,
        colormap: str = "jet",
        contrast: str = "",
        region: list[float] = _ANYWHERE,
        reference: gr.FileData | None = None,
        sign: str = "for",
        target: str = "logit",
        output: str = "",
        call: str = "",
        batch_size: int = 8,
        autocast: str = "",
        sampling: str = "adaptive",
        visitor: gr.OAuthToken | None = None,
    ) -> Answer:
        """Puts maps of one photo beside each other: models by methods, layers or classes.

        The rows are models. The columns are the methods, the target layers or the classes:
        whichever has several values. A model that fails and a map that is blank leave the others
        theirs; their cells say why.

        Args:
            image: The photo.
            models: timm or torchvision models.
            methods: Names of methods.
            target_layers: Layer names, or one of the words stages, convs, all.
            classes: Class indices or labels as texts, or top(3).
            num_samples: Noisy copies that SmoothGradCAM++ averages over.
            std: Standard deviation of their noise, in units of the normalised input.
            seed: Seed of the noise.
            scale: What the colours of the maps have in common: shares, values or own.
            alpha: Opacity of the heatmap, from 0 to 1.
            colormap: Name of a colour map of matplotlib's.
            contrast: One class: why the others rather than this; or several as tabby; 0.5*lynx;
                empty for none.
            region: The part of the photo that segmentation and detection models are asked about:
                left, top, right, bottom in its pixels; empty for all of it.
            reference: A photo that the features of models without classes are compared with;
                none for the photo itself.
            sign: for: what speaks for the classes; against: what speaks against them; both: the
                first less the second, in two hues.
            target: What is explained: logit, or probability.
            output: Of a network with several outputs: the key or index of the explained one;
                empty for the main one.
            call: Of a layer that runs several times: which of its calls, from 0; empty for the
                last.
            batch_size: Maximum number of images in one pass, noisy copies included.
            autocast: bfloat16 or float16 for lower precision; empty for the model's own.
            sampling: adaptive: smoothgradcampp takes more than num_samples noisy copies, at
                most 64, for maps that another seed would change; fixed: exactly num_samples.
            visitor: Access token, for private and gated models; Gradio hands it over.

        Returns:
            The sheet, the numbers of its cells, and an archive of everything.
        """
        with readable(as_html=False):
            request = read_compare_request(
                image=image,
                models=models or [settings.default_model],
                methods=methods or ["smoothgradcampp"],
                target_layers=target_layers,
                classes=classes,
                num_samples=num_samples,
                std=std,
                seed=seed,
                scale=scale,
                alpha=alpha,
                colormap=colormap,
                contrast=contrast,
                region=region,
                reference=reference,
                options={
                    "sign": sign,
                    "target": target,
                    "output": output,
                    "call": call,
                    "batch_size": batch_size,
                    "autocast": autocast,
                    "sampling": sampling,
                },
                limits=settings.limits,
            )
            tell = teller(gr.Progress())
            grid = explainer.compare(request, tell, token_of(visitor))
            warn(note for row in grid.rows for note in row.notes)
            tell(0.9, "Writing files")
            with workspace.writing() as folder:
                files = write_compare_files(
                    grid, folder, request.scale, request.alpha, request.colormap
                )
            return file_of(files.sheet), grid.table(), file_of(files.archive)

    return compare


def add_compare_endpoint(explainer: Explainer, workspace: Workspace, settings: Settings) -> None:
    """Adds ``/compare`` to the app that is being built, with names and words for its values."""
    event = api(
        make_compare(explainer, workspace, settings),
        api_name="compare",
        concurrency_id="model",
        concurrency_limit=settings.concurrency,
    )
    document(event, _INPUTS, _OUTPUTS)
