"""The requests of a browser with the page open, without a browser."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.fakes.space_app import SETTINGS

WORDS = {"model_id": SETTINGS.default_model, "method": "layercam", "colormap": "jet"}


class Browser:
    """A client with the page's configuration and one session."""

    def __init__(self, url: str, cookie: str | None = None) -> None:
        self.url = url
        self.headers = {"Cookie": cookie} if cookie else {}
        self.config = httpx.get(f"{url}config").json()
        self.session = secrets.token_hex(8)
        self.heard: list[str] = []  # warnings
        self.last_event = ""
        self.ids = {
            part["props"]["elem_id"]: part["id"]
            for part in self.config["components"]
            if part["props"].get("elem_id")
        }

    def upload(self, content: bytes, name: str = "photo.png") -> dict[str, Any]:
        """Uploads a file; returns the photo's value."""
        files = {"files": (name, content)}
        (path,) = httpx.post(f"{self.url}gradio_api/upload", files=files).json()
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def event(self, elem_id: str, kind: str, output: str) -> dict[str, Any]:
        """The event that a component fires and that writes to another one."""
        target, written = [self.ids[elem_id], kind], self.ids[output]
        found = [
            dep
            for dep in self.config["dependencies"]
            if target in [list(t) for t in dep["targets"]] and written in dep["outputs"]
        ]
        return found[0]

    def fire(
        self, event: dict[str, Any], values: dict[str, Any], data: object = None, query: str = ""
    ) -> tuple[bool, dict[str, Any]]:
        """Runs an event; returns whether it succeeded, and the outputs by elem_id or the error.

        Args:
            event: An event in the page's configuration.
            values: The values of its inputs, by elem_id.
            data: The component's data on the event.
            query: The query of the page's URL.
        """
        for message in self.messages(event, values, data, query):
            if message["msg"] == "log":
                self.heard.append(message["log"])
        if not message["success"]:
            return False, message["output"]
        outputs = zip(event["outputs"], message["output"]["data"], strict=True)
        return True, {self._names[id]: value for id, value in outputs if id in self._names}

    def messages(
        self, event: dict[str, Any], values: dict[str, Any], data: object = None, query: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Runs an event; yields the app's messages until it ends. Closing this leaves the page."""
        inputs = [values.get(self._names.get(id, ""), self._initial(id)) for id in event["inputs"]]
        body = {"data": inputs, "event_data": data}
        body |= {"fn_index": event["id"], "session_hash": self.session}
        address = f"{self.url}gradio_api/queue"
        joined = httpx.post(f"{address}/join?{query}", json=body, headers=self.headers)
        self.last_event = joined.raise_for_status().json()["event_id"]
        session = {"session_hash": self.session}
        with httpx.stream("GET", f"{address}/data", params=session, timeout=60) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("event_id") == self.last_event:
                    yield message
                    if message["msg"] == "process_completed":
                        return

    def explain(self, photo: object, **changed: Any) -> tuple[bool, dict[str, Any]]:
        """Presses the button."""
        numbers = {"num_samples": 2, "std": 0.3, "seed": 0, "alpha": 0.5}
        values = {"photo": photo, "target_layers": ["best"], "classes": [], **WORDS, **numbers}
        return self.fire(self.explaining, {**values, **changed})

    @property
    def explaining(self) -> dict[str, Any]:
        """The event of the button."""
        return self.event("explain", "click", "viewer")

    def open(self, query: str = "") -> tuple[bool, dict[str, Any]]:
        """Opens the page, or a link to a view of it."""
        (event,) = [
            dep
            for dep in self.config["dependencies"]
            if "load" in [kind for _, kind in dep["targets"]]
            and self.ids["viewer"] in dep["outputs"]
        ]
        return self.fire(event, {}, query=query)

    def picture(self, shown: str, kind: str = "after") -> np.ndarray[Any, Any]:
        """The pixels of an image in the figure: the photo before, or the image shown after."""
        (source,) = re.findall(rf'<img class="{kind}" src="(.*?)"', shown)
        if source.startswith("data:"):
            content = base64.b64decode(source.partition(",")[2])
        else:
            content = httpx.get(f"{self.url}{source}").raise_for_status().content
        return np.asarray(Image.open(BytesIO(content)))

    @property
    def _names(self) -> dict[int, str]:
        return {id: name for name, id in self.ids.items()}

    def _initial(self, id: int) -> Any:
        """The initial value of a component."""
        (part,) = [part for part in self.config["components"] if part["id"] == id]
        return part["props"].get("value")
