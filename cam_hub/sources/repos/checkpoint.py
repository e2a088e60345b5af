"""Weights out of a file that anybody may have written: read without executing anything."""

from __future__ import annotations

import argparse
import os
import pickle
import threading
import warnings
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor, nn

from cam_hub.errors import ModelRefused
from cam_hub.sources.repos.safetensors_file import check_header
from cam_hub.sources.repos.weight_files import SAFE

__all__ = ["PickleWarning", "load_pickle", "pickle_notes", "read_checkpoint", "refuse_broken"]

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training programs keep the weights; averaged ones first, as timm has it."""

_WRAPPED_BY_TRANSFORMERS = "timm_model."

_INSTRUCTIONS = 2**26  # bytes of a pickle without its tensors

_SHARED = 16
"""Tensors may share bytes of the file; all of them together are at most so many times as large."""

_HANDS = min(8, os.cpu_count() or 1)
"""Threads that look for broken weights, each at another one."""

_TRUSTED = threading.Lock()  # torch keeps the list of harmless classes once per process


class PickleWarning(UserWarning):
    """Weights are read from a pickle, since the repo has no safetensors file."""


def pickle_notes(id: str, name: str) -> tuple[str, ...]:
    """What those who use weights out of a file should be told: nothing, if it is no pickle.

    Args:
        id: The model's ID.
        name: The file's name.
    """
    if name.endswith(SAFE):
        return ()
    return (
        f"The weights of {id} come as a pickle ({name}). It is read without executing anything in "
        "it; safetensors is the safer format.",
    )


def read_checkpoint(id: str, path: Path, *, pickles: bool) -> dict[str, Tensor]:
    """Reads weights: safetensors, or a pickle by a reader that executes nothing.

    The tensors are mapped from the file where its format allows it, so that they cost no memory
    until they are used.

    Args:
        id: The model's ID, for messages.
        path: Of the file; its ending says which format it has.
        pickles: Whether a pickle is read; a :class:`PickleWarning` tells of it.

    Returns:
        Tensors by name, out of the wrapping that training programs put around them.

    Raises:
        ModelRefused: If it is damaged, lies about its content, holds anything else than weights,
            or is a pickle and must not be.
    """
    if path.name.endswith(SAFE):
        content: object = _read_safetensors(id, path)
    elif pickles:
        for note in pickle_notes(id, path.name):
            warnings.warn(note, PickleWarning, stacklevel=2)
        content = load_pickle(id, path)
    else:
        raise ModelRefused(
            id,
            f"its weights exist only as a pickle ({path.name}), which is not read here. Its owner "
            "can save them as model.safetensors.",
        )
    return _unwrap(id, path, content)


def load_pickle(id: str, path: Path) -> object:
    """Reads a pickle of torch's by the reader that executes nothing.

    Raises:
        ModelRefused: If it is damaged, too large once unpacked, or asks for anything that is no
            tensor or plain container.
    """
    try:
        mapped = _is_plain_archive(path)
        # What timm's own training program leaves in a checkpoint beside the weights.
        with _TRUSTED, torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except ValueError as error:
        raise ModelRefused(id, f"its file {path.name} was not read: {error}.") from None
    except pickle.UnpicklingError as error:
        raise ModelRefused(
            id,
            f"its file {path.name} is no plain pickle of tensors ({_first_line(error)}). Nothing "
            "in it was executed.",
        ) from None
    except Exception as error:  # whatever a damaged file makes torch raise
        raise ModelRefused(
            id, f"its file {path.name} is damaged, or no file of torch's ({_first_line(error)})."
        ) from error
    return content


def refuse_broken(id: str, module: nn.Module) -> None:
    """Refuses a loaded network with weights that are no numbers.

    Raises:
        ModelRefused: If a parameter holds NaN or infinity, or a buffer holds NaN. (Buffers may be
            infinite: bounds, masks.)
    """
    checks: list[tuple[str, Callable[[Tensor], bool], Tensor]]
    checks = [(name, _is_broken, tensor) for name, tensor in module.named_parameters()]
    checks += [(name, _has_nan, tensor) for name, tensor in module.named_buffers()]
    # Weights that are mapped from a file are read here for the first time.
    with ThreadPoolExecutor(_HANDS) as hands:
        verdicts = hands.map(lambda check: check[1](check[2]), checks)
        broken = [name for (name, _, _), bad in zip(checks, verdicts, strict=True) if bad]
    if broken:
        raise ModelRefused(
            id,
            f"{len(broken)} of its weights hold NaN or infinite values, the first "
            f"{broken[0]!r}: the training that made them diverged, or the file is damaged.",
        )


def _read_safetensors(id: str, path: Path) -> dict[str, Tensor]:
    try:
        check_header(path)
        return dict(load_file(path))
    except (ValueError, SafetensorError) as error:
        raise ModelRefused(
            id, f"its file {path.name} was not read: {_first_line(error)}."
        ) from None
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ModelRefused(id, f"its file {path.name} cannot be read ({why}).") from None


def _is_plain_archive(path: Path) -> bool:
    """Whether torch can map the file: a zip archive of its own, nothing in it compressed.

    Raises:
        ValueError: If it is an archive that unpacks to more than it is.
    """
    if not zipfile.is_zipfile(path):
        return False
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is a compressed archive, which torch does not write")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("it unpacks to more bytes than it has")
    if any(entry.file_size > _INSTRUCTIONS for entry in entries if entry.filename.endswith(".pkl")):
        raise ValueError("its instructions are far longer than those of a network")
    return True


def _unwrap(id: str, path: Path, content: object) -> dict[str, Tensor]:
    """The weights in what a file held."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise ModelRefused(
            id, f"its file {path.name} holds a {type(content).__name__} instead of named weights."
        )
    weights = {name: item for name, item in content.items() if isinstance(item, Tensor)}
    if not weights or not all(isinstance(name, str) for name in weights):
        raise ModelRefused(id, f"its file {path.name} holds no named weights.")
    _refuse_swollen(id, path, weights)
    clean: dict[str, Any] = clean_state_dict(weights)
    if all(name.startswith(_WRAPPED_BY_TRANSFORMERS) for name in clean):
        clean = {name.removeprefix(_WRAPPED_BY_TRANSFORMERS): clean[name] for name in clean}
    return clean


