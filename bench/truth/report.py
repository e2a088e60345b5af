"""The tables of the benchmark, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scipy.stats import spearmanr

from bench.truth.measures import TESTS, Measures

__all__ = ["Result", "ranks", "report"]

_DEFAULT = "cam_hub: default"
_PEERS = ("torchcam: LayerCAM", "torchcam: SmoothGradCAM++")


@dataclass(frozen=True)
class Result:
    """What was measured on one network, as means over maps.

    Attributes:
        network: Its name.
        maps: How many maps.
        rules: By the name of the rule.
        candidates: By layer, then method.
    """

    network: str
    maps: int
    rules: Mapping[str, Measures]
    candidates: Mapping[str, Mapping[str, Measures]]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """From JSON."""
        rules = {name: Measures(**each) for name, each in data["rules"].items()}
        candidates = {
            layer: {name: Measures(**each) for name, each in found.items()}
            for layer, found in data["candidates"].items()
        }
        return cls(data["network"], data["maps"], rules, candidates)

    @property
    def objects(self) -> int:
        """How many objects an image has; ``own`` needs two."""
        return 1 if all(math.isnan(each.own) for each in self.rules.values()) else 2

    def best(self, measure: str) -> tuple[str, str, Measures]:
        """The layer and method with the largest value, which only the masks reveal."""
        every = [
            (layer, name, each)
            for layer, found in self.candidates.items()
            for name, each in found.items()
        ]
        return max(every, key=lambda each: _order(getattr(each[2], measure)))


def _order(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def ranks(result: Result) -> dict[str, tuple[float, float]]:
    """For each test its rank correlation with own and with hit, over all layers and methods."""
    every = [each for found in result.candidates.values() for each in found.values()]
    correlations = {}
    for name, field in TESTS.items():
        sign = -1 if field == "other" else 1
        found = []
        for truth in ("own", "hit"):
            pairs = [(sign * getattr(each, field), getattr(each, truth)) for each in every]
            kept = [pair for pair in pairs if not any(map(math.isnan, pair))]
            rank = float(spearmanr(kept).statistic) if len(kept) > 2 else float("nan")
            found.append(rank)
        correlations[name] = (found[0], found[1])
    return correlations


def report(results: Sequence[Result]) -> str:
    """The tables of some networks."""
    composed = [each for each in results if each.objects == 2]
    parts = []
    if len(composed) > 1:
        parts += [_summary(composed), _tests(composed)]
    parts += map(_network, results)
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _summary(results: Sequence[Result]) -> str:
    rows = []
    for each in results:
        hit, own = each.best("hit")[2].hit, each.best("own")[2].own
        default = each.rules[_DEFAULT]
        peers = [each.rules[name] for name in _PEERS]
        rows.append(
            [
                each.network,
                f"{default.hit:.2f} / {default.own:.2f} / {default.lift:.1f}",
                *(f"{peer.hit:.2f} / {peer.own:.2f} / {peer.lift:.1f}" for peer in peers),
                f"{hit:.2f} / {own:.2f}",
                f"{default.hit / hit:.2f} {default.own / own:.2f}",
            ]
        )
    head = ["network", f"{_DEFAULT}, hit / own / lift", *_PEERS, "best of all, hit / own"]
    return "### All networks\n\n" + _table([*head, "default relative to the best"], rows)


def _tests(results: Sequence[Result]) -> str:
    found = [ranks(each) for each in results]
    rows = []
    for name in TESTS:
        own = [each[name][0] for each in found]
        hit = [each[name][1] for each in found]
        known = [[value for value in each if math.isfinite(value)] for each in (own, hit)]
        middle = [_number(median(each or [math.nan])) for each in known]
        rows.append([name, *map(_number, own), *middle])
    head = ["test", *(each.network for each in results), "median", "median, with hit"]
    title = "### Rank correlation of the tests with own, over layers and methods"
    return f"{title}\n\n" + _table(head, rows)


def _network(result: Result) -> str:
    two = result.objects == 2
    head = ["layer and method", "hit", *(["own"] if two else []), "lift"]
    head += ["contrast drop", "ROAD", "insertion less deletion"]

    def cells(title: str, found: Measures) -> list[str]:
        own = [_number(found.own)] if two else []
        shown = [_number(found.drop), _number(found.road), _number(found.curves)]
        return [title, _number(found.hit), *own, _number(found.lift, 1), *shown]

    rows = [cells(name, found) for name, found in result.rules.items()]
    for measure in ("hit", "own") if two else ("hit", "lift"):
        layer, method, found = result.best(measure)
        rows.append(cells(f"best {measure}, knowing the masks: {method}, {layer}", found))
    return f"### {result.network} ({result.maps} maps)\n\n" + _table(head, rows)
