"""What agents get over MCP: pictures as pictures, everything else as JSON.

Gradio makes a tool of every public endpoint. Plain Gradio answers clients that do not follow the
progress with one text, in Python's notation and with folders of the server; pictures at the
photo's full size would fill an agent's memory.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradio.processing_utils import add_root_url
from PIL import Image

if TYPE_CHECKING:
    from gradio.mcp import GradioMCPServer

__all__ = ["configure_mcp", "has_mcp_package"]

_SIDE = 1024
"""The maximum side of a picture in an answer, in pixels; its URL leads to the full size."""


def has_mcp_package() -> bool:
    """Whether the package that MCP needs is installed."""
    return find_spec("mcp") is not None


def configure_mcp(server: GradioMCPServer) -> None:
    """Changes how a server of Gradio's answers, as above, and lets it accept optional pictures."""
    server.postprocess_output_data = partial(_content, server.types)  # type: ignore[method-assign]
    read = server.convert_strings_to_filedata
    server.convert_strings_to_filedata = partial(_read_files, read)  # type: ignore[method-assign]


def _read_files(
    read: Callable[[Any, list[list[str | int]]], Any],
    values: Mapping[str, Any],
    places: Sequence[Sequence[str | int]],
) -> Any:
    """Arguments with files in place of URLs and data URLs.

    Gradio looks for an optional file where its schema has it, below ``oneOf``.

    Args:
        read: Gradio's own function.
        values: The arguments.
        places: Where files are in the schema.
    """
    names = [place[0] for place in places if len(place) == 1 or place[1] in ("anyOf", "oneOf")]
    return read(values, [[name] for name in names if values.get(str(name)) != ""])


def _content(types: Any, data: Sequence[Any], root_url: str) -> list[Any]:
    """The parts of an answer.

    Args:
        types: ``mcp.types``.
        data: The values of the endpoint's outputs; as one tuple, if the client did not ask to
            follow the progress.
        root_url: The URL of the app.
    """
    values = data[0] if len(data) == 1 and isinstance(data[0], tuple) else data
    parts: list[Any] = []
    for value in add_root_url(list(values), root_url, None):
        if _is_file(value) and (picture := _picture(Path(value["path"]))) is not None:
            coded = base64.b64encode(picture).decode("ascii")
            parts.append(types.ImageContent(type="image", data=coded, mimeType="image/png"))
        parts.append(types.TextContent(type="text", text=json.dumps(_plain(value))))
    return parts


def _is_file(value: object) -> bool:
    return isinstance(value, dict) and "path" in value and "meta" in value


def _plain(value: Any) -> Any:
    """The value, with URLs in place of files."""
    if _is_file(value):
        return {"name": value.get("orig_name"), "url": value.get("url")}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _picture(path: Path) -> bytes | None:
    """A picture as a PNG that is not too large; None for any other file."""
    if path.suffix != ".png":
        return None
    with Image.open(path) as image:
        image.thumbnail((_SIDE, _SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
    return buffer.getvalue()
