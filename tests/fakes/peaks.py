"""The peak memory of a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def takes_at_most(limit: int) -> Iterator[None]:
    """Fails if this process grows by more than ``limit`` bytes inside, even for a moment."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        pytest.skip("this system does not report a process's peak memory")
    before = _status("VmRSS")
    yield
    grown = _status("VmHWM") - before
    assert grown <= limit, f"{grown:,} bytes more at the peak"


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kibibytes) * 1024
