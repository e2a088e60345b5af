"""Rollout and CheferCAM on networks: against textbook code, and refused where senseless."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

import cam_hub
from cam_hub import explain
from cam_hub.errors import InvalidArgument, ModelRefused, NoMap
from cam_hub.methods import METHODS
from tests.fakes.engine_nets import apart
from tests.fakes.methods import ATTENTION
from tests.fakes.module_state import state_of

every_method = pytest.mark.parametrize("method", ATTENTION)

SIDES = 32, 48
PATCH = 8
GRID = SIDES[0] // PATCH, SIDES[1] // PATCH
WIDTH = 16


class Between(nn.Module):
    """What a network may do with tokens ``(N, L, C)`` between two attention layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        maps = x.transpose(1, 2).unflatten(2, GRID) if self.kind else x
        if self.kind == "convolution":
            maps = maps + self.conv(maps)
        elif self.kind == "gate":
            maps = maps * maps.mean((2, 3), keepdim=True).sigmoid()
        elif self.kind == "pool":
            maps = nn.functional.avg_pool2d(maps, 2)
        elif self.kind == "shift":
            maps = maps.roll((1, 1), (2, 3))
        return maps.flatten(2).transpose(1, 2) if self.kind else x


class Encoder(nn.Module):
    """Patches, tokens without a place, torch's encoder layers, and a head on some of the tokens."""

    def __init__(
        self, before: int = 1, after: int = 0, read: str = "first", batch_first: bool = True,
        between: str = "", turned: bool = False, shuffled: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        torch.manual_seed(5)
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.before = nn.Parameter(torch.randn(1, before, WIDTH))
        self.after = nn.Parameter(torch.randn(1, after, WIDTH))
        self.places = nn.Parameter(torch.randn(1, GRID[0] * GRID[1], WIDTH))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=batch_first) for _ in range(2)
        )
        self.between = Between(between)
        self.fc = nn.Linear(WIDTH, 5)
        self.read, self.batch_first, self.turned, self.shuffled = (
            read,
            batch_first,
            turned,
            shuffled,
        )
        self.images = 0

    def embed(self, x: Tensor) -> Tensor:
        maps = self.patches(x.transpose(2, 3) if self.turned else x)
        tokens = maps.flatten(2).transpose(1, 2) + self.places
        if self.shuffled:
            order = torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(1))
            tokens = tokens[:, order]
        parts = [part.expand(len(x), -1, -1) for part in (self.before, self.after)]
        tokens = torch.cat([parts[0], tokens, parts[1]], dim=1)
        return tokens if self.batch_first else tokens.transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        x = self.layers[1](self.between(self.layers[0](self.embed(x))))
        x = x if self.batch_first else x.transpose(0, 1)
        if self.read == "first":
            return self.fc(x[:, 0])
        if self.read == "last":
            return self.fc(x[:, -1])
        return self.fc(x.mean(1) if self.read == "all" else x[:, self.before.shape[1] :].mean(1))


def wrapped(**options: Any) -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(Encoder(**options).eval(), input_size=(3, *SIDES))


def picture(seed: int = 0, sides: tuple[int, int] = SIDES) -> Tensor:
    return torch.randn((3, *sides), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    return wrapped()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return picture()


def rollout_of(matrices: list[Tensor]) -> Tensor:
    """Textbook rollout of matrices ``(heads, tokens, tokens)``."""
    result = torch.eye(matrices[0].shape[-1])
    for matrix in matrices:
        mixed = matrix.mean(0) + torch.eye(len(result))
        result = (mixed / mixed.sum(-1, keepdim=True)) @ result
    return result


def chefer_of(matrices: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """Textbook relevance, as in the authors' example for vision transformers."""
    result = torch.eye(matrices[0].shape[-1])
    for matrix, gradient in zip(matrices, gradients, strict=True):
        result = result + (gradient * matrix).clamp(min=0).mean(0) @ result
    return result


TIMM: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"reg_tokens": 3},
    "mean": {"class_token": False, "global_pool": "avg"},
    "mean without the class token": {"global_pool": "avg"},
}


