"""Makes an explanation again from its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cam_hub.attribution.explain import explain
from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.hooks.modes import default_modes
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.options import unrecorded
from cam_hub.results.explanation import Explanation
from cam_hub.results.manifest import check_explanation
from cam_hub.sources.registry import load_model
from cam_hub.sources.store import SHARED

__all__ = ["reproduce"]


@default_modes()
def reproduce(
    manifest: Mapping[str, Any],
    image: object,
    *,
    model: LoadedModel | None = None,
    reference: object = None,
    background: object = None,
    output: Callable[[Any], Any] | None = None,
    classes: Callable[[Any], Any] | None = None,
) -> Explanation:
    """Makes an explanation again from its manifest.

    The maps are the same bit for bit where the same machine computes the same: with as many
    threads, on CUDA by deterministic kernels, and, of methods without noise, out of a pass in the
    same company (alone, or along with noisy copies, see ``explain``). Elsewhere numbers are rounded
    differently. Predictions then
    agree to about 1e-6, and maps of the recommended layer to 1e-5 of their maximum.

    Args:
        manifest: ``Explanation.manifest``, or the content of a ``manifest.json``.
        image: The same picture.
        model: The model, if it was a wrapped module or had random weights; otherwise it is
            loaded by its ID, in the revision that the manifest names.
        reference: The same reference picture, if there was one.
        background: A picture to draw maps on, as for ``explain``.
        output: The same function, if ``output`` was a function.
        classes: The same function, if ``classes`` was a function.

    Raises:
        ImageRefused: If one of them is not the same picture.
        InvalidArgument: If the manifest's model cannot be had by its ID, or a reference or a
            function is missing or too much, or if the manifest lacks a part.
    """
    try:
        check_explanation(manifest)
    except (ValueError, AttributeError) as error:
        found = type(manifest).__name__
        raise InvalidArgument("manifest", found, f"a manifest of ours ({error})") from error
    target = manifest["target"]
    if (target.get("reference") is None) != (reference is None):
        expected = "None, since there was none" if reference is not None else "the reference"
        raise InvalidArgument("reference", type(reference).__name__, expected)
    function = target.get("function")
    if (function is None) != (classes is None):
        expected = f"the function {function!r}" if function is not None else "None: there was none"
        raise InvalidArgument("classes", classes, expected)
    recorded = manifest["model"]
    if model is None:
        if not recorded["pretrained"]:
            raise InvalidArgument("model", None, "the model itself: it has no pretrained weights")
        model = SHARED.get(recorded["id"])
        # A caller may have chosen another type. Double precision is that of a copy.
        own = str(model.dtype).removeprefix("torch.")
        if (precision := manifest.get("precision", own)) not in (own, "float64"):
            model = load_model(recorded["id"], dtype=precision)
    _check_preprocessing(model, manifest)
    parameters = manifest["parameters"]
    contrast = manifest.get("contrast") or None  # older manifests have none
    if isinstance(contrast, Mapping):
        contrast = contrast["class_index"]
    elif contrast is not None:
        contrast = [(each["class_index"], each["weight"]) for each in contrast]
    # Older manifests have the number of noisy copies that was taken among their parameters.
    options = {"sampling": "fixed", **manifest.get("options", {})}
    again = explain(
        model,
        image,
        method=manifest["method"],
        target_layers=list(manifest["layers"]),
        classes=classes or [entry["class_index"] for entry in manifest["classes"]],
        contrast=contrast,
        region=target.get("region"),
        reference=reference,
        background=background,
        autocast=manifest.get("autocast"),
        batch_size=manifest.get("batch_size", 8),
        **unrecorded(options, {"output": output}),
        **parameters,
    )
    if again.manifest["image"] != dict(manifest["image"]):
        raise ImageRefused("it is not the picture that the manifest was made from.")
    if again.manifest["target"].get("reference") != target.get("reference"):
        raise ImageRefused("the reference is not the one that the manifest was made with.")
    if (choice := manifest.get("choice")) is not None:
        again.record(choice=choice)
    return again


def _check_preprocessing(model: LoadedModel, manifest: Mapping[str, Any]) -> None:
    """Refuses a model that would turn the picture into another input.

    Raises:
        InvalidArgument: With what differs.
    """
    ours, theirs = model.preprocessing.as_dict(), manifest.get("preprocessing") or {}
    differing = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    if differing:
        recorded = ", ".join(f"{name}={theirs[name]}" for name in differing)
        raise InvalidArgument("model", model.id, f"a model with the manifest's {recorded}")
