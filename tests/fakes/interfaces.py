"""One request through every interface: package, command line, endpoint, MCP, page.

``ask`` sends a case to one of ``INTERFACES`` and returns the parts of the answer that all of them
have. The networks of the cases are registered with timm, under names that every interface loads.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import html
import io
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import cam_hub
from cam_hub.cli import main
from cam_hub.errors import CamHubError
from cam_hub.options import OPTIONS, Interface
from cam_hub.results.explanation import Explanation
from tests.fakes.browser import Browser
from tests.fakes.space_app import encoded

__all__ = [
    "INTERFACES",
    "Answer",
    "Case",
    "Heads",
    "Places",
    "Probable",
    "Shy",
    "Single",
    "add_network",
    "grey",
    "offers",
    "striped",
]


class Shy(nn.Module):
    """A network whose last layer is inactive for an image without contrast."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embed, self.size, self.last = nn.Conv2d(3, 4, 8, 8), nn.Identity(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.size(self.embed(x).square() + 0.1)
        return self.last(size - 0.2).mean((2, 3)) + size.mean((2, 3))


class Shared(nn.Module):
    """Two views of the image through one backbone."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.backbone = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())
            self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        views = [self.backbone(view).mean((2, 3)) for view in (x, x.square())]
        return self.fc(torch.cat(views, dim=1))


class Dropping(Shared):
    """A network that drops cells at random, also in evaluation mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.3, training=True))


class Heads(Shared):
    """Nested outputs: an age, and two kinds of species in a list."""

    def forward(self, x: torch.Tensor) -> Any:
        scores = super().forward(x)
        return {"age": scores[:, :2], "species": [scores, scores.flip(1) * 2]}


class Probable(Shared):
    """Probabilities instead of scores."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).softmax(1)


class Single(Shared):
    """A single logit."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)[:, :1]


def add_network(name: str, build: Callable[[], nn.Module], side: int = 32) -> str:
    """Registers a network of our own with timm, for photos of ``side`` pixels.

    Returns:
        The name, an ID that each interface loads (with random weights: those of ``build``).
    """

    def entrypoint(pretrained: bool = False, **_: Any) -> nn.Module:
        del pretrained
        module = build()
        module.pretrained_cfg = {  # type: ignore[assignment]
            "input_size": (3, side, side),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        }
        return module

    entrypoint.__name__ = name
    entrypoint.__module__ = __name__
    if not timm.is_model(name):
        timm.models.register_model(entrypoint)
        setattr(sys.modules[__name__], name, entrypoint)
    return name


def grey(side: int = 32) -> Image.Image:
    """A photo in the mean colour of ``add_network``'s models."""
    return Image.new("RGB", (side, side), (128, 128, 128))


