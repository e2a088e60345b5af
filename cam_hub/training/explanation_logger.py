"""``ExplanationLogger``: logs how explanations change while a network is being trained."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cam_hub._text import first_line
from cam_hub._validation import check_whole, check_word, with_hints
from cam_hub.attribution.choice import AUTO, method_name
from cam_hub.attribution.explain_many import Outcome, explain_many
from cam_hub.attribution.preparation import prepare
from cam_hub.attribution.request import ExplainArguments, ExplainOptions, takes_arguments
from cam_hub.attribution.samples import Sample, open_samples
from cam_hub.errors import CamHubError, InvalidArgument, ModelRefused, NoMap
from cam_hub.faithfulness import focus
from cam_hub.hooks.execution import changed_numbers, watch
from cam_hub.hooks.frozen_eval import ModuleTree, unwrapped
from cam_hub.hooks.modes import default_modes
from cam_hub.images.decoding import local_path
from cam_hub.models.loaded_model import EXECUTION, LoadedModel, with_output
from cam_hub.results.explanation import Explanation
from cam_hub.results.montage import MAX_TILE_WIDTH, montage
from cam_hub.sources.wrapping import wrap_model
from cam_hub.training.sinks import Sink, clean_tag, open_sink

if TYPE_CHECKING:
    from cam_hub.training.callbacks import LightningHooks, TransformersHooks

__all__ = ["ExplanationLogger"]

_LOG = logging.getLogger("cam_hub")

_MAX_IMAGES = 256
"""A fixed set to look at, not a dataset: these images stay in memory."""


class ExplanationLogger:
    """Logs explanations of the same images every n steps while a network is being trained.

    In a loop of your own:

        log = ExplanationLogger(network, "photos", to=SummaryWriter(), every=100)
        for step, (images, labels) in enumerate(loader):
            ...  # forward, backward, optimizer.step()
            log.step(step)

    For Lightning and ``transformers.Trainer``, ``log.for_lightning()`` and
    ``log.for_transformers()`` are callbacks.

    Each image is one picture, its map drawn over it, and the numbers ``focus`` (see
    ``cam_hub.evidence``) and ``probability`` of the explained class. The training goes on as it
    would without: modes, gradients, ``requires_grad``, buffers, random numbers and the optimizer
    are as before. What goes wrong during training (no map, weights that are not numbers, a full
    disk) is a warning of the logger ``cam_hub``.

    Args:
        model: The network that is trained, or a model from ``wrap_model`` or ``load_model`` whose
            ``module`` is trained. None for the one that a callback is given.
        images: At most 256 images, as for ``explain_many``; read now, once. Their keys are the
            tags.
        to: A ``SummaryWriter``, a run of W&B or the module ``wandb``, the module ``mlflow``, a run
            of MLflow or ``(client, run_id)``, the module ``trackio`` or a run of it, a logger of
            Lightning, a folder for PNG files and ``scalars.csv``, an object with ``log_image(tag,
            image, step)`` and ``log_scalar(tag, value, step)``, a function of ``(tag, value,
            step)`` (an image or a float), or a list of these. None, for callbacks only: where the
            trainer itself logs to.
        every: Number of steps, or of epochs, from one time to the next.
        unit: ``"step"`` or ``"epoch"``: what callbacks count. In a loop of your own it is whatever
            ``step`` is called with.
        method: A method of ``explain``. With ``"auto"`` method and layer may change from one time
            to the next.
        tag: What all tags begin with.
        tile_width: Width of each part of a picture, in pixels.
        target_layers: As for ``explain_many``, and so are all others. The recommended layer is
            determined once, so that maps can be compared.
        classes: None for the predicted class, which may change in the course of the training;
            ``cam_hub.expected`` for each image's label.

    Attributes:
        every: As given.
        unit: As given.
        tag: As given, cleaned.

    Raises:
        InvalidArgument: If an argument can never work.
        ImageRefused: If an image cannot be read, or does not fit the model.
        MethodNotFound: If there is no such method.
        ModelRefused: As ``wrap_model``.
    """

    @with_hints
    @default_modes()
    @takes_arguments("many", without=["region", "progress"])
    def __init__(
        self,
        model: nn.Module | LoadedModel | None,
        images: str | os.PathLike[str] | Iterable[object],
        *,
        to: Any = None,
        every: int = 100,
        unit: Literal["step", "epoch"] = "step",
        method: str = "layercam",
        tag: str = "explanations",
        tile_width: int = 256,
        **arguments: Unpack[ExplainArguments],
    ) -> None:
        given: object = model
        if given is not None and not isinstance(given, (nn.Module, LoadedModel)):
            expected = "a torch.nn.Module, a model from wrap_model, or None"
            raise InvalidArgument("model", type(model).__name__, expected)
        self.every = check_whole("every", every)
        check_word("unit", unit, ("step", "epoch"))
        if not isinstance(tag, str) or not tag.strip():
            raise InvalidArgument("tag", tag, "a text")
        self.tag = clean_tag(tag)
        self._tile_width = check_whole("tile_width", tile_width, 16, MAX_TILE_WIDTH)
        self._method = method if method == AUTO else method_name(method)
        ExplainOptions.checked(**arguments)
        self._arguments = arguments
        self._sink = None if to is None else open_sink(to)
        self._last_count = -1
        self._last_step: int | None = None
        self._attached: tuple[Callable[[], Any], Callable[[], Any]] | None = None
        self._parts: ModuleTree | None = None
        self._model: LoadedModel | None = None
        self._given = model
        self.unit = unit
        clips = isinstance(model, LoadedModel) and len(model.input_size) == 4
        module = model.module if isinstance(model, LoadedModel) else model
        with watch(nn.Module() if module is None else module):  # datasets may draw numbers
            samples = _read(images, clips)
            self._tags = [f"{self.tag}/{name}" for name in _names(samples)]
            self._samples = list(map(_in_memory, samples))
            if model is not None:
                found = self._wrapped(model)
                for sample in self._samples:
                    prepare(found, sample.picture, device=torch.device("cpu"))

    def step(self, step: int | None = None) -> bool:
        """Explains the images and logs them, at the first call and then every ``every`` steps.

        Args:
            step: The number of the step (or epoch), the x-axis of what is logged. It need not rise
                by one: images are logged when a multiple of ``every`` was reached or passed. None
                for the number of earlier calls.

        Returns:
            Whether any image was logged.

        Raises:
            InvalidArgument: If ``step`` is not the number of a step, or ``model`` or ``to`` is
                None.
        """
        step = self._last_count + 1 if step is None else _whole(step)
        for name, value in (("model", self._given), ("to", self._sink)):
            if value is None:
                raise InvalidArgument(name, None, "one, which only callbacks do without")
        return self.advance(step, step)

    def advance(self, count: int, step: int) -> bool:
        """As ``step``, with a count that is not the x-axis, such as that of epochs.

        Args:
            count: What ``every`` refers to.
            step: The x-axis.
        """
        last, self._last_count = self._last_count, _whole(count)
        if last <= count and count // self.every == last // self.every:
            return False
        return self.now(step)

    def now(self, step: int) -> bool:
        """Explains the images and logs them, whatever the number of the step.

        Args:
            step: The x-axis.

        Returns:
            Whether any image was logged.
        """
        self._last_step = step = _whole(step)
        if _is_elsewhere():
            return False
        try:
            if self._attached is not None:
                model, to = self._attached
                self._given = model() if self._given is None else self._given
                self._sink = open_sink(to()) if self._sink is None else self._sink
            if self._given is None or self._sink is None:
                return False
            outcomes = self._outcomes(self._given)
            self._log(self._sink, outcomes, step)
        except Exception as error:  # noqa: BLE001 - a training of days must not end here
            ours = isinstance(error, CamHubError)
            reason = str(error) if ours else f"{type(error).__name__}: {first_line(error)}"
            _LOG.warning("step %d: no explanations: %s", step, reason, exc_info=not ours)
            return False
        return any(outcome.error is None for outcome in outcomes)

    def for_lightning(self) -> LightningHooks:
        """A callback for ``lightning.pytorch.Trainer(callbacks=[…])``, or ``pytorch_lightning``'s.

        It logs at the start, every ``every`` steps or epochs, and at the end, at the trainer's
        ``global_step``. Where ``model`` is None, it explains the ``LightningModule``, whose
        ``forward`` must return scores; where ``to`` is None, it logs to the trainer's loggers.

        Raises:
            PackageMissing: If Lightning is not installed.
        """
        from cam_hub.training.callbacks import lightning_callback  # noqa: PLC0415 - needs this file

        return lightning_callback(self)

    def for_transformers(self) -> TransformersHooks:
        """A callback for ``transformers.Trainer(callbacks=[…])``.

        It logs at the start, every ``every`` steps or epochs, and at the end, at the trainer's
        ``global_step``. Where ``model`` is None, it explains the trainer's model, with the
        preprocessing of its image processor and the class names of its configuration; where ``to``
        is None, it logs to what ``report_to`` names.

        Raises:
            PackageMissing: If transformers is not installed.
        """
        from cam_hub.training.callbacks import transformers_callback  # noqa: PLC0415 - as above

        return transformers_callback(self)

    @property
    def last_step(self) -> int | None:
        """The step of the last attempt to log; None before the first."""
        return self._last_step

    def attach(self, model: Callable[[], nn.Module | LoadedModel], to: Callable[[], Any]) -> None:
        """Sets what a callback knows, used where the user gave none.

        Args:
            model: Returns the network that is trained.
            to: Returns where to log to.
        """
        self._attached = model, to

    def _wrapped(self, model: nn.Module | LoadedModel) -> LoadedModel:
        """The model as one whose weights change, with the parts that it has now."""
        if isinstance(model, nn.Module):
            model = wrap_model(model)
        self._parts = ModuleTree(model.module)
        # Of a model that was loaded by its ID, weights are stored in another order, and layers on
        # disk: neither must happen to one that is being trained.
        self._model = replace(
            model, source="module", pretrained=None, revision=None, facts={}, lock=RLock()
        )
        return self._model

    @default_modes()
    def _outcomes(self, given: nn.Module | LoadedModel) -> list[Outcome]:
        """What has become of each image; the network and all random numbers are as before."""
        found: list[Outcome] = []
        module = given if isinstance(given, nn.Module) else given.module
        _check_whole_weights(module)

        def run() -> None:
            model = self._model
            if model is None or self._parts is None or not self._parts.current:
                model = self._wrapped(given)
            found.extend(self._explained(model))

        trouble: list[BaseException] = []

        def run_safely() -> None:
            try:
                run()
            except BaseException as error:  # noqa: BLE001 - raised again once all is restored
                trouble.append(error)

        with watch(module):
            changed_numbers(module, run_safely)
        if trouble:
            self._model = None  # its layers are looked for again next time
            raise trouble[0]
        return found

    def _explained(self, model: LoadedModel) -> list[Outcome]:
        settled = with_output(model, self._arguments.get("output"))
        # Other facts (a copy in double precision, choices by evidence) depend on the weights.
        lasting = (EXECUTION, "layers")
        facts = {name: settled.facts[name] for name in lasting if name in settled.facts}
        current = replace(settled, facts=facts, lock=RLock())
        arguments: Any = self._arguments
        outcomes = list(
            explain_many(current, self._samples, method=self._method, threads=1, **arguments)
        )
        for outcome in outcomes:
            with suppress(CamHubError):
                _ = outcome.result  # made while the weights are those of this step
        if any(outcome.error is None for outcome in outcomes):
            settled.facts.update({name: facts[name] for name in lasting if name in facts})
        else:  # of a network that is not a number yet, or whose head is zero, no layer has a map
            self._model = None
        return outcomes

    def _log(self, sink: Sink, outcomes: Sequence[Outcome], step: int) -> None:
        errors: list[str] = []
        all_focus: list[float] = []
        for tag, outcome in zip(self._tags, outcomes, strict=True):
            if isinstance(found := outcome.result, CamHubError):
                errors.append(f"{tag}: {found}")
                continue
            numbers = _numbers(found)
            all_focus += [value for name, value in numbers.items() if name.startswith("focus")]
            try:
                sink.log_image(tag, _picture(found, self._tile_width), step)
                for name, value in numbers.items():
                    sink.log_scalar(f"{tag}/{name}", value, step)
            except Exception as error:  # noqa: BLE001 - whatever another package raises
                errors.append(f"{tag}: {type(error).__name__}: {first_line(error)}")
        if all_focus:
            sink.log_scalar(f"{self.tag}/mean_focus", float(np.mean(all_focus)), step)
        if errors:
            counted = f"{len(errors)} of {len(outcomes)} images were not logged"
            _LOG.warning("step %d: %s: %s", step, counted, errors[0])


def _is_elsewhere() -> bool:
    """Whether another process of a distributed training logs."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return distributed.get_rank() != 0


