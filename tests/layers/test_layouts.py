"""Networks that no zoo contains: their recommended layer and its layout."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import cam_hub
from space.components.formatting import summary
from tests.fakes.layout_nets import (
    CRNN,
    VIT,
    AttentionLast,
    AudioCNN,
    BatchSecond,
    CLIPTower,
    DecisionLevel,
    DeepPrompted,
    EEGNet,
    FNet,
    Frequencies,
    GFNet,
    HiddenUnits,
    Latents,
    Merged,
    OneMask,
    OverTime,
    Prompted,
    Separate,
    ShallowConvNet,
    Slots,
    Spectrogram,
    TokenLearner,
    UNet,
    WhisperEncoder,
    adapted,
    awake,
    keep_strongest,
    over_time_of_maps,
    pooled,
    pyramid,
    strided,
    tokens_first,
    tome,
    vit,
)


@dataclass(frozen=True)
class Case:
    """One network with the expected results.

    Attributes:
        build: Builds the network.
        size: Size of its input.
        late: Possible beginnings of the recommended layer's name; empty if a refusal is right.
        grid: Rows and columns of the recommended layer; None if several are right.
        never: Beginnings of names that no usable layer may have.
        task: The network's task.
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


EMBEDDED = ("blocks", "norm", "fc_norm")