@pytest.mark.parametrize("kind", TIMM)
def test_maps_of_a_timm_vit_are_those_of_textbook_code(kind: str) -> None:
    torch.manual_seed(0)
    options = {"depth": 2, "img_size": SIDES, "patch_size": 8, "num_classes": 5, "embed_dim": 48}
    net = timm.create_model("vit_tiny_patch16_224", **options, **TIMM[kind]).eval()
    for weight in net.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape))
    image = picture()
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handles = []
    for block in net.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(keep))
    net(image[None])[0, 2].backward()
    net.zero_grad()
    for handle, block in zip(handles, net.blocks, strict=True):
        handle.remove()
        block.attn.fused_attn = True
    matrices = [matrix.detach()[0] for matrix in kept]
    extra = net.num_prefix_tokens
    rows = slice(0, 1) if kind in ("class token", "registers") else slice(extra, None)
    model = cam_hub.wrap_model(net, input_size=(3, *SIDES))
    found = explain(model, image, method="rollout", classes=2)
    expected = rollout_of(matrices)[rows, extra:].mean(0).reshape(GRID)
    assert apart(found.cam(), expected.numpy()) < 1e-5
    found = explain(model, image, method="chefercam", classes=2)
    relevance = chefer_of(matrices, [matrix.grad[0] for matrix in kept])
    relevance -= torch.eye(len(relevance))
    assert apart(found.cam(), relevance[rows, extra:].mean(0).reshape(GRID).numpy()) < 1e-5


def expected_rollout(net: Encoder, image: Tensor, rows: slice) -> NDArray[np.float32]:
    """From the weights that ``nn.MultiheadAttention`` itself returns."""
    with torch.no_grad():
        x, matrices = net.embed(image[None]), []
        for layer in net.layers:
            matrices.append(layer.self_attn(x, x, x, average_attn_weights=False)[1][0])
            x = layer(x)
    before = net.before.shape[1]
    row = rollout_of(matrices)[rows].mean(0)[before : before + GRID[0] * GRID[1]]
    return row.reshape(GRID).numpy()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    ("before", "after", "read", "rows"),
    [
        (1, 0, "first", slice(0, 1)),
        (3, 0, "first", slice(0, 1)),
        (0, 1, "last", slice(-1, None)),
        (0, 0, "all", slice(None)),
        (2, 0, "all", slice(None)),
        (2, 0, "places", slice(2, None)),
    ],
)
def test_the_row_is_that_of_the_tokens_that_the_score_reads(
    before: int, after: int, read: str, rows: slice, batch_first: bool
) -> None:
    model = wrapped(before=before, after=after, read=read, batch_first=batch_first)
    found = explain(model, picture(), method="rollout")
    assert apart(found.cam(), expected_rollout(model.module, picture(), rows)) < 1e-5


@every_method
def test_a_network_that_turns_the_image_has_an_upright_map(method: str) -> None:
    upright = explain(wrapped(), picture(), method=method, classes=1).cam()
    net = wrapped(turned=True)
    with torch.no_grad():
        places = net.module.places.unflatten(1, GRID).transpose(1, 2).flatten(1, 2)
        net.module.places.copy_(places)
        net.module.patches.weight.copy_(net.module.patches.weight.transpose(2, 3).clone())
    # The same tokens in another order, so that attention between them is the same.
    assert apart(explain(net, picture(), method=method, classes=1).cam(), upright) < 1e-5


@every_method
def test_torchvision_has_maps(method: str) -> None:
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=4).eval()
    nn.init.normal_(net.heads[0].weight)
    found = explain(cam_hub.wrap_model(net, input_size=(3, 32, 32)), picture(0, (32, 32)),
                    method=method)  # fmt: skip
    assert found.cam().shape == (4, 4)
    assert (found.cam() > 0).any()