def striped(side: int = 32) -> Image.Image:
    """A photo with contrast."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, : side // 2] = 255
    return Image.fromarray(pixels)


@dataclass(frozen=True)
class Case:
    """A request and its answer.

    Attributes:
        name: Its subject.
        model: ID of the model, which gets random weights.
        photo: The photo.
        asked: Arguments of ``explain``; lists for layers and classes.
        layers: The layers of the answer; empty for an error.
        error: Code of the error, or None.
        manifest: Further required entries of the manifest, by key.
        look: The appearance of the overlay: arguments of ``overlay``.
    """

    name: str
    model: str
    photo: Image.Image
    asked: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    error: str | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    look: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """The answer of an interface; None for the parts that it does not show.

    Attributes:
        layers: The layers whose maps are shown.
        error: Code of the error.
        maps: In the manifest's order.
        manifest: The manifest.
        overlay: The overlay of the first class, RGB.
    """

    layers: tuple[str, ...] = ()
    error: str | None = None
    maps: list[NDArray[Any]] | None = None
    manifest: Mapping[str, Any] | None = None
    overlay: NDArray[Any] | None = None

    @classmethod
    def of(cls, result: Explanation, look: Mapping[str, Any]) -> Answer:
        """The answer from an explanation."""
        entries = result.manifest["maps"]
        maps = [result.cams[entry["class_index"], entry["layer"]] for entry in entries]
        shown = next(filter(result.has_map, result.classes), None)  # flat maps are not drawn
        overlay = None if shown is None else np.asarray(result.overlay(shown, **look))
        return cls(result.layers, None, maps, result.manifest, overlay)


@dataclass(frozen=True)
class Places:
    """The locations of the interfaces.

    Attributes:
        url: URL of the app, which gives all models random weights.
        client: Client of the app.
        folder: An empty folder.
    """

    url: str
    client: Client
    folder: Path


def _texts(case: Case) -> dict[str, Any]:
    """The arguments, with most options as texts, as for the endpoints and the page."""
    typed = ("image", "count", "switch")
    return {
        name: OPTIONS[name].text(value)
        if name in OPTIONS and OPTIONS[name].kind not in typed
        else value
        for name, value in case.asked.items()
    }


def _python(case: Case, places: Places) -> Answer:
    del places
    model = cam_hub.load_model(case.model, pretrained=False, device="cpu")
    try:
        return Answer.of(cam_hub.explain(model, case.photo, **case.asked), case.look)
    except CamHubError as error:
        return Answer(error=error.code)


def _python_methods(case: Case, places: Places) -> Answer:
    del places
    model = cam_hub.load_model(case.model, pretrained=False, device="cpu")
    asked = dict(case.asked)
    method = asked.pop("method", "auto")
    try:
        (found,) = cam_hub.explain_methods(model, case.photo, [method], **asked).values()
    except CamHubError as error:
        return Answer(error=error.code)
    return Answer.of(found, case.look)


def _python_many(case: Case, places: Places) -> Answer:
    del places
    model = cam_hub.load_model(case.model, pretrained=False, device="cpu")
    try:
        (outcome,) = cam_hub.explain_many(model, [case.photo], **case.asked)
        return Answer.of(outcome.explanation, case.look)
    except CamHubError as error:
        return Answer(error=error.code)


_FLAGS = {"target_layers": "layer", "classes": "class", "num_samples": "samples"}
"""Options of the command line whose names are not those of the arguments."""


def _command_line(case: Case, places: Places) -> Answer:
    photo, out = places.folder / "photo.png", places.folder / "out"
    case.photo.save(photo)
    words = ["explain", str(photo), "--out", str(out), "--model", case.model, "--random"]
    for name, value in {**case.asked, **case.look}.items():
        if isinstance(value, bool):
            words.append(OPTIONS[name].flag if name in OPTIONS else f"--{name}")
            continue
        if isinstance(value, Image.Image):
            value.save(places.folder / f"{name}.png")
            given: Any = [places.folder / f"{name}.png"]
        elif name in ("region", "scale") and not isinstance(value, str):
            given = [",".join(map(str, value))]
        else:
            given = value if isinstance(value, (list, tuple)) else [value]
        for item in given:
            words += [f"--{_FLAGS.get(name, name).replace('_', '-')}", str(item)]
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main([*words, "--device", "cpu"])
    if code:
        return Answer(error=re.findall(r"error \((\w+)\)", said.getvalue())[-1])
    loaded = Explanation.load(out)
    answer = Answer.of(loaded, case.look)
    shown = next(filter(loaded.has_map, loaded.classes), None)
    if shown is None:
        return answer
    return replace(answer, overlay=np.asarray(Image.open(out / f"overlay-{shown}.png")))


def _endpoint(case: Case, places: Places) -> Answer:
    photo = places.folder / "photo.png"
    case.photo.save(photo)
    try:
        overlay, _, paths, manifest, _ = places.client.predict(
            handle_file(photo), model_id=case.model, api_name="/explain", **_sent(case, places)
        )
    except AppError as error:
        return Answer(error=_code(str(error)))
    maps, drawn = [np.load(path) for path in paths], np.asarray(Image.open(overlay))
    return Answer(tuple(manifest["layers"]), None, maps, manifest, drawn)


def _sent(case: Case, places: Places) -> dict[str, Any]:
    """The arguments for gradio_client."""
    values = {**_texts(case), **case.look}
    for name, value in values.items():
        if isinstance(value, Image.Image):
            value.save(places.folder / f"{name}.png")
            values[name] = handle_file(places.folder / f"{name}.png")
    if not isinstance(scale := values.get("scale", ""), str):
        values["scale"] = ", ".join(map(str, scale))
    return values


def _as_data(value: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(encoded(value, "PNG")).decode()


def _mcp(case: Case, places: Places) -> Answer:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    values = {"image": case.photo, "model_id": case.model, **_texts(case), **case.look}
    for name, value in values.items():
        if isinstance(value, Image.Image):
            values[name] = _as_data(value)
    if not isinstance(scale := values.get("scale", ""), str):
        values["scale"] = ", ".join(map(str, scale))

    async def session() -> Any:
        async with (
            streamable_http_client(f"{places.url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as opened,
        ):
            await opened.initialize()
            return await opened.call_tool("explain", values)

    answer = asyncio.run(session())
    if answer.isError:
        return Answer(error=_code(answer.content[0].text))
    manifest = json.loads(answer.content[-2].text)
    return Answer(tuple(manifest["layers"]), manifest=manifest)


def _page(case: Case, places: Places) -> Answer:
    browser = Browser(places.url)
    fields = {
        f"option_{name}" if name in OPTIONS else name: value for name, value in _texts(case).items()
    }
    values = {"method": "auto", **fields, "model_id": case.model}
    done, shown = browser.explain(browser.upload(encoded(case.photo, "PNG")), **values)
    if not done:
        return Answer(error=_code(str(shown)))
    several = re.findall(r"<strong>(.*?)</strong>", shown["maps"])[1:]
    one = re.findall(r"layer <code>(.*?)</code>", shown["summary"])
    return Answer(tuple(map(html.unescape, several or one)))


def _code(said: str) -> str:
    """The code at the end of an error's message."""
    return re.findall(r"[\[>(](\w+_\w+|[a-z]+)[\])<]", said)[-1]


INTERFACES: dict[str, Callable[[Case, Places], Answer]] = {
    "explain": _python,
    "explain_methods": _python_methods,
    "explain_many": _python_many,
    "command line": _command_line,
    "endpoint": _endpoint,
    "mcp": _mcp,
    "page": _page,
}

_OFFERS: dict[str, Interface] = {"explain_many": "many", "page": "page"}


def offers(interface: str, case: Case) -> bool:
    """Whether an interface has all arguments of a case."""
    name = _OFFERS.get(interface, "explain")
    lacks = {"explain_many": {"region"}}.get(interface, set())
    return not any(
        asked in lacks or (asked in OPTIONS and name not in OPTIONS[asked].interfaces)
        for asked in case.asked
    )
