"""Images per second of whole batches, against plain inference and plain autograd, in one run.

    OMP_NUM_THREADS=1 python -m bench.throughput --report docs/throughput.md
    python -m bench.throughput --device cuda --batch 64 --images 1024

All contenders of a row take turns within each round, with the same images, loader and batch size;
ratios are computed for each round, and medians are shown. *Plain* is ``torch.inference_mode()`` and
the five best classes. The *floor* is what LayerCAM takes in plain torch: a graph from the target
layer on, one backward pass per batch, the maps, one transfer. *cam_hub* yields results that become
explanations when they are asked for; *explanations* asks for each of them. Where the workers of
``explain_many`` read the images, plain inference gets exact inputs from as many workers of a
``DataLoader``. Both streams are endless, so that no round starts processes; what workers have read
while the other contender ran is taken before the time begins.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from types import MappingProxyType

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import cam_hub
from bench.engine.pictures import write_pictures
from cam_hub.attribution.preparation import suited_format
from cam_hub.images.preprocessing import PREPROCESSING_MODES
from cam_hub.layers.layouts import to_maps

_NETWORKS = ("resnet18", "resnet50", "convnext_tiny", "vit_small_patch16_224")
_SAMPLES = 4
_SIDE = (640, 480)
_LARGE = (4032, 3024)
_LARGE_FILES = 8

Batches = Callable[[], Iterable[Tensor]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--models", nargs="+", default=_NETWORKS, help="in timm")
    parser.add_argument("--batch", type=int, default=16, help="images of a batch (%(default)s)")
    parser.add_argument("--images", type=int, default=64, help="images of a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of the loader (%(default)s)")
    parser.add_argument("--only", default="", help="rows with this word, such as tensors or draft")
    parser.add_argument("--report", type=Path, help="the table is written to this file")
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        torch.set_num_threads(1)
    lines = [
        "| network | images from | case | plain, images/s | floor ÷ plain | cam_hub ÷ plain | "
        "explanations ÷ plain |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = write_pictures(Path(folder, "files"), options.images, _SIDE)
        large = write_pictures(Path(folder, "large"), _LARGE_FILES, _LARGE)
        for name in options.models:
            for line in _rows(name, files, large, options):
                print(line, flush=True)
                lines.append(line)
    if options.report:
        options.report.write_text("\n".join(lines) + "\n", "utf-8")
    return 0


def _rows(
    name: str, files: list[Path], large: list[Path], options: argparse.Namespace
) -> Iterator[str]:
    torch.manual_seed(0)
    model = cam_hub.load_model(name, pretrained=False, device=options.device)
    tensors = list(torch.randn(options.images, *model.input_size))
    size = options.batch

    def stacked() -> Iterator[Tensor]:
        for start in range(0, len(tensors), size):
            yield torch.stack(tensors[start : start + size])

    loader: DataLoader[Tensor] = DataLoader(
        _Files(model, files), size, num_workers=options.workers, persistent_workers=True
    )
    suited_format(model, tensors[0][None].to(model.device))  # which lays the weights out, too
    for kind, batches, images in (("tensors", stacked, tensors), ("JPEG", lambda: loader, loader)):
        contenders = {
            "plain": partial(_plain, model, batches, 1),
            "floor": partial(_floor, model, batches),
            "cam_hub": partial(_explain, model, images, size, "layercam"),
            "all": partial(_explain, model, images, size, "layercam", True),
        }
        if options.only in kind:
            yield _row([name, kind, "LayerCAM"], contenders, options)
    kinds = [("JPEG, workers", files, "exact")]
    kinds += [(f"12 MP JPEG, workers, {mode}", large, mode) for mode in PREPROCESSING_MODES]
    for kind, given, mode in kinds:
        if options.only in kind:
            yield _workers_row(name, model, given, kind, mode, options)
    if options.only not in "tensors":
        return
    yield _row(
        [name, "tensors", f"SmoothGradCAM++, {_SAMPLES} samples; plain: {1 + _SAMPLES} passes"],
        {
            "plain": partial(_plain, model, stacked, 1 + _SAMPLES),
            "cam_hub": partial(_explain, model, tensors, size, "smoothgradcampp"),
            "all": partial(_explain, model, tensors, size, "smoothgradcampp", True),
        },
        options,
    )


def _workers_row(
    name: str,
    model: cam_hub.LoadedModel,
    files: list[Path],
    kind: str,
    mode: str,
    options: argparse.Namespace,
) -> str:
    """The row of files that are read by the workers of ``explain_many``."""
    size, count = options.batch, options.images
    given = _Files(model, files)
    endless = cycle(range(len(files)))
    loader = iter(DataLoader(given, size, sampler=endless, num_workers=options.workers))
    outcomes = cam_hub.explain_many(
        model,
        cycle(files),
        method="layercam",
        batch_size=size,
        workers=options.workers,
        preprocessing=mode,
    )

    batches = max(1, count // size)

    def plain(number: int) -> None:
        _plain(model, lambda: islice(loader, number), 1)

    def explained(number: int) -> None:
        for outcome in islice(outcomes, number * size):
            assert outcome.error is None, outcome.error

    ahead = 1 + 2 * options.workers  # what a DataLoader reads ahead, and the batch in the works
    turns = {"plain": plain, "cam_hub": explained}
    return _row(
        [name, kind, "LayerCAM"],
        {each: partial(turn, batches) for each, turn in turns.items()},
        options,
        {each: partial(turn, ahead) for each, turn in turns.items()},
    )


def _row(
    words: list[str],
    contenders: Mapping[str, Callable[[], None]],
    options: argparse.Namespace,
    before: Mapping[str, Callable[[], None]] = MappingProxyType({}),
) -> str:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(1 + options.rounds):
        for name, run in contenders.items():
            if name in before:
                before[name]()
            start = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    plain = seconds["plain"]
    cells = [f"{options.images / median(plain):.0f}"]
    for name in ("floor", "cam_hub", "all"):
        ratios = [a / b for a, b in zip(plain, seconds.get(name, []), strict=False)]
        cells.append(f"{median(ratios):.2f}" if ratios else "–")
    return "| " + " | ".join([*words, *cells]) + " |"


class _Files(Dataset[Tensor]):
    """Files as inputs of a model, made ready in the loader's workers."""

    def __init__(self, model: cam_hub.LoadedModel, files: list[Path]) -> None:
        self._preprocessing = model.preprocessing
        self._open = model.open
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Tensor:
        return self._open(self._files[index]).tensor[0]


