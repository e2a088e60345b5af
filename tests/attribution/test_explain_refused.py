"""The refusals of ``explain``: bad arguments and faulty models; no state is left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub import explain
from cam_hub.errors import (
    ClassNotFound,
    InvalidArgument,
    LayerNotFound,
    MethodNotFound,
    ModelNotFound,
    ModelRefused,
    NoMap,
)
from tests.fakes.module_state import state_of


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"method": "gradcan"}, MethodNotFound),
        ({"method": None}, MethodNotFound),
        ({"target_layers": "bn3"}, LayerNotFound),
        ({"target_layers": "classifier"}, NoMap),
        ({"classes": 1000}, ClassNotFound),
        ({"classes": -1}, ClassNotFound),
        ({"classes": "lino"}, ClassNotFound),
        ({"num_samples": 0}, InvalidArgument),
        ({"num_samples": 2.5}, InvalidArgument),
        ({"num_samples": 10**9}, InvalidArgument),
        ({"std": -0.1}, InvalidArgument),
        ({"std": float("nan")}, InvalidArgument),
        ({"std": "much"}, InvalidArgument),
        ({"seed": -1}, InvalidArgument),
        ({"seed": 0.5}, InvalidArgument),
        ({"batch_size": 0}, InvalidArgument),
    ],
    ids=str,
)
def test_bad_arguments_have_their_error_and_cost_nothing(lite0, lion, arguments, error):
    before = state_of(lite0.module)
    with pytest.raises(error):
        explain(lite0, lion, **arguments)
    assert state_of(lite0.module) == before
    assert explain(lite0, lion).classes == (291,)


def test_numbers_of_the_noise_are_checked_even_where_no_noise_is_made(lite0, lion):
    with pytest.raises(InvalidArgument, match="num_samples"):
        explain(lite0, lion, method="layercam", num_samples=0)


class TestModelsThatMisbehave:
    def explain_module(self, forward, lion, **arguments):
        class Module(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.conv = nn.Conv2d(3, 4, 8, 8)

            def forward(self, x: torch.Tensor) -> object:
                return forward(self.conv(x))

        model = cam_hub.wrap_model(Module(), input_size=(3, 64, 64))
        before = state_of(model.module)
        try:
            return explain(model, lion, **arguments)
        finally:
            assert state_of(model.module) == before

    def test_one_that_raises_is_refused_with_its_words(self, lion):
        def forward(x):
            raise RuntimeError("out of cheese")

        with pytest.raises(ModelRefused, match="out of cheese"):
            self.explain_module(forward, lion)

    def test_scores_that_are_not_finite_give_no_map(self, lion):
        with pytest.raises(NoMap, match="not finite"):
            self.explain_module(lambda x: x.mean((2, 3)) + torch.nan, lion, target_layers="conv")

    def test_outputs_that_are_not_class_scores_are_refused(self, lion):
        with pytest.raises(ModelRefused, match="class scores"):
            self.explain_module(lambda x: x, lion, target_layers="conv")

    def test_a_single_score_is_a_class(self, lion):
        result = self.explain_module(lambda x: x.square().mean((1, 2, 3)), lion)
        assert result.classes == (1,)  # determined by its sign
        assert sum(each.probability for each in result.predictions) == pytest.approx(1)

    def test_the_first_tensor_of_a_tuple_is_the_score(self, lion):
        result = self.explain_module(lambda x: (x.square().mean((2, 3)), "aux"), lion)
        assert len(result.predictions) == 4

    @pytest.mark.parametrize("host", [torch.no_grad, torch.inference_mode])
    def test_a_host_without_gradients_does_not_matter(self, lite0, lion, host):
        expected = explain(lite0, lion).cam()
        with host():
            assert np.array_equal(explain(lite0, lion).cam(), expected)

    def test_a_bare_module_asks_to_be_wrapped(self, lion):
        with pytest.raises(InvalidArgument, match="wrap_model"):
            explain(nn.Conv2d(3, 1, 1), lion)

    def test_an_unknown_id_names_the_nearest(self, lion):
        with pytest.raises(ModelNotFound, match="squeezenet1_1"):
            explain("squeezenet1_1", lion)

    def test_images_of_a_batch_that_would_mix_are_passed_one_by_one(self, lion):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        )  # fmt: skip
        model = cam_hub.wrap_model(module, input_size=(3, 64, 64))
        scores = module.eval()(model.preprocess(lion))[0].detach().softmax(0)
        result = explain(model, lion, target_layers="0")
        assert result.predictions[0].probability == pytest.approx(float(scores.max()), abs=1e-6)