def _whole(step: Any) -> int:
    """A number of a step; also as a tensor or an array of one value."""
    with suppress(TypeError, ValueError, AttributeError):
        step = step.item() if isinstance(step, (Tensor, np.ndarray, np.generic)) else step
    return check_whole("step", step, 0)


def _read(images: Any, clips: bool) -> list[Sample]:
    """All images, by whatever they are given.

    Raises:
        InvalidArgument: If there are none, or too many.
        CamHubError: If a dataset does not yield one.
    """
    samples = list(islice(open_samples(images, clips=clips), _MAX_IMAGES + 1))
    if not 0 < len(samples) <= _MAX_IMAGES:
        counted = f"more than {_MAX_IMAGES} images" if samples else "no image"
        expected = f"1 to {_MAX_IMAGES} images; torch.utils.data.Subset selects some"
        raise InvalidArgument("images", counted, expected)
    for sample in samples:
        if sample.error is not None:
            raise sample.error
    return samples


def _in_memory(sample: Sample) -> Sample:
    """An image of its own: files may vanish, and tensors change, before the next time."""
    picture = sample.picture
    if _is_path(picture):
        with suppress(OSError):  # what is wrong with it shows when it is opened
            picture = local_path(os.fsdecode(picture)).read_bytes()
    elif isinstance(picture, Tensor):
        picture = picture.detach().cpu().clone()
    elif isinstance(picture, (np.ndarray, Image.Image)):
        picture = picture.copy()
    return replace(sample, picture=picture)


