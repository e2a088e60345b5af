"""Takes screenshots of the page: each view on a desktop, a phone and in the dark theme.

Needs the extra ``browser`` and a Chromium, named with ``--chromium`` or by ``CHROMIUM_PATH``. No
network is used: the app runs in this process with the model whose weights are installed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from space.app.create_app import create_app, launch_options
from space.config.settings import Settings

FOLDER = Path(__file__).parent / "images"

SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
}

_LION = "?photo=lion.jpg&method=layercam&layers=stages&classes=lion&classes=cheetah"


def first(page: Any) -> None:
    """The initial page."""


def several(page: Any) -> None:
    """Two classes at several layers."""
    page.locator("#maps ul").wait_for()


def boxes(page: Any) -> None:
    """Boxes at a threshold."""
    page.locator("#viewer .bar i").wait_for()


def classes(page: Any) -> None:
    """The list of labels, searched."""
    page.locator("#classes_text").fill("cat")
    entry = page.locator("#classes_list li").nth(2)
    entry.wait_for()
    entry.scroll_into_view_if_needed()


def downloads(page: Any) -> None:
    """Files, link and code."""
    page.locator("#downloads summary").first.click()
    page.locator("#downloads").scroll_into_view_if_needed()


def layers(page: Any) -> None:
    """The model's layers."""
    page.get_by_role("tab", name="Layers").click()
    page.locator("#layer_table table").wait_for()


VIEWS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "first": ("", first),
    "several": (_LION, several),
    "boxes": (f"{_LION}&view=boxes&threshold=0.45&colours=viridis", boxes),
    "contrast": ("?photo=lion.jpg&method=layercam&classes=lion&than=chow", first),
    "classes": ("", classes),
    "take-away": ("", downloads),
    "layers": ("", layers),
}


@contextmanager
def served() -> Iterator[str]:
    """Runs the app; yields its URL."""
    settings = Settings(device="cpu")
    app = create_app(settings)
    _, address, _ = app.launch(
        prevent_thread_lock=True, quiet=True, inbrowser=False, **launch_options(settings)
    )
    try:
        yield address
    finally:
        app.close(verbose=False)


def main() -> None:
    """Writes ``docs/images/page-<view>-<size>.jpg``."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--chromium", default=os.environ.get("CHROMIUM_PATH"), help="the executable"
    )
    parser.add_argument("--only", nargs="*", choices=VIEWS, default=list(VIEWS))
    options = parser.parse_args()
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for view in options.only:
            query, reach = VIEWS[view]
            for size, settings in SIZES.items():
                context = browser.new_context(**settings)
                page = context.new_page()
                page.goto(address + query)
                page.locator("#viewer .after").wait_for(timeout=60_000)
                page.wait_for_timeout(1000)  # fonts, colours and the facts of the model
                reach(page)
                page.wait_for_timeout(500)
                path = FOLDER / f"page-{view}-{size}.jpg"
                page.screenshot(
                    path=path,
                    type="jpeg",
                    quality=80,
                    full_page=view in ("several", "first") and size != "phone",
                )
                context.close()
                print(path)


if __name__ == "__main__":
    main()
