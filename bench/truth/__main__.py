"""Runs the benchmark; prints Markdown."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from pathlib import Path

import torch
from scipy.stats import spearmanr

import cam_hub
from bench.truth.measures import Measures, mean
from bench.truth.networks import available, load, wrapped
from bench.truth.rules import Network, drawn, every_candidate, judged, questions
from bench.truth.world import World

_SEED = 777
_COMPOSED = 160


def main() -> None:
    """Runs the benchmark for each network of a folder."""
    parser = argparse.ArgumentParser(prog="python -m bench.truth", description=__doc__)
    own = Path(__file__).parent / "data"
    parser.add_argument("--folder", type=Path, default=own, help="of weights and sprites")
    parser.add_argument("--images", type=int, default=18, help="per network; two maps each")
    parser.add_argument("--only", nargs="*", help="these networks")
    parser.add_argument("--seed", type=int, default=_SEED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # torchcam reports its layer each time
    world = World(arguments.folder)
    composed = world.compose(_COMPOSED, arguments.seed, two=True)
    for name in arguments.only or available(arguments.folder):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CAM_HUB_CACHE"] = cache  # what earlier runs have learnt is not used
            module = load(name, arguments.folder)
            model = wrapped(module)
            network = Network(module, model, cam_hub.suggest_layers(model, "blocks"))
            asked = questions(network, composed, arguments.images)
            rules: dict[str, list[Measures]] = {}
            candidates: dict[tuple[str, str], list[Measures]] = {}
            for question in asked:
                found = dict(drawn(network, question))
                for rule, measures in zip(
                    found, judged(network, question, torch.stack([*found.values()])), strict=True
                ):
                    rules.setdefault(rule, []).append(measures)
                maps = every_candidate(network, question)
                for each, measures in zip(
                    maps, judged(network, question, torch.stack([*maps.values()])), strict=True
                ):
                    candidates.setdefault(each, []).append(measures)
        _report(name, len(asked), rules, candidates)


def _report(
    name: str,
    count: int,
    rules: dict[str, list[Measures]],
    candidates: dict[tuple[str, str], list[Measures]],
) -> None:
    means = {each: mean(found) for each, found in candidates.items()}
    best_hit = max(means, key=lambda each: means[each].hit)
    best_own = max(means, key=lambda each: means[each].own)
    print(f"\n### {name} ({count} maps)\n")
    print("| layer and method | hit | own | lift | contrast drop | hit and own, of the best |")
    print("|---|---|---|---|---|---|")
    for rule, found in rules.items():
        _line(rule, mean(found), means[best_hit].hit, means[best_own].own)
    for title, (method, layer) in (("best hit", best_hit), ("best own", best_own)):
        text = f"{title}, knowing the masks: {method}, {layer}"
        _line(text, means[method, layer], means[best_hit].hit, means[best_own].own)
    drop, plain, own, hit = (
        [getattr(each, field) for each in means.values()]
        for field in ("drop", "plain", "own", "hit")
    )
    ranks = (
        f"contrast drop and own {spearmanr(drop, own).statistic:.2f}, "
        f"contrast drop and hit {spearmanr(drop, hit).statistic:.2f}, "
        f"plain drop and own {spearmanr(plain, own).statistic:.2f}"
    )
    print(f"\nRank correlation over {len(means)} methods and layers: {ranks}.", flush=True)


def _line(title: str, found: Measures, hit: float, own: float) -> None:
    print(
        f"| {title} | {found.hit:.2f} | {found.own:.2f} | {found.lift:.1f} | {found.drop:.2f} "
        f"| {found.hit / hit:.2f} {found.own / own:.2f} |"
    )


if __name__ == "__main__":
    main()
