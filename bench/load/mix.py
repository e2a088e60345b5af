"""The actions of clients, most of them valid and some invalid, and their required results."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2

from bench.load.client import Client, Refused
from bench.load.world import World

__all__ = ["SHARES", "Deed", "pick"]

_PRIVATE = (
    "http://127.0.0.1/photo.png",
    "http://localhost:7860/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::1]/photo.png",
    "http://2130706433/",
    "http://10.0.0.1/photo.png",
    "file:///etc/passwd",
    "https://user:secret@example.org/photo.png",
)

_MALFORMED: tuple[tuple[str, Any, str], ...] = (
    ("explain", {}, "invalid_argument"),
    ("explain", [1, 2], "invalid_argument"),
    ("explain", b"{not json", "invalid_argument"),
    ("explain", {"image": None}, "image_refused"),
    ("explain", {"image": {"path": "/etc/passwd"}}, "image_refused"),
    ("explain", {"image": "PHOTO", "nothing": 1}, "invalid_argument"),
    ("explain", {"image": "PHOTO", "model_id": 7}, "invalid_argument"),
    ("explain", {"image": "PHOTO", "model_id": "<script>"}, "model_not_found"),
    ("explain", {"image": "PHOTO", "method": "layercamm"}, "method_not_found"),
    ("explain", {"image": "PHOTO", "classes": ["lyon"]}, "class_not_found"),
    ("explain", {"image": "PHOTO", "classes": ["top(999)"]}, "too_much"),
    ("explain", {"image": "PHOTO", "num_samples": 10**9}, "too_much"),
    ("explain", {"image": "PHOTO", "std": "much"}, "invalid_argument"),
    ("explain", {"image": "PHOTO", "target_layers": ["x"] * 1}, "layer_not_found"),
    ("explain", {"image": "PHOTO", "target_layers": [f"l{n}" for n in range(5000)]}, "too_much"),
    ("predict", {"image": "PHOTO", "top": 0}, "invalid_argument"),
    ("layers", {"model_id": "torchvision/resnet5"}, "model_not_found"),
    ("nowhere", {"image": "PHOTO"}, "not_found"),
)


@dataclass(frozen=True)
class Outcome:
    """The result of an action.

    Attributes:
        code: ``ok``, or the error's code.
        wrong: The difference from the required result; empty if there is none.
    """

    code: str
    wrong: str = ""


@dataclass(frozen=True)
class Deed:
    """An action of a client.

    Attributes:
        name: The name under which its latencies are listed.
        do: Performs it.
    """

    name: str
    do: Callable[[Client, World, random.Random], Awaitable[Outcome]]


async def _explain(client: Client, world: World, rng: random.Random) -> Outcome:
    asked = rng.choice(world.asked)
    photo = await client.upload(asked.photo)
    answer = await client.call("explain", {"image": photo, **asked.values})
    cam = await client.fetch_map(answer[2][0])
    if not asked.is_answered_by(cam):
        return Outcome("ok", f"the map of {asked.values} on {asked.photo.name} differs")
    return Outcome("ok")


async def _predict(client: Client, world: World, rng: random.Random) -> Outcome:
    photo = await client.upload(rng.choice(world.photos))
    rows, facts = await client.call(
        "predict", {"image": photo, "model_id": rng.choice(world.models), "top": 3}
    )
    right = len(rows) == 3 and facts["photo_size"] == [640, 480]
    return Outcome("ok", "" if right else f"/predict: {facts}")


async def _layers(client: Client, world: World, rng: random.Random) -> Outcome:
    (rows,) = await client.call("layers", {"model_id": rng.choice(world.models)})
    right = sum(row["recommended"] for row in rows) == 1
    return Outcome("ok", "" if right else "/layers: not one recommended layer")


async def _describe(client: Client, world: World, rng: random.Random) -> Outcome:
    id = rng.choice(world.models)
    (facts,) = await client.call("describe", {"model_id": id})
    return Outcome("ok", "" if facts["id"].startswith(id) else f"/describe: {facts['id']}")


async def _search(client: Client, world: World, rng: random.Random) -> Outcome:
    del world
    word = rng.choice(["resnet", "vit", "convnext tiny", "mobilenet"])
    (rows,) = await client.call("search", {"query": word, "limit": 5})
    return Outcome("ok", "" if rows else f"/search: nothing for {word}")


async def _malformed(client: Client, world: World, rng: random.Random) -> Outcome:
    endpoint, body, code = rng.choice(_MALFORMED)
    if isinstance(body, Mapping) and body.get("image") == "PHOTO":
        body = {**body, "image": await client.upload(rng.choice(world.photos))}
    return await _refused(client, endpoint, body, code)


async def _private(client: Client, world: World, rng: random.Random) -> Outcome:
    del world
    return await _refused(client, "explain", {"image": rng.choice(_PRIVATE)}, "image_refused")


async def _leave(client: Client, world: World, rng: random.Random) -> Outcome:
    asked = rng.choice(world.asked)
    photo = await client.upload(asked.photo)
    values = {**asked.values, "method": "smoothgradcampp", "num_samples": 64}
    event = await client.submit("explain", {"image": photo, **values})
    with suppress(TimeoutError, httpx2.HTTPError):
        await asyncio.wait_for(client.listen("explain", event), rng.uniform(0.05, 2.0))
    return Outcome("left")


async def _refused(client: Client, endpoint: str, body: Any, code: str) -> Outcome:
    try:
        await client.call(endpoint, body)
    except Refused as error:
        if error.code in (code, "busy"):
            return Outcome(error.code)
        return Outcome(error.code, f"{error.code} instead of {code}: {error}")
    return Outcome("ok", f"the result was {str(body)[:80]} instead of {code}")


SHARES = (
    (Deed("/explain", _explain), 45),
    (Deed("/predict", _predict), 10),
    (Deed("/layers", _layers), 8),
    (Deed("/describe", _describe), 8),
    (Deed("/search", _search), 5),
    (Deed("malformed", _malformed), 14),
    (Deed("private URL", _private), 5),
    (Deed("cancelled", _leave), 5),
)
"""The actions, and their shares in percent."""


def pick(rng: random.Random) -> Deed:
    """The next action."""
    return rng.choices([deed for deed, _ in SHARES], [share for _, share in SHARES])[0]
