"""``read_ahead``: pictures are read by threads or worker processes before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cam_hub.attribution.preparation import Prepared, prepare
from cam_hub.attribution.samples import Sample
from cam_hub.errors import CamHubError
from cam_hub.hooks.modes import default_modes
from cam_hub.images.decoding import encoded
from cam_hub.images.preprocessing import OpenedImage
from cam_hub.images.workers import Workers, open_as
from cam_hub.models.loaded_model import LoadedModel

__all__ = ["Ready", "Refused", "read_ahead"]


@dataclass(frozen=True)
class Ready:
    """A picture that was read.

    Attributes:
        sample: The picture as it was given, with its key and label.
        prepared: The picture as the model's input.
    """

    sample: Sample
    prepared: Prepared


@dataclass(frozen=True)
class Refused:
    """A picture that could not be read.

    Attributes:
        sample: The picture as it was given, with its key and label.
        error: Why.
    """

    sample: Sample
    error: CamHubError


def read_ahead(
    model: LoadedModel,
    pictures: Iterable[Sample],
    *,
    threads: int,
    ahead: int,
    workers: int = 0,
    preprocessing: str = "exact",
) -> Generator[Ready | Refused, None, None]:
    """Reads pictures before they are asked for.

    Args:
        model: The model that they are made ready for.
        pictures: The samples, one by one; advanced in the caller's thread only, and never
            by more than ``ahead``.
        threads: How many threads read at the same time.
        ahead: Most pictures that are read, or being read, and not yet handed over.
        workers: How many processes read files and their bytes; 0 for none. Threads read everything
            else.
        preprocessing: One of ``PREPROCESSING_MODES``.

    Yields:
        The pictures in their order, also those that were refused. An error that ``pictures``
        raises comes after the pictures before it. Closed early, what is not yet begun is given up,
        and what is being read waited for.

    Raises:
        InvalidArgument: If worker processes cannot be started.
    """
    waiting: deque[Callable[[], Ready | Refused]] = deque()
    trouble: Exception | None = None
    source: Iterator[Sample] | None = iter(pictures)
    with closing(_Readers(model, threads, workers, preprocessing, ahead)) as readers:
        while source is not None or waiting:
            while source is not None and len(waiting) < ahead:
                try:
                    sample = next(source)
                except StopIteration:
                    source = None
                except Exception as error:  # noqa: BLE001 - whatever a caller's generator raises
                    source, trouble = None, error
                else:
                    waiting.append(readers.begin(sample))
            if waiting:
                yield waiting.popleft()()
        if trouble is not None:
            raise trouble


class _Readers:
    """Threads, and maybe worker processes, which start with the first picture for them."""

    def __init__(
        self, model: LoadedModel, threads: int, workers: int, preprocessing: str, ahead: int
    ) -> None:
        self._model, self._mode, self._ahead = model, preprocessing, ahead
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="cam-hub-reading")
        self._count = workers
        self._workers: Workers | None = None

    def begin(self, sample: Sample) -> Callable[[], Ready | Refused]:
        """Begins to read a picture.

        Returns:
            What waits for it.
        """
        source = None
        if sample.error is None and (self._count or self._mode != "exact"):
            source = encoded(sample.picture)
        if source is None:
            return self._threads.submit(_read, self._model, sample).result
        turn = self._model.preprocessing
        if self._count and self._workers is None:
            self._workers = Workers.start(self._count, turn, self._mode, self._ahead)
            self._count = 0 if self._workers is None else self._count
        if self._workers is not None:
            opening = self._workers.submit(source)
        else:
            opening = self._threads.submit(open_as, turn, source, self._mode).result
        return partial(_received, self._model, sample, opening)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        if self._workers is not None:
            self._workers.close()


def _read(model: LoadedModel, sample: Sample) -> Ready | Refused:
    if sample.error is not None:
        return Refused(sample, sample.error)
    device = None
    if model.device.type != "cpu":  # a batch is moved as one
        given = sample.picture
        device = given.device if isinstance(given, Tensor) else torch.device("cpu")
    try:
        return Ready(sample, prepare(model, sample.picture, device=device))
    except CamHubError as error:
        return Refused(sample, error)


@default_modes()
def _received(
    model: LoadedModel, sample: Sample, opening: Callable[[], OpenedImage]
) -> Ready | Refused:
    """A picture that was opened elsewhere. On a device, it is resized in the caller's stream."""
    try:
        opened = opening()
        cpu = torch.device("cpu")  # a batch is moved as one
        return Ready(sample, prepare(model, sample.picture, device=cpu, opened=opened))
    except CamHubError as error:
        return Refused(sample, error)
