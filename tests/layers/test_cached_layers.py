"""The layers of a model that was loaded before come from the cache, without a pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import cam_hub
from cam_hub.layers import cache, listing
from tests.fakes.sweep import sample


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an empty cache."""
    monkeypatch.setenv("CAM_HUB_CACHE", str(tmp_path))
    return tmp_path / "layers"


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that have been examined, in order."""
    names: list[str] = []
    discover_layers = listing.discover_layers

    def spy(model, size):
        names.append(model.id)
        return discover_layers(model, size)

    monkeypatch.setattr(listing, "discover_layers", spy)
    return names


def random_model(seed: int = 0) -> cam_hub.LoadedModel:
    torch.manual_seed(seed)
    return cam_hub.load_model("test_resnet", pretrained=False, device="cpu")


def test_loading_does_not_examine(examined):
    random_model()
    assert examined == []


def test_a_model_that_is_loaded_again_is_not_examined_again(examined):
    first = cam_hub.list_layers(random_model())
    assert cam_hub.list_layers(random_model(seed=1)) == first
    assert len(examined) == 1


def test_another_input_size_is_another_question(examined):
    cam_hub.list_layers(random_model())
    cam_hub.list_layers(random_model(), input_size=(3, 96, 64))
    assert len(examined) == 2


def test_wrapped_modules_are_examined_each_time(examined, folder):
    for _ in range(2):
        cam_hub.list_layers(cam_hub.wrap_model(random_model().module))
    assert len(examined) == 2
    assert not folder.exists()


def test_a_release_does_not_empty_the_cache(examined, monkeypatch):
    cam_hub.list_layers(random_model())
    monkeypatch.setattr(cam_hub, "__version__", "99.0")
    monkeypatch.setattr(torch, "__version__", "99.0")
    cam_hub.list_layers(random_model())
    assert len(examined) == 1


def replaced(model: cam_hub.LoadedModel) -> None:
    model.module.conv1[0] = nn.Conv2d(3, 16, 3, stride=4, padding=1, bias=False)


def hooked(model: cam_hub.LoadedModel) -> None:
    model.module.layer1.register_forward_hook(lambda _module, _inputs, output: output * 2)


def patched(model: cam_hub.LoadedModel) -> None:
    forward = model.module.layer1.forward
    model.module.layer1.forward = lambda x: forward(x) * 2


@pytest.mark.parametrize("change", [replaced, hooked, patched], ids=lambda it: it.__name__)
def test_a_loaded_model_that_was_changed_is_examined_again(examined, change):
    cam_hub.list_layers(random_model())
    model = random_model()
    change(model)
    cam_hub.list_layers(model)
    assert len(examined) == 2


@pytest.mark.parametrize("damage", sample(["", "no JSON", '{"key":', "null"], quick=["no JSON"]))
def test_a_damaged_file_is_as_if_it_were_not_there(examined, folder, damage):
    first = cam_hub.list_layers(random_model())
    (file,) = folder.iterdir()
    file.write_text(damage)
    assert cam_hub.list_layers(random_model()) == first
    assert len(examined) == 2
    assert cam_hub.list_layers(random_model()) == first
    assert len(examined) == 2


@pytest.mark.parametrize(
    "payload", [None, [], {"fields": []}, {"fields": ["name"], "layers": [[1]]}]
)
def test_an_answer_of_another_form_is_not_taken(examined, payload):
    model = random_model()
    cache.write(cache.cache_key(model, model.input_size), payload)
    assert cam_hub.suggest_layers(model)
    assert len(examined) == 1


def test_rows_that_name_other_layers_are_not_taken(examined):
    model = random_model()
    key = cache.cache_key(model, model.input_size)
    cam_hub.list_layers(model)
    answer = cache.read(key)
    answer["layers"][0][0] = "elsewhere"
    cache.write(key, answer)
    assert cam_hub.list_layers(random_model())[0].name != "elsewhere"
    assert len(examined) == 2
