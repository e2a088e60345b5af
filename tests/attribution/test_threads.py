"""Several threads on one model: every map equals the single-threaded one."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import cam_hub
from cam_hub import explain
from tests.fakes.law_nets import inputs, of_layout
from tests.fakes.methods import ONE_PASS
from tests.fakes.module_state import state_of


@dataclass(frozen=True)
class Job:
    """One call of ``explain``."""

    image: Tensor
    options: dict[str, Any]


def jobs_of(model: cam_hub.LoadedModel, layers: list[str], count: int) -> list[Job]:
    """Calls that differ in everything: image, class, layers, method, noise, chunks."""
    rng = random.Random(5)
    images = inputs(model, 4)
    return [
        Job(
            rng.choice(images),
            {
                "method": rng.choice(list(ONE_PASS)),
                "target_layers": rng.sample(layers, rng.randint(1, 2)),
                "classes": rng.sample(range(5), rng.randint(1, 2)),
                "num_samples": rng.randint(1, 4),
                "seed": rng.randint(0, 2),
                "batch_size": rng.choice([1, 3, 8]),
                "reuse": rng.choice([True, False]),
            },
        )
        for _ in range(count)
    ]


def together(threads: int, work: Iterable[list[int]], call: Any) -> list[Exception]:
    """Lets each thread make its calls, all starting at once; returns the exceptions."""
    start, errors = threading.Barrier(threads), []

    def run(numbers: list[int]) -> None:
        start.wait(60)
        try:
            for number in numbers:
                call(number)
        except Exception as error:  # noqa: BLE001 - the test shows any exception
            errors.append(error)

    running = [threading.Thread(target=run, args=(numbers,)) for numbers in work]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return errors


def check(model: cam_hub.LoadedModel, layers: list[str], threads: int, calls: int) -> None:
    jobs = jobs_of(model, layers, 40)
    # A layer that a class does not depend on has a blank map, so both or neither have one.
    expected = [maps_of(model, job) for job in jobs]
    before = state_of(model.module)
    rng = random.Random(9)
    work = [[rng.randrange(len(jobs)) for _ in range(calls)] for _ in range(threads)]
    wrong: list[int] = []

    def call(number: int) -> None:
        found = maps_of(model, jobs[number])
        same = found.keys() == expected[number].keys() and all(
            np.allclose(found[key], cam, rtol=0, atol=1e-5 * cam.max())
            for key, cam in expected[number].items()
        )
        if not same:
            wrong.append(number)

    assert together(threads, work, call) == []
    assert wrong == []
    assert state_of(model.module) == before


def maps_of(model: cam_hub.LoadedModel, job: Job) -> dict[Any, Any]:
    try:
        return dict(explain(model, job.image, **job.options).cams)
    except cam_hub.errors.NoMap:
        return {}


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
def test_threads_that_share_a_model_get_the_maps_that_they_would_get_alone(layout):
    check(of_layout(layout), ["laid", "act", "conv", "stem"], threads=8, calls=6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("test_resnet.r160_in1k", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("test_vit.r160_in1k", ["blocks.0", "blocks.2", "blocks.4.norm1"]),
    ],
)
def test_sixteen_threads_that_share_a_model_get_the_maps_that_they_would_get_alone(name, layers):
    model = cam_hub.load_model(name, pretrained=False, device="cpu")
    check(model, layers, threads=16, calls=50)


def test_threads_that_examine_a_fresh_model_at_once_agree_on_its_layers():
    model = of_layout("NHWC")
    found: list[Any] = []
    work = [[number] for number in range(6)]
    assert together(6, work, lambda _: found.append(cam_hub.list_layers(model))) == []
    assert all(layers == found[0] for layers in found)


def test_batches_and_single_images_share_a_model():
    model = of_layout("NCHW")
    images = inputs(model, 4)
    options = {"target_layers": "laid", "num_samples": 2}
    expected = [explain(model, image, **options).cam() for image in images]

    def call(number: int) -> None:
        if number % 2:
            found = [explain(model, image, **options) for image in images]
        else:
            outcomes = cam_hub.explain_many(model, images, batch_size=3, **options)
            found = [outcome.explanation for outcome in outcomes]
        for cam, result in zip(expected, found, strict=True):
            np.testing.assert_allclose(result.cam(), cam, rtol=0, atol=1e-5 * cam.max())

    assert together(4, [[number] * 3 for number in range(4)], call) == []
