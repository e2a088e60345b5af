"""The content of a Space: everything that the app needs, and nothing else."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from cam_hub.errors import InvalidArgument
from space.config.settings import Settings
from space.publish import MODELS, ROOT, check_hardware, collect, make_card, write

CARD = "---\ntitle: it\n---\n"


@pytest.fixture
def clone(tmp_path) -> Path:
    """A small clone of the repository, with the files that work in it leaves behind."""
    root = tmp_path / "clone"
    write(collect(CARD), root)
    for path in (
        ".git/config", ".env", "cam_hub/.env", "cam_hub/__pycache__/errors.cpython-311.pyc",
        "cam_hub/notes.txt", "space/examples/.DS_Store", "space/examples/secret.key",
        "tests/test_it.py", "bench/run.py", "docs/images/page.png", "token.txt",
    ):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"secret")
    return root


def front_matter(card: str) -> dict[str, object]:
    _, metadata, _ = card.split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(metadata)
    return found


class TestFiles:
    def test_code_examples_requirements_and_licence_are_staged(self):
        files = collect(CARD)
        assert {
            "README.md", "app.py", "requirements.txt", "LICENSE", "cam_hub/py.typed",
            "cam_hub/sources/hub/source.py", "space/app/create_app.py", "space/examples/cat.jpg",
            "space/examples/CREDITS.md",
        } <= set(files)  # fmt: skip
        assert files["README.md"].decode() == CARD

    def test_every_module_of_the_repository_is_staged(self):
        modules = {
            path.relative_to(ROOT).as_posix()
            for folder in ("cam_hub", "space")
            for path in (ROOT / folder).rglob("*.py")
        }
        assert modules <= set(collect(CARD))

    def test_nothing_else_is_staged(self, clone):
        assert set(collect(CARD, clone)) == set(collect(CARD))

    def test_a_staged_folder_can_be_published_in_turn(self, tmp_path):
        write(collect(CARD), tmp_path / "space")
        assert collect(CARD, tmp_path / "space") == collect(CARD)

    def test_a_link_that_leads_out_of_the_repository_is_not_followed(self, clone, tmp_path):
        secret = tmp_path / "id_ed25519.py"
        secret.write_text("private key")
        (clone / "cam_hub" / "key.py").symlink_to(secret)
        (clone / "space" / "outside").symlink_to(tmp_path)
        assert set(collect(CARD, clone)) == set(collect(CARD))

    @pytest.mark.parametrize("name", ["app.py", "requirements.txt", "LICENSE", "cam_hub", "space"])
    def test_a_folder_that_is_not_a_clone_is_refused_with_what_is_missing(self, clone, name):
        path = clone / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(InvalidArgument, match=re.escape(f"{name!r} is missing")):
            collect(CARD, clone)

    def test_the_files_arrive_unchanged(self, tmp_path):
        files = collect(CARD)
        write(files, tmp_path / "deep" / "er")
        written = {
            path.relative_to(tmp_path / "deep" / "er").as_posix(): path.read_bytes()
            for path in (tmp_path / "deep" / "er").rglob("*")
            if path.is_file()
        }
        assert written == files
        assert [path.name for path in (tmp_path / "deep").iterdir()] == ["er"]

    def test_an_empty_folder_will_do_and_one_with_files_is_left_alone(self, tmp_path):
        write({"a": b"1"}, tmp_path)
        with pytest.raises(InvalidArgument, match="a new folder or an empty one"):
            write({"a": b"2"}, tmp_path)
        assert (tmp_path / "a").read_bytes() == b"1"


class TestCard:
    def test_it_states_what_the_hub_needs_to_run_the_app(self):
        data = front_matter(make_card())
        assert (data["sdk"], data["app_file"]) == ("gradio", "app.py")
        assert data["sdk_version"] == version("gradio")
        assert data["python_version"] == "3.12", "text, not a number: 3.10 would become 3.1"
        assert data["license"] == "apache-2.0"
        assert data["suggested_hardware"] == "cpu-basic"
        assert data["hf_oauth"] is True
        assert data["hf_oauth_scopes"] == ["read-repos", "gated-repos"]
        assert len(str(data["short_description"])) <= 60

    def test_a_title_may_hold_what_yaml_finds_special(self):
        title = "Who's there: {maps} #1 & 'more'"
        card = make_card(title=title)
        assert front_matter(card)["title"] == title
        assert f"# {title}" in card

    @pytest.mark.parametrize("title", ["", " ", "two\nlines", "x" * 101])
    def test_an_invalid_title_is_refused(self, title):
        with pytest.raises(InvalidArgument, match="title"):
            make_card(title=title)

    def test_the_code_in_the_card_uses_the_spaces_own_name(self):
        assert 'Client("ann/space")' in make_card("ann/space")

    def test_the_models_that_it_names_are_those_of_the_page(self):
        offered = [name for name in Settings().model_choices if not name.startswith("torchvision/")]
        assert list(MODELS) == offered


class TestHardware:
    @pytest.mark.parametrize("name", ["cpu-basic", "t4-small", "a10g-large", "zero-a10g"])
    def test_the_hubs_own_names_are_taken(self, name):
        assert check_hardware(name) == name
        assert front_matter(make_card(hardware=name))["suggested_hardware"] == name

    def test_what_the_hub_does_not_have_is_refused_with_what_it_has(self):
        with pytest.raises(InvalidArgument, match=r"cpu-basic.*t4-small"):
            check_hardware("t5-huge")


def test_the_space_asks_for_a_gradio_that_the_requirements_allow():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    wanted = {
        found.name: found.specifier
        for found in (Requirement(line) for line in lines if line and not line.startswith("#"))
    }
    assert version("gradio") in wanted["gradio"]
    assert "2.11.0" in wanted["torch"], "the newest that every kind of hardware offers"
    assert "0.26.0" in wanted["torchvision"], "its counterpart"
