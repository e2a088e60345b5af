"""The log: how the app started, how each request ended, how much memory it takes."""

from __future__ import annotations

import logging
import platform
import sys
import threading
import time
import traceback
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from cam_hub._text import shortened
from cam_hub._version import __version__
from cam_hub.errors import CamHubError
from cam_hub.models.model_id import parse_model_id
from space.config.settings import Settings

__all__ = [
    "HealthLog",
    "configure_logging",
    "error_chain",
    "log_unforeseen",
    "printable",
]

_LOG = logging.getLogger("cam_hub.app")
_PACKAGES = ("gradio", "torch", "torchvision", "timm")
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_CALLS = 4
_MOST_TRACEBACKS = 100
_seen: set[str] = set()
"""Errors whose traceback is in the log."""

_EVERY = 60.0
"""Seconds between two lines about memory, at least."""


class OneLine(logging.Formatter):
    """Formats records of other libraries: one short line each, whatever a stranger put into it."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        message = record.getMessage()
        if record.exc_info and isinstance(record.exc_info[1], Exception):
            message = (
                f"{message.splitlines()[0] if message else ''} ({error_chain(record.exc_info[1])})"
            )
        plain = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        plain.msg, plain.args, plain.stack_info = printable(message, 300), (), None
        return super().format(plain)


def configure_logging() -> None:
    """Has the log written to standard error, as a Space shows it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    for name in ("cam_hub", "space"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    others = logging.StreamHandler(sys.stderr)
    others.setFormatter(OneLine())
    others.setLevel(logging.WARNING)
    others.addFilter(lambda record: "WebSocket library" not in record.getMessage())
    logging.getLogger().addHandler(others)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def printable(text: str, most: int = 120) -> str:
    """A text from outside as a part of one line: no control characters, not too long."""
    return "".join(each if each.isprintable() else "?" for each in shortened(text, most))


def log_unforeseen(logger: logging.Logger, place: str, error: BaseException) -> None:
    """Logs an unexpected error: in full the first time, in one line from then on.

    Args:
        logger: Where to.
        place: What was being done.
        error: The error; it is taken for the same one if it comes from the same calls.
    """
    found = error_chain(error)
    if found in _seen or len(_seen) >= _MOST_TRACEBACKS:
        logger.error("unforeseen error around %s: %s", printable(place), found)
        return
    _seen.add(found)
    logger.error("unforeseen error around %s: %s", printable(place), found, exc_info=error)


def error_chain(error: BaseException) -> str:
    """Where an error comes from, in one line: its type, and the innermost calls.

    Its message is left out, since a stranger may have written it.
    """
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    calls = traceback.extract_tb(error.__traceback__)[-_CALLS:]
    places = (f"{Path(call.filename).name}:{call.lineno}" for call in reversed(calls))
    return f"{type(error).__name__} at {' < '.join(places) or 'an unknown place'}"


class HealthLog:
    """Writes a line per request. No photo's name, no token and no address is ever in one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._told = time.monotonic()

    def started(self, settings: Settings) -> None:
        """Logs what runs here, and within which limits."""
        versions = " ".join(f"{name} {version(name)}" for name in _PACKAGES)
        limits = settings.limits
        _LOG.info(
            "start: cam_hub %s, Python %s, %s; device %s; at most %d pixels, %d bytes, %d classes, "
            "%d layers, %d samples; %d at work, %d waiting",
            __version__,
            platform.python_version(),
            versions,
            settings.device,
            limits.max_pixels,
            limits.max_file_bytes,
            limits.max_classes,
            limits.max_layers,
            limits.max_samples,
            settings.concurrency,
            settings.queue_size,
        )

    def answered(self, what: str, model_id: object, seconds: float, code: str) -> None:
        """Logs how a request ended.

        Args:
            what: The endpoint, or the page's event.
            model_id: What was given as the model's ID; only what can be one is logged.
            seconds: How long it took, without waiting in the queue.
            code: ``ok``, or that of the error.
        """
        _LOG.info("request: %s %s %.2fs %s", what, _named(model_id), seconds, code)
        now = time.monotonic()
        with self._lock:
            self._counts[code] += 1
            if now - self._told < _EVERY:
                return
            self._told = now
            counts = dict(sorted(self._counts.items()))
        told = " ".join(f"{code}={count}" for code, count in counts.items())
        _LOG.info("health: memory %s; requests: %s", _memory(), told)


def _named(model_id: object) -> str:
    with suppress(CamHubError):
        if isinstance(model_id, str) and len(model_id) <= 300:
            return str(parse_model_id(model_id))
    return "-"


def _memory() -> str:
    """The memory of the process, where the system reports it."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmRSS:"):
                return f"{int(line.split()[1]) // 1024} MiB"
    return "unknown"
