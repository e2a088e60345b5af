"""One worker process from the parent's side: requests, timeouts, memory limits, replacement."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.zoo.plan import Candidate
from bench.zoo.row import Row

__all__ = ["Limits", "Process", "resident_bytes"]

_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",  # random weights need no network
    "CAM_HUB_CACHE": "off",  # the cost of discovery is to be measured
    "CUDA_VISIBLE_DEVICES": "",
}
_SHORTEST_POLL = 0.1


@dataclass(frozen=True)
class Limits:
    """Limits for the check of one model.

    Attributes:
        seconds: Time for the check.
        memory: Resident bytes of the worker.
        models: Number of models after which a worker is replaced.
        start_seconds: Time for the start of a worker.
    """

    seconds: float = 900.0
    memory: int = 8 * 2**30
    models: int = 40
    start_seconds: float = 300.0

    @property
    def memory_between(self) -> int:
        """An idle worker that holds more memory than this is replaced."""
        return self.memory // 3


class Process:
    """Checks models in a process of its own, which is started on first use.

    Args:
        checker: ``module:function``, see ``worker``.
        limits: Limits for the check of one model.
        stopped: Polled during a check; once it returns True, the check is abandoned.
    """

    def __init__(self, checker: str, limits: Limits, stopped: Callable[[], bool]) -> None:
        self._checker = checker
        self._limits = limits
        self._stopped = stopped
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._served = 0

    def check(self, candidate: Candidate) -> Row | None:
        """Checks a model in the worker; if the worker dies, the row records this.

        Returns:
            The row, or None if the check was abandoned.
        """
        start = time.monotonic()
        if self._child is None and (fault := self._begin()) is not None:
            return None if self._stopped() else self._fallen(candidate, *fault, start)
        start = time.monotonic()
        assert self._child is not None
        assert self._child.stdin is not None
        with suppress(BrokenPipeError):  # the worker has died; the missing answer shows it
            self._child.stdin.write(json.dumps(asdict(candidate)) + "\n")
            self._child.stdin.flush()
        answer, fault = self._await(start + self._limits.seconds, self._limits.seconds)
        if fault is not None:
            return None if self._stopped() else self._fallen(candidate, *fault, start)
        self._served += 1
        row = Row.from_json(answer)
        heavy = (resident_bytes(self._child.pid) or 0) > self._limits.memory_between
        if row.status == "error" or heavy or self._served >= self._limits.models:
            self.end()
        return row

    def end(self) -> None:
        """Ends the process, if it is running."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    _close(pipe.close)
            self._child = None

    def close(self) -> None:
        """Ends the process permanently."""
        self.end()
        self._errors.close()

    def _begin(self) -> tuple[str, str] | None:
        self._errors.seek(0)
        self._errors.truncate()
        self._answers = queue.Queue()
        self._served = 0
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bench.zoo.worker", self._checker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            cwd=_ROOT,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,  # the parent handles Ctrl-C and then ends the worker
        )
        threading.Thread(
            target=self._listen, args=(self._child, self._answers), daemon=True
        ).start()
        limit = self._limits.start_seconds
        _, fault = self._await(time.monotonic() + limit, limit)
        return fault

    @staticmethod
    def _listen(child: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
        assert child.stdout is not None
        with suppress(ValueError):  # closed by end()
            for line in child.stdout:
                answers.put(line)
        answers.put(None)

    def _await(self, deadline: float, limit: float) -> tuple[str, tuple[str, str] | None]:
        """The next line from the worker; or the status and the reason why it is missing."""
        assert self._child is not None
        while True:
            try:
                line = self._answers.get(timeout=_SHORTEST_POLL)
            except queue.Empty:
                line = ""
            if line is None:
                return "", ("crashed", self._last_words())
            if line.endswith("\n"):
                return line, None
            if self._stopped():
                return "", ("stopped", "")
            if time.monotonic() > deadline:
                return "", ("timeout", f"it took longer than {limit:g} s")
            held = resident_bytes(self._child.pid)
            if held is not None and held > self._limits.memory:
                bound = self._limits.memory / 2**30
                return "", ("memory", f"it needed more than {bound:.3g} GB of memory")

    def _last_words(self) -> str:
        assert self._child is not None
        code = self._child.wait()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return f"the process died ({how})" + (f": {lines[-1][:200]}" if lines else "")

    def _fallen(self, candidate: Candidate, status: str, reason: str, start: float) -> Row:
        self.end()
        return Row(
            id=candidate.id,
            source=candidate.source,
            family=candidate.family,
            parameters=candidate.parameters,
            status=status,
            refusal_expected=candidate.refusal_expected,
            reasons=[reason],
            seconds=round(time.monotonic() - start, 2),
        )


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None if the system does not report it."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _close(close: Callable[[], None]) -> None:
    with suppress(BrokenPipeError):  # buffered output that no process will read
        close()
