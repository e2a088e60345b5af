"""Checkpoints: tensors by name, prefixes removed, compared with the network."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import re
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from timm.models import clean_state_dict
from torch import Tensor, nn

from cam_hub._text import first_line
from cam_hub.errors import ModelRefused
from cam_hub.models.loading import MAX_NAME, MAX_TENSORS
from cam_hub.models.pickle_scan import PICKLE_BYTES, scan_pickles
from cam_hub.models.repo_files import SAFE

__all__ = [
    "HEADER_BYTES",
    "PickleWarning",
    "check_finite",
    "load_pickle",
    "pickle_notes",
    "read_content",
    "tensors_in",
    "unwrap",
    "without_prefixes",
]


_MAX_PARTS = 32
"""Maximum number of parts of a name, between dots, that are tried as a prefix."""

_MIN_SHARE = 0.5
"""Minimum share of the architecture's names that one prefix must stand before."""

_AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|averaged?)(?:[._]|$)|_ema|ema_", re.IGNORECASE)


def without_prefixes(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor] | Mapping[str, Any]
) -> dict[str, Tensor] | None:
    """Finds an architecture's weights among tensors by what their names end in.

    The prefix before most of the architecture's names is that of the network; averaged weights
    come first where several copies are as complete. A weight that the prefix lacks (a head beside
    its backbone) is taken from the only other place that has its name and shape. Takes time
    linear in the length of all names.

    Args:
        tensors: Everything that a file holds, by name.
        expected: The architecture's own parameters and buffers.

    Returns:
        Tensors by the architecture's names, together with others under the same prefix where the
        match is not complete; None if no prefix stands before enough of the names.
    """
    fits = {name: _prefixes(name, tensor, expected) for name, tensor in tensors.items()}
    counts = Counter(prefix for prefixes in fits.values() for prefix in prefixes)
    if not counts:
        return None
    max_count = max(counts.values())
    if max_count < _MIN_SHARE * len(expected):
        return None
    equal = [prefix for prefix, count in counts.items() if count == max_count]
    chosen = next(filter(_AVERAGED.search, equal), equal[0])
    found = {
        name.removeprefix(chosen): tensor
        for name, tensor in tensors.items()
        if name.startswith(chosen)
    }
    found |= _under_other_prefixes(tensors, fits, expected.keys() - found.keys())
    if expected.keys() <= found.keys():
        return {name: found[name] for name in expected}
    return found


def _prefixes(name: str, tensor: Tensor, expected: Mapping[str, Any]) -> list[str]:
    """What stands before one of the architecture's names in a tensor's name, if the shape fits."""
    found = []
    start = 0
    for _ in range(_MAX_PARTS):
        own = expected.get(name[start:])
        if own is not None and own.shape == tensor.shape:
            found.append(name[:start])
        start = name.find(".", start) + 1
        if start == 0:
            break
    return found


def _under_other_prefixes(
    tensors: Mapping[str, Tensor], fits: Mapping[str, list[str]], missing: Collection[str]
) -> dict[str, Tensor]:
    """Missing weights that exist under exactly one other prefix."""
    places: dict[str, list[str]] = {}
    for name, prefixes in fits.items():
        for prefix in prefixes:
            if (own := name[len(prefix) :]) in missing:
                places.setdefault(own, []).append(name)
    return {own: tensors[names[0]] for own, names in places.items() if len(names) == 1}


_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training programs keep the weights; averaged ones first, as timm has it."""

_WRAPPED_BY_TRANSFORMERS = "timm_model."

_DIRECTORY_BYTES = 2**22
"""Longer lists of an archive's files are not read; one of 10,000 tensors takes some 1.2 MB."""

HEADER_BYTES = 2**24
"""Longer headers are not read. One of 10,000 tensors takes some 1.2 MB."""

_OLD_PICKLES = 5  # in torch's old format: magic number, version, system, content, storages

_MAX_DEPTH = 8  # of tables in tables
_MAX_OBJECTS = 2**20  # in them

_MAX_SHARING = 16
"""Tensors may share bytes of the file: the maximum ratio of their total size to the file's."""

_WORKERS = min(8, os.cpu_count() or 1)
"""Threads that look for broken weights, each at another one."""

_SAFE_GLOBALS_LOCK = threading.Lock()  # torch keeps the list of harmless classes once per process


class PickleWarning(UserWarning):
    """Weights are read from a pickle, since the repo has no safetensors file."""


