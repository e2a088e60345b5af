"""The pass cache: nothing is computed twice, within its limit, and nothing outdated is used."""

from __future__ import annotations

import gc
import operator
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cam_hub
from cam_hub import METHODS, explain, list_layers
from cam_hub.attribution.passes import RECENT
from cam_hub.attribution.passes.pass_cache import LIMIT, VARIABLE, RecentPasses
from cam_hub.errors import ClassNotFound
from tests.fakes.engine_nets import Counting, apart, picture
from tests.fakes.methods import ONE_PASS

LAYERS = ["block", "last"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    RECENT.clear()
    made = cam_hub.wrap_model(Counting(), input_size=(3, 32, 32))
    list_layers(made)
    asked(made, picture(made, seed=99))
    made.module.images = 0
    return made


def asked(model, image=None, **given):
    """A call, with the number of images that passed the network."""
    before = model.module.images
    given.setdefault("target_layers", LAYERS)
    given.setdefault("method", "smoothgradcampp")  # the choice by evidence makes passes of its own
    result = explain(model, picture(model) if image is None else image, **given)
    return result, model.module.images - before


def test_the_same_question_again_runs_nothing(model):
    first, images = asked(model)
    again, none = asked(model)
    assert (images, none) == (5, 0)
    assert first.cam().tobytes() == again.cam().tobytes()
    assert first.manifest == again.manifest


@pytest.mark.parametrize(
    "other",
    [{"classes": 3}, {"classes": cam_hub.top(5)}, {"target_layers": "last"}]
    + [{"method": name} for name in ONE_PASS if name != "smoothgradcampp"],
    ids=str,
)
def test_another_class_layer_or_method_of_the_same_image_takes_a_backward_pass_alone(model, other):
    asked(model)
    result, images = asked(model, **other)
    assert images == 0
    fresh, _ = asked(model, **other, reuse=False)
    for key, cam in fresh.cams.items():
        assert apart(cam, result.cams[key]) < 1e-5


@pytest.mark.parametrize("name", [name for name in ONE_PASS if not METHODS[name].needs_noise])
def test_another_method_takes_neither_a_forward_nor_a_backward_pass(model, name, monkeypatch):
    asked(model, classes=[1, 2])
    asked(model, classes=4)
    fresh, _ = asked(model, method=name, classes=[2, 4], reuse=False)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the backward pass was run")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    result, images = asked(model, method=name, classes=[2, 4])
    assert images == 0
    for key, cam in fresh.cams.items():
        assert apart(cam, result.cams[key]) < 1e-5


def test_if_evidence_is_too_large_to_cache_another_method_takes_a_backward_pass(model, monkeypatch):
    RECENT.clear()
    # A quarter for the graph, a sixteenth for evidence.
    monkeypatch.setattr(RECENT, "_limit", 600_000)
    asked(model, classes=[0, 1, 2, 3])
    ways: list[Tensor] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: ways.append(a[0]) or grad(*a, **k))
    result, images = asked(model, method="layercam", classes=3)
    fresh, _ = asked(model, method="layercam", classes=3, reuse=False)
    assert (images, len(ways)) == (0, 2)
    for key, cam in fresh.cams.items():
        assert apart(cam, result.cams[key]) < 1e-5
    assert RECENT.bytes <= 600_000


def test_noisy_copies_pass_together_with_the_clean_image_whatever_has_passed_before(model):
    """In a chunk of another size, their numbers would be rounded differently."""
    asked(model, method="layercam")
    assert asked(model)[1] == 5
    assert asked(model, seed=1)[1] == 5
    assert asked(model, num_samples=2)[1] == 3
    assert asked(model, batch_size=2)[1] == 5
    assert [asked(model)[1], asked(model, seed=1)[1], asked(model, batch_size=2)[1]] == [0, 0, 0]


@pytest.mark.parametrize("first", [{"method": "layercam"}, {"seed": 0}], ids=str)
def test_another_class_is_explained_with_its_own_noise(model, first):
    asked(model, **first)
    asked(model, seed=1, classes=1)
    result, images = asked(model, seed=1, classes=2)
    fresh, _ = asked(model, seed=1, classes=2, reuse=False)
    assert images == 0
    for key, cam in fresh.cams.items():
        assert apart(cam, result.cams[key]) < 1e-5


def test_another_layer_that_was_not_recorded_needs_a_pass(model):
    asked(model, method="layercam", target_layers="last")
    assert asked(model, method="layercam", target_layers="block")[1] == 1


def test_another_image_needs_a_pass_even_in_the_same_tensor(model):
    image = picture(model)
    first, _ = asked(model, image)
    image += 1
    second, images = asked(model, image)
    assert images == 5
    assert not np.array_equal(first.cam(), second.cam())


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.last.weight.mul_(2),
        lambda net: net.load_state_dict({k: v + 0.5 for k, v in net.state_dict().items()}),
        lambda net: setattr(net, "last", nn.Conv2d(8, 8, 1)),
        lambda net: setattr(net.last, "weight", nn.Parameter(net.last.weight * 2)),
        lambda net: net.norm.running_mean.add_(1),
        lambda net: net.last.register_forward_hook(lambda *found: found[2] * 2),
    ],
    ids=["in place", "load_state_dict", "module", "parameter", "buffer", "hook"],
)
def test_a_model_that_has_changed_is_run_again(model, change):
    asked(model)
    with torch.no_grad():
        change(model.module)
    kept, images = asked(model)
    fresh, _ = asked(model, reuse=False)
    assert images == 5
    assert kept.cam().tobytes() == fresh.cam().tobytes()


