"""The time in a fresh process to import cam_hub, and to the first map of a model on the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.engine.pictures import write_pictures
from bench.engine.timing import Spread

__all__ = ["measure_cold", "measure_import"]

_ROOT = Path(__file__).resolve().parents[2]

_ENOUGH = 60.0
"""Seconds after which no further round begins."""

_IMPORT = "import cam_hub"

_FIRST_MAP = """
import cam_hub
from pathlib import Path
model = cam_hub.load_model(Path({folder!r}), device="cpu")
cam_hub.explain(model, {photo!r}, method="layercam").cam()
"""

# The same without cam_hub, as in timm's documentation.
_FIRST_FORWARD = """
import timm, torch
from PIL import Image
model = timm.create_model("local-dir:" + {folder!r}, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    model(transform(Image.open({photo!r}).convert("RGB"))[None])
"""

_TIMED = """
import time
start = time.perf_counter()
exec({code!r})
print(time.perf_counter() - start)
"""


def measure_import(rounds: int) -> Spread:
    """Seconds of ``import cam_hub`` in a fresh process.

    Raises:
        RuntimeError: If it fails.
        subprocess.TimeoutExpired: If it takes minutes.
    """
    start = time.perf_counter()
    found: list[float] = []
    while len(found) < rounds and (not found or time.perf_counter() - start < _ENOUGH):
        found.append(_seconds(_IMPORT, {}))
    return Spread.of(found)


def measure_cold(network: str, rounds: int) -> tuple[Spread, Spread, Spread]:
    """The time to the first map of a fresh process, compared with the first forward pass of one.

    The model is in a folder saved by timm, and has been explained before on this machine, so that
    its layers are cached.

    Args:
        network: Its name in timm.
        rounds: Maximum number of counted rounds; a first one is not counted.

    Returns:
        Seconds to the first map, seconds to the first forward pass, and their ratio, round by
        round.

    Raises:
        RuntimeError: If a process fails.
        subprocess.TimeoutExpired: If a process takes minutes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, photo = Path(name) / "model", write_pictures(Path(name) / "photos", 1)[0]
        _save(network, folder)
        names = {"folder": str(folder), "photo": str(photo)}
        environment = {"CAM_HUB_CACHE": str(Path(name) / "cache"), "OMP_NUM_THREADS": "1"}
        maps: list[float] = []
        forwards: list[float] = []
        start = time.perf_counter()
        for number in range(rounds + 1):
            if maps and time.perf_counter() - start > _ENOUGH:
                break
            ours = _seconds(_FIRST_MAP.format(**names), environment)
            plain = _seconds(_FIRST_FORWARD.format(**names), environment)
            if number:
                maps.append(ours)
                forwards.append(plain)
    ratios = [one / other for one, other in zip(maps, forwards, strict=True)]
    return Spread.of(maps), Spread.of(forwards), Spread.of(ratios)


def _save(network: str, folder: Path) -> None:
    import timm  # noqa: PLC0415 - seconds, which the measured processes pay for themselves
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    module = timm.create_model(network)
    timm.models.save_for_hf(module, str(folder), safe_serialization=True)


def _seconds(code: str, environment: dict[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(code=code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=_ROOT,
        env={**os.environ, **environment},
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout.split()[-1])