NETS: dict[str, Case] = {
    # One axis pooled more.
    "pool 2,1": Case(lambda: pooled((2, 1)), (3, 64, 256), ("4",), (32, 256)),
    "pool 4,1": Case(lambda: pooled((4, 1)), (3, 64, 256), ("4",), (16, 256)),
    "pool 1,4": Case(lambda: pooled((1, 4)), (3, 64, 64), ("4",), (64, 16)),
    "pool 8,1": Case(lambda: pooled((8, 1)), (3, 64, 64), ("4",), (8, 64)),
    "pool 1,3 twice": Case(
        lambda: pooled((1, 3), (1, 3), channels=1), (1, 27, 243), ("7",), (27, 27)
    ),
    "pool 16,1": Case(lambda: pooled((16, 1)), (3, 64, 64), ("4",), (4, 64)),
    "pool 64,2": Case(lambda: pooled((64, 2)), (3, 64, 64), ("4",), (1, 32)),
    "pool 2,64": Case(lambda: pooled((2, 64)), (3, 64, 64), ("4",), (32, 1)),
    "pool 32,1": Case(lambda: pooled((32, 1)), (3, 64, 64), ("4",), (2, 64)),
    "stride 1,4": Case(lambda: strided((1, 4)), (3, 64, 64), ("2",), (64, 16)),
    "stride 8,1": Case(lambda: strided((8, 1)), (3, 64, 64), ("2",), (8, 64)),
    "strides 1,2 three times": Case(
        lambda: strided((1, 2), (1, 2), (1, 2)), (3, 32, 64), ("8",), (32, 8)
    ),
    "strides to 1x32": Case(lambda: strided((4, 1), (4, 2), (4, 1)), (3, 64, 64), ("8",), (1, 32)),
    "EEGNet": Case(EEGNet, (1, 22, 256), ("separable",), (1, 8)),
    "EEGNet long": Case(lambda: EEGNet(8, 1024), (1, 8, 1024), ("separable",), (1, 32)),
    "EEGNet square": Case(lambda: EEGNet(64, 128), (1, 64, 128), ("separable",), (1, 4)),
    "ShallowConvNet": Case(ShallowConvNet, (1, 22, 250), ("bn", "pool"), None),
    "CRNN, mean": Case(CRNN, (1, 32, 128), ("cnn",), (1, 32)),
    "CRNN, LSTM": Case(lambda: CRNN(nn.LSTM), (1, 32, 128), ("cnn",), (1, 32)),
    "CRNN, GRU, batch first": Case(
        lambda: CRNN(nn.GRU, batch_first=True), (1, 32, 128), ("cnn",), (1, 32)
    ),
    "CRNN, short": Case(CRNN, (1, 32, 64), ("cnn",), (1, 16)),
    "audio": Case(AudioCNN, (1, 64, 256), ("features",), (1, 64)),
    "audio, many frames": Case(AudioCNN, (1, 128, 100), ("features",), (2, 25)),
    # One axis folded away.
    "rows as channels": Case(OverTime, (1, 16, 128), ("back",), (1, 32)),
    "rows as channels, later": Case(over_time_of_maps, (1, 64, 128), ("back",), (1, 32)),
    "a signal": Case(lambda: OverTime(1), (1, 1, 256), ("back",), (1, 64)),
    "Whisper's encoder": Case(WhisperEncoder, (1, 64, 120), ("norm",), (1, 60)),
    "decisions per row": Case(DecisionLevel, (1, 96, 64), ("decide", "fc"), (24, 1)),
    # Rotated on the way.
    "spectrogram, transposed": Case(Spectrogram, (1, 128, 66), ("blocks.2.norm1",), (12, 6)),
    # Batch in dimension 1.
    "encoder": Case(BatchSecond, (3, 64, 64), ("blocks",), (8, 8)),
    "encoder, mean": Case(lambda: BatchSecond(token=False), (3, 64, 64), EMBEDDED, (8, 8)),
    "encoder, post-norm": Case(
        lambda: BatchSecond(norm_first=False), (3, 64, 64), ("blocks",), (8, 8)
    ),
    "encoder, batch first": Case(lambda: BatchSecond(first=True), (3, 64, 64), ("blocks",), (8, 8)),
    "encoder, not square": Case(
        lambda: BatchSecond(grid=(4, 12)), (3, 32, 96), ("blocks",), (4, 12)
    ),
    "encoder, short": Case(
        lambda: BatchSecond(patch=16, grid=(3, 3)), (3, 48, 48), ("blocks",), (3, 3)
    ),
    "CLIP's tower": Case(CLIPTower, (3, 64, 64), ("transformer.3.ln_1",), (8, 8)),
    # Tokens without a position.
    "prompts 3": Case(
        lambda: Prompted(3, img_size=64, patch_size=8, **VIT),
        (3, 64, 64),
        ("blocks.3.norm1",),
        (8, 8),
    ),
    "prompts 10": Case(
        lambda: Prompted(10, img_size=64, patch_size=8, **VIT),
        (3, 64, 64),
        ("blocks.3.norm1",),
        (8, 8),
    ),
    "prompts 50": Case(
        lambda: Prompted(50, img_size=64, patch_size=8, **VIT),
        (3, 64, 64),
        ("blocks.3.norm1",),
        (8, 8),
    ),
    "prompts 100": Case(
        lambda: Prompted(100, img_size=64, patch_size=8, **VIT),
        (3, 64, 64),
        ("blocks.3.norm1",),
        (8, 8),
    ),
    "prompts 4, registers": Case(
        lambda: Prompted(4, img_size=64, patch_size=8, reg_tokens=4, **VIT),
        (3, 64, 64),
        ("blocks.3.norm1",),
        (8, 8),
    ),
    "prompts 20, wide": Case(
        lambda: Prompted(20, img_size=(32, 128), patch_size=8, **VIT),
        (3, 32, 128),
        ("blocks.3.norm1",),
        (4, 16),
    ),
    "VPT deep 5": Case(lambda: DeepPrompted(5), (3, 64, 64), ("vit.blocks.3.norm1",), (8, 8)),
    "VPT deep 50": Case(lambda: DeepPrompted(50), (3, 64, 64), ("vit.blocks.3.norm1",), (8, 8)),
    "VPT deep 50 behind": Case(
        lambda: DeepPrompted(50, behind=True), (3, 64, 64), ("vit.blocks.3.norm1",), (8, 8)
    ),
    # Rectangular patches.
    "patches 4x8": Case(lambda: vit((32, 128), (4, 8)), (3, 32, 128), ("blocks.3.norm1",), (8, 16)),
    "patches 16x4, mean": Case(
        lambda: vit((64, 64), (16, 4), class_token=False, global_pool="avg"),
        (3, 64, 64),
        EMBEDDED,
        (4, 16),
    ),
    "patches 16x4": Case(lambda: vit((64, 64), (16, 4)), (3, 64, 64), ("blocks.3.norm1",), (4, 16)),
    "patches 8x4, wide": Case(
        lambda: vit((64, 128), (8, 4)), (3, 64, 128), ("blocks.3.norm1",), (8, 32)
    ),
    "patches 4x16, tall": Case(
        lambda: vit((64, 32), (4, 16)), (3, 64, 32), ("blocks.3.norm1",), (16, 2)
    ),
    "patches 32x2, mean": Case(
        lambda: vit((64, 64), (32, 2), class_token=False, global_pool="avg"),
        (3, 64, 64),
        EMBEDDED,
        (2, 32),
    ),
    "patches 64x2": Case(lambda: vit((64, 64), (64, 2)), (3, 64, 64), ("blocks.3.norm1",), (1, 32)),
    # The same network, written differently.
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
    # Tokens whose number a stride inside the network has reduced.
    "every second token": Case(pyramid, (3, 224, 224), ("stages",), (4, 4)),
    "every second token, in another order": Case(
        lambda: pyramid(lambda x: x[:, [5 * n % 16 for n in range(16)]]),
        (3, 224, 224),
        ("stages.0", "stages.1", "stages.2.downsample.0"),
        never=("stages.2.blocks", "stages.2.downsample.1"),
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
    # No positions.
    "frequencies": Case(Frequencies, (3, 64, 64), ("features",), (16, 16)),
    "frequencies, half": Case(
        lambda: Frequencies(real=True),
        (3, 64, 64),
        ("features",),
        (16, 16),
        never=("fourier", "freq"),
    ),
    "FNet": Case(FNet, (3, 64, 64), ("patch", "blocks"), (8, 8)),
    "GFNet": Case(GFNet, (3, 64, 64), EMBEDDED, (8, 8), never=("blocks.2.filter.spectrum",)),
    **{
        f"latents {count}": Case(
            lambda count=count: Latents(count),
            (3, 64, 64),
            ("patch", "tokens"),
            (8, 8),
            never=("latent", "cross"),
        )
        for count in (9, 16, 32, 49, 65)
    },
    "latents 64": Case(lambda: Latents(64), (3, 64, 64), ("patch", "tokens"), (8, 8)),
    "latents 64, no norm": Case(
        lambda: Latents(64, normed=False), (3, 64, 64), ("patch", "tokens"), (8, 8)
    ),
    "slots 16": Case(
        Slots,
        (3, 64, 64),
        ("features", "norm", "slot_k", "slot_v"),
        (8, 8),
        never=("slot_gru", "slot_norm", "slot_q"),
    ),
    "slots 64": Case(
        lambda: Slots(64), (3, 64, 64), ("features", "norm", "slot_k", "slot_v"), (8, 8)
    ),
    **{
        f"ToMe {count}": Case(
            lambda count=count: Merged(tome(count)),
            (3, 64, 64),
            ("early",),
            (8, 8),
            never=("merge", "late"),
        )
        for count in (8, 15, 28)
    },
    "pruned to 49": Case(
        lambda: Merged(keep_strongest(49)), (3, 64, 64), ("early",), (8, 8), never=("merge", "late")
    ),
    "pruned to 36": Case(
        lambda: Merged(keep_strongest(36)), (3, 64, 64), ("early",), (8, 8), never=("merge", "late")
    ),
    "sorted, none pruned": Case(
        lambda: Merged(keep_strongest(64)), (3, 64, 64), ("early",), (8, 8)
    ),
    "learnt tokens 16": Case(
        lambda: TokenLearner(16), (3, 64, 64), ("weigh", "features"), (16, 16), never=("late",)
    ),
    "learnt tokens 256": Case(
        lambda: TokenLearner(256), (3, 64, 64), ("weigh", "features"), (16, 16)
    ),
    "attention matrix": Case(
        AttentionLast, (3, 64, 64), ("norm", "patch", "qk"), (8, 8), never=("matrix",)
    ),
    "attention matrix, coarse": Case(
        lambda: AttentionLast(patch=16),
        (3, 64, 64),
        ("norm", "patch", "qk"),
        (4, 4),
        never=("matrix",),
    ),
    "hidden units": Case(HiddenUnits, (3, 64, 64), ("features",), (8, 8), never=("units", "rows")),
    "hidden units 49": Case(
        lambda: HiddenUnits(49), (3, 64, 64), ("features",), (8, 8), never=("units", "rows")
    ),
    "linear patches": Case(tokens_first, (3, 64, 64), EMBEDDED, (8, 8)),
}
"""All of them, by their special property."""


@pytest.mark.parametrize("title", NETS)
def test_the_right_layer_is_recommended_and_lies_on_the_right_grid(title):
    case = NETS[title]
    layers = cam_hub.list_layers(opened(case))
    best = next(layer for layer in layers if layer.recommended)
    assert best.name.startswith(case.late), best.reason
    assert case.grid in (None, best.grid), best.reason
    if case.never:
        assert not [
            layer.name for layer in layers if layer.usable and layer.name.startswith(case.never)
        ]


@pytest.mark.parametrize("mode", ["token", "mean"])
def test_with_the_batch_second_a_transformer_has_the_maps_of_its_twin_with_the_batch_first(mode):
    images = [torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    found = []
    for first in (True, False):
        build = lambda first=first: BatchSecond(first=first, token=mode == "token")  # noqa: E731
        model = opened(Case(build, (3, 64, 64), ()))
        name = "blocks.layers.3.norm1"
        info = next(layer for layer in cam_hub.list_layers(model) if layer.name == name)
        assert info.layout == ("NLC" if first else "LNC")
        outcomes = cam_hub.explain_many(
            model, images, method="smoothgradcampp", target_layers=name, num_samples=3
        )
        maps = [outcome.explanation.cams for outcome in outcomes]
        found.append([next(iter(each.values())) for each in maps])
        assert cam_hub.activations(model, images[0], [name])[name].shape == (48, 8, 8)
    for one, other in zip(*found, strict=True):
        assert np.allclose(one, other, atol=1e-4)


class Turned(nn.Module):
    """Bright where the image is; the network rotates it before a layer or between two."""

    def __init__(self, turn: Callable[[torch.Tensor], torch.Tensor], *, between: bool) -> None:
        super().__init__()
        self.turn, self.between = turn, between
        self.one, self.two = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 2, 2)
        for layer in (self.one, self.two):
            nn.init.uniform_(layer.weight, 0, 0.1)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x if self.between else self.turn(x))
        return self.two(self.turn(x) if self.between else x).mean((2, 3))


