"""Models and results in other processes: pickle, deep copies, torch.save, workers."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cam_hub
from cam_hub import Comparison, Explanation, LoadedModel, compare, explain, wrap_model
from cam_hub.errors import ModelRefused
from tests.fakes.law_nets import of_layout
from tests.fakes.repo_folders import network, push
from tests.fakes.sweep import diagonal


def through_torch(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_joblib(value: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    return joblib.load(file)


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {n}": lambda value, n=n: pickle.loads(pickle.dumps(value, n)) for n in (2, 5)},
    "deep copy": copy.deepcopy,
    "copy": copy.copy,
    "torch.save": through_torch,
    "joblib.dump": through_joblib,
}


@pytest.fixture(params=WAYS)
def way(request) -> Callable[[Any], Any]:
    return WAYS[request.param]


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 3),
    ).eval()  # fmt: skip


@pytest.fixture
def wrapped() -> LoadedModel:
    return wrap_model(tiny(), input_size=(3, 32, 32), class_names=["a", "b", "c"])


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)


def maps(result: Explanation) -> dict[Any, bytes]:
    return {key: cam.tobytes() for key, cam in result.cams.items()}


class TestResults:
    def test_an_explanation(self, way, wrapped, picture):
        tensor = wrapped.preprocess(picture)[0]  # its photo is drawn on first access
        for image in (picture, tensor):
            result = explain(
                wrapped, image, method="gradcam", classes=[0, 2], target_layers="convs"
            )
            again = way(result)
            assert maps(again) == maps(result)
            assert again.manifest == result.manifest
            assert again.overlay(2).tobytes() == result.overlay(2).tobytes()
            with pytest.raises(ValueError, match="read-only"):
                again.cam(0)[0, 0] = 1
            with pytest.raises(TypeError):
                again.cams[0, "0"] = None

    def test_a_clip(self, way, tmp_path):
        frames = [Image.new("RGB", (48, 32), (60 * n, 90, 200)) for n in range(4)]
        result = explain(of_layout("NCTHW"), frames, method="gradcam")
        again = way(result)
        assert [frame.tobytes() for frame in again.frames] == [f.tobytes() for f in result.frames]
        assert again.manifest == result.manifest
        assert maps(Explanation.load(again.save(tmp_path))) == maps(result)

    def test_a_comparison_with_an_error_in_it(self, way, wrapped, picture):
        grid = compare(wrapped, picture, methods="gradcam", classes=[0, "nope"])
        again: Comparison = way(grid)
        assert again.table() == grid.table()
        assert again.figure().tobytes() == grid.figure().tobytes()
        assert type(again.cells[1].error) is type(grid.cells[1].error)

    def test_outcomes_predictions_and_layers(self, way, wrapped, picture):
        good, bad = (way(o) for o in cam_hub.explain_many(wrapped, [picture, b"no picture"]))
        assert maps(good.explanation) == maps(explain(wrapped, picture))
        assert isinstance(bad.error, cam_hub.errors.ImageRefused)
        predicted = cam_hub.predict(wrapped, picture)
        assert way(predicted) == predicted
        layers = cam_hub.list_layers(wrapped)
        assert way(layers) == layers


class TestWrappedModels:
    def test_it_comes_back_as_its_module(self, way, wrapped, picture):
        again = way(wrapped)
        assert maps(explain(again, picture)) == maps(explain(wrapped, picture))
        assert (again.id, again.class_names, again.source) == (
            "Sequential",
            ("a", "b", "c"),
            "module",
        )

    def test_its_layers_need_no_second_experiment(self, wrapped, monkeypatch):
        layers = cam_hub.list_layers(wrapped)
        data = pickle.dumps(wrapped)
        monkeypatch.setattr("cam_hub.layers.listing.discover_layers", None)
        assert cam_hub.list_layers(pickle.loads(data)) == layers
        assert cam_hub.list_layers(copy.deepcopy(wrapped)) == layers

    def test_a_deep_copy_has_weights_of_its_own_and_a_copy_shares_them(self, wrapped):
        deep, flat = copy.deepcopy(wrapped), copy.copy(wrapped)
        assert flat.module is wrapped.module
        with torch.no_grad():
            deep.module[0].weight.zero_()
        assert wrapped.module[0].weight.any()


@pytest.fixture
def bread(hub) -> LoadedModel:
    """A model from the Hub, and a store that does not contain it."""
    cam_hub.sources.store.SHARED.clear()
    return cam_hub.load_model("baker/bread", device="cpu")


class TestModelsById:
    def test_it_is_its_id_and_commit(self, way, bread, lion):
        assert len(pickle.dumps(bread)) < 1000
        again = way(bread)
        assert (again.id, again.revision) == (bread.id, bread.revision)
        assert again.class_names == bread.class_names
        assert maps(explain(again, lion)) == maps(explain(bread, lion))

    def test_of_a_branch_that_moved_on_the_commit_comes_back_without_the_hub(self, hub, bread):
        data = pickle.dumps(bread)
        weights = bread.module.fc.weight.clone()
        hub.repos["baker/bread"]["README.md"] = b"a new commit"
        assert hub.commit("baker/bread") != bread.revision
        hub.broken = True
        again = pickle.loads(data)
        assert (again.id, again.revision) == ("baker/bread", bread.revision)
        assert torch.equal(again.module.fc.weight, weights)
        assert pickle.loads(data).module is again.module, "from the store"
        assert len(pickle.dumps(again)) < 1000

    def test_one_of_the_store_is_found_in_the_store(self, bread):
        kept = cam_hub.sources.store.SHARED.get("baker/bread", device="cpu")
        assert pickle.loads(pickle.dumps(kept)) is kept
        assert pickle.loads(pickle.dumps(bread)) is kept

    def test_other_labels_go_along(self, bread):
        names = ("x", "y", "z")
        again = pickle.loads(pickle.dumps(replace(bread, class_names=names, id="mine")))
        assert (again.id, again.class_names) == ("mine", names)
        assert again.revision == bread.revision

    CHANGES: ClassVar[dict[str, Callable[[nn.Module], object]]] = {
        "zeros": lambda net: nn.init.zeros_(net.fc.weight),
        "other weights": lambda net: net.load_state_dict(
            {k: v * 2 if v.is_floating_point() else v for k, v in net.state_dict().items()}
        ),
        "another layer": lambda net: setattr(net, "fc", nn.Linear(net.fc.in_features, 3)),
        "in place": lambda net: net.fc.weight.data.mul_(2),
        "a buffer": lambda net: net.bn1.running_mean.add_(1),
        "double": lambda net: net.double(),
        "a hook": lambda net: net.fc.register_forward_hook(negated),
    }

    @pytest.mark.parametrize(("change", "way"), diagonal(CHANGES, WAYS), indirect=["way"])
    def test_one_that_was_changed_is_its_module(self, way, change, bread):
        self.CHANGES[change](bread.module)
        batch = torch.rand(1, *bread.input_size, dtype=bread.dtype)
        again = way(bread)
        assert torch.equal(again.module(batch), bread.module(batch))
        again = way(again)
        assert torch.equal(again.module(batch), bread.module(batch))

    def test_being_explained_changes_nothing(self, bread, lion):
        for method in ("smoothgradcampp", "layercam"):
            explain(bread, lion, method=method)
        bread.module.to(memory_format=torch.channels_last)
        assert len(pickle.dumps(bread)) < 1000

    def test_one_in_the_store_that_was_changed_is_not_given_out(self, bread):
        data = pickle.dumps(bread)
        kept = cam_hub.sources.store.SHARED.get("baker/bread", device="cpu")
        nn.init.zeros_(kept.module.fc.weight)
        assert pickle.loads(data).module.fc.weight.any()
        cam_hub.sources.store.SHARED.clear()

    def test_random_weights_are_weights(self, way, hub, lion):
        model = cam_hub.load_model("test_resnet", pretrained=False, device="cpu")
        again = way(model)
        batch = model.preprocess(lion)
        assert torch.equal(again.module(batch), model.module(batch))
        assert again.pretrained is False

    def test_a_folder_is_read_again_and_refused_if_it_changed(self, tmp_path: Path):
        push(tmp_path, network(num_classes=3))
        model = cam_hub.load_model(tmp_path, device="cpu")
        data = pickle.dumps(model)
        assert len(data) < 1000
        assert torch.equal(pickle.loads(data).module.fc.weight, model.module.fc.weight)
        changed = network(num_classes=3)
        nn.init.zeros_(changed.fc.bias)
        push(tmp_path, changed)
        with pytest.raises(ModelRefused, match="where it was pickled"):
            pickle.loads(data)

    def test_the_embedded_model(self, way, lite0):
        assert len(pickle.dumps(lite0)) < 1000
        assert way(lite0).revision == lite0.revision


def negated(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
    return -output


def explained(model: LoadedModel, picture: np.ndarray) -> Explanation:
    return explain(model, picture, method="layercam")


class TestProcesses:
    def test_a_forked_worker_takes_models_and_gives_results(self, wrapped, bread, picture):
        for model in (wrapped, bread):
            here = explained(model, picture)
            with multiprocessing.get_context("fork").Pool(1) as pool:
                there = pool.starmap_async(explained, [(model, picture)] * 2).get(timeout=100)
            assert [maps(result) for result in there] == [maps(here)] * 2

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["spawn", "joblib"])
    def test_a_fresh_worker_takes_models_and_gives_results(self, how, wrapped, lite0, picture):
        for model in (wrapped, lite0):
            here = explained(model, picture)
            if how == "spawn":
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    there = pool.starmap_async(explained, [(model, picture)]).get(timeout=200)
            else:
                work = joblib.delayed(explained)(model, picture)
                there = joblib.Parallel(n_jobs=2)([work, work])
            for result in there:
                np.testing.assert_allclose(result.cam(), here.cam(), rtol=1e-4)
