"""Compiled, wrapped and checkpointed networks are explained as the plain ones."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import timm
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import cam_hub
from cam_hub.errors import ModelRefused
from cam_hub.hooks.frozen_eval import frozen_eval
from tests.fakes.module_state import state_of

SIZE = (3, 32, 32)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


def image() -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(1))


def explained(module: nn.Module, **asked: object) -> cam_hub.Explanation:
    model = cam_hub.wrap_model(module, input_size=SIZE)
    return cam_hub.explain(model, image(), method="gradcam", classes=1, **asked)


def bare(name: str) -> str:
    """A layer's name without those of wrappers."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


# Compiled


class Compiler:
    """A backend that counts compilations, and compiles nothing."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: object) -> object:
        self.count += 1
        return graph.forward


def outer(backend: Compiler) -> nn.Module:
    return torch.compile(plain(), backend=backend)  # type: ignore[return-value]


def in_place(backend: Compiler) -> nn.Module:
    module = plain()
    module.compile(backend=backend)
    return module


def inner(backend: Compiler) -> nn.Module:
    module = plain()
    module[0] = torch.compile(module[0], backend=backend)
    module[1].compile(backend=backend)
    return module


class Method(nn.Module):
    """A network with a compiled method."""

    def __init__(self, backend: Compiler) -> None:
        super().__init__()
        self.net = plain()
        self.features = torch.compile(self._features, backend=backend)

    def _features(self, x: Tensor) -> Tensor:
        return self.net[1](self.net[0](x))

    def forward(self, x: Tensor) -> Tensor:
        return self.net[4](self.net[3](self.net[2](self.features(x))))


@pytest.mark.parametrize("form", [outer, in_place, inner, Method])
def test_compiled_networks_are_explained_as_the_plain_one_and_never_compiled(form):
    torch.compiler.reset()
    backend = Compiler()
    module = form(backend)
    module(image()[None])
    compiled, before = backend.count, state_of(module)
    found, expected = explained(module), explained(plain())
    assert bare(found.layers[0]).removeprefix("net.") == expected.layers[0]
    assert np.allclose(found.cam(), expected.cam(), atol=1e-6)
    assert backend.count == compiled > 0
    assert state_of(module) == before
    module(image()[None])
    assert backend.count == compiled, "the user's compiled code is still there"


def test_every_layer_of_a_compiled_network_is_found():
    torch.compiler.reset()
    usable = {
        bare(layer.name)
        for layer in cam_hub.list_layers(cam_hub.wrap_model(outer(Compiler()), input_size=SIZE))
        if layer.usable
    }
    expected = cam_hub.list_layers(cam_hub.wrap_model(plain(), input_size=SIZE))
    assert usable == {layer.name for layer in expected if layer.usable}


def test_compiled_code_of_other_networks_runs_again_afterwards_also_after_a_failure():
    torch.compiler.reset()
    backend = Compiler()
    module = in_place(backend)
    with pytest.raises(ModelRefused):
        cam_hub.list_layers(cam_hub.wrap_model(module, input_size=(1, 8, 8), mean=[0.5], std=[0.5]))
    module(image()[None])
    assert backend.count == 1


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: nn.DataParallel(outer(Compiler()))])
def test_wrappers_are_looked_through(wrap):
    found, expected = explained(wrap(plain())), explained(plain())
    assert bare(found.layers[0].removeprefix("module.")) == expected.layers[0]
    assert np.allclose(found.cam(), expected.cam(), atol=1e-6)


# Refused


def scripted() -> object:
    return torch.jit.script(plain())


def traced() -> object:
    return torch.jit.trace(plain(), torch.zeros(1, *SIZE))


def frozen() -> object:
    return torch.jit.freeze(torch.jit.script(plain()))


def exported() -> object:
    return torch.export.export(plain(), (torch.zeros(1, *SIZE),))


def exported_module() -> object:
    return torch.export.export(plain(), (torch.zeros(1, *SIZE),)).module()


@pytest.mark.parametrize("form", [scripted, traced, frozen, exported, exported_module])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_has_no_layers_of_its_own_is_refused_with_what_to_pass_instead(form):
    with pytest.raises(ModelRefused, match="pass the Python module"):
        cam_hub.wrap_model(form(), input_size=SIZE)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("static", [False, True])
def test_quantised_networks_are_refused_with_what_to_pass_instead(static):
    quantization = pytest.importorskip("torch.ao.quantization")
    engine = torch.backends.quantized.engine
    if not static:
        module = quantization.quantize_dynamic(plain(), {nn.Linear})
    else:
        torch.backends.quantized.engine = "onednn"
        module = nn.Sequential(quantization.QuantStub(), plain(), quantization.DeQuantStub()).eval()
        module.qconfig = quantization.get_default_qconfig("onednn")
        module = quantization.prepare(module)
        module(image()[None])
        module = quantization.convert(module)
    try:
        with pytest.raises(ModelRefused, match="pass the floating-point module"):
            explained(module)
    finally:
        torch.backends.quantized.engine = engine


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_scripted_part_is_omitted_with_an_alternative():
    net = plain()
    module = nn.Sequential(net[0], torch.jit.script(net[1]), *net[2:])
    layers = {
        layer.name: layer
        for layer in cam_hub.list_layers(cam_hub.wrap_model(module, input_size=SIZE))
    }
    assert layers["0"].recommended
    assert "TorchScript" in layers["1"].reason
    named = cam_hub.explain(
        cam_hub.wrap_model(net, input_size=SIZE),
        image(),
        method="gradcam",
        classes=1,
        target_layers="0",
    )
    assert np.allclose(explained(module).cam(), named.cam(), atol=1e-6)


@pytest.fixture
def process_group(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    start = f"file://{tmp_path}/start"
    distributed.init_process_group("gloo", init_method=start, rank=0, world_size=1)
    yield distributed
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_network_with_flat_parameters_is_refused_with_what_to_pass_instead(process_group):
    sharding = pytest.importorskip("torch.distributed.fsdp")
    module = sharding.FullyShardedDataParallel(plain(), device_id=torch.device("cpu"))
    with pytest.raises(ModelRefused, match="pass the plain module"):
        cam_hub.wrap_model(module, input_size=SIZE)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_network_that_is_sharded_by_parameter_is_explained(process_group):
    sharding = pytest.importorskip("torch.distributed.fsdp")
    mesh = process_group.device_mesh.init_device_mesh("cpu", (1,))
    found = explained(sharding.fully_shard(plain(), mesh=mesh))
    assert np.allclose(found.cam(), explained(plain()).cam(), atol=1e-6)


def test_a_graph_that_calls_modules_is_explained():
    found = explained(torch.fx.symbolic_trace(plain()))
    assert np.allclose(found.cam(), explained(plain()).cam(), atol=1e-6)


# Gradient checkpointing


class Checkpointed(nn.Module):
    """A network whose stages are checkpointed."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = plain(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.net[:2]:
            x = checkpoint(stage, x, use_reentrant=self.reentrant)
        return self.net[2:](x)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", ["gradcam", "smoothgradcampp"])
