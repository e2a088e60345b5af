"""What loading a model takes: the request, its limits, the facts known before, and a source."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from cam_hub._text import first_line
from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.hooks.memory import free_bytes
from cam_hub.models.model_id import ModelId
from cam_hub.models.repo_files import SAFE
from cam_hub.options import SWITCH_WORDS

if TYPE_CHECKING:
    from cam_hub.models.loaded_model import LoadedModel

__all__ = [
    "MAX_NAME",
    "MAX_TENSORS",
    "UNLIMITED",
    "FileFacts",
    "FloatType",
    "LoadLimits",
    "LoadRequest",
    "ModelFacts",
    "Progress",
    "Source",
    "check_fits",
    "check_limits",
    "check_memory",
    "format_bytes",
    "pick_device",
    "pick_dtype",
    "pick_stored",
]


MAX_TENSORS = 2**15
"""Maximum number of tensors in a file of weights. timm's largest networks have some thousands."""

MAX_NAME = 512
"""Maximum length of a tensor's name, in characters."""


@dataclass(frozen=True)
class LoadLimits:
    """What may be loaded.

    Attributes:
        parameters: Most parameters of a model; None for any number.
        download_bytes: Most bytes to fetch for one model; None for any number.
        free_disk_bytes: Bytes that must stay free on the disk that the model is fetched to.
        pickles: Whether weights that exist only as a pickle are read (by a reader that executes
            nothing), with a warning.
        local: Whether folders of this machine may be loaded.
        keep_restricted: Whether files of private and gated repos that a given token has opened
            stay in the disk cache. An app that serves several people sets False: such files are
            then downloaded to a separate folder, which is deleted once the model is built.
    """

    parameters: int | None = None
    download_bytes: int | None = None
    free_disk_bytes: int = 2**30
    pickles: bool = True
    local: bool = True
    keep_restricted: bool = True

    def __post_init__(self) -> None:
        for name in ("parameters", "download_bytes", "free_disk_bytes"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidArgument(name, value, "a number of at least 0")

    def from_environment(
        self, prefix: str = "CAM_HUB_", environ: Mapping[str, str] | None = None
    ) -> LoadLimits:
        """These limits, some of them replaced by environment variables.

        Args:
            prefix: In front of the names, which are the attributes' in capitals: for example
                ``CAM_HUB_DOWNLOAD_BYTES=2_000_000_000``, ``CAM_HUB_PARAMETERS=none``,
                ``CAM_HUB_PICKLES=off``. Empty values count as not given.
            environ: The variables; those of this process if left out.

        Raises:
            InvalidArgument: If a variable does not hold what its limit takes.
        """
        variables = os.environ if environ is None else environ
        changes = {
            field.name: _read(prefix + field.name.upper(), text, getattr(UNLIMITED, field.name))
            for field in fields(self)
            if (text := variables.get(prefix + field.name.upper(), "").strip())
        }
        return replace(self, **changes)  # type: ignore[arg-type]


def _read(name: str, text: str, default: bool | int | None) -> bool | int | None:
    """A limit out of its variable, of the kind that its default is of."""
    if isinstance(default, bool):
        if text.lower() not in SWITCH_WORDS:
            raise InvalidArgument(name, text, "'on' or 'off'")
        return SWITCH_WORDS[text.lower()]
    if default is None and text.lower() == "none":
        return None
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        other = " or 'none'" if default is None else ""
        raise InvalidArgument(name, text, f"a whole number of at least 0{other}")
    return number


UNLIMITED = LoadLimits()
"""The limits for loading on a machine of your own."""


_BYTES_PER_PARAMETER = 4
"""The size in float32, the default type of stored weights."""


def check_limits(facts: ModelFacts, limits: LoadLimits, folder: Path | None = None) -> None:
    """Raises ``ModelRefused`` if a model exceeds the limits.

    Args:
        facts: Facts about the model. Unknown values do not count, except that the number of
            parameters is then estimated from the bytes of the weights.
        limits: The limits.
        folder: The folder of its files; it need not exist yet.

    Raises:
        ModelRefused: With the number and the limit.
    """
    parameters, about, fetch = facts.parameters, "", facts.fetch_bytes
    if parameters is None and facts.weights_bytes is not None:
        parameters, about = facts.weights_bytes // _BYTES_PER_PARAMETER, "about "
    if _exceeds(parameters, limits.parameters):
        raise ModelRefused(
            facts.id,
            f"it has {about}{parameters:,} parameters, and at most {limits.parameters:,} are "
            "loaded here. A smaller model works.",
        )
    if _exceeds(fetch, limits.download_bytes):
        raise ModelRefused(
            facts.id,
            f"{format_bytes(fetch)} would have to be fetched for it, and at most "
            f"{format_bytes(limits.download_bytes)} are fetched here. A smaller model works.",
        )
    if fetch and folder is not None:
        free = _free(folder)
        if free - fetch < limits.free_disk_bytes:
            raise ModelRefused(
                facts.id,
                f"{format_bytes(fetch)} would have to be fetched for it, of {format_bytes(free)} "
                "that are free on the disk of the cache, and "
                f"{format_bytes(limits.free_disk_bytes)} must stay free.",
            )


def check_fits(facts: ModelFacts, request: LoadRequest) -> None:
    """Raises ``ModelRefused`` if weights cannot fit into memory, as far as facts show it.

    Args:
        facts: Facts about the model.
        request: The type of the weights and the device that were asked for.

    Raises:
        ModelRefused: As ``check_memory``.
    """
    numbers, mapped = facts.parameters or 0, (facts.weights_file or "").endswith(SAFE)
    if not mapped:  # drawn, or unpickled, in float32
        needed = numbers * torch.float32.itemsize
    elif isinstance(request.dtype, torch.dtype):
        needed = numbers * request.dtype.itemsize
    else:
        needed = facts.weights_bytes or 0
    check_memory(facts.id, needed, request.device)


def check_memory(id: str, needed: int, device: torch.device) -> None:
    """Raises ``ModelRefused`` if weights do not fit into the free memory of a device.

    Args:
        id: The model's ID.
        needed: Their bytes.
        device: Where they are to be.

    Raises:
        ModelRefused: With the memory that they need and what is free.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise ModelRefused(
            id,
            f"its weights take {format_bytes(needed)}, and {format_bytes(free)} of memory are free "
            f"on {str(device)!r}. A smaller type (load_model(…, dtype='bfloat16')), a device with "
            "more memory or a smaller model may work.",
        )


def format_bytes(count: int | None) -> str:
    """A number of bytes, for people: ``"97.8 MB"``."""
    if count is None:
        return "an unknown number of bytes"
    if count < 1000:
        return f"{count} bytes"
    size, unit = float(count), "bytes"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007
        size /= 1000
        if size < 999.95:
            break
    return f"{size:.1f} {unit}"


def _exceeds(number: int | None, limit: int | None) -> bool:
    return number is not None and limit is not None and number > limit


def _free(folder: Path) -> int:
    """The free bytes on the disk of a folder, which need not exist."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class FileFacts:
    """One file of a repo.

    Attributes:
        name: Its path inside the repo.
        size: Its bytes, or None if the Hub does not state them.
        digest: The digest of its content: 64 hexadecimal digits are its SHA-256, 40 its SHA-1 in
            git. None if the Hub does not state it.
    """

    name: str
    size: int | None = None
    digest: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """A model, described without loading it. Unknown values are None.

    Attributes:
        id: Its ID.
        source: Which source it would come from (``"hub"``, ``"torchvision"``, ``"embedded"``,
            ``"timm"``).
        revision: What exactly would be loaded: a commit, or the name of the weights.
        parameters: How many numbers its weights are.
        weights_file: The file that would be read.
        weights_bytes: Bytes of that file.
        fetch_bytes: Bytes that ``load_model`` would have to fetch; files that are already on this
            machine do not count.
        licence: As its authors name it, for example ``"apache-2.0"``.
        gated: Whether its terms must be accepted first.
        private: Whether only some accounts see it.
        disabled: Whether the Hub has taken it out of service.
        library: The library that its authors made it with.
        tags: Its tags on the Hub.
        downloads: Downloads of the last 30 days.
        input_size: Channels, rows and columns of its input, where they are known without loading
            it.
        class_names: One label per class, where they are known without loading it.
        refusal: Why ``load_model`` with the same limits and token would refuse it; None if no
            reason is known.
        files: Everything in its repo.
        fresh: False if the Hub could not be reached and this is from the local cache.
    """

    id: str
    source: str
    revision: str | None = None
    parameters: int | None = None
    weights_file: str | None = None
    weights_bytes: int | None = None
    fetch_bytes: int | None = None
    licence: str | None = None
    gated: bool = False
    private: bool = False
    disabled: bool = False
    library: str | None = None
    tags: tuple[str, ...] = ()
    downloads: int | None = None
    input_size: tuple[int, ...] | None = None
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    refusal: str | None = None
    files: tuple[FileFacts, ...] = field(default=(), repr=False)
    fresh: bool = True

    @property
    def restricted(self) -> bool:
        """Whether access to it is restricted."""
        return self.gated or self.private

    def file(self, name: str) -> FileFacts | None:
        """The file of this name, if the repo has it."""
        return next((file for file in self.files if file.name == name), None)


Progress = Callable[[float, str], None]
"""Called with the part of the work that is done, in [0, 1], and a few words."""


FloatType = torch.dtype | Literal["auto", "stored"]
"""The type of a network's weights, or what determines it."""


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
        dtype: The floating-point type of its weights.
    """

    id: ModelId
    pretrained: bool
    device: torch.device
    token: str | bool | None = field(default=None, repr=False)
    limits: LoadLimits = UNLIMITED
    progress: Progress | None = None
    dtype: FloatType = "auto"

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
        raise InvalidArgument(
            "device", device, f"{expected} (torch: {first_line(error)})"
        ) from None
    if chosen.type == "meta":
        raise InvalidArgument("device", device, expected)
    return chosen


_HALF = (torch.float16, torch.bfloat16)
_DTYPES = {str(kind).removeprefix("torch."): kind for kind in (torch.float32, *_HALF)}

_LARGE = 500_000_000
"""Networks of at least so many numbers stay in the half precision in which they are stored. On most
CPUs the smaller ones are faster in float32, many times so in float16, and need little memory."""


def pick_dtype(dtype: object) -> FloatType:
    """The type of weights that a word, or a type of torch's, stands for.

    Raises:
        InvalidArgument: If it stands for none.
    """
    if dtype == "auto" or dtype == "stored":  # noqa: PLR1714 (so that the type is narrowed)
        return dtype
    found = _DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        words = ", ".join(f"'{word}'" for word in _DTYPES)
        raise InvalidArgument("dtype", dtype, f"'auto', 'stored', {words} or one of torch's types")
    return found


def pick_stored(dtype: FloatType, tensors: Iterable[torch.Tensor]) -> torch.dtype:
    """The type that a network's weights get.

    Args:
        dtype: The type that was asked for.
        tensors: The stored weights.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        if tensor.is_floating_point():
            counts[tensor.dtype] += tensor.numel()
    stored = max(counts, key=counts.__getitem__, default=torch.float32)
    keeps = dtype == "stored" or counts.total() >= _LARGE
    return stored if stored in _HALF and keeps else torch.float32
