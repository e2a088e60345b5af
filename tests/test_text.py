"""Text from repos, files and modules: safe to print, to save and to send."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import cam_hub
from cam_hub._text import clean_line, clean_text, counted, first_line
from cam_hub.cli import main
from cam_hub.errors import ClassNotFound, ModelRefused
from cam_hub.sources.hub.listing import read_hit
from tests.fakes.engine_nets import Pooled, Pyramid
from tests.fakes.repo_folders import network, push, rewrite

LINES = {
    "cat": "cat",
    "  two\twords\n": "two words",
    "日本語 Ω ×": "日本語 Ω ×",
    "👩‍🔬": "👩‍🔬",  # joined by a zero-width joiner
    "\ud83d\ude00": "��",  # halves of a pair that JSON's decoder did not join
    "a\ud800b": "a�b",
    "\x1b[2J\x07bell": "�[2J�bell",
    "nul\x00": "nul�",
    "\x9b31mC1\x7f": "�31mC1�",
    "\u202egnp.exe": "gnp.exe",
    "\u2066a\u2069\u200f": "a",
    "line\u2028line\x85line": "line line line",
    7: "7",
    0.5: "0.5",
}


@pytest.mark.parametrize("text", LINES)
def test_a_line_holds_nothing_that_a_terminal_obeys(text):
    assert clean_line(text) == LINES[text]
    assert clean_line(clean_line(text)) == LINES[text]


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0xD800, 0xDFFF, 0x202E, 0x2066])
def test_no_character_of_control_gets_through(code):
    for cleaned in (clean_line(f"a{chr(code)}b"), clean_text(f"a{chr(code)}b")):
        assert all(each.isprintable() or each in "\n\t" for each in cleaned)
        cleaned.encode()


@pytest.mark.parametrize(
    ("message", "line"),
    [("one\ntwo", "one"), ("\n  one\ntwo", "one"), ("", "ValueError"), (" \n ", "ValueError")],
)
def test_the_first_line_of_an_error_is_never_empty(message, line):
    assert first_line(ValueError(message)) == line


def test_one_is_not_plural():
    counts = [counted(count, "image") for count in (0, 1, 2, 1200)]
    assert counts == ["0 images", "1 image", "2 images", "1,200 images"]


def test_a_line_is_cut_and_a_text_keeps_its_lines():
    assert clean_line("x" * 300, 200) == "x" * 199 + "…"
    assert clean_text("a\n\tb\r\n  \x1bc") == "a\n\tb \n  �c"


HOSTILE = ["\ud800half", "\x1b[31mred\x07", "\u202egnp.\x00exe"]
SAFE = ("�half", "�[31mred�", "gnp.�exe")


def photo(path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype="uint8")
    Image.fromarray(pixels).save(os.fsencode(path) if "\udce9" in str(path) else path)
    return path


def repo(tmp_path: Path, **changes: object) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    push(folder, network(num_classes=3))
    rewrite(folder, **changes)
    return folder


DECLARED = {
    "label_names": {"label_names": HOSTILE},
    "labels": {"labels": HOSTILE},
    "id2label": {"id2label": dict(enumerate(HOSTILE))},
    "label2id": {"label2id": {label: index for index, label in enumerate(HOSTILE)}},
    "descriptions": {
        "label_names": ["a", "b", "c"],
        "label_descriptions": dict(zip("abc", HOSTILE, strict=True)),
    },
}


@pytest.mark.parametrize("case", DECLARED)
def test_labels_of_a_repo_are_safe_wherever_it_declares_them(case, tmp_path):
    assert cam_hub.load_model(repo(tmp_path, **DECLARED[case])).class_names == SAFE


def test_labels_of_a_card_are_safe(tmp_path):
    folder = repo(tmp_path)
    card = "---\nlabels:\n" + "".join(f"- {json.dumps(label)}\n" for label in HOSTILE) + "---\n"
    (folder / "README.md").write_text(card)
    names = cam_hub.load_model(folder).class_names
    assert names is not None
    "".join(names).encode()
    assert all(name.isprintable() for name in names)


def test_labels_of_a_wrapped_module_are_safe_and_saved(tmp_path):
    model = cam_hub.wrap_model(
        Pyramid(Pooled(3)), input_size=(3, 32, 32), class_names=HOSTILE, id="a\x1b\ud800"
    )
    assert model.class_names == SAFE and model.id == "a��"
    found = cam_hub.explain(model, photo(tmp_path / "a.png"), classes="�half")
    again = cam_hub.Explanation.load(found.save(tmp_path / "out"))
    assert {each.label for each in again.predictions} <= set(SAFE)
    with pytest.raises(ClassNotFound) as caught:
        cam_hub.explain(model, photo(tmp_path / "a.png"), classes="\ud800\x1b")
    str(caught.value).encode()
    assert str(caught.value).isprintable()


def test_the_command_line_prints_hostile_labels_and_names(tmp_path, capsys):
    folder = repo(tmp_path, label_names=HOSTILE)
    picture = photo(tmp_path / "caf\udce9\x1b.png")
    out = str(tmp_path / "out")
    assert main(["explain", str(picture), "--model", str(folder), "--out", out]) == 0
    assert main(["explain", str(picture.parent / "no\x1b\udce9.png"), "--model", str(folder)]) == 1
    told = capsys.readouterr()
    for line in (*told.out.splitlines(), *told.err.splitlines()):
        line.encode()
        assert line.isprintable(), line
    assert "�[31mred�" in told.out


def test_the_command_line_prints_to_a_terminal_of_few_characters(tmp_path, monkeypatch):
    folder = repo(tmp_path, label_names=["日本", "Ω", "naïve"])
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    picture = str(photo(tmp_path / "a.png"))
    out = str(tmp_path / "out")
    assert main(["explain", picture, "--model", str(folder), "--out", out]) == 0
    stream.flush()
    assert "naïve" in stream.buffer.getvalue().decode("latin-1")  # type: ignore[attr-defined]


class Named(nn.Module):
    """A layer whose name contains terminal control sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("conv\x1b[2J", nn.Conv2d(3, 4, 3, padding=1))
        self.head = nn.Linear(4, 3)

    def forward(self, x: object) -> object:
        maps = self._modules["conv\x1b[2J"](x).relu()  # type: ignore[misc]
        return self.head(maps.mean((2, 3)))


def test_names_of_layers_in_messages_are_safe():
    model = cam_hub.wrap_model(Named(), input_size=(3, 32, 32))
    with pytest.raises(cam_hub.errors.LayerNotFound) as caught:
        cam_hub.explain(model, np.zeros((32, 32, 3), "uint8"), target_layers="conv")
    assert str(caught.value).isprintable()
    assert caught.value.nearest == ("conv\x1b[2J",), "the module's own name"


def test_messages_are_safe_with_any_quoted_text():
    for text in ("\x1b]0;title\x07", "\ud800", "\u202e"):
        error = ModelRefused("x", f"because of {text}")
        str(error).encode()
        assert str(error).isprintable()


def test_the_hubs_facts_about_a_repo_are_safe():
    hit = read_hit({"id": "a/b", "cardData": {"license": "mit\x1b[2J\ud800"}})
    assert hit is not None and hit.licence == "mit�[2J�"
