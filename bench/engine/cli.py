"""The command line of the bench."""

from __future__ import annotations

import argparse
import sys
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
from bench.engine.timing import Times, measure

__all__ = ["main"]

_OTHERS = ("memory-layercam", *(case.name for case in memory.CASES), "folder", "import", "cold")
_LARGE = ("memory-large",)
_COLD = "resnet18"
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the bench, or as much of it as is asked for.

    Args:
        arguments: Of the command line; None for the program's own.

    Returns:
        0, or 130 if it was interrupted; what was found until then is reported.
    """
    options = _parser().parse_args(arguments)
    networks = options.models or (QUICK if options.quick else tuple(NAMES))
    rounds = options.repeats or (3 if options.quick else 9)
    known = [*(case.name for case in CASES), *_OTHERS]
    asked = options.cases or [name for name in known if not (options.quick and name in _LARGE)]
    torch.set_num_threads(1)
    findings = Findings([machine(), versions(), f"{rounds} rounds, one thread"])
    if not has_grad_cam():
        _say("without grad-cam: it comes with the extra 'bench'")
    code = 0
    try:
        for step in _steps(networks, asked, rounds, options.quick):
            step(findings)
    except KeyboardInterrupt:
        _say("interrupted")
        code = _INTERRUPTED
    text = render(findings)
    if options.report:
        options.report.write_text(text, "utf-8")
    else:
        print(text)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine",
        description="What explanations cost, beside plain inference and other libraries.",
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="in timm (default: the ten)")
    names = [*(case.name for case in CASES), *_OTHERS]
    parser.add_argument("--cases", nargs="+", choices=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds (default: 9)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write it here, as Markdown")
    parser.add_argument("--quick", action="store_true", help="three networks, three rounds")
    return parser


Step = Callable[[Findings], None]


def _steps(
    networks: Sequence[str], asked: Sequence[str], rounds: int, quick: bool
) -> Sequence[Step]:
    """What is to be done, network by network, so that each is built once and then forgotten."""
    cases = [case for case in CASES if case.name in asked]

    def with_network(name: str) -> Step:
        def step(findings: Findings) -> None:
            subject = subjects.load(name)
            for case in cases:
                if not case.only or name in case.only:
                    _say(f"{name}: {case.title}")
                    times = measure(case.all_contenders(subject), subject.image, rounds)
                    findings.timed.append(Timed(case, name, times))
            if "folder" in asked:
                findings.folders[name] = _folder(subject, rounds, quick)

        return step

    def weigh(findings: Findings) -> None:
        wanted = [case for case in memory.CASES if case.name in asked]
        if "memory-layercam" in asked:
            wanted += [memory.layercam_case(name, NAMES.get(name, name)) for name in networks]
        for case in wanted:
            _say(f"memory: {case.title}")
            findings.weighed.append(Weighed(case, memory.measure(case)))

    def begin(findings: Findings) -> None:
        if "import" in asked:
            findings.importing = measure_import(rounds)
        if "cold" in asked:
            _say(f"{_COLD}: cold processes")
            findings.cold[_COLD] = measure_cold(_COLD, rounds)

    timed = [with_network(name) for name in networks] if cases or "folder" in asked else []
    return [begin, *timed, weigh]


def _folder(subject: Subject, rounds: int, quick: bool) -> Times:
    _say(f"{subject.name}: a folder of pictures")
    return measure_folder(subject, count=24 if quick else 64, rounds=min(rounds, 5))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
