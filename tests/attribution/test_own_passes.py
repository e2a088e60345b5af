"""Methods that make passes of their own, in every interface; laws that hold for each of them."""

from __future__ import annotations

import json
import pickle
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cam_hub
from cam_hub import explain
from cam_hub.attribution.passes import black_box
from cam_hub.attribution.passes.scoring import score_images
from cam_hub.errors import CamHubError, InvalidArgument, NoMap, OutOfMemory
from cam_hub.layers.layouts import LAYOUTS
from cam_hub.methods import METHODS, BlackBox, perturbation
from cam_hub.targets import TASKS
from tests.fakes.engine_nets import apart
from tests.fakes.law_nets import inputs, is_of_clips, layer_of, of_layout, of_task
from tests.fakes.methods import ATTENTION, OWN_PASSES, PIXEL
from tests.fakes.module_state import state_of
from tests.fakes.sweep import diagonal

SPECIAL = {"legrad", *ATTENTION}
"""Those that work on certain networks only, and are tested there."""

every_method = pytest.mark.parametrize("method", [n for n in OWN_PASSES if n not in SPECIAL])
pixel_methods = pytest.mark.parametrize("method", PIXEL)

AXES = {"kind": [*LAYOUTS, *TASKS], "method": [*OWN_PASSES]}
ORDER = sorted(AXES, key=lambda name: -len(AXES[name]))
"""The longest first, as ``diagonal`` takes them."""

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def few_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of few masks show the same as those of many, sooner."""
    monkeypatch.setattr(perturbation, "_MASKS", 60)


SEEN = [0]


class Small(nn.Module):
    """A classifier that counts the images that it, and copies of it, have seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.tanh = nn.Tanh()
        self.last = nn.Conv2d(6, 8, 3, 2, padding=1)
        self.act = nn.ReLU()
        self.fc = nn.Linear(8, 5)

    @property
    def images(self) -> int:
        return SEEN[0]

    @images.setter
    def images(self, value: int) -> None:
        SEEN[0] = value

    def forward(self, x: Tensor) -> Tensor:
        SEEN[0] += len(x)
        x = self.act(self.last(self.tanh(self.stem(x))))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def model() -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(Small(), input_size=(3, 32, 40))


@pytest.fixture
def image(model: cam_hub.LoadedModel) -> Tensor:
    return inputs(model, 1)[0]


def allowed(method: str, kind: str) -> bool:
    """Whether a method works on a network of ``law_nets``; where it does not, that is refused."""
    del kind
    return method not in SPECIAL | {"cam"}  # whose layer precedes a convolution


def drawn(method: str) -> bool:
    """Whether a method draws at random."""
    return METHODS[method].seeded or METHODS[method].needs_noise


def where(method: str, model: cam_hub.LoadedModel) -> dict[str, Any]:
    """The layer of a method on a network of ``law_nets``."""
    return {} if METHODS[method].level == "pixel" else {"target_layers": layer_of(model)}


@pytest.mark.parametrize(ORDER, diagonal(*(AXES[name] for name in ORDER)))
def test_its_map_is_that_of_the_scores_however_the_images_pass(kind: str, method: str) -> None:
    model = of_layout(kind) if kind in LAYOUTS else of_task(kind)
    several = inputs(model, 2)
    options = {"method": method, **where(method, model)}
    if not allowed(method, kind):
        with pytest.raises(CamHubError):
            explain(model, several[0], **options)
        return
    before = state_of(model.module)
    try:
        found = explain(model, several[0], **options)
    except NoMap as error:  # tanh is a function there, and some parts have no rule
        assert method in ("deeplift", "lrp")
        assert METHODS[method].needs in str(error)
        return
    finally:
        assert state_of(model.module) == before
    (index,), (layer,) = found.classes, found.layers
    # A plain computation: the scores of the tests of a map, which fix the target by the first.
    tested: Any = found.origin
    job = tested.job

    def score(images: Tensor) -> Tensor:
        return score_images(job, torch.cat([job.image, images])).scores[1:, [index]].to(images)

    if method in ("occlusion", "rise"):
        plain = METHODS[method].attribute(BlackBox(job.image, score, 1, batch_size=64))[0]
        assert apart(found.cams[index, layer], plain.numpy()) < TOLERANCE
    together = list(cam_hub.explain_many(model, several, batch_size=3, **options))
    assert apart(together[0].explanation.cams[index, layer], found.cams[index, layer]) < TOLERANCE
    alone = explain(model, several[1], batch_size=1, classes=together[1].explanation.classes,
                    **options)  # fmt: skip
    for key, cam in alone.cams.items():
        assert apart(together[1].explanation.cams[key], cam) < TOLERANCE


