"""Do processes on one machine share the weights of a model? Their memory, as the kernel states it.

    python -m bench.sharing                              # the table of docs/loading.md
    python -m bench.sharing --models vit_large_patch16_224 --workers 1 8

A repo with random weights is written to a temporary cache of the Hub. Each worker is a process of
its own, which loads the model and explains one image; when all are done, the parent reads
``/proc/PID/smaps_rollup`` of each (Linux only). *By ID* the file is mapped; *by folder* the weights
are copied, since files in folders may be overwritten. A worker without a model has only imported
``cam_hub``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from timm.models import save_for_hf

import cam_hub

__all__ = ["Memory", "main", "measure"]

MODELS = ("vit_base_patch16_224", "convnext_base", "resnet50")

_COMMIT = "0" * 40
_FILE = "model.safetensors"
_FIELDS = ("Rss", "Pss", "Shared_Clean", "Private_Dirty")

_HEADER = """\
| model | MB | loaded | workers | RSS | PSS | shared, clean | private, dirty | PSS of all |
|---|---|---|---|---|---|---|---|---|"""


class Memory(NamedTuple):
    """What the kernel states of one process, in MB.

    Attributes:
        rss: Resident memory.
        pss: The same, where a page that ``n`` processes share counts as ``1 / n`` pages.
        shared_clean: Pages of files that other processes have in memory, too.
        private_dirty: Pages that this process alone has written.
    """

    rss: float
    pss: float
    shared_clean: float
    private_dirty: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", default=MODELS, help="timm architectures")
    parser.add_argument("--workers", nargs="+", type=int, default=(1, 2, 4), help="processes")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # what a worker loads
    options = parser.parse_args(arguments)
    if options.worker is not None:
        return _work(options.worker)
    print(f"torch {torch.__version__}, timm {timm.__version__}; MB, mean of the workers\n")
    print(_HEADER, flush=True)
    for name in ("", *options.models):
        with tempfile.TemporaryDirectory() as cache:
            ways = {"": ""} if not name else _write_repo(name, Path(cache))
            size = sum(path.stat().st_size for path in Path(cache).rglob(_FILE)) / 1e6
            for way, model in ways.items():
                measure(model, Path(cache), 1)  # which discovers the layers
                for count in options.workers:
                    found = measure(model, Path(cache), count)
                    cells = [f"{value:,.0f}" for value in np.mean(found, axis=0)]
                    cells.append(f"{sum(each.pss for each in found):,.0f}")
                    row = " | ".join([name or "none", f"{size:,.0f}", way, str(count), *cells])
                    print(f"| {row} |", flush=True)
    return 0


def measure(model: str, cache: Path, count: int) -> list[Memory]:
    """The memory of processes that have each explained an image, while all of them live.

    Args:
        model: The model's ID or folder; empty for processes without a model.
        cache: The folder of a cache of the Hub.
        count: The number of processes.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(model, cache)) for _ in range(count)]
        for worker in workers:
            if not (worker.stdout and worker.stdout.readline()):
                raise RuntimeError(f"a worker ended with status {worker.wait()}")
        return [_memory(worker.pid) for worker in workers]


@contextmanager
def _worker(model: str, cache: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that explains an image, writes a line, and lives until the context is left."""
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "bench.sharing", "--worker", model]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        if process.stdin:
            process.stdin.close()


def _work(model: str) -> int:
    if model:
        loaded = cam_hub.load_model(model, device="cpu")
        _, *sides = loaded.input_size
        image = np.random.default_rng(0).integers(0, 255, (*sides, 3), dtype=np.uint8)
        cam_hub.explain(loaded, image, method="layercam")
    print("done", flush=True)
    sys.stdin.read()
    return 0


def _write_repo(name: str, cache: Path) -> dict[str, str]:
    """Writes a repo of random weights; what loads it, by ID and by folder."""
    folder = cache / f"models--bench--{name}" / "snapshots" / _COMMIT
    save_for_hf(timm.create_model(name), str(folder), safe_serialization=True)
    os.sync()  # pages that are not on the disk yet would count as written by the workers
    return {"by ID": f"bench/{name}@{_COMMIT}", "by folder": str(folder)}


def _memory(process: int) -> Memory:
    text = Path(f"/proc/{process}/smaps_rollup").read_text("utf-8")
    lines = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return Memory(*(int(lines[name].split()[0]) * 1024 / 1e6 for name in _FIELDS))


if __name__ == "__main__":
    sys.exit(main())