def test_checkpointed_networks_are_explained_as_the_plain_one(reentrant, method):
    model = cam_hub.wrap_model(Checkpointed(reentrant=reentrant), input_size=SIZE)
    found = cam_hub.explain(model, image(), method=method, classes=1)
    wrapped = cam_hub.wrap_model(plain(), input_size=SIZE)
    expected = cam_hub.explain(wrapped, image(), method=method, classes=1)
    assert found.layers[0].removeprefix("net.") == expected.layers[0]
    assert np.allclose(found.cam(), expected.cam(), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet10t", "test_vit"])
def test_timms_own_switch_changes_nothing(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5).eval()
    size = tuple(net.pretrained_cfg["input_size"])
    x = torch.randn(size, generator=torch.Generator().manual_seed(1))
    expected = cam_hub.explain(cam_hub.wrap_model(net, input_size=size), x, method="layercam")
    net.set_grad_checkpointing(True)
    found = cam_hub.explain(cam_hub.wrap_model(net, input_size=size), x, method="layercam")
    assert found.layers == expected.layers
    assert np.allclose(found.cam(), expected.cam(), atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_other_threads_continue_checkpointing_meanwhile(reentrant):
    """Training in another thread while a network is explained: its stages still run twice."""
    runs = []

    def stage(x: Tensor) -> Tensor:
        runs.append(1)
        return x.square()

    def train() -> None:
        x = torch.ones(2, requires_grad=True)
        checkpoint(stage, x, use_reentrant=reentrant).sum().backward()

    parts = torch.utils.checkpoint.CheckpointFunction, torch.utils.checkpoint._checkpoint_hook
    with frozen_eval(plain()):
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
    assert len(runs) == 2
    assert parts == (
        torch.utils.checkpoint.CheckpointFunction,
        torch.utils.checkpoint._checkpoint_hook,
    )
