"""One client, which calls endpoints over plain HTTP as documented in docs/api.md."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Client", "Refused"]


class Refused(Exception):
    """An error response of the app.

    Attributes:
        code: The error's code.
    """

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


class Client:
    """A client of one app.

    Args:
        http: The HTTP client, used by this client only.
        url: The URL of the app's API.
    """

    def __init__(self, http: httpx2.AsyncClient, url: str) -> None:
        self._http = http
        self._url = url

    async def upload(self, photo: Path) -> dict[str, str]:
        """Uploads a photo; returns the value that refers to it."""
        files = {"files": (photo.name, photo.read_bytes())}
        answer = await self._http.post(f"{self._url}/upload", files=files)
        _check(answer)
        return {"path": answer.json()[0]}

    async def call(self, endpoint: str, body: Any) -> Any:
        """Calls an endpoint with named values; returns its result.

        Raises:
            Refused: If the app responds with an error.
        """
        event = await self.submit(endpoint, body)
        return await self.listen(endpoint, event)

    async def submit(self, endpoint: str, body: Any) -> str:
        """Joins the queue; returns the event.

        Raises:
            Refused: If the app does not accept the request.
        """
        sent: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
        answer = await self._http.post(f"{self._url}/call/v2/{endpoint}", **sent)
        _check(answer)
        return str(answer.json()["event_id"])

    async def listen(self, endpoint: str, event: str, *, lines: int | None = None) -> Any:
        """Waits for the result; or disconnects after a number of lines, like a closed page.

        Raises:
            Refused: If the result is an error.
        """
        kind, heard = "", 0
        async with self._http.stream("GET", f"{self._url}/call/v2/{endpoint}/{event}") as stream:
            async for line in stream.aiter_lines():
                heard += 1
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: ") and kind in ("complete", "error"):
                    data = json.loads(line.removeprefix("data: "))
                    if kind == "complete":
                        return data
                    raise Refused(str(data["title"]), str(data["error"]))
                if lines is not None and heard >= lines:
                    return None
        raise Refused("cut off", "the response ended early")

    async def fetch_map(self, file: dict[str, Any]) -> NDArray[np.float32]:
        """One of the maps of a result."""
        answer = await self._http.get(file["url"])
        _check(answer)
        found: NDArray[np.float32] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return found


def _check(answer: httpx2.Response) -> None:
    if answer.status_code == 200:
        return
    try:
        said = answer.json()
    except ValueError:
        said = {}
    code = said.get("title", f"status {answer.status_code}")
    raise Refused(str(code), str(said.get("error", "")))
