"""Cost and stability of every method, and the cost of tests and of the choice by evidence.

    python -m bench.costs                     # prints the tables of docs/costs.md
    python -m bench.costs --model timm/… --methods layercam rise

One forward pass of one image is the unit: the two are timed in turn, on one thread, and medians are
compared. Each explanation is of an image that was not explained before. Stability is the
correlation of a map with that of the same photo with noise of a thousandth of its standard
deviation, at the layer recommended by depth (``bench.stability`` has the stages).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

import cam_hub
from bench.stability import INVISIBLE
from cam_hub.attribution.evidence import CHECKS
from cam_hub.errors import CamHubError

_PHOTO = Path(__file__).parents[1] / "space" / "examples" / "cat.jpg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints tables in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default=cam_hub.DEFAULT_MODEL, help="(%(default)s)")
    parser.add_argument("--methods", nargs="*", help="(all that take no pass per channel)")
    parser.add_argument("--times", type=int, default=5, help="(%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = cam_hub.load_model(options.model, device="cpu")
    image = model.preprocess(_PHOTO)[0]
    names = options.methods or [
        name for name, method in cam_hub.METHODS.items() if "channel" not in method.passes.per
    ]
    print("| method | passes | time, one forward pass = 1 | stability |\n|---|---|---|---|")
    for name in names:
        method = cam_hub.METHODS[name]

        def explained(changed: Tensor, name: str = name) -> cam_hub.Explanation:
            return cam_hub.explain(model, changed, method=name, reuse=False)

        try:
            ratio = relative(model, image, explained, options.times)
            clean, other = (explained(each).cam().ravel() for each in (image, disturbed(image, 1)))
        except CamHubError as error:
            print(f"| {method.title} | {method.passes} | no map: {error} | – |")
            continue
        same = float(np.corrcoef(clean, other)[0, 1])
        print(f"| {method.title} | {method.passes} | {ratio:.1f} | {same:.3f} |", flush=True)
    print("\n| test | images that pass | time, one forward pass = 1 |\n|---|---|---|")
    for check in CHECKS:
        result = cam_hub.explain(model, image, method="layercam")
        width, height = result.frames[0].size
        region = (0, 0, width // 2, height // 2) if check in _WITH_REGION else None
        tested = partial(cam_hub.evidence, result, checks=check, region=region)
        passes = tested().passes
        ratio = relative(model, image, lambda _, tested=tested: tested(), min(3, options.times))  # type: ignore[misc]
        print(f"| `{check}` | {passes} | {ratio:.1f} |", flush=True)
    print("\n| explanation by `auto` | time, one forward pass = 1 |\n|---|---|")
    first = relative(model, image, lambda each: cam_hub.explain(model, each), options.times)
    print(f"| an image that was not explained before | {first:.1f} |")
    again = relative(model, image, lambda _: cam_hub.explain(model, image), options.times)
    print(f"| one that was | {again:.1f} |")
    return 0


_WITH_REGION = ("pointing_game", "energy")


def disturbed(image: Tensor, seed: int) -> Tensor:
    """An image with invisible noise."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return image + INVISIBLE * float(image.std()) * noise


def relative(
    model: cam_hub.LoadedModel, image: Tensor, work: Callable[[Tensor], object], times: int
) -> float:
    """The median time of something with an image, in forward passes of it."""
    module = model.module
    work(disturbed(image, 99))  # what is done once, such as finding layers
    ratios = []
    for seed in range(times):
        other = disturbed(image, 100 + seed)
        start = time.perf_counter()
        with torch.inference_mode():
            module(other[None])
        between = time.perf_counter()
        work(other)
        ratios.append((time.perf_counter() - between) / (between - start))
    return median(ratios)


if __name__ == "__main__":
    raise SystemExit(main())
