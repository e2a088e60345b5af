"""Worker processes that open images: they decode and preprocess files for the process of a model.

A ``ProcessPoolExecutor``, rather than a ``DataLoader``: a future is a few images, so that it is
known which ones were being opened when a decoder crashed; and an input of 224 px takes half the
time through its pipe that a tensor takes through shared memory, and needs no file descriptor.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile

from cam_hub._text import first_line
from cam_hub.errors import ImageRefused, InvalidArgument
from cam_hub.images.clips import ClipPreprocessing
from cam_hub.images.geometry import Placement
from cam_hub.images.preprocessing import OpenedImage, Preprocessing
from cam_hub.images.transforms import TransformPreprocessing

__all__ = ["AnyPreprocessing", "Workers", "open_as"]

AnyPreprocessing = Preprocessing | ClipPreprocessing | TransformPreprocessing

_LOG = logging.getLogger("cam_hub")

_KILLED = (
    "it ended two worker processes that opened nothing else: its decoder has crashed, or memory "
    "has run out"
)
_NOT_SENT = "threads read: the preprocessing cannot be sent to worker processes (%s)"
_NOT_STARTED = (
    "0, since no worker process can be started here ({reason}). A script needs "
    "`if __name__ == '__main__':` around what it does, since workers import it"
)


def open_as(turn: AnyPreprocessing, source: object, mode: str) -> OpenedImage:
    """Opens an image, or a clip, and preprocesses it.

    Args:
        turn: The preprocessing.
        source: As ``decoding.encoded`` returns it.
        mode: One of ``PREPROCESSING_MODES``; clips and transforms are exact.

    Raises:
        ImageRefused: If it cannot be opened, or does not fit the model.
    """
    if mode == "exact" or not isinstance(turn, Preprocessing):
        return turn.open(source)
    return turn.open_reduced(source, device=mode == "device")


_Sent = tuple[NDArray[Any], Placement | None, str]
"""An opened image without its frames, which would take longer to send than the rest."""

_MAX_TASK = 8
"""Images of one task. A task takes about 0.4 ms of this process."""


@dataclass
class _Task:
    """Images that a worker opens one after the other, and sends back together."""

    sources: list[object] = field(default_factory=list)
    reading: Future[list[_Sent | Exception]] | None = None


class Workers:
    """Processes that open images. Those that die are replaced.

    They are spawned: a fork would copy the locks of this process's threads, and CUDA does not
    survive it. Only the preprocessing is sent to them, not the weights. A worker ends with this
    process, however that ends.

    Args:
        count: How many.
        turn: The preprocessing.
        pickled: The same, for the workers.
        mode: As for :func:`open_as`.
        ahead: How many images are submitted before the first one is needed.
    """

    def __init__(
        self, count: int, turn: AnyPreprocessing, pickled: bytes, mode: str, ahead: int
    ) -> None:
        self._count, self._turn, self._pickled, self._mode = count, turn, pickled, mode
        self._size = max(1, min(_MAX_TASK, ahead // (2 * count)))  # each worker has two tasks
        self._task = _Task()
        self._pool = self._executor(count)
        self._spare: ProcessPoolExecutor | None = None

    @classmethod
    def start(cls, count: int, turn: AnyPreprocessing, mode: str, ahead: int) -> Workers | None:
        """Starts the first worker, and makes sure that it works; others start as needed.

        Args:
            count: How many there may be.
            turn: The preprocessing.
            mode: As for :func:`open_as`.
            ahead: How many images are submitted before the first one is needed.

        Returns:
            None if the preprocessing cannot be sent to another process, as that of a local
            function; it is logged.

        Raises:
            InvalidArgument: If processes cannot be started.
        """
        try:
            pickled = pickle.dumps(turn)
        except Exception as error:  # noqa: BLE001 - whatever a transform of the user's raises
            _LOG.warning(_NOT_SENT, first_line(error))
            return None
        workers = cls(count, turn, pickled, mode, ahead)
        try:
            trouble = workers._pool.submit(_trouble).result()
        except BaseException as error:
            workers.close()
            if not isinstance(error, Exception):  # Ctrl+C
                raise
            expected = _NOT_STARTED.format(reason=first_line(error))
            raise InvalidArgument("workers", count, expected) from error
        if trouble is not None:
            workers.close()
            _LOG.warning(_NOT_SENT, trouble)
            return None
        return workers

    def _executor(self, count: int) -> ProcessPoolExecutor:
        limits = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        return ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(self._pickled, self._mode, limits),
        )

    def submit(self, source: object) -> Callable[[], OpenedImage]:
        """Has an image opened.

        Args:
            source: As ``decoding.encoded`` returns it.

        Returns:
            What waits for the image; it has no frames. Raises ImageRefused as :func:`open_as`, and
            if the image ends two workers.
        """
        task = self._task
        task.sources.append(source)
        if len(task.sources) == self._size:
            self._send(task)
        return functools.partial(self._result, task, len(task.sources) - 1)

    def _send(self, task: _Task) -> Future[list[_Sent | Exception]]:
        self._task = _Task()
        try:
            task.reading = self._pool.submit(_open, task.sources)
        except BrokenExecutor:  # with one worker, all others are ended
            self._pool.shutdown()
            self._pool = self._executor(self._count)
            task.reading = self._pool.submit(_open, task.sources)
        return task.reading

    def _result(self, task: _Task, index: int) -> OpenedImage:
        reading = task.reading or self._send(task)
        try:
            sent = reading.result()[index]
        except BrokenExecutor:
            sent = self._alone(task.sources[index])
        if isinstance(sent, ImageRefused):  # plugins of Pillow may be registered in this process
            return open_as(self._turn, task.sources[index], self._mode)
        if isinstance(sent, Exception):
            raise sent
        values, placement, approximation = sent
        return OpenedImage((), None, placement, torch.from_numpy(values), approximation)

    def _alone(self, source: object) -> _Sent | Exception:
        """What a worker makes of an image while no other image is being opened there."""
        for _ in range(2):  # the first one may have been ended by something else
            self._spare = self._spare or self._executor(1)
            try:
                return self._spare.submit(_open, [source]).result()[0]
            except BrokenExecutor:
                self._spare.shutdown()
                self._spare = None
        raise ImageRefused(_KILLED)

    def close(self) -> None:
        """Ends the processes, after the images that are being opened."""
        for pool in filter(None, (self._pool, self._spare)):
            pool.shutdown(cancel_futures=True)


# In the workers:

_SENT: dict[str, Any] = {}


def _begin(turn: bytes, mode: str, limits: tuple[int | None, bool]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is handled by the process of the model
    torch.set_num_threads(1)
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limits
    _SENT.update(turn=turn, mode=mode)


def _end_with_parent() -> None:
    """Ends this process when its parent was killed, which could not end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@functools.cache
def _turn() -> AnyPreprocessing:
    turn: AnyPreprocessing = pickle.loads(_SENT["turn"])  # noqa: S301 - of this process's parent
    return turn


def _trouble() -> str | None:
    """Why the preprocessing cannot be read here; None if it can."""
    try:
        _turn()
    except Exception as error:  # noqa: BLE001 - whatever a transform of the user's raises
        return first_line(error)
    return None


def _open(sources: list[object]) -> list[_Sent | Exception]:
    found: list[_Sent | Exception] = []
    for source in sources:
        try:
            opened = open_as(_turn(), source, _SENT["mode"])
        except Exception as error:  # noqa: BLE001 - raised where its image is needed
            found.append(error)
        else:
            found.append((opened.tensor.numpy(), opened.placement, opened.approximation))
    return found
