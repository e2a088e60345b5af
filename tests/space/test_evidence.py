"""``/evidence`` through gradio_client, and evidence in the answer of ``/explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import cam_hub
from cam_hub import Evidence


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


def test_explain_has_the_evidence_in_its_manifest_if_asked_for(client: Client, photo: Path):
    sent = handle_file(photo)
    *_, manifest, _ = client.predict(
        sent, method="layercam", evidence="cover, focus", api_name="/explain"
    )
    assert [test["name"] for test in manifest["evidence"]["tests"]] == ["cover", "focus"]
    *_, manifest, _ = client.predict(sent, method="layercam", api_name="/explain")
    assert "evidence" not in manifest
