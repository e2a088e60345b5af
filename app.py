"""Starts the page and the endpoint of cam_hub: ``python app.py``, ``python app.py --help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from threading import Event, Thread, Timer
from typing import TYPE_CHECKING, Any

from space.config.options import add_options, read_options
from space.config.startup import (
    check_address,
    direct_loopback,
    open_standard_streams,
    prepare,
    reason_of,
)

if TYPE_CHECKING:
    from space.app.blocks import GuardedBlocks
    from space.config.settings import Settings

_POLL_SECONDS = 4.0
"""Seconds for an end in good order."""

_HELP = """\
Serves a page and an endpoint that show which pixels of a photo support which class of an image
classifier. The default model's weights come with its package, so nothing is fetched at the start;
other models are loaded by their ID when first asked for.
"""

_EXAMPLES = """\
examples:
  python app.py                                  on this machine: http://127.0.0.1:7860
  python app.py --host 0.0.0.0 --port 8000       for the whole network
  python app.py --device cuda:1                  models on the second GPU
  python app.py --model torchvision/resnet50     another model to start with

Each setting is an environment variable as well: --max-pixels is CAM_HUB_MAX_PIXELS.

endpoint:
  from gradio_client import Client, handle_file
  client = Client("http://127.0.0.1:7860")
  client.view_api()
  overlay, *rest = client.predict(handle_file("cat.jpg"), api_name="/explain")
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, starts the app and waits for Ctrl+C or SIGTERM.

    Args:
        arguments: Arguments of the command line; None for the program's own.

    Returns:
        Exit code: 2 if the app could not start. After a clean end the process ends with 0.
    """
    open_standard_streams()
    options = _parser().parse_args(arguments)
    space_id = os.environ.get("SPACE_ID") or None
    try:
        values = read_options(vars(options), os.environ, on_space=space_id is not None)
        prepare(os.environ, values["host"], values["port"])
        if options.port is not None:  # checked again later; this check takes a moment
            check_address(values["host"], values["port"])
        with direct_loopback(os.environ):
            settings = _settings(values, space_id)
            app, stop = _launch(settings, values["port"], browser=not options.no_browser)
    except Exception as error:  # noqa: BLE001 (any error is reported in one line)
        return _refuse(reason_of(error))
    return _serve(app, settings, stop)


def _settings(values: dict[str, Any], space_id: str | None) -> Settings:
    """The app's settings.

    Raises:
        CamHubError: If they cannot work on this machine.
    """
    # Imported after --help was answered: torch takes seconds. A GPU that is lent call by call
    # wants to be known of before torch is.
    from space.service.zerogpu import on_zero_gpu  # noqa: PLC0415

    lent = on_zero_gpu()
    from cam_hub.models.loading import pick_device  # noqa: PLC0415
    from space.app.create_app import can_sign_in  # noqa: PLC0415
    from space.config.settings import Settings  # noqa: PLC0415

    device = "cpu" if lent else str(pick_device(values["device"]))
    return Settings.of(
        {**values, "device": device},
        space_id=space_id,
        space_host=os.environ.get("SPACE_HOST", "") if space_id else "",
        sign_in=can_sign_in(),
        zero_gpu=lent,
    )


def _launch(settings: Settings, port: int, *, browser: bool) -> tuple[GuardedBlocks, Event]:
    """Starts the server.

    Returns:
        The app, and what is set when it is to end.
    """
    from space.app.create_app import create_app, launch_options  # noqa: PLC0415

    stop = Event()
    names = (signal.SIGINT, signal.SIGTERM)
    before = {name: signal.signal(name, lambda *_: stop.set()) for name in names}
    try:
        check_address(settings.host, port)
        app = create_app(settings)
        # Gradio prints that it serves agents, with an emoji, however quiet it is to be.
        with redirect_stdout(StringIO()):
            app.launch(
                server_name=settings.host,
                server_port=port,
                inbrowser=browser and _has_desktop(),
                prevent_thread_lock=True,
                quiet=True,
                **launch_options(settings),
            )
    except BaseException:
        for name, handler in before.items():
            signal.signal(name, handler)
        raise
    return app, stop


def _serve(app: GuardedBlocks, settings: Settings, stop: Event) -> int:
    from space.service.request_log import configure_logging  # noqa: PLC0415

    configure_logging()
    app.health.started(settings)
    Thread(target=app.warm_up, name="warm up", daemon=True).start()
    _say(f"cam_hub on {settings.device} at {app.local_url} (Ctrl+C ends it)")
    stop.wait()
    watch = Timer(2 * _POLL_SECONDS, _end)
    watch.daemon = True
    watch.start()
    app.close(verbose=False)
    # Requests that are being answered end at their next step, and leave nothing behind.
    app.explainer.finish(_POLL_SECONDS)
    _end()
    return 0


def _end() -> None:
    """Ends the process at once: threads that compute cannot be interrupted."""
    _say("cam_hub has ended")
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="do not open the page in the browser (it is opened on desktops only)",
    )
    return parser


def _has_desktop() -> bool:
    """Whether a browser can be opened on a screen."""
    if os.environ.get("SPACE_ID") or os.environ.get("SSH_CONNECTION"):
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _refuse(message: str) -> int:
    with suppress(OSError):
        sys.stderr.write(f"app.py: error: {' '.join(message.split())}\n")
    return 2


def _say(message: str) -> None:
    with suppress(OSError):  # a pipe without a reader, a full disk
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
