"""``/evidence`` through gradio_client, and evidence in the answer of ``/explain``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import cam_hub
from cam_hub import Evidence
from cam_hub.faithfulness import EvidenceTest
from space.components.evidence_view import NOT_TESTED, TESTING, evidence_html
from space.service.explain_form import ExplainForm
from space.service.explainer import Explained, Explainer
from space.service.exports import record_evidence
from tests.fakes.browser import Browser
from tests.fakes.space_app import encoded


def evidence(client: Client, photo: Path, **asked: Any) -> Any:
    asked = {"method": "layercam", **asked}
    return client.predict(handle_file(photo), **asked, api_name="/evidence")


def test_it_makes_the_cover_test_unless_others_are_named(
    client: Client, photo: Path, lite0: cam_hub.LoadedModel
):
    found = evidence(client, photo)
    direct = cam_hub.evidence(cam_hub.explain(lite0, photo, method="layercam"))
    assert found["verdict"] == direct.verdict
    assert [test["name"] for test in found["tests"]] == ["cover"]
    assert found["tests"][0]["sentence"] == direct["cover"].sentence
    assert found["tests"][0]["value"] == pytest.approx(direct["cover"].value, rel=1e-3)
    assert found["label"].startswith("lion")
    assert (found["method"], found["layer"]) == ("layercam", None)
    assert Evidence.from_dict(found).passes == direct.passes


def test_it_takes_the_arguments_of_the_explanation_and_of_the_tests(client: Client, photo: Path):
    found = evidence(
        client,
        photo,
        method="gradcam",
        classes=["tiger"],
        target_layers=["stages"],
        checks=["focus", "pointing_game", "energy"],
        region=[0, 0, 256, 256],
    )
    focus, game, energy = found["tests"]
    assert found["label"].startswith("tiger")
    assert len(found["layers"]) > 1
    assert 0 < focus["value"] < 1
    assert game["value"] == 1
    assert energy["value"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        ({"checks": ["covr"]}, "invalid_argument", "nearest: cover"),
        ({"baseline": "snow"}, "invalid_argument", "blur, mean"),
        ({"baseline": ["blur"]}, "invalid_argument", "blur, mean"),
        ({"checks": {"cover": 1}}, "invalid_argument", "checks="),
        ({"checks": ["energy"], "region": [0, 0, 9]}, "invalid_argument", "four numbers"),
        ({"checks": ["energy"], "region": [900, 900, 990, 990]}, "invalid_argument", "region="),
        ({"classes": ["no such class"]}, "class_not_found", "no such class"),
        ({"explained_region": [0, 0, 9, 9]}, "invalid_argument", "region="),
        ({"method": "sscam"}, "too_much", "takes 44802 here"),
        (
            {"method": "scorecam", "checks": ["stability"]},
            "too_much",
            "the maps and their tests, and this takes 6410 here",
        ),
    ],
    ids=str,
)
def test_what_does_not_work_has_a_code_and_a_sentence(
    client: Client, photo: Path, asked: dict[str, Any], code: str, words: str
):
    with pytest.raises(AppError) as caught:
        evidence(client, photo, **asked)
    assert f"[{code}]" in str(caught.value)
    assert words in str(caught.value)


def test_a_test_that_cannot_be_made_states_the_reason(client: Client, tmp_path: Path):
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "grey.png")
    found = evidence(client, tmp_path / "grey.png", checks=["cover", "energy"])
    assert [test["value"] for test in found["tests"]] == [None, None]
    for test in found["tests"]:
        assert test["sentence"].startswith(f"Not tested ({test['name']})")
    assert found["verdict"].startswith("not tested")


@pytest.mark.parametrize("named", ["cover, focus", ["cover", "focus"]])
def test_explain_has_the_evidence_in_its_manifest_if_asked_for(
    client: Client, photo: Path, named: object
):
    """Both endpoints accept a text with commas and a list."""
    sent = handle_file(photo)
    *_, manifest, _ = client.predict(sent, method="layercam", evidence=named, api_name="/explain")
    assert [test["name"] for test in manifest["evidence"]["tests"]] == ["cover", "focus"]
    assert [test["name"] for test in evidence(client, photo, checks=named)["tests"]] == [
        "cover",
        "focus",
    ]
    *_, manifest, _ = client.predict(sent, method="layercam", api_name="/explain")
    assert "evidence" not in manifest


# The page


@pytest.fixture
def explained(url: str, lion: Image.Image) -> Browser:
    """A page with a result of two classes."""
    browser = Browser(url)
    done, shown = browser.explain(
        browser.upload(encoded(lion, "PNG")), classes=["lion", "tiger"], method="layercam"
    )
    assert done, shown
    browser.first = shown["evidence"]  # type: ignore[attr-defined]
    return browser


def fire_test(browser: Browser, kind: str, **values: Any) -> Any:
    """Fires the event that tests the map: ``success`` of the explanation, or ``select``."""
    (event,) = (
        each
        for each in browser.config["dependencies"]
        if each["outputs"] == [browser.ids["evidence"]]
        and [kind] == [fired for _, fired in each["targets"]]
        and each["inputs"]
    )
    done, shown = browser.fire(event, values)
    assert done, shown
    return shown["evidence"]


def test_the_map_is_tested_after_it_is_shown(explained: Browser):
    first = explained.first  # type: ignore[attr-defined]
    assert first["value"] == ""
    assert first["props"]["note"] == TESTING
    tested = fire_test(explained, "success", shown_class=291)["value"]
    assert f'data-map="{first["props"]["shown"]}"' in tested
    assert "Cover the hottest 15% of the image: lion" in tested
    assert len(re.findall("<tr><td>", tested)) == 2
    assert "the same for any class: use " in tested
    assert "Other classes get nearly the same map" in tested
    further = fire_test(explained, "select", shown_class=291)["value"]
    assert len(re.findall("<tr><td>", further)) == 3
    assert further.count("Other classes get") == 1
    assert "Test further" not in further


def test_the_map_that_is_shown_is_tested(
    explained: Browser, lite0: cam_hub.LoadedModel, monkeypatch: pytest.MonkeyPatch
):
    """Even where another one would be chosen by now."""
    asked: list[tuple[str, tuple[str, ...]]] = []
    whole = Explainer.explain

    def noted(self: Explainer, request: ExplainForm, *rest: Any) -> Explained:
        asked.append((request.method, request.target_layers))
        return whole(self, request, *rest)

    monkeypatch.setattr(Explainer, "explain", noted)
    fire_test(explained, "success", shown_class=291)
    ((method, layers),) = asked
    assert method == "layercam"
    assert layers == tuple(cam_hub.suggest_layers(lite0, "best"))  # by name, not by a word


def test_evidence_belongs_to_one_map_and_is_in_its_files(explained: Browser):
    tested = fire_test(explained, "success", shown_class=292)["value"]
    assert "Cover the hottest 15% of the image: tiger" in tested
    redrawing = explained.event("shown_class", "input", "viewer")
    looks = {"view": "overlay", "alpha": 0.5, "colormap": "jet", "threshold": 0.5, "scale": "own"}
    _, other = explained.fire(redrawing, {**looks, "shown_class": 291})
    assert other["evidence"]["value"] == ""
    assert other["evidence"]["props"]["note"] == NOT_TESTED
    assert other["evidence"]["props"]["shown"] not in tested
    _, same = explained.fire(redrawing, {**looks, "shown_class": 292})
    assert same["evidence"]["value"] == tested
    files = explained.event("downloads", "select", "downloads")
    _, made = explained.fire(files, {**looks, "shown_class": 292}, {"kind": "manifest"})
    path = re.sub(r".*file=", "", made["downloads"]["props"]["ready"]["address"])
    manifest = json.loads(Path(path).read_text("utf-8"))
    assert manifest["evidence"]["class_index"] == 292
    assert cam_hub.Explanation.load(Path(path).parent).evidence.class_index == 292


def test_another_photo_takes_the_evidence_away(explained: Browser):
    clearing = explained.event("photo", "clear", "evidence")
    done, shown = explained.fire(clearing, {"photo": None})
    assert done
    assert shown["evidence"]["value"] == shown["evidence"]["props"]["note"] == ""
    assert "value" not in fire_test(explained, "success", shown_class=291)


def test_the_page_opens_with_the_evidence_for_its_first_result(url: str):
    _, shown = Browser(url).open()
    assert "Cover the hottest" in shown["evidence"]["value"]


def test_labels_in_sentences_are_escaped():
    bad = EvidenceTest("cover", 1.0, {"<i>": 0.5}, 8, "<img src=x onerror=alert(1)>")
    shown = evidence_html(Evidence((bad,), 0, None), 'a"b')
    assert "<img" not in shown
    assert "<i>" not in shown
    assert 'data-map="a&quot;b"' in shown


@pytest.mark.parametrize(
    ("road", "check", "kind"), [(0.9, 0.1, "good"), (0.4, 0.1, "bad"), (0.9, 0.9, "bad")]
)
def test_what_a_further_test_holds_against_a_map_is_marked(road: float, check: float, kind: str):
    tests = (
        EvidenceTest("cover", 1.0, {"centre": 0.5}),
        EvidenceTest("class_check", check, {"same": 0.85}),
        EvidenceTest("road", road, {"centre": 0.5}),
    )
    assert evidence_html(Evidence(tests), "a").startswith(f'<div class="{kind}"')


def test_evidence_for_a_result_that_is_gone_is_not_written(tmp_path: Path):
    record_evidence(tmp_path / "gone", {})
    assert not list(tmp_path.iterdir())