@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (lambda x: x.transpose(2, 3), "transposed"),
        (lambda x: x.flip(3), "mirrored"),
        (lambda x: x.flip(2), "upside down"),
        (lambda x: x.rot90(1, (2, 3)), "rotated by 90°"),
        (lambda x: x.rot90(-1, (2, 3)), "rotated by 90°"),
        (lambda x: x.rot90(2, (2, 3)), "rotated by 180°"),
        (lambda x: x.rot90(2, (2, 3)).transpose(2, 3), "transposed and rotated by 180°"),
    ],
)
def test_a_map_of_an_image_that_the_network_has_turned_is_turned_back(turn, words, between):
    model = opened(Case(lambda: Turned(turn, between=between), (3, 48, 80), ()))
    best = next(layer for layer in cam_hub.list_layers(model) if layer.recommended)
    assert (best.name, best.grid) == ("two", (6, 10))
    assert words in best.reason
    image = torch.zeros(3, 48, 80)
    image[:, 8:16, 56:64] = 1  # the cell in row 1 and column 7
    for found in (
        cam_hub.explain(model, image, classes=0, method="gradcam"),
        next(iter(cam_hub.explain_many(model, [image], classes=0))).explanation,
    ):
        assert np.unravel_index(found.cam().argmax(), (6, 10)) == (1, 7)
    activation = cam_hub.activations(model, image, ["two"])["two"]
    assert np.unravel_index(int(activation.abs().sum(0).argmax()), (6, 10)) == (1, 7)


