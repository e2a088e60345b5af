"""Memory beyond a loaded model, measured in a separate process.

Memory retained by allocators would blur the result: every larger block is therefore allocated from
the system and returned to it immediately (``MALLOC_MMAP_THRESHOLD_``), and free memory is returned
before the baseline is taken. Each contender has explained another image before, without caching it:
whatever is loaded or determined once (kernels, the faster memory format, weights converted to it)
does not count. The peak is the kernel's (``VmHWM``), which includes torch's memory, unlike Python's
tracers; unlike ``getrusage``'s, it can be reset, and does not begin at the size of the parent
process.
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CASES", "MemoryCase", "main", "measure", "status"]

_ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class MemoryCase:
    """A row of the table of memory.

    Attributes:
        name: Its name on the command line.
        title: Its title in the report.
        network: The network's name in timm.
        size: Rows and columns of the input.
        limit: Maximum of our memory, as a multiple of ``against``.
        against: ``"plain"`` or ``"torchcam"``.
        ways: The contenders to measure, of those that ``main`` knows.
    """

    name: str
    title: str
    network: str
    size: int
    limit: float
    against: str
    ways: tuple[str, ...] = ("plain", "floor", "cam_hub", "torchcam")


def layercam_case(network: str, title: str) -> MemoryCase:
    """LayerCAM at the recommended layer of a network at 224 px."""
    return MemoryCase("memory-layercam", f"LayerCAM, {title}", network, 224, 1.2, "plain")


CASES = (
    MemoryCase(
        "memory-large", "LayerCAM, ConvNeXt-B at 384 px", "convnext_base", 384, 0.2, "torchcam"
    ),
    MemoryCase(
        "memory-features",
        "VGG-19, every one of its features, both methods",
        "vgg19",
        224,
        0.5,
        "torchcam",
    ),
)


def measure(case: MemoryCase, timeout: float = 300.0) -> dict[str, int | str]:
    """The peak memory beyond a loaded model in bytes, by contender; or the reason for a failure."""
    found: dict[str, int | str] = {}
    for way in case.ways:
        command = [sys.executable, "-m", "bench.engine.memory"]
        command += [case.name, case.network, str(case.size), way]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                cwd=_ROOT,
                env={**os.environ, **_ENVIRONMENT},
            )
        except subprocess.TimeoutExpired:
            found[way] = f"failed: not finished after {timeout:.0f} s"
            continue
        last = (done.stdout.strip() or done.stderr.strip() or "no answer").splitlines()[-1]
        found[way] = int(last) if done.returncode == 0 else f"failed: {last[:120]}"
    return found


def main(arguments: list[str]) -> None:
    """Measures one contender of one case in this process, and prints bytes.

    Args:
        arguments: The case's name, the network, its size, and ``"plain"``, ``"cam_hub"`` or
            ``"torchcam"``; or ``"floor"`` for autograd alone.
    """
    name, network, size, way = arguments
    import torch  # noqa: PLC0415 - not in the parent, where only ``measure`` is wanted

    from bench.engine import contenders, floor, peers, subjects  # noqa: PLC0415
    from cam_hub.attribution.passes import RECENT  # noqa: PLC0415

    torch.set_num_threads(1)
    _warm_up()
    subject = subjects.load(network, int(size))
    every = name == "memory-features"
    layers = subject.features if every else [subject.recommended]
    methods = contenders.METHODS if every else ("layercam",)
    plain = contenders.plain(subject, 1)["plain"]
    least = floor.whole(subject, 1 + peers.SAMPLES if every else 1, layers)
    image = subject.image(1)
    ways: Mapping[str, Callable[[], Callable[[torch.Tensor], object]]] = {
        "plain": lambda: plain.run,
        "floor": lambda: least.run,
        "cam_hub": lambda: contenders.maps(subject, layers, methods=methods),
        "torchcam": lambda: peers.torchcam_maps(subject, layers, smooth=every),
    }
    run = ways[way]()
    given = {"plain": plain, "floor": least}.get(way)
    for each in (subject.image(2), image):
        if given is not None and given.before is not None:
            given.before(each)
        if each is not image:
            run(each)
    RECENT.clear()
    print(peak_beyond(lambda: run(image)))


def _warm_up() -> None:
    """Loads the code that every contender needs, by running it on a tiny network."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    import cam_hub  # noqa: PLC0415
    from bench.engine import contenders, peers, subjects  # noqa: PLC0415

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 9)
    ).eval()
    tiny = subjects.Subject("tiny", cam_hub.wrap_model(module, input_size=(3, 32, 32)))
    for run in (contenders.maps(tiny), peers.torchcam_maps(tiny, [tiny.recommended])):
        run(tiny.image(0))


def peak_beyond(run: Callable[[], object]) -> int:
    """The growth of this process at the peak of a call, in bytes.

    Raises:
        OSError: If the system does not report it.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # resets the peak
    before = status("VmRSS")
    kept = run()
    grown = status("VmHWM") - before
    del kept
    return max(grown, 0)


def status(name: str) -> int:
    """A figure of this process's memory in bytes, as Linux reports it, such as ``"VmRSS"``."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kibibytes) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
