"""The command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cam_hub
from cam_hub.cli import main
from cam_hub.results.manifest import file_stem


@pytest.fixture
def photo(lion, tmp_path) -> Path:
    path = tmp_path / "lion.png"
    lion.save(path)
    return path


def test_layers_are_listed_with_the_recommended_one_marked(capsys):
    assert main(["layers", "resnet10t", "--random", "--device", "cpu"]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    columns = ["layer", "type", "layout", "grid", "channels", "prefix", "stage", "why"]
    assert head.split() == columns
    assert last == "recommended (*): layer4"
    marked = [row.split() for row in rows if row.startswith("*")]
    assert [row[1] for row in marked] == ["layer4"]
    assert not any("fc" in row.split()[:1] for row in rows)


def test_layers_that_give_no_map_are_listed_when_asked_for(capsys):
    assert main(["layers", "--model", "resnet10t", "--random", "--all"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(row.split()[0] == "fc" and "no rows and columns" in row for row in rows)


def test_methods_are_listed_with_their_costs_and_papers(capsys):
    assert main(["methods"]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(cam_hub.METHODS)
    for row, method in zip(rows, cam_hub.METHODS.values(), strict=True):
        assert method.citation in row
        assert str(method.passes) in row


def test_the_type_of_the_weights_is_recorded(photo, tmp_path):
    arguments = ["--method", "layercam", "--dtype", "bfloat16", "--out", str(tmp_path / "out")]
    assert main(["explain", str(photo), *arguments]) == 0
    assert cam_hub.Explanation.load(tmp_path / "out").manifest["precision"] == "bfloat16"


def test_two_models_at_once_are_refused(capsys):
    assert main(["layers", "resnet10t", "--model", "resnet18", "--random"]) == 1
    assert "two were named" in capsys.readouterr().err


def test_an_explanation_is_saved_and_its_predictions_are_printed(photo, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--method", "layercam", "--layer", "stages", "--class", "lion", "--out", str(out)]
    assert main(["explain", str(photo), *arguments]) == 0
    assert "lion" in capsys.readouterr().out.splitlines()[0]
    result = cam_hub.Explanation.load(out)
    assert len(result.layers) > 1
    assert result.classes == (291,)


def test_each_image_of_a_folder_is_saved_under_its_name(lion, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    lion.save(photos / "a.png")
    (photos / "b.png").write_bytes(b"no picture")
    lion.save(photos / "c.jpg")
    assert main(["explain", str(photos), "--method", "layercam", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.out.splitlines()] == ["a.png", "c.jpg"]
    assert "lion" in printed.out
    assert printed.err.startswith("b.png: error (image_refused)")
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "c.jpg"]
    assert cam_hub.Explanation.load(out / "a.png").classes == (291,)


def test_results_among_the_images_are_not_explained(lion, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    lion.save(photos / "a\nb.png")
    options = ["--method", "layercam", "--out", str(photos / "out")]
    for _ in range(2):
        assert main(["explain", str(photos), *options]) == 0
        assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["a b.png"]
    lion.save(photos / "out" / "a\nb.png" / "mine.png")
    assert main(["explain", str(photos), *options]) == 0
    assert capsys.readouterr().out.count("\n") == 2  # one of the user's own images is among them


def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_computed(
    lion, tmp_path, capsys
):
    (tmp_path / "out").write_text("mine")
    lion.save(tmp_path / "a.png")
    arguments = ["--model", "no/such", "--out", str(tmp_path / "out")]
    for place in (tmp_path, tmp_path / "a.png"):
        assert main(["explain", str(place), *arguments]) == 1
        assert "a folder, and this is a file" in capsys.readouterr().err


def test_class_folders_are_searched_and_their_class_is_explained(lion, tmp_path, capsys):
    for name in ("n02129165", "n02130308"):  # lion and cheetah, by their WordNet IDs
        (tmp_path / "in" / name).mkdir(parents=True)
        lion.save(tmp_path / "in" / name / "a.png")
    options = ["--method", "layercam", "--expected", "--out", str(tmp_path / "out")]
    assert main(["explain", str(tmp_path / "in"), *options, "--class", "top(1)"]) == 0
    found = [cam_hub.Explanation.load(tmp_path / "out" / n / "a.png").classes
             for n in ("n02129165", "n02130308")]  # fmt: skip
    assert found == [(291,), (291, 293)]
    assert main(["explain", str(tmp_path / "in" / "*" / "a.png"), *options]) == 0
    assert main(["explain", str(tmp_path / "in" / "n02129165" / "a.png"), *options]) == 1
    assert "--expected" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--region", "0,0,9,9"], ["--push", "me/maps"]])
def test_options_for_a_single_image_are_refused_with_a_folder(option, tmp_path, capsys):
    assert main(["explain", str(tmp_path), *option]) == 1
    assert "single picture" in capsys.readouterr().err


def test_images_of_a_folder_share_one_scale(lion, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    lion.save(photos / "a.png")
    lion.point(lambda value: value // 3).save(photos / "b.png")
    options = ["--method", "layercam", "--classes", "lion", "--layers", "bn2"]
    options += ["--layer", "blocks.4"]
    look = ["--scale", "common", "--colorbar", "--colormap", "viridis", "--alpha", "1"]
    assert main(["explain", str(photos), *options, *look, "--out", str(out)]) == 0
    results = [cam_hub.Explanation.load(out / name) for name in ("a.png", "b.png")]
    plain = {"alpha": 1.0, "colormap": "viridis", "colorbar": True}
    for position, layer in enumerate((None, "bn2", "blocks.4")):
        scale = (0.0, 1.0) if layer is None else cam_hub.shared_scale(results, layer)
        for name, result in zip(("a.png", "b.png"), results, strict=True):
            stem = (
                "overlay-291" if layer is None else f"overlay-291-{file_stem(position - 1, layer)}"
            )
            (file,) = (out / name).glob(f"{stem}.png")
            expected = result.overlay(layer=layer, scale=scale, **plain)
            assert np.array_equal(np.asarray(Image.open(file)), np.asarray(expected))


@pytest.mark.parametrize("look", [["--scale", "log"], ["--scale", "1,0"], ["--alpha", "2"],
                                  ["--colormap", "no such"]])  # fmt: skip
def test_invalid_display_options_are_refused_before_anything_is_computed(look, tmp_path, capsys):
    assert main(["explain", "nowhere.png", *look, "--out", str(tmp_path / "out")]) == 1
    assert look[0][2:] in capsys.readouterr().err


def test_a_comparison_is_saved_and_missing_maps_are_reported(photo, tmp_path, capsys):
    out = tmp_path / "out"
    what = ["--methods", "layercam", "--layers", "blocks.4", "nope", "--out", str(out)]
    assert main(["compare", str(photo), *what]) == 1
    printed = capsys.readouterr()
    assert "blocks.4" in printed.out
    assert "lion" in printed.out
    assert "(layer_not_found): No layer 'nope'" in printed.err
    assert cam_hub.Comparison.load(out).titles == ("blocks.4", "nope")


def test_a_comparison_of_random_weights_needs_no_network(photo, tmp_path, capsys):
    models = ["--models", "resnet10t", "test_vit", "--random", "--device", "cpu"]
    what = ["--methods", "gradcam", "layercam", "--scale", "own", "--out", str(tmp_path / "out")]
    assert main(["compare", str(photo), *models, *what]) == 0
    assert capsys.readouterr().out.count("gradcam") == 0  # methods go by their titles
    assert all(row.has_random_weights for row in cam_hub.Comparison.load(tmp_path / "out").rows)


@pytest.mark.parametrize("what", [["--models", "no/thing/here"], ["--scale", "log"]])
def test_a_comparison_without_any_map_is_an_error(what, photo, tmp_path, capsys):
    assert main(["compare", str(photo), *what, "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error (")
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_readable_line_and_an_exit_code(photo, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["explain", str(photo), "--class", "lino", "--out", str(out)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error (class_not_found)")
    assert message.count("\n") == 1
    assert not out.exists()


def test_a_command_line_that_makes_no_sense_explains_itself(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["explode"])
    assert caught.value.code == 2
    assert "layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["PHOTO", "--evidence"], ["cover"]),
        (["--evidence", "PHOTO"], ["cover"]),
        (["--evidence", "PHOTO", "--colorbar"], ["cover"]),
        (["PHOTO", "--evidence", "cover,focus"], ["cover", "focus"]),
        (["--evidence=focus", "PHOTO"], ["focus"]),
        (["PHOTO"], None),
    ],
)
def test_evidence_is_printed_and_saved_if_it_is_asked_for(photo, tmp_path, capsys, words, made):
    arguments = [str(photo) if word == "PHOTO" else word for word in words]
    out = tmp_path / "out"
    chosen = ["--method", "layercam", "--out", str(out)]
    assert main(["explain", *arguments, *chosen]) == 0
    printed = capsys.readouterr().out
    evidence = cam_hub.Explanation.load(out).evidence
    if made is None:
        assert evidence is None
        assert "evidence:" not in printed
        return
    assert [test.name for test in evidence.tests] == made
    assert f"evidence: {evidence.verdict}.\n" in printed
    for test in evidence.tests:
        assert test.sentence in printed


def test_the_verdict_of_each_image_of_a_folder_is_printed(lion, tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    lion.save(photos / "a.png")
    arguments = ["--method", "layercam", "--evidence", "--out", str(out)]
    assert main(["explain", str(photos), *arguments]) == 0
    evidence = cam_hub.Explanation.load(out / "a.png").evidence
    assert capsys.readouterr().out.endswith(f": {evidence.verdict}\n")


def test_an_unknown_test_is_refused(photo, tmp_path, capsys):
    arguments = ["explain", str(photo), "--evidence", "covr", "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "nearest: cover" in capsys.readouterr().err
