"""The accessibility of the page: keyboard, names, contrast, axe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.fakes.chromium import DARK, DESKTOP, PHONE, Visitor, axe_script

GRADIOS = ("nested-interactive: ['.toast-header']",)
"""Findings in Gradio itself, which cannot be fixed here: its messages are buttons with a button."""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_script()


def initial_result(visitor: Visitor) -> None:
    visitor.sees("tiger cat")


def result(visitor: Visitor) -> None:
    visitor.sees("tiger cat")
    visitor.take_example("lion.jpg")
    visitor.choose_class("classes", "cheetah")
    visitor.choose_class("classes", "lion")
    visitor.page.click('#layer_choice label:has-text("Stages")')
    visitor.page.click("#advanced button")
    visitor.explain()
    visitor.sees("Evidence for cheetah")
    visitor.page.click('#view label:has-text("Boxes")')
    visitor.page.click("#downloads summary >> nth=0")


def class_list(visitor: Visitor) -> None:
    visitor.sees("tiger cat")
    visitor.page.focus("#classes_text")
    visitor.page.wait_for_selector("#classes_list li")


def layers(visitor: Visitor) -> None:
    visitor.sees("tiger cat")
    visitor.page.get_by_role("tab", name="Layers").click()
    visitor.page.wait_for_selector("#layer_table table")


def compare(visitor: Visitor) -> None:
    visitor.sees("tiger cat")
    visitor.page.get_by_role("tab", name="Compare").click()
    visitor.page.click("#compare_run")
    visitor.page.wait_for_selector("#compare_grid img", timeout=60_000)


def refusal(visitor: Visitor) -> None:
    visitor.sees("tiger cat")
    visitor.page.fill("#classes_text", "no such class")
    visitor.page.press("#classes_text", "Enter")
    visitor.explain()
    visitor.page.wait_for_selector("text=Unknown class")


@pytest.mark.parametrize("options", [DESKTOP, DARK, PHONE], ids=["desktop", "dark", "phone"])
@pytest.mark.parametrize("reach", [initial_result, result, class_list, layers, compare, refusal])
def test_axe_finds_nothing_serious(
    browser: Any,
    url: str,
    axe: str,
    options: dict[str, Any],
    reach: Callable[[Visitor], None],
):
    visitor = Visitor(browser, url, options)
    try:
        reach(visitor)
        visitor.page.wait_for_timeout(400)  # colours fade in
        assert [found for found in visitor.serious(axe) if not found.startswith(GRADIOS)] == []
    finally:
        visitor.close()


@pytest.fixture
def visitor(browser: Any, url: str) -> Iterator[Visitor]:
    found = Visitor(browser, url, DESKTOP)
    found.sees("tiger cat")
    yield found
    found.close()


def test_everything_is_reached_with_tab_in_the_order_of_the_page(visitor: Visitor):
    page = visitor.page
    page.evaluate("document.activeElement?.blur()")
    reached: list[str] = []
    for _ in range(90):
        page.keyboard.press("Tab")
        place = page.evaluate(
            """() => {
              const here = document.activeElement;
              const part = here.closest("[id]:not([id^='html-']):not([id^='component-'])");
              return part?.id || here.id || "";
            }"""
        )
        if place and place not in reached:
            reached.append(place)
    wanted = [
        "photo",
        "examples",
        "photo_url",
        "explain",
        "model_id_text",
        "classes_text",
        "contrast_text",
        "method",
        "layer_choice",
        "viewer",
        "evidence",
        "view",
        "colormap",
        "alpha",
        "scale",
        "predictions",
        "downloads",
        "link_text",
    ]
    found = [name for name in reached if name in wanted]
    assert found == wanted


def test_what_has_the_focus_can_be_seen(visitor: Visitor):
    page = visitor.page
    for place in (
        "#examples button",
        "#classes_text",
        "#model_id_text",
        "#explain",
        "#viewer input",
        "#evidence summary",
        "#predictions button",
        "#downloads button",
        "#link_text",
    ):
        page.evaluate("document.activeElement?.blur()")
        look = """place => {
          const here = document.querySelector(place);
          const around = [here, here.parentElement, here.parentElement?.parentElement];
          return around.map((each) => {
            const style = getComputedStyle(each);
            const seen = [style.outlineStyle, style.outlineWidth, style.boxShadow];
            return [...seen, style.borderColor].join();
          }).join("|");
        }"""
        before = page.evaluate(look, place)
        page.keyboard.press("Tab")  # from now on, the keyboard is used
        page.focus(place)
        page.wait_for_timeout(250)
        assert page.evaluate(look, place) != before, place


def test_the_keyboard_alone_asks_and_answers(visitor: Visitor):
    page = visitor.page
    page.focus('#examples button[data-name="coffee.jpg"]')
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#summary').innerText.includes('Choose')")
    page.focus("#classes_text")
    page.keyboard.type("espresso", delay=20)
    page.wait_for_selector('#classes_list li:has-text("espresso")')
    page.keyboard.press("Control+Enter")
    visitor.sees("Evidence for espresso")
    before = visitor.picture()
    page.focus('#view input[value="boxes"]')
    page.keyboard.press("Space")
    visitor.other_picture(before)


def test_headings_are_in_order_and_every_image_has_a_text_alternative(visitor: Visitor):
    levels = visitor.page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].filter((each) => each.offsetParent)"
        ".map((each) => Number(each.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    without = visitor.page.evaluate("document.querySelectorAll('main img:not([alt])').length")
    assert without == 0


def test_status_changes_are_announced_to_screen_readers(visitor: Visitor):
    assert visitor.page.locator('#summary [role="status"]').count() == 1
    assert visitor.page.locator('#downloads [role="status"]').count() == 1
    said = visitor.page.get_attribute("#viewer .after", "alt")
    assert said.startswith("Heatmap over photo for tiger cat")
