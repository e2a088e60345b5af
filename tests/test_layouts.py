"""Networks that no zoo contains: which layer is recommended, and how it is read."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import cam_hub
from space.views import summary
from tests.layout_nets import Merged, OneMask, Separate, UNet, adapted, awake, tome, vit


@dataclass(frozen=True)
class Case:
    """One network with what is right.

    Attributes:
        build: Makes the network.
        size: Of its input.
        late: What the recommended layer's name may begin with; none if a refusal is right.
        grid: Rows and columns of the recommended layer; None if several are right.
        never: What no usable layer's name may begin with.
        task: Of the network.
    """

    build: Callable[[], nn.Module]
    size: tuple[int, int, int]
    late: tuple[str, ...]
    grid: tuple[int, int] | None = None
    never: tuple[str, ...] = ()
    task: str = "classification"


def opened(case: Case) -> cam_hub.LoadedModel:
    """The network, ready to be explained."""
    torch.manual_seed(0)
    channels = case.size[0]
    return cam_hub.wrap_model(
        awake(case.build()),
        input_size=case.size,
        task=case.task,
        mean=[0.5] * channels,
        std=[0.5] * channels,
    )


NETS: dict[str, Case] = {
    # The same network, written otherwise.
    "separate kvq": Case(lambda: Separate("kvq"), (3, 64, 64), ("blocks.2.norm1",), (8, 8)),
    "separate qkv": Case(lambda: Separate("qkv"), (3, 64, 64), ("blocks.2.norm1",), (8, 8)),
    "separate qvk": Case(lambda: Separate("qvk"), (3, 64, 64), ("blocks.2.norm1",), (8, 8)),
    "LoRA on qkv": Case(
        lambda: adapted(vit((64, 64), (8, 8)), "qkv"), (3, 64, 64), ("blocks.3.norm1",), (8, 8)
    ),
    "LoRA on q and v": Case(
        lambda: adapted(Separate(), "q", "v"), (3, 64, 64), ("blocks.2.norm1",), (8, 8)
    ),
    "LoRA on all": Case(
        lambda: adapted(vit((64, 64), (8, 8)), "qkv", "proj", "fc1", "fc2"),
        (3, 64, 64),
        ("blocks.3.norm1",),
        (8, 8),
    ),
    "LoRA of rank 32": Case(
        lambda: adapted(vit((64, 64), (8, 8)), "qkv", rank=32),
        (3, 64, 64),
        ("blocks.3.norm1",),
        (8, 8),
    ),
    "LoRA, mean": Case(
        lambda: adapted(vit((64, 64), (8, 8), class_token=False, global_pool="avg"), "qkv"),
        (3, 64, 64),
        ("norm", "fc_norm"),
        (8, 8),
    ),
    # Dense answers.
    "one mask": Case(OneMask, (3, 64, 64), ("decoder",), task="segmentation"),
    "one mask, sigmoid": Case(
        lambda: OneMask(after=nn.Sigmoid()), (3, 64, 64), ("decoder",), task="segmentation"
    ),
    "one mask, upsampled": Case(
        lambda: OneMask(after=nn.Upsample(scale_factor=2, mode="bilinear")),
        (3, 64, 64),
        ("decoder",),
        task="segmentation",
    ),
    "U-Net, one mask": Case(UNet, (3, 64, 64), ("dec2",), (64, 64), task="segmentation"),
    "two masks": Case(lambda: OneMask(2), (3, 64, 64), ("decoder",), task="segmentation"),
}
"""All of them, by what is special about each."""


@pytest.mark.parametrize("title", NETS)
def test_the_right_layer_is_recommended_and_lies_on_the_right_grid(title):
    case = NETS[title]
    layers = cam_hub.list_layers(opened(case))
    best = next(layer for layer in layers if layer.recommended)
    assert best.name.startswith(case.late), best.reason
    assert case.grid in (None, best.grid), best.reason


def test_a_layer_that_is_the_deepest_only_since_later_ones_could_not_be_read_says_so():
    model = opened(Case(lambda: Merged(tome(15)), (3, 64, 64), ("early",)))
    best = next(layer for layer in cam_hub.list_layers(model) if layer.recommended)
    assert best.name == "early"
    assert "not deep: 20 of the 20 layers" in best.note
    assert best.note in best.reason
    found = cam_hub.explain(model, torch.randn(3, 64, 64), method="gradcam")
    assert found.manifest["layer_notes"] == {"early": best.note}
    assert html.escape(best.note) in summary(found, found.classes[0], "early")
    assert html.escape(best.note) in summary(found, found.classes[0], None)


def test_a_deep_layer_has_no_note():
    model = opened(NETS["separate kvq"])
    assert not any(layer.note for layer in cam_hub.list_layers(model))
    found = cam_hub.explain(model, torch.randn(3, 64, 64), method="gradcam")
    assert "layer_notes" not in found.manifest
    assert "not deep" not in summary(found, found.classes[0], found.layers[0])


def test_the_models_of_transformers_get_the_layer_that_the_same_network_gets_in_timm():
    transformers = pytest.importorskip("transformers")

    class Logits(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x).logits

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=64,
        patch_size=8,
        num_labels=5,
    )
    net = Logits(transformers.ViTForImageClassification(config))
    [best] = cam_hub.suggest_layers(cam_hub.wrap_model(net, input_size=(3, 64, 64)))
    assert best.endswith("2.layernorm_before")


@pytest.mark.parametrize("wanted", [["qkv"], ["qkv", "proj", "fc1", "fc2"]])
def test_adapters_of_peft_do_not_move_the_choice(wanted):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=8, target_modules=wanted, init_lora_weights=False)
    net = peft.get_peft_model(vit((64, 64), (8, 8)), config)
    [best] = cam_hub.suggest_layers(cam_hub.wrap_model(net, input_size=(3, 64, 64)))
    assert best.endswith("blocks.3.norm1")
