"""What can be configured about the app, and how much one request may ask for."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio

from cam_hub.errors import InvalidArgument
from cam_hub.models.loading import LoadLimits
from cam_hub.models.model_id import ModelId, parse_model_id
from cam_hub.sources.timm import DEFAULT_MODEL
from space.config.options import OPTIONS

__all__ = [
    "DESCRIBING",
    "FREE_SPACE",
    "SEARCHING",
    "Limits",
    "PhotoRules",
    "Resolver",
    "Settings",
    "example_photos",
]

Resolver = Callable[[str, int], Sequence[str]]
"""Takes a host and a port; returns the host's addresses, or raises OSError if there are none."""

SEARCHING: dict[str, Any] = {"concurrency_id": "search", "concurrency_limit": 4}
"""Searches wait for each other only, never for models."""

DESCRIBING: dict[str, Any] = {"concurrency_id": "facts", "concurrency_limit": 4}
"""Questions about models wait for each other only, never for models."""

SUGGESTED_MODELS = (
    "timm/resnet50.a1_in1k",
    "timm/convnext_tiny.in12k_ft_in1k",
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k",
    "timm/swin_tiny_patch4_window7_224.ms_in1k",
    "timm/mobilenetv3_large_100.ra_in1k",
    "torchvision/resnet50",
)
"""Models that the page offers after the default one; any other ID can be typed."""


FREE_SPACE = LoadLimits(
    parameters=700_000_000,
    download_bytes=4 * 10**9,
    free_disk_bytes=5 * 10**9,
    pickles=False,
    local=False,
    keep_restricted=False,
)
"""The models that a Space loads that costs nothing: 16 GB of memory, 50 GB of disk, two
slow cores. The largest ViTs in common use (632 million parameters, 2.5 GB) fit."""


@dataclass(frozen=True)
class PhotoRules:
    """What may be fetched.

    Attributes:
        allowed: Whether any are fetched.
        max_bytes: Bytes of the photo.
        connect_seconds: For each connection.
        read_seconds: Between two parts of an answer.
        total_seconds: For all of it, redirects included.
        redirects: How many are followed.
        resolve: Looks hosts up; None for the system's resolver.
        loopback: Whether this machine is allowed, too, at any port; for tests.
        trust: Which certificates are trusted; None for those that the system trusts.
    """

    allowed: bool = True
    max_bytes: int = 40 * 2**20
    connect_seconds: float = 5.0
    read_seconds: float = 5.0
    total_seconds: float = 15.0
    redirects: int = 5
    resolve: Resolver | None = field(default=None, repr=False)
    loopback: bool = False
    trust: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for, since strangers may send one.

    Attributes:
        max_samples: Noisy copies.
        max_passes: Images that pass the model for the maps of one method.
        max_classes: Classes to explain.
        max_layers: Target layers.
        max_models: Models beside each other.
        max_cells: Maps beside each other: models times methods, layers or classes.
        max_top: Predicted classes that ``/predict`` returns.
        max_pixels: Pixels of the photo.
        max_file_bytes: Bytes of the photo's file, uploaded or fetched.
        max_text: Characters of a model ID, a layer's name or a class.
        owners: Whose models on the Hub are loaded; None for all. Bare timm names are
            timm's; models that come with a package are on no Hub.
        by_url: Whether photos at URLs are fetched.
        urls: How they are.
        photo_rules: The same, with no more bytes than an upload may have; derived.
    """

    max_samples: int = 64
    max_passes: int = 4096
    max_classes: int = 10
    max_layers: int = 64
    max_models: int = 6
    max_cells: int = 64
    max_top: int = 100
    max_pixels: int = 64_000_000
    max_file_bytes: int = 40 * 2**20
    max_text: int = 300
    owners: tuple[str, ...] | None = None
    by_url: bool = True
    urls: PhotoRules = field(default_factory=PhotoRules)
    photo_rules: PhotoRules = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rules = replace(self.urls, max_bytes=self.max_file_bytes, allowed=self.by_url)
        object.__setattr__(self, "photo_rules", rules)

    def lets_load(self, id: ModelId) -> bool:
        """Whether the model's owner is one whose models are loaded."""
        if self.owners is None or id.kind not in ("hub", "timm") or str(id) == DEFAULT_MODEL:
            return True
        return (id.name.partition("/")[0] if id.kind == "hub" else "timm") in self.owners


