"""Stability of SmoothGradCAM++ maps: between seeds, and under invisible noise on the input.

    python -m bench.stability                     # prints the tables of docs/methods.md
    python -m bench.stability --model timm/… photo.jpg …

Stages, blocks (modules that contain others) and all layers of a model are explained on photos, with
two seeds of the noise, and once more with the normalised input disturbed by a thousandth of a
standard deviation. The figures are correlations (Pearson) of two maps of one layer, for fixed
numbers of noisy copies and for the number that ``explain`` chooses (``sampling="adaptive"``). The
formula of torchcam 0.5, whose denominator sums activations and cubes with their signs, is also
measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import cam_hub
from cam_hub.attribution.result import MOST_SAMPLES, more_samples
from cam_hub.methods import METHODS, Evidence, Method
from cam_hub.methods.evidence import as_float
from cam_hub.methods.gradient_cams import grid_sum, weighted_map

SIGNED = "smoothgradcamppsigned"
OURS = "smoothgradcampp"
INVISIBLE = 1e-3
LEAST = 0.97
FIRST = 4
KINDS = ("seed", "input")
NUMBERS = (FIRST, 8, 16, 32, MOST_SAMPLES)

_EXAMPLES = Path(__file__).parents[1] / "space" / "examples"
_PHOTOS = ("cat.jpg", "coffee.jpg")


class Found(NamedTuple):
    """One map, and its expected agreement with another seed's map."""

    cam: np.ndarray
    agreement: float


Maps = dict[tuple[str, int, str], Found]
"""By method, number of noisy copies and layer."""


class Pair(NamedTuple):
    """Two maps of one layer of one photo."""

    way: str
    kind: str
    layer: str
    correlation: float
    copies: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints tables in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("photos", nargs="*", type=Path, help="(two of the app's examples)")
    parser.add_argument("--model", default=cam_hub.DEFAULT_MODEL, help="(%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = cam_hub.load_model(options.model, device="cpu")
    register_signed()
    photos = options.photos or [_EXAMPLES / name for name in _PHOTOS]
    usable = [layer.name for layer in cam_hub.list_layers(model) if layer.usable]
    groups = {
        "stages": cam_hub.suggest_layers(model, "stages"),
        "blocks": [name for name in usable if [*model.module.get_submodule(name).children()]],
        "all": usable,
    }
    pairs = [pair for photo in photos for pair in stabilities(model, photo, usable)]
    ways = list(dict.fromkeys(pair.way for pair in pairs))
    print("| layers | copies | maps | seeds: median | minimum | < 0.97 | input noise: minimum |")
    print("|---|---|---|---|---|---|---|")
    for group, layers in groups.items():
        for way in ways:
            seed, disturbed = (
                np.array([p.correlation for p in pairs
                          if (p.way, p.kind) == (way, kind) and p.layer in layers])
                for kind in KINDS
            )  # fmt: skip
            print(
                f"| {group} | {way} | {len(seed)} | {np.median(seed):.3f} | {seed.min():.3f} "
                f"| {(seed < LEAST).mean():.1%} | {disturbed.min():.3f} |"
            )
    print("\n| layers | maps out of " + " | ".join(map(str, NUMBERS)) + " copies | mean |")
    print("|---|" + "---|" * (len(NUMBERS) + 1))
    for group, layers in groups.items():
        counts = Counter(p.copies for p in pairs if p.way == "adaptive" and p.layer in layers)
        total = counts.total()
        mean = sum(number * count for number, count in counts.items()) / total
        shares = " | ".join(f"{counts[number] / total:.0%}" for number in NUMBERS)
        print(f"| {group} | {shares} | {mean:.1f} |")
    print("\nLowest agreement between seeds, with the chosen number of copies:")
    chosen = [p for p in pairs if (p.way, p.kind) == ("adaptive", "seed")]
    for pair in sorted(chosen, key=lambda p: p.correlation)[:20]:
        print(f"{pair.correlation:.3f} {pair.layer} ({pair.copies} copies)")
    return 0


def stabilities(model: cam_hub.LoadedModel, photo: object, layers: Sequence[str]) -> list[Pair]:
    """Pairs of maps of one photo: with fixed numbers, the chosen number, and torchcam's formula."""
    tensor = model.preprocess(photo)[0]
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    clean = _maps(model, tensor, layers, 0)
    others = {
        "seed": _maps(model, tensor, layers, 1),
        "input": _maps(model, tensor + INVISIBLE * noise, layers, 0),
    }
    found = []
    for kind, maps in others.items():
        for layer in layers:
            one, other = _chosen(clean, layer), _chosen(maps, layer)
            ways = {
                "torchcam's formula": ((SIGNED, FIRST), (SIGNED, FIRST)),
                **{str(number): ((OURS, number), (OURS, number)) for number in NUMBERS},
                "adaptive": ((OURS, one), (OURS, other)),
            }
            for way, (first, second) in ways.items():
                pair = clean[*first, layer].cam, maps[*second, layer].cam
                # A layer without evidence for the class has no map, with any noise.
                if all(cam.any() for cam in pair):
                    correlation = float(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1])
                    found.append(Pair(way, kind, layer, correlation, max(first[1], second[1])))
    return found


def _chosen(maps: Maps, layer: str) -> int:
    """The number of copies that ``explain`` takes for a layer."""
    number = FIRST
    while (more := more_samples(number, maps[OURS, number, layer].agreement)) > number:
        number = more
    return number


def _maps(model: cam_hub.LoadedModel, tensor: Tensor, layers: Sequence[str], seed: int) -> Maps:
    found = {}
    for number in NUMBERS:
        results = cam_hub.explain_methods(
            model,
            tensor,
            (OURS, SIGNED) if number == FIRST else OURS,
            target_layers=layers,
            num_samples=number,
            sampling="fixed",
            seed=seed,
            reuse=False,
        )
        for name, result in results.items():
            for layer in layers:
                agreement = result.manifest["agreement"][layer]
                found[name, number, layer] = Found(result.cams[result.classes[0], layer], agreement)
    return found


def register_signed() -> None:
    """Adds torchcam's formula to the methods of this process."""
    if SIGNED in METHODS:
        return
    METHODS.register(
        Method(
            name=SIGNED,
            title="smoothgradcamppsigned",
            paper="",
            url="",
            needs_noise=True,
            compute=_signed,
        )
    )


def _signed(evidence: Evidence) -> Tensor:
    noisy = evidence.noisy
    if noisy is None:
        raise ValueError("no noisy copies")
    activation, second = as_float(evidence.activation), as_float(noisy.second)
    curvature = grid_sum(activation * as_float(noisy.third))
    alpha = second / (2 * second + curvature + 1e-8)
    return weighted_map(grid_sum(alpha * torch.relu(as_float(noisy.first))), activation)


if __name__ == "__main__":
    sys.exit(main())
