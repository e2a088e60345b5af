"""The running app through a real MCP client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cam_hub
from tests.fakes.space_app import encoded

pytest.importorskip("mcp", reason="agents need gradio[mcp]")

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


@dataclass
class Agent:
    """An MCP client; every call has a session of its own.

    Attributes:
        url: URL of the app.
        listens: Whether it follows the progress of its calls.
    """

    url: str
    listens: bool

    def call(self, tool: str, **values: Any) -> Any:
        """Calls a tool."""

        async def hear(part: float, total: float | None, words: str | None) -> None:
            pass

        async def work(session: ClientSession) -> Any:
            listener = hear if self.listens else None
            return await session.call_tool(tool, values, progress_callback=listener)

        return self.run(work)

    def run(self, work: Callable[[ClientSession], Coroutine[Any, Any, Any]]) -> Any:
        """Opens a session and runs a function in it."""

        async def session() -> Any:
            address = f"{self.url}gradio_api/mcp/"
            async with (
                streamable_http_client(address) as (read, write, _),
                ClientSession(read, write) as opened,
            ):
                await opened.initialize()
                return await work(opened)

        return asyncio.run(session())


@pytest.fixture(params=[False, True], ids=["quiet", "listening"])
def agent(url: str, request: pytest.FixtureRequest) -> Iterator[Agent]:
    return Agent(url, request.param)


@pytest.fixture(scope="module")
def sent(lion: Image.Image) -> str:
    """A photo in the form in which agents send it."""
    return "data:image/png;base64," + base64.b64encode(encoded(lion, "PNG")).decode()


def test_the_public_endpoints_are_the_tools_and_each_argument_is_described(url: str):
    tools = Agent(url, False).run(lambda session: session.list_tools()).tools
    assert [tool.name for tool in tools] == [
        "explain",
        "layers",
        "predict",
        "compare",
        "search",
        "describe",
        "evidence",
    ]
    for tool in tools:
        assert len(tool.description) > 40
        for name, value in tool.inputSchema["properties"].items():
            assert len(value["description"]) > 8, name
            assert name != "visitor"
    explain = next(tool for tool in tools if tool.name == "explain").inputSchema
    assert explain["required"] == ["image"]
    words = explain["properties"]["method"]["description"]
    assert all(method in words for method in cam_hub.METHODS)


def test_an_explanation_comes_with_its_image_and_the_rest_as_json(
    agent: Agent, sent: str, lite0: cam_hub.LoadedModel, lion: Image.Image
):
    answer = agent.call("explain", image=sent, method="layercam")
    assert not answer.isError
    kinds = [part.type for part in answer.content]
    assert kinds == ["image", "text", "text", "text", "text", "text"]
    picture = Image.open(io.BytesIO(base64.b64decode(answer.content[0].data)))
    direct = cam_hub.explain(lite0, lion, method="layercam")
    assert np.array_equal(np.asarray(picture), np.asarray(direct.overlay()))
    overlay, predictions, maps, manifest, archive = (
        json.loads(part.text) for part in answer.content[1:]
    )
    assert predictions[0]["label"].startswith("lion")
    assert manifest["method"] == "layercam"
    for file in (overlay, *maps, archive):
        assert file["url"].startswith(agent.url)
        assert set(file) == {"name", "url"}


def test_an_image_is_made_small_enough_for_an_agent(agent: Agent, lion: Image.Image):
    large = "data:image/jpeg;base64,"
    large += base64.b64encode(encoded(lion.resize((1600, 1200)), "JPEG")).decode()
    answer = agent.call("explain", image=large, method="layercam")
    picture = Image.open(io.BytesIO(base64.b64decode(answer.content[0].data)))
    assert max(picture.size) == 1024


def test_the_light_tools_answer_with_json(agent: Agent, sent: str):
    rows = json.loads(agent.call("layers").content[0].text)
    assert any(row["recommended"] for row in rows)
    tested = json.loads(agent.call("evidence", image=sent, method="layercam").content[0].text)
    assert tested["tests"][0]["sentence"].startswith("Cover the hottest")
    seen = agent.call("predict", image=sent, top=2)
    predictions, facts = (json.loads(part.text) for part in seen.content)
    assert [row["class_index"] for row in predictions][:1] == [291]
    assert facts["photo_size"] == [256, 256]
    found = json.loads(agent.call("search", query="torchvision resnet50").content[0].text)
    assert "torchvision/resnet50" in [row["id"] for row in found]
    facts = json.loads(agent.call("describe").content[0].text)
    assert facts["source"] == "embedded"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"method": "layercamm"}, "method_not_found"),
        ({"classes": ["lyon"]}, "class_not_found"),
        ({"num_samples": 1000}, "too_much"),
        ({"image": "http://127.0.0.1/secret.png"}, "image_refused"),
        ({"image": "http://localhost:22/secret.png"}, "image_refused"),
    ],
    ids=str,
)
def test_an_error_is_a_sentence_that_ends_with_its_code(
    agent: Agent, sent: str, values: dict[str, Any], code: str
):
    answer = agent.call("explain", **{"image": sent, **values})
    assert answer.isError
    (part,) = answer.content
    assert part.text.endswith(f"[{code}]")
    assert "Traceback" not in part.text


@pytest.mark.parametrize(
    "values", [{}, {"image": 5}, {"image": "/etc/hostname"}, {"image": "x", "num_samples": "four"}]
)
def test_arguments_that_do_not_fit_the_tools_description_are_also_an_error(
    agent: Agent, values: dict[str, Any]
):
    answer = agent.call("explain", **values)
    assert answer.isError
    assert len(answer.content[0].text) > 10
