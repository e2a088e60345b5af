"""Discovery for outputs that are hard to read, and its cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import profile

import cam_hub
from cam_hub.errors import ModelRefused, NoMap
from cam_hub.layers.probe import disturb
from cam_hub.models.loaded_model import with_output

SIZE = (3, 64, 96)
GRID = (8, 12)


class Pooled(nn.Module):
    """Patches, then a given operation on them, then the mean of each channel as class scores."""

    def __init__(self, after: nn.Module, channels: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, channels, 8, 8)
        self.after = after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.after(self.embed(x))
        while not isinstance(out, torch.Tensor):
            out = next(iter(out.values() if isinstance(out, dict) else out))
        return out.square().flatten(2).mean(2)


class Do(nn.Module):
    """A function as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def examine(module: nn.Module, size: tuple[int, ...] = SIZE) -> dict[str, cam_hub.LayerInfo]:
    model = cam_hub.wrap_model(module, input_size=SIZE)
    return {layer.name: layer for layer in cam_hub.list_layers(model, input_size=size)}


def smear(x: torch.Tensor) -> torch.Tensor:
    """The effect of untrained attention: each position gets a multiple of the mean."""
    own = torch.linspace(0.5, 1.5, x[0, 0].numel()).reshape(x.shape[2:])
    return x.mean((2, 3), keepdim=True) * own


def test_an_output_whose_positions_all_depend_on_everything_is_read_by_its_shape():
    found = examine(Pooled(Do(smear)))
    assert (found["after"].layout, found["after"].grid) == ("NCHW", GRID)
    assert found["after"].usable
    assert "by its shape" in found["after"].reason
    assert "by its shape" not in found["embed"].reason


def test_tokens_without_a_position_signal_are_read_like_those_before_them():
    class Smeared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.later = nn.Identity(), Do(lambda x: smear(x[..., None]).squeeze(-1))
            self.extra = nn.Parameter(torch.randn(1, 2, 12))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            places = x.flatten(2).transpose(1, 2)
            x = self.tokens(torch.cat([self.extra.expand(len(x), -1, -1), places], dim=1))
            return self.later(x.transpose(1, 2))

    found = examine(Pooled(Smeared()))
    assert (found["after.tokens"].layout, found["after.tokens"].prefix_tokens) == ("NLC", 2)
    later = found["after.later"]
    assert (later.layout, later.grid, later.prefix_tokens) == ("NCL", GRID, 2)
    assert "by its shape" in later.reason


def test_a_measured_layer_close_to_the_end_goes_before_one_read_by_its_shape():
    blocks = nn.Sequential(nn.Sigmoid(), *(nn.Identity() for _ in range(24)), Do(smear))
    best = [layer for layer in examine(Pooled(blocks)).values() if layer.recommended]
    assert [layer.name for layer in best] == ["after.24"]


def test_positions_in_another_order_are_reported():
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    found = examine(Pooled(Do(lambda x: x.flatten(2)[:, :, order].view_as(x))))
    assert found["after"].layout is None
    assert "another order" in found["after"].reason


def test_windows_as_separate_items_are_reported():
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.window = nn.Conv2d(12, 12, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = self.window(torch.cat(x.split(4, dim=2)))
            return torch.cat(parts.split(len(x)), dim=2)

    found = examine(Pooled(Windows()))
    assert found["after.window"].layout is None
    assert "apart" in found["after.window"].reason
    assert found["after"].recommended


@pytest.mark.parametrize(
    "pack", [lambda x: (x, 1), lambda x: [x], lambda x: {"a": x, "b": x.mean()}, lambda x: ((x,),)]
)
def test_outputs_in_containers_are_read_by_their_main_tensor(pack):
    assert examine(Pooled(Do(pack)))["after"].grid == GRID


def test_the_last_call_of_a_layer_counts_and_their_number_is_reported():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)
            self.down = nn.Conv2d(12, 12, 2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.down(self.act(x)))

    found = examine(Pooled(Twice()))["after.act"]
    assert found.grid == (4, 6)
    assert "last of its 2 calls" in found.reason


