"""Callbacks of Lightning and of ``transformers.Trainer``, which are imported when one is made."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import nn

from cam_hub.errors import InvalidArgument, PackageMissing
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.sources.wrapping import wrap_model

if TYPE_CHECKING:
    from cam_hub.training.explanation_logger import ExplanationLogger

__all__ = ["LightningHooks", "TransformersHooks", "lightning_callback", "transformers_callback"]

# ``report_to`` of transformers, and what takes pictures of it.
_MODULES = ("wandb", "mlflow", "trackio")


class LightningHooks:
    """What a callback of Lightning does; the class of the callback itself derives from Lightning's.

    Args:
        log: Explains and logs.
    """

    def __init__(self, log: ExplanationLogger) -> None:
        self.explanations = log

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which finds no class that was made at run time."""
        return lightning_callback, (self.explanations,)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Logs what the network explains before it is trained."""
        self._count(trainer, pl_module, self._now(trainer))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts steps of the optimizer, of which a batch may be none."""
        del outputs, batch, batch_idx
        if self.explanations.unit == "step":
            self._count(trainer, pl_module, trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Counts epochs."""
        if self.explanations.unit == "epoch":
            self._count(trainer, pl_module, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Logs what the trained network explains."""
        if trainer.is_global_zero and self.explanations.last_step != trainer.global_step:
            self._attach(trainer, pl_module)
            self.explanations.now(trainer.global_step)

    def _now(self, trainer: Any) -> int:
        found: int = (
            trainer.global_step if self.explanations.unit == "step" else trainer.current_epoch
        )
        return found

    def _count(self, trainer: Any, pl_module: Any, count: int) -> None:
        # Lightning looks for a few batches whether validation works before it trains.
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._attach(trainer, pl_module)
            self.explanations.advance(count, trainer.global_step)

    def _attach(self, trainer: Any, pl_module: Any) -> None:
        self.explanations.attach(lambda: pl_module, lambda: list(trainer.loggers))


def lightning_callback(log: ExplanationLogger) -> LightningHooks:
    """A callback of the Lightning that is in use: both packages have the same classes.

    Raises:
        PackageMissing: If none of them is installed.
    """
    names = ("lightning.pytorch", "pytorch_lightning")
    loaded = [name for name in names if name in sys.modules]
    for name in (*loaded, *names):
        try:
            base = import_module(name).Callback
        except ImportError:
            continue
        return type("ExplanationCallback", (LightningHooks, base), {})(log)  # type: ignore[no-any-return]
    raise PackageMissing("lightning", "A callback of Lightning", "pip install lightning")


class TransformersHooks:
    """What a callback of ``transformers.Trainer`` does; its class derives from ``TrainerCallback``.

    Args:
        log: Explains and logs.
    """

    def __init__(self, log: ExplanationLogger) -> None:
        self.explanations = log
        self._sinks: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which finds no class that was made at run time."""
        return transformers_callback, (self.explanations,)

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Logs what the network explains before it is trained."""
        del control
        if self.explanations.unit == "step":
            self._count(args, state, given, state.global_step)
        else:
            self._count(args, state, given, int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Counts steps of the optimizer."""
        del control
        if self.explanations.unit == "step":
            self._count(args, state, given, state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Counts epochs."""
        del control
        if self.explanations.unit == "epoch":
            self._count(args, state, given, round(state.epoch))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Logs what the trained network explains."""
        del control
        if state.is_world_process_zero and self.explanations.last_step != state.global_step:
            self._attach(args, given)
            self.explanations.now(state.global_step)
        for sink in self._sinks:
            if hasattr(sink, "flush"):  # a SummaryWriter of ours, to be flushed here
                sink.flush()

    def _count(self, args: Any, state: Any, given: Mapping[str, Any], count: int) -> None:
        if state.is_world_process_zero:
            self._attach(args, given)
            self.explanations.advance(count, state.global_step)

    def _attach(self, args: Any, given: Mapping[str, Any]) -> None:
        self.explanations.attach(
            lambda: wrap_transformers(given["model"], given.get("processing_class")),
            lambda: self._opened(args),
        )

    def _opened(self, args: Any) -> list[Any]:
        self._sinks = reported_to(args)
        return self._sinks


def transformers_callback(log: ExplanationLogger) -> TransformersHooks:
    """A callback of ``transformers.Trainer``.

    Raises:
        PackageMissing: If transformers is not installed.
    """
    try:
        base = import_module("transformers").TrainerCallback
    except ImportError as error:
        command = "pip install transformers accelerate"
        raise PackageMissing("transformers", "Its callback", command) from error
    return type("ExplanationCallback", (TransformersHooks, base), {})(log)  # type: ignore[no-any-return]


def wrap_transformers(module: nn.Module, processor: Any) -> LoadedModel:
    """A model of transformers with the size, class names and preprocessing that it comes with.

    Args:
        module: The model, whose configuration may state them.
        processor: The trainer's ``processing_class``; anything but an image processor is ignored.

    Raises:
        InvalidArgument, ModelRefused: As ``wrap_model``.
    """
    config = getattr(module, "config", None)
    names = getattr(config, "id2label", None)
    count = getattr(config, "num_labels", None)
    given: dict[str, Any] = {}
    if isinstance(names, Mapping) and names and len(names) == count:
        given["class_names"] = dict(names)
    if hasattr(processor, "image_mean"):
        return wrap_model(module, transform=processor, **given)
    side, channels = (getattr(config, name, None) for name in ("image_size", "num_channels"))
    if isinstance(side, int) and isinstance(channels, int):
        given["input_size"] = (channels, side, side)
    return wrap_model(module, **given)


def reported_to(args: Any) -> list[Any]:
    """What a trainer of transformers logs to that takes pictures.

    Args:
        args: Its ``TrainingArguments``.

    Raises:
        InvalidArgument: If there is nothing of the kind.
    """
    names = args.report_to if isinstance(args.report_to, (list, tuple)) else [args.report_to]
    found: list[Any] = [import_module(name) for name in names if name in _MODULES]
    if "tensorboard" in names:
        folder = getattr(args, "logging_dir", None) or os.environ.get("TENSORBOARD_LOGGING_DIR")
        folder = folder or os.path.join(args.output_dir, "runs")  # noqa: PTH118 - may be a URL
        found.append(import_module("torch.utils.tensorboard").SummaryWriter(folder))
    if not found:
        takers = ", ".join(("tensorboard", *_MODULES))
        raise InvalidArgument("report_to", names, f"one of {takers}, or to= for the explanations")
    return found
