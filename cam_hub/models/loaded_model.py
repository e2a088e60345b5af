"""``LoadedModel``: a network with its preprocessing, labels and task."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from cam_hub.errors import ImageRefused, InvalidArgument, ModelRefused
from cam_hub.hooks.execution import PLAIN, Execution, watch
from cam_hub.hooks.fast_paths import shortcuts, worth
from cam_hub.hooks.frozen_eval import unusable, unwrapped, walk
from cam_hub.hooks.memory import is_out_of_memory
from cam_hub.hooks.modes import default_modes
from cam_hub.hooks.recording import foreign_hooks
from cam_hub.images.clips import ClipPreprocessing, open_clip
from cam_hub.images.decoding import open_image
from cam_hub.images.preprocessing import Preprocessing, pixels_of
from cam_hub.images.transforms import TransformPreprocessing
from cam_hub.models.limits import UNLIMITED, LoadLimits, ModelFacts
from cam_hub.models.model_id import ModelId
from cam_hub.targets.base import Task
from cam_hub.targets.classification import Classification

__all__ = [
    "EXECUTION",
    "LoadRequest",
    "LoadedModel",
    "OpenedImage",
    "Origin",
    "Progress",
    "Source",
    "is_as_loaded",
    "note_origin",
    "pick_device",
    "wake",
]


_VALUES = 16  # compared in each tensor


@dataclass(frozen=True, eq=False)
class Origin:
    """A model as it was loaded by its ID.

    Attributes:
        state: The state of the network, freshly loaded.
        fields: The other parts of the loaded model, by name.
    """

    state: Hashable
    fields: dict[str, Any]

    def has(self, module: nn.Module) -> bool:
        """Whether the network still is the loaded one: its parts, weights and hooks.

        Device and memory layout may differ. Not seen is a write through ``weight.data`` that leaves
        16 values, spread over the weight, as they are.
        """
        return self.state == _state(module)

    def changed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that are not the loaded ones any more."""
        return {name: value for name, value in fields.items() if value is not self.fields[name]}


def _state(module: nn.Module) -> Hashable:
    parts = tuple((name, type(part)) for name, part in module.named_modules())
    hooked = any(foreign_hooks(part) for part in module.modules())
    writes = tuple(
        -1 if weight.is_inference() else weight._version for weight in module.parameters()
    )
    values = tuple(map(_sample, chain(module.parameters(), module.buffers())))
    return parts, hooked, writes, values