@dataclass(frozen=True)
class Settings:
    """Configuration of one app.

    Attributes:
        default_model: The model that the page starts with, and the endpoint's default.
        device: Where models run; a word for ``cam_hub.load_model``.
        random_weights: Whether all models get random weights instead of trained ones. No network
            is needed then, and layers are found as ever, but what maps show means nothing; the
            page shows a notice.
        limits: How much one request may ask for.
        load_limits: What may be loaded; variables such as ``CAM_HUB_PARAMETERS`` change it.
        concurrency: How many requests use a model at the same time.
        queue_size: How many may wait.
        sessions: Of how many pages in browsers the last result is remembered.
        model_bytes: Bytes of weights that stay loaded.
        disk_bytes: Bytes of downloaded weights, uploads and results together that stay on the disk,
            in the caches of the Hub, of torch and of Gradio; None for any number.
        file_bytes: Bytes of uploads and results that stay.
        visitor_bytes: Bytes of the uploads of one visitor that stay.
        upload_bytes: Bytes of one upload, all its files together.
        cleaning_seconds: How often old files are looked for.
        keep_seconds: How long the files of a request are kept.
        host: The address of the server's socket.
        allowed_hosts: Further hosts under which it is reached, and whose pages may send requests.
        space_host: The host of the Space; empty if it follows from ``space_id``.
        space_id: ``owner/name`` when the app runs as a Hugging Face Space, else None.
        sign_in: Whether visitors can sign in with Hugging Face.
        zero_gpu: Whether the GPU is lent call by call (ZeroGPU); models are loaded on the CPU then.
    """

    default_model: str = DEFAULT_MODEL
    device: str = "auto"
    random_weights: bool = False
    limits: Limits = field(default_factory=Limits)
    load_limits: LoadLimits = field(default_factory=FREE_SPACE.from_environment)
    concurrency: int = 2
    queue_size: int = 64
    sessions: int = 1000
    model_bytes: int = 4 * 2**30
    disk_bytes: int | None = None
    file_bytes: int = 2**31
    visitor_bytes: int = 2**29
    upload_bytes: int = 84 * 2**20
    cleaning_seconds: int = 3600
    keep_seconds: int = 86400
    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    space_host: str = ""
    space_id: str | None = None
    sign_in: bool = False
    zero_gpu: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any], **others: Any) -> Settings:
        """Settings out of the values that ``space.config.options`` has read.

        Args:
            options: Values by the options' names.
            others: Other fields than options.

        Raises:
            ModelNotFound: If the default model's ID is none.
            InvalidArgument: If the app would not load its own default model.
        """
        settings = cls(load_limits=FREE_SPACE, **others)
        for option in OPTIONS:
            if option.field:
                settings = _changed(settings, option.field.split("."), options[option.name])
        id = parse_model_id(settings.default_model)
        if not settings.limits.lets_load(id):
            owners = ",".join(settings.limits.owners or ())
            raise InvalidArgument("owners", owners, f"one that includes the owner of {id}")
        return replace(settings, default_model=str(id))

    @property
    def model_choices(self) -> list[str]:
        """The IDs that the page offers, the default one first."""
        return list(dict.fromkeys((self.default_model, DEFAULT_MODEL, *SUGGESTED_MODELS)))


def _changed(settings: Any, path: Sequence[str], value: Any) -> Any:
    """Frozen settings in which one field, perhaps of a field, is another."""
    name, *rest = path
    return replace(
        settings, **{name: _changed(getattr(settings, name), rest, value) if rest else value}
    )


def example_photos() -> list[str]:
    """Paths of photos that are on this machine anyway, so that none needs a network."""
    own = Path(__file__).parents[1] / "examples"
    gradios = Path(gradio.__file__).parent / "media_assets" / "images"
    wanted = [
        own / "cat.jpg",
        gradios / "lion.jpg",
        own / "coffee.jpg",
        gradios / "cheetah1.jpg",
    ]
    return [str(path) for path in wanted if path.is_file()]
