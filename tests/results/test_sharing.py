"""Explanations saved to the Hub, by the real client against a server on loopback."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from PIL import ExifTags, Image

import cam_hub
from cam_hub.cli import main
from cam_hub.errors import HubRefused, HubUnavailable, InvalidArgument
from tests.conftest import HUB_PORT
from tests.fakes.hub import FakeHub, serve
from tests.fakes.repo_folders import network, push

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
REPO = "datasets/ann/maps"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    hub.uploads.writers[TOKEN] = {"ann"}
    with serve(hub, HUB_PORT):
        yield hub


@pytest.fixture(scope="module")
def result(lite0, lion) -> cam_hub.Explanation:
    return cam_hub.explain(lite0, lion, method="layercam", classes=["lion", "cheetah"])


def folder_of(url: str) -> str:
    return url.partition("/tree/main/")[2]


def fetched(url: str, folder: Path) -> Path:
    """The folder at a URL, downloaded as described in the docs."""
    inside = folder_of(url)
    whole = huggingface_hub.snapshot_download(
        "ann/maps",
        repo_type="dataset",
        allow_patterns=f"{inside}/*",
        cache_dir=folder,
        token=TOKEN,
    )
    return Path(whole) / inside


def test_the_folder_comes_back_as_the_same_explanation(hub, result, tmp_path, lion):
    url = cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
    assert url.startswith(f"http://127.0.0.1:{HUB_PORT}/datasets/ann/maps/tree/main/explanations/")
    again = cam_hub.Explanation.load(fetched(url, tmp_path))
    assert again.manifest == json.loads(json.dumps(dict(result.manifest)))
    for key, cam in result.cams.items():
        assert again.cams[key].tobytes() == cam.tobytes()
    made = cam_hub.reproduce(again.manifest, again.photo)
    assert made.overlay().tobytes() == result.overlay().tobytes()


def test_the_path_of_a_models_folder_is_not_published(hub, lion, tmp_path):
    push(tmp_path / "of-ann" / "bread", network(num_classes=3))
    model = cam_hub.load_model(tmp_path / "of-ann" / "bread", device="cpu")
    url = cam_hub.save_to_hub(cam_hub.explain(model, lion), "ann/maps", token=TOKEN)
    again = cam_hub.Explanation.load(fetched(url, tmp_path))
    assert again.manifest["model"]["id"] == "local-dir:bread"
    written = b"".join(hub.uploaded[REPO].files.values())
    assert str(tmp_path).encode() not in written
    assert b"of-ann" not in written


def test_it_takes_one_commit_in_a_private_repo(hub, result):
    cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
    shelf = hub.uploaded[REPO]
    assert shelf.private
    assert len(shelf.commits) == 2, "the Hub's own, and ours"


def test_saving_the_same_again_changes_nothing(hub, result):
    first = cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
    before = hub.uploaded[REPO].sha
    assert cam_hub.save_to_hub(result, "ann/maps", token=TOKEN) == first
    assert hub.uploaded[REPO].sha == before


def test_another_explanation_gets_a_folder_of_its_own_and_comes_first_in_the_card(
    hub, result, lite0, lion
):
    old = cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
    other = cam_hub.explain(lite0, lion, method="gradcam")
    new = cam_hub.save_to_hub(other, "ann/maps", token=TOKEN)
    card = hub.uploaded[REPO].files["README.md"].decode()
    assert card.index(folder_of(new)) < card.index(folder_of(old))
    assert card.startswith("---\n")


@pytest.mark.parametrize(
    "text", ["\ud800", "../../x", "\x1b[31m|`<b>`\u202e", "", "/", "日本", "-" * 300]
)
def test_untrusted_names_stay_names(hub, result, tmp_path, text):
    """In a manifest that was loaded, labels and the model's ID may contain anything."""
    folder = result.save_data(tmp_path / "theirs")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["classes"][0]["label"] = manifest["model"]["id"] = text
    (folder / "manifest.json").write_text(json.dumps(manifest))
    url = cam_hub.save_to_hub(cam_hub.Explanation.load(folder), "ann/maps", token=TOKEN)
    assert re.fullmatch(r"explanations/[a-z0-9-]+", folder_of(url))
    assert "\x1b" not in hub.uploaded[REPO].files["README.md"].decode()


