"""The number of noisy copies for a stable Smooth Grad-CAM++ map, by the kind of noise.

    python -m bench.sampling

For several seeds and numbers of copies: the relative L2 distance of the map from one with very many
copies, and its correlation with the map of the next seed; medians. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import cam_hub
from cam_hub.attribution.passes import Job, Noise, run
from cam_hub.attribution.preparation import make_job, prepare
from cam_hub.attribution.request import ExplainOptions
from cam_hub.methods import METHODS

__all__ = ["WAYS", "main"]

METHOD = METHODS["smoothgradcampp"]
COUNTS = (2, 4, 8)


def gaussian(shape: tuple[int, ...], count: int, generator: torch.Generator) -> list[Tensor]:
    """Independent samples, as in the paper."""
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def antithetic(shape: tuple[int, ...], count: int, generator: torch.Generator) -> list[Tensor]:
    """Each sample with its negative: odd functions of the noise cancel."""
    half = gaussian(shape, -(-count // 2), generator)
    return [sign * each for each in half for sign in (1, -1)][:count]


def centred(shape: tuple[int, ...], count: int, generator: torch.Generator) -> list[Tensor]:
    """Samples whose mean is subtracted and whose variance is corrected: they sum to zero."""
    drawn = torch.stack(gaussian(shape, count, generator))
    drawn = (drawn - drawn.mean(0)) * (count / (count - 1)) ** 0.5
    return list(drawn)


def orthogonal(shape: tuple[int, ...], count: int, generator: torch.Generator) -> list[Tensor]:
    """Orthogonal samples, with the lengths of independent ones."""
    drawn = torch.stack(gaussian(shape, count, generator)).flatten(1)
    lengths = drawn.norm(dim=1, keepdim=True)
    turned = torch.linalg.qr(drawn.T.double())[0].T.float() * lengths
    return [each.reshape(shape) for each in turned]


def sobol(shape: tuple[int, ...], count: int, generator: torch.Generator) -> list[Tensor]:
    """Scrambled Sobol points for the coarsest 8 x 8 cosine waves of each channel, else Gaussian.

    Sobol points have hundreds of dimensions, and an image has a hundred thousand.
    """
    *_, channels, rows, cols = shape
    waves = 8
    seed = int(torch.randint(2**31, (), generator=generator))
    engine: Any = torch.quasirandom.SobolEngine
    points = engine(channels * waves * waves, scramble=True, seed=seed)
    uniform: Tensor = points.draw(count).clamp(1e-6, 1 - 1e-6)
    coarse = (2**0.5 * torch.erfinv(2 * uniform - 1)).reshape(count, channels, waves, waves)
    down, across = _cosines(rows, waves), _cosines(cols, waves)
    found = []
    for each in coarse:
        drawn = torch.randn(shape, generator=generator)
        change = each - down @ drawn[0] @ across.T
        found.append(drawn + down.T @ change @ across)
    return found


def _cosines(size: int, waves: int) -> Tensor:
    """The first rows of the orthonormal cosine transform, ``(waves, size)``."""
    place, wave = torch.arange(size) + 0.5, torch.arange(waves)[:, None]
    rows: Tensor = torch.cos(torch.pi * place * wave / size) * (2 / size) ** 0.5
    rows[0] /= 2**0.5
    return rows


Draw = Callable[[tuple[int, ...], int, torch.Generator], list[Tensor]]
WAYS: dict[str, Draw] = {
    each.__name__: each for each in (gaussian, antithetic, centred, orthogonal, sobol)
}


@dataclass(frozen=True)
class Drawn(Noise):
    """Noise of one of the kinds."""

    way: str = "gaussian"

    def draws(self, image: Tensor, memory_format: torch.memory_format) -> Iterator[Tensor]:
        """The noise of each copy."""
        generator = torch.Generator().manual_seed(self.seed)
        for drawn in WAYS[self.way](tuple(image.shape), self.num_samples, generator):
            yield (drawn * self.std).contiguous(memory_format=memory_format).to(image)


Maps = dict[str, NDArray[np.float32]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints.

    Args:
        arguments: The command-line arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.sampling", description=__doc__)
    parser.add_argument("--seeds", type=int, default=12, metavar="N")
    parser.add_argument("--reference", type=int, default=512, metavar="N", help="copies")
    parser.add_argument("--std", type=float, default=0.3, help="(%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model = cam_hub.load_model(cam_hub.DEFAULT_MODEL, device="cpu")
    layers = cam_hub.suggest_layers(model, "stages")
    distances: dict[tuple[str, int, str], list[float]] = {}
    alike: dict[tuple[str, int, str], list[float]] = {}
    for photo in _photos():
        request = ExplainOptions.checked(target_layers=layers, num_samples=1)
        job = make_job(model, prepare(model, photo), [METHOD], request)
        reference = _maps(job, Drawn(options.reference, options.std, 10_000))
        for way in WAYS:
            for count in COUNTS:
                found = [
                    _maps(job, Drawn(count, options.std, seed, way))
                    for seed in range(options.seeds)
                ]
                for layer in layers:
                    key = way, count, layer
                    true = reference[layer]
                    distances.setdefault(key, []).extend(
                        float(np.linalg.norm(cam[layer] - true) / np.linalg.norm(true))
                        for cam in found
                    )
                    alike.setdefault(key, []).extend(
                        float(np.corrcoef(one[layer].ravel(), other[layer].ravel())[0, 1])
                        for one, other in pairwise(found)
                    )
    for layer in layers:
        print(f"\n{layer}: distance to {options.reference} copies / correlation between seeds\n")
        print("| noise | " + " | ".join(f"{count} copies" for count in COUNTS) + " |")
        print("|---|" + "---|" * len(COUNTS))
        for way in WAYS:
            cells = [
                f"{statistics.median(distances[way, count, layer]):.3f} / "
                f"{statistics.median(alike[way, count, layer]):.4f}"
                for count in COUNTS
            ]
            print(f"| {way} | " + " | ".join(cells) + " |")


def _maps(job: Job, noise: Noise) -> Maps:
    """Un-normalised maps by layer."""
    found = run(replace(job, noise=noise), reuse=False).maps
    return {layer: cam for (_, _, layer), cam in found.items()}


def _photos() -> list[Image.Image]:
    import skimage  # noqa: PLC0415 - of the extra for tests

    data: Any = skimage.data
    found = data.chelsea(), data.coffee(), data.stereo_motorcycle()[0]
    return [Image.fromarray(pixels) for pixels in found]


if __name__ == "__main__":
    main()
