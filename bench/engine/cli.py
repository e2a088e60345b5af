"""The command line of the engine benchmark."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench.engine import memory, subjects
from bench.engine.cases import CASES
from bench.engine.cold import measure_cold, measure_import
from bench.engine.folder import measure_folder
from bench.engine.machine import machine, versions
from bench.engine.peers import has_grad_cam
from bench.engine.report import Findings, Timed, Weighed, render
from bench.engine.subjects import NAMES, QUICK, Subject
from bench.engine.timing import LEAST, Times, measure

__all__ = ["main"]

_OTHERS = ("memory-layercam", *(case.name for case in memory.CASES), "folder", "import", "cold")
_LARGE = ("memory-large",)
_COLD = "resnet18"
_INTERRUPTED = 130
_BEGUN = time.perf_counter()

ENOUGH = 20.0
"""Seconds after which a case needs no further round, if ``LEAST`` rounds are counted."""

_ENOUGH_OF_A_FOLDER = 60.0
"""The same for a folder, for which one round is enough."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark, or the selected part of it.

    Args:
        arguments: The command-line arguments; None for those of the process.

    Returns:
        0, or 130 if it was interrupted (by Ctrl-C or SIGTERM); the results up to then are reported.
    """
    options = _parser().parse_args(arguments)
    networks = options.models or (QUICK if options.quick else tuple(NAMES))
    rounds = options.repeats or (3 if options.quick else 9)
    known = [*(case.name for case in CASES), *_OTHERS]
    asked = options.cases or [name for name in known if not (options.quick and name in _LARGE)]
    torch.set_num_threads(1)
    sampled = f"up to {rounds} rounds, at least {LEAST}, else as many as take {ENOUGH:.0f} s"
    findings = Findings([machine(), versions(), f"{sampled} by case and network; one thread"])
    if not has_grad_cam():
        _say("without grad-cam: it comes with the extra 'bench'")
    code = 0
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        for step in _steps(networks, asked, rounds):
            step(findings)
            if options.report:  # the results so far
                options.report.write_text(render(findings), "utf-8")
    except KeyboardInterrupt:
        _say("interrupted")
        findings.lost.append("the remaining cases: the run was interrupted")
        code = _INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    text = render(findings)
    if options.report:
        options.report.write_text(text, "utf-8")
    else:
        print(text)
    return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine",
        description="The cost of explanations, compared with plain inference and other libraries.",
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="in timm (default: the ten)")
    names = [*(case.name for case in CASES), *_OTHERS]
    parser.add_argument("--cases", nargs="+", choices=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds (default: 9)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="the report, in Markdown")
    parser.add_argument("--quick", action="store_true", help="three networks, three rounds")
    return parser


Step = Callable[[Findings], None]


def _steps(networks: Sequence[str], asked: Sequence[str], rounds: int) -> Sequence[Step]:
    """The steps, network by network, so that each network is built once and then released."""
    cases = [case for case in CASES if case.name in asked]

    def with_network(name: str) -> Step:
        def step(findings: Findings) -> None:
            subject = subjects.load(name)
            for case in cases:
                if not case.only or name in case.only:
                    _say(f"{name}: {case.title}")
                    times = Times()
                    ways = case.all_contenders(subject)
                    try:
                        measure(ways, subject.image, rounds, seconds=ENOUGH, into=times)
                    finally:
                        if times.failures or any(times.seconds.values()):
                            findings.timed.append(Timed(case, name, times))
            if "folder" in asked:
                findings.folders[name] = _folder(subject, rounds)

        return step

    def weigh(findings: Findings) -> None:
        wanted = [case for case in memory.CASES if case.name in asked]
        if "memory-layercam" in asked:
            wanted += [memory.layercam_case(name, NAMES.get(name, name)) for name in networks]
        for case in wanted:
            _say(f"memory: {case.title}")
            findings.weighed.append(Weighed(case, memory.measure(case)))

    def begin(findings: Findings) -> None:
        try:
            if "import" in asked:
                _say("import cam_hub")
                findings.importing = measure_import(rounds)
            if "cold" in asked:
                _say(f"{_COLD}: cold processes")
                findings.cold[_COLD] = measure_cold(_COLD, rounds)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            findings.lost.append(f"processes: {str(error)[:200]}")

    timed = [with_network(name) for name in networks] if cases or "folder" in asked else []
    return [begin, *timed, weigh]


def _folder(subject: Subject, rounds: int) -> Times:
    _say(f"{subject.name}: a folder of images")
    return measure_folder(subject, count=24, rounds=min(rounds, 5), seconds=_ENOUGH_OF_A_FOLDER)


def _say(text: str) -> None:
    minutes, seconds = divmod(int(time.perf_counter() - _BEGUN), 60)
    print(f"{minutes:3d}:{seconds:02d}  {text}", file=sys.stderr, flush=True)
