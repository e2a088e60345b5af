"""The grammar of model IDs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cam_hub import ModelId, load_model, parse_model_id
from cam_hub.errors import CamHubError, HubUnavailable, InvalidArgument, ModelNotFound
from cam_hub.models.loading import LoadLimits
from cam_hub.models.model_id import local_model_id, path_hint

GOOD = {
    "timm/resnet50.a1_in1k": ModelId("hub", "timm/resnet50.a1_in1k"),
    "owner/name@main": ModelId("hub", "owner/name", "main"),
    "owner/name@refs/pr/3": ModelId("hub", "owner/name", "refs/pr/3"),
    "hf-hub:owner/name@v1.0": ModelId("hub", "owner/name", "v1.0"),
    "hf_hub:owner/name": ModelId("hub", "owner/name"),
    "hf-hub:torchvision/resnet50": ModelId("hub", "torchvision/resnet50"),
    "  owner/name \n": ModelId("hub", "owner/name"),
    "torchvision/resnet50": ModelId("torchvision", "resnet50"),
    "torchvision/resnet50@IMAGENET1K_V2": ModelId("torchvision", "resnet50", "IMAGENET1K_V2"),
    "resnet50.a1_in1k": ModelId("timm", "resnet50.a1_in1k"),
    "vit_base_patch16_224": ModelId("timm", "vit_base_patch16_224"),
}

BAD = [
    "",
    " ",
    "/",
    "owner/",
    "/name",
    "a/b/c",
    "../../etc/passwd",
    "~/.ssh/id_rsa",
    "local-dir:/etc",
    "owner/../name",
    "owner//name",
    "owner/na me",
    "owner/name@",
    "owner/name@../x",
    "owner/name@a//b",
    "owner/name@.git",
    "owner/name@a@b",
    "owner/name\0",
    "owner/na\tme",
    "owner/name\x1b[2J",
    "-owner/name",
    "owner/name-",
    "owner/na--me",
    "owner/name.git",
    "owner%2Fname",
    "owner/%2e%2e",
    "owner\\name",
    "file:///etc/passwd",
    "torchvision/",
    "torchvision/a/b",
    "torchvision/../timm",
    "hf-hub:",
    "hf-hub:resnet50",
    "hf-hub:hf-hub:owner/name",
    "resnet50@main",
    "owner/" + "x" * 300,
    "x" * 300,
    "ＴＩＭＭ/resnet",
    "оwner/name",
    "owner/name\u202e",
    "owner\u2215name",
]


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_an_id_is_read(text: str, expected: ModelId):
    assert parse_model_id(text) == expected


@pytest.mark.parametrize("expected", GOOD.values(), ids=str)
def test_an_id_survives_the_way_through_its_text(expected: ModelId):
    assert parse_model_id(str(expected)) == expected
    assert parse_model_id(str(expected), local=True) == expected


@pytest.mark.parametrize("text", BAD)
def test_text_outside_the_grammar_is_refused_with_the_grammar(text: str):
    with pytest.raises(ModelNotFound, match="IDs look like") as caught:
        parse_model_id(text)
    assert len(str(caught.value)) < 1000
    assert "\0" not in str(caught.value), "control characters are shown, not sent on"
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "hostile", ["a" * 10**7, "a/" * 10**6, "@" * 10**6, "https://" + "a." * 10**6, "a-" * 10**6]
)
def test_a_hostile_text_is_refused_in_no_time(hostile: str):
    start = time.perf_counter()
    with pytest.raises(ModelNotFound):
        parse_model_id(hostile)
    assert time.perf_counter() - start < 1


def test_values_that_are_not_text_are_refused():
    with pytest.raises(ModelNotFound):
        parse_model_id(None)  # type: ignore[arg-type]


def test_an_id_built_by_hand_is_also_checked():
    with pytest.raises(ModelNotFound):
        ModelId("hub", "no-slash")
    with pytest.raises(ModelNotFound):
        ModelId("timm", "resnet50", "main")
    with pytest.raises(ModelNotFound):
        ModelId("local", "not/absolute")
    with pytest.raises(ModelNotFound, match="no revision"):
        ModelId("local", "/models/mine", "main")


def test_the_repo_is_the_id_without_its_revision():
    assert parse_model_id("owner/name@main").repo == "owner/name"
    assert parse_model_id("torchvision/resnet50@IMAGENET1K_V2").repo == "torchvision/resnet50"


@pytest.mark.parametrize(("text", "what"), [("datasets/a/b", "dataset"), ("spaces/a/b", "Space")])
def test_the_id_of_something_else_is_named_for_what_it_is(text: str, what: str):
    with pytest.raises(ModelNotFound, match=what):
        parse_model_id(text)


class TestFolders:
    @pytest.mark.parametrize(
        ("text", "below"),
        [
            ("./mine", "mine"),
            ("../mine", "../mine"),
            (".", ""),
            ("local-dir:mine", "mine"),
            ("local-dir:owner/name", "owner/name"),
        ],
    )
    def test_a_folder_is_named_by_its_absolute_path(self, text, below, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        id = parse_model_id(text, local=True)
        assert (id.kind, id.revision) == ("local", None)
        assert Path(id.name) == (tmp_path / below).resolve()
        monkeypatch.chdir("/")
        assert parse_model_id(str(id), local=True) == id

    def test_the_home_folder_is_meant_by_a_tilde(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert parse_model_id("~/mine", local=True).name == str(tmp_path / "mine")

    @pytest.mark.parametrize("text", ["./mine", "../mine", "/mine", "~/mine", "local-dir:mine"])
    def test_a_folder_is_refused_where_it_was_not_asked_for(self, text):
        with pytest.raises(ModelNotFound, match="never by the page or its API"):
            parse_model_id(text)

    def test_a_text_that_could_be_an_id_is_none(self):
        assert parse_model_id("owner/name", local=True).kind == "hub"

    @pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "x" * 5000])
    def test_a_path_that_no_folder_can_have_is_refused(self, path):
        with pytest.raises(ModelNotFound):
            local_model_id(path)

    def test_load_model_treats_every_path_as_a_folder(self, tmp_path):
        with pytest.raises(CamHubError, match="local-dir:"):
            load_model(tmp_path / "owner" / "name")

    def test_load_model_reads_no_folder_where_limits_forbid_it(self, tmp_path):
        for folder in (tmp_path, f"{tmp_path}", f"local-dir:{tmp_path}"):
            with pytest.raises(ModelNotFound, match="It names a folder"):
                load_model(folder, limits=LoadLimits(local=False))

    def test_a_folder_has_no_revisions(self, tmp_path):
        with pytest.raises(InvalidArgument, match="no revisions"):
            load_model(tmp_path, revision="main")


PATHS = [
    r"C:\models\x", "C:/models/x", r"..\x", r"models\x", r"\\server\share\x", "models/a/b/c",
    "runs/7/checkpoints/best", "weights.safetensors", "x.pth", "a/last.ckpt", "best.pth.tar",
    "/abs/path/that/is/not/there", "~/no such folder", "./nope/model.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("text", PATHS)
def test_an_id_that_looks_like_a_path_gets_the_hint_to_give_one(text, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises((ModelNotFound, HubUnavailable), match=r"Path\("):
        load_model(text)


@pytest.mark.parametrize("text", ["resnet50", "timm/resnet50.a1_in1k", "owner/na.me", "a_b@main"])
def test_an_id_that_does_not_gets_none(text):
    assert path_hint(text) == ""


def test_a_folder_named_like_a_repo_is_pointed_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "models" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HubUnavailable, match=r"folder of this name here: .*Path\('models/x'\)"):
        load_model("models/x")


@pytest.mark.parametrize("text", PATHS)
def test_who_may_not_load_folders_gets_no_such_hint(text):
    limits = LoadLimits(local=False)
    with pytest.raises(CamHubError) as caught:
        load_model(text, pretrained=False, limits=limits)
    assert "Path(" not in str(caught.value)
