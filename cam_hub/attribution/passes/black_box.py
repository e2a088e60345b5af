"""Maps of methods that make passes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from cam_hub._text import first_line
from cam_hub.attribution.passes.forward import Accumulator, JobState, anatomy
from cam_hub.attribution.passes.job import Job, Key, Map, Pass, rows_of
from cam_hub.attribution.passes.runner import TOO_LARGE, BatchLimit
from cam_hub.errors import CamHubError, ModelRefused, NoMap, OutOfMemory
from cam_hub.hooks.attention import AttentionRecorder
from cam_hub.hooks.frozen_eval import frozen_eval, unwrapped, usable_copy
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.hooks.recording import Taps, observe
from cam_hub.layers.attention import read_tokens, token_map, used_rows
from cam_hub.layers.layouts import FULL, LayerInfo, batch_axes, on_input, to_maps
from cam_hub.layers.listing import list_layers
from cam_hub.methods import BlackBox, Method
from cam_hub.methods.evidence import Attention, as_float
from cam_hub.models.loaded_model import EXECUTION, LoadedModel

__all__ = ["run_black_box"]


def run_black_box(job: Job) -> Pass:
    """The maps of a job whose methods make passes of their own; one after the other.

    Args:
        job: What to find out.

    Raises:
        CamHubError: As ``run``.
    """
    network = _Network(job)
    with frozen_eval(job.model.module, anatomy(job.model)):
        (network.clean,) = network.in_batches(job.image, network.pass_images)
        maps: dict[Key, Map] = {}
        total = len(job.methods) * len(job.layers)
        for method in job.methods:
            for name, layer in job.layers.items():
                network.share = len(maps) // len(network.classes) / total, 1 / total
                for index, cam in zip(network.classes, network.maps(method, layer), strict=True):
                    maps[method.key, index, name] = cam
    return replace(network.state.result(), maps=maps, images=network.images)


@dataclass(eq=False)
class _Network:
    """The network and the target of a job, as the functions of a ``BlackBox``.

    Attributes:
        job: The job.
        share: Where the current map begins and how long it takes, as parts of the work.
        stopped: Whether the caller's progress has stopped the work.
        images: How many images have passed.
        clean: All scores of the explained image, ``(1, K)``, whose pass resolves the classes.
    """

    job: Job
    share: tuple[float, float] = (0.0, 1.0)
    stopped: bool = False
    images: int = 0
    clean: Tensor | None = None
    room: BatchLimit = field(init=False)
    state: JobState = field(init=False)

    def __post_init__(self) -> None:
        alone = self.job.model.execution.one_by_one
        self.room = BatchLimit(1 if alone else max(1, self.job.batch_size))
        self.state = JobState(self.job, Accumulator((), 0), self.job.aim())

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that are explained."""
        return tuple(self.state.settled.classes)

    def maps(self, method: Method, layer: LayerInfo) -> list[Map]:
        """A method's map for each class.

        Raises:
            CamHubError: If the method has none, or a map is not finite.
        """
        if method.attribute is None:
            raise AssertionError("maps of one pass's evidence are made elsewhere")
        box = BlackBox(
            self.job.image,
            self.score,
            len(self.classes),
            network=self.module,
            stand=_Stand,
            noisy=self.noisy if method.needs_noise else None,
            attention=self.attention,
            seed=self.job.seed,
            batch_size=self.room.images,
            report=self.report,
        )
        name = None
        if method.level == "layer":
            name = layer.name
            box = replace(
                box,
                activations=lambda images: self.activations(layer, images),
                gradients=lambda images: self.gradients(layer, images),
                layer=layer.name,
                prefix_tokens=layer.prefix_tokens,
                grid=layer.grid or (0, 0),
                channels=layer.channels or 0,
            )
        try:
            with torch.no_grad():
                found = method.attribute(box).detach()
        except CamHubError:
            raise
        except Exception as error:  # whatever code of other packages raises
            if self.stopped:
                raise
            if not is_out_of_memory(error):
                needs = f" (it needs {method.needs})" if method.needs else ""
                reason = f"{method.title} failed on this network: {first_line(error)}{needs}"
                raise NoMap(reason, layer=name) from error
            if self.room.images == 1:
                raise OutOfMemory(self.job.model.id, TOO_LARGE) from error
            self.room.halve(self.job.model)
            return self.maps(method, layer)
        self.report(1.0)
        maps = found.to(torch.float32).cpu().numpy()
        if not np.isfinite(maps).all():
            raise NoMap("its map holds values that are not finite (NaN or infinity)", layer=name)
        if method.level == "layer" and maps.ndim == 4:
            maps = maps.reshape(len(maps), -1, maps.shape[-1])  # as maps of gradients are
        return list(maps)

    def report(self, part: float) -> None:
        """Reports the part of the current map that is done."""
        if self.job.progress is None:
            return
        start, length = self.share
        done = start + length * min(max(part, 0.0), 1.0)
        try:
            self.job.progress(done, f"{done:.0%} of the passes")
        except BaseException:
            self.stopped = True
            raise

    def score(self, images: Tensor) -> Tensor:
        """``(N, B)`` scores of the classes, less the contrast, on the input's device."""
        if images is self.job.image and self.clean is not None:
            return self.choose(self.clean)
        return self.choose(torch.cat(self.in_batches(images, self.pass_images)))

    def choose(self, scores: Tensor) -> Tensor:
        """``(N, B)`` of all scores ``(N, K)``."""
        chosen = scores[:, list(self.classes)]
        for other, weight in self.state.settled.contrast or ():
            chosen = chosen - weight * scores[:, [other]]
        return chosen

    @torch.no_grad()
    def pass_images(self, images: Tensor) -> Tensor:
        """``(N, K)`` scores of one batch."""
        return self.run(self.job.model, images)

    def run(self, model: LoadedModel, images: Tensor) -> Tensor:
        """``(N, K)`` scores of one batch, with a graph where torch's mode has one."""
        setting = self.job.setting
        autocast = setting.autocast and torch.autocast(images.device.type, setting.autocast)
        with autocast or nullcontext():
            laid = images.contiguous(memory_format=setting.memory_format)
            scores = self.state.score(model.run(laid), len(images))
        self.images += len(images)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def module(self, expected: int) -> _Scoring:
        """The network as a module of its own, whose copy shares the weights.

        Args:
            expected: How many images will pass, for the progress.

        Raises:
            ModelRefused: If the network cannot be copied.
        """
        model = self.job.model
        copy = usable_copy(unwrapped(model.module))
        if copy is None:
            reason = "the method puts hooks on a copy of the network, and it cannot be copied."
            raise ModelRefused(model.id, reason)
        for part in copy.modules():
            if getattr(part, "inplace", None) is True:  # which backward hooks do not allow
                part.inplace = False  # type: ignore[assignment]

        facts = {EXECUTION: model.execution}

        def run(module: nn.Module, images: Tensor) -> Tensor:
            copied = replace(model, module=module, facts=facts)
            size = 1 if model.execution.one_by_one else len(images)
            return torch.cat([self.run(copied, batch) for batch in torch.split(images, size)])

        classes = 0 if self.clean is None else self.clean.shape[1]
        return _Scoring(copy, run, self.choose, self.report, expected, classes)

    def noisy(self) -> Iterator[Tensor]:
        """The noisy copies of the explained image."""
        for image, drawn in rows_of(self.job):
            if drawn is not None:
                yield image + drawn

    def activations(self, layer: LayerInfo, images: Tensor) -> Tensor:
        """``(N, channels, *grid)`` activations of a layer."""

        @torch.no_grad()
        def record(batch: Tensor) -> Tensor:
            with self._recording(layer) as taps:
                self.pass_images(batch)
            return self._laid_out(layer, self._recorded(layer, taps))

        return torch.cat(self.in_batches(images, record))

    def gradients(self, layer: LayerInfo, images: Tensor) -> Tensor:
        """``(N, scores, channels, *grid)`` gradients of the scores at a layer."""

        @torch.enable_grad()
        def differentiate(batch: Tensor) -> Tensor:
            with self._recording(layer) as taps:
                scores = self.choose(self.run(self.job.model, batch))
            recorded = self._recorded(layer, taps)
            found = [torch.zeros_like(recorded)] * scores.shape[1]
            for index in range(scores.shape[1]):

                def visit(_: str, gradient: Tensor, index: int = index) -> None:
                    found[index] = gradient

                taps.visit_gradients(scores[:, index].sum(), visit)
            return torch.stack([self._laid_out(layer, each) for each in found], dim=1)

        return torch.cat(self.in_batches(images, differentiate))

    @contextmanager
    def _recording(self, layer: LayerInfo) -> Iterator[Taps]:
        """Passes within this context are recorded at a layer; every record is a copy."""
        layers = {layer.name: layer}
        chosen = {layer.name: layer.call} if layer.calls > 1 else {}
        taps = Taps(None, None, **batch_axes(layers), chosen=chosen)
        with observe(self.job.model.module, taps.record, layers):
            yield taps

    def _recorded(self, layer: LayerInfo, taps: Taps) -> Tensor:
        if layer.name not in taps.activations:
            raise NoMap("it did not run, or returned no floating-point tensor", layer=layer.name)
        return taps.activations[layer.name]

    def _laid_out(self, layer: LayerInfo, tensor: Tensor) -> Tensor:
        """What a layer returned, as ``(N, channels, *grid)`` of at least single precision."""
        if layer.arrangement is None:
            raise AssertionError("target layers lie on the image")
        maps = to_maps(as_float(tensor), layer.arrangement)
        if self.job.image.ndim == 5 or layer.frames > 1:
            return maps.reshape(*maps.shape[:2], layer.frames, -1, maps.shape[-1])
        return maps

    @torch.enable_grad()
    def attention(self, gradients: bool) -> Attention:
        """The attention of the explained image.

        Args:
            gradients: Whether those of the scores are wanted.

        Raises:
            ModelRefused: If it cannot be read as matrices over the same tokens in every layer.
        """
        model, image = self.job.model, self.job.image
        probed = image.detach().clone().requires_grad_()
        with AttentionRecorder(identity=True) as recorder:
            self.run(model, probed)
        infos = list_layers(model, input_size=tuple(image.shape[1:]))
        layer = read_tokens(model.id, infos, recorder, probed)
        last = len(recorder.layers) - 1
        del recorder
        self.report(0.5)
        with AttentionRecorder(0 if gradients else last) as recorder:
            scores = self.choose(self.run(model, image))
        found = [each.matrix for each in recorder.layers]
        wanted = found if gradients else found[last:]
        by_score: list[tuple[Tensor, ...]] = []
        for index in range(scores.shape[1]):
            zeros = [torch.zeros_like(matrix) for matrix in wanted]
            each: Sequence[Tensor | None] = [None] * len(wanted)
            if scores.requires_grad:
                score = scores[:, index].sum()
                each = torch.autograd.grad(score, wanted, retain_graph=True, allow_unused=True)
            by_score.append(
                tuple(zero if one is None else one for one, zero in zip(each, zeros, strict=True))
            )
        stacked = [torch.stack(each) for each in zip(*by_score, strict=True)]
        tokens = found[0].shape[-1]
        flat = [gradient.reshape(len(gradient), -1, tokens, tokens) for gradient in stacked]
        return Attention(
            [matrix.detach().reshape(-1, tokens, tokens) for matrix in found],
            flat if gradients else [],
            used_rows(as_float(flat[-1])),
            lambda values: self._on_image(values, layer),
        )

    def _on_image(self, values: Tensor, layer: LayerInfo) -> Tensor:
        """Numbers of a layer's tokens ``(B, tokens)`` as maps over the whole input."""
        maps = token_map(values, layer)
        if layer.extent == FULL:
            return maps
        return torch.from_numpy(on_input(maps.cpu().numpy(), layer.extent)).to(maps)

    def in_batches(self, images: Tensor, work: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The results for batches of images, which are halved where memory does not suffice."""
        return self.room.fit(
            self.job.model, lambda size: [work(batch) for batch in torch.split(images, size)]
        )


class _Scoring(nn.Module):
    """A network as a module from inputs ``(N, C, *sides)`` to scores ``(N, B)``, with a graph.

    Its only child is a copy of the network that shares its weights. Code of other packages may put
    hooks on the copy: other threads, and the network's owner, do not see them.

    Args:
        network: The copy.
        run: From the copy and inputs to the scores of all classes, ``(N, K)``.
        choose: From these to the explained ones, ``(N, B)``.
        report: Reports the part of the images that have passed.
        expected: How many will pass.
        classes: K.
    """

    def __init__(
        self,
        network: nn.Module,
        run: Callable[[nn.Module, Tensor], Tensor],
        choose: Callable[[Tensor], Tensor],
        report: Callable[[float], object],
        expected: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.network = network
        self.transforms = [choose]
        self._run, self._report = run, report
        self._expected, self._passed = max(1, expected), 0

    def choose(self, scores: Tensor) -> Tensor:
        """The explained scores ``(N, B)`` out of those of all classes ``(N, K)``."""
        for transform in self.transforms:
            scores = transform(scores)
        return scores

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``(N, B)``."""
        self._report(self._passed / self._expected)
        self._passed += len(images)
        return self.choose(self._run(self.network, images))


class _Stand(nn.Module):
    """A small network that stands in for the user's; it has its scores, and one layer.

    Args:
        box: The network.
        activations: What the part ``layer`` returns, once.
        expected: How many images will pass, for the progress.
    """

    def __init__(self, box: BlackBox, activations: Tensor, expected: int) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.fc: nn.Module = nn.Identity()
        self._box = box
        self._activations: Tensor | None = activations
        self._expected, self._passed = max(1, expected), 0

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``(N, B)``."""
        if self._activations is not None:
            self.layer(self._activations)
            self._activations = None
        image = self._box.image
        if images.shape == image.shape and torch.equal(images, image):
            return self._box.score(image)  # which has passed before
        self._box.report(self._passed / self._expected)
        self._passed += len(images)
        return self._box.score(images)
