"""Stability of maps: under invisible noise on the input and, of SmoothGradCAM++, between seeds.

    python -m bench.stability                     # prints the tables of docs/methods.md
    python -m bench.stability --part methods      # all methods, under noise on the input
    python -m bench.stability --part copies       # SmoothGradCAM++, by the number of noisy copies
    python -m bench.stability --model timm/… photo.jpg …

The first part compares all methods, the papers' formulas of Grad-CAM++ and XGrad-CAM, and those of
torchcam 0.5 and pytorch-grad-cam 1.5 where they differ: maps with and without noise of a thousandth
of a standard deviation on the normalised input, and each formula's map with that of cam_hub's
method. XGrad-CAM of the other tools is the paper's formula but for the eps in its denominator.

The second part: stages, blocks (modules that contain others) and all layers of a model are
explained on photos, with two seeds of the noise, and once more with the normalised input disturbed
by a thousandth of a standard deviation. The figures are correlations (Pearson) of two maps of one
layer, for fixed numbers of noisy copies and for the number that ``explain`` chooses
(``sampling="adaptive"``). The formula of torchcam 0.5, whose denominator sums activations and cubes
with their signs, is also measured.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import cam_hub
from cam_hub.attribution.result import MOST_SAMPLES, more_samples
from cam_hub.methods import METHODS, Evidence
from cam_hub.methods.evidence import as_float
from cam_hub.methods.gradient_cams import grid_sum, ratio_or_zero, weighted_map

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
    parser.add_argument("--part", choices=("methods", "copies"), help="(both)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = cam_hub.load_model(options.model, device="cpu")
    register_formulas()
    photos = options.photos or [_EXAMPLES / name for name in _PHOTOS]
    usable = [layer.name for layer in cam_hub.list_layers(model) if layer.usable]
    groups = {
        "stages": cam_hub.suggest_layers(model, "stages"),
        "blocks": [name for name in usable if [*model.module.get_submodule(name).children()]],
        "all": usable,
    }
    if options.part != "copies":
        rows = [row for photo in photos for row in of_methods(model, photo, usable)]
        print_methods(rows, groups)
    if options.part != "methods":
        pairs = [pair for photo in photos for pair in stabilities(model, photo, usable)]
        print_copies(pairs, groups)
    return 0


class MethodRow(NamedTuple):
    """The maps of one method, or formula, at one layer of one photo.

    Attributes:
        method: The method's name.
        layer: The layer.
        correlation: With the map of the disturbed input.
        ours: With the map of cam_hub's method, for a formula.
        share: The part of the paper's weights that comes from cancellation.
    """

    method: str
    layer: str
    correlation: float
    ours: float
    share: float


def of_methods(model: cam_hub.LoadedModel, photo: object, layers: Sequence[str]) -> list[MethodRow]:
    """All methods and formulas, on a photo and on its disturbed input."""
    tensor = model.preprocess(photo)[0]
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
    index = cam_hub.explain(model, tensor).classes[0]
    names = [
        name
        for name, method in METHODS.items()
        if name != SIGNED and method.attribute is None and method.combine is None
    ]
    clean, disturbed = (
        cam_hub.explain_methods(
            model, image, names, target_layers=layers, classes=index, sampling="fixed", reuse=False
        )
        for image in (tensor, tensor + INVISIBLE * noise)
    )
    rows = []
    for name in names:
        own = FORMULAS[name].method if name in FORMULAS else name
        shares = clean[own].manifest.get("cancellation", {})
        for layer in layers:
            one, other, ours = (
                result.cams[index, layer].ravel()
                for result in (clean[name], disturbed[name], clean[own])
            )
            if one.any() and other.any():
                same = float(np.corrcoef(one, ours)[0, 1]) if ours.any() else float("nan")
                correlation = float(np.corrcoef(one, other)[0, 1])
                rows.append(MethodRow(name, layer, correlation, same, shares.get(layer, 0.0)))
    return rows


def print_methods(rows: Sequence[MethodRow], groups: dict[str, list[str]]) -> None:
    """Tables in Markdown: per stage, per group of layers, and agreement with cam_hub's method."""
    names = list(dict.fromkeys(row.method for row in rows))
    titles = [METHODS[name].title for name in names]
    print("The lowest correlations with and without invisible noise, by stage:\n")
    print("| stage | " + " | ".join(titles) + " |\n|---|" + "---|" * len(names))
    for layer in groups["stages"]:
        found = [[r.correlation for r in rows if (r.method, r.layer) == (n, layer)] for n in names]
        print(f"| `{layer}` | " + " | ".join(f"{min(each, default=np.nan):.3f}" for each in found)
              + " |")  # fmt: skip
    print("\n| layers | method | maps | median | minimum | below 0.97 |\n|---|---|---|---|---|---|")
    for group, layers in groups.items():
        for name, title in zip(names, titles, strict=True):
            each = np.array([r.correlation for r in rows if r.method == name and r.layer in layers])
            print(
                f"| {group} | {title} | {len(each)} | {np.median(each):.3f} | {each.min():.3f} "
                f"| {(each < LEAST).mean():.1%} |"
            )
    head = "formula | share from cancellation | maps | with ours: median | 10 % below | stable"
    print(f"\n| {head} |\n|{'---|' * 6}")
    for name in FORMULAS:
        for low, high in itertools.pairwise((-1, 0, 0.1, 0.3, 0.6, 1)):
            own = [r for r in rows if r.method == name and low < r.share <= high]
            if not own:
                continue
            same = np.array([r.ours for r in own if r.ours == r.ours])
            stable = np.mean([r.correlation >= LEAST for r in own])
            print(
                f"| {METHODS[name].title} | {f'to {high}' if high else '0'} | {len(own)} "
                f"| {np.median(same):.3f} | {np.quantile(same, 0.1):.3f} | {stable:.0%} |"
            )


