"""The same request gets the same result, whatever was requested before.

Rounding in torch depends on the number of images in a pass: with one thread this affects the scores
of the embedded model, with several also its maps, and at inner layers more than their last digits.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import cam_hub
from cam_hub import Explanation, explain
from cam_hub.attribution.passes import RECENT
from tests.fakes.engine_nets import apart
from tests.fakes.methods import ONE_PASS
from tests.fakes.sweep import sample

NOISY = {"method": "smoothgradcampp"}
QUESTIONS: dict[str, dict[str, object]] = {
    "with noise": NOISY,
    "other class": {**NOISY, "classes": 282},
    "other seed": {**NOISY, "seed": 1},
    "fewer samples": {**NOISY, "num_samples": 2, "classes": cam_hub.top(2)},
    "smaller batch": {**NOISY, "batch_size": 2},
    "early layers": {**NOISY, "target_layers": ["blocks.2", "blocks.4"], "num_samples": 2},
    "one early layer": {**NOISY, "target_layers": "blocks.4", "num_samples": 2},
    "layercam": {"method": "layercam"},
    "layercam, small batch": {"method": "layercam", "batch_size": 1},
    "gradcam, early": {"method": "gradcam", "target_layers": ["blocks.2", "blocks.4"]},
}
BY_EVIDENCE: dict[str, dict[str, object]] = {
    "default": {},
    "another class by evidence": {"classes": 282},
    "a layer by evidence": {"method": "layercam", "target_layers": "faithful"},
}
"""Requests whose layer and method depend on earlier images, but not on earlier requests for one."""

ROUNDING = 1e-5
"""The maximum change by rounding in maps without noise, relative to a map's maximum."""


@pytest.fixture(scope="module")
def fresh(lite0, lion) -> dict[str, Explanation]:
    """The result of each request, from a pass of its own."""
    RECENT.clear()
    return {name: explain(lite0, lion, **given, reuse=False) for name, given in QUESTIONS.items()}


@pytest.fixture(scope="module")
def in_order(lite0, lion, seed) -> dict[str, Explanation]:
    """The result of each request, one after another in a random order."""
    RECENT.clear()
    order = random.Random(seed).sample(sorted(QUESTIONS), len(QUESTIONS))
    return {name: explain(lite0, lion, **QUESTIONS[name]) for name in order}


def identical(one: Explanation, other: Explanation) -> bool:
    return one.manifest == other.manifest and all(
        cam.tobytes() == other.cams[key].tobytes() for key, cam in one.cams.items()
    )


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))], scope="module"
)
class TestInAnyOrder:
    def test_a_question_asked_twice_gets_one_answer(self, lite0, lion, fresh, seed):
        RECENT.clear()
        questions = QUESTIONS | BY_EVIDENCE
        for name in random.Random(seed).sample(sorted(questions), len(questions)):
            first = explain(lite0, lion, **questions[name])
            assert identical(first, explain(lite0, lion, **questions[name])), name
            again = cam_hub.reproduce(first.manifest, lion)
            if name in QUESTIONS:
                assert identical(first, again), name
                continue
            # The choice's pass had other company, which changes the rounding.
            assert again.manifest["choice"] == first.manifest["choice"], name
            for key, cam in first.cams.items():
                assert apart(cam, again.cams[key]) < ROUNDING, name

    def test_what_needs_noise_is_what_a_fresh_pass_gives(self, fresh, in_order):
        for name, found in in_order.items():
            if found.manifest["method"] == "smoothgradcampp":
                assert identical(found, fresh[name]), name

    def test_what_needs_none_is_what_a_fresh_pass_gives_but_for_rounding(self, fresh, in_order):
        for name, found in in_order.items():
            if found.manifest["method"] != "smoothgradcampp":
                for key, cam in fresh[name].cams.items():
                    assert apart(cam, found.cams[key]) < ROUNDING, name
                probabilities = [
                    [each.probability for each in one.predictions] for one in (found, fresh[name])
                ]
                np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-6)


def test_without_noise_it_is_a_fresh_pass_as_long_as_nothing_with_noise_was_asked(
    lite0, lion, fresh
):
    RECENT.clear()
    for name in ("gradcam, early", "layercam", "layercam, small batch", "gradcam, early"):
        assert identical(explain(lite0, lion, **QUESTIONS[name]), fresh[name]), name


@pytest.mark.slow
def test_an_answer_that_uses_nothing_kept_is_the_same_at_any_time(lite0, lion, fresh):
    for given in QUESTIONS.values():
        explain(lite0, lion, **given)
    for name, given in QUESTIONS.items():
        assert identical(explain(lite0, lion, **given, reuse=False), fresh[name]), name


def test_other_methods_and_classes_in_the_same_call_change_nothing(lite0, lion, fresh):
    together = cam_hub.explain_methods(lite0, lion, ONE_PASS, classes=["lion", 282], reuse=False)
    for name, index in (("with noise", 291), ("other class", 282)):
        alone = fresh[name].cam(index)
        assert together["smoothgradcampp"].cam(index).tobytes() == alone.tobytes()


class TestSmoothGradCampp:
    """With real weights, the map depends neither on the seed nor on invisible noise."""

    @staticmethod
    def maps(model, image, layers, **given) -> dict[str, np.ndarray]:
        given.setdefault("classes", cam_hub.top(1))
        result = explain(
            model, image, method="smoothgradcampp", target_layers=layers, reuse=False, **given
        )
        return {layer: result.cams[result.classes[0], layer].ravel() for layer in layers}

    @staticmethod
    def least(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
        return min(float(np.corrcoef(cam, other[layer])[0, 1]) for layer, cam in one.items())

    @pytest.mark.parametrize("name", sample(["cat", "espresso", "lion"], quick=["cat"]))
    def test_two_seeds_give_the_same_map_at_every_stage(self, lite0, photos, name):
        stages = cam_hub.suggest_layers(lite0, "stages")
        assert len(stages) >= 5
        one, other = (  # four copies are enough
            self.maps(lite0, photos[name], stages, seed=seed, sampling="fixed") for seed in (0, 1)
        )
        assert self.least(one, other) >= 0.97

    @pytest.mark.parametrize(
        ("name", "sampling"),
        [
            pytest.param("cat", "adaptive", marks=pytest.mark.slow),
            ("espresso", "fixed"),
        ],
    )
    def test_invisible_noise_on_the_input_does_not_change_the_map_of_any_block(
        self, lite0, photos, name, sampling
    ):
        blocks = [
            layer.name
            for layer in cam_hub.list_layers(lite0)
            if layer.usable and layer.name.startswith("blocks.") and layer.name.count(".") <= 2
        ]
        assert len(blocks) > 15
        tensor = lite0.preprocess(photos[name])[0]
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        one, other = (
            self.maps(lite0, x, blocks, sampling=sampling) for x in (tensor, tensor + 1e-3 * noise)
        )
        assert self.least(one, other) >= 0.97
