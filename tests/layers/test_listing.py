"""Layers found by experiment: what is spatial, what is not, and which one to explain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cam_hub
from cam_hub.errors import InvalidArgument, LayerNotFound, ModelRefused, NoMap
from cam_hub.layers.listing import resolve_layers

SMALL = (3, 48, 64)


class Net(nn.Module):
    """A small network with every kind of layer that discovery must distinguish."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.deep = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.aside = nn.Conv2d(8, 4, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Sigmoid())
        self.constant = nn.Conv2d(16, 16, 1)
        nn.init.zeros_(self.constant.weight)
        self.spare = nn.Conv2d(16, 16, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.stem(x))
        self.aside(x)
        x = self.deep(x)
        x = x * self.gate(x) + self.constant(x)
        return self.head(self.pool(x).flatten(1))


@pytest.fixture(scope="module")
def net() -> cam_hub.LoadedModel:
    return cam_hub.wrap_model(Net(), input_size=SMALL)


@pytest.fixture(scope="module")
def layers(net) -> dict[str, cam_hub.LayerInfo]:
    return {layer.name: layer for layer in cam_hub.list_layers(net)}


def test_every_module_is_listed_in_the_order_in_which_it_finishes(net, layers):
    assert list(layers) == [
        "stem", "act", "aside", "deep", "gate.0", "gate.1", "gate.2", "gate", "constant", "pool",
        "head", "spare",
    ]  # fmt: skip
    assert set(layers) == {name for name, _ in net.module.named_modules() if name}


def test_a_spatial_layer_has_its_layout_grid_and_channels(layers):
    deep = layers["deep"]
    assert (deep.layout, deep.grid, deep.channels, deep.prefix_tokens) == ("NCHW", (12, 16), 16, 0)
    assert deep.is_conv
    assert deep.usable
    assert deep.module_type == "Conv2d"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gate", "single cell"),
        ("pool", "single cell"),
        ("head", "no rows and columns"),
        ("aside", "no class score depends"),
        ("constant", "does not change with the input"),
        ("spare", "does not run"),
    ],
)
def test_an_unusable_layer_has_a_reason(layers, name, reason):
    assert not layers[name].usable
    assert reason in layers[name].reason


def test_a_spatial_layer_without_gradient_is_spatial_all_the_same(layers):
    assert layers["aside"].layout == "NCHW"


def test_the_deepest_usable_layer_is_recommended(layers):
    assert [layer.name for layer in layers.values() if layer.recommended] == ["deep"]


def test_stages_are_numbered_from_fine_to_coarse(layers):
    assert (layers["stem"].stage, layers["deep"].stage, layers["pool"].stage) == (0, 1, None)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("best", ["deep"]),
        ("stages", ["act", "deep"]),
        ("convs", ["stem", "deep"]),
        ("all", ["stem", "act", "deep"]),
    ],
)
def test_words_select_layers(net, how, expected):
    assert cam_hub.suggest_layers(net, how) == expected


def test_an_unknown_word_is_refused(net):
    with pytest.raises(InvalidArgument, match="best, stages, blocks, convs, all"):
        cam_hub.suggest_layers(net, "worst")


def test_the_same_model_gives_the_same_answer():
    first, second = (cam_hub.wrap_model(Net(), input_size=SMALL) for _ in range(2))
    assert cam_hub.list_layers(first) == cam_hub.list_layers(second)


def test_the_answer_is_found_only_once(net):
    passes = []
    handle = net.module.stem.register_forward_hook(lambda *_: passes.append(1))
    cam_hub.list_layers(net)
    handle.remove()
    assert passes == []


def test_other_input_sizes_have_their_own_grids(net):
    found = {layer.name: layer for layer in cam_hub.list_layers(net, input_size=(3, 96, 32))}
    assert found["deep"].grid == (24, 8)