@every_method
class TestEveryMethod:
    def test_the_map_has_the_grid_of_tokens_and_the_name_of_the_input(self, model, image, method):
        before = state_of(model.module)
        found = explain(model, image, method=method)
        assert state_of(model.module) == before
        assert not torch._C._len_torch_function_stack()
        assert found.layers == ("input",)
        assert found.cam().shape == GRID
        assert found.heatmap().shape == SIDES

    def test_it_states_how_many_images_pass(self, model, image, method) -> None:
        explain(model, image, method=method)
        model.module.images = 0
        explain(model, image, method=method, classes=[1, 4], reuse=False)
        assert model.module.images == METHODS[method].passes.forward

    def test_maps_of_several_classes_are_those_of_each(self, model, image, method) -> None:
        together = explain(model, image, method=method, classes=[1, 4])
        maps = [explain(model, image, method=method, classes=each).cam() for each in (1, 4)]
        for index, alone in zip((1, 4), maps, strict=True):
            assert apart(together.cams[index, "input"], alone) < 1e-6
        assert (apart(*maps) > 1e-3) == METHODS[method].class_specific

    def test_it_is_made_again_from_its_manifest_and_files(self, model, image, method, tmp_path):
        first = explain(model, image, method=method, classes=[0, 2])
        again = cam_hub.reproduce(json.loads(json.dumps(dict(first.manifest))), image, model=model)
        first.save(tmp_path / "saved")
        for found in (again, cam_hub.Explanation.load(tmp_path / "saved")):
            for key, cam in first.cams.items():
                assert found.cams[key].tobytes() == cam.tobytes()

    def test_many_images_and_comparisons_give_the_same_map(self, model, image, method) -> None:
        alone = explain(model, image, method=method).cam()
        first, _ = cam_hub.explain_many(model, [image, picture(1)], method=method)
        assert first.explanation.cam().tobytes() == alone.tobytes()
        compared = cam_hub.compare(model, image, methods=["layercam", method])
        assert compared.rows[0].cells[1].explanation.cam().tobytes() == alone.tobytes()

    def test_its_evidence_can_be_tested(self, model, image, method) -> None:
        found = explain(model, image, method=method)
        tested = cam_hub.evidence(found, checks=["cover", "class_check", "stability", "focus"])
        assert all(test.value is not None for test in tested.tests)

    def test_layers_are_refused(self, model, image, method) -> None:
        with pytest.raises(InvalidArgument, match="at no layer"):
            explain(model, image, method=method, target_layers="last")

    @pytest.mark.parametrize(
        ("between", "match"),
        [
            ("convolution", "mixed by more than attention"),
            ("gate", "mixed by more than attention"),
            ("shift", "mixed by more than attention"),
            ("pool", r"different numbers of tokens \(24, 6\)"),
        ],
    )
    def test_tokens_that_change_one_another_otherwise_are_refused(
        self, image, method, between, match
    ) -> None:
        model = wrapped(before=0, read="all", between=between)
        before = state_of(model.module)
        with pytest.raises(ModelRefused, match=match):
            explain(model, image, method=method)
        assert state_of(model.module) == before

    def test_tokens_in_another_order_are_refused(self, image, method) -> None:
        with pytest.raises((ModelRefused, NoMap)):
            explain(wrapped(shuffled=True), image, method=method)

    def test_a_network_without_attention_is_refused(self, image, method) -> None:
        net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(384, 3))
        with pytest.raises(ModelRefused, match="no attention matrix was found"):
            explain(cam_hub.wrap_model(net, input_size=(3, *SIDES)), image, method=method)


class Pair(nn.Module):
    """Attention layers that do not follow one another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Encoder(before=0, read="all")

    def forward(self, x: Tensor) -> Tensor:
        x = self.net.embed(x)
        return self.net.fc((self.net.layers[0](x) + self.net.layers[1](x)).mean(1))


class ClassAttention(nn.Module):
    """A class token that looks at the others in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Encoder(before=0)
        self.last = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (tokens := self.net.embed(x), *self.net.layers)[1:]:
            tokens = layer(tokens)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        return self.net.fc(self.last(tokens[:, :1], tokens, tokens)[0][:, 0])


@pytest.mark.parametrize(
    ("made", "match"), [(Pair, "do not follow one another"), (ClassAttention, "1 by 25 tokens")]
)
def test_attention_that_is_no_chain_is_refused(made: type[nn.Module], match: str) -> None:
    torch.manual_seed(2)
    model = cam_hub.wrap_model(made().eval(), input_size=(3, *SIDES))
    with pytest.raises(ModelRefused, match=match):
        explain(model, picture(), method="rollout")


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "windows": (
        "swin_tiny_patch4_window7_224",
        {"depths": (1, 1), "embed_dim": 12, "num_heads": (1, 1), "window_size": 4},
    ),
    "channels": ("xcit_nano_12_p16_224", {"depth": 2, "embed_dim": 32, "num_heads": 2}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_and_attention_of_channels_are_refused(family: str) -> None:
    torch.manual_seed(0)
    name, options = FAMILIES[family]
    net = timm.create_model(name, img_size=64, num_classes=4, **options).eval()
    model = cam_hub.wrap_model(net, input_size=(3, 64, 64))
    for method in ATTENTION:
        with pytest.raises(ModelRefused, match="one square matrix over the same tokens"):
            explain(model, picture(0, (64, 64)), method=method)


def test_sign_and_contrast_are_of_the_class_or_refused(model, image) -> None:
    with pytest.raises(InvalidArgument, match="the same for every"):
        explain(model, image, method="rollout", sign="against")
    with pytest.raises(InvalidArgument, match="the same for every"):
        explain(model, image, method="rollout", contrast=1)
    against = explain(model, image, method="chefercam", classes=1, sign="against").cam()
    both = explain(model, image, method="chefercam", classes=1, sign="both").cam()
    plain = explain(model, image, method="chefercam", classes=1).cam()
    assert apart(both, plain - against) < 1e-6
    contrasted = explain(model, image, method="chefercam", classes=1, contrast=3).cam()
    other = wrapped()
    with torch.no_grad():
        other.module.fc.weight[1] -= other.module.fc.weight[3]
        other.module.fc.bias[1] -= other.module.fc.bias[3]
    expected = explain(other, image, method="chefercam", classes=1).cam()
    assert apart(contrasted, expected) < 1e-5
