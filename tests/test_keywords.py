"""Unknown keyword arguments: Python's TypeError, with the right name."""

from __future__ import annotations

import inspect
import logging
import typing

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub._validation import SYNONYMS, with_hints
from cam_hub.options import OPTIONS

PUBLIC = (
    cam_hub.explain,
    cam_hub.explain_methods,
    cam_hub.explain_many,
    cam_hub.compare,
    cam_hub.load_model,
    cam_hub.wrap_model,
    cam_hub.predict,
    cam_hub.activations,
)


@pytest.mark.parametrize(
    ("function", "name", "hint"),
    [
        (cam_hub.explain, "target_layer", "target_layers= is the argument"),
        (cam_hub.explain, "layer", "target_layers="),
        (cam_hub.explain, "class_idx", "classes="),
        (cam_hub.explain, "targets", "classes="),
        (cam_hub.explain, "device", r"load_model\(…, device=…\)"),
        (cam_hub.explain, "input_tensor", "image="),
        (cam_hub.explain, "methods", "method="),
        (cam_hub.explain, "n_samples", "num_samples="),
        (cam_hub.explain, "random_state", "seed="),
        (cam_hub.explain, "batchsize", "batch_size="),
        (cam_hub.explain, "colormap", "overlay"),
        (cam_hub.explain_methods, "method", "methods="),
        (cam_hub.explain_many, "target_layer", "target_layers="),
        (cam_hub.explain_many, "num_workers", "workers="),
        (cam_hub.explain_many, "paths", "images="),
        (cam_hub.compare, "target", None),
        (cam_hub.compare, "model", "models="),
        (cam_hub.compare, "class_index", "classes="),
        (cam_hub.load_model, "weights", "pretrained="),
        (cam_hub.load_model, "name", "model_id="),
        (cam_hub.load_model, "trust_remote_code", "never run"),
        (cam_hub.wrap_model, "labels", "class_names="),
        (cam_hub.wrap_model, "id2label", "class_names="),
        (cam_hub.wrap_model, "img_size", "input_size="),
        (cam_hub.wrap_model, "preprocess", "transform="),
        (cam_hub.wrap_model, "device", "module.to"),
        (cam_hub.predict, "qqqqqq", "it takes model_or_id, image"),
    ],
)
def test_an_argument_that_does_not_exist_is_answered_with_the_right_one(
    function: typing.Callable[..., object], name: str, hint: str | None
) -> None:
    if hint is None:  # an existing argument, with another meaning
        assert name in inspect.signature(function).parameters
        return
    with pytest.raises(TypeError, match=rf"unexpected keyword argument '{name}': .*{hint}"):
        function("model", "cat.jpg", **{name: 1})


def test_a_class_given_as_target_is_answered_with_the_right_argument() -> None:
    with pytest.raises(cam_hub.errors.InvalidArgument, match="classes="):
        OPTIONS["target"].check(281)


def test_missing_arguments_are_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'image'"):
        cam_hub.explain("model")  # type: ignore[call-arg]


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_signatures_stay_open_to_inspection(function: typing.Callable[..., object]) -> None:
    parameters = inspect.signature(function).parameters
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    assert all(each.annotation is not each.empty for each in parameters.values())
    assert function.__doc__
    assert function.__module__.startswith("cam_hub.")


def test_no_synonym_is_an_argument_itself() -> None:
    """A synonym that is an argument of a function is not replaced in it."""
    for function in PUBLIC:
        names = set(inspect.signature(function).parameters)
        for name in names:
            for word in SYNONYMS.get(name, ()):
                assert name != word


def test_every_argument_that_has_synonyms_exists() -> None:
    known = {name for each in PUBLIC for name in inspect.signature(each).parameters}
    assert set(SYNONYMS) <= known


def test_a_decorated_function_does_what_it_did() -> None:
    @with_hints
    def add(one: int, other: int = 2) -> int:
        return one + other

    assert (add(1), add(1, 3), add(one=1, other=4)) == (3, 4, 5)


# --- The logger -----------------------------------------------------------------------------------


class Small(nn.Module):
    """Runs out of memory with more than two images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("out of memory")
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_the_chosen_layer_and_halved_chunks_are_logged(caplog) -> None:
    model = cam_hub.wrap_model(Small(), input_size=(3, 32, 32), id="mine")
    photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype="uint8")
    with caplog.at_level(logging.INFO, logger="cam_hub"):
        cam_hub.explain(model, photo)
    said = {record.levelno: record.getMessage() for record in caplog.records}
    assert said[logging.INFO].startswith("mine: layer conv is chosen: ")
    assert said[logging.WARNING] == "mine: out of memory; at most 2 images pass at once"


def test_nothing_is_printed_unless_logging_is_configured(capfd) -> None:
    handlers = logging.getLogger("cam_hub").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
    logging.getLogger("cam_hub").info("quiet")
    assert capfd.readouterr() == ("", "")


REPORTING = [
    getattr(cam_hub, name)
    for name in cam_hub.__all__
    if inspect.isfunction(getattr(cam_hub, name))
    and "progress" in inspect.signature(getattr(cam_hub, name)).parameters
]


@pytest.mark.parametrize("function", REPORTING, ids=lambda function: function.__name__)
def test_progress_that_is_not_a_function_is_refused_before_any_work(function):
    parameters = inspect.signature(function).parameters.values()
    needed = [each for each in parameters if each.default is each.empty]
    needed = [each for each in needed if each.kind is each.POSITIONAL_OR_KEYWORD]
    with pytest.raises(cam_hub.errors.InvalidArgument, match="progress=5 does not work"):
        function(*(object() for _ in needed), progress=5)