def test_a_shuffled_grid_is_not_spatial():
    class Shuffled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(0))
            return x.flatten(2)[:, :, order].view_as(x)

    module = nn.Sequential(nn.Conv2d(3, 4, 4, 4), Shuffled(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = {layer.name: layer for layer in cam_hub.list_layers(cam_hub.wrap_model(module))}
    assert found["0"].usable
    assert found["1"].layout is None
    assert "does not follow the image" in found["1"].reason


def test_a_transposed_grid_is_not_taken_for_an_upright_one():
    class Transposed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.transpose(2, 3)

    module = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), Transposed(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    found = {layer.name: layer for layer in cam_hub.list_layers(cam_hub.wrap_model(module))}
    assert (found["0"].turn, found["1"].turn) == ("", "T")


def test_signals_that_drown_in_rounding_errors_are_found_in_double_precision():
    class Faint(nn.Module):
        """Adds the image, scaled by 1e-10, to a constant."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 + 3e-8 * x

    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 4, 4), Faint(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = {layer.name: layer for layer in cam_hub.list_layers(cam_hub.wrap_model(module))}
    assert found["1"].layout == "NCHW"
    assert all(weight.dtype == torch.float32 for weight in module.parameters())


def test_a_model_that_cannot_run_on_its_input_size_is_refused():
    module = nn.Sequential(nn.Flatten(), nn.Linear(7, 2))
    with pytest.raises(ModelRefused, match=r"\(3, 224, 224\)"):
        cam_hub.list_layers(cam_hub.wrap_model(module))


def test_a_model_without_any_spatial_layer_has_no_suggestion():
    model = cam_hub.wrap_model(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), input_size=(3, 4, 4))
    with pytest.raises(NoMap, match="no layer that lies on the image"):
        cam_hub.suggest_layers(model)


class TestResolving:
    def test_layers_come_in_the_order_in_which_they_were_named(self, net):
        found = resolve_layers(net, ["deep", "stem", "deep"])
        assert [layer.name for layer in found] == ["deep", "stem"]

    def test_the_module_itself_names_a_layer(self, net):
        assert resolve_layers(net, net.module.deep)[0].name == "deep"

    def test_a_module_of_another_model_is_not_found(self, net):
        with pytest.raises(LayerNotFound, match="not part of the model"):
            resolve_layers(net, nn.Conv2d(1, 1, 1))

    def test_an_unknown_name_names_the_nearest(self, net):
        with pytest.raises(LayerNotFound) as caught:
            resolve_layers(net, "dep")
        assert caught.value.nearest == ("deep",)

    @pytest.mark.parametrize("name", ["gate", "head", "aside", "spare"])
    def test_an_unusable_layer_gives_its_reason_and_one_that_works(self, net, name):
        with pytest.raises(NoMap, match="'deep' works") as caught:
            resolve_layers(net, name)
        assert caught.value.layer == name

    def test_a_layer_without_gradient_will_do_where_none_is_needed(self, net):
        assert resolve_layers(net, "aside", need_gradient=False)[0].name == "aside"

    @pytest.mark.parametrize("choice", [[], 3, [None]])
    def test_what_names_no_layer_is_refused(self, net, choice):
        with pytest.raises(InvalidArgument):
            resolve_layers(net, choice)


CONVOLUTIONAL = [
    ("resnet10t", "layer4"),
    ("torchvision/resnet18", "layer4"),
    pytest.param("vgg11", "features", marks=pytest.mark.slow),
    ("convnext_atto", "norm_pre"),
    ("mobilenetv3_small_050", "blocks"),
    pytest.param("efficientnet_b0", "bn2", marks=pytest.mark.slow),
    ("regnety_002", "final_conv"),
    pytest.param("densenet121", "features", marks=pytest.mark.slow),
    pytest.param("repvgg_a0", "final_conv", marks=pytest.mark.slow),
    ("torchvision/squeezenet1_1", "classifier.2"),
    pytest.param("torchvision/googlenet", "inception5b", marks=pytest.mark.slow),
    ("torchvision/shufflenet_v2_x0_5", "conv5"),
]


@pytest.mark.parametrize(("id", "expected"), CONVOLUTIONAL)
def test_the_end_of_the_feature_extractor_of_a_convolutional_network_is_found(id, expected):
    torch.manual_seed(0)
    model = cam_hub.load_model(id, pretrained=False, device="cpu")
    small = cam_hub.wrap_model(model.module, input_size=(3, 96, 96))  # a fifth of the time
    assert cam_hub.suggest_layers(small) == [expected]


def test_a_strip_of_cells_is_spatial_where_the_input_is_a_strip():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 32, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    strip = cam_hub.wrap_model(module, input_size=(3, 32, 256))
    assert cam_hub.list_layers(strip)[0].grid == (1, 8)


class Tokens(nn.Module):
    """A patch embedding, with extra tokens before or after, channels first or last."""

    def __init__(self, *, before: int = 0, after: int = 0, channels_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 12, 8, 8)
        self.before = nn.Parameter(torch.randn(1, before, 12))
        self.after = nn.Parameter(torch.randn(1, after, 12))
        self.tokens = nn.Identity()
        self.channels_first = channels_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = self.embed(x).flatten(2).transpose(1, 2)
        count = len(x)
        tokens = torch.cat(
            [self.before.expand(count, -1, -1), places, self.after.expand(count, -1, -1)], dim=1
        )
        if self.channels_first:
            return self.tokens(tokens.transpose(1, 2)).square().mean(2)
        return self.tokens(tokens).square().mean(1)


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize(
    ("before", "after"), [(0, 0), (1, 0), (5, 0), (0, 1), (0, 4), (1, 3), (3, 1), (2, 40), (60, 40)]
)
@pytest.mark.parametrize("size", [(3, 64, 64), (3, 64, 96), (3, 96, 64)])
def test_tokens_are_arranged_with_any_extra_tokens_before_or_after(
    size, before, after, channels_first
):
    module = Tokens(before=before, after=after, channels_first=channels_first)
    model = cam_hub.wrap_model(module, input_size=size)
    found = {layer.name: layer for layer in cam_hub.list_layers(model)}["tokens"]
    assert found.layout == ("NCL" if channels_first else "NLC")
    assert found.grid == (size[1] // 8, size[2] // 8)
    assert (found.prefix_tokens, found.suffix_tokens) == (before, after)
    assert found.channels == 12
    image = torch.randn((1, *size), generator=torch.Generator().manual_seed(1))
    maps = cam_hub.activations(model, image, ["embed", "tokens"])
    assert torch.equal(maps["tokens"], maps["embed"])


def test_channels_last_are_laid_out_as_the_image_is():
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.last = nn.Conv2d(3, 12, 8, 8), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.embed(x).permute(0, 2, 3, 1)).square().mean((1, 2))

    model = cam_hub.wrap_model(Last(), input_size=(3, 64, 96))
    found = {layer.name: layer for layer in cam_hub.list_layers(model)}
    assert (found["last"].layout, found["last"].grid) == ("NHWC", (8, 12))
    maps = cam_hub.activations(model, torch.randn(1, 3, 64, 96), ["embed", "last"])
    assert torch.equal(maps["last"], maps["embed"])


def test_layers_that_are_written_to_afterwards_are_marked():
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 1)
            self.act, self.same = nn.ReLU(inplace=True), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.act(self.one(x))
            y = self.two(x)
            y += x
            return self.same(y).mean((2, 3))

    model = cam_hub.wrap_model(Writing(), input_size=(3, 32, 48))
    marked = {layer.name: layer.overwritten for layer in cam_hub.list_layers(model)}
    assert marked == {"one": True, "act": False, "two": True, "same": False}
