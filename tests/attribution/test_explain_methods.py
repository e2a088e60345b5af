"""Several methods from one pass."""

from __future__ import annotations

import pytest

from cam_hub import explain, explain_methods
from cam_hub.attribution.passes import RECENT
from cam_hub.errors import InvalidArgument, MethodNotFound
from tests.fakes.methods import ONE_PASS

ROUNDED = {"predictions": None, "classes": None}
"""The tolerance for probabilities, whose last digits depend on the other images of the batch."""


def test_they_give_what_each_gives_alone(lite0, lion):
    together = explain_methods(lite0, lion, ONE_PASS, reuse=False)
    assert list(together) == list(ONE_PASS)
    for name, result in together.items():
        alone = explain(lite0, lion, method=name, reuse=False)
        assert {**result.manifest, **ROUNDED} == {**alone.manifest, **ROUNDED}
        assert abs(result.cam() - alone.cam()).max() < 1e-5 * alone.cam().max()


def test_the_network_runs_once(lite0, lion):
    RECENT.clear()
    batches = []
    hook = lite0.module.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    try:
        explain_methods(lite0, lion, ["LayerCAM", "Smooth Grad-CAM++", "layercam"], reuse=False)
    finally:
        hook.remove()
    assert batches == [5]


def test_a_single_name_is_a_list_of_one(lite0, lion):
    assert list(explain_methods(lite0, lion, "Grad-CAM")) == ["gradcam"]


@pytest.mark.parametrize(
    ("methods", "error"), [([], InvalidArgument), (["layercam", "no such"], MethodNotFound)]
)
def test_bad_lists_are_refused(lite0, lion, methods, error):
    with pytest.raises(error):
        explain_methods(lite0, lion, methods)


@pytest.mark.parametrize("word", ["float32", "half", 16])
def test_autocast_takes_its_own_words_only(lite0, lion, word):
    with pytest.raises(InvalidArgument, match="bfloat16, float16"):
        explain(lite0, lion, autocast=word)


@pytest.mark.parametrize("methods", [None, 5, object(), []])
def test_what_names_no_method_is_refused(lite0, photos, methods):
    with pytest.raises(InvalidArgument, match="methods"):
        explain_methods(lite0, photos["cat"], methods)
