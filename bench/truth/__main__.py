"""Runs the benchmark; prints Markdown, and writes JSON from which it can be printed again."""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

import cam_hub
from bench.truth.networks import available, load, wrapped
from bench.truth.photos import NAME, photo_questions, pretrained
from bench.truth.report import Result, report
from bench.truth.rules import Network, measured, questions
from bench.truth.world import World

_SEED = 777
_COMPOSED = 160


def main() -> None:
    """Runs the benchmark for each network of a folder, and for the packaged one on photos."""
    parser = argparse.ArgumentParser(prog="python -m bench.truth", description=__doc__)
    own = Path(__file__).parent / "data"
    parser.add_argument("--folder", type=Path, default=own, help="of weights and sprites")
    parser.add_argument("--images", type=int, default=18, help="per network; two maps each")
    parser.add_argument("--tested", type=int, default=4, help="maps for ROAD and the curves")
    parser.add_argument("--only", nargs="*", help="these networks")
    parser.add_argument("--seed", type=int, default=_SEED)
    parser.add_argument("--out", type=Path, help="a JSON file, to which networks are added")
    parser.add_argument("--report", type=Path, help="print this JSON file, and run nothing")
    arguments = parser.parse_args()
    if arguments.report:
        found = json.loads(arguments.report.read_text())
        print(report([Result.from_dict(each) for each in found]))
        return
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # torchcam reports its layer each time
    composed = World(arguments.folder).compose(_COMPOSED, arguments.seed, two=True)
    results = {}
    if arguments.out and arguments.out.exists():
        known = map(Result.from_dict, json.loads(arguments.out.read_text()))
        results = {each.network: each for each in known}
    for name in arguments.only or [*available(arguments.folder), NAME]:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CAM_HUB_CACHE"] = cache  # what earlier runs have learnt is not used
            if name == NAME:
                network = pretrained()
                asked = photo_questions(network)
            else:
                module = load(name, arguments.folder)
                model = wrapped(module)
                network = Network(module, model, cam_hub.suggest_layers(model, "blocks"))
                asked = questions(network, composed, arguments.images)
            results[name] = measured(name, network, asked, arguments.tested)
        print(report([results[name]]), flush=True)
        if arguments.out:
            rows = [asdict(each) for each in results.values()]
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
