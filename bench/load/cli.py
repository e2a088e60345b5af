"""The command line of the load test."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx2
import torch

from bench.load.client import Client, Refused
from bench.load.mix import pick
from bench.load.server import Server, serve
from bench.load.tally import Tally, render
from bench.load.world import World, build_world

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the load test and prints the results.

    Args:
        arguments: The command-line arguments; None for those of the process.

    Returns:
        0 if no result was wrong, no connection broke and the app ended normally; else 1.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = build_world(folder, models=options.models, photos=options.photos)
        tally = Tally()
        with serve(folder) as server:
            asyncio.run(_first(server, world, tally))
            begin = time.monotonic()
            asyncio.run(_load(server, world, tally, options.clients, options.seconds, options.seed))
            seconds = time.monotonic() - begin
        print(render(tally, server, clients=options.clients, seconds=seconds))
        well = not tally.wrong and not tally.broken and not server.tracebacks and server.code == 0
    return 0 if well else 1


async def _first(server: Server, world: World, tally: Tally) -> None:
    """Sends one request for every model, one after another, so that each is loaded and examined."""
    async with httpx2.AsyncClient(timeout=httpx2.Timeout(300.0)) as http:
        for id in world.models:
            begin = time.monotonic()
            await Client(http, server.url).call("layers", {"model_id": id})
            tally.first.append((id, time.monotonic() - begin))


async def _load(
    server: Server, world: World, tally: Tally, clients: int, seconds: float, seed: int
) -> None:
    end = time.monotonic() + seconds
    await asyncio.gather(
        *(_live(server, world, tally, random.Random(seed * 1000 + n), end) for n in range(clients))
    )


async def _live(server: Server, world: World, tally: Tally, rng: random.Random, end: float) -> None:
    """One client, from its first request to the last that it begins before the end."""
    async with httpx2.AsyncClient(timeout=httpx2.Timeout(300.0)) as http:
        client = Client(http, server.url)
        while time.monotonic() < end:
            deed = pick(rng)
            begin = time.monotonic()
            try:
                outcome = await deed.do(client, world, rng)
                tally.add(deed.name, outcome.code, time.monotonic() - begin, outcome.wrong)
            except Refused as error:
                wrong = "" if error.code == "busy" else f"{deed.name}: {error.code}: {error}"
                tally.add(deed.name, error.code, time.monotonic() - begin, wrong)
            except httpx2.HTTPError as error:
                tally.broken[f"{deed.name}: {type(error).__name__}"] += 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=50, help="at the same time (default: 50)")
    parser.add_argument("--seconds", type=float, default=300, help="of load (default: 300)")
    parser.add_argument(
        "--models", type=int, default=4, help="number of models, 1 to 4 (default: 4)"
    )
    parser.add_argument("--photos", type=int, default=3, help="number of photos (default: 3)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the clients' actions (default: 0)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
