"""Saved results: other files in the folder are never lost, whenever a save ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cam_hub
from cam_hub import Comparison, Explanation, compare, explain, wrap_model
from cam_hub.cli import main
from cam_hub.errors import CamHubError, InvalidArgument, SaveFailed
from cam_hub.results import serialization
from cam_hub.results.serialization import digest_of, manifest_text
from tests.fakes.sweep import sample

Save = Callable[[Path], object]


@pytest.fixture(scope="module")
def model() -> cam_hub.LoadedModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 3),
    )  # fmt: skip
    return wrap_model(net, input_size=(3, 32, 32), class_names=["a", "b", "c"])


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))


@pytest.fixture(scope="module")
def big(model, photo) -> Explanation:
    return explain(
        model, photo, method="gradcam", classes=[0, 1, 2], target_layers=["0", "2"]
    )  # fmt: skip


@pytest.fixture(scope="module")
def small(model, photo) -> Explanation:
    return explain(model, photo.rotate(90), method="gradcam", classes=[1], target_layers="0")


@pytest.fixture(scope="module")
def grid(model, photo) -> Comparison:
    return compare(model, photo, methods=["layercam", "gradcam"])


@pytest.fixture(scope="module")
def strip(model, photo) -> Comparison:
    return compare(model, photo, target_layers=["0", "2"])


def content(folder: Path) -> dict[str, bytes | str | None]:
    """The content of a folder: bytes of files, targets of links, None for folders."""
    return {
        path.relative_to(folder).as_posix(): (
            str(path.readlink())
            if path.is_symlink()
            else path.read_bytes() if path.is_file() else None
        )
        for path in folder.rglob("*")
    }  # fmt: skip


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def same(one: Explanation, other: Explanation) -> bool:
    return one.photo == other.photo and {k: v.tobytes() for k, v in one.cams.items()} == {
        k: v.tobytes() for k, v in other.cams.items()
    }


class TestManifest:
    @pytest.mark.parametrize("kind", ["big", "grid", "strip"])
    def test_it_lists_every_file_with_its_digest(self, kind, request, tmp_path):
        folder = request.getfixturevalue(kind).save(tmp_path / "out")
        name = "manifest.json" if kind == "big" else "comparison.json"
        files = json.loads((folder / name).read_text())["files"]
        present = {
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        }
        assert files.keys() == present
        assert all(files[file] == digest_of(folder / file) for file in present - {name})

    def test_its_own_digest_is_that_with_zeros_in_its_place(self, big, tmp_path):
        data = (big.save(tmp_path) / "manifest.json").read_bytes()
        own = json.loads(data)["files"]["manifest.json"].encode()
        assert hashlib.sha256(data.replace(own, b"0" * 64)).hexdigest().encode() == own


class TestOtherFiles:
    """The files of a folder that no manifest of ours lists with their digest."""

    FOREIGN = (
        {"manifest.json": '{"fps": 25}', "frame-000.png": "x", "frame-001.png": "x"},
        {"manifest.json": '{"name": "an app"}', "overlay-logo.png": "x"},
        {"manifest.json": "no JSON"},
        {"manifest.json": "[]", "photo.png": "x"},
        {"photo.png": "x"},
        {"PHOTO.PNG": "where case makes no difference this is ours"},
        {"Manifest.json": "x"},
        {"photo.png/inside.txt": "a folder where a file belongs"},
        {".cam_hub-save/mine.txt": "x"},
        {".cam_hub-save": "a file"},
    )

    @pytest.mark.parametrize("files", FOREIGN, ids=lambda files: next(iter(files)))
    def test_in_the_way_of_an_explanation_is_refused_before_a_byte(self, big, files, tmp_path):
        fill(tmp_path, files)
        before = content(tmp_path)
        with pytest.raises(InvalidArgument, match="folder"):
            big.save(tmp_path)
        assert content(tmp_path) == before

    @pytest.mark.parametrize(
        "files",
        [
            {"comparison.json": "{}", "2026-11-27/a.txt": "x"},
            {"comparison.json": '{"kind": "methods", "titles": [], "rows": []}', "sheet.png": "x"},
            {"notes.txt": "x"},
        ],
    )
    def test_in_the_way_of_a_comparison_is_refused_before_a_byte(self, grid, files, tmp_path):
        fill(tmp_path, files)
        before = content(tmp_path)
        with pytest.raises(InvalidArgument, match="folder"):
            grid.save(tmp_path)
        assert content(tmp_path) == before

    NOTES = {  # noqa: RUF012
        "overlay-for-the-paper.png": "x",
        "cam-notes.npy": "x",
        "frame-001.png": "x",
        "animation-9.gif": "x",
        "2026-11-27/a.txt": "x",
        "10-20-runs/a.txt": "x",
        "00-00-Sequential/mine.txt": "x",
        "strip-00-mine.webp": "x",
    }

    @pytest.mark.parametrize("kind", ["big", "grid"])
    def test_beside_an_earlier_result_they_stay(self, kind, request, tmp_path):
        result = request.getfixturevalue(kind)
        result.save(tmp_path)
        fill(tmp_path, self.NOTES)
        result.save(tmp_path)
        assert {name: (tmp_path / name).read_text() for name in self.NOTES} == self.NOTES

    def test_a_smaller_result_removes_what_is_left_of_the_larger_one_and_only_that(
        self, big, small, tmp_path
    ):
        big.save(tmp_path)
        (tmp_path / "overlay-2.png").write_bytes(b"retouched")
        small.save(tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {
            "manifest.json", "photo.png", "overlay-1.png", "cam-1-00-0.npy", "overlay-2.png",
        }  # fmt: skip
        assert (tmp_path / "overlay-2.png").read_bytes() == b"retouched"
        assert same(Explanation.load(tmp_path), small)

    def test_a_smaller_comparison_removes_empty_folders_only(self, grid, model, photo, tmp_path):
        grid.save(tmp_path)
        inner = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
        assert len(inner) == 2
        (tmp_path / inner[1] / "mine.txt").write_text("x")
        compare(model, photo, methods="layercam").save(tmp_path)
        assert [path.name for path in (tmp_path / inner[1]).iterdir()] == ["mine.txt"]

    @pytest.mark.parametrize("name", ["photo.png", "overlay-1.png", "manifest.json"])
    def test_a_file_of_ours_that_was_changed_is_not_replaced(self, big, name, tmp_path):
        big.save(tmp_path)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
        before = content(tmp_path)
        with pytest.raises(InvalidArgument, match="changed"):
            big.save(tmp_path)
        assert content(tmp_path) == before

    @pytest.mark.parametrize("kind", ["big", "grid"])
    def test_a_result_of_an_earlier_version_is_not_changed_and_the_message_states_why(
        self, kind, request, tmp_path
    ):
        result = request.getfixturevalue(kind)
        (path,) = result.save(tmp_path).glob("*.json")
        listed = json.loads(path.read_text())
        del listed["files"]
        path.write_text(json.dumps(listed))
        before = content(tmp_path)
        with pytest.raises(InvalidArgument, match=r"earlier version.*digests"):
            result.save(tmp_path)
        assert content(tmp_path) == before
        assert type(result).load(tmp_path)

    @pytest.mark.parametrize("listed", ["../victim.txt", "/victim.txt", "x/../../victim.txt"])
    def test_a_listing_that_leads_out_of_the_folder_is_not_followed(self, big, listed, tmp_path):
        victim = tmp_path / "victim.txt"
        victim.write_text("x")
        folder = tmp_path / "out"
        folder.mkdir()
        files = {listed.replace("/victim", f"{tmp_path}/victim", 1): digest_of(victim)}
        files |= {listed: digest_of(victim)}
        text = manifest_text("manifest.json", big.manifest, files)
        (folder / "manifest.json").write_text(text)
        with pytest.raises(InvalidArgument):
            big.save(folder)
        assert victim.read_text() == "x"

    def test_links_are_neither_followed_nor_replaced(self, big, tmp_path):
        outside = big.save(tmp_path / "outside")
        folder = tmp_path / "out"
        folder.mkdir()
        for path in outside.iterdir():
            (folder / path.name).symlink_to(path)
        before = content(outside), content(folder)
        with pytest.raises(InvalidArgument):
            big.save(folder)
        assert (content(outside), content(folder)) == before

    def test_a_linked_subfolder_is_not_entered(self, grid, tmp_path):
        folder = grid.save(tmp_path / "out")
        inner = next(path for path in folder.iterdir() if path.is_dir())
        elsewhere = tmp_path / "elsewhere"
        inner.rename(elsewhere)
        inner.symlink_to(elsewhere)
        before = content(elsewhere)
        with pytest.raises(InvalidArgument):
            grid.save(folder)
        assert content(elsewhere) == before

    def test_a_link_to_the_folder_itself_is_the_folder(self, big, small, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        for result in (big, small):
            assert same(Explanation.load(result.save(tmp_path / "link")), result)
        assert (tmp_path / "link").is_symlink()
        assert same(Explanation.load(tmp_path / "real"), small)

    def test_a_dangling_link_a_file_and_a_path_through_a_file_are_refused(self, big, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "gone")
        (tmp_path / "file").write_text("x")
        before = content(tmp_path)
        for target in ("link", "file", "file/deeper"):
            with pytest.raises(CamHubError):
                big.save(tmp_path / target)
        with pytest.raises(CamHubError):
            big.save(f"{tmp_path}/a\0b")
        assert content(tmp_path) == before


class Killed(BaseException):
    """Simulates the end of the process."""


def dying(patch: pytest.MonkeyPatch, steps: int) -> list[str]:
    """Stops all changes to the disk after a number of them, like the end of the process."""
    done: list[str] = []
    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        change = getattr(os, name)

        def counted(*arguments, _change=change, _name=name, **options):
            if len(done) >= steps:
                raise Killed
            done.append(_name)
            return _change(*arguments, **options)

        patch.setattr(os, name, counted)
    return done


class TestInterrupted:
    """A kill is simulated by a disk that no longer changes from some step on: nothing is cleaned
    up."""

    def steps(self, save: Save, folder: Path) -> int:
        with pytest.MonkeyPatch.context() as patch:
            done = dying(patch, 10**6)
            save(folder)
        return len(done)

    def killed(self, save: Save, folder: Path, steps: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, steps)
            with pytest.raises(Killed):
                save(folder)

    @pytest.mark.parametrize("order", sample(["grow", "shrink", "same"], quick=["grow", "shrink"]))
    def test_killed_at_any_step_the_folder_holds_one_result_in_full(
        self, big, small, order, tmp_path
    ):
        old, new = {"grow": (small, big), "shrink": (big, small), "same": (big, big)}[order]
        saved = old.save(tmp_path / "saved")
        steps = self.steps(new.save, shutil.copytree(saved, tmp_path / "count"))
        assert steps > 10
        seen = set()
        for step in range(steps):
            folder = shutil.copytree(saved, tmp_path / str(step))
            (folder / "mine.txt").write_text("mine")
            self.killed(new.save, folder, step)
            found = Explanation.load(folder)
            assert same(found, old) or same(found, new)
            seen.add(same(found, new))
            # The next save works, and leaves nothing of the previous one except its staged files.
            small.save(folder)
            assert same(Explanation.load(folder), small)
            assert not (folder / ".cam_hub-save").exists()
            assert (folder / "mine.txt").read_text() == "mine"
            assert not list(folder.glob("overlay-2*"))
        assert seen == ({True, False} if order != "same" else {True})

    def test_killed_at_any_step_a_comparison_is_the_old_or_the_new_one(self, grid, strip, tmp_path):
        saved = grid.save_data(tmp_path / "saved")
        steps = self.steps(strip.save_data, shutil.copytree(saved, tmp_path / "count"))
        for step in range(steps):
            folder = shutil.copytree(saved, tmp_path / str(step))
            self.killed(strip.save_data, folder, step)
            assert Comparison.load(folder).table() in (grid.table(), strip.table())
            grid.save_data(folder)
            assert Comparison.load(folder).table() == grid.table()

    def test_killed_at_any_step_a_new_folder_is_complete_or_not_there(self, big, tmp_path):
        for step in range(self.steps(big.save, tmp_path / "count")):
            folder = tmp_path / f"of-{step}" / "out"
            self.killed(big.save, folder, step)
            assert not folder.exists() or same(Explanation.load(folder), big)
            assert same(Explanation.load(big.save(folder)), big)

    @pytest.mark.parametrize("failing", ["mkdir", "rename", "replace"])
    def test_an_error_at_any_step_restores_the_old_result_to_the_byte(
        self, big, small, failing, tmp_path
    ):
        saved = small.save(tmp_path / "saved")
        for step in range(60):
            folder = shutil.copytree(saved, tmp_path / f"{step}")
            before, calls = content(folder), 0
            change = getattr(os, failing)

            def full(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == step + 1:  # noqa: B023
                    raise OSError(28, "No space left on device")
                return change(*arguments, **options)  # noqa: B023

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, failing, full)
                try:
                    big.save(folder)
                except SaveFailed as error:
                    assert "No space left" in str(error)
                    assert content(folder) == before
                else:  # an existing folder need not be created
                    assert same(Explanation.load(folder), big)
                    if calls <= step:
                        break
        assert 1 <= step < 59

    def test_a_disk_that_fills_up_while_images_are_written_changes_nothing(
        self, big, small, tmp_path, monkeypatch
    ):
        folder = small.save(tmp_path / "out")
        before = content(tmp_path)
        monkeypatch.setattr(
            Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "disk full"))
        )
        with pytest.raises(SaveFailed, match="disk full"):
            big.save(folder)
        with pytest.raises(SaveFailed, match="disk full"):
            big.save(tmp_path / "new" / "er")
        assert content(tmp_path) == before

    def test_another_programs_files_at_an_interrupted_save_are_kept(self, big, small, tmp_path):
        small.save(tmp_path)
        steps = 0
        while not (tmp_path / ".cam_hub-save").exists():
            self.killed(big.save, tmp_path, steps := steps + 1)
        (tmp_path / "overlay-2.png").write_text("mine")
        for _ in range(2):
            with pytest.raises(InvalidArgument, match=r"overlay-2\.png"):
                big.save(tmp_path)
            assert (tmp_path / "overlay-2.png").read_text() == "mine"
            assert same(Explanation.load(tmp_path), big)

    def test_threads_that_save_into_one_folder_take_turns(self, big, small, tmp_path):
        errors: list[BaseException] = []

        def work(result: Explanation) -> None:
            try:
                for _ in range(5):
                    result.save(tmp_path / "out")
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=work, args=(r,)) for r in (big, small, big)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert {path.name for path in tmp_path.iterdir()} == {"out"}
        found = Explanation.load(tmp_path / "out")
        assert same(found, big) or same(found, small)
        assert not list((tmp_path / "out").glob(".cam_hub*"))


class TestReadingWhileOthersSave:
    """A load returns one complete result, at whatever step of a save it begins."""

    def test_a_save_between_manifest_and_maps_is_noticed(
        self, model, photo, big, tmp_path, monkeypatch
    ):
        other = explain(
            model, photo.rotate(180), method="gradcam", classes=[0, 1, 2], target_layers=["0", "2"]
        )
        folder = big.save_data(tmp_path / "out")
        # The same names and shapes: without a second check, the maps would be mixed.
        real = serialization.ResultFolder.manifest
        read: list[str] = []

        def interrupted(self, name):
            found = real(self, name)
            read.append(name)
            if len(read) == 1:
                other.save_data(folder)
            return found

        monkeypatch.setattr(serialization.ResultFolder, "manifest", interrupted)
        assert same(Explanation.load(folder), other)
        assert len(read) == 2

    def test_a_reader_beside_a_writer_sees_whole_results(self, big, small, tmp_path):
        folder = big.save_data(tmp_path / "out")
        done = threading.Event()

        def write() -> None:
            for turn in range(12):
                (small, big)[turn % 2].save_data(folder)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not done.is_set():
            found = Explanation.load(folder)
            assert same(found, big) or same(found, small)
        writer.join()

    def test_a_folder_that_does_not_change_is_read_once(self, big, tmp_path, monkeypatch):
        folder = big.save_data(tmp_path / "out")
        (folder / "cam-0-00-0.npy").unlink()
        read: list[str] = []
        real = serialization.ResultFolder.manifest
        monkeypatch.setattr(
            serialization.ResultFolder,
            "manifest",
            lambda self, name: read.append(name) or real(self, name),
        )
        with pytest.raises(InvalidArgument, match=r"cam-0-00-0\.npy' is missing"):
            Explanation.load(folder)
        assert len(read) == 1


class TestPaths:
    """Folders are given like images: ``~``, ``file:`` URLs, text, bytes, paths."""

    def test_a_tilde_is_the_home_and_no_folder_of_that_name_is_made(
        self, small, grid, tmp_path, monkeypatch
    ):
        home, here = tmp_path / "home", tmp_path / "here"
        home.mkdir(), here.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.chdir(here)
        assert small.save_data("~/one") == home / "one"
        assert grid.save_data("~/two") == home / "two"
        assert small.save_animation("~/three.gif") == home / "three.gif"
        assert same(Explanation.load("~/one"), small)
        assert Comparison.load("~/two").table() == grid.table()
        assert list(here.iterdir()) == []

    def test_urls_and_bytes_also_name_folders(self, small, tmp_path):
        small.save_data((tmp_path / "a b").as_uri())
        assert same(Explanation.load(os.fsencode(tmp_path / "a b")), small)

    @pytest.mark.parametrize(
        "place",
        [
            None, 5, Ellipsis, ["out"], "", " ", "a\0b", "\ud800", "file://elsewhere/x",
            "s3://bucket/x", "memory://x",
        ],
        ids=repr,
    )  # fmt: skip
    def test_an_invalid_path_is_refused_everywhere(self, small, grid, place, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for use in (
            small.save, small.save_data, small.save_animation, Explanation.load,
            grid.save, grid.save_data, grid.save_animation, Comparison.load,
        ):  # fmt: skip
            with pytest.raises(InvalidArgument):
                use(place)
        assert list(tmp_path.iterdir()) == []


class TestSystemErrors:
    def test_an_unwritable_location_is_reported(self, big):
        with pytest.raises(SaveFailed, match="could not be written"):
            big.save("/proc/cam_hub")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder_is_reported(self, big, small, tmp_path):
        small.save(tmp_path)
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(SaveFailed, match="Permission"):
                big.save(tmp_path)
        finally:
            tmp_path.chmod(0o700)
        assert same(Explanation.load(tmp_path), small)


@pytest.fixture(scope="module")
def paths(strip, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    return [
        strip.save_animation(folder / f"film{suffix}", tile_width=64)
        for suffix in (".gif", ".webp", ".png")
    ]


class TestAnimations:
    def test_one_of_ours_is_replaced(self, strip, paths):
        for path in paths:
            before = path.read_bytes()
            strip.save_animation(path, tile_width=64, frame_ms=100)
            assert path.read_bytes() != before
            with Image.open(path) as film:
                film.load()
                assert film.n_frames == 2

    def test_somebodys_file_is_not(self, strip, paths, tmp_path):
        for path in paths:
            mine = tmp_path / path.name
            retouched = bytearray(path.read_bytes())
            retouched[len(retouched) // 2] ^= 1
            for data in (b"my holidays", bytes(retouched), b""):
                mine.write_bytes(data)
                with pytest.raises(InvalidArgument, match="path"):
                    strip.save_animation(mine, tile_width=64)
                assert mine.read_bytes() == data

    def test_a_full_disk_leaves_the_earlier_one(self, strip, paths, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        before = paths[0].read_bytes()
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(SaveFailed, match="No space left"):
            strip.save_animation(paths[0], tile_width=64, frame_ms=200)
        assert paths[0].read_bytes() == before
        assert len(list(paths[0].parent.iterdir())) == 3


def change(manifest: dict, path: str, value: object) -> None:
    """Sets or, for ``...``, removes a part of a manifest, named like ``maps.0.file``."""
    *parents, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    for part in parents:
        manifest = manifest[part]
    if value is ...:
        del manifest[last]
    else:
        manifest[last] = value


class TestStrangersFolders:
    NAMES = (
        "../victim.npy", "/etc/victim.npy", "C:\\victim.npy", "c:victim.npy", "a/b.npy",
        "a\\b.npy", "..", ".", "", "x\0.npy", ".hidden.npy", "manifest.json", "nul.npy", "x.npy ",
        "x" * 300 + ".npy", 7, None, ["x.npy"], "overlay.npy/", "x\n.npy",
    )  # fmt: skip

    @pytest.mark.parametrize("name", NAMES, ids=repr)
    def test_a_name_that_is_not_plain_is_refused(self, big, name, tmp_path):
        folder = big.save(tmp_path / "got")
        text = (folder / "manifest.json").read_text()
        for part in ("maps.0.file", "frames"):
            manifest = json.loads(text)
            change(manifest, part, [name] if part == "frames" else name)
            (folder / "manifest.json").write_text(json.dumps(manifest))
            with pytest.raises(InvalidArgument, match=r"Explanation\.save"):
                Explanation.load(folder)

    def test_saving_what_was_loaded_writes_inside_the_folder_only(self, big, tmp_path):
        folder = big.save(tmp_path / "got")
        again = Explanation.load(folder)
        again.described["maps"][0]["file"] = "../victim.npy"  # as a program may do
        before = content(tmp_path)
        with pytest.raises(ValueError, match="plain name"):
            again.save(tmp_path / "copy")
        assert content(tmp_path) == before

    PARTS = (
        "model", "model.id", "model.source", "model.revision", "model.pretrained", "image",
        "method", "parameters", "layers", "classes", "classes.0.class_index", "classes.0.label",
        "target", "target.text", "predictions", "predictions.0.probability",
        "predictions.0.label", "placement", "placement.scale", "placement.photo_size", "maps",
        "maps.0.class_index", "maps.0.layer", "maps.0.grid", "maps.0.file", "versions",
    )  # fmt: skip

    @pytest.mark.parametrize("part", PARTS)
    def test_a_missing_or_wrongly_typed_part_is_refused(self, big, part, tmp_path):
        folder = big.save(tmp_path)
        text = (folder / "manifest.json").read_text()
        assert Explanation.load(folder)
        for value in (..., [{}], {"x": 1}, 3.5, True, "\0", [], -1, 10**30, None):
            manifest = json.loads(text)
            if value is None and part in ("model.revision", "model.pretrained"):
                continue
            if part == "predictions.0.probability" and value in (None, ...):
                continue
            if (part, value) in (("model.pretrained", True), ("predictions.0.probability", 3.5)):
                continue
            if (part, value) == ("predictions.0.probability", -1):
                continue
            if isinstance(value, dict) and part in ("parameters", "versions"):
                continue
            if (value == "\0" and part.split(".")[-1] in ("id", "source", "text", "label",
                    "revision", "method")) or (value == [] and part == "predictions"):  # fmt: skip
                continue
            change(manifest, part, value)
            (folder / "manifest.json").write_text(json.dumps(manifest))
            with pytest.raises(InvalidArgument, match=r"Explanation\.save"):
                Explanation.load(folder)

    @pytest.mark.parametrize(
        ("part", "value"),
        [
            ("layers", ["0", "0"]),
            ("classes", []),
            ("maps", []),
            ("maps.0.layer", "5"),
            ("maps.1.file", "cam-0-00-0.npy"),
            ("maps.1.file", "photo.png"),
            ("maps.0.grid", [16, 16, 16]),
            ("maps.0.grid", [0, 16]),
            ("maps.0.grid", [2**40, 2**40]),
            ("maps.0.steps", 2),
            ("placement.photo_size", [41, 50]),
            ("placement.scale", [float("nan"), 1.0]),
            ("contrast", {"class_index": 1}),
            ("contrast", [{"class_index": 1}]),
            ("contrast", {"class_index": 1, "label": "b", "more": 1}),
            ("options", []),
            ("options", {"sign": "sideways"}),
            ("options", {"sign": 1}),
            ("frames", ["photo.png", "gone.png"]),
        ],
    )
    def test_parts_that_do_not_fit_each_other_are_refused(self, big, part, value, tmp_path):
        folder = big.save(tmp_path)
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest, part, value)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InvalidArgument, match=r"Explanation\.save"):
            Explanation.load(folder)

    @pytest.mark.parametrize("manifest", [{}, {"model": {}}, [], None, "manifest.json"])
    def test_nothing_is_reproduced_from_an_invalid_manifest(self, photo, manifest):
        with pytest.raises(InvalidArgument, match="manifest"):
            cam_hub.reproduce(manifest, photo)

    @pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"model": ' * 50_000])
    def test_an_invalid_manifest_is_refused(self, big, text, tmp_path):
        (big.save(tmp_path) / "manifest.json").write_text(text)
        with pytest.raises(InvalidArgument, match=r"Explanation\.save"):
            Explanation.load(tmp_path)

    def test_a_manifest_without_end_is_not_read(self, big, tmp_path):
        with (big.save(tmp_path) / "manifest.json").open("r+b") as file:
            file.truncate(10**12)
        with pytest.raises(InvalidArgument, match="limit"):
            Explanation.load(tmp_path)

    def test_arrays_of_another_kind_are_refused_unread(self, big, tmp_path):
        folder = big.save(tmp_path)
        path = folder / "cam-0-00-0.npy"
        good = path.read_bytes()

        class Evil:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "pwned",))

        arrays = [
            np.array([Evil()], dtype=object), np.zeros((16, 16), np.float64),
            np.zeros((16, 17), np.float32), np.zeros((16, 16), ">f4"),
            np.zeros((16, 16), [("a", "f4")]), np.zeros(256, np.float32),
        ]  # fmt: skip
        for array in arrays:
            np.save(path, array, allow_pickle=True)
            with pytest.raises(InvalidArgument, match=r"Explanation\.save"):
                Explanation.load(folder)
        header = good.replace(b"(16, 16)", b"(9999999, 9999999)")
        for data in (good[:-1], good + b"x", header, good[:20], b"", b"PK\3\4" + good):
            path.write_bytes(data)
            with pytest.raises(InvalidArgument, match=r"Explanation\.save"):
                Explanation.load(folder)
        path.write_bytes(good)
        assert same(Explanation.load(folder), big)
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize("name", ["manifest.json", "photo.png", "cam-0-00-0.npy"])
    def test_links_out_of_the_folder_are_not_followed(self, big, name, tmp_path):
        folder = big.save(tmp_path / "got")
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(InvalidArgument, match="leads out"):
            Explanation.load(folder)

    @pytest.mark.timeout(20)
    @pytest.mark.parametrize("name", ["manifest.json", "photo.png", "cam-0-00-0.npy"])
    def test_a_pipe_is_not_waited_for(self, big, name, tmp_path):
        folder = big.save(tmp_path)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(InvalidArgument, match="not a file"):
            Explanation.load(folder)

    @pytest.mark.parametrize(
        ("part", "value"),
        [
            ("rows.0.cells.0.folder", "../got"),
            ("rows.0.cells.0.folder", "/etc"),
            ("rows.0.cells.0.folder", ".."),
            ("rows.0.cells.0.folder", 7),
            ("rows.0.cells.0.folder", None),
            ("rows.0.cells.0.class_index", 99),
            ("rows.0.cells.0.layer", "nope"),
            ("rows.0.cells", []),
            ("rows", []),
            ("rows", {}),
            ("titles", "ab"),
            ("titles", []),
            ("photo", "yes"),
            ("kind", "odd"),
            ("rows.0.model", ...),
            ("rows.0.loading_seconds", "long"),
            ("rows.0.predictions", [1]),
            ("rows.0.cells.0.seconds", []),
        ],
    )
    def test_a_comparison_is_checked_in_the_same_way(self, grid, part, value, tmp_path):
        folder = grid.save_data(tmp_path / "got")
        assert Comparison.load(folder).table() == grid.table()
        manifest = json.loads((folder / "comparison.json").read_text())
        change(manifest, part, value)
        (folder / "comparison.json").write_text(json.dumps(manifest))
        with pytest.raises(InvalidArgument, match=r"Comparison\.save"):
            Comparison.load(folder)

    def test_a_copy_is_a_folder_of_ours(self, big, small, tmp_path):
        folder = shutil.copytree(big.save(tmp_path / "got"), tmp_path / "copy")
        small.save(folder)
        assert same(Explanation.load(folder), small)


def test_a_label_that_no_encoding_holds_is_saved_and_comes_back(photo, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    torch.manual_seed(0)
    model = wrap_model(net, input_size=(3, 32, 32), class_names=["a\udcff", "0" * 64, "c", "d"])
    result = explain(model, photo, method="gradcam", classes=[0, 1])
    result.save(tmp_path)
    result.save(tmp_path)
    assert Explanation.load(tmp_path).labels == result.labels


@pytest.mark.parametrize(
    ("command", "name"), [("explain", "manifest.json"), ("compare", "comparison.json")]
)
def test_the_command_line_refuses_a_folder_in_use_before_it_computes_anything(
    command, name, photo, tmp_path, capsys
):
    photo.save(tmp_path / "cat.png")
    fill(tmp_path / "out", {name: '{"fps": 25}', "frame-000.png": "x"})
    before = content(tmp_path)
    for out in ("out", "cat.png"):
        code = main([command, str(tmp_path / "cat.png"), "--out", str(tmp_path / out)])
        assert code == 1
        assert "error (invalid_argument): folder=" in capsys.readouterr().err
    assert content(tmp_path) == before