def _laid_out(model: cam_hub.LoadedModel, batch: Tensor) -> Tensor:
    if model.device.type == "cuda":
        batch = batch.pin_memory()
    batch = batch.to(model.device, non_blocking=True)
    return batch.contiguous(memory_format=suited_format(model, batch))


def _plain(model: cam_hub.LoadedModel, batches: Batches, passes: int) -> None:
    with torch.inference_mode():
        for batch in batches():
            laid_out = _laid_out(model, batch)
            for _ in range(passes):
                scores = model.module(laid_out)
            scores.softmax(dim=1).topk(5).values.cpu()


def _floor(model: cam_hub.LoadedModel, batches: Batches) -> None:
    (name,) = cam_hub.suggest_layers(model)
    (info,) = [each for each in cam_hub.list_layers(model) if each.name == name]
    kept: list[Tensor] = []

    def start(_module: object, _inputs: object, output: Tensor) -> Tensor:
        kept[:] = [output.detach().requires_grad_()]
        return kept[0]

    handle = model.module.get_submodule(name).register_forward_hook(start)
    try:
        for batch in batches():
            scores = model.module(_laid_out(model, batch))
            best, places = scores.detach().softmax(dim=1).topk(5)
            score = scores.gather(1, places[:, :1]).sum()
            (gradient,) = torch.autograd.grad(score, kept)
            assert info.arrangement is not None
            slopes = to_maps(gradient, info.arrangement)
            maps = (slopes.clamp(min=0) * to_maps(kept[0].detach(), info.arrangement)).sum(1)
            maps.clamp_(min=0).cpu()
            best.cpu()
    finally:
        handle.remove()


def _explain(
    model: cam_hub.LoadedModel, images: object, size: int, method: str, ask: bool = False
) -> None:
    outcomes = cam_hub.explain_many(
        model,
        images,  # type: ignore[arg-type]
        method=method,
        num_samples=_SAMPLES,
        sampling="fixed",
        batch_size=size,
    )
    for outcome in outcomes:
        assert outcome.error is None, outcome.error
        if ask:
            assert outcome.explanation.predictions


if __name__ == "__main__":
    raise SystemExit(main())
