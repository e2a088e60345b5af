"""The time of loading: by timm, by cam_hub, and the lower bound.

    python -m bench.loading                        # prints the table of docs/loading.md
    python -m bench.loading --models resnet50 --repeats 9

Checkpoints with random numbers are first written to a temporary folder. The lower bound builds the
network without memory (on the meta device, which leaves its buffers without values) and assigns the
tensors of the mapped file. Medians of interleaved repeats, on one thread.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import timm
import torch
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from timm.models import save_for_hf
from torch import nn

from cam_hub.models.initialisation import build_without_initialisation

MODELS = (
    "vit_large_patch16_224",
    "convnext_large",
    "swin_base_patch4_window7_224",
    "vit_base_patch16_224",
    "resnet50",
    "efficientnet_b0",
)

_ROOM = 2.5
"""Required free space on the disk and in memory, as a multiple of the bytes of the model's file."""

_HEADER = """\
| model | MB | timm | ours | bound | ours/bound | timm/ours | timm + pass | ours + pass | ratio |
|---|---|---|---|---|---|---|---|---|---|"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="timm architectures")
    parser.add_argument(
        "--repeats", type=int, default=5, help="repeats for each way to load (default: 5)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, timm {timm.__version__}, seconds, one thread\n")
    print(_HEADER, flush=True)
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            print(_row(name, Path(folder), options.repeats), flush=True)
    return 0


def _row(name: str, folder: Path, repeats: int) -> str:
    with torch.device("meta"):
        size = sum(each.nbytes for each in timm.create_model(name).state_dict().values())
    if shutil.disk_usage(folder).free < _ROOM * size or _free_memory() < _ROOM * size:
        return f"| `{name}` | {size / 1e6:,.0f} | skipped: too large for this machine |"
    save_for_hf(timm.create_model(name), str(folder), safe_serialization=True)
    file = folder / "model.safetensors"

    def by_timm() -> nn.Module:
        module: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return module

    def ours() -> nn.Module:
        return build_without_initialisation(by_timm)

    def bound() -> nn.Module:
        with torch.device("meta"):
            module: nn.Module = timm.create_model(name)
        module.load_state_dict(load_file(file), assign=True)
        return module

    picture = torch.zeros(1, *resolve_model_data_config(ours())["input_size"])
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for way in (by_timm, ours, bound):
            loading, passing = _seconds(way, picture if way is not bound else None)
            times.setdefault(way.__name__, []).append(loading)
            times.setdefault(f"{way.__name__} + pass", []).append(loading + passing)
    mid = {way: median(found) for way, found in times.items()}
    cells = [f"{mid[way]:.3f}" for way in ("by_timm", "ours", "bound")]
    cells += [f"**{mid['ours'] / mid['bound']:.2f}**", f"{mid['by_timm'] / mid['ours']:.1f}"]
    cells += [f"{mid[way]:.3f}" for way in ("by_timm + pass", "ours + pass")]
    cells.append(f"{mid['ours + pass'] / mid['by_timm + pass']:.2f}")
    return f"| `{name}` | {size / 1e6:,.0f} | " + " | ".join(cells) + " |"


def _seconds(way: Callable[[], nn.Module], picture: torch.Tensor | None) -> tuple[float, float]:
    """Seconds to load, and to pass an image for the first time (0 without one)."""
    gc.collect()
    begin = time.perf_counter()
    module = way()
    loading = time.perf_counter() - begin
    if picture is None:
        return loading, 0.0
    module.eval()
    begin = time.perf_counter()
    with torch.inference_mode():
        module(picture)
    return loading, time.perf_counter() - begin


def _free_memory() -> float:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return float("inf")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


if __name__ == "__main__":
    sys.exit(main())
