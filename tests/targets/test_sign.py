"""Evidence against a class: laws by hand and over all methods, and how signed maps are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from cam_hub.errors import InvalidArgument
from cam_hub.methods import METHODS, Evidence, Moments
from cam_hub.results.overlay import colorize, colormap_table, fitting
from tests.fakes.methods import ONE_PASS

IMAGE = torch.randn((3, 32, 32), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    return cam_hub.wrap_model(net, input_size=(3, 32, 32))


def made(model, sign, method="gradcam", **more):
    return cam_hub.explain(model, IMAGE, method=method, sign=sign, classes=1, **more)


SPECIFIC = [name for name, method in ONE_PASS.items() if method.class_specific]


@pytest.mark.parametrize("name", SPECIFIC)
def test_against_is_the_map_of_the_negated_score_and_both_is_the_difference(name):
    generator = torch.Generator().manual_seed(1)
    activation = torch.randn((2, 3, 4, 4), generator=generator)
    gradient = torch.randn((2, 3, 4, 4), generator=generator)
    noisy = torch.randn((3, 2, 3, 4, 4), generator=generator)
    method, evidence = METHODS[name], Evidence(activation, gradient, Moments.of(noisy))
    negated = Evidence(activation, -gradient, Moments.of(-noisy))
    against = method.signed("against").compute(evidence)
    torch.testing.assert_close(against, method.compute(negated))
    both = method.signed("both").compute(evidence)
    torch.testing.assert_close(both, method.compute(evidence) - against)


def test_both_is_grad_cam_without_its_relu_and_layer_cam_on_positive_activations_is_g_times_a():
    # Two channels on a grid of one row: A = [[1, 2], [3, 0]], g = [[1, -3], [2, 0]].
    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
    gradient = torch.tensor([[[[1.0, -3.0]], [[2.0, 0.0]]]])
    evidence = Evidence(activation, gradient)
    # Grad-CAM: weights -1 and 1, so 1 * -1 + 3 * 1 = 2 and 2 * -1 + 0 = -2.
    assert METHODS["gradcam"].signed("both").compute(evidence).tolist() == [[[2.0, -2.0]]]
    # LayerCAM: 1 * 1 + 3 * 2 = 7 and 2 * -3 + 0 = -6.
    assert METHODS["layercam"].signed("both").compute(evidence).tolist() == [[[7.0, -6.0]]]
    assert METHODS["layercam"].signed("against").compute(evidence).tolist() == [[[0.0, 6.0]]]


@pytest.mark.parametrize("name", SPECIFIC)
def test_the_signs_of_one_explanation_belong_together(model, name):
    layers = {"target_layers": ["0", "2"]}
    up, down, both = (made(model, sign, name, **layers) for sign in ("for", "against", "both"))
    for key, cam in both.cams.items():
        assert (up.cams[key] >= 0).all()
        assert (down.cams[key] >= 0).all()
        np.testing.assert_allclose(cam, up.cams[key] - down.cams[key], atol=1e-6 * abs(cam).max())


@pytest.mark.parametrize("given", [{"sign": "against"}, {"sign": "both"}, {"contrast": 2}])
def test_a_method_whose_map_is_the_same_for_every_class_has_no_other_side(model, given):
    asked = {"method": "eigencam", "classes": 1, "target_layers": ["0", "2"]}
    with pytest.raises(InvalidArgument, match=r"the map of Eigen-CAM is the same for every"):
        cam_hub.explain(model, IMAGE, **asked, **given)
    found = cam_hub.explain(model, IMAGE, **{**asked, "classes": [0, 1]})
    assert found.manifest["layer_notes"] == dict.fromkeys(
        ("0", "2"), "its map is the same for every class"
    )
    assert (found.cams[0, "0"] == found.cams[1, "0"]).all()


def test_a_network_that_only_lowers_a_class_has_no_map_for_it_and_one_against(model):
    lowering = nn.Sequential(*list(model.module)[:-1], nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        lowering[-1].weight.copy_(torch.stack([-torch.ones(8), torch.zeros(8)]))
    wrapped = cam_hub.wrap_model(lowering, input_size=(3, 32, 32))
    with pytest.raises(cam_hub.errors.NoMap):
        cam_hub.explain(wrapped, IMAGE, classes=0, target_layers="3", method="gradcam")
    found = cam_hub.explain(
        wrapped, IMAGE, classes=0, target_layers="3", method="gradcam", sign="against"
    )
    assert found.cam().max() > 0
    assert found.target.endswith("what lowers it")


def test_the_heat_of_a_signed_map_keeps_its_zero_and_reaches_one_end(model):
    found = made(model, "both")
    cam, heat = found.cam(), found.heatmap()
    np.testing.assert_allclose(found.placement.warp(cam / abs(cam).max()), heat, atol=1e-6)
    assert found.mask(0.5).sum() == (heat >= 0.5).sum()


def test_it_is_drawn_with_a_diverging_colour_map_in_whose_middle_nothing_lies(model):
    found = made(model, "both")
    painted = found.overlay(alpha=1.0)
    expected = colorize((found.heatmap() + 1) / 2, "coolwarm")
    assert painted.tobytes() == expected.tobytes()
    assert found.overlay(alpha=1.0, colormap="RdBu_r").tobytes() != painted.tobytes()
    assert fitting("jet", signed=True) == "coolwarm"
    assert fitting("jet", signed=False) == "jet"
    assert fitting("RdBu_r", signed=True) == "RdBu_r"


def test_a_signed_fusion_takes_the_value_of_the_largest_magnitude(model):
    fused = made(model, "both", target_layers=["0", "2"]).cam()
    assert fused.min() < 0 < fused.max()
    assert abs(fused).max() <= 1


def test_a_comparison_also_shows_signed_maps(model):
    grid = cam_hub.compare(model, IMAGE, methods=["gradcam", "layercam"], sign="both", classes=1)
    (heats,) = grid.heat("own")
    assert all(abs(heat).max() == pytest.approx(1) and heat.min() < 0 for heat in heats)
    assert grid.figure().size


def test_a_signed_explanation_is_the_same_after_saving_and_after_reproducing(model, tmp_path):
    found = made(model, "both")
    assert cam_hub.Explanation.load(found.save(tmp_path / "x")).signed
    again = cam_hub.reproduce(found.manifest, IMAGE, model=model)
    np.testing.assert_array_equal(again.cam(), found.cam())


class TestScale:
    def test_equal_colours_mean_equal_values_on_a_shared_scale(self, model):
        several = [
            cam_hub.explain(model, factor * IMAGE, method="gradcam", classes=1)
            for factor in (1.0, 3.0)
        ]
        low, high = cam_hub.shared_scale(several)
        assert low == 0
        assert high == max(float(each.cam().max()) for each in several)
        for each in several:
            expected = each.placement.warp(each.cam() / high)
            np.testing.assert_allclose(each.heatmap(scale=(low, high)), expected, atol=1e-6)

    def test_outcomes_without_an_explanation_are_passed_over(self, model):
        outcomes = list(cam_hub.explain_many(model, [IMAGE, "no such file"], method="gradcam"))
        assert cam_hub.shared_scale(outcomes) == (0, float(outcomes[0].explanation.cam().max()))

    def test_a_signed_scale_is_symmetric(self, model):
        found = made(model, "both")
        low, high = cam_hub.shared_scale([found])
        assert -low == high == float(abs(found.cam()).max())

    def test_what_cannot_be_compared_has_no_shared_scale(self, model):
        with pytest.raises(InvalidArgument, match="one model, method and sign"):
            cam_hub.shared_scale([made(model, "for"), made(model, "for", "layercam")])
        with pytest.raises(InvalidArgument, match="at least one map"):
            cam_hub.shared_scale([])

    @pytest.mark.parametrize("scale", [(1, 0), (0, float("nan")), 3, (0, 1, 2), "ab"])
    def test_a_scale_that_can_mean_nothing_is_refused(self, model, scale):
        with pytest.raises(InvalidArgument, match="scale"):
            made(model, "for").heatmap(scale=scale)

    def test_a_colour_bar_stands_below_the_overlay_with_the_values_at_its_ends(self, model):
        found = made(model, "for")
        plain, barred = found.overlay(), found.overlay(colorbar=True, scale=(0.0, 2.0))
        assert barred.width == plain.width
        assert barred.height > plain.height
        bar = np.asarray(found.colorbar(scale=(0.0, 2.0), width=64, colormap="viridis"))
        assert bar[0, 0].tolist() == colormap_table("viridis")[0].tolist()
        assert bar[0, -1].tolist() == colormap_table("viridis")[-1].tolist()
