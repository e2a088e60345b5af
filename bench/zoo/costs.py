"""Sizes of models: parameters, and multiplications of one pass, without building them.

They are counted on torch's meta device, which has shapes but no values, and on real tensors only if
a model does not support it. Counting takes a tenth of a second per model, so the results are stored
in a file beside the ledger; the sizes of a model do not change while it keeps its name.
"""

from __future__ import annotations

import inspect
import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["Costs"]

_UNKNOWN = -1
"""Stored for a model that could not be counted, so that it is not tried each time."""


class Costs:
    """Parameters and multiplications by model, counted on first use.

    Args:
        path: The file of stored counts; None to store nothing. An unreadable file counts as empty.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, dict[str, int]] = _read(path) if path is not None else {}
        self._changed = False

    def parameters(self, source: str, name: str) -> int | None:
        """Number of parameters; None if the model cannot be built."""
        return self._get(source, name, "parameters", _parameters)

    def macs(self, source: str, name: str) -> int | None:
        """Multiplications with addition of one pass over one image of the default size.

        None if the model does not take one image (video, pairs of images).
        """
        return self._get(source, name, "macs", _macs)

    def known(self, source: str, name: str) -> bool:
        """Whether the number of parameters need not be counted any more."""
        return "parameters" in self._known.get(f"{source}/{name}", {})

    def kept_macs(self, source: str, name: str) -> int | None:
        """The stored value of ``macs``; None if it has not been counted."""
        macs = self._known.get(f"{source}/{name}", {}).get("macs", _UNKNOWN)
        return macs if macs != _UNKNOWN else None

    def save(self) -> None:
        """Writes the counts, sorted, with one model per line."""
        if self._path is None or not self._changed:
            return
        lines = [
            f"{json.dumps(key)}: {json.dumps(self._known[key])}" for key in sorted(self._known)
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        beside.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
        beside.replace(self._path)
        self._changed = False

    def _get(
        self, source: str, name: str, what: str, count: Callable[[str, str, str], int]
    ) -> int | None:
        entry = self._known.setdefault(f"{source}/{name}", {})
        if what not in entry:
            self._changed = True
            entry[what] = _UNKNOWN
            for device in ("meta", "cpu"):  # some read values while they are built
                with warnings.catch_warnings(), suppress(Exception):
                    warnings.simplefilter("ignore")
                    entry[what] = count(source, name, device)
                    break
        return entry[what] if entry[what] != _UNKNOWN else None


def _read(path: Path) -> dict[str, dict[str, int]]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _build(source: str, name: str, device: str) -> Any:
    import torch  # noqa: PLC0415 - seconds, and not needed where everything is known

    with torch.device(device):
        if source == "timm":
            import timm  # noqa: PLC0415

            return timm.create_model(name, pretrained=False)
        import torchvision.models as zoo  # noqa: PLC0415

        # Detectors and segmentation models would download the weights of their backbones.
        takes = inspect.signature(zoo.get_model_builder(name)).parameters
        backbone = {"weights_backbone": None} if "weights_backbone" in takes else {}
        return zoo.get_model(name, weights=None, **backbone)


def _parameters(source: str, name: str, device: str) -> int:
    return sum(weight.numel() for weight in _build(source, name, device).parameters())


def _macs(source: str, name: str, device: str) -> int:
    import torch  # noqa: PLC0415
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    model = _build(source, name, device).eval().requires_grad_(False)
    size = (3, 224, 224)
    if source == "timm":
        from timm.data.config import resolve_model_data_config  # noqa: PLC0415

        size = resolve_model_data_config(model)["input_size"]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty((1, *size), device=device))
    return int(counter.get_total_flops()) // 2
