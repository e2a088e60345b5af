"""``/evidence``: tests of a map against the model, for programs."""

# Annotations must be real types here, not texts: Gradio reads inputs and outputs off them.

from dataclasses import replace
from typing import Any

import gradio as gr

from cam_hub.attribution.evidence import FILLINGS
from cam_hub.errors import InvalidArgument
from cam_hub.options import OPTIONS
from space.api.endpoint import PARAMETERS, Parameter, add_documented, option_parameters
from space.config.settings import Settings
from space.service.errors import cancellable_progress, readable, warn
from space.service.explain_form import read_box, read_request, read_texts
from space.service.explainer import Explainer

__all__ = ["add_evidence_endpoint"]

_CHECKS = replace(OPTIONS["evidence"], name="checks")

_TESTS = {
    "checks": Parameter(
        list[str],
        f"the tests: {', '.join(_CHECKS.choices)}, or all; empty: cover",
        [],
    ),
    "baseline": Parameter(
        str, f"what appears in place of covered pixels: {' or '.join(FILLINGS)}", "blur"
    ),
    "region": Parameter(
        list[float],
        "where the object is, for pointing_game and energy: left, top, right, bottom in the "
        "photo's pixels; empty: not known",
        [],
    ),
}

_SHARED = ("method", "target_layers", "classes", "num_samples", "std", "seed", "contrast")

_PARAMETERS = {
    "image": PARAMETERS["image"],
    "model_id": PARAMETERS["model_id"],
    **_TESTS,
    **{name: PARAMETERS[name] for name in _SHARED},
    "explained_region": PARAMETERS["region"],
    "reference": PARAMETERS["reference"],
    **{
        name: parameter
        for name, parameter in option_parameters("explain").items()
        if name not in ("background", "evidence")
    },
}

_OUTPUTS = {
    "evidence": "verdict in words; tests, each with name, value (null: not tested), baselines, "
    "passes, sentence and details; class_index and label of the class, layer (null: all layers "
    "fused); model, method and layers of the map",
}


def add_evidence_endpoint(explainer: Explainer, settings: Settings) -> None:
    """Adds ``/evidence`` to the app that is being built."""

    def evidence(values: dict[str, Any], visitor: str | None) -> dict[str, Any]:
        """Tests whether a map is faithful: whether the model depends on the pixels it marks.

        The photo is explained as by /explain, and the map of the first class is tested against
        the model itself, with baselines on the same photo.
        """
        with readable(as_html=False):
            limits = settings.limits
            names = read_texts(
                "checks", values.pop("checks"), len(_CHECKS.choices) + 1, limits.max_text
            )
            tests = {
                "checks": _CHECKS.check(",".join(names) or "cover"),
                "baseline": values.pop("baseline"),
                "region": read_box("region", values.pop("region"), limits.max_text),
            }
            if tests["baseline"] not in [*FILLINGS]:  # a list, as anything may be sent
                expected = f"one of {', '.join(FILLINGS)}"
                raise InvalidArgument("baseline", tests["baseline"], expected)
            values["region"] = values.pop("explained_region")
            request = read_request(**values, limits=limits)
            report = cancellable_progress(gr.Progress())
            explained = explainer.explain(request, report, visitor, tests)
            warn(explained.notes)
            result = explained.result
            found = dict(result.manifest["evidence"])
            return {
                **found,
                "label": result.labels[found["class_index"]],
                "model": result.manifest["model"]["id"],
                "method": result.method,
                "layers": list(result.layers),
            }

    add_documented(settings, "evidence", evidence, _PARAMETERS, _OUTPUTS)
