"""The same maps by every path that computes them, over all methods, layouts and tasks."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import cam_hub
from cam_hub import METHODS, explain_methods, list_layers
from cam_hub.attribution.passes import RECENT, Job, Noise, Setting, forward, run
from cam_hub.attribution.preparation import prepare, resolve_target
from cam_hub.errors import NoMap
from cam_hub.hooks.recording import Taps
from cam_hub.targets.classes import ResolvedClasses
from tests.fakes.engine_nets import NETS, apart, make_net, picture, plain_tensors, some_layers
from tests.fakes.methods import ONE_PASS
from tests.fakes.sweep import diagonal

EXACT = 1e-5

FIXED = {"sampling": "fixed"}
"""For tests that are not about the number of noisy copies, which grows for these networks."""

# By name: the choice by evidence makes passes of its own.
explain = partial(cam_hub.explain, method="smoothgradcampp")


@pytest.fixture(scope="module", params=NETS)
def model(request):
    return make_net(request.param)


@pytest.fixture(autouse=True)
def nothing_kept():
    RECENT.clear()


def classes_of(model) -> list[int]:
    """Two classes other than the predicted class alone, or the only class."""
    first = explain(model, picture(model), method="gradcam", target_layers=some_layers(model))
    return list(dict.fromkeys([first.classes[0], 0]))


def same(one, other) -> None:
    assert one.classes == other.classes
    assert one.predictions == other.predictions or len(one.predictions) == len(other.predictions)
    assert set(one.cams) == set(other.cams)
    for key, cam in one.cams.items():
        assert apart(cam, other.cams[key]) < EXACT, key


def test_maps_are_those_of_a_plain_implementation(model):
    image, layers, noise = picture(model), some_layers(model), Noise(3, 0.1, 1)
    found = explain_methods(
        model,
        image,
        ONE_PASS,
        target_layers=layers,
        num_samples=3,
        std=0.1,
        seed=1,
        sampling="fixed",
    )
    (index,) = {index for result in found.values() for index in result.classes}
    for layer in layers:
        tensors = plain_tensors(model, image, layer, index, noise)
        for name, result in found.items():
            expected = METHODS[name](*tensors)[0].numpy()
            assert apart(result.cams[index, layer], expected) < EXACT, (name, layer)


@pytest.mark.parametrize(("model", "size"), diagonal(NETS, [1, 2, 4]), indirect=["model"])
def test_chunks_do_not_change_maps(model, size):
    image, layers = picture(model), some_layers(model)
    whole = explain_methods(model, image, ONE_PASS, target_layers=layers, reuse=False)
    parts = explain_methods(
        model, image, ONE_PASS, target_layers=layers, batch_size=size, reuse=False
    )
    for name in ONE_PASS:
        same(parts[name], whole[name])


@pytest.mark.parametrize(
    "mixed", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["all or the last", "mixed"]
)
def test_what_is_kept_gives_the_maps_of_a_fresh_pass(model, mixed):
    image, layers = picture(model), some_layers(model)
    classes = classes_of(model)
    RECENT.clear()
    explain(model, image, target_layers=layers, classes=classes[:1], **FIXED)
    parts = [(classes, layers), (classes[-1:], layers[-1:])]
    if mixed:
        parts[1:1] = [(classes, layers[-1:]), (classes[-1:], layers)]
    for name in ONE_PASS:
        for chosen, some in parts:
            asked = {"method": name, "target_layers": some, "classes": chosen, **FIXED}
            try:
                fresh = explain(model, image, **asked, reuse=False)
            except NoMap:
                with pytest.raises(NoMap):
                    explain(model, image, **asked)
            else:
                same(explain(model, image, **asked), fresh)


def test_noisy_copies_continue_from_a_cached_clean_pass(model):
    image, layers = picture(model), some_layers(model)
    fresh = explain(model, image, target_layers=layers, reuse=False, **FIXED)
    explain(model, image, method="layercam", target_layers=layers)
    same(explain(model, image, target_layers=layers, **FIXED), fresh)


def test_several_classes_equal_one_by_one(model):
    image, layers, classes = picture(model), some_layers(model), classes_of(model)
    together = explain(model, image, target_layers=layers, classes=classes, reuse=False, **FIXED)
    for index in classes:
        alone = explain(model, image, target_layers=layers, classes=index, reuse=False, **FIXED)
        for name in layers:
            assert apart(together.cams[index, name], alone.cams[index, name]) < EXACT


def test_channels_last_equals_channels_first(model):
    image, layers = picture(model).to(model.dtype), some_layers(model)
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        job = Job(
            model=model,
            image=image,
            layers={layer.name: layer for layer in list_layers(model) if layer.name in layers},
            aim=lambda: resolve_target(model, prepare(model, image)).aim(model, image),
            question=None,
            settle=lambda ranking, *_: ResolvedClasses((int(ranking.argmax()),)),
            methods=list(ONE_PASS.values()),
            noise=Noise(2, 0.1, 0),
            batch_size=8,
            setting=Setting(memory_format=memory_format),
        )
        found.append(run(job, reuse=False).maps)
    assert len(found[0]) == len(ONE_PASS) * len(layers)
    for key, cam in found[0].items():
        assert apart(cam, found[1][key]) < EXACT, key


@pytest.mark.parametrize(("word", "distance"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_autocast_stays_near_and_is_recorded(lite0, photos, word, distance):
    for name, result in explain_methods(lite0, photos["cat"], ONE_PASS).items():
        index = result.classes[0]
        near = explain(lite0, photos["cat"], method=name, classes=index, autocast=word)
        assert 0 < apart(near.cam(), result.cam()) < distance
        assert (near.manifest["autocast"], near.manifest["precision"]) == (word, "float32")
        assert "autocast" not in result.manifest


def test_predictions_do_not_depend_on_autograd_being_off(model):
    asked = {"target_layers": some_layers(model), "reuse": False, **FIXED}
    with torch.inference_mode():
        off = explain(model, picture(model), **asked)
    same(off, explain(model, picture(model), **asked))


def test_one_backward_pass_of_all_classes_gives_the_same_maps(model, monkeypatch):
    """As on accelerators, of which there may be none here."""
    image, layers = picture(model), some_layers(model)
    arguments = {"classes": classes_of(model), "target_layers": layers, "reuse": False}
    in_turn = explain_methods(model, image, ONE_PASS, **arguments)
    monkeypatch.setattr(forward, "_IN_TURN", ())
    asked, gradients = [], Taps.gradients

    def counted(*arguments):
        asked.append(gradients(*arguments))
        return asked[-1]

    monkeypatch.setattr(Taps, "gradients", counted)
    at_once = explain_methods(model, image, ONE_PASS, **arguments)
    for name in ONE_PASS:
        same(at_once[name], in_turn[name])
    several = len(arguments["classes"]) > 1
    # The shortcut for tokens, which only a CPU takes, looks at values, so that torch cannot.
    tokens = any(each.prefix_tokens for each in list_layers(model))
    assert [found is not None for found in asked] == [not tokens] * len(asked)
    assert bool(asked) == several


def test_one_backward_pass_is_as_good_for_jobs_with_fewer_classes(monkeypatch):
    model = make_net("channels first")
    shown = [picture(model, seed=number)[0] for number in range(4)]
    best = [cam_hub.predict(model, each).predictions[0].class_index for each in shown]
    images = [(each, top - n % 2) for n, (each, top) in enumerate(zip(shown, best, strict=True))]
    arguments = {"classes": [cam_hub.top(1), cam_hub.expected], "method": "layercam"}
    in_turn = [each.explanation for each in cam_hub.explain_many(model, images, **arguments)]
    monkeypatch.setattr(forward, "_IN_TURN", ())
    at_once = [each.explanation for each in cam_hub.explain_many(model, images, **arguments)]
    assert len({len(each.classes) for each in in_turn}) == 2, "of some, both are one"
    for one, other in zip(at_once, in_turn, strict=True):
        same(one, other)