def test_of_two_branches_one_is_chosen_and_the_other_is_named():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fine, self.coarse = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 8, 8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fine(x).sigmoid().mean((2, 3)) + self.coarse(x).sigmoid().mean((2, 3))

    found = examine(Branches())
    assert found["coarse"].recommended
    assert "others end at 'fine' (16×24)" in found["coarse"].reason


def test_a_block_goes_before_its_parts_although_some_of_its_channels_are_dead():
    class Block(nn.Module):
        """Its sums are below zero in half of the channels, which the following ReLU sets to
        zero."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sigmoid()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sign = torch.ones(x.shape[1], 1, 1)
            sign[::2] = -1
            return self.inner(x) * sign

    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x).relu()

    assert examine(Pooled(Dead()))["after"].recommended
    inner = nn.Sequential(Block())
    module = Pooled(inner)
    module.forward = lambda x: inner(module.embed(x)).relu().mean((2, 3))
    assert examine(module)["after"].recommended


def test_signals_below_single_precision_are_marked_faint():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), Do(lambda x: 1 + 3e-8 * x), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    found = examine(module)
    assert found["1"].faint
    assert not found["0"].faint


class Clip(nn.Module):
    """A network over clips: the given layout of its tokens, time halved."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.layout = (
            nn.Conv3d(3, 6, (2, 8, 8), (2, 8, 8)),
            nn.Identity(),
            layout,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).sigmoid()
        if self.layout == "NTHWC":
            return self.out(x.permute(0, 2, 3, 4, 1)).mean((1, 2, 3))
        if self.layout == "NLC":
            tokens = x.flatten(2).transpose(1, 2)
            return self.out(torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)).mean(1)
        return self.out(x).mean((2, 3, 4))


