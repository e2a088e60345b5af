"""Memory and time of ``explain_dataset`` over very many small images.

    OMP_NUM_THREADS=1 python -m bench.rows --images 100000

The images are drawn as they are asked for, so that none of them is in memory before its turn. A
line is printed for each tenth of them: memory should not grow from the first to the last. The rows'
own cost is what the job takes beyond ``explain_many`` over as many images as in one tenth.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray

import cam_hub
from bench.engine.memory import status

_SIDE = 32


class _Drawn:
    """Seeded images of uniform noise over a gradient of grey."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        slope = np.linspace(0, 127, _SIDE, dtype=np.uint8)[:, None, None]
        for number in range(self._count):
            noise = np.random.default_rng(number).integers(0, 128, (_SIDE, _SIDE, 3), np.uint8)
            yield noise + slope


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--model", default="resnet10t", help="in timm, at 32 px (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = timm.create_model(options.model).eval()
    model = cam_hub.wrap_model(module, id=options.model, input_size=(3, _SIDE, _SIDE))
    arguments = {"method": "layercam", "batch_size": options.batch}
    tenth = max(1, options.images // 10)
    start = time.process_time()
    for outcome in cam_hub.explain_many(model, _Drawn(tenth), **arguments):
        assert outcome.error is None
    alone = time.process_time() - start
    gc.collect()
    print("| images | resident, MiB | CPU time per image, ms |\n|---|---|---|")
    print(f"| {tenth:,}, `explain_many` alone | {_resident()} | {alone / tenth * 1e3:.2f} |")
    since = [time.process_time(), 0]

    def progress(part: float, _: str) -> None:
        count = round(part * options.images)
        if count // tenth > since[1] // tenth:
            now = time.process_time()
            each = (now - since[0]) / (count - since[1]) * 1e3
            print(f"| {count:,} | {_resident()} | {each:.2f} |", flush=True)
            since[:] = [now, count]

    with tempfile.TemporaryDirectory() as folder:
        report = cam_hub.explain_dataset(
            model, _Drawn(options.images), Path(folder, "rows"), progress=progress, **arguments
        )
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        assert len(report) == options.images
    print(f"\n{size / options.images:.0f} bytes per row on disk")


def _resident() -> int:
    return round(status("VmRSS") / 2**20)


if __name__ == "__main__":
    main()
