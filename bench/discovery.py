"""The cost of finding a model's layers, in forward passes of one image.

    python -m bench.discovery                      # prints the tables of docs/discovery.md
    python -m bench.discovery --sample 40 --max-macs 12e9     # drawn from the whole zoo
    python -m bench.discovery --models resnet50 vit_base_patch16_224

Every network is built with random weights and examined as by the first call of ``list_layers``, on
one thread, in processor time. *passes* is the time within the network, forward and backward;
*arithmetic* is the reduction of the outputs of its layers, the comparison of readings and the
choice; *cache* computes the key, looks for it on disk and writes the layers there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any
from unittest import mock

import timm
import torch
from torch import Tensor, nn

from bench.zoo.cli import COSTS
from bench.zoo.costs import Costs
from bench.zoo.plan import counted, every_model, smallest_of_each_family
from cam_hub import LoadedModel, list_layers, load_model
from cam_hub.errors import CamHubError
from cam_hub.hooks import recording
from cam_hub.hooks.frozen_eval import frozen_eval
from cam_hub.layers import cache, listing, model_runner, probe

_PASSES = 5
"""Number of forward passes whose median is the unit."""

_HEADER = """\
| network | layers | one forward pass, ms | discovery, ms | **in passes** | images | passes | \
arithmetic | cache |
|---|---|---|---|---|---|---|---|---|"""


@dataclass
class Cost:
    """The cost of one discovery, in seconds.

    Attributes:
        unit: One forward pass of one image.
        total: The whole discovery.
        passes: Time within the network, without the processing of the outputs of its layers.
        caching: The layer cache.
        images: Number of images in forward passes.
        layers: Number of submodules.
    """

    unit: float
    total: float
    passes: float
    caching: float
    images: int
    layers: int

    @property
    def ratio(self) -> float:
        """The total in forward passes."""
        return self.total / self.unit

    def row(self, name: str) -> str:
        """A line of the table."""
        arithmetic = self.total - self.passes - self.caching
        parts = [part / self.unit for part in (self.passes, arithmetic, self.caching)]
        cells = [f"{self.layers}", f"{1000 * self.unit:.1f}", f"{1000 * self.total:.0f}"]
        cells += [f"**{self.ratio:.1f}**", f"{self.images}", *(f"{part:.1f}" for part in parts)]
        return f"| `{name}` | " + " | ".join(cells) + " |"


class _Clock:
    """Adds up the time within calls, without the time within them that another clock measures."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any], *, off: _Clock | None = None) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner = off.seconds if off else 0.0
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - start
                self.seconds += spent - ((off.seconds - inner) if off else 0.0)

        return call


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", help="IDs (default: the smallest of each family)")
    parser.add_argument("--sample", type=int, help="this many, drawn from all architectures")
    parser.add_argument("--max-macs", type=float, default=1e9, help="of a pass (%(default)g)")
    parser.add_argument("--repeats", type=int, default=1, help="discoveries each (%(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, timm {timm.__version__}, one thread\n\n{_HEADER}")
    ratios: list[float] = []
    models = options.models or _chosen(options.max_macs, options.sample)
    for name in models:
        try:
            found = [measure(name) for _ in range(options.repeats)]
        except CamHubError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        cost = sorted(found, key=lambda each: each.ratio)[len(found) // 2]
        ratios.append(cost.ratio)
        print(cost.row(name), flush=True)
    if len(ratios) > 1:
        lower, middle, upper = quantiles(ratios, n=4, method="inclusive")
        print(
            f"\n{len(ratios)} networks: median {middle:.1f}, "
            f"quartiles {lower:.1f} and {upper:.1f}, maximum {max(ratios):.1f}"
        )
    return 0


def measure(name: str) -> Cost:
    """Times one pass and one discovery of a model with random weights.

    Raises:
        CamHubError: If the model has no usable layers.
    """
    torch.manual_seed(0)
    model = load_model(name, pretrained=False, device="cpu")
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, CAM_HUB_CACHE=folder):
        unit = _one_pass(model)
        with _watched(model) as (inside, visits, caching, images):
            start = time.process_time()
            found = list_layers(model)
            total = time.process_time() - start
        unit = median([unit, _one_pass(model)])
    return Cost(
        unit, total, inside.seconds - visits.seconds, caching.seconds, sum(images), len(found)
    )


def _one_pass(model: LoadedModel) -> float:
    image = torch.randn(1, *model.input_size)
    seconds = []
    with frozen_eval(model.module), torch.no_grad():
        model.task.run(model.module, image)
        for _ in range(_PASSES):
            start = time.process_time()
            model.task.run(model.module, image)
            seconds.append(time.process_time() - start)
    return median(seconds)


@contextmanager
def _watched(model: LoadedModel) -> Iterator[tuple[_Clock, _Clock, _Clock, list[int]]]:
    """Clocks for the network, for the work in its hooks, and for the cache."""
    inside, visits, caching = _Clock(), _Clock(), _Clock()
    images: list[int] = []
    observe, grad, follow = recording.observe, torch.autograd.grad, recording.Taps.visit_gradients
    run = type(model.task).run

    def observed(module: nn.Module, visit: Any, *rest: Any) -> Any:
        return observe(module, visits.timed(visit), *rest)

    def follows(taps: Any, score: Tensor, visit: Any, **more: Any) -> None:
        follow(taps, score, visits.timed(visit), **more)

    def runs(task: Any, module: nn.Module, batch: Any, *rest: Any, **more: Any) -> Any:
        images.append(len(batch))
        return inside.timed(run)(task, module, batch, *rest, **more)

    with (
        mock.patch.object(recording, "observe", observed),
        mock.patch.object(model_runner, "observe", observed),
        mock.patch.object(probe, "observe", observed),
        mock.patch.object(recording.Taps, "visit_gradients", follows),
        mock.patch.object(torch.autograd, "grad", inside.timed(grad)),
        mock.patch.object(type(model.task), "run", runs),
        mock.patch.object(cache, "cache_key", caching.timed(cache.cache_key)),
        mock.patch.object(listing, "stored_layers", caching.timed(listing.stored_layers)),
        mock.patch.object(listing, "store_layers", caching.timed(listing.store_layers)),
    ):
        yield inside, visits, caching, images


def _chosen(max_macs: float, sample: int | None) -> list[str]:
    """The smallest network of each family or, if a number is given, a sample of all with layers."""
    costs = Costs(Path(COSTS))
    every = [each for each in counted(every_model(), costs) if not each.refusal_expected]
    cheap = [
        each
        for each in (smallest_of_each_family(every) if sample is None else every)
        if (macs := costs.macs(each.source, each.name)) is not None and macs <= max_macs
    ]
    if sample is not None:
        print(f"{len(cheap)} of {len(every)} networks take at most {max_macs / 1e9:g} GMAC\n")
        cheap = Random(0).sample(cheap, min(sample, len(cheap)))
    return [each.id for each in cheap]


if __name__ == "__main__":
    sys.exit(main())
