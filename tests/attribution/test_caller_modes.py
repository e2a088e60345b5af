"""Every entry point gives the same result in every torch mode of its caller."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import cam_hub
from cam_hub.errors import ImageRefused, ModelRefused
from cam_hub.hooks.frozen_eval import walk
from cam_hub.hooks.modes import default_modes
from tests.fakes.engine_nets import Pooled, Pyramid
from tests.fakes.methods import ONE_PASS
from tests.fakes.repo_folders import network, push

PICTURE = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype="uint8")


class Forbidden(TorchFunctionMode):
    """Forbids calls of torch functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called in the caller's function mode")


class ForbiddenBelow(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} was called in the caller's dispatch mode")


@contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(kind)
    try:
        yield
        assert torch.get_default_dtype() == kind
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
        assert torch.get_default_device() == torch.device(device)
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def anomalies() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.set_detect_anomaly(True):
            yield
            assert torch.is_anomaly_enabled()


@contextmanager
def several() -> Iterator[None]:
    with (
        torch.inference_mode(),
        default_type(torch.float64),
        default_device("meta"),
        torch.autocast("cpu", torch.bfloat16),
    ):
        yield
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")


Modes = Callable[[], AbstractContextManager[Any]]

MODES: dict[str, Modes] = {
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "double by default": lambda: default_type(torch.float64),
    "bfloat16 by default": lambda: default_type(torch.bfloat16),
    "meta by default": lambda: default_device("meta"),
    "meta around it": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
    "anomaly detection": anomalies,
    "a function mode": Forbidden,
    "a dispatch mode": ForbiddenBelow,
    "several": several,
}

SETTINGS: dict[str, Any] = {"num_samples": 2, "seed": 1}


def one(model: cam_hub.LoadedModel, folder: Path) -> Any:
    found = cam_hub.explain(model, PICTURE, reuse=False, **SETTINGS)
    return found.cam(), [p.probability for p in found.predictions]


def drawn(model: cam_hub.LoadedModel, folder: Path) -> Any:
    found = cam_hub.explain(model, PICTURE, method="layercam", target_layers="stages")
    found.save(folder / "saved")
    again = cam_hub.Explanation.load(folder / "saved")
    return found.heatmap(), np.asarray(found.overlay()), found.mask(), again.heatmap()


def methods(model: cam_hub.LoadedModel, folder: Path) -> Any:
    found = cam_hub.explain_methods(model, PICTURE, ONE_PASS, **SETTINGS)
    return [each.cam() for each in found.values()]


def many(model: cam_hub.LoadedModel, folder: Path) -> Any:
    pictures = [PICTURE, PICTURE[::-1].copy(), PICTURE[:, ::-1].copy()]
    outcomes = cam_hub.explain_many(model, pictures, batch_size=2, threads=1, **SETTINGS)
    return [outcome.explanation.cam() for outcome in outcomes]


def compared(model: cam_hub.LoadedModel, folder: Path) -> Any:
    found = cam_hub.compare(model, PICTURE, methods=["layercam", "gradcam"])
    assert not any(cell.error for row in found.rows for cell in row.cells)
    return np.asarray(found.figure()).shape


def again(model: cam_hub.LoadedModel, folder: Path) -> Any:
    first = cam_hub.explain(model, PICTURE, **SETTINGS)
    return cam_hub.reproduce(first.manifest, PICTURE, model=model).cam()


def of_a_tensor(model: cam_hub.LoadedModel, folder: Path) -> Any:
    tensor = model.preprocess(PICTURE)
    return tensor, cam_hub.explain(model, tensor, method="gradcam").cam()


ENTRIES: dict[str, Callable[[cam_hub.LoadedModel, Path], Any]] = {
    "predict": lambda model, _: [
        p.probability for p in cam_hub.predict(model, PICTURE).predictions
    ],
    "list_layers": lambda model, _: [
        (layer.name, layer.usable, layer.recommended, layer.layout)
        for layer in cam_hub.list_layers(model)
    ],
    "suggest_layers": lambda model, _: cam_hub.suggest_layers(model, "stages"),
    "activations": lambda model, _: list(cam_hub.activations(model, PICTURE, "stages").values()),
    "explain": one,
    "save and draw": drawn,
    "explain_methods": methods,
    "explain_many": many,
    "compare": compared,
    "reproduce": again,
    "a tensor": of_a_tensor,
    "describe_model": lambda model, _: cam_hub.describe_model("test_vit", pretrained=False),
}


