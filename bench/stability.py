"""Stability of SmoothGradCAM++ maps: between seeds, and under invisible noise on the input.

    python -m bench.stability                     # prints the table of docs/methods.md
    python -m bench.stability --model timm/… photo.jpg …

Stages, blocks (modules that contain others) and all layers of a model are explained on photos, with
two seeds of the noise, and once more with the normalised input disturbed by a thousandth of a
standard deviation. The figures are correlations (Pearson) of two maps of one layer. The formula of
torchcam 0.5, whose denominator sums activations and cubes with their signs, is measured as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import cam_hub
from cam_hub.methods import METHODS, Evidence, Method
from cam_hub.methods.arithmetic import as_float, grid_sum, weighted_map

SIGNED = "smoothgradcamppsigned"
METHOD_NAMES = ("smoothgradcampp", SIGNED)
INVISIBLE = 1e-3

_EXAMPLES = Path(__file__).parents[1] / "space" / "examples"
_PHOTOS = ("cat.jpg", "coffee.jpg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("photos", nargs="*", type=Path, help="(two of the app's examples)")
    parser.add_argument("--model", default=cam_hub.DEFAULT_MODEL, help="(%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = cam_hub.load_model(options.model, device="cpu")
    register_signed()
    photos = options.photos or [_EXAMPLES / name for name in _PHOTOS]
    usable = [layer for layer in cam_hub.list_layers(model) if layer.usable]
    groups = {
        "stages": cam_hub.suggest_layers(model, "stages"),
        "blocks": [x.name for x in usable if [*model.module.get_submodule(x.name).children()]],
        "all": [layer.name for layer in usable],
    }
    print("| layers | method | maps | two seeds: median | least | input noise: median | least |")
    print("|---|---|---|---|---|---|---|")
    for group, layers in groups.items():
        table = stabilities(model, photos, layers)
        for method in METHOD_NAMES:
            found = [table[method, kind] for kind in KINDS]
            figures = [f"{measure(each):.3f}" for each in found for measure in (np.median, min)]
            print(f"| {group} | {method} | {len(found[0])} | {' | '.join(figures)} |", flush=True)
    return 0


KINDS = ("seed", "input")


def stabilities(
    model: cam_hub.LoadedModel, photos: Sequence[object], layers: Sequence[str]
) -> dict[tuple[str, str], list[float]]:
    """Correlations over layers and photos, by method and kind of disturbance."""
    found: dict[tuple[str, str], list[float]] = {(m, k): [] for m in METHOD_NAMES for k in KINDS}
    for photo in photos:
        tensor = model.preprocess(photo)[0]
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        maps = {
            "clean": _maps(model, tensor, layers, 0),
            "seed": _maps(model, tensor, layers, 1),
            "input": _maps(model, tensor + INVISIBLE * noise, layers, 0),
        }
        for method in METHOD_NAMES:
            for kind in KINDS:
                for layer in layers:
                    pair = maps["clean"][method, layer], maps[kind][method, layer]
                    # A layer at which nothing supports the class has no map, with any noise.
                    if all(cam.any() for cam in pair):
                        found[method, kind].append(_correlation(*pair))
    return found


def _maps(
    model: cam_hub.LoadedModel, tensor: Tensor, layers: Sequence[str], seed: int
) -> dict[tuple[str, str], np.ndarray]:
    results = cam_hub.explain_methods(
        model, tensor, METHOD_NAMES, target_layers=layers, seed=seed, reuse=False
    )
    return {
        (name, layer): result.cams[result.classes[0], layer]
        for name, result in results.items()
        for layer in layers
    }


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


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