def test_the_output_of_a_recurrent_layer_along_a_line_is_not_a_line():
    layers = {layer.name: layer for layer in cam_hub.list_layers(opened(NETS["CRNN, LSTM"]))}
    assert layers["cnn"].recommended
    assert not layers["rnn"].usable


def test_a_layer_read_by_its_shape_is_recommended_if_it_passes_on_what_lies_there():
    class Smeared(nn.Module):
        """Every position depends on the whole image, and more strongly on its own part."""

        def __init__(self, own: float) -> None:
            super().__init__()
            self.embed, self.own = nn.Conv2d(3, 16, 8, 8), own
            self.last = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x)
            x = self.own * x + x.mean((2, 3), keepdim=True) * x.new_ones(8, 8).cumsum(1)
            return self.last(x).square().mean((2, 3))

    for own, expected in ((0.1, "last"), (0.0, "embed")):
        model = opened(Case(lambda own=own: Smeared(own), (3, 64, 64), ()))
        layers = {layer.name: layer for layer in cam_hub.list_layers(model)}
        assert "by its shape" in layers["last"].reason
        assert layers[expected].recommended


def test_a_layer_that_is_deepest_only_since_later_ones_are_unreadable_has_a_note():
    model = opened(Case(lambda: Merged(tome(15)), (3, 64, 64), ("early",)))
    best = next(layer for layer in cam_hub.list_layers(model) if layer.recommended)
    assert best.name == "early"
    assert "not deep: 20 of the 20 layers" in best.note
    assert best.note in best.reason
    found = cam_hub.explain(model, torch.randn(3, 64, 64), method="gradcam")
    assert found.manifest["layer_notes"] == {"early": best.note}
    assert html.escape(best.note) in summary(found, found.classes[0], "early")
    assert html.escape(best.note) in summary(found, found.classes[0], None)


def test_what_is_as_long_as_the_tokens_but_lies_nowhere_counts_as_unread():
    best = next(
        layer for layer in cam_hub.list_layers(opened(NETS["latents 64"])) if layer.recommended
    )
    assert best.name == "tokens"
    assert "not deep" in best.note


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