@every_method
class TestEveryMethod:
    def test_classes_asked_for_together_share_the_passes_of_one(self, model, image, method) -> None:
        alone = {index: explain(model, image, method=method, classes=index) for index in (1, 4)}
        model.module.images = 0
        explain(model, image, method=method, classes=1)
        one = model.module.images
        together = explain(model, image, method=method, classes=[1, 4])
        for (index, layer), cam in together.cams.items():
            np.testing.assert_allclose(cam, alone[index].cams[index, layer], rtol=1e-4, atol=1e-6)
        stated = METHODS[method].passes
        if stated.shared and "class" not in stated.per and not stated.backward:
            assert model.module.images == 2 * one

    def test_it_states_how_many_images_pass(self, model, image, method) -> None:
        stated = METHODS[method].passes
        found = explain(model, image, method=method, classes=[1, 4])
        model.module.images = 0
        explain(model, image, method=method, classes=[1, 4], reuse=False)
        images = stated.forward
        if not stated.shared:
            images = 1 + 2 * stated.forward * (4 if stated.per == "noisy copy" else 1)
        if stated.per == "channel, layer and class":
            channels = next(
                layer.channels for layer in cam_hub.list_layers(model)
                if layer.name == found.layers[0]
            )  # fmt: skip
            images += 2 * channels * stated.times
        if "rise" in method:
            images = 1 + perturbation._MASKS
        assert model.module.images == images

    def test_a_contrast_is_taken_off_the_score(self, model, image, method) -> None:
        found = explain(model, image, method=method, classes=1, contrast=4)
        other = Small()
        other.load_state_dict(model.module.state_dict())
        with torch.no_grad():
            other.fc.weight[1] -= other.fc.weight[4]
            other.fc.bias[1] -= other.fc.bias[4]
        changed = cam_hub.wrap_model(other, input_size=(3, 32, 40))
        expected = explain(changed, image, method=method, classes=1)
        assert apart(found.cam(), expected.cam()) < 1e-4

    @pytest.mark.parametrize("sign", ["for", "against", "both"])
    def test_it_is_made_again_from_its_manifest_and_files(
        self, model, image, method, sign, tmp_path
    ) -> None:
        try:
            first = explain(model, image, method=method, sign=sign, seed=3, classes=[0, 2])
        except NoMap as error:
            assert sign != "both", error
            return
        except InvalidArgument:
            assert METHODS[method].unsigned
            return
        manifest = json.loads(json.dumps(dict(first.manifest)))
        assert ("seed" in manifest["parameters"]) == drawn(method)
        again = cam_hub.reproduce(manifest, image, model=model)
        first.save(tmp_path / "saved")
        loaded = cam_hub.Explanation.load(tmp_path / "saved")
        pickled = pickle.loads(pickle.dumps(first))
        for found in (again, loaded, pickled):
            assert found.layers == first.layers
            for key, cam in first.cams.items():
                assert found.cams[key].tobytes() == cam.tobytes()
                assert cam.min() >= 0 or sign == "both"
        assert again.manifest == first.manifest
        shown = next(filter(first.has_map, first.classes))
        assert first.heatmap(shown).shape == (32, 40)
        assert first.overlay(shown).size == (40, 32)

    def test_another_seed_changes_only_what_is_drawn(self, model, image, method) -> None:
        one, two = (explain(model, image, method=method, seed=seed).cam() for seed in (0, 1))
        assert (one.tobytes() != two.tobytes()) == drawn(method)

    def test_progress_rises_and_stops_the_work(self, model, image, method) -> None:
        told: list[float] = []
        options = {"method": method, "batch_size": 2}
        explain(model, image, progress=lambda part, _: told.append(part), **options)
        assert told == sorted(told)
        assert 0 <= told[0] < 0.2
        assert 0.5 < told[-1] <= 1
        before, model.module.images = state_of(model.module), 0

        class Stopped(BaseException):
            pass

        def stop(part: float, _: str) -> None:
            if part > 0:
                raise Stopped

        with pytest.raises(Stopped):
            explain(model, image, method=method, progress=stop, batch_size=2)
        assert model.module.images < 40
        assert state_of(model.module) == before

    def test_progress_over_many_images_is_that_of_their_passes(self, model, image, method) -> None:
        told: list[float] = []
        many = cam_hub.explain_many(
            model, [image, -image, image.flip(1)], method=method, batch_size=3,
            progress=lambda part, _: told.append(part),
        )  # fmt: skip
        assert len(list(many)) == 3
        assert told == sorted(told)
        assert told[0] < 0.4
        assert told[-1] == 1

    def test_its_evidence_can_be_tested(self, model, image, method) -> None:
        found = explain(model, image, method=method)
        checks = ["cover", "class_check", "stability", "focus"]
        model.module.images = 0
        tested = cam_hub.evidence(found, checks=checks)
        assert all(test.value is not None for test in tested.tests)
        once = tested["class_check"].passes
        images = tested["cover"].passes + once + tested["stability"].passes
        # The map that the stability of others is compared with is made once more.
        assert images <= model.module.images <= images + once

    def test_several_methods_and_comparisons_give_the_same_map(self, model, image, method) -> None:
        alone = explain(model, image, method=method)
        several = cam_hub.explain_methods(model, image, ["layercam", method])
        assert list(several) == ["layercam", method]
        assert several[method].cam().tobytes() == alone.cam().tobytes()
        compared = cam_hub.compare(model, image, methods=["layercam", method])
        cells = compared.rows[0].cells
        assert not any(cell.error for cell in cells)
        assert cells[1].explanation.cam().tobytes() == alone.cam().tobytes()

    def test_threads_share_a_model(self, model, image, method) -> None:
        alone = explain(model, image, method=method, reuse=False).cam()
        gradient = explain(model, image, method="layercam", reuse=False).cam()
        found: list[tuple[np.ndarray, np.ndarray]] = []

        def work(name: str, expected: np.ndarray) -> None:
            maps = (explain(model, image, method=name, reuse=False).cam() for _ in range(3))
            found.extend((cam, expected) for cam in maps)

        threads = [
            threading.Thread(target=work, args=each)
            for each in ((method, alone), ("layercam", gradient))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        assert all(np.allclose(one, two, rtol=1e-4, atol=1e-6) for one, two in found)

    def test_the_class_of_a_function_can_be_explained(self, model, image, method) -> None:
        found = explain(model, image, method=method, classes=lambda output: output[:, 1])
        expected = explain(model, image, method=method, classes=1)
        np.testing.assert_allclose(found.cam(), expected.cam(), rtol=1e-4, atol=1e-6)

    def test_no_layer_is_chosen_by_evidence_for_it(self, model, image, method) -> None:
        with pytest.raises(InvalidArgument, match="target_layers"):
            explain(model, image, method=method, target_layers="faithful")
        with pytest.raises(InvalidArgument, match="target_layers"):
            cam_hub.explain_many(model, [image], method=method, target_layers="faithful")

    def test_smaller_batches_pass_where_memory_does_not_suffice(
        self, model, image, method, monkeypatch
    ) -> None:
        whole = explain(model, image, method=method).cam()
        plain = Small.forward

        def limited(module: Small, x: Tensor) -> Tensor:
            if len(x) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return plain(module, x)

        monkeypatch.setattr(Small, "forward", limited)
        most = 2
        found = explain(model, image, method=method, batch_size=16, reuse=False)
        assert apart(found.cam(), whole) < 1e-4
        most = 0
        with pytest.raises(OutOfMemory):
            explain(model, image, method=method, reuse=False)


@pixel_methods
class TestPixelLevel:
    def test_the_input_is_the_layer_of_its_map(self, model, image, method) -> None:
        found = explain(model, image, method=method)
        assert found.layers == ("input",)
        assert found.manifest["layers"] == ["input"]
        assert explain(model, image, method=method, target_layers="input").layers == ("input",)

    @pytest.mark.parametrize("layers", ["last", "stages", ["input", "last"], 3])
    def test_layers_are_refused_with_the_reason(self, model, image, method, layers) -> None:
        for call in (explain, lambda *args, **more: cam_hub.explain_many(args[0], [image], **more)):
            with pytest.raises(InvalidArgument, match="at no layer"):
                call(model, image, method=method, target_layers=layers)
        with pytest.raises(InvalidArgument, match="not a layer"):
            explain(model, image, method=method, call=0)

    def test_a_network_without_any_layer_on_the_image_is_explained(self, method) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 3))
        flat = cam_hub.wrap_model(net, input_size=(3, 16, 16))
        picture = torch.randn((3, 16, 16), generator=torch.Generator().manual_seed(0))
        with pytest.raises(NoMap):
            explain(flat, picture, method="layercam")
        sign = "for" if METHODS[method].unsigned else "both"
        assert explain(flat, picture, method=method, sign=sign).cam().any()

    def test_a_score_that_ignores_the_image_has_a_blank_map(self, method) -> None:
        class Blind(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.stack([0 * x.sum((1, 2, 3)) + 1, 0 * x.sum((1, 2, 3))], 1)

        blind = cam_hub.wrap_model(Blind(), input_size=(3, 16, 16))
        with pytest.raises(NoMap, match=r"blank: nothing at layer 'input'|needs|has none"):
            explain(blind, torch.randn(3, 16, 16), method=method)


def test_pixels_that_the_model_refuses_have_an_error_of_ours(model, monkeypatch) -> None:
    image = inputs(model, 1)[0]
    cam_hub.list_layers(model)
    plain = Small.forward

    def picky(module: Small, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise ValueError("covered images are not for me")
        return plain(module, x)

    monkeypatch.setattr(Small, "forward", picky)
    with pytest.raises(CamHubError, match="not for me"):
        explain(model, image, method="occlusion")


def test_a_map_that_is_not_finite_is_refused(model, monkeypatch) -> None:
    def broken(box: BlackBox) -> Tensor:
        return torch.full((box.scores, 4, 4), torch.nan)

    def failing(box: BlackBox) -> Tensor:
        raise KeyError(box.scores)

    image = inputs(model, 1)[0]
    job = explain(model, image, method="occlusion").origin.job
    for attribute, match in ((broken, "not finite"), (failing, "Occlusion failed")):
        method = replace(METHODS["occlusion"], attribute=attribute)
        with pytest.raises(NoMap, match=match):
            black_box.run_black_box(replace(job, methods=[method]))


def test_the_window_covers_what_counts_in_a_clip() -> None:
    model = of_layout(next(kind for kind in LAYOUTS if is_of_clips(kind)))
    clip = inputs(model, 1)[0]
    found = explain(model, clip, method="occlusion", sign="both")
    assert found.steps == 1
    assert found.cam().shape == (14, 14)
    assert len(found.frames) == 4