def close(one: Any, other: Any) -> None:
    """Compares numbers in lists, up to rounding."""
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype and not one.is_inference()
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            close(first, second)
    elif isinstance(one, (np.ndarray, float)):
        np.testing.assert_allclose(one, other, atol=1e-4 if np.ndim(one) < 3 else 2)
    else:
        assert one == other


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repo")
    push(folder, network(num_classes=5))
    return folder


def wrapped(module: nn.Module) -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(module, input_size=(3, 32, 32))


SOURCES: dict[str, Callable[[Path], cam_hub.LoadedModel]] = {
    "a repo": cam_hub.load_model,
    "random": lambda _: cam_hub.load_model("test_vit", pretrained=False),
    "wrapped": lambda _: wrapped(Pyramid(Pooled(5))),
}


BASIC = ["predict", "explain"]


def entries_of(source: str) -> list[str]:
    """All entry points for the smallest network; the basic ones for the others."""
    return list(ENTRIES) if source == "wrapped" else BASIC


def fresh(source: str, repo: Path) -> cam_hub.LoadedModel:
    torch.manual_seed(3)
    return SOURCES[source](repo)


@pytest.fixture(scope="module")
def expected(repo, tmp_path_factory) -> dict[tuple[str, str], Any]:
    """The result of each entry point in the default modes."""
    found = {}
    for source in SOURCES:
        model = fresh(source, repo)
        folder = tmp_path_factory.mktemp("out")
        found |= {(source, name): ENTRIES[name](model, folder) for name in entries_of(source)}
    return found


@pytest.fixture(scope="module")
def warm(repo, tmp_path_factory) -> cam_hub.LoadedModel:
    """A model for which every entry point has been called in the default modes."""
    model, folder = fresh("wrapped", repo), tmp_path_factory.mktemp("warm")
    for work in ENTRIES.values():
        work(model, folder)
    return model


def is_plain(model: cam_hub.LoadedModel) -> None:
    """Nothing that outlives the call depends on the mode of the caller."""
    tensors = [each for child in walk(model.module) for each in child._parameters.values()]
    tensors += [each for child in walk(model.module) for each in child._buffers.values()]
    for tensor in filter(lambda each: each is not None, tensors):
        assert tensor.device.type == "cpu" and not tensor.is_inference()
        assert tensor.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("source", "names"),
    [
        *(pytest.param(source, BASIC, id=source) for source in SOURCES),
        pytest.param("wrapped", list(ENTRIES), id="wrapped, all", marks=pytest.mark.slow),
    ],
)
def test_the_first_call_in_a_mode_gives_the_same_result_as_any_call(
    mode, source, names, repo, expected, tmp_path
):
    torch.manual_seed(3)
    made = Pyramid(Pooled(5)) if source == "wrapped" else None
    found = {}
    with MODES[mode]():
        model = SOURCES[source](repo) if made is None else wrapped(made)
        for name in names:
            found[name] = ENTRIES[name](model, tmp_path / "inside")
    for name, values in found.items():
        close(values, expected[source, name])
    is_plain(model)
    close(ENTRIES["explain"](model, tmp_path / "after"), expected[source, "explain"])


@pytest.mark.parametrize("mode", MODES)
def test_a_later_call_in_a_mode_gives_the_same(mode, warm, expected, tmp_path):
    with MODES[mode]():
        found = {name: work(warm, tmp_path) for name, work in ENTRIES.items()}
    for name, values in found.items():
        close(values, expected["wrapped", name])


