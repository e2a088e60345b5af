"""torchvision's checkpoints: fetched, checked, and only then handed to torchvision."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import torch.hub
import torchvision.models as zoo

from cam_hub._version import __version__
from cam_hub.errors import InvalidArgument, ModelRefused
from cam_hub.models.faults import Sender, plain_faults
from cam_hub.models.loaded_model import Request
from cam_hub.models.repos.checkpoint import load_pickle
from cam_hub.sources.reporting import Report, caller_may_stop, poll_of
from cam_hub.sources.transfer import Parcel, alone, receive

__all__ = ["fetch_weights", "weights_bytes", "weights_file"]

_MIRROR = "CAM_HUB_TORCHVISION_URL"
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.")

_ADVICE = (
    "A checkpoint that lies in torch's hub folder ($TORCH_HOME/hub/checkpoints) is used without "
    f"a network, and {_MIRROR} names a mirror."
)
_SENDER = Sender(
    name="its server",
    folder="torch's hub folder",
    setting="TORCH_HOME",
    lost=_ADVICE,
    advice=_ADVICE,
)


def weights_file(weights: zoo.Weights) -> Path:
    """Where torch keeps a checkpoint, whether it is there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(weights.url).path).name


def weights_bytes(weights: zoo.Weights) -> int:
    """About how many bytes a checkpoint has."""
    return int(weights.meta["_file_size"] * 2**20)


def fetch_weights(request: Request, weights: zoo.Weights) -> None:
    """Sees to it that a checkpoint is where torchvision looks for it, and holds only tensors.

    One that is there already is used without a network. Others come from where torchvision says,
    or from the mirror that ``CAM_HUB_TORCHVISION_URL`` names in place of the scheme and the host
    (``https://mirror.example/pytorch`` for ``https://download.pytorch.org``).

    torchvision itself reads its checkpoints by a reader that executes what it reads; so a reader
    that does not goes first.

    Raises:
        HubUnavailable: If it has to be fetched and cannot be.
        ModelRefused: If it is damaged, or holds anything else than tensors.
        InvalidArgument: If the mirror is no address.
    """
    id, path = str(request.id), weights_file(weights)
    if not path.is_file():
        _fetch(request, weights, path)
    try:
        with caller_may_stop():
            load_pickle(id, path, poll_of(id, request.progress))
    except ModelRefused as error:
        raise ModelRefused(
            id,
            f"{error.reason} Once it is removed from torch's hub folder it is fetched again.",
        ) from error


def _fetch(request: Request, weights: zoo.Weights, path: Path) -> None:
    """Fetches a checkpoint, unless another program does so meanwhile."""
    id, size = str(request.id), weights_bytes(weights)
    digest = _DIGEST.search(path.name)
    if digest is None:
        raise ModelRefused(id, f"its file {path.name} does not name its digest.")
    parcel = Parcel(
        id,
        path.name,
        _address(weights.url),
        size,
        digest[1],
        _SENDER,
        exact=False,
        headers={"User-Agent": f"cam_hub/{__version__}"},
    )
    with caller_may_stop(), plain_faults(id, _SENDER):
        told = Report(id, size, request.progress).file(size)
        with alone(path, path.with_name(f".{path.name}.lock"), told):
            if not path.is_file():
                receive(parcel, path, told)


def _address(url: str) -> str:
    """Where to fetch from."""
    mirror = os.environ.get(_MIRROR, "").strip().rstrip("/")
    if not mirror:
        return url
    parts = urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidArgument(_MIRROR, mirror, "an address such as 'https://mirror.example'")
    return f"{mirror}{urlsplit(url).path}"