def test_every_image_of_the_cards_is_in_the_repo(hub, result):
    folder = folder_of(cam_hub.save_to_hub(result, "ann/maps", token=TOKEN))
    files = hub.uploaded[REPO].files
    for card, base in (("README.md", ""), (f"{folder}/README.md", f"{folder}/")):
        text = files[card].decode()
        shown = [part.partition(")")[0] for part in text.split("](")[1:]]
        assert sum(name.endswith(".png") for name in shown) == 3, "the photo and two overlays"
        assert all(base + name in files for name in shown)


def test_a_card_written_by_hand_is_kept(hub, result):
    cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, path_in_repo="first")
    hub.uploaded[REPO].files["README.md"] = b"# My thesis\n"
    cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, path_in_repo="second")
    assert hub.uploaded[REPO].files["README.md"] == b"# My thesis\n"
    assert "second/manifest.json" in hub.uploaded[REPO].files


def test_another_clients_commit_in_between_is_not_lost(hub, result):
    cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, path_in_repo="first")
    theirs = hub.uploaded[REPO].files["README.md"].replace(b"Which pixels", b"Whose pixels")
    hub.uploads.interrupt.append((REPO, "README.md", theirs))
    cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, path_in_repo="second")
    card = hub.uploaded[REPO].files["README.md"]
    assert b"Whose pixels" in card
    assert b"second/manifest.json" in card
    assert b"first/manifest.json" in card


def test_nothing_that_is_in_the_repo_is_overwritten(hub, result):
    cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, path_in_repo="cats/one")
    before = dict(hub.uploaded[REPO].files)
    for path in ("cats/one", "cats"):
        with pytest.raises(HubRefused, match="is taken"):
            cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, path_in_repo=path)
    assert hub.uploaded[REPO].files == before


def test_changed_files_in_the_folder_of_the_same_explanation_are_kept(hub, result):
    folder = folder_of(cam_hub.save_to_hub(result, "ann/maps", token=TOKEN))
    files = hub.uploaded[REPO].files
    retouched = {"README.md": b"# Why a lion", "overlay-291.png": b"with arrows", "my.txt": b"x"}
    files.update({f"{folder}/{name}": data for name, data in retouched.items()})
    photo = files.pop(f"{folder}/photo.png")
    assert folder_of(cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)) == folder
    files = hub.uploaded[REPO].files
    assert {name: files[f"{folder}/{name}"] for name in retouched} == retouched
    assert files[f"{folder}/photo.png"] == photo, "what is missing comes back"


class TestPrivacy:
    def test_nothing_of_the_photos_metadata_and_no_token_is_sent(self, hub, lite0, lion):
        exif = Image.Exif()
        exif[ExifTags.Base.Artist] = "Ann of the harbour"
        exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSDateStamp] = "2026:11:05"
        file = io.BytesIO()
        lion.save(
            file, "JPEG", quality=95, exif=exif, comment=b"my garden", xmp=b"<x>home address</x>",
            icc_profile=b"profile of a camera",
        )  # fmt: skip
        secrets = (b"Ann of the harbour", b"2026:11:05", b"my garden", b"home address", b"profile")
        assert all(secret in file.getvalue() for secret in secrets)
        result = cam_hub.explain(lite0, file.getvalue(), method="layercam")
        cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
        sent = b"".join(hub.uploaded[REPO].files.values())
        assert not [secret for secret in (*secrets, TOKEN.encode()) if secret in sent]

    def test_the_token_is_not_sent_to_the_store_of_large_files(self, hub, result):
        cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
        stored = [call for call in hub.calls if call.method == "PUT"]
        assert len(stored) >= 3
        assert not any(call.token for call in stored)

    def test_nothing_stays_on_this_machine(self, hub, result, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        home = Path(os.environ["HF_HOME"])
        before = set(home.rglob("*"))
        cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
        cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, path_in_repo="twice")
        assert list(tmp_path.iterdir()) == []
        assert set(home.rglob("*")) == before

    @pytest.mark.parametrize("public", [True, False])
    def test_a_repo_that_is_not_as_private_as_asked_for_is_not_written_to(
        self, hub, result, public
    ):
        cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, private=not public)
        assert hub.uploaded[REPO].private is not public
        before = dict(hub.uploaded[REPO].files)
        with pytest.raises(HubRefused, match=f"private={public} was asked for"):
            cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, private=public)
        assert hub.uploaded[REPO].files == before


