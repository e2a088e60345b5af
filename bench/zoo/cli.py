"""The command line of the sweep."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path

from bench.zoo import plan, pool
from bench.zoo.costs import Costs
from bench.zoo.expected import outdated, surprise
from bench.zoo.ledger import Ledger, source_digest
from bench.zoo.plan import Candidate
from bench.zoo.process import Limits
from bench.zoo.report import render_report
from bench.zoo.row import Row

__all__ = ["COSTS", "LEDGER", "main"]

_RESULTS = Path(__file__).resolve().parents[1] / "results"
LEDGER = _RESULTS / "zoo.jsonl"
COSTS = _RESULTS / "costs.json"

_SOURCES = ("timm", "torchvision")
_INTERRUPTED = 130
_OVERHEAD = 10_000_000
"""Parameters that take about as long to check as the fixed part of every check."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the sweep, or the selected part of it.

    Args:
        arguments: The command-line arguments; None for those of the process.

    Returns:
        0 if every selected model is good (with ``--against``: as recorded), 1 if not, 2 if no model
        was selected, 130 if it was interrupted.
    """
    options = _parser().parse_args(arguments)
    costs = Costs(options.costs)
    models = plan.every_model(_SOURCES if options.source == "all" else (options.source,))
    chosen, left_out = _choose(_counted(_named(models, options), costs), costs, options)
    costs.save()
    ledger = Ledger(options.out)
    if not chosen:
        _say("no model fits these options")
        return 2
    if left_out:
        names = ", ".join(f"{each.id} ({why})" for each, why in left_out)
        _say(f"too costly for these options ({len(left_out)}): {names}")
    digest = source_digest()
    todo = set(
        ledger.unfinished(
            [each.id for each in chosen],
            None if options.accept_older else digest,
            retry_failed=options.retry == "failed",
        )
    )
    interrupted = False
    try:
        waiting = plan.reduced([each for each in chosen if each.id in todo], options.reduce_above)
        if options.recorded:
            waiting = plan.with_records(waiting, Ledger(options.recorded))
        _sweep(waiting, len(chosen), ledger, digest, options)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        interrupted = True
    if options.report:
        ledger.compact()
        everything = _counted(plan.every_model(_SOURCES), costs)
        text = render_report(everything, ledger.rows, int(options.max_params))
        options.report.write_text(text, "utf-8")
    return _INTERRUPTED if interrupted else _verdict(chosen, ledger, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.zoo",
        description="Checks every architecture of timm and torchvision, with random weights.",
        epilog="Results are stored; the same command resumes a sweep that was stopped.",
    )
    which = parser.add_argument_group("which models")
    which.add_argument("--source", choices=("timm", "torchvision", "all"), default="all")
    which.add_argument("--family", nargs="+", metavar="F", help="only these module files")
    which.add_argument("--only", nargs="+", metavar="ID", help="only these models; * and ? work")
    which.add_argument("--smallest", action="store_true", help="only the smallest of each family")
    which.add_argument("--max-params", type=float, default=400e6, help="(%(default)g)")
    which.add_argument("--max-macs", type=float, metavar="N", help="of one pass, such as 1e9")
    how = parser.add_argument_group("how")
    how.add_argument("--jobs", type=_at_least_one, default=1, help="processes (%(default)s)")
    how.add_argument("--timeout", type=float, default=900, help="seconds a model (%(default)g)")
    how.add_argument("--memory-gb", type=float, default=8, help="of one process (%(default)g)")
    how.add_argument("--retry", choices=("failed",), help="check failed models again")
    how.add_argument(
        "--accept-older", action="store_true", help="rows of other code also count as done"
    )
    how.add_argument(
        "--reduce-above",
        type=float,
        metavar="N",
        help="multiplications of one pass above which models get a smaller input, if possible",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--out", type=Path, default=LEDGER, help="the ledger")
    files.add_argument(
        "--recorded",
        type=Path,
        metavar="LEDGER",
        help="do not check a layer's position and depth again if this ledger found it good",
    )
    files.add_argument("--costs", type=Path, default=COSTS, help="the file of model sizes")
    files.add_argument("--report", type=Path, help="write the report here")
    files.add_argument(
        "--against", type=Path, metavar="LEDGER", help="fail only if results differ from these"
    )
    return parser


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _named(models: Sequence[Candidate], options: argparse.Namespace) -> list[Candidate]:
    """The models whose name or family is selected."""
    return [
        each
        for each in models
        if (not options.family or each.family in options.family)
        and (not options.only or any(fnmatch(each.id, pattern) for pattern in options.only))
    ]


def _counted(models: Sequence[Candidate], costs: Costs) -> list[Candidate]:
    """The models with their parameters, from the file of sizes or computed now."""
    unknown = [each for each in models if not costs.known(each.source, each.name)]
    try:
        for number, each in enumerate(unknown, start=1):
            costs.parameters(each.source, each.name)
            if number % 50 == 0 or number == len(unknown):
                _say(f"counting parameters: {number}/{len(unknown)}")
    finally:
        costs.save()
    return plan.counted(models, costs)


def _choose(
    models: Sequence[Candidate], costs: Costs, options: argparse.Namespace
) -> tuple[list[Candidate], list[tuple[Candidate, str]]]:
    """The models to be checked, in order; and the too expensive ones, with the reason."""
    ordered = plan.smallest_of_each_family(models) if options.smallest else plan.in_order(models)
    chosen, left_out = [], []
    for each in ordered:
        if (why := _too_costly(each, costs, options)) is None:
            chosen.append(each)
        else:
            left_out.append((each, why))
    return chosen, left_out


def _too_costly(model: Candidate, costs: Costs, options: argparse.Namespace) -> str | None:
    """Why a model is too large for these options, or None."""
    if model.parameters is not None and model.parameters > options.max_params:
        return f"{model.parameters / 1e6:.0f} M parameters"
    if options.max_macs is None or model.refusal_expected:  # a refusal costs nothing
        return None
    macs = costs.macs(model.source, model.name)
    if macs is None:
        return "cost unknown"
    return f"{macs / 1e9:.2f} GMAC" if macs > options.max_macs else None


def _sweep(
    todo: Sequence[Candidate],
    total: int,
    ledger: Ledger,
    digest: str,
    options: argparse.Namespace,
) -> None:
    limits = Limits(seconds=options.timeout, memory=int(options.memory_gb * 2**30))
    sizes = {each.id: (each.parameters or 0) + _OVERHEAD for each in todo}
    left, start = sum(sizes.values()), time.monotonic()
    whole = left
    with closing(pool.run(todo, jobs=options.jobs, limits=limits)) as rows:
        for number, row in enumerate(rows, start=total - len(todo) + 1):
            row.digest = digest
            ledger.add(row)
            left -= sizes[row.id]
            passed = time.monotonic() - start
            eta = _clock(passed / (whole - left) * left)
            _say(f"[{number}/{total}] {row.id}: {_outcome(row)}, {row.seconds} s, eta {eta}")


def _outcome(row: Row) -> str:
    return row.status if row.status == "passed" else f"{row.status} ({'; '.join(row.reasons)})"


def _verdict(chosen: Sequence[Candidate], ledger: Ledger, options: argparse.Namespace) -> int:
    rows = [row for each in chosen if (row := ledger.get(each.id)) is not None]
    bad = [row for row in rows if not row.good]
    _say(f"{len(rows) - len(bad)} of {len(rows)} good")
    if options.against is None:
        return 1 if bad else 0
    recorded = Ledger(options.against)
    surprises = [words for row in rows if (words := surprise(row, recorded)) is not None]
    for words in surprises:
        _say(f"not as recorded: {words}")
    for row in rows:
        if (words := outdated(row, recorded)) is not None:
            _say(words)
    return 1 if surprises else 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
