"""Chromium, driven as by a user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path(os.environ.get("CHROMIUM_PATH", "/usr/bin/chromium"))

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
DARK: dict[str, Any] = {**DESKTOP, "color_scheme": "dark"}

_PATIENCE = 30_000  # milliseconds
_SWITCHES = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped if it is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
    if not CHROMIUM.is_file():
        pytest.skip(f"no Chromium at {CHROMIUM}; CHROMIUM_PATH names another place")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=_SWITCHES)
        try:
            yield browser
        finally:
            browser.close()


def axe_script() -> str:
    """The source of axe-core; the test is skipped if it is not installed."""
    if named := os.environ.get("AXE_PATH"):
        return Path(named).read_text("utf-8")
    spec = util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("no axe-core: it comes with the extra `browser`; AXE_PATH names axe.min.js")
    return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")


class Visitor:
    """A user with the page open.

    Args:
        browser: The browser of ``chromium()``.
        url: URL of the app.
        query: The query of the page's URL.
        options: Options of the browser's context: ``DESKTOP``, ``PHONE``, ``DARK``.
    """

    def __init__(self, browser: Any, url: str, options: dict[str, Any], query: str = "") -> None:
        self.url = url
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        self.context = browser.new_context(**options, accept_downloads=True)
        self.context.grant_permissions(["clipboard-read", "clipboard-write", "camera"])
        self.page = self.context.new_page()
        self.page.set_default_timeout(_PATIENCE)
        self.page.on("request", lambda request: self.hosts.add(_host(request.url)))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )
        self.page.goto(url + query)

    @property
    def summary(self) -> str:
        """The page's status line on the result."""
        text: str = self.page.inner_text("#summary")
        return " ".join(text.split())

    def sees(self, text: str) -> None:
        """Waits until the status line shows this text and the result's image is loaded."""
        self.page.wait_for_function(
            "text => document.querySelector('#summary')?.innerText.includes(text)"
            " && document.querySelector('#viewer .after')?.complete",
            arg=text,
        )

    def picture(self) -> str:
        """The URL of the displayed image."""
        address: str = self.page.get_attribute("#viewer .after", "src")
        return address

    def other_picture(self, than: str) -> None:
        """Waits until another image is displayed."""
        self.page.wait_for_function(
            "old => { const now = document.querySelector('#viewer .after')?.src;"
            " return now && now !== old; }",
            arg=than,
        )

    def take_example(self, name: str) -> None:
        """Selects an example photo."""
        self.page.click(f'#examples button[data-name="{name}"]')
        self.page.wait_for_function(
            "() => document.querySelector('#summary')?.innerText.includes('Choose a photo')"
        )

    def choose_class(self, field: str, words: str) -> None:
        """Types into a field for classes, and selects the first entry with the keyboard."""
        self.page.fill(f"#{field}_text", words)
        self.page.wait_for_selector(f"#{field}_list li")
        first = words.split(maxsplit=1)[0]
        self.page.wait_for_function(
            "([id, word]) => document.querySelector('#' + id + '_list li')?.innerText"
            ".toLowerCase().includes(word)",
            arg=[field, first.lower()],
        )
        self.page.press(f"#{field}_text", "ArrowDown")
        self.page.press(f"#{field}_text", "Enter")

    def explain(self) -> None:
        """Presses the button."""
        self.page.click("#explain")

    def serious(self, axe: str) -> list[str]:
        """The serious and critical findings of axe, one line for each element."""
        self.page.evaluate(axe)
        found = self.page.evaluate("axe.run()")
        return [
            f"{rule['id']}: {node['target']} {node['html'][:120]}"
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    def close(self) -> None:
        """Closes the page."""
        self.context.close()


def _host(address: str) -> str:
    return address.split("/")[2] if "//" in address else address.split(":", maxsplit=1)[0]
