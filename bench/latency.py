"""Time of single images on one device, against a forward pass, and its kernels.

    python -m bench.latency --device cuda
    OMP_NUM_THREADS=1 python -m bench.latency --models resnet18

All contenders of a network take turns within each round, with another image in each, so that no
pass is reused; ratios are computed for each round, and medians are shown. On an accelerator, the
number of kernels and of times that the host waits for the device are counted by torch's profiler,
and maps are compared with those of the CPU, with TF32 and without.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import cam_hub
from cam_hub.attribution.preparation import suited_format

_NETWORKS = ("resnet50", "convnext_tiny", "vit_base_patch16_224", "swin_tiny_patch4_window7_224")
_BOTH = ("layercam", "smoothgradcampp")
_SAMPLES = 4
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")

Run = Callable[[Tensor], object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints tables in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--models", nargs="+", default=_NETWORKS, help="in timm")
    parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        torch.set_num_threads(1)
    print(
        "| network | forward, ms | of five, ms | LayerCAM ÷ forward | both ÷ forward of five | "
        "five classes, both ÷ forward of five | kernels | waits |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name in options.models:
        torch.manual_seed(0)
        model = cam_hub.load_model(name, pretrained=False, device=options.device)
        print(_times(name, model, options.rounds), flush=True)
    if options.device != "cpu":
        print("\n| network | largest difference from the CPU, TF32 | without |\n|---|---|---|")
        for name in options.models:
            print(_difference(name, options.device), flush=True)
    return 0


def _contenders(model: cam_hub.LoadedModel) -> dict[str, Run]:
    both = partial(
        cam_hub.explain_methods, model, methods=_BOTH, num_samples=_SAMPLES, sampling="fixed"
    )
    return {
        "forward": partial(_forward, model, 1),
        "five": partial(_forward, model, 1 + _SAMPLES),
        "layercam": lambda image: cam_hub.explain(model, image, method="layercam"),
        "both": lambda image: both(image=image),
        "classes": lambda image: both(image=image, classes=cam_hub.top(5)),
    }


def _forward(model: cam_hub.LoadedModel, count: int, image: Tensor) -> list[float]:
    with torch.inference_mode():
        batch = image[None].to(model.device).repeat(count, 1, 1, 1)
        batch = batch.contiguous(memory_format=suited_format(model, batch))
        found: list[float] = model.module(batch)[0].softmax(dim=0).topk(5).values.tolist()
    return found


def _times(name: str, model: cam_hub.LoadedModel, rounds: int) -> str:
    contenders = _contenders(model)
    seconds: dict[str, list[float]] = {each: [] for each in contenders}
    for number in range(3 + rounds):
        for each, run in contenders.items():
            image = torch.randn(model.input_size)
            start = time.perf_counter()
            run(image)
            if number >= 3:  # the first rounds warm up
                seconds[each].append(time.perf_counter() - start)

    def ratio(each: str, by: str) -> str:
        pairs = zip(seconds[each], seconds[by], strict=True)
        return f"{median(one / other for one, other in pairs):.2f}"

    cells = [
        name,
        f"{median(seconds['forward']) * 1e3:.2f}",
        f"{median(seconds['five']) * 1e3:.2f}",
        ratio("layercam", "forward"),
        ratio("both", "five"),
        ratio("classes", "five"),
        *_kernels(model, contenders),
    ]
    return f"| {' | '.join(cells)} |"


def _kernels(model: cam_hub.LoadedModel, contenders: dict[str, Run]) -> tuple[str, str]:
    """Kernels and waits of a forward pass, LayerCAM, both methods, and five classes."""
    if model.device.type != "cuda":
        return "–", "–"
    kernels, waits = [], []
    for each in ("forward", "layercam", "both", "classes"):
        image = torch.randn(model.input_size)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            contenders[each](image)
        counts = {event.key: event.count for event in found.key_averages()}
        kernels.append(str(counts.get("cudaLaunchKernel", 0)))
        waits.append(str(sum(counts.get(wait, 0) for wait in _WAITS)))
    return ", ".join(kernels), ", ".join(waits)


def _difference(name: str, device: str) -> str:
    cells = [name]
    backends: Any = torch.backends
    convolutions, products = backends.cudnn.conv, backends.cuda.matmul
    before = convolutions.fp32_precision, products.fp32_precision
    try:
        for precision in ("tf32", "ieee"):
            convolutions.fp32_precision = products.fp32_precision = precision
            maps = []
            for place in ("cpu", device):
                torch.manual_seed(0)
                model = cam_hub.load_model(name, pretrained=False, device=place)
                image = torch.randn(model.input_size)
                maps += [cam_hub.explain_methods(model, image, _BOTH, sampling="fixed")]
            largest = 0.0
            for method, found in maps[0].items():
                for key, cam in found.cams.items():
                    apart = np.abs(maps[1][method].cams[key] - cam).max() / (cam.max() or 1)
                    largest = max(largest, float(apart))
            cells.append(f"{largest:.1e}")
    finally:
        convolutions.fp32_precision, products.fp32_precision = before
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