def pickle_notes(id: str, name: str) -> tuple[str, ...]:
    """The notes for users of the weights in a file: none, unless it is a pickle.

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


def read_content(id: str, path: Path, *, pickles: bool, poll: Callable[[], None]) -> object:
    """Reads a file of weights: safetensors, or a pickle by a reader that executes nothing.

    The tensors are mapped from the file where its format allows it, so that they cost no memory
    until they are used.

    Args:
        id: The model's ID, for messages.
        path: The file; its ending determines the format.
        pickles: Whether a pickle is read, with a :class:`PickleWarning`.
        poll: Called now and then; an error that it raises ends the reading.

    Returns:
        The whole content, for :func:`unwrap`.

    Raises:
        ModelRefused: If it is damaged, lies about its content, holds anything else than weights,
            or is a pickle and must not be.
    """
    if path.name.endswith(SAFE):
        return _read_safetensors(id, path, poll)
    if not pickles:
        raise ModelRefused(
            id,
            f"its weights exist only as a pickle ({path.name}), which is not read here. Its owner "
            "can save them as model.safetensors.",
        )
    for note in pickle_notes(id, path.name):
        warnings.warn(note, PickleWarning, stacklevel=3)
    return load_pickle(id, path, poll)


def load_pickle(id: str, path: Path, poll: Callable[[], None] = lambda: None) -> object:
    """Reads a pickle of torch's by the reader that executes nothing.

    Raises:
        ModelRefused: If it is damaged, too large once unpacked, or asks for anything that is no
            tensor or plain container.
    """
    try:
        mapped = _is_plain_archive(path)
        if mapped:
            reader = torch._C.PyTorchFileReader(str(path))
            scan_pickles(reader.get_record("data.pkl"), 1, poll)
        else:
            with path.open("rb") as file:
                scan_pickles(file.read(PICKLE_BYTES), _OLD_PICKLES, poll)
        # What timm's own training program leaves in a checkpoint beside the weights.
        with _SAFE_GLOBALS_LOCK, torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except ValueError as error:
        raise ModelRefused(
            id, f"its file {path.name} was not read: {_first_line(error)}."
        ) from None
    except pickle.UnpicklingError as error:
        raise ModelRefused(
            id,
            f"its file {path.name} is not a plain pickle of tensors ({_first_line(error)}). "
            "Nothing in it was executed.",
        ) from None
    except Exception as error:  # whatever a damaged file makes torch raise
        raise ModelRefused(
            id, f"its file {path.name} is damaged, or no file of torch's ({_first_line(error)})."
        ) from error
    return content


def check_finite(id: str, module: nn.Module, poll: Callable[[], None] = lambda: None) -> None:
    """Refuses a loaded network with weights that are not finite.

    Raises:
        ModelRefused: If a parameter holds NaN or infinity, or a buffer holds NaN. (Buffers may be
            infinite: bounds, masks.)
    """
    checks: list[tuple[str, Callable[[Tensor], bool], Tensor]]
    checks = [(name, _is_not_finite, tensor) for name, tensor in module.named_parameters()]
    checks += [(name, _has_nan, tensor) for name, tensor in module.named_buffers()]
    broken = []
    # Weights that are mapped from a file are read here for the first time.
    with ThreadPoolExecutor(_WORKERS) as workers:
        try:
            results = workers.map(lambda check: check[1](check[2]), checks)
            for (name, _, _), bad in zip(checks, results, strict=True):
                poll()
                if bad:
                    broken.append(name)
        finally:
            workers.shutdown(cancel_futures=True)
    if broken:
        raise ModelRefused(
            id,
            f"{len(broken)} of its weights hold NaN or infinite values, the first "
            f"{broken[0]!r}: the training that made them diverged, or the file is damaged.",
        )


def unwrap(
    id: str, path: Path, content: object, poll: Callable[[], None] = lambda: None
) -> dict[str, Tensor]:
    """The weights in what a file holds, where training programs usually put them.

    Raises:
        ModelRefused: If there are none, or other tensors than plain ones.
    """
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise ModelRefused(
            id, f"its file {path.name} holds a {type(content).__name__} instead of named weights."
        )
    weights = {name: item for name, item in content.items() if isinstance(item, Tensor)}
    if not all(isinstance(name, str) for name in weights):
        raise ModelRefused(id, f"its file {path.name} holds no named weights.")
    if not weights:
        return tensors_in(id, path, content, poll)
    _check_tensors(id, path, weights)
    clean: dict[str, Any] = clean_state_dict(weights)
    if all(name.startswith(_WRAPPED_BY_TRANSFORMERS) for name in clean):
        clean = {name.removeprefix(_WRAPPED_BY_TRANSFORMERS): clean[name] for name in clean}
    return clean


def tensors_in(
    id: str, path: Path, content: object, poll: Callable[[], None] = lambda: None
) -> dict[str, Tensor]:
    """All tensors in tables within tables, by their keys with dots between.

    Raises:
        ModelRefused: If there are none, too many, or other tensors than plain ones.
    """
    found: dict[str, Tensor] = {}
    objects = 0
    todo: list[tuple[str, object, int]] = [("", content, 0)]
    while todo:
        name, item, depth = todo.pop()
        objects += 1
        if objects > _MAX_OBJECTS or len(found) > MAX_TENSORS:
            raise ModelRefused(id, f"its file {path.name} holds far more than weights.")
        if objects % 4096 == 0:
            poll()
        if isinstance(item, Tensor):
            found[name] = item
        elif isinstance(item, Mapping) and depth < _MAX_DEPTH:
            # In reverse, so that they come off the stack in their order.
            todo += [
                (f"{name}.{key}" if name else key, value, depth + 1)
                for key, value in reversed(list(item.items()))
                if isinstance(key, str) and isinstance(value, (Tensor, Mapping))
                if len(name) + len(key) < MAX_NAME
            ]
    if not found:
        raise ModelRefused(id, f"its file {path.name} holds no named weights.")
    _check_tensors(id, path, found)
    return found


def _read_safetensors(id: str, path: Path, poll: Callable[[], None]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped from it; takes time linear in its header's size."""
    try:
        header = _header(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise ValueError(f"it has {len(names):,} tensors, more than {MAX_TENSORS:,}")
            _refuse_repeated(header)
            tensors = {}
            for name in names:
                if len(name) > MAX_NAME:
                    raise ValueError(f"the name {name[:60]!r}… has more than {MAX_NAME} characters")
                tensors[name] = file.get_tensor(name)
                poll()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ModelRefused(id, f"its file {path.name} cannot be read ({why}).") from None
    except Exception as error:  # noqa: BLE001 - whatever the library and torch raise
        raise ModelRefused(
            id, f"its file {path.name} was not read: {_first_line(error)}."
        ) from None
    return tensors


def _header(path: Path) -> bytes:
    """The text of the header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > size - 8:
            raise ValueError(
                f"its header claims {length:,} bytes, of a file of {size:,}: it is not a "
                "safetensors file, or cut short"
            )
        if length > HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes, more than {HEADER_BYTES:,}")
        return file.read(length)


def _refuse_repeated(header: bytes) -> None:
    """Refuses a name that occurs twice in any object of a header that is known to be valid."""

    def check_names(pairs: list[tuple[str, Any]]) -> None:
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                raise ValueError(f"its header names {name[:80]!r} twice")

    json.loads(header, object_pairs_hook=check_names)


class _Directory(io.RawIOBase):
    """A file whose reader may not ask for more at once than a list of files takes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, count: int = -1) -> bytes:
        found = self._file.read(min(count, _DIRECTORY_BYTES) if count >= 0 else _DIRECTORY_BYTES)
        if len(found) == _DIRECTORY_BYTES:
            raise ValueError("it is an archive of far more files than weights need")
        return found

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _is_plain_archive(path: Path) -> bool:
    """Whether torch can map the file: a zip archive of its own, nothing in it compressed.

    Raises:
        ValueError: If it is an archive that unpacks to more than it is, or of too many files.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(_Directory(file)) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError):
            return False
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is a compressed archive, which torch does not write")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("it unpacks to more bytes than it has")
    if any(entry.file_size > PICKLE_BYTES for entry in entries if entry.filename.endswith(".pkl")):
        raise ValueError("its instructions are far longer than those of a network")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError("it is an archive with two files of one name")
    return True


def _check_tensors(id: str, path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuses too many tensors, names too long, and tensors that are not what they claim.

    A few bytes may be repeated to large tensors (strides of 0), or a tensor may have no bytes.
    """
    if len(weights) > MAX_TENSORS:
        raise ModelRefused(
            id,
            f"its file {path.name} has {len(weights):,} tensors, more than {MAX_TENSORS:,}.",
        )
    if (name := max(weights, key=len))[MAX_NAME:]:
        raise ModelRefused(
            id,
            f"in its file {path.name}, the name {name[:60]!r}… has more than {MAX_NAME} "
            "characters.",
        )
    size = path.stat().st_size
    sizes = {name: item.numel() * item.element_size() for name, item in weights.items()}
    largest = max(sizes, key=sizes.__getitem__)
    for name, item in weights.items():
        if item.layout != torch.strided or item.is_meta or item.is_quantized:
            raise ModelRefused(
                id, f"in its file {path.name}, {name[:80]!r} is not a plain dense tensor."
            )
    if sizes[largest] > size or sum(sizes.values()) > _MAX_SHARING * size:
        raise ModelRefused(
            id,
            f"its file {path.name} of {size:,} bytes claims {sum(sizes.values()):,} bytes of "
            f"tensors, {sizes[largest]:,} of them in {largest[:80]!r}.",
        )


def _is_not_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return False
    # A sum is several times as fast, and hides neither NaN nor infinity; it may overflow.
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return not bool(tensor.sum(dtype=wide).isfinite()) and not bool(tensor.isfinite().all())


def _has_nan(tensor: Tensor) -> bool:
    return _is_not_finite(tensor) and bool(tensor.isnan().any())


def _first_line(error: BaseException) -> str:
    """The message of an error, without the paths and the advice that torch adds to it."""
    return first_line(error).split(". ")[0][:160]
