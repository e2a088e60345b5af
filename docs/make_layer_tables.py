"""Takes screenshots of the page's layer tables: one architecture of each kind, random weights.

Needs Playwright (``pip install playwright``) and a Chromium, either its own (``playwright install
chromium``) or one named with ``--chromium``. No network is used: the app runs in this process.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from space.app.create_app import create_app, launch_options
from space.config.settings import Settings

FOLDER = Path(__file__).parent / "images"

MODELS = {
    "vit": "vit_small_patch16_224",
    "swin": "swin_tiny_patch4_window7_224",
    "mixer": "mixer_s32_224",
    "convnext": "convnext_tiny",
    "hiera": "hiera_tiny_224",
    "mobilenet": "mobilenetv3_large_100",
}


@contextmanager
def served() -> Iterator[str]:
    """Runs the app with random weights; yields its URL."""
    settings = Settings(device="cpu", random_weights=True)
    app = create_app(settings)
    _, address, _ = app.launch(
        prevent_thread_lock=True, quiet=True, inbrowser=False, **launch_options(settings)
    )
    try:
        yield address
    finally:
        app.close(verbose=False)


def picture(page: Any, address: str, model: str, path: Path) -> None:
    """Opens the page, enters the model's ID, and takes a screenshot of its table."""
    page.goto(address)
    field = page.locator("#model_id input")
    field.wait_for()
    field.fill(model)
    field.blur()  # Enter would select the first suggested ID
    page.get_by_role("tab", name="Layers").click()
    table = page.get_by_role("region", name=f"Layers of {model}", exact=True)
    table.wait_for(timeout=300_000)
    page.wait_for_timeout(500)  # until it has scrolled to the recommended row
    page.mouse.move(0, 0)
    page.locator("#layer_table").screenshot(path=path)


def main() -> None:
    """Takes all screenshots."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (only this needs it)

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chromium", metavar="PATH", help="(default: Playwright's own)")
    options = parser.parse_args()
    torch.manual_seed(0)
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright, served() as address:
        browser = playwright.chromium.launch(executable_path=options.chromium)
        page = browser.new_page(viewport={"width": 1500, "height": 800})
        for name, model in MODELS.items():
            path = FOLDER / f"layers-{name}.png"
            picture(page, address, model, path)
            print(path.name, path.stat().st_size // 1024, "KiB")
        browser.close()


if __name__ == "__main__":
    main()
