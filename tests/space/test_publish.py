"""``python -m space.publish``, by the real client against a server on loopback."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from space.publish import collect, main, make_card
from tests.conftest import HUB_PORT
from tests.fakes.hub import FakeHub, serve
from tests.fakes.hub.shelves import Shelf

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
READER = "hf_zyxwvutsrqponmlkjihgfedcba543210"
SPACE = "spaces/ann/maps"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.uploads.writers |= {TOKEN: {"ann"}, READER: set()}
    with serve(hub, HUB_PORT):
        yield hub


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The single line that a refused command prints."""
    assert main(arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert TOKEN not in written.err
    last = written.err.splitlines()[-1]  # an upload's progress may precede it
    assert last.startswith("space.publish: error: ")
    return last


class TestCreating:
    def test_a_new_space_is_private_and_gets_every_file_in_one_commit(self, hub, capsys):
        assert main(["ann/maps"]) == 0
        shelf = hub.uploaded[SPACE]
        assert shelf.private
        assert shelf.sdk == "gradio"
        assert shelf.files == {
            ".gitattributes": b"* text=auto\n",
            **collect(make_card("ann/maps")),
        }
        assert shelf.commits == ["initial commit", "Publish cam_hub"]
        assert f"http://127.0.0.1:{HUB_PORT}/spaces/ann/maps" in capsys.readouterr().out

    def test_it_is_public_on_request(self, hub):
        main(["ann/maps", "--public"])
        assert not hub.uploaded[SPACE].private

    def test_the_hub_validates_the_card_before_anything_is_uploaded(self, hub):
        main(["ann/maps"])
        asked = [path for _, path in hub.requests]
        validated = asked.index("/api/validate-yaml")
        assert not [path for path in asked[:validated] if "preupload" in path or "large" in path]
        assert any("preupload" in path for path in asked[validated:])

    def test_hardware_is_requested_only_if_it_is_named(self, hub):
        main(["ann/maps"])
        assert hub.uploaded[SPACE].hardware is None
        main(["ann/maps", "--hardware", "t4-small"])
        assert hub.uploaded[SPACE].hardware == "t4-small"
        assert b"suggested_hardware: t4-small" in hub.uploaded[SPACE].files["README.md"]

    def test_the_token_may_come_from_the_command_line(self, hub, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        assert main(["ann/maps", "--token", TOKEN]) == 0


class TestUpdating:
    def test_what_is_gone_from_our_folders_goes_and_what_the_owner_added_stays(self, hub):
        main(["ann/maps"])
        shelf = hub.uploaded[SPACE]
        shelf.files |= {"cam_hub/old.py": b"", "space/old/er.py": b"", "packages.txt": b"ffmpeg"}
        main(["ann/maps"])
        assert "cam_hub/old.py" not in shelf.files
        assert "space/old/er.py" not in shelf.files
        assert shelf.files["packages.txt"] == b"ffmpeg"

    def test_publishing_the_same_again_makes_no_commit(self, hub):
        main(["ann/maps"])
        before = hub.uploaded[SPACE].sha
        assert main(["ann/maps"]) == 0
        assert hub.uploaded[SPACE].sha == before

    def test_who_sees_it_changes_only_when_asked_for(self, hub):
        main(["ann/maps", "--public"])
        main(["ann/maps"])
        assert not hub.uploaded[SPACE].private
        main(["ann/maps", "--private"])
        assert hub.uploaded[SPACE].private
        main(["ann/maps"])
        assert hub.uploaded[SPACE].private
        main(["ann/maps", "--public"])
        assert not hub.uploaded[SPACE].private

    def test_it_is_hidden_before_anything_new_can_be_seen_in_it(self, hub):
        main(["ann/maps", "--public"])
        hub.requests.clear()
        main(["ann/maps", "--private", "--title", "Not yet public"])
        asked = [path for _, path in hub.requests]
        assert asked.index(f"/api/{SPACE}/settings") < asked.index(f"/api/{SPACE}/commit/main")

    @pytest.mark.parametrize(
        "shelf",
        [
            Shelf(sdk="gradio", files={"app.py": b"years of work"}),
            Shelf(sdk="docker", files={"Dockerfile": b"FROM scratch"}),
            Shelf(sdk="static"),
        ],
        ids=["another app", "docker", "static"],
    )
    def test_a_space_with_another_app_is_left_alone(self, hub, capsys, shelf):
        hub.uploaded[SPACE] = shelf
        before = dict(shelf.files)
        assert "another app" in refusal(capsys, "ann/maps")
        assert shelf.files == before

    def test_a_pull_request_does_not_change_the_space(self, hub, capsys):
        hub.uploaded["spaces/bob/maps"] = Shelf(sdk="gradio", files={"cam_hub/__init__.py": b""})
        assert main(["bob/maps", "--pr"]) == 0
        shelf = hub.uploaded["spaces/bob/maps"]
        assert shelf.files == {"cam_hub/__init__.py": b""}
        assert "app.py" in shelf.pulls[0]
        assert "/spaces/bob/maps/discussions/1" in capsys.readouterr().out

    def test_a_pull_request_needs_a_space(self, hub, capsys):
        assert "there is none" in refusal(capsys, "ann/maps", "--pr")
        assert hub.uploaded == {}


class TestWithoutTheHub:
    def test_a_dry_run_prints_files_with_sizes_and_the_card_without_a_request(self, hub, capsys):
        assert main(["ann/maps", "--dry-run", "--title", "Maps of Ann"]) == 0
        written = capsys.readouterr().out
        app = len(collect("")["app.py"])
        assert f"{app:,}  app.py\n" in written
        assert "title: Maps of Ann" in written
        assert hub.requests == []

    @pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
    def test_the_documented_command_runs(self, monkeypatch, capsys):
        monkeypatch.setattr(sys, "argv", ["space.publish", "ann/maps", "--dry-run"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("space.publish", run_name="__main__")
        assert not ended.value.code
        written = capsys.readouterr()
        assert written.err == ""
        assert "app.py\n" in written.out

    def test_a_folder_is_written_without_a_request(self, hub, tmp_path: Path, capsys):
        assert main(["--folder", str(tmp_path / "space")]) == 0
        assert (tmp_path / "space" / "app.py").is_file()
        assert "python app.py" in capsys.readouterr().out
        assert hub.requests == []

    def test_a_folder_with_something_in_it_is_refused(self, tmp_path, capsys):
        (tmp_path / "thesis.txt").touch()
        assert "a new folder or an empty one" in refusal(capsys, "--folder", str(tmp_path))
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class TestRefusals:
    def test_without_a_token(self, hub, capsys, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        assert "there is no access token" in refusal(capsys, "ann/maps")
        assert hub.requests == []

    def test_with_a_token_that_the_hub_does_not_know(self, hub, capsys):
        assert "does not know this access token" in refusal(
            capsys, "ann/maps", "--token", "hf_wrong"
        )

    @pytest.mark.parametrize("exists", [False, True], ids=["no such Space yet", "their Space"])
    def test_with_a_name_of_another_owner(self, hub, capsys, exists):
        if exists:
            hub.uploaded["spaces/bob/maps"] = Shelf(sdk="gradio")
        written = refusal(capsys, "bob/maps")
        assert "No rights for bob" in written
        assert "role 'write'" in written

    def test_with_a_token_that_only_reads(self, hub, capsys):
        assert "role 'write'" in refusal(capsys, "ann/maps", "--token", READER)
        assert hub.uploaded == {}

    def test_where_the_hub_wants_to_be_paid(self, hub, capsys):
        hub.uploads.unpaid.add("create")
        assert "asks for payment: Subscribe to run this" in refusal(capsys, "ann/maps")

    def test_if_hardware_has_to_be_paid_the_error_states_that_the_app_is_published(
        self, hub, capsys
    ):
        hub.uploads.unpaid.add("hardware")
        written = refusal(capsys, "ann/maps", "--hardware", "t4-small")
        assert "was published" in written
        assert "Add a payment method" in written
        assert "app.py" in hub.uploaded[SPACE].files

    def test_where_storage_is_used_up(self, hub, capsys):
        hub.uploads.full = "Storage limit reached"
        assert "Storage limit reached" in refusal(capsys, "ann/maps")

    def test_without_a_network(self, capsys):
        assert "cannot be reached" in refusal(capsys, "ann/maps")

    def test_where_the_hub_is_out_of_order(self, hub, capsys):
        hub.broken = True
        assert "error 500. Try again later" in refusal(capsys, "ann/maps")

    @pytest.mark.parametrize("name", ["maps", "ann/maps/x", "ann/..", "ann/ma ps"])
    def test_with_an_invalid_name(self, hub, capsys, name):
        assert "owner/name" in refusal(capsys, name)
        assert hub.requests == []

    def test_with_hardware_that_does_not_exist(self, hub, capsys):
        assert "hardware='t5-huge'" in refusal(capsys, "ann/maps", "--hardware", "t5-huge")
        assert hub.requests == []

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["ann/maps", "--private", "--public"],
            ["ann/maps", "--pr", "--public"],
            ["ann/maps", "--pr", "--hardware", "t4-small"],
        ],
        ids=" ".join,
    )
    def test_with_options_that_make_no_sense(self, hub, capsys, arguments):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert hub.requests == []
