"""Networks of a billion parameters and more, stored in half precision: memory and time.

    python -m bench.large                                # the table of docs/loading.md
    python -m bench.large --models aimv2_1b_patch14_224 --stored float16

A repo with random weights is written to a temporary cache of the Hub. A process of its own loads
the model by its ID, finds its layers, and explains one image by LayerCAM. *Anonymous* is the memory
that cannot be given back (weights that were copied, activations); mapped weights are pages of the
file. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf

import cam_hub

__all__ = ["main"]

MODELS = ("eva_giant_patch14_224", "vit_giantopt_patch16_siglip_256")

_COMMIT = "0" * 40

_HEADER = """\
| model | GB | step | seconds | peak anonymous, GB | mapped, GB |
|---|---|---|---|---|---|"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="timm architectures")
    parser.add_argument("--stored", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--dtype", default="auto", help="as load_model's")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the ID, in the process of its own
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)  # likewise, the repo's folder
    options = parser.parse_args(arguments)
    if options.write:
        return _write(options.models[0], options.write, getattr(torch, options.stored))
    if options.measure:
        return _measure(options.measure, options.dtype)
    print(f"torch {torch.__version__}, timm {timm.__version__}, stored in {options.stored}\n")
    print(_HEADER, flush=True)
    for name in options.models:
        with tempfile.TemporaryDirectory() as cache:
            folder = Path(cache) / f"models--bench--{name}" / "snapshots" / _COMMIT
            folder.mkdir(parents=True)
            again = [sys.executable, "-m", "bench.large", "--stored", options.stored]
            environment = {**os.environ, "HF_HUB_CACHE": cache, "HF_HUB_OFFLINE": "1"}
            environment["CAM_HUB_CACHE"] = cache  # in which no layers are known yet
            subprocess.run([*again, "--models", name, "--write", str(folder)], check=True)
            size = (folder / "model.safetensors").stat().st_size / 1e9
            again += ["--dtype", options.dtype, "--measure", f"bench/{name}@{_COMMIT}"]
            done = subprocess.run(
                again, env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            for step, found in json.loads(done.stdout.splitlines()[-1]).items():
                cells = " | ".join(f"{value:.1f}" for value in found)
                print(f"| `{name}` | {size:.1f} | {step} | {cells} |", flush=True)
    return 0


def _write(name: str, folder: Path, kind: torch.dtype) -> int:
    """Writes a repo of random weights, without drawing any in float32."""
    with torch.device("meta"):
        module = timm.create_model(name)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, tensor in module.state_dict().items():
        spread = torch.empty(tensor.shape, dtype=kind).normal_(0, 0.02, generator=generator)
        is_scale = tensor.ndim == 1 and key.endswith("weight")
        state[key] = spread.add_(1) if is_scale else spread
    save_file(state, folder / "model.safetensors")
    save_config_for_hf(module, str(folder / "config.json"))
    return 0


def _measure(id: str, dtype: str) -> int:
    """Prints seconds and memory of each step."""
    found: dict[str, tuple[float, float, float]] = {}
    with _step(found, "load"):
        model = cam_hub.load_model(id, device="cpu", dtype=dtype)
    image = np.random.default_rng(0).integers(0, 255, (*model.input_size[1:], 3), dtype=np.uint8)
    with _step(found, "layers"):
        cam_hub.list_layers(model)
    with _step(found, "explain"):
        cam_hub.explain(model, image, method="layercam")
    print(json.dumps(found))
    return 0


@contextmanager
def _step(found: dict[str, tuple[float, float, float]], name: str) -> Iterator[None]:
    """Adds the seconds of a block, its peak of anonymous memory, and what is mapped at its end."""
    done, peak = threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], _resident("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    found[name] = time.perf_counter() - begin, peak[0], _resident("RssFile")


def _resident(kind: str) -> float:
    """Resident memory of this process, in GB."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind)) / 1e9


if __name__ == "__main__":
    sys.exit(main())