@pytest.mark.parametrize("repo", ["maps", "ann/maps/more", "../maps", "ann/ma ps", "", "ann/..", 7])
def test_an_invalid_repo_id_is_refused_before_anything_is_sent(hub, result, repo):
    with pytest.raises(InvalidArgument, match="owner/name"):
        cam_hub.save_to_hub(result, repo, token=TOKEN)
    assert hub.requests == []


@pytest.mark.parametrize(
    "path", [7, "", "/etc", "../up", "a//b", "a/..", ".git/x", "a b", "x\0", "a/"]
)
def test_a_path_that_leads_elsewhere_is_refused_before_anything_is_sent(hub, result, path):
    with pytest.raises(InvalidArgument, match="path_in_repo"):
        cam_hub.save_to_hub(result, "ann/maps", token=TOKEN, path_in_repo=path)
    assert hub.requests == []


class TestRefusals:
    def test_without_a_token_the_error_explains_how_to_get_one(self, hub, result):
        with pytest.raises(HubRefused, match=r"no access token.*HF_TOKEN.*hf auth login"):
            cam_hub.save_to_hub(result, "ann/maps")
        assert hub.requests == []

    def test_the_token_of_the_environment_is_used(self, hub, result, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        cam_hub.save_to_hub(result, "ann/maps")
        assert REPO in hub.uploaded

    def test_a_token_that_the_hub_does_not_know(self, hub, result):
        with pytest.raises(HubRefused, match="does not know this access token") as caught:
            cam_hub.save_to_hub(result, "ann/maps", token="hf_wrong")
        assert "hf_wrong" not in str(caught.value)

    def test_a_token_that_may_not_write_there(self, hub, result):
        with pytest.raises(HubRefused, match=r"role 'write'.*'bob'"):
            cam_hub.save_to_hub(result, "bob/maps", token=TOKEN)
        assert hub.uploaded == {}

    def test_storage_that_is_full_leaves_the_repo_without_a_half_of_it(self, hub, result):
        hub.uploads.full = "Storage limit reached"
        with pytest.raises(HubRefused, match="Storage limit reached"):
            cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
        assert set(hub.uploaded[REPO].files) == {".gitattributes"}

    def test_a_hub_that_is_out_of_order_is_unavailable_and_the_next_try_works(self, hub, result):
        hub.broken = True
        with pytest.raises(HubUnavailable, match=r"could not be written to.*error 500"):
            cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)
        hub.broken = False
        cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)

    def test_no_hub_at_all_is_unavailable(self, result):
        with pytest.raises(HubUnavailable, match="cannot be reached"):
            cam_hub.save_to_hub(result, "ann/maps", token=TOKEN)


def test_the_command_line_also_pushes(hub, lion, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    lion.save(tmp_path / "lion.png")
    out = ["--out", str(tmp_path / "out"), "--method", "layercam"]
    assert main(["explain", str(tmp_path / "lion.png"), *out, "--push", "ann/maps"]) == 0
    url = capsys.readouterr().out.splitlines()[-1].removeprefix("pushed to ")
    assert f"{folder_of(url)}/manifest.json" in hub.uploaded[REPO].files