@pytest.mark.parametrize("mode", ["inference mode", "no grad", "autocast"])
def test_a_module_made_in_a_mode_is_explained_as_one_made_outside(mode):
    torch.manual_seed(3)
    outside = Pyramid(Pooled(5))
    with MODES[mode]():
        torch.manual_seed(3)
        made = Pyramid(Pooled(5))
        model = wrapped(made)
        inside = cam_hub.explain(model, PICTURE, **SETTINGS).cam()
    wanted = cam_hub.explain(wrapped(outside), PICTURE, **SETTINGS).cam()
    np.testing.assert_allclose(inside, wanted, atol=1e-6)
    assert bool(model.notes) == (mode == "inference mode")
    assert (model.module is made) == (mode != "inference mode")


class Shared(nn.Module):
    """One weight created in inference mode, used in three places, next to an ordinary one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.same = self.conv
        with torch.inference_mode():
            self.mask = torch.ones(4, 1, 1)
            self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.conv(x).relu() * self.mask).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def test_only_tensors_of_inference_mode_are_cloned():
    module = Shared()
    model = wrapped(module)
    copied = model.module
    assert isinstance(copied, Shared) and copied is not module
    assert copied.conv.weight is module.conv.weight and copied.same is copied.conv
    assert not copied.mask.is_inference() and not copied.head.weight.is_inference()
    assert module.mask.is_inference(), "the module itself stays as it is"
    assert cam_hub.explain(model, PICTURE, method="layercam").cam().max() > 0


class Locked(Shared):
    """A module that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_a_module_that_cannot_be_cloned_is_refused_with_what_would_work():
    with pytest.raises(ModelRefused, match=r"inference_mode.*outside of inference mode"):
        wrapped(Locked())


def test_a_module_without_values_is_refused_with_what_would_work():
    with torch.device("meta"):
        module = Pyramid(Pooled(5))
    with pytest.raises(ModelRefused, match=r"meta device.*to_empty.*load_state_dict"):
        wrapped(module)


def test_a_module_that_lost_its_values_later_is_also_refused():
    model = wrapped(Pyramid(Pooled(5)))
    cam_hub.explain(model, PICTURE, method="layercam")
    model.module.to("meta")
    for work in (cam_hub.explain, cam_hub.predict, cam_hub.activations):
        with pytest.raises(ModelRefused, match="meta device"):
            work(model, PICTURE)


def test_an_image_without_values_is_refused():
    model = wrapped(Pyramid(Pooled(5)))
    for kind in (torch.float32, torch.uint8):
        with pytest.raises(ImageRefused, match="meta device"):
            cam_hub.explain(model, torch.ones(3, 32, 32, device="meta", dtype=kind))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(3, 32, 32).to_sparse(), "to_dense"),
        (torch.nested.nested_tensor([torch.ones(3, 4), torch.ones(3, 5)]), "several images"),
    ],
    ids=["sparse", "nested"],
)
def test_an_image_of_another_kind_of_tensor_is_refused(tensor, words):
    model = wrapped(Pyramid(Pooled(5)))
    for kind in (tensor, tensor.to(torch.uint8)):
        with pytest.raises(ImageRefused, match=words):
            cam_hub.explain(model, kind)


def test_an_image_created_in_inference_mode_is_explained():
    model = wrapped(Pyramid(Pooled(5)))
    plain = model.preprocess(PICTURE)
    with torch.inference_mode():
        picture = plain.clone()
    found = cam_hub.explain(model, picture, target_layers="all", **SETTINGS)
    wanted = cam_hub.explain(model, plain, target_layers="all", reuse=False, **SETTINGS)
    for key, cam in wanted.cams.items():
        np.testing.assert_allclose(found.cams[key], cam, atol=1e-6)


def test_threads_that_overlap_leave_the_process_as_its_user_set_it():
    inside, leave = threading.Barrier(3), threading.Barrier(3)
    seen = []

    def work() -> None:
        with default_modes():
            inside.wait()
            seen.append(torch.get_default_dtype())
            leave.wait()

    with default_type(torch.float64):
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        inside.wait()
        leave.wait()
        for thread in threads:
            thread.join()
        assert torch.get_default_dtype() == torch.float64
    assert seen == [torch.float32, torch.float32]


def test_an_error_inside_restores_everything():
    with several():
        with pytest.raises(ModelRefused), default_modes():
            raise ModelRefused("x", "y")
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device() == torch.device("meta")
