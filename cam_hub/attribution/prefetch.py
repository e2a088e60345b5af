"""Pictures, read and made ready by threads ahead of the network, in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from cam_hub.attribution.preparation import Prepared, prepare
from cam_hub.attribution.samples import Sample
from cam_hub.errors import CamHubError
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
    model: LoadedModel, pictures: Iterable[Sample], *, threads: int, ahead: int
) -> Generator[Ready | Refused, None, None]:
    """Reads pictures before they are asked for.

    Args:
        model: The model that they are made ready for.
        pictures: The samples, one by one; advanced in the caller's thread only, and never
            by more than ``ahead``.
        threads: How many read at the same time.
        ahead: Most pictures that are read, or being read, and not yet handed over.

    Yields:
        The pictures in their order, also those that were refused. An error that ``pictures``
        raises comes after the pictures before it. Closed early, what is not yet begun is given up,
        and what is being read waited for.
    """
    waiting: deque[Future[Ready | Refused]] = deque()
    trouble: Exception | None = None
    source: Iterator[Sample] | None = iter(pictures)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cam-hub-reading")
    try:
        while source is not None or waiting:
            while source is not None and len(waiting) < ahead:
                try:
                    waiting.append(pool.submit(_read, model, next(source)))
                except StopIteration:
                    source = None
                except Exception as error:  # noqa: BLE001 - whatever a caller's generator raises
                    source, trouble = None, error
            if waiting:
                yield waiting.popleft().result()
        if trouble is not None:
            raise trouble
    finally:
        pool.shutdown(cancel_futures=True)


def _read(model: LoadedModel, sample: Sample) -> Ready | Refused:
    if sample.error is not None:
        return Refused(sample, sample.error)
    try:
        return Ready(sample, prepare(model, sample.picture))
    except CamHubError as error:
        return Refused(sample, error)
