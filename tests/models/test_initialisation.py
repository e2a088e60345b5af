"""Networks that are built without initialising their weights, and when this is not possible."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from cam_hub.models.initialisation import build_without_initialisation
from tests.fakes.checkpoints import by_timm, everything, save


def build_with(cls: type[nn.Module], state: dict[str, torch.Tensor], **options) -> nn.Module:
    module = cls()
    module.load_state_dict(state, **options)
    return module


def both(cls: type[nn.Module], state: dict[str, torch.Tensor], **options):
    """The network built without initialisation and normally, and the number of builds."""
    builds = []

    def build() -> nn.Module:
        builds.append(cls)
        return build_with(cls, {name: each.clone() for name, each in state.items()}, **options)

    torch.manual_seed(1)
    ours = build_without_initialisation(build)
    torch.manual_seed(1)
    theirs = build_with(cls, state, **options)
    one, other = everything(ours), everything(theirs)
    assert all(torch.equal(one[name], other[name]) for name in other)
    return ours, theirs, len(builds)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)


class LooksAtItsWeights(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.spread = float(self.first.weight.detach().std())


class KeepsWhatItComputed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("norms", self.first.weight.detach().norm(dim=1), persistent=False)


class HidesWhatItComputed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.plain = 2 * self.first.weight.data


class KeepsStatistics(Plain):
    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(3)
        norm(self.first(torch.ones(2, 4)))
        self.register_buffer("seen", norm.running_mean.clone(), persistent=False)


class WritesThroughViews(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.first.weight.data[:2].fill_(5)
        with torch.no_grad():
            self.first.bias[0] = 7
            self.last.weight.view(-1).mul_(3)
            self.last.bias += 1
        self.register_buffer("index", torch.arange(4).view(2, 2).fill_(3), persistent=False)


class Ties(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.twin = nn.Linear(4, 3)
        self.twin.weight = self.first.weight


class SharesMemory(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.view = nn.Parameter(self.first.weight.data.view(-1))


class KeepsAnotherName(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.alias = self.first.weight.data


def state_of(cls: type[nn.Module]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn_like(each) for name, each in cls().state_dict().items()}


@pytest.mark.parametrize("cls", [Plain, WritesThroughViews, Ties])
def test_what_the_checkpoint_overwrites_is_left_out(cls):
    _, _, builds = both(cls, state_of(cls))
    assert builds == 1


@pytest.mark.parametrize(
    "cls", [LooksAtItsWeights, KeepsWhatItComputed, HidesWhatItComputed, KeepsStatistics]
)
def test_a_constructor_that_needs_its_weights_has_them(cls):
    ours, theirs, builds = both(cls, state_of(cls))
    assert builds == 2
    for name in ("spread", "plain"):
        if hasattr(theirs, name):
            assert torch.equal(*(torch.as_tensor(getattr(each, name)) for each in (ours, theirs)))


def test_weights_that_the_checkpoint_lacks_are_drawn_as_ever():
    state = state_of(Plain)
    del state["last.weight"]
    ours, _, builds = both(Plain, state, strict=False)
    assert builds == 2
    assert bool(ours.last.weight.any())


@pytest.mark.parametrize(("cls", "name"), [(SharesMemory, "view"), (KeepsAnotherName, "alias")])
def test_tensors_that_share_memory_with_a_weight_continue_to_share_it(cls, name):
    ours, _, _ = both(cls, state_of(cls))
    with torch.no_grad():
        ours.first.weight.fill_(9)
    assert bool((getattr(ours, name) == 9).all())


def test_a_tensor_that_the_checkpoint_holds_twice_becomes_two_weights():
    one = torch.randn(3, 3)

    def build() -> nn.Module:
        module = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
        module.load_state_dict({"0.weight": one, "1.weight": one})
        return module

    module = build_without_initialisation(build)
    with torch.no_grad():
        module[0].weight.zero_()
    assert bool(module[1].weight.any())


def test_what_a_constructor_copies_from_stays_its_own():
    class Copies(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("start", torch.ones(3, 4), persistent=False)
            with torch.no_grad():
                self.first.weight.copy_(self.start)
            self.first.weight.requires_grad_(False)

    state = state_of(Copies)
    del state["first.weight"]
    ours, _, builds = both(Copies, state, strict=False)
    assert builds == 1
    ours.first.weight.zero_()
    assert bool(ours.start.all())


def test_weights_of_another_precision_are_converted():
    state = {name: each.half() for name, each in state_of(Plain).items()}
    ours, _, builds = both(Plain, state)
    assert ours.first.weight.dtype == torch.float32
    assert builds == 1


def test_nothing_is_drawn(tmp_path):
    save(timm.create_model("test_resnet"), tmp_path)
    before = torch.get_rng_state()
    build_without_initialisation(lambda: by_timm(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_class_count_draws_the_classifier_as_timm_does(tmp_path):
    save(timm.create_model("test_resnet"), tmp_path)
    build = lambda: timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7)  # noqa: E731
    torch.manual_seed(2)
    ours = everything(build_without_initialisation(build))
    torch.manual_seed(2)
    theirs = everything(build())
    assert ours["fc.weight"].shape[0] == 7
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_every_error_is_reported_and_leaves_nothing_behind():
    with pytest.raises(RuntimeError, match="size mismatch"):
        build_without_initialisation(
            lambda: build_with(Plain, {**state_of(Plain), "last.bias": torch.zeros(9)})
        )
    torch.manual_seed(0)
    assert bool(nn.Linear(8, 8).weight.any())


def test_other_threads_initialise_as_ever():
    inside, done = threading.Event(), threading.Event()
    drawn = []

    def other() -> None:
        inside.wait(10)
        drawn.append(nn.Linear(64, 64).weight.detach())
        done.set()

    thread = threading.Thread(target=other)
    thread.start()

    def build() -> nn.Module:
        inside.set()
        assert done.wait(10)
        return build_with(Plain, state_of(Plain))

    build_without_initialisation(build)
    thread.join()
    # Drawn from -1/8 to 1/8.
    assert float(drawn[0].std()) == pytest.approx(0.125 / 3**0.5, rel=0.1)


class TestMappedFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        torch.manual_seed(0)
        save(timm.create_model("test_vit"), tmp_path)
        return tmp_path

    def test_training_does_not_change_the_file(self, folder):
        before = (folder / "model.safetensors").read_bytes()
        module = build_without_initialisation(lambda: by_timm(folder)).train()
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        module(torch.randn(1, 3, 160, 160)).sum().backward()
        first = module.patch_embed.proj.weight.detach().clone()
        optimizer.step()
        assert not torch.equal(module.patch_embed.proj.weight, first)
        assert (folder / "model.safetensors").read_bytes() == before

    def test_the_file_may_be_deleted(self, folder):
        expected = everything(by_timm(folder))
        module = build_without_initialisation(lambda: by_timm(folder))
        (folder / "model.safetensors").unlink()
        assert all(torch.equal(each, expected[name]) for name, each in everything(module).items())

    def test_with_memory_of_its_own_the_file_may_be_overwritten(self, folder):
        expected = everything(by_timm(folder))
        module = build_without_initialisation(lambda: by_timm(folder), own_memory=True)
        with (folder / "model.safetensors").open("r+b") as file:
            file.truncate(0)
        assert all(torch.equal(each, expected[name]) for name, each in everything(module).items())

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what is mapped")
    def test_no_weight_is_copied(self, folder):
        module = build_without_initialisation(lambda: by_timm(folder))
        maps = Path("/proc/self/maps").read_text("utf-8").splitlines()
        mapped = [line.split()[0] for line in maps if str(folder) in line]
        spans = [tuple(int(end, 16) for end in line.split("-")) for line in mapped]
        starts = [weight.data_ptr() for weight in module.parameters()]
        assert all(any(low <= start < high for low, high in spans) for start in starts)
