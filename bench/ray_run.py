"""What Ray costs: the same dataset by the local runner and by one worker of Ray, in turns.

    OMP_NUM_THREADS=1 python -m bench.ray_run --report docs/ray.md

Each job runs in a process of its own. *CPU per image* is the processor time of the process that
explains (the worker, or the whole local job) between the first tenth of the rows and the last row;
*job* is the time from the start of Python to its end, with imports, the start of Ray, and the model
in the driver and in the worker. Ratios are computed for each round, and medians are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import cam_hub
from bench.engine.pictures import write_pictures

_SIDE = (128, 96)
_RUNNERS = ("local", "ray")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table in Markdown; returns the program's exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="resnet18", help="in timm (%(default)s)")
    parser.add_argument("--images", type=int, default=3000, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images of a batch (%(default)s)")
    parser.add_argument("--report", type=Path, help="the table is written to this file")
    parser.add_argument("--job", nargs=3, metavar=("RUNNER", "SOURCE", "OUT"), help="runs one job")
    options = parser.parse_args(arguments)
    if options.job:
        print(json.dumps(_job(options.model, options.batch, *options.job)))
        return 0
    lines = [
        "| runner | CPU per image, ms | ÷ local | job, s | ÷ local |",
        "|---|---|---|---|---|",
        *_rows(options),
    ]
    print("\n".join(lines))
    if options.report:
        options.report.write_text("\n".join(lines) + "\n", "utf-8")
    return 0


def _rows(options: argparse.Namespace) -> list[str]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in _RUNNERS}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "photos"
        write_pictures(source, options.images, _SIDE)
        command = [sys.executable, "-m", "bench.ray_run", "--model", options.model]
        command += ["--batch", str(options.batch)]
        for number in range(options.rounds):
            for name in _RUNNERS:
                out = Path(folder) / f"{name}-{number}"
                start = time.perf_counter()
                done = subprocess.run(
                    [*command, "--job", name, str(source), str(out)],
                    check=True,
                    stdout=subprocess.PIPE,
                )
                seconds = time.perf_counter() - start
                assert len(cam_hub.DatasetReport.open(out)) == options.images
                found[name].append((json.loads(done.stdout.splitlines()[-1]), seconds))
                print(name, found[name][-1], file=sys.stderr, flush=True)
    lines = []
    for name, measured in found.items():
        pairs = list(zip(measured, found["local"], strict=True))
        cpu, job = ([own[i] / base[i] for own, base in pairs] for i in range(2))
        milliseconds = 1000 * median(each for each, _ in measured)
        whole = median(each for _, each in measured)
        cells = (f"{milliseconds:.1f}", f"{median(cpu):.2f}", f"{whole:.0f}", f"{median(job):.2f}")
        lines.append(f"| {' | '.join((name, *cells))} |")
    return lines


def _job(model: str, batch: int, runner: str, source: str, out: str) -> float:
    """Runs a job; returns the seconds of processor time for an image where it is explained."""
    total = len(list(Path(source).iterdir()))
    seen: list[tuple[int, float]] = []

    def look(part: float, _: str) -> None:
        if part >= 0.1:
            seen.append((round(part * total), _seconds(runner)))

    cam_hub.explain_dataset(
        cam_hub.load_model(model, pretrained=False, device="cpu"),
        source,
        out,
        method="layercam",
        batch_size=batch,
        threads=1,
        runner=cam_hub.RayRunner(workers=1) if runner == "ray" else runner,
        progress=look,
    )
    # The last report comes after the workers have ended.
    (first, begun), (last, ended) = seen[0], seen[-2]
    return (ended - begun) / (last - first)


def _seconds(runner: str) -> float:
    if runner == "local":
        return time.process_time()
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::_Explainer"):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue  # it has just ended
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    raise SystemExit(main())
