"""``LoadedModel``: a network with its preprocessing, labels and task, and variants of it."""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from cam_hub._text import first_line
from cam_hub.errors import ImageRefused, InvalidArgument, ModelRefused, OutOfMemory
from cam_hub.hooks.execution import PLAIN, Execution, shortcuts, watch, worth
from cam_hub.hooks.frozen_eval import unusable, unwrapped, walk
from cam_hub.hooks.memory import free_bytes, is_out_of_memory
from cam_hub.hooks.modes import default_modes
from cam_hub.hooks.recording import foreign_hooks
from cam_hub.images.clips import ClipPreprocessing
from cam_hub.images.preprocessing import OpenedImage, Preprocessing, pixels_of
from cam_hub.images.transforms import TransformPreprocessing
from cam_hub.models.initialisation import convert
from cam_hub.options import OutputChoice
from cam_hub.targets.base import Task
from cam_hub.targets.classification import Classification
from cam_hub.targets.reading import probes

__all__ = [
    "EXECUTION",
    "LoadedModel",
    "Origin",
    "double_copy",
    "double_pair",
    "in_double",
    "is_as_loaded",
    "note_origin",
    "weights_digest",
    "with_output",
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
    parts, hooked = [], False
    for name, part in module.named_modules():
        parts.append((name, type(part)))
        hooked = hooked or bool(foreign_hooks(part))
    return tuple(parts), hooked, tuple(map(_sample, chain(module.parameters(), module.buffers())))


def _sample(tensor: Tensor) -> Hashable:
    """Shape, type, for a weight how often it was written to, and a few values spread over it."""
    shape = tuple(tensor.shape)
    count = tensor.numel()
    counted = isinstance(tensor, nn.Parameter) and not tensor.is_inference()
    writes = tensor._version if counted else -1
    if not count or tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        return shape, tensor.dtype, writes
    flat = tensor.detach().flatten()  # in the order of indices, whatever the layout in memory
    return shape, tensor.dtype, writes, str(flat[:: -(-count // _VALUES)].tolist())


EXECUTION = "execution"
"""The fact about a model that holds its ``Execution``."""

_ORIGIN = "origin"  # its place among the facts


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
        first = next(chain(self.module.parameters(), self.module.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' floating-point type, float32 if it has none."""
        for weight in self.module.parameters():
            if weight.is_floating_point():
                return weight.dtype
        return torch.float32

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
        if isinstance(image, Tensor):
            clip = isinstance(self.preprocessing, ClipPreprocessing)
            pixels = pixels_of(image, self.input_size[0], clip=clip)
            if pixels is None:
                raise ImageRefused(
                    f"a tensor of {image.dtype} and shape {tuple(image.shape)} is preprocessed "
                    "already: give it to the network as it is, or pass the pixels as uint8"
                )
            image = pixels
        return self.preprocessing.open(image)

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
            raise ModelRefused(
                self.id,
                f"its forward pass failed on an input of {tuple(batch.shape[1:])}: "
                f"{first_line(error)}",
            ) from error


def note_origin(model: LoadedModel) -> None:
    """Notes that a model is as its source loaded it, so that pickle takes its ID for it.

    Nothing is noted for random weights, which no ID gives again.
    """
    if model.pretrained and model.revision is not None:
        model.facts[_ORIGIN] = Origin(_state(model.module), _parts(model))


def weights_digest(model: LoadedModel) -> str:
    """Identifies the weights of a model: a hash of names, shapes and 16 values of each tensor.

    Args:
        model: The model, of whatever source and on whatever device.
    """
    tensors = chain(model.module.named_parameters(), model.module.named_buffers())
    text = repr([(name, _sample(tensor)) for name, tensor in tensors])
    return hashlib.sha256(text.encode()).hexdigest()


def is_as_loaded(model: LoadedModel) -> bool:
    """Whether a model was loaded by its ID, and is unchanged since."""
    origin: Origin | None = model.facts.get(_ORIGIN)
    return origin is not None and origin.has(model.module) and not origin.changed(_parts(model))


def _parts(model: LoadedModel) -> dict[str, Any]:
    """All but the module and what belongs to this process."""
    parts = dict(vars(model))
    for name in ("module", "facts", "lock"):
        del parts[name]
    return parts


def _rebuilt(module: nn.Module, parts: dict[str, Any], facts: dict[str, Any]) -> LoadedModel:
    return LoadedModel(module=module, facts=facts, **parts)


def _reopened(id: str, revision: str, device: str, changed: dict[str, Any]) -> LoadedModel:
    # The store is a level above: it is looked up by name, as pickle does with classes.
    model: LoadedModel = import_module("cam_hub.sources.store").reopen(id, revision, device)
    return replace(model, **changed) if changed else model


_OUTPUTS = "outputs"
"""The fact of a model that holds it with an output settled, by the choice of the output."""

_MAX_OUTPUTS = 8
"""Outputs of one model that are kept; a function that is written anew for each call is another."""

_LOG = logging.getLogger("cam_hub")


def with_output(model: LoadedModel, output: OutputChoice = None) -> LoadedModel:
    """The model with the output that is explained, and how it is read, settled in its task.

    A wrapped module is run on a few inputs for that, once, and so is a network of other packages
    that is registered with timm. Networks of timm and torchvision themselves return the scores that
    their configurations declare.

    Args:
        model: The model; it stays as it is.
        output: The output that the caller has chosen; None for the one that the model was wrapped
            with, else for the main one.

    Raises:
        InvalidArgument: If there is no such output.
        ModelRefused: If an output was chosen and the network cannot be run.
    """
    chosen = output if output is not None else model.task.wanted
    package = type(model.module).__module__.partition(".")[0]
    declared = model.source != "module" and package in ("timm", "torchvision")
    if (chosen is None and declared) or (model.task.settled and chosen == model.task.wanted):
        return model
    with model.lock:
        known: dict[Any, LoadedModel] = model.facts.setdefault(_OUTPUTS, {})
        if chosen not in known:
            found = _settled(model, chosen)
            if found is None:
                return model
            while len(known) >= _MAX_OUTPUTS:
                del known[next(iter(known))]
            known[chosen] = found
        return known[chosen]


def _settled(model: LoadedModel, chosen: OutputChoice) -> LoadedModel | None:
    """The model after a look at what its network returns; None if it cannot be run."""
    names = model.class_names
    own = model.task.names if isinstance(model.task, Classification) else None
    if own is not None:
        names = own.labels
    try:
        with watch(model.module):  # which leaves random numbers and buffers as they are
            task = model.task.read_from(
                unwrapped(model.module),
                probes(model.input_size, torch.empty(0, dtype=model.dtype, device=model.device)),
                choice=chosen,
                labels=None if names is None or (own and own.declared) else len(names),
            )
    except InvalidArgument:
        raise
    except Exception as error:  # whatever a network raises
        if chosen is None:
            return None  # the next run reports that
        if is_out_of_memory(error):
            raise OutOfMemory(model.id, "a forward pass of one image does not fit.") from error
        raise ModelRefused(model.id, f"its forward pass failed: {first_line(error)}") from error
    notes = _notes(model.id, task, chosen=chosen is not None)
    found = replace(
        model,
        task=replace(task, wanted=chosen, settled=True),
        notes=(*model.notes, *notes),
    )
    if chosen == model.task.wanted:  # whose facts are the model's own
        return found
    return replace(found, facts={}, lock=threading.RLock())


def _notes(model_id: str, task: Task, *, chosen: bool) -> list[str]:
    """The notes for users; a value that cannot be a logit is a warning, too."""
    notes = []
    if task.head is not None and not chosen and len(task.head.others) > 1:
        others = ", ".join(task.head.others)
        notes.append(
            f"the network returns several outputs ({others}); {task.head.name!r} is explained, "
            "and output= selects another"
        )
    if isinstance(task, Classification) and task.inner is not None:
        what = "log-probabilities" if task.inner.startswith("log_") else "probabilities"
        notes.append(f"the network returns {what}, which are taken as they are")
    if isinstance(task, Classification) and task.value is not None:
        low, high = task.value
        notes.append(
            f"its single output lies between {low:.4g} and {high:.4g} for a few inputs, so it "
            "cannot be a logit, and no probability is stated; if it is a value, pass "
            "task='regression'"
        )
        warnings.warn(f"{model_id}: {notes[-1]}", stacklevel=2)
    for note in notes:
        _LOG.info("%s: %s", model_id, note)
    return notes


_DOUBLE = "in_double"


def in_double(model: LoadedModel) -> LoadedModel:
    """The same model in double precision, made once and kept with it.

    Args:
        model: The model; it stays as it is.

    Returns:
        A copy with its own weights, twice the size; on the CPU where the device has no double
        precision (MPS). The model itself if it is in double precision already, or if its module
        cannot be copied.
    """
    if model.dtype == torch.float64:
        return model
    with model.lock:
        if _DOUBLE not in model.facts:
            model.facts[_DOUBLE] = twin = _twin(model)
            if twin is not model:
                _LOG.info("%s: computed in double precision as well, which takes a copy", model.id)
        found: LoadedModel = model.facts[_DOUBLE]
    return found


def double_copy(module: nn.Module) -> nn.Module | None:
    """A copy in double precision, on the CPU where the device has none (MPS).

    Args:
        module: The module; it stays as it is.

    Returns:
        None if it cannot be copied.

    Raises:
        MemoryError: If the copy would not fit.
    """
    tensors = list(chain(module.parameters(), module.buffers()))
    needed = sum(tensor.numel() * torch.float64.itemsize for tensor in tensors)
    free = free_bytes(tensors[0].device) if tensors else None
    if free is not None and needed > free:
        raise MemoryError(f"a copy takes {needed:,} bytes, and {free:,} are free")
    try:
        copied = copy.deepcopy(module)
    except (RuntimeError, TypeError, NotImplementedError):
        return None
    if any(tensor.device.type == "mps" for tensor in tensors):
        copied = copied.cpu()
    return convert(copied, torch.float64)


def double_pair(module: nn.Module, clean: Tensor) -> tuple[nn.Module, Tensor] | None:
    """A copy of a module and of its input in double precision, both on the same device.

    Args:
        module: The module; it stays as it is.
        clean: Its input.

    Returns:
        None if they are in double precision already, or if the module cannot be copied or its
        copy would not fit.
    """
    try:
        finer = double_copy(module) if clean.dtype != torch.float64 else None
    except MemoryError:
        return None
    if finer is None:
        return None
    place = next(chain(finer.parameters(), finer.buffers()), clean).device
    return finer, clean.to(place).double()


def _twin(model: LoadedModel) -> LoadedModel:
    module = double_copy(model.module)
    if module is None:
        return model
    facts = {EXECUTION: model.execution}
    return replace(model, module=module, facts=facts, lock=threading.RLock())