def _refuse_swollen(id: str, path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuses tensors that a few bytes are repeated to (strides of 0), or that have no bytes."""
    size = path.stat().st_size
    sizes = {name: item.numel() * item.element_size() for name, item in weights.items()}
    largest = max(sizes, key=sizes.__getitem__)
    odd = next((name for name, item in weights.items() if _is_odd(item)), None)
    if odd is not None:
        raise ModelRefused(id, f"in its file {path.name}, {odd[:80]!r} is no plain dense tensor.")
    if sizes[largest] > size or sum(sizes.values()) > _SHARED * size:
        raise ModelRefused(
            id,
            f"its file {path.name} of {size:,} bytes claims {sum(sizes.values()):,} bytes of "
            f"tensors, {sizes[largest]:,} of them in {largest[:80]!r}.",
        )


def _is_odd(tensor: Tensor) -> bool:
    return tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized


def _is_broken(tensor: Tensor) -> bool:
    # A sum is several times as fast, and hides neither NaN nor infinity; it may overflow.
    if not tensor.is_floating_point() or bool(tensor.sum(dtype=_wide(tensor)).isfinite()):
        return False
    return not bool(tensor.isfinite().all())


def _has_nan(tensor: Tensor) -> bool:
    return _is_broken(tensor) and bool(tensor.isnan().any())


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _first_line(error: BaseException) -> str:
    """What an error says, without the paths and the advice that torch adds to it."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0][:160]