def _sample(tensor: Tensor) -> Hashable:
    """Shape, type, and a few values spread over a tensor."""
    shape = tuple(tensor.shape)
    count = tensor.numel()
    if not count or tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        return shape, tensor.dtype
    flat = tensor.detach().flatten()  # in the order of indices, whatever the layout in memory
    return shape, tensor.dtype, str(flat[:: -(-count // _VALUES)].tolist())


EXECUTION = "execution"
"""The fact about a model that holds its ``Execution``."""

Progress = Callable[[float, str], None]

_ORIGIN = "origin"  # its place among the facts


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image, or a clip, as a model takes it.

    Attributes:
        frames: The image, or the frames of the clip; empty for ``bands``.
        bands: ``(H, W, C)`` for an image of other than three channels, else None.
        tensor: The model's input, ``(1, channels, rows, cols)``, for a clip ``(1, channels, frames,
            rows, cols)``: float32, on the CPU.
    """

    frames: tuple[Image.Image, ...]
    bands: NDArray[Any] | None
    tensor: Tensor


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to be explained.

    Attributes:
        id: The model's ID; giving it to ``load_model`` gives the same model. For a wrapped
            module, its class name.
        module: The network, in evaluation mode when it comes from a source of ours.
        preprocessing: From photo, or clip, to input tensor, and back.
        class_names: One label per class, or None where the model has none.
        source: Which source it comes from (``"hub"``, ``"embedded"``, ``"torchvision"``,
            ``"timm"``, ``"module"``).
        revision: What exactly was loaded (commit, name of the weights, digest), or None for
            random weights and wrapped modules.
        pretrained: False for random weights; None for a wrapped module, of which that is not
            known.
        task: What its answer is, and how it is called.
        notes: Notes for users, such as that its weights came as a pickle.
        facts: Results that are computed once per model, by name.
    """

    id: str
    module: nn.Module = field(repr=False)
    preprocessing: Preprocessing | ClipPreprocessing | TransformPreprocessing
    class_names: tuple[str, ...] | None = field(repr=False)
    source: str
    revision: str | None = None
    pretrained: bool | None = None
    task: Task = field(default_factory=Classification)
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle: a model that is as it was loaded is its ID and revision.

        Any other (a wrapped module, random weights, weights that were changed since) is its module,
        with what was found out about its layers.
        """
        parts = _parts(self)
        origin: Origin | None = self.facts.get(_ORIGIN)
        if origin is not None and origin.has(self.module):
            id, revision = origin.fields["id"], origin.fields["revision"]
            return _reopened, (id, revision, str(self.device), origin.changed(parts))
        return _rebuilt, (self.module, parts, self._lasting)

    def __copy__(self) -> LoadedModel:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedModel:
        """A model with weights of its own."""
        with self.lock:
            parts = _parts(self)
            origin: Origin | None = self.facts.get(_ORIGIN)
            loaded = origin is not None and origin.has(self.module)
            copied = LoadedModel(module=copy.deepcopy(self.module, memo), **parts)
            copied.facts.update(self._lasting)
        if loaded:
            note_origin(copied)
        return copied

    @property
    def input_size(self) -> tuple[int, ...]:
        """Channels, rows and columns of the input that the model was made for.

        For a model of clips, four numbers: channels, frames, rows and columns.
        """
        return self.preprocessing.input_size

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        tensors = chain(self.module.parameters(), self.module.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating-point type, float32 if it has none."""
        weights = self.module.parameters()
        return next((p.dtype for p in weights if p.is_floating_point()), torch.float32)

    @property
    def _lasting(self) -> dict[str, Any]:
        """The facts that hold for a copy, too."""
        found: dict[str, Any] = {"layers": dict(self.facts.get("layers", {}))}
        if EXECUTION in self.facts:
            found[EXECUTION] = self.execution
        return found

    @property
    def execution(self) -> Execution:
        """How the network has to be run, as far as that was found out."""
        found: Execution = self.facts.get(EXECUTION, PLAIN)
        return found

    def _try(self, batch: Tensor) -> Any:
        """Runs a network of which nothing is known yet; None if it must be run again, with care."""
        with watch(self.module) as seen:
            output = self.task.run(unwrapped(self.module), batch)
        if not (seen.drawn or seen.written):
            return output
        drawn = seen.drawn
        self.facts[EXECUTION] = Execution(
            draws=drawn, varies=drawn, one_by_one=drawn, written=seen.written
        )
        return None

    @default_modes()
    def preprocess(self, image: object) -> Tensor:
        """Turns a photo into what the model takes.

        Args:
            image: As for ``explain``, but not an already preprocessed tensor.

        Returns:
            ``(1, channels, rows, cols)`` on the model's device, normalised as it was trained; of
            a clip ``(1, channels, frames, rows, cols)``.

        Raises:
            ImageRefused: If it is not an image or clip.
        """
        return self.open(image).tensor.to(self.device, self.dtype)

    def open(self, image: object) -> OpenedImage:
        """Opens an image, or a clip, and preprocesses it.

        Args:
            image: As for ``preprocess``.

        Raises:
            ImageRefused: As ``preprocess``.
        """
        turn = self.preprocessing
        clip = isinstance(turn, ClipPreprocessing)
        if isinstance(image, Tensor):
            pixels = pixels_of(image, self.input_size[0], clip=clip)
            if pixels is None:
                raise ImageRefused(
                    f"a tensor of {image.dtype} and shape {tuple(image.shape)} is preprocessed "
                    "already: give it to the network as it is, or pass the pixels as uint8"
                )
            image = pixels
        bands = None
        frames: tuple[Image.Image, ...] = ()
        if isinstance(turn, ClipPreprocessing):
            frames = tuple(open_clip(image, turn.frames))
            tensor = turn(frames)
        elif (
            isinstance(image, np.ndarray)
            and isinstance(turn, Preprocessing)
            and turn.takes_bands(image)
        ):
            bands = image
            tensor = turn.bands(bands)
        else:
            frames = (open_image(image),)
            tensor = turn(frames[0])
        return OpenedImage(frames, bands, tensor)

    def run(self, batch: Tensor, *, tokens: bool = False) -> Any:
        """Calls the network as its task does, and takes the shortcuts that there are.

        Args:
            batch: ``(N, channels, rows, cols)``, of clips ``(N, channels, frames, rows, cols)``,
                preprocessed, on the model's device.
            tokens: Whether the backward pass will reach layers of tokens of which few matter.

        Returns:
            Whatever the network answers; the task's ``Target`` makes scores of it.

        Raises:
            ModelRefused: If the network raises. Lack of memory raises torch's own error: smaller
                batches may fit.
        """
        if batch.is_meta and (reason := unusable(self.module)):
            raise ModelRefused(self.id, reason)
        if "shortcuts" not in self.facts:
            self.facts["shortcuts"] = worth(walk(self.module))
        try:
            with shortcuts(self.facts["shortcuts"], batch.device, tokens=tokens):
                if EXECUTION not in self.facts and (output := self._try(batch)) is not None:
                    return output
                with self.execution.around(self.module):
                    return self.task.run(unwrapped(self.module), batch)
        except Exception as error:  # whatever a network raises on an input that it cannot take
            if is_out_of_memory(error):
                if isinstance(error, (RuntimeError, MemoryError)):
                    raise
                raise MemoryError(str(error)) from error
            if (reason := unusable(self.module)) is not None:
                raise ModelRefused(self.id, reason) from error
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelRefused(
                self.id, f"its forward pass failed on an input of {tuple(batch.shape[1:])}: {first}"
            ) from error


def note_origin(model: LoadedModel) -> None:
    """Notes that a model is as its source loaded it, so that pickle takes its ID for it.

    Nothing is noted for random weights, which no ID gives again.
    """
    if model.pretrained and model.revision is not None:
        model.facts[_ORIGIN] = Origin(_state(model.module), _parts(model))


def is_as_loaded(model: LoadedModel) -> bool:
    """Whether a model was loaded by its ID, and is unchanged since."""
    origin: Origin | None = model.facts.get(_ORIGIN)
    return origin is not None and origin.has(model.module) and not origin.changed(_parts(model))


def _parts(model: LoadedModel) -> dict[str, Any]:
    """All but the module and what belongs to this process."""
    own = {"module", "facts", "lock"}
    return {each.name: getattr(model, each.name) for each in fields(model) if each.name not in own}


def _rebuilt(module: nn.Module, parts: dict[str, Any], facts: dict[str, Any]) -> LoadedModel:
    return LoadedModel(module=module, facts=facts, **parts)


def _reopened(id: str, revision: str, device: str, changed: dict[str, Any]) -> LoadedModel:
    # The store is a level above: it is looked up by name, as pickle does with classes.
    model: LoadedModel = import_module("cam_hub.sources.store").reopen(id, revision, device)
    return replace(model, **changed) if changed else model


@dataclass(frozen=True)
class LoadRequest:
    """What ``load_model`` was asked for, in full.

    Attributes:
        id: The model's ID.
        pretrained: Whether trained weights are wanted.
        device: Where it is to be.
        token: Access token for private and gated repos; None for this machine's own, if it has
            one; False for none.
        limits: How much it may cost.
        progress: Called repeatedly during a download with the part of the work that is done (in
            [0, 1]) and its description.
    """

    id: ModelId
    pretrained: bool
    device: torch.device
    token: str | bool | None = field(default=None, repr=False)
    limits: LoadLimits = UNLIMITED
    progress: Progress | None = None

    @property
    def is_own(self) -> bool:
        """Whether the request is made for this machine, not for a user of an app on it."""
        return self.token is None or self.token is True


class Source(Protocol):
    """Where models come from. Sources are asked in turn, and the first that claims an ID loads it.

    To add one, write a module with a class like this and list it in ``sources/registry.py``.
    """

    name: str

    def claims(self, request: LoadRequest) -> bool:
        """Whether this source is the one to load the model, judged without any network."""

    def load(self, request: LoadRequest) -> LoadedModel:
        """Loads the model; the registry moves it to its device and freezes it, in evaluation mode.

        Raises:
            ModelNotFound: If there is none of this name.
            ModelRefused: If it is there but cannot be explained or must not be loaded.
            HubUnavailable: If it had to be fetched and could not be.
        """

    def describe(self, request: LoadRequest) -> ModelFacts:
        """Facts about the model before it is loaded; errors as for ``load``."""

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """IDs that this source could load and can name without any network, for suggestions."""


def pick_device(device: str | torch.device) -> torch.device:
    """The device that a word stands for.

    Args:
        device: ``"auto"`` for the best there is (CUDA, then MPS, then the CPU), or anything that
            ``torch.device`` takes.

    Raises:
        InvalidArgument: If there is no such device on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    expected = "'auto', 'cpu', 'cuda', 'cuda:<index>' or 'mps'"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InvalidArgument("device", device, f"{expected} (torch: {first})") from None
    if chosen.type == "meta":
        raise InvalidArgument("device", device, expected)
    return chosen


def wake(module: nn.Module) -> None:
    """Draws, in a model with random weights, those weights that its constructor leaves at zero.

    Zero weights (classifiers of some architectures) are a place to start training from; until
    then no score depends on anything, and there is nothing to explain.
    """
    for weight in module.parameters():
        if weight.ndim > 1 and not bool(weight.any()):
            nn.init.trunc_normal_(weight, std=0.02)