def print_copies(pairs: Sequence[Pair], groups: dict[str, list[str]]) -> None:
    """Tables in Markdown for SmoothGradCAM++, by the number of noisy copies."""
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


class Formula(NamedTuple):
    """A formula of another source for a method of cam_hub.

    Attributes:
        method: The method.
        title: Its name in the tables.
        compute: From the evidence to the map.
    """

    method: str
    title: str
    compute: Callable[[Evidence], Tensor]


def _gradcampp(eps: float) -> Callable[[Evidence], Tensor]:
    def compute(evidence: Evidence) -> Tensor:
        a, g = as_float(evidence.activation), as_float(evidence.gradient)
        alpha = g**2 / (2 * g**2 + grid_sum(a) * g**3 + eps)
        alpha = torch.where(g == 0, 0.0, alpha).nan_to_num(0.0, 0.0, 0.0)
        return weighted_map(grid_sum(torch.relu(g) * alpha), a)

    return compute


def _gradcampp_of_torchcam(evidence: Evidence) -> Tensor:
    a, g = as_float(evidence.activation), as_float(evidence.gradient)
    return weighted_map(grid_sum(g**2 * torch.relu(g)), a)


def _xgradcam(evidence: Evidence) -> Tensor:
    a, g = as_float(evidence.activation), as_float(evidence.gradient)
    return weighted_map(ratio_or_zero(grid_sum(a * g), grid_sum(a), grid_sum(a.abs())), a)


FORMULAS = {
    "gradcampppaper": Formula("gradcampp", "Grad-CAM++, paper", _gradcampp(0.0)),
    "gradcamppeps": Formula("gradcampp", "Grad-CAM++, pytorch-grad-cam", _gradcampp(1e-6)),
    "gradcampptorchcam": Formula("gradcampp", "Grad-CAM++, torchcam", _gradcampp_of_torchcam),
    "xgradcampaper": Formula("xgradcam", "XGrad-CAM, paper", _xgradcam),
}


def register_formulas() -> None:
    """Adds the formulas of other sources to the methods of this process."""
    smooth = {SIGNED: Formula(OURS, "Smooth Grad-CAM++, torchcam", _signed)}
    for name, formula in {**smooth, **FORMULAS}.items():
        if name not in METHODS:
            method = METHODS[formula.method]
            METHODS.register(
                replace(
                    method,
                    name=name,
                    title=formula.title,
                    compute=formula.compute,
                    cancellation=None,
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
