"""The table of options, and that every interface follows it."""

from __future__ import annotations

import inspect

import pytest

import cam_hub
from cam_hub import cli
from cam_hub.errors import InvalidArgument
from cam_hub.options import (
    OPTIONS,
    check_options,
    options_for,
    read_options,
    recorded,
    unrecorded,
)
from space.service.views import View, query_of, read_query


@pytest.mark.parametrize(
    ("function", "interface"),
    [
        (cam_hub.explain, "explain"),
        (cam_hub.explain_methods, "explain"),
        (cam_hub.explain_many, "many"),
        (cam_hub.explain_dataset, "many"),
        (cam_hub.compare, "compare"),
        (cam_hub.predict, "predict"),
    ],
)
def test_python_functions_take_every_option_of_theirs_with_its_default(function, interface):
    parameters = inspect.signature(function).parameters
    assert set(OPTIONS) & set(parameters) == set(options_for(interface))
    for name, option in options_for(interface).items():
        assert parameters[name].default == option.default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    ("path", "interface"),
    [("/explain", "explain"), ("/compare", "compare"), ("/predict", "predict")],
)
def test_endpoints_take_every_option_of_theirs_with_its_default(client, path, interface):
    info = client.view_api(return_format="dict", print_info=False)
    listed = info["named_endpoints"][path]["parameters"]
    defaults = {each["parameter_name"]: each["parameter_default"] for each in listed}
    assert set(OPTIONS) & set(defaults) == set(options_for(interface))
    for name, option in options_for(interface).items():
        assert option.read(defaults[name]) == option.default


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_the_command_line_takes_every_option(command):
    texts = {"sign": "both", "target": "probability", "output": "gender", "call": "1",
             "background": "sea.png", "batch_size": "3", "autocast": "float16",
             "sampling": "fixed", "evidence": "cover, road"}  # fmt: skip
    values = {**texts, "call": 1, "batch_size": 3, "reuse": False, "evidence": ("cover", "road")}
    options = options_for(command)
    flags = [
        part
        for name, option in options.items()
        for part in ([option.flag] if option.kind == "switch" else [option.flag, texts[name]])
    ]
    given = vars(cli._parser().parse_args([command, "cat.jpg", *flags]))
    assert read_options(given, command) == {name: values[name] for name in options}
    assert read_options(vars(cli._parser().parse_args([command, "cat.jpg"])), command) == {
        name: option.default for name, option in options.items()
    }


def test_a_link_carries_the_options_that_differ_from_their_defaults():
    view = View("m", options=read_options({"sign": "against", "call": "0"}))
    query = query_of(view)
    assert query == "model=m&sign=against&call=0"
    pairs = [tuple(pair.split("=")) for pair in query.split("&")]
    assert read_query(pairs, "m").options == {"sign": "against", "call": 0}


@pytest.mark.parametrize(
    ("name", "value"),
    [("sign", "+"), ("sign", None), ("target", "loss"), ("call", "first"), ("call", True),
     ("output", 1.5), ("output", ""), ("output", ()), ("batch_size", 0), ("batch_size", None),
     ("batch_size", 2.0), ("autocast", "int8"), ("reuse", "no"), ("reuse", None),
     ("sampling", "more"), ("sampling", None), ("evidence", "covr"), ("evidence", True),
     ("evidence", []), ("evidence", ["cover", 1]), ("evidence", " , ")],
)  # fmt: skip
def test_values_that_can_never_work_are_refused_by_name(name, value):
    with pytest.raises(InvalidArgument, match=name):
        check_options({name: value})


def test_the_manifest_gives_back_what_it_recorded():
    values = {
        "sign": "both",
        "target": "logit",
        "output": ("heads", 1),
        "call": None,
        "sampling": "fixed",
        "evidence": ("cover", "focus"),
    }
    noted = recorded({**values, "method": "gradcam"})
    assert noted == {**values, "output": ["heads", 1], "evidence": ["cover", "focus"]}
    assert check_options(unrecorded(noted, {"output": None})) == values
    assert unrecorded({}, {}) == {
        name: value for name, value in read_options({}).items() if OPTIONS[name].recorded
    }


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("reuse", "off", False), ("reuse", "", True), ("reuse", True, True), ("batch_size", 4.0, 4),
     ("batch_size", " ", 8), ("autocast", "", None), ("background", None, None),
     ("evidence", "", None), ("evidence", "road,cover,road", ("road", "cover")),
     ("evidence", "all", tuple(OPTIONS["evidence"].choices))],
)  # fmt: skip
def test_texts_and_values_of_programs_are_read_in_the_same_way(name, text, value):
    assert OPTIONS[name].read(text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("reuse", "perhaps"), ("batch_size", "many"), ("batch_size", 0), ("autocast", True)],
)
def test_texts_that_mean_nothing_are_refused(name, text):
    with pytest.raises(InvalidArgument, match=name):
        OPTIONS[name].read(text)


def test_a_recorded_function_has_to_be_given_again():
    def oldest(output):
        return output["age"].amax(1)

    noted = recorded({"output": oldest})
    assert noted["output"] == {"function": "oldest"}
    with pytest.raises(InvalidArgument, match="oldest"):
        unrecorded(noted, {"output": None})
    assert unrecorded(noted, {"output": oldest})["output"] is oldest
    with pytest.raises(InvalidArgument, match="there was none"):
        unrecorded({}, {"output": oldest})
