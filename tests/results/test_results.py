"""Explanations: maps on several scales, images, files, and the manifest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import cam_hub
from cam_hub import Explanation, explain, reproduce
from cam_hub.errors import ClassNotFound, ImageRefused, InvalidArgument, LayerNotFound
from tests.fakes.methods import ONE_PASS


@pytest.fixture(scope="module")
def result(lite0, photos) -> Explanation:
    return explain(
        lite0, photos["cat"], method="layercam", target_layers=["blocks.4", "bn2"],
        classes=["tabby", "tiger cat"],
    )  # fmt: skip


class TestMaps:
    def test_the_first_class_is_meant_when_none_is_named(self, result):
        assert np.array_equal(result.cam(layer="bn2"), result.cam(281, "bn2"))

    def test_all_layers_are_fused_when_none_is_named(self, result):
        # Jiang et al. 2021, eq. 9: tanh of twice the map divided by its maximum; then the maximum.
        fine, coarse = (result.cam(layer=name) for name in result.layers)
        assert result.cam().shape == fine.shape == (14, 14)
        assert np.all(result.cam() >= np.tanh(2 * fine / fine.max()) - 1e-6)
        assert result.cam().max() == pytest.approx(np.tanh(2), abs=1e-5)
        assert coarse.shape == (7, 7)

    def test_the_map_of_the_only_layer_is_its_own_fusion(self, lite0, photos):
        alone = explain(lite0, photos["cat"], method="layercam")
        assert np.array_equal(alone.cam(), alone.cam(layer="bn2"))

    def test_maps_cannot_be_written_to(self, result):
        for cam in (result.cam(), result.cam(layer="bn2")):
            with pytest.raises(ValueError, match="read-only"):
                cam[0, 0] = 1

    def test_a_class_that_was_not_explained_is_refused(self, result):
        with pytest.raises(ClassNotFound, match=r"281 .* 282"):
            result.cam(291)

    def test_a_layer_that_was_not_explained_names_those_that_were(self, result):
        with pytest.raises(LayerNotFound, match="bn2"):
            result.heatmap(layer="bn22")

    def test_the_mask_holds_what_is_hot_and_the_boxes_hold_the_mask(self, result):
        mask = result.mask(0.6)
        assert np.array_equal(mask, result.heatmap() >= 0.6)
        covered = np.zeros_like(mask)
        for left, upper, right, lower in result.boxes(0.6):
            covered[upper:lower, left:right] = True
        assert not (mask & ~covered).any()

    @pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan")])
    def test_a_threshold_that_makes_no_sense_is_refused(self, result, threshold):
        with pytest.raises(InvalidArgument, match="threshold"):
            result.mask(threshold)


class TestPictures:
    def test_images_have_the_photos_size(self, result, photos):
        for picture in (result.overlay(), result.cutout(0.5)):
            assert picture.size == photos["cat"].size

    def test_zero_opacity_leaves_the_photo_unchanged_where_the_model_saw_it(self, result, photos):
        bare = np.asarray(result.overlay(alpha=0))
        assert np.array_equal(bare[result.seen], np.asarray(photos["cat"])[result.seen])

    @pytest.mark.parametrize("arguments", [{"alpha": 2}, {"colormap": "rainbowish"}], ids=str)
    def test_bad_arguments_are_refused(self, result, arguments):
        with pytest.raises(InvalidArgument):
            result.overlay(**arguments)

    def test_the_montage_shows_photo_layers_and_fusion(self, result):
        montage = result.montage(282)
        width, height = montage.size
        assert width > height / 4

    def test_a_heatmap_is_a_copy_for_each_caller(self, result):
        before = result.overlay().tobytes()
        heat = result.heatmap()
        heat[:] = 0
        assert result.overlay().tobytes() == before
        assert result.heatmap().max() > 0


class TestFiles:
    def test_a_saved_explanation_is_the_same_when_loaded(self, result, tmp_path):
        folder = result.save(tmp_path / "deep" / "er")
        again = Explanation.load(folder)
        assert again.manifest == json.loads(json.dumps(dict(result.manifest)))
        for index in result.classes:
            assert again.overlay(index).tobytes() == result.overlay(index).tobytes()
            for name in result.layers:
                assert np.array_equal(again.cam(index, name), result.cam(index, name))
        assert again.predictions == result.predictions

    def test_the_folder_holds_images_maps_and_manifest(self, result, tmp_path):
        folder = result.save(tmp_path / "cat")
        assert {path.name for path in folder.iterdir()} == {
            "manifest.json", "photo.png",
            "overlay-281.png", "overlay-281-00-blocks.4.png", "overlay-281-01-bn2.png",
            "overlay-282.png", "overlay-282-00-blocks.4.png", "overlay-282-01-bn2.png",
            "cam-281-00-blocks.4.npy", "cam-281-01-bn2.npy",
            "cam-282-00-blocks.4.npy", "cam-282-01-bn2.npy",
        }  # fmt: skip
        picture = Image.open(folder / "overlay-282.png")
        assert picture.tobytes() == result.overlay(282).tobytes()
        cam = np.load(folder / "cam-282-01-bn2.npy")
        assert np.array_equal(cam, result.cam(282, "bn2"))

    def test_saving_again_replaces_the_earlier_explanation(self, result, lite0, photos, tmp_path):
        folder = tmp_path / "cat"
        result.save(folder)
        explain(lite0, photos["cat"]).save(folder)
        assert not list(folder.glob("*281*"))
        assert [path.name for path in tmp_path.iterdir()] == ["cat"]

    def test_other_files_in_the_folder_stay(self, result, lite0, photos, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        result.save(tmp_path)
        explain(lite0, photos["cat"]).save(tmp_path)
        assert (tmp_path / "thesis.txt").read_text() == "years of work"
        assert Explanation.load(tmp_path).classes == (282,)

    def test_a_file_of_the_same_name_that_is_not_ours_is_never_overwritten(self, result, tmp_path):
        (tmp_path / "photo.png").write_bytes(b"the only copy")
        with pytest.raises(InvalidArgument, match=r"photo\.png"):
            result.save(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
        assert (tmp_path / "photo.png").read_bytes() == b"the only copy"

    def test_a_file_is_not_a_folder(self, result, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(InvalidArgument, match="folder"):
            result.save(tmp_path / "file")

    def test_a_failure_midway_leaves_nothing(self, result, tmp_path, monkeypatch):
        monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            result.save(tmp_path / "cat")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("damage", ["manifest.json", "photo.png", "cam-281-01-bn2.npy"])
    def test_a_damaged_folder_is_refused(self, result, tmp_path, damage):
        folder = result.save(tmp_path / "cat")
        (folder / damage).write_bytes(b"{")
        with pytest.raises((InvalidArgument, ImageRefused)):
            Explanation.load(folder)

    def test_an_invalid_folder_is_refused(self, tmp_path):
        with pytest.raises(InvalidArgument, match="folder"):
            Explanation.load(tmp_path / "nowhere")


class TestManifest:
    def test_it_names_everything_that_made_the_map(self, result, lite0):
        manifest = result.manifest
        assert manifest["model"]["id"] == lite0.id
        assert manifest["model"]["revision"] == lite0.revision
        assert manifest["method"] == "layercam"
        assert manifest["layers"] == ["blocks.4", "bn2"]
        assert [entry["label"] for entry in manifest["classes"]] == [
            "tabby, tabby cat", "tiger cat",
        ]  # fmt: skip
        assert manifest["image"]["size"] == [451, 300]
        assert set(manifest["versions"]) >= {"cam_hub", "python", "torch", "timm"}

    @pytest.mark.parametrize("method", ONE_PASS)
    def test_the_same_maps_come_out_again_from_it(self, lite0, lion, method):
        first = explain(
            lite0, lion, method=method, target_layers="stages", num_samples=3, std=0.2, seed=9,
            classes=["lion", 282],
        )  # fmt: skip
        again = reproduce(json.loads(json.dumps(dict(first.manifest))), lion)
        for key, cam in first.cams.items():
            assert again.cams[key].tobytes() == cam.tobytes()
        assert again.manifest == first.manifest

    def test_another_image_is_refused(self, result, lion):
        with pytest.raises(ImageRefused, match="not the picture"):
            reproduce(result.manifest, lion)

    def test_a_model_without_an_id_must_be_given(self, lite0, lion):
        model = cam_hub.wrap_model(lite0.module, mean=(0.5,) * 3, std=(0.5,) * 3)
        manifest = explain(model, lion).manifest
        with pytest.raises(InvalidArgument, match="model"):
            reproduce(manifest, lion)
        assert reproduce(manifest, lion, model=model).manifest == manifest


def test_an_explanation_describes_itself(result):
    text = repr(result)
    assert "layercam" in text
    assert "tiger cat" in text
    assert len(text) < 400
