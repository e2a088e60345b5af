"""How far are maps in half precision from those in float32?

    python -m bench.half                                 # the table of docs/engine.md
    python -m bench.half --data FOLDER --networks swin   # weights as for bench.truth
    python -m bench.half --networks convnext_atto        # random weights of timm's architectures

Weights in bfloat16 and float16, and autocast with weights in float32; the packaged photos, the
class that is predicted in float32; the recommended layer and a block in the middle. The table has
the greatest difference of two maps in [0, 1], the worst of all photos and of LayerCAM and Smooth
Grad-CAM++, and in parentheses the least rank correlation.
"""

from __future__ import annotations

import argparse
import copy
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import timm
import torch
from scipy.stats import spearmanr

import cam_hub
from bench.truth import networks
from bench.truth.photos import NAME, photos, pretrained
from cam_hub.errors import NoMap
from cam_hub.methods.evidence import normalise

__all__ = ["main"]

WAYS = ("bfloat16", "float16", "autocast bfloat16", "autocast float16")

_DATA = Path(__file__).parent / "truth" / "data"
_METHODS = ("layercam", "smoothgradcampp")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=_DATA, help="folder of trained networks")
    parser.add_argument("--networks", nargs="+", help="default: the packaged and the trained ones")
    parser.add_argument("--photos", type=int, default=3, help="number of photos (default: 3)")
    options = parser.parse_args(arguments)
    names = options.networks or [NAME, *networks.available(options.data)]
    print(f"torch {torch.__version__}; distance (rank)\n")
    print(f"| network | layer | {' | '.join(WAYS)} |")
    print("|---|---|" + "---|" * len(WAYS), flush=True)
    for name in names:
        for row in _rows(_model(name, options.data), options.photos):
            print(f"| `{name}` | {row} |", flush=True)
    return 0


def _model(name: str, data: Path) -> cam_hub.LoadedModel:
    if name == NAME:
        return pretrained().model
    if name in networks.NETWORKS:
        return networks.wrapped(networks.load(name, data))
    torch.manual_seed(0)
    return cam_hub.wrap_model(timm.create_model(name).eval())


def _rows(model: cam_hub.LoadedModel, images: int) -> Iterator[str]:
    recommended = next(layer.name for layer in cam_hub.list_layers(model) if layer.recommended)
    blocks = cam_hub.suggest_layers(model, "blocks")
    for layer in (recommended, blocks[len(blocks) // 2]):
        exact: dict[tuple[str, Path], cam_hub.Explanation] = {}
        for method, path in product(_METHODS, islice(photos(), images)):
            with suppress(NoMap):
                exact[method, path] = cam_hub.explain(
                    model, path, method=method, target_layers=[layer]
                )
        yield " | ".join([f"`{layer}`", *(_cell(model, way, exact) for way in WAYS)])


def _cell(
    model: cam_hub.LoadedModel, way: str, exact: Mapping[tuple[str, Path], cam_hub.Explanation]
) -> str:
    """The distance of maps in half precision from those in float32, and their rank correlation."""
    autocast: str | None = way.removeprefix("autocast ")
    near = model
    if autocast == way:
        module = copy.deepcopy(model.module).to(getattr(torch, way))
        near, autocast = replace(model, module=module, facts={}, lock=threading.RLock()), None
    distances, ranks = [], []
    for (method, path), expected in exact.items():
        found = cam_hub.explain(
            near,
            path,
            method=method,
            classes=expected.classes[0],
            target_layers=list(expected.layers),
            autocast=autocast,
        )
        one, other = normalise(torch.from_numpy(np.stack([expected.cam(), found.cam()])))
        distances.append(float((one - other).abs().max()))
        ranks.append(float(spearmanr(one.flatten(), other.flatten()).statistic))
    return f"{max(distances):.3f} ({min(ranks):.3f})" if distances else "blank"


if __name__ == "__main__":
    sys.exit(main())
