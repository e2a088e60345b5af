"""Long work reports its progress, and stops within one chunk when it is cancelled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import cam_hub
from cam_hub import explain, explain_many, explain_methods, list_layers
from cam_hub.attribution.passes import RECENT
from tests.fakes.engine_nets import Counting, picture
from tests.fakes.methods import ONE_PASS
from tests.fakes.module_state import state_of

CHUNK = 3


class Cancelled(Exception):
    pass


@pytest.fixture
def model() -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    made = cam_hub.wrap_model(Counting(), input_size=(3, 32, 32))
    usable = [layer.name for layer in list_layers(made) if layer.usable]
    assert len(usable) > 3
    explain(made, picture(made, seed=99), target_layers=usable, num_samples=1)
    RECENT.clear()
    return made


Work = Callable[[cam_hub.LoadedModel, Callable[[float, str], None]], object]


def of_many_samples(model: cam_hub.LoadedModel, progress: Callable[[float, str], None]) -> object:
    return explain(model, picture(model), num_samples=20, batch_size=CHUNK, progress=progress)


def of_many_methods_and_layers(
    model: cam_hub.LoadedModel, progress: Callable[[float, str], None]
) -> object:
    given = {"target_layers": "all", "classes": cam_hub.top(3), "num_samples": 8}
    found = explain_methods(
        model, picture(model), ONE_PASS, batch_size=CHUNK, progress=progress, **given
    )
    return found["smoothgradcampp"]


def of_many_pictures(model: cam_hub.LoadedModel, progress: Callable[[float, str], None]) -> object:
    images = [picture(model, seed) for seed in range(7)]
    many = explain_many(
        model, images, target_layers="last", num_samples=2, batch_size=CHUNK, progress=progress
    )
    return next(iter([outcome.explanation for outcome in many]))


WORKS = [of_many_samples, of_many_methods_and_layers, of_many_pictures]


@pytest.mark.parametrize("work", WORKS)
class TestLongWork:
    def test_it_reports_every_chunk_and_rises_to_the_end(self, model, work: Work):
        told: list[tuple[float, int]] = []
        before = model.module.images
        work(model, lambda part, _: told.append((part, model.module.images)))
        parts, images = [part for part, _ in told], [before, *(seen for _, seen in told)]
        assert parts == sorted(parts)
        assert 0 < parts[0] < 0.3
        assert 0.8 < parts[-1] <= 1
        assert images[-1] == model.module.images
        assert max(np.diff(images)) <= CHUNK

    @pytest.mark.parametrize("call", [1, 4, 6])
    def test_no_further_image_passes_once_it_is_cancelled(self, model, work: Work, call):
        expected = work(model, lambda part, _: None)
        RECENT.clear()
        state = state_of(model.module)
        model.module.images = 0
        seen: list[int] = []

        def stop(_part: float, _what: str) -> None:
            seen.append(model.module.images)
            if len(seen) == call:
                raise Cancelled

        with pytest.raises(Cancelled):
            work(model, stop)
        assert len(seen) == call
        assert model.module.images == seen[-1] <= CHUNK * call
        assert state_of(model.module) == state
        again = work(model, lambda part, _: None)
        for key, cam in expected.cams.items():
            np.testing.assert_allclose(again.cams[key], cam, rtol=0, atol=1e-5 * cam.max())


def test_cached_passes_do_not_prevent_cancelling(model):
    of_many_methods_and_layers(model, lambda part, _: None)
    model.module.images = 0

    def stop(_part: float, _what: str) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        explain(
            model, picture(model), target_layers="all", classes=4, num_samples=8,
            batch_size=CHUNK, progress=stop,
        )  # fmt: skip
    assert model.module.images == 0
