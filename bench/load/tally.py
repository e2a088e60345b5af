"""Counts of a load test, and their report."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from bench.load.server import Server

__all__ = ["Tally", "render"]

_ROWS = 12  # in the table of memory


@dataclass
class Tally:
    """The results so far.

    Attributes:
        codes: Number of each outcome, by action.
        seconds: Durations of successful requests, by action.
        wrong: Differences from the required results.
        broken: Failed connections, by kind.
        first: Models, and the duration of the first request for each before the others began.
    """

    codes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    first: list[tuple[str, float]] = field(default_factory=list)

    def add(self, name: str, code: str, seconds: float, wrong: str) -> None:
        """Counts one action."""
        self.codes[name][code] += 1
        self.seconds[name].append(seconds)
        if wrong:
            self.wrong.append(wrong)

    @property
    def total(self) -> int:
        """Total number of requests."""
        return sum(sum(counts.values()) for counts in self.codes.values())


def render(tally: Tally, server: Server, *, clients: int, seconds: float) -> str:
    """The results as Markdown."""
    lines = [
        f"{clients} clients, {seconds:.0f} seconds: **{tally.total:,} requests** "
        f"({tally.total / seconds:.1f} a second), **{len(tally.wrong)} wrong answers**, "
        f"{sum(tally.broken.values())} broken connections; the app wrote {server.tracebacks} "
        f"tracebacks, and ended with exit code {server.code} after {server.ending:.1f} s.",
        "",
        "Before that, the first request for each model, which loads it and finds its layers: "
        + ", ".join(f"{id} {taken:.1f} s" for id, taken in tally.first)
        + ".",
        "",
        "| what | requests | how they ended | median | 90 % | 99 % | longest |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, counts in sorted(tally.codes.items()):
        ended = ", ".join(f"{code} {count:,}" for code, count in counts.most_common())
        times = [
            f"{value:.2f} s" for value in np.quantile(tally.seconds[name], [0.5, 0.9, 0.99, 1])
        ]
        lines.append(f"| {name} | {sum(counts.values()):,} | {ended} | {' | '.join(times)} |")
    for kind, count in tally.broken.most_common():
        lines.append(f"\nBroken: {kind}, {count} times.")
    lines += ["", "| second | memory of the app |", "|---|---|"]
    for place in np.linspace(0, len(server.memory) - 1, _ROWS).astype(int):
        when, used = server.memory[place]
        lines.append(f"| {when:.0f} | {used:,.0f} MiB |")
    lines += ["", *(f"- wrong: {what}" for what in tally.wrong[:20])]
    return "\n".join(lines).rstrip() + "\n"