@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC", "NLC"])
def test_clips_have_one_grid_per_step_of_time(layout):
    found = examine(Clip(layout), size=(3, 8, 64, 96))["out"]
    assert (found.layout, found.grid, found.frames, found.channels) == (layout, GRID, 4, 6)
    assert found.prefix_tokens == (1 if layout == "NLC" else 0)
    assert "4 steps of time" in found.reason
    assert found.recommended


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_any_number_of_input_channels_will_do(channels):
    module = nn.Sequential(
        nn.Conv2d(channels, 6, 8, 8), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert examine(module, size=(channels, 64, 96))["1"].grid == GRID


def test_chunks_give_the_same_answer_as_one_batch():
    module = Pooled(nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(inplace=True))).eval()
    clean = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0))
    sizes: list[int] = []

    def run(module: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return module(batch)

    together = disturb(module, clean, run)
    assert sizes == [1, 9]
    sizes.clear()
    apart = disturb(module, clean, run, budget=1)
    assert sizes == [1] + [2] * 8
    for name, finding in together.items():
        assert apart[name].arrangement == finding.arrangement
        assert apart[name].match == pytest.approx(finding.match, abs=1e-5)


def test_a_layer_that_writes_to_its_input_is_not_taken_for_one_that_returns_it():
    module = Pooled(nn.Sequential(nn.Identity(), Do(lambda x: x.copy_(x.clone().flip(2)))))
    with torch.no_grad():
        found = disturb(module.eval(), torch.randn(1, *SIZE), lambda net, batch: net(batch))
    assert found["embed"].match == found["after.0"].match
    assert found["after.0"].spatial
    assert not found["after.0"].arrangement.turn
    assert found["after.1"].arrangement.turn == "V"
    assert found["after"].match == found["after.1"].match


def test_layers_that_return_their_input_cost_next_to_nothing():
    def operations(*more: nn.Module) -> int:
        model = cam_hub.wrap_model(Pooled(nn.Sequential(nn.ReLU(), *more)), input_size=SIZE)
        with profile() as recorded:
            cam_hub.list_layers(model)
        events = recorded.key_averages()
        return sum(event.count for event in events if event.key.startswith("aten::"))

    idle = [nn.Sequential(nn.Identity()) for _ in range(10)]
    busy = [nn.Sequential(nn.ReLU()) for _ in range(10)]
    assert operations(*idle) < operations() + 20 * 40  # two layers each
    assert operations(*busy) > operations(*idle) + 10 * 80


def test_it_takes_eleven_forward_passes_and_nothing_stays_on_the_model():
    module = Pooled(nn.Conv2d(12, 12, 1)).train()
    images = []
    model = with_output(cam_hub.wrap_model(module, input_size=SIZE))
    handle = module.register_forward_pre_hook(lambda _, args: images.append(len(args[0])))
    cam_hub.list_layers(model)
    cam_hub.suggest_layers(model, "stages")
    handle.remove()
    assert sum(images) == 11
    assert module.training
    assert module.embed.weight.requires_grad
    assert not any(child._forward_hooks for child in module.modules())


class TestModelsThatCannotBeExplained:
    def suggestion(self, module: nn.Module) -> str:
        with pytest.raises(NoMap) as caught:
            cam_hub.suggest_layers(cam_hub.wrap_model(module, input_size=SIZE))
        assert not any(child._forward_hooks for child in module.modules())
        return str(caught.value)

    def test_a_model_without_spatial_layers_is_refused_with_its_layers(self):
        module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
        assert "single cell" in self.suggestion(module)

    def test_a_score_that_depends_on_nothing_is_named_as_the_reason(self):
        class Constant(Pooled):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.after(self.embed(x)).mean((2, 3)) * 0

        assert "depend on none of the 2 layers" in self.suggestion(Constant(nn.Identity()))

    def test_a_gradient_that_is_cut_is_named_as_the_reason(self):
        class Cut(Pooled):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.after(self.embed(x)).mean((2, 3)).detach()

        assert "detach" in self.suggestion(Cut(nn.Identity()))

    def test_values_that_are_not_finite_are_named_as_the_reason(self):
        assert "not finite" in self.suggestion(
            nn.Sequential(Do(lambda x: x / 0 * 0), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1))
        )

    def test_a_model_that_raises_is_refused_with_its_own_words(self):
        def fail(x: torch.Tensor) -> torch.Tensor:
            raise KeyError("no such thing")

        model = cam_hub.wrap_model(Pooled(Do(fail)), input_size=SIZE)
        with pytest.raises(ModelRefused, match="no such thing"):
            cam_hub.list_layers(model)
        assert not any(child._forward_hooks for child in model.module.modules())


class TestTasksWithSeveralAnswers:
    def recommended(self, module: nn.Module, task: str) -> str:
        model = cam_hub.wrap_model(module, input_size=SIZE, task=task)
        return cam_hub.suggest_layers(model)[0]

    def test_a_segmenters_class_maps_are_its_answer_and_explain_nothing(self):
        class Segments(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.embed, self.act = nn.Conv2d(3, 8, 8, 8), nn.Sigmoid()
                self.classes = nn.Conv2d(8, 5, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.classes(self.act(self.embed(x)))

        assert self.recommended(Segments(), "segmentation") == "act"

    def test_a_detectors_layer_supports_boxes_of_all_levels(self):
        class Detects(nn.Module):
            """One box from a fine level and one from a coarse level, each of its own class."""

            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.trunk = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Sigmoid())
                self.fine, self.coarse = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 2, 2)

            def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
                trunk = self.trunk(torch.stack(images))
                levels = (self.fine(trunk).sigmoid(), self.coarse(trunk).sigmoid())
                scores = torch.stack([level.mean((1, 2, 3)) for level in levels], dim=1)
                boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [40.0, 0.0, 90.0, 60.0]])
                labels = torch.tensor([1, 2])
                return [{"boxes": boxes, "labels": labels, "scores": found} for found in scores]

        assert self.recommended(Detects(), "detection") == "trunk"