def _names(samples: Sequence[Sample]) -> list[str]:
    """A name for each image, from its key: of a path in a list the file's name if that is enough.

    The keys of a folder's images are paths in it, and stay: their first part is the class.
    """
    keys = [str(sample.key) for sample in samples]
    short = [
        Path(key).name if _is_path(sample.picture) and key == os.fsdecode(sample.picture) else key
        for key, sample in zip(keys, samples, strict=True)
    ]
    names = list(map(clean_tag, short if len(set(short)) == len(short) else keys))
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, (str, os.PathLike))


def _check_whole_weights(module: nn.Module) -> None:
    """Refuses weights that lie on several processes: a pass of one of them would never end."""
    kinds = {base.__name__ for child in module.modules() for base in type(child).__mro__}
    weights = {type(weight).__name__ for weight in module.parameters()}
    sharded = any(hasattr(weight, "ds_id") for weight in module.parameters())  # DeepSpeed, stage 3
    if sharded or kinds & {"FullyShardedDataParallel", "FSDPModule"} or "DTensor" in weights:
        raise ModelRefused(
            type(unwrapped(module)).__name__,
            "its weights are sharded over processes, and explanations are made in one of them. "
            "Explain checkpoints instead.",
        )


def _numbers(found: Explanation) -> dict[str, float]:
    """The focus of each class's map and its probability, by name; with labels if several."""
    numbers: dict[str, float] = {}
    for entry in found.manifest["classes"]:
        index = entry["class_index"]
        name = f"/{clean_tag(str(entry['label']))}" if len(found.classes) > 1 else ""
        if (probability := entry.get("probability")) is not None:
            numbers[f"probability{name}"] = float(probability)
        with suppress(NoMap):
            value = focus(torch.from_numpy(np.maximum(found.cam(index), 0))).value
            if value is not None:
                numbers[f"focus{name}"] = value
    return numbers


def _picture(found: Explanation, width: int) -> Image.Image:
    """The photo, and the map of each class over it, side by side with captions."""
    photo = found.photo
    shrink = min(width / photo.width, 2 * width / photo.height)
    size = (max(1, round(photo.width * shrink)), max(1, round(photo.height * shrink)))
    small = photo.resize(size, Image.Resampling.BICUBIC)
    shown = found.showing(small, placement=found.placement.resized(size))
    entries: Mapping[int, Mapping[str, Any]]
    entries = {entry["class_index"]: entry for entry in found.manifest["classes"]}
    tiles: list[tuple[str | Sequence[str], Image.Image]] = [("", small)]
    for index in found.classes:
        label = str(found.labels[index])
        probability = entries[index].get("probability")
        lines = [label] if probability is None else [label, f"{probability:.1%}"]
        has_map = shown.has_map(index)
        if not has_map:
            lines.append("no map")
        tiles.append((lines, shown.overlay(index) if has_map else small))
    return montage(tiles, min(len(tiles), 6), width)
