"""The display of results in notebooks."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import cam_hub
from cam_hub import Evidence, Explanation
from cam_hub.faithfulness import EvidenceTest

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def explained(lite0: cam_hub.LoadedModel, lion: Image.Image) -> Explanation:
    return cam_hub.explain(lite0, lion, method="layercam", classes=["lion", "tiger"])


def picture_of(shown: str) -> Image.Image:
    """The picture within HTML."""
    (coded,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", shown)
    return Image.open(io.BytesIO(base64.b64decode(coded)))


def test_an_explanation_shows_overlay_predictions_and_the_known_evidence(explained: Explanation):
    shown = explained._repr_html_()
    assert "evidence" not in explained.__dict__, "the display makes no test"
    assert "Cover the hottest" not in shown
    overlay, drawn = np.asarray(explained.overlay(), float), np.asarray(picture_of(shown), float)
    assert np.abs(overlay - drawn).mean() < 8, "but for the compression"
    for found in explained.predictions:
        assert found.label in shown
    tested = explained.evidence
    shown = explained._repr_html_()
    assert tested["cover"].sentence in shown
    assert tested.verdict[1:] in shown


def test_large_photos_are_reduced(lite0: cam_hub.LoadedModel, lion: Image.Image):
    found = cam_hub.explain(lite0, lion.resize((1600, 800)), method="layercam")
    assert picture_of(found._repr_html_()).size == (480, 240)


def test_labels_and_names_are_escaped(explained: Explanation):
    model = {**explained.described["model"], "id": HOSTILE}
    changed = replace(
        explained,
        labels=dict.fromkeys(explained.classes, HOSTILE),
        predictions=[replace(found, label=HOSTILE) for found in explained.predictions],
        described={**explained.described, "model": model, "method": HOSTILE},
    )
    assert HOSTILE not in changed._repr_html_()
    evidence = Evidence((EvidenceTest("cover", 1.0, {HOSTILE: 0.0}, 8, HOSTILE),))
    shown = evidence._repr_html_()
    assert HOSTILE not in shown
    assert "&lt;img" in shown


def test_an_explanation_without_a_map_shows_the_photo(explained: Explanation):
    blank = replace(explained, cams={key: 0 * cam for key, cam in explained.cams.items()})
    shown = blank._repr_html_()
    assert "no map" in shown
    photo, drawn = np.asarray(blank.photo, float), np.asarray(picture_of(shown), float)
    assert np.abs(photo - drawn).mean() < 8


def test_evidence_is_a_table_of_its_tests(explained: Explanation):
    found = cam_hub.evidence(explained, checks=["focus", "cover", "energy"])
    shown = found._repr_html_()
    assert shown.count("<tr>") == 4
    assert "not tested" in shown
    assert f"{found['focus'].value:.3g}" in shown


def test_a_result_from_files_without_evidence_has_none_in_its_repr(
    explained: Explanation, tmp_path
):
    replace(explained).save_data(tmp_path)
    loaded = Explanation.load(tmp_path)
    assert loaded.evidence is None
    assert "evidence" not in repr(loaded)
    assert "Cover" not in loaded._repr_html_()
