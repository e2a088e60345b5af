"""Images per second of a folder: explained, and only classified."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

import cam_hub
from bench.engine.pictures import write_pictures
from bench.engine.subjects import Subject
from bench.engine.timing import Times

__all__ = ["measure_folder"]

BATCH = 8


def measure_folder(subject: Subject, count: int, rounds: int, seconds: float = math.inf) -> Times:
    """Seconds per image, decoding included, with the same number of reading threads on both sides.

    Args:
        subject: The network.
        count: Number of images in the folder.
        rounds: Maximum number of counted rounds; a first one is not counted.
        seconds: Time after which no further round begins, if one is counted.

    Returns:
        The times of cam_hub (LayerCAM by ``explain_many``), and of plain inference by batches in
        both memory formats.
    """
    threads = os.cpu_count() or 1
    times = Times({"plain": [], "plain, channels-last": [], "cam_hub": []})
    with tempfile.TemporaryDirectory() as name:
        files = write_pictures(Path(name), count)
        ways: dict[str, Callable[[], int]] = {
            "plain": lambda: _classify(subject, subject.model.module, files, threads),
            "plain, channels-last": lambda: _classify(
                subject, subject.channels_last, files, threads, torch.channels_last
            ),
            "cam_hub": lambda: _explain(subject, name, threads),
        }
        begun = time.perf_counter()
        for number in range(rounds + 1):
            if number > 1 and time.perf_counter() - begun > seconds:
                break
            for way, run in ways.items():
                start = time.perf_counter()
                done = run()
                assert done == count, f"{way}: {done} of {count} images"
                if number:
                    times.seconds[way].append((time.perf_counter() - start) / count)
    return times


def _explain(subject: Subject, folder: str, threads: int) -> int:
    outcomes = cam_hub.explain_many(
        subject.model, folder, method="layercam", batch_size=BATCH, threads=threads
    )
    return sum(len(outcome.explanation.predictions) > 0 for outcome in outcomes)


def _classify(
    subject: Subject,
    module: nn.Module,
    files: list[Path],
    threads: int,
    layout: torch.memory_format = torch.contiguous_format,
) -> int:
    """The five best classes of each image, read by threads one batch ahead."""
    found: list[tuple[Tensor, Tensor]] = []
    with ThreadPoolExecutor(threads) as pool, torch.inference_mode():
        left = iter(files)

        def begin() -> list[Future[Tensor]]:
            return [pool.submit(subject.model.preprocess, path) for path in islice(left, BATCH)]

        for batch in _one_ahead(begin):
            images = torch.cat([future.result() for future in batch])
            scores = module(images.contiguous(memory_format=layout))
            best = scores.softmax(dim=1).topk(5)
            found += zip(best.values, best.indices, strict=True)
    return len(found)


def _one_ahead(begin: Callable[[], list[Future[Tensor]]]) -> Iterator[list[Future[Tensor]]]:
    waiting = begin()
    while waiting:
        following = begin()
        yield waiting
        waiting = following
