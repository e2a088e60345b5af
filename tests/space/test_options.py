"""Settings: one table, read from flags and the environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cam_hub
from cam_hub.errors import InvalidArgument, ModelNotFound, ModelRefused
from space.config.options import OPTIONS, read_options
from space.config.settings import Settings
from space.service.explain_form import read_model_id

ROOT = Path(__file__).resolve().parents[2]


def settings(variables: dict[str, str] | None = None, **typed: str) -> Settings:
    return Settings.of(read_options(typed, variables or {}, on_space=False))


def test_without_any_the_settings_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch):
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)
    assert settings() == Settings()


def test_on_a_space_it_listens_to_the_outside_and_bounds_the_disk():
    values = read_options({}, {}, on_space=True)
    assert values["host"] == "0.0.0.0"
    assert values["disk-bytes"] == 20 * 10**9  # of the 50 GB of a Space
    assert read_options({"host": "127.0.0.1"}, {}, on_space=True)["host"] == "127.0.0.1"


def test_a_flag_goes_before_its_variable_and_that_before_the_default():
    name = "CAM_HUB_MAX_PIXELS"
    assert settings({name: "2_000"}).limits.max_pixels == 2000
    assert settings({name: "2000"}, max_pixels="3000").limits.max_pixels == 3000
    assert settings({name: " "}).limits.max_pixels == Settings().limits.max_pixels


def test_the_port_may_come_from_gradios_own_variable():
    variables = {"GRADIO_SERVER_PORT": "8123"}
    assert read_options({}, variables, on_space=False)["port"] == 8123
    assert read_options({}, {**variables, "CAM_HUB_PORT": "9000"}, on_space=False)["port"] == 9000


OTHERS: dict[str, tuple[str, Any]] = {
    "count": ("7", 7),
    "amount": ("0", 0),
    "seconds": ("2.5", 2.5),
    "words": ("timm, me", ("timm", "me")),
    "switch": ("yes", True),
    "hosts": ("cam.example.org, [::1]:80", ("cam.example.org", "[::1]:80")),
    "port": ("8000", 8000),
}
WRONG = {
    "count": ["0", "-1", "1.5", "many", "1e3"],
    "amount": ["-1", "x"],
    "seconds": ["0", "-1", "nan", "inf", "soon"],
    "words": [",", "a/b", "-a", "a;b"],
    "hosts": [",", "http://a", "a:b", "a b;c", "*", "a.example/x"],
    "switch": ["perhaps", "2"],
    "port": ["0", "65536", "http", "-1", "1.5"],
    "text": ["a b"],
}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_setting_is_read_and_applied(option: Any):
    if option.kind not in OTHERS:
        return
    text, value = OTHERS[option.kind]
    if option.name in ("urls",):
        text, value = "off", False
    values = read_options({}, {option.variable: text}, on_space=False)
    assert values[option.name] == value
    if option.name == "owners" or not option.field:
        return
    found: Any = Settings.of(values)
    for part in option.field.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("option", "text"),
    [(option, text) for option in OPTIONS for text in WRONG[option.kind]],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_invalid_value_is_refused_in_a_sentence_that_names_its_place(option: Any, text: str):
    with pytest.raises(InvalidArgument, match=option.variable):
        read_options({}, {option.variable: text}, on_space=False)
    with pytest.raises(InvalidArgument, match=option.flag):
        read_options({option.name.replace("-", "_"): text}, {}, on_space=False)


def test_none_lifts_a_limit_where_there_need_not_be_one():
    assert settings({"CAM_HUB_PARAMETERS": "none"}).load_limits.parameters is None
    with pytest.raises(InvalidArgument):
        settings({"CAM_HUB_MAX_PIXELS": "none"})


def test_the_docs_list_every_setting_with_its_default():
    text = (ROOT / "docs" / "space.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `(--[\w-]+)` \| `(\w+)` \| (.+) \| `?([^|`]+)`? \|$", text, re.MULTILINE
    )
    assert [row[:2] for row in rows] == [(option.flag, option.variable) for option in OPTIONS]
    for row, option in zip(rows, OPTIONS, strict=True):
        assert row[2:] == (option.help, option.default_text()), option.name


# Whose models


def test_only_models_of_the_owners_are_loaded():
    limits = settings(owners="timm,me").limits
    for id in ("timm/resnet50.a1_in1k", "me/mine", "torchvision/resnet50", "resnet50.a1_in1k"):
        assert read_model_id(id, limits) == id
    for id in ("you/yours", "you/yours@main", "https://huggingface.co/you/yours"):
        with pytest.raises(ModelRefused, match="timm, me"):
            read_model_id(id, limits)
    everybody = settings(owners="none").limits
    assert read_model_id("you/yours", everybody) == "you/yours"


def test_the_model_that_is_installed_is_loaded_whoever_the_owners_are():
    limits = settings(owners="me").limits
    assert read_model_id(cam_hub.DEFAULT_MODEL, limits) == cam_hub.DEFAULT_MODEL
    with pytest.raises(ModelRefused):
        read_model_id("timm/resnet50.a1_in1k", limits)
    with pytest.raises(ModelRefused):
        read_model_id("resnet50.a1_in1k", limits)


def test_an_app_that_would_not_load_its_own_default_model_does_not_start():
    with pytest.raises(InvalidArgument, match="owners"):
        settings(owners="me", model="you/yours")
    with pytest.raises(ModelNotFound):
        settings(model="no/such/model/at/all")
    assert settings(owners="me", model="me/mine").default_model == "me/mine"
