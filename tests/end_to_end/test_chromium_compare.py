"""The tab Compare in Chromium, in a desktop and a phone layout, used as by a person."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.chromium import DESKTOP, PHONE, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

Open = Callable[..., Visitor]
sizes = pytest.mark.parametrize("options", [DESKTOP, PHONE], ids=["desktop", "phone"])


def opened(visit: Open, options: dict[str, Any]) -> Visitor:
    visitor = visit(options)
    visitor.sees("tiger cat")
    visitor.page.get_by_role("tab", name="Compare").click()
    return visitor


def compare(visitor: Visitor) -> list[str]:
    """Presses the button, and returns the captions of the grid."""
    visitor.page.click("#compare_run")
    visitor.page.wait_for_selector("#compare_grid ul figure")
    captions: list[str] = visitor.page.locator("#compare_grid ul figcaption").all_inner_texts()
    return captions


def test_methods_stand_beside_each_other_with_what_each_costs(visit: Open):
    visitor = opened(visit, DESKTOP)
    captions = compare(visitor)
    assert [text.splitlines()[0] for text in captions] == [
        "Auto",
        "Smooth Grad-CAM++",
        "LayerCAM",
    ]
    assert all("tiger cat" in text and "pass" in text for text in captions)
    alts = [
        image.get_attribute("alt") for image in visitor.page.locator("#compare_grid ul img").all()
    ]
    assert all("for tiger cat" in alt for alt in alts)


@sizes
def test_the_layers_of_a_network_are_played_from_first_to_last(
    visit: Open, options: dict[str, Any]
):
    visitor = opened(visit, options)
    page = visitor.page
    page.click('#compare_kind label:has-text("Layers")')
    page.click('#compare_layers label:has-text("Stages")')
    names = [text.splitlines()[0] for text in compare(visitor)]
    assert len(names) == 5
    page.click("#compare_grid .film summary")
    seen = []
    for step in range(len(names)):
        page.locator("#compare_grid .deck input").fill(str(step))
        seen.append(page.inner_text("#compare_grid .screen strong"))
    assert seen == names
    page.click("#compare_grid .deck button")
    page.wait_for_function(
        "() => document.querySelector('#compare_grid .screen strong')?.innerText !== 'bn2'"
    )
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, "nothing sticks out of the screen"


def test_another_scale_redraws_the_grid_without_the_models(visit: Open, monkeypatch: Any):
    from space.service.explainer import Explainer

    visitor = opened(visit, DESKTOP)
    compare(visitor)

    def never(*_: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr(Explainer, "compare", never)
    picture = "#compare_grid ul img >> nth=0"
    before = visitor.page.get_attribute(picture, "src")
    visitor.page.click('#compare_scale label:has-text("Each map on its own")')
    visitor.page.wait_for_function(
        "old => document.querySelector('#compare_grid ul img').src !== old", arg=before
    )


@sizes
def test_a_model_that_is_not_there_leaves_the_others_their_maps(
    visit: Open, options: dict[str, Any]
):
    visitor = opened(visit, options)
    visitor.page.fill("#compare_models input", "nonsense1")
    visitor.page.press("#compare_models input", "Enter")
    captions = compare(visitor)
    assert len(captions) == 3
    assert "nonsense1" in visitor.page.inner_text("#compare_grid section >> nth=1")
    assert "No map." in visitor.page.inner_text("#compare_grid section >> nth=1")


def test_everything_is_taken_away_as_one_file(visit: Open, tmp_path: Path):
    visitor = opened(visit, DESKTOP)
    compare(visitor)
    link = visitor.page.locator("#compare_files a").first
    link.wait_for()
    with visitor.page.expect_download() as download:
        link.click()
    content = Path(download.value.path()).read_bytes()
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert any(name.endswith("sheet.png") for name in names)
    assert sum(name.endswith(".npy") for name in names) >= 3
