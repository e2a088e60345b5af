"""Starts the page and the endpoint of cam_hub: ``python app.py``, ``python app.py --help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from space.settings import Settings

_HELP = """\
Serves a page and an endpoint that show which pixels of a photo spoke for which class of an image
classifier. The default model's weights come with its package, so nothing is fetched at the start;
other models are loaded by their ID when first asked for.
"""

_EXAMPLES = """\
examples:
  python app.py                                  on this machine: http://127.0.0.1:7860
  python app.py --host 0.0.0.0 --port 8000       for the whole network
  python app.py --device cuda:1                  models on the second GPU
  python app.py --model torchvision/resnet50     another model to start with

endpoint:
  from gradio_client import Client, handle_file
  client = Client("http://127.0.0.1:7860")
  client.view_api()
  overlay, *rest = client.predict(handle_file("cat.jpg"), api_name="/explain")
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, starts the app and waits for Ctrl+C or SIGTERM.

    Args:
        arguments: Of the command line; None for the program's own.

    Returns:
        Exit code: 0 after a clean end, 2 if the app could not start.
    """
    parser = _parser(os.environ.get("SPACE_ID") is not None)
    options = parser.parse_args(arguments)
    # No telemetry; read when Gradio and the Hub's client are imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Imported after --help was answered: torch takes seconds.
    from cam_hub.errors import CamHubError  # noqa: PLC0415
    from cam_hub.model_id import parse_model_id  # noqa: PLC0415
    from cam_hub.sources.base import pick_device  # noqa: PLC0415
    from space.account import can_sign_in  # noqa: PLC0415
    from space.settings import DISK_BYTES_OF_A_SPACE, Settings  # noqa: PLC0415

    try:
        device = pick_device(options.device)
        model = str(parse_model_id(options.model)) if options.model else Settings.default_model
    except CamHubError as error:
        return _refuse(str(error))
    space_id = os.environ.get("SPACE_ID") or None
    settings = Settings(
        default_model=model,
        device=str(device),
        space_id=space_id,
        sign_in=can_sign_in(),
        disk_bytes=DISK_BYTES_OF_A_SPACE if space_id else None,
    )
    return _serve(settings, options.host, options.port, browser=not options.no_browser)


def _serve(settings: Settings, host: str, port: int, *, browser: bool) -> int:
    from space.page import create_app, launch_options  # noqa: PLC0415

    stop = threading.Event()
    app = create_app(settings)
    try:
        app.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser and _has_desktop(),
            prevent_thread_lock=True,
            quiet=True,
            **launch_options(settings),
        )
    except OSError as error:
        return _refuse(f"cannot listen on {host}, port {port}: {error}")
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    _say(f"cam_hub on {settings.device} at {app.local_url} (Ctrl+C ends it)")
    stop.wait()
    app.close(verbose=False)
    _say("cam_hub has ended")
    return 0


def _parser(on_space: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    host = "0.0.0.0" if on_space else "127.0.0.1"  # noqa: S104 (a Space is reached from outside)
    parser.add_argument(
        "--host",
        default=host,
        help=f"address to listen on; 0.0.0.0 for all of this machine's (default: {host})",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=os.environ.get("GRADIO_SERVER_PORT", "7860"),
        help="port to listen on, 1 to 65535 (default: GRADIO_SERVER_PORT, else 7860)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="where models run: auto, cpu, cuda, cuda:<index> or mps (default: auto, the best "
        "there is)",
    )
    parser.add_argument(
        "--model",
        metavar="ID",
        help="model that the page starts with (default: the one whose weights are installed)",
    )
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="do not open the page in the browser (it is opened on desktops only)",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: expected 1 to 65535")
    return int(text)


def _has_desktop() -> bool:
    """Whether a browser can be opened in front of somebody."""
    if os.environ.get("SPACE_ID") or os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _refuse(message: str) -> int:
    sys.stderr.write(f"app.py: error: {' '.join(message.split())}\n")
    return 2


def _say(message: str) -> None:
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