@pytest.mark.parametrize("part", ["cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv"])
def test_another_precision_of_products_needs_a_pass(model, part):
    """Such as TF32, which changes maps by up to 3e-3 of their maximum."""
    asked(model)
    holder = operator.attrgetter(part)(torch.backends)
    before = holder.fp32_precision
    holder.fp32_precision = "ieee" if before == "tf32" else "tf32"
    try:
        _, images = asked(model)
    finally:
        holder.fp32_precision = before
    assert images == 5
    assert asked(model)[1] == 0


@pytest.mark.parametrize("asked_meanwhile", [False, True])
def test_a_pass_during_which_a_weight_was_changed_is_not_used_again(model, asked_meanwhile):
    """Holds even if another thread has computed the same before that pass is done."""
    image = picture(model, seed=7)

    def write(_part: float, _what: str) -> None:
        model.module.last.weight = nn.Parameter(model.module.last.weight.detach() * -2)
        if asked_meanwhile:
            explain(model, image, target_layers=LAYERS)

    explain(model, image, target_layers=LAYERS, progress=write)
    result, _ = asked(model, image)
    fresh, _ = asked(model, image, reuse=False)
    for key, cam in fresh.cams.items():
        assert apart(cam, result.cams[key]) < 1e-5


def test_a_mistake_costs_nothing_and_keeps_nothing(model):
    asked(model)
    before = RECENT.bytes
    with pytest.raises(ClassNotFound):
        asked(model, classes=5)
    assert asked(model)[1] == 0
    assert RECENT.bytes == before


@pytest.mark.parametrize("word", ["0", "off", "OFF"])
def test_the_environment_turns_it_off(model, monkeypatch, word):
    monkeypatch.setenv(VARIABLE, word)
    assert [asked(model)[1] for _ in range(2)] == [5, 5]


@pytest.mark.parametrize(("word", "limit"), [("3", 3 << 20), ("", LIMIT), ("much", LIMIT)])
def test_the_environment_sets_the_limit_in_mebibytes(monkeypatch, word, limit):
    monkeypatch.setenv(VARIABLE, word)
    assert RecentPasses().limit == limit


def test_an_argument_turns_it_off_for_one_call(model):
    assert asked(model, reuse=False)[1] == 5
    assert asked(model)[1] == 5
    assert asked(model, reuse=False)[1] == 5


def test_it_never_takes_more_than_its_limit_and_the_oldest_go_first(model, monkeypatch):
    RECENT.clear()
    asked(model)
    one = RECENT.bytes
    monkeypatch.setenv(VARIABLE, "1")
    room = (1 << 20) // one
    assert 2 <= room < 12, "the test wants some pictures to fit, and not all of them"
    for seed in range(12):
        asked(model, picture(model, seed))
        assert RECENT.bytes <= 1 << 20
    assert asked(model, picture(model, 11))[1] == 0
    assert asked(model, picture(model, 0))[1] == 5


def test_the_maps_of_a_pass_that_is_too_large_for_it_are_kept(model, monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    layers = [layer.name for layer in list_layers(model) if layer.usable]
    many = {"target_layers": layers, "num_samples": 30}
    asked(model, **many)
    assert asked(model, **many)[1] == 0
    assert asked(model, **many, classes=1)[1] > 0


def test_passes_go_with_their_model():
    RECENT.clear()
    made = cam_hub.wrap_model(Counting(), input_size=(3, 32, 32))
    asked(made)
    assert len(RECENT) == 1
    module, weight = weakref.ref(made.module), weakref.ref(made.module.last.weight)
    del made
    gc.collect()
    assert (module(), weight(), len(RECENT)) == (None, None, 0)


def test_threads_that_share_kept_passes_get_what_one_alone_gets(model):
    questions = [
        (seed, {"method": method, "classes": index, "target_layers": layers})
        for seed in range(3)
        for method in ("layercam", "smoothgradcampp")
        for index in (1, 2)
        for layers in ("last", LAYERS)
    ]
    expected = {}
    for number, (seed, given) in enumerate(questions):
        expected[number] = asked(model, picture(model, seed), **given, reuse=False)[0].cams
    RECENT.clear()
    wrong: list[object] = []
    done: list[int] = []
    start = threading.Barrier(8)

    def work(first: int) -> None:
        start.wait(20)
        for step in range(25):
            number = (first * 7 + step * 5) % len(questions)
            seed, given = questions[number]
            found = explain(model, picture(model, seed), **given).cams
            wrong.extend(key for key in found if apart(found[key], expected[number][key]) > 1e-4)
            done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8 * 25, "a thread has raised"
    assert wrong == []


def test_kept_maps_cannot_be_spoilt_by_who_gets_them(model):
    first, _ = asked(model)
    with pytest.raises(ValueError, match="read-only"):
        first.cams[first.classes[0], "last"][:] = 0


def test_progress_is_reported_and_can_stop_cached_work(model):
    asked(model)
    seen: list[float] = []
    asked(model, classes=cam_hub.top(3), progress=lambda part, _: seen.append(part))
    assert len(seen) == 3
    assert seen == sorted(seen)

    def stop(part: float, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(model, progress=stop)


def test_an_input_that_was_written_to_is_not_taken_for_what_it_was(model):
    image = picture(model)
    asked(model, image)
    held = model.facts["last_prepared"].tensor  # like a network that writes to its input
    held.mul_(2)
    assert asked(model, image)[1] == 5
    assert asked(model, held.clone())[1] == 5


def test_an_undetected_change_of_an_image_gives_another_map(model):
    pixels = picture(model).numpy().copy()
    image = torch.from_numpy(pixels)
    first, _ = asked(model, image)
    pixels[..., :16] *= -1  # without torch noticing
    other, images = asked(model, image)
    assert images == 5
    assert not np.array_equal(first.cam(), other.cam())
