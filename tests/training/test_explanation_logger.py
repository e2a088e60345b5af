"""``ExplanationLogger``: explains while a network is trained, and changes nothing else."""

from __future__ import annotations

import copy
import logging
import pickle
import random
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cam_hub
from cam_hub import ExplanationLogger
from cam_hub.errors import ImageRefused, InvalidArgument, MethodNotFound
from tests.fakes.module_state import state_of
from tests.fakes.trained import SIDE, Collected, Net, pictures, wrap


def random_state() -> list[object]:
    """The states of all generators of the process, as comparable values."""
    kind, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), kind, keys.tolist(), rest]


def train(log_of: Any = None, steps: int = 20, wrapped: Any = None) -> dict[str, Any]:
    """Trains for some steps, with parts in other modes and states than the network's."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    net = Net()
    net.features[1].eval()  # frozen statistics
    net.features[0].bias.requires_grad_(False)
    called = net if wrapped is None else wrapped(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    log = None if log_of is None else log_of(called)
    states = []
    for step in range(steps):
        images = torch.randn(6, 3, SIDE, SIDE) * random.uniform(0.5, 1) + np.random.rand()
        loss = nn.functional.cross_entropy(called(images), torch.randint(3, (6,)))
        optimizer.zero_grad()
        loss.backward()
        if log is not None and step % 2:  # while gradients wait for the optimizer
            log.step(step)
        optimizer.step()
        if log is not None and not step % 2:
            log.step(step)
        modes = [child.training for child in net.modules()]
        flags = [weight.requires_grad for weight in net.parameters()]
        grads = [None if w.grad is None else w.grad.tolist() for w in net.parameters()]
        states.append((modes, flags, grads, net.calls, float(net.last)))
    values = {name: tensor.tolist() for name, tensor in net.state_dict().items()}
    return {
        "states": states,
        "values": values,
        "random": random_state(),
        "optimizer": str(optimizer.state_dict()),
        "hooks": state_of(net),
    }


@pytest.mark.parametrize("method", ["layercam", "smoothgradcampp", "rise"])
def test_the_training_is_the_same_bit_for_bit(method: str):
    seen = Collected()
    alone = train()
    logged = train(
        lambda net: ExplanationLogger(wrap(net), pictures(), to=seen, every=3, method=method)
    )
    assert {step for _, step in seen.images} == {0, 3, 6, 9, 12, 15, 18}
    assert {tag for tag, _ in seen.images} == {
        "explanations/square-0.png", "explanations/square-1.png",
    }  # fmt: skip
    for name, value in alone.items():
        assert logged[name] == value, name


def test_so_it_is_in_other_modes_and_wrappers():
    seen = Collected()

    def explained(net: nn.Module) -> Any:
        log = ExplanationLogger(wrap(net), pictures(), to=seen, every=5)
        with torch.inference_mode(), torch.autocast("cpu"):
            log.now(1000)
        with torch.no_grad():
            log.now(1001)
        return log

    alone = train(wrapped=nn.DataParallel)
    assert train(explained, wrapped=nn.DataParallel) == alone
    assert len(seen.images) == 2 * (2 + 4)


def test_a_compiled_network_is_explained_and_not_compiled_again():
    seen, compiled = Collected(), []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    def wrapped(net: nn.Module) -> nn.Module:
        torch._dynamo.reset()
        return torch.compile(net, backend=backend)

    def count(log_of: Any) -> int:
        compiled.clear()
        train(log_of, steps=4, wrapped=wrapped)
        return len(compiled)

    alone = count(None)
    assert count(lambda net: ExplanationLogger(wrap(net), pictures(), to=seen, every=1)) == alone
    assert {step for _, step in seen.images} == {0, 1, 2, 3}


def test_a_map_is_that_of_the_weights_at_its_step():
    net, seen = Net().eval(), Collected()
    log = ExplanationLogger(wrap(net), pictures(1), to=seen, every=1, classes=[0])
    kept = {}
    for step in range(3):
        log.step(step)
        fresh = wrap(copy.deepcopy(net))
        layer = cam_hub.suggest_layers(fresh)
        kept[step] = cam_hub.explain(
            fresh, pictures(1)["square-0.png"], method="layercam", classes=[0], target_layers=layer
        )
        with torch.no_grad():  # also through .data, of which no count is kept
            net.head.weight.data.add_(torch.randn_like(net.head.weight))
            net.features[4].weight.data.mul_(1.1)
    for step, expected in kept.items():
        found = seen.scalars["explanations/square-0.png/probability", step]
        assert found == pytest.approx(expected.manifest["classes"][0]["probability"], rel=1e-5)
        assert seen.images["explanations/square-0.png", step].mode == "RGB"
    assert len({round(value, 6) for (tag, _), value in seen.scalars.items() if "prob" in tag}) == 3


def test_numbers_are_of_each_class_if_there_are_several():
    seen = Collected()
    log = ExplanationLogger(wrap(Net()), pictures(1), to=seen, classes=["red", "blue"])
    assert log.step()
    tags = {tag for tag, _ in seen.scalars}
    assert {
        "explanations/square-0.png/probability/red", "explanations/square-0.png/probability/blue",
    } <= tags  # fmt: skip
    assert "explanations/mean_focus" in tags
    assert all(0 <= value <= 1 for value in seen.scalars.values())


def test_the_label_is_explained_where_asked_for():
    seen = Collected()
    (photo,) = pictures(1).values()
    images = [(label, photo, label) for label in ("red", "green", "blue")]
    log = ExplanationLogger(wrap(Net()), images, to=seen, classes=cam_hub.expected)
    assert log.step()
    values = [seen.scalars[f"explanations/{label}/probability", 0] for label, *_ in images]
    assert sum(values) == pytest.approx(1, abs=1e-5), "each is that of the image's own label"


@pytest.mark.parametrize(
    ("steps", "logged"),
    [
        (range(7), [0, 3, 6]),
        ([None] * 7, [0, 3, 6]),
        ([250, 251, 252, 253, 254, 255], [250, 252, 255]),  # resumed
        ([0, 2, 4, 6, 8], [0, 4, 6]),  # two optimizers
        ([0, 0, 1, 1, 3, 3, 3, 4], [0, 3]),  # gradients accumulate
        ([0, 1, 3, 0, 1], [0, 3, 0]),  # another training
        (torch.arange(4), [0, 3]),
    ],
)
def test_when_it_logs(steps: Any, logged: list[int]):
    found: list[int] = []
    log = ExplanationLogger(
        wrap(Net()), pictures(1), every=3, to=lambda tag, value, step: found.append(step)
    )
    for step in steps:
        log.step(step)
    changes = [found[0], *(b for a, b in pairwise(found) if a != b)]
    assert changes == logged


class TestTrouble:
    """What goes wrong during training is a warning."""

    def warned(self, caplog: pytest.LogCaptureFixture, log: ExplanationLogger, step: int) -> str:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "cam_hub"):
            log.now(step)
        return "\n".join(record.getMessage() for record in caplog.records)

    def test_weights_that_are_not_numbers_and_recover(self, caplog):
        net, seen = Net(), Collected()
        log = ExplanationLogger(wrap(net), pictures(), to=seen)
        weights = net.features[4].weight.detach().clone()
        net.features[4].weight.data.fill_(float("nan"))
        assert "2 of 2 images were not logged" in self.warned(caplog, log, 0)
        assert not seen.images
        net.features[4].weight.data.copy_(weights)
        assert self.warned(caplog, log, 1) == ""
        assert len(seen.images) == 2

    def test_a_head_of_zeros_that_is_trained_later(self, caplog):
        net, seen = Net(), Collected()
        nn.init.zeros_(net.head.weight)
        log = ExplanationLogger(wrap(net), pictures(), to=seen)
        assert self.warned(caplog, log, 0)
        nn.init.normal_(net.head.weight)
        assert self.warned(caplog, log, 1) == ""
        assert len(seen.images) == 2

    def test_a_layer_that_disappears(self, caplog):
        net, seen = Net(), Collected()
        named = ExplanationLogger(wrap(net), pictures(), to=seen, target_layers="features.4")
        free = ExplanationLogger(wrap(net), pictures(), to=Collected())
        assert named.now(0)
        assert free.now(0)
        net.features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        assert "features.4" in self.warned(caplog, named, 1)
        assert self.warned(caplog, free, 1) == ""
        assert len(seen.images) == 2

    def test_a_forward_pass_that_fails(self, caplog):
        net, seen = Net(), Collected()
        log = ExplanationLogger(wrap(net), pictures(), to=seen)
        before = state_of(net)
        buffers = [id(value) for value in net.buffers()]
        net.head = nn.Linear(7, 3)
        assert self.warned(caplog, log, 0)
        net.head = nn.Linear(16, 3)
        assert state_of(net) == before
        assert [id(value) for value in net.buffers()] == buffers
        assert self.warned(caplog, log, 1) == ""

    def test_a_sink_that_fails_does_not_keep_others_from_theirs(self, caplog):
        def full(tag: str, value: object, step: int) -> None:
            raise OSError(28, "No space left on device")

        seen = Collected()
        log = ExplanationLogger(wrap(Net()), pictures(), to=[full, seen])
        assert "No space left" in self.warned(caplog, log, 0)
        assert len(seen.images) == 2

    def test_sharded_weights_are_not_touched(self, caplog):
        net, seen = Net(), Collected()
        log = ExplanationLogger(wrap(net), pictures(), to=seen)
        net.head.weight.ds_id = 1  # as DeepSpeed marks them
        assert "sharded over processes" in self.warned(caplog, log, 0)
        assert not seen.images


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"every": 0}, InvalidArgument),
        ({"unit": "batch"}, InvalidArgument),
        ({"to": 3}, InvalidArgument),
        ({"to": np}, InvalidArgument),
        ({"to": []}, InvalidArgument),
        ({"to": int}, InvalidArgument),
        ({"tag": ""}, InvalidArgument),
        ({"method": "gradcamm"}, MethodNotFound),
        ({"model": "resnet50"}, InvalidArgument),
        ({"images": []}, InvalidArgument),
        ({"images": ["missing.png"]}, ImageRefused),
        ({"images": [b"no image"]}, ImageRefused),
        ({"images": torch.zeros(2, 5, 8, 8)}, ImageRefused),
        ({"images": (torch.zeros(3, 8, 8) for _ in iter(int, 1))}, InvalidArgument),
        ({"std": -1}, InvalidArgument),
        ({"region": (0, 0, 1, 1)}, TypeError),
        ({"target_layer": "x"}, TypeError),
    ],
)
def test_what_can_never_work_is_refused_at_once(change: dict[str, Any], error: type[Exception]):
    given: dict[str, Any] = {"model": wrap(Net()), "images": pictures(), "to": Collected()}
    with pytest.raises(error):
        ExplanationLogger(**(given | change))


def test_a_loop_of_ones_own_needs_a_model_and_a_sink():
    with pytest.raises(InvalidArgument, match="model"):
        ExplanationLogger(None, pictures(), to=Collected()).step()
    with pytest.raises(InvalidArgument, match="to="):
        ExplanationLogger(wrap(Net()), pictures()).step()


def test_images_are_read_once_and_random_numbers_stay(tmp_path):
    for name, image in pictures().items():
        image.save(tmp_path / name)

    class Augmented(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Tensor:
            if index > 1:
                raise IndexError
            return torch.randn(3, SIDE, SIDE) + random.random()

    before = random_state()
    for images in (Augmented(), torch.utils.data.DataLoader(Augmented(), shuffle=True)):
        for model in (wrap(Net().eval()), None):
            torch.set_rng_state(torch.tensor(before[0], dtype=torch.uint8))
            ExplanationLogger(model, images, to=Collected())
            assert random_state() == before
    seen = Collected()
    log = ExplanationLogger(wrap(Net()), tmp_path, to=seen)
    for path in tmp_path.iterdir():
        path.unlink()
    assert log.step()
    assert len(seen.images) == 2


def test_file_names_are_tags_and_repeat_with_a_number(tmp_path):
    seen = Collected()
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "a photo.png")
        pictures(1)["square-0.png"].save(paths[-1])
    ExplanationLogger(wrap(Net()), paths[:1], to=seen, tag="maps/validation").step(0)
    ExplanationLogger(wrap(Net()), tmp_path, to=seen).step(2)
    ExplanationLogger(wrap(Net()), [paths[0], paths[0]], to=seen).step(1)
    assert {tag for tag, step in seen.images if step == 0} == {"maps/validation/a_photo.png"}
    assert {tag for tag, step in seen.images if step == 2} == {
        "explanations/a/a_photo.png", "explanations/b/a_photo.png",
    }  # fmt: skip
    first, second = sorted(tag for tag, step in seen.images if step == 1)
    assert second == f"{first}-2"


def test_it_can_be_pickled_along_with_its_network():
    log = pickle.loads(pickle.dumps(ExplanationLogger(wrap(Net()), pictures(), to=Collected())))
    assert log.step()


def test_nothing_of_the_kind_is_imported():
    code = (
        "import cam_hub, sys; cam_hub.explain_many; cam_hub.wrap_model; before = set(sys.modules);"
        "cam_hub.ExplanationLogger; from cam_hub.training import callbacks;"
        "print({name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'cam_hub'}"


def train_in_parallel(rank: int, folder: str, explained: bool) -> None:
    """One of two processes of a distributed training."""
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting-{explained}", rank=rank, world_size=2
    )
    torch.manual_seed(3)
    net = nn.parallel.DistributedDataParallel(Net())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    log = ExplanationLogger(wrap(net), pictures(), to=f"{folder}/rank-{rank}", every=2)
    torch.manual_seed(rank)
    for step in range(4):
        optimizer.zero_grad()
        net(torch.randn(4, 3, SIDE, SIDE)).square().mean().backward()
        optimizer.step()
        if explained:
            assert log.step(step) == (rank == 0 and step % 2 == 0)
    if rank == 0:
        torch.save(net.state_dict(), f"{folder}/weights-{explained}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_in_a_distributed_training_the_first_process_explains(tmp_path):
    for explained in (False, True):
        torch.multiprocessing.spawn(train_in_parallel, (str(tmp_path), explained), nprocs=2)
    alone, logged = (torch.load(tmp_path / f"weights-{each}.pt") for each in (False, True))
    assert all(torch.equal(logged[name], value) for name, value in alone.items())
    assert len(list(tmp_path.rglob("step-*.png"))) == 4
    assert not (tmp_path / "rank-1").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_numbers_of_the_gpu_stay():
    def run(explained: bool) -> list[Tensor]:
        torch.manual_seed(3)
        net = Net().cuda()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        log = ExplanationLogger(wrap(net), pictures(), to=Collected(), every=1)
        for step in range(4):
            optimizer.zero_grad()
            net(torch.randn(4, 3, SIDE, SIDE, device="cuda")).square().mean().backward()
            optimizer.step()
            assert not explained or log.step(step)
        return [*net.state_dict().values(), torch.cuda.get_rng_state()]

    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        assert all(map(torch.equal, run(False), run(True)))


def test_an_interrupt_is_not_held_up_and_leaves_all_as_it_was():
    net = Net()
    log = ExplanationLogger(wrap(net), pictures(), to=Collected(), every=1)
    log.step()
    before, buffers = state_of(net), [id(value) for value in net.buffers()]
    calls, numbers = net.calls, random_state()

    class Interrupting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    net.dropout = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        log.step()
    net.dropout = nn.Dropout(0.3)
    assert state_of(net) == before
    assert [id(value) for value in net.buffers()] == buffers
    assert (net.calls, random_state()) == (calls, numbers)


def test_a_model_loaded_by_its_id_is_trained_as_its_weights_lie_in_memory():
    """Explaining it would otherwise store them channels last, which rounds differently."""
    model = cam_hub.load_model("timm/test_resnet", pretrained=False)
    strides = [weight.stride() for weight in model.module.parameters()]
    log = ExplanationLogger(model, pictures(), to=Collected())
    assert log.step()
    assert [weight.stride() for weight in model.module.parameters()] == strides
