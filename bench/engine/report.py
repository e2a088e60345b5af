"""Tells what the bench has found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.engine.cases import OURS, Case, Goal, ratio_of
from bench.engine.contenders import PLAIN
from bench.engine.floor import FLOOR
from bench.engine.markdown import head, least, most, row, span
from bench.engine.memory import MemoryCase
from bench.engine.subjects import NAMES
from bench.engine.timing import Spread, Times

__all__ = ["Findings", "Timed", "Weighed", "render"]

IMPORT_GOAL, COLD_GOAL, FOLDER_GOAL = 0.15, 1.3, 0.9

_INTRODUCTION = """\
# Performance

What explanations cost beside plain inference of the same number of images, and beside torchcam,
grad-cam and a call shaped like easy-explain's (SmoothGradCAM++ and two LayerCAM extractors, each
built anew). Random weights, float32, 224 px, one thread unless a row says otherwise. Written by
`python -m bench.engine`; not edited by hand.

All contenders of a case take turns within each round, on an image that is new to all of them;
ratios are taken round by round. Numbers are medians, with the least and the most in brackets.
Plain inference is `torch.inference_mode()` on one batch, in the faster of both memory layouts.
The floor is what autograd itself needs for the same gradients in plain torch, without noise, maps
and pictures: where a goal is not reached, it tells how much of that is the limit. (Where torch
itself takes a long way, cam_hub goes below it: see "Shortcuts" in engine.md.) Against another
library the limit is how much faster than it plain inference of the images alone is. Others are
given the network as timm makes it, the same target layers, and for tokens and channels-last
activations the layout that cam_hub found.

To repeat it:

