"""The real app on a loopback port, and calls of its endpoint."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file
from PIL import Image

from space.app.create_app import create_app, launch_options
from space.config.settings import Limits, Settings
from tests.fakes.space_process import free_port

SETTINGS = Settings(device="cpu", limits=Limits(max_pixels=4_000_000))


@contextmanager
def serve(settings: Settings = SETTINGS) -> Iterator[str]:
    """Runs the app; yields its URL."""
    app = create_app(settings)
    try:  # inside the block, so that the server is also closed if launching fails
        _, address, _ = app.launch(
            prevent_thread_lock=True,
            quiet=True,
            server_name="127.0.0.1",
            # Gradio would try one port after another, but an MCP server starts only once.
            server_port=free_port(),
            inbrowser=False,
            **launch_options(settings),
        )
        yield address
    finally:
        app.close(verbose=False)


def explain(client: Client, path: Path, **changed: Any) -> tuple[Any, ...]:
    """Calls the endpoint with the quickest method."""
    values = {"method": "layercam", **changed}
    return tuple(client.predict(handle_file(path), api_name="/explain", **values))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image's file, to upload."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
