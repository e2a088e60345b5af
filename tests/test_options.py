"""The table of options, and that every interface follows it."""

from __future__ import annotations

import inspect

import pytest

import cam_hub
from cam_hub import cli
from cam_hub.errors import InvalidArgument
from cam_hub.options import OPTIONS, check_options, read_options, recorded, unrecorded
from space.links import View, query_of, read_query


@pytest.mark.parametrize(
    "function", [cam_hub.explain, cam_hub.explain_methods, cam_hub.explain_many, cam_hub.compare]
)
def test_python_functions_take_every_option_with_its_default(function):
    parameters = inspect.signature(function).parameters
    for name, option in OPTIONS.items():
        assert parameters[name].default == option.default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("command", ["explain", "compare"])
def test_the_command_line_takes_every_option(command):
    texts = {"sign": "both", "target": "probability", "output": "gender", "call": "1"}
    flags = [part for name in OPTIONS for part in (f"--{name}", texts[name])]
    given = vars(cli._parser().parse_args([command, "cat.jpg", *flags]))
    assert read_options(given) == {**texts, "call": 1}
    assert read_options(vars(cli._parser().parse_args([command, "cat.jpg"]))) == {
        name: option.default for name, option in OPTIONS.items()
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
     ("output", 1.5), ("output", ""), ("output", ())],
)  # fmt: skip
def test_values_that_can_never_work_are_refused_by_name(name, value):
    with pytest.raises(InvalidArgument, match=name):
        check_options({name: value})


def test_the_manifest_gives_back_what_it_recorded():
    values = {"sign": "both", "target": "logit", "output": ("heads", 1), "call": None}
    noted = recorded({**values, "method": "gradcam"})
    assert noted == {**values, "output": ["heads", 1]}
    assert check_options(unrecorded(noted, {"output": None})) == values
    assert unrecorded({}, {}) == read_options({})


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
