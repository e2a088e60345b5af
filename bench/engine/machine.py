"""A description of the machine in words."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["machine", "versions"]

_PACKAGES = ("torch", "torchvision", "timm", "torchcam", "grad-cam", "numpy", "Pillow")


def machine() -> str:
    """Processor, cores, memory and system."""
    cores = os.cpu_count() or 1
    words = [_processor(), f"{cores} core{'s' if cores > 1 else ''} visible"]
    if (memory := _memory()) is not None:
        words.append(f"{memory / 2**30:.0f} GiB of memory")
    load = f"load before the run {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return ", ".join([*words, platform.system(), *([load] if load else [])])


def versions() -> str:
    """The versions of Python and of the compared libraries."""
    found = [f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return ", ".join(found)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