```sh
pip install -e ".[bench]"
OMP_NUM_THREADS=1 python -m bench.engine --report docs/performance.md
python -m bench.engine --quick   # three networks, three rounds
```
"""


@dataclass(frozen=True)
class Timed:
    """A case that was timed on a network."""

    case: Case
    network: str
    times: Times


@dataclass(frozen=True)
class Weighed:
    """A case of which the memory was measured: bytes by way, or why there are none."""

    case: MemoryCase
    found: dict[str, int | str]


@dataclass
class Findings:
    """All that was found.

    Attributes:
        setting: Lines on the machine, the versions and the run.
        timed: Case by case.
        weighed: Likewise.
        folders: Seconds per picture by network.
        cold: Seconds to the first map, to the first forward pass, and their ratio, by network.
        importing: Seconds of ``import cam_hub``.
        lost: What could not be measured, and why.
    """

    setting: list[str]
    timed: list[Timed] = field(default_factory=list)
    weighed: list[Weighed] = field(default_factory=list)
    folders: dict[str, Times] = field(default_factory=dict)
    cold: dict[str, tuple[Spread, Spread, Spread]] = field(default_factory=dict)
    importing: Spread | None = None
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Line:
    """A goal, by how much it was reached on each network, and what the floor is, in words."""

    title: str
    goal: str
    found: dict[str, tuple[str, bool]]
    floors: dict[str, str] = field(default_factory=dict)


def render(findings: Findings) -> str:
    """Writes the report."""
    lines = _lines(findings)
    parts = [
        _INTRODUCTION,
        "\n".join(f"- {line}" for line in findings.setting) + "\n",
        _summary(lines),
        _missed(lines),
        _lost(findings.lost),
        *(_details(group) for group in _by_case(findings.timed)),
        _memory(findings.weighed),
        _folders(findings.folders),
        _cold(findings),
    ]
    return "\n".join(part for part in parts if part)


def _lines(findings: Findings) -> list[_Line]:
    lines = []
    for group in _by_case(findings.timed):
        case = group[0].case
        for goal in case.goals:
            found = {each.network: _reached(each, goal) for each in group}
            floors = {each.network: _floor(each, goal) for each in group}
            lines.append(_Line(case.title, goal.words(case.images), found, floors))
    lines += [_weighed_line(each) for each in findings.weighed]
    if findings.folders:
        found = {name: _throughput(times) for name, times in findings.folders.items()}
        goal_words = f"≥ {FOLDER_GOAL:g} × plain inference, decoding included"
        lines.append(_Line("a folder of pictures, LayerCAM", goal_words, found))
    if (spread := findings.importing) is not None:
        reached = f"{spread.median:.3f} s", spread.median <= IMPORT_GOAL
        lines.append(_Line("`import cam_hub`", f"≤ {IMPORT_GOAL:g} s", {"": reached}))
    if findings.cold:
        found = {
            name: (f"{ratio.median:.2f} ×", ratio.median <= COLD_GOAL)
            for name, (_, _, ratio) in findings.cold.items()
        }
        goal_words = f"≤ {COLD_GOAL:g} × torch, timm, building, reading and one forward"
        lines.append(_Line("first map of a cold process", goal_words, found))
    return lines


def _weighed_line(weighed: Weighed) -> _Line:
    case = weighed.case
    ours, other = weighed.found.get(OURS), weighed.found.get(case.against)
    words, held = "failed", False
    if isinstance(ours, int) and isinstance(other, int) and other:
        words, held = f"{ours / other:.2f} ×", ours / other <= case.limit
    goal = f"≤ {case.limit:g} × {_named(case.against)}"
    return _Line(f"extra memory, {case.title}", goal, {"": (words, held)})


def _reached(timed: Timed, goal: Goal) -> tuple[str, bool]:
    ratio = ratio_of(timed.times, goal, timed.times.best(PLAIN))
    if ratio is None:
        broken = [name for name in (OURS, goal.against) if name in timed.times.failures]
        return f"{', '.join(broken) or 'nothing'} failed", broken == [goal.against]
    return f"{ratio:.2f} ×", goal.held_by(ratio)


def _floor(timed: Timed, goal: Goal) -> str:
    """What the limit is: the floor, or for another library how much faster plain inference is."""
    best = timed.times.best(PLAIN)
    if goal.against == "plain":
        words, ratio = "floor", timed.times.ratio(FLOOR, best)
    else:
        words, ratio = "plain inference", timed.times.ratio(goal.against, best or "")
    return "" if ratio is None else f" ({words} {ratio.median:.2f} ×)"


def _throughput(times: Times) -> tuple[str, bool]:
    ratio = times.ratio(times.best(PLAIN) or "", OURS)
    if ratio is None:
        return "failed", False
    return f"{ratio.median:.2f} ×", ratio.median >= FOLDER_GOAL


def _summary(lines: Sequence[_Line]) -> str:
    rows = ["## Goals", "", *head(["case", "goal", "measured", "reached"])]
    for line in lines:
        words = [word for word, _ in line.found.values()]
        held = sum(reached for _, reached in line.found.values())
        measured = words[0] if len(words) == 1 else f"{least(words)} to {most(words)}"
        rows.append(row([line.title, line.goal, measured, f"{held} of {len(words)}"]))
    return "\n".join(rows) + "\n" if lines else ""


def _missed(lines: Sequence[_Line]) -> str:
    rows = []
    for line in lines:
        off = [
            f"{_network(name)} {words}{line.floors.get(name, '')}".strip()
            for name, (words, held) in line.found.items()
            if not held
        ]
        if off:
            rows.append(f"- {line.title}, {line.goal}: {', '.join(off)}")
    return "\n".join(["## Not reached", "", *(rows or ["Nothing."]), ""]) if lines else ""


def _lost(words: Sequence[str]) -> str:
    return "\n".join(["## Not measured", "", *(f"- {each}" for each in words), ""]) if words else ""


def _details(group: Sequence[Timed]) -> str:
    case = group[0].case
    others = list(
        dict.fromkeys(
            name
            for each in group
            for name in (*each.times.seconds, *each.times.failures)
            if name not in (*PLAIN, OURS, FLOOR)
        )
    )
    names = ["network", f"plain × {case.images}, ms", "cam_hub, ms", "cam_hub ÷ plain"]
    rows = [f"## {case.title[0].upper()}{case.title[1:]}", ""]
    floored = any(FLOOR in each.times.seconds for each in group)
    if floored:
        names += ["floor ÷ plain", "cam_hub ÷ floor"]
    rows += head([*names, *(f"{name} ÷ cam_hub" for name in others)])
    for each in group:
        times = each.times
        best = times.best(PLAIN)
        layout = " (channels-last)" if best == PLAIN[1] else ""
        cells = [
            _network(each.network),
            span(times.spread(best) if best else None, 1000) + layout,
            span(times.spread(OURS), 1000),
            span(times.ratio(OURS, best)),
            *([span(times.ratio(FLOOR, best)), span(times.ratio(OURS, FLOOR))] if floored else []),
            *(_failed(times, name) or span(times.ratio(name, OURS)) for name in others),
        ]
        rows.append(row(cells))
    failures = {
        f"{name} on {_network(each.network)}: {words}"
        for each in group
        for name, words in each.times.failures.items()
    }
    rows += ["", *(f"- {line}" for line in sorted(failures))] if failures else []
    return "\n".join(rows) + "\n"


def _memory(weighed: Sequence[Weighed]) -> str:
    if not weighed:
        return ""
    rows = [
        "## Extra memory",
        "",
        "Peak of the process's memory above the loaded model, each in a process of its own, in MB,",
        "after another picture, of which nothing is kept. The floor is what autograd alone needs.",
        "",
        *head(["case", "plain inference", "floor", "cam_hub", "torchcam"]),
    ]
    for each in weighed:
        cells = [each.found.get(way, "–") for way in ("plain", FLOOR, OURS, "torchcam")]
        megabytes = [f"{cell / 1e6:.0f}" if isinstance(cell, int) else cell for cell in cells]
        rows.append(row([each.case.title, *megabytes]))
    return "\n".join(rows) + "\n"


def _folders(folders: dict[str, Times]) -> str:
    if not folders:
        return ""
    rows = ["## A folder of pictures", "", "JPEG of 1024 × 768, batches of 8, ms per picture.", ""]
    rows += head(["network", "plain", "cam_hub, LayerCAM", "throughput"])
    for name, times in folders.items():
        best = times.best(PLAIN)
        spans = [span(times.spread(way), 1000) if way else "–" for way in (best, OURS)]
        rows.append(row([_network(name), *spans, span(times.ratio(best or "", OURS))]))
    return "\n".join(rows) + "\n"


def _cold(findings: Findings) -> str:
    rows = []
    if findings.importing is not None:
        rows += [f"`import cam_hub`: {span(findings.importing, 1000)} ms.", ""]
    if findings.cold:
        rows += head(["network", "first map, s", "first forward with timm, s", "ratio"])
        rows += [
            row([_network(name), *map(span, spreads)]) for name, spreads in findings.cold.items()
        ]
    return "\n".join(["## Cold processes", "", *rows, ""]) if rows else ""


def _by_case(timed: Iterable[Timed]) -> list[list[Timed]]:
    groups: dict[str, list[Timed]] = {}
    for each in timed:
        groups.setdefault(each.case.name, []).append(each)
    return list(groups.values())


def _network(name: str) -> str:
    return NAMES.get(name, name)


def _named(way: str) -> str:
    return "plain inference" if way == "plain" else way


def _failed(times: Times, name: str) -> str:
    return "failed" if name in times.failures else ""
