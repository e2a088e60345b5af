"""Laws over the registries of methods, layouts and tasks: results do not depend on the path."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import cam_hub
from cam_hub import METHODS, explain
from cam_hub.attribution.passes import RECENT, Noise, Setting, run
from cam_hub.attribution.preparation import make_job, prepare
from cam_hub.attribution.request import ExplainOptions
from cam_hub.layers.layouts import LAYOUTS
from cam_hub.targets import TASKS
from tests.fakes.engine_nets import apart, plainly
from tests.fakes.law_nets import FOLDED, inputs, is_of_clips, layer_of, of_layout, of_task
from tests.fakes.methods import ONE_PASS
from tests.fakes.sweep import diagonal

KINDS = [*LAYOUTS, *TASKS]
"""A new layout or task has no network in ``law_nets`` yet, and fails here until it is added."""

TOLERANCE = 1e-5
"""The tolerance, relative to a map's maximum."""

FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(scope="module")
def models() -> dict[str, cam_hub.LoadedModel]:
    """A small network of every kind; the classifier of channels first is both layout and task."""
    return {kind: of_layout(kind) if kind in LAYOUTS else of_task(kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def nothing_kept():
    RECENT.clear()


def distance(one: cam_hub.Explanation, other: cam_hub.Explanation) -> float:
    """The maximum difference between maps, relative to the map's maximum."""
    assert one.classes == other.classes
    assert one.layers == other.layers
    return max(
        float(np.abs(cam - other.cams[key]).max() / cam.max()) for key, cam in one.cams.items()
    )


def classes_of(model: cam_hub.LoadedModel) -> object:
    return None if model.task.name in ("similarity", "detection") else cam_hub.top(2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_networks_have_the_layout_that_they_represent(models, layout):
    found = {layer.name: layer.layout for layer in cam_hub.list_layers(models[layout])}
    assert found["laid"] == layout


def over_kinds_and_methods(shift: int) -> pytest.MarkDecorator:
    """Every kind with every method. Each law samples other pairs, and all laws together every."""
    return pytest.mark.parametrize(("kind", "method"), diagonal(KINDS, ONE_PASS, shift=shift))


class TestEveryMethodAndKind:
    @over_kinds_and_methods(0)
    def test_chunks_of_any_size_give_the_map_of_one_pass(self, models, kind, method):
        model = models[kind]
        (image,) = inputs(model, 1)
        options = {"method": method, "target_layers": layer_of(model), "num_samples": 5}
        options["classes"] = classes_of(model)
        whole = explain(model, image, batch_size=6, reuse=False, **options)
        for size in (1, 4):
            assert (
                distance(whole, explain(model, image, batch_size=size, reuse=False, **options))
                < TOLERANCE
            )

    @over_kinds_and_methods(1)
    def test_a_batch_gives_the_maps_of_its_images_one_by_one(self, models, kind, method):
        model = models[kind]
        images = inputs(model, 5)
        options = {"method": method, "target_layers": layer_of(model), "num_samples": 3}
        options["classes"] = classes_of(model)
        found = [
            outcome.explanation
            for outcome in cam_hub.explain_many(model, images, batch_size=7, **options)
        ]
        assert len(found) == len(images)
        for image, together in zip(images, found, strict=True):
            alone = explain(model, image, reuse=False, **options)
            assert distance(alone, together) < TOLERANCE
            assert alone.target == together.target

    @over_kinds_and_methods(2)
    def test_it_is_the_map_of_a_plain_implementation(self, models, kind, method):
        model = models[kind]
        layer, noise = layer_of(model), Noise(3, 0.2, 7)
        image = inputs(model, 1)[0][None]
        options = {"num_samples": 3, "std": 0.2, "seed": 7, "reuse": False}
        found = explain(model, image, method=method, target_layers=layer, **options)
        expected = plainly(model, METHODS[method], image, layer, found.classes[0], noise)
        cam = found.cams[found.classes[0], layer]
        assert apart(cam.reshape(expected.shape), expected) < TOLERANCE

    @over_kinds_and_methods(3)
    def test_what_is_kept_of_other_questions_gives_the_map_of_a_fresh_pass(
        self, models, kind, method
    ):
        model = models[kind]
        (image,) = inputs(model, 1)
        options = {"target_layers": layer_of(model), "num_samples": 3}
        for other in ONE_PASS:
            if other != method:
                explain(model, image, method=other, **options)
        options |= {"method": method, "classes": classes_of(model)}
        fresh = explain(model, image, reuse=False, **options)
        assert distance(fresh, explain(model, image, **options)) < TOLERANCE
        assert distance(fresh, explain(model, image, **options)) < TOLERANCE

    @over_kinds_and_methods(4)
    def test_several_classes_give_the_maps_of_each_alone(self, models, kind, method):
        model = models[kind]
        (image,) = inputs(model, 1)
        options = {"method": method, "target_layers": layer_of(model), "reuse": False}
        classes = [1, 2] if model.task.has_classes else [0]
        together = explain(model, image, classes=classes, **options)
        for index in classes:
            alone = explain(model, image, classes=index, **options)
            key = index, layer_of(model)
            assert apart(together.cams[key], alone.cams[key]) < TOLERANCE

    @over_kinds_and_methods(5)
    def test_several_methods_and_layers_give_the_maps_of_each_alone(self, models, kind, method):
        model = models[kind]
        (image,) = inputs(model, 1)
        layers = [layer_of(model), layer_of(model).replace("laid", "stem")]
        options = {"classes": classes_of(model), "reuse": False}
        together = cam_hub.explain_methods(model, image, ONE_PASS, target_layers=layers, **options)
        for layer in layers:
            alone = explain(model, image, method=method, target_layers=layer, **options)
            for index in alone.classes:
                one, other = together[method].cams[index, layer], alone.cams[index, layer]
                assert apart(one, other) < TOLERANCE

    @over_kinds_and_methods(6)
    def test_a_batch_that_lies_channels_last_gives_the_same_map(self, models, kind, method):
        if is_of_clips(kind):
            pytest.skip("clips pass in the format in which they come")
        model = models[kind]
        (image,) = inputs(model, 1)
        request = ExplainOptions.checked(target_layers=layer_of(model), classes=classes_of(model))
        job = make_job(model, prepare(model, image), [METHODS[method]], request)
        settings = (Setting(memory_format=each) for each in FORMATS)
        one, other = (run(replace(job, setting=each), reuse=False).maps for each in settings)
        assert one.keys() == other.keys()
        assert all(apart(cam, other[key]) < TOLERANCE for key, cam in one.items())

    @over_kinds_and_methods(7)
    def test_weights_that_lie_channels_last_give_the_same_map(self, models, kind, method):
        model = models[kind]
        solid = is_of_clips(kind) and kind not in FOLDED
        form = torch.channels_last_3d if solid else torch.channels_last
        module = copy.deepcopy(model.module).to(memory_format=form)
        last = replace(model, module=module, facts={})
        (image,) = inputs(model, 1)
        options = {"method": method, "target_layers": layer_of(model)}
        assert (
            distance(
                explain(model, image, reuse=False, **options),
                explain(last, image, reuse=False, **options),
            )
            < 1e-5
        )
