"""The docs: their Python runs, their links work, their commands are the real ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cam_hub

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def blocks(page: str) -> list[str]:
    """The Python of a page, block by block."""
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


@pytest.fixture
def folder_with_cat(tmp_path, monkeypatch, photos) -> Path:
    """The working directory that the docs assume, with a photo of a cat."""
    photos["cat"].save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(block: str) -> dict[str, object]:
    """Runs a block, with random weights in place of downloads; returns its variables."""
    names: dict[str, object] = {}
    block = re.sub(
        r'load_model\("(torchvision/\w+)"\)', r'load_model("\1", pretrained=False)', block
    )
    exec(compile(block, "docs", "exec"), names)
    return names


@pytest.mark.slow
def test_what_easy_explain_does_with_its_numbers(folder_with_cat):
    names = run(blocks("docs/from-easy-explain.md")[0])
    assert names["model"].input_size == (3, 224, 224)
    assert names["result"].seen.all(), "squashed, so that nothing is cut off"
    assert (folder_with_cat / "overlay.png").exists()


@pytest.mark.slow
def test_three_layers_of_resnet_50_and_their_fusion_in_one_call(folder_with_cat):
    names = run(blocks("docs/from-easy-explain.md")[1])
    result = names["result"]
    assert [result.cam(layer=name).shape for name in result.layers] == [(28, 28), (14, 14), (7, 7)]
    assert result.cam().shape == (28, 28)
    assert names["mask"].shape == (300, 451)
    assert {path.name for path in folder_with_cat.glob("*.png")} == {
        "layer2.png", "layer3.png", "layer4.png", "fusion.png", "all.png",
    }  # fmt: skip


@pytest.mark.slow
def test_every_one_of_the_35_features_of_vgg_19_in_one_call(folder_with_cat):
    result = run(blocks("docs/from-easy-explain.md")[2])["result"]
    assert len(result.layers) == 35
    for name in result.layers:
        assert result.cam(layer=name).any()
        assert result.heatmap(layer=name).shape == (300, 451)
    assert result.cam().shape == (224, 224)
    assert (folder_with_cat / "vgg19.png").exists()


def test_the_readmes_python_runs(folder_with_cat):
    names = run(blocks("README.md")[0])
    assert names["result"].predictions[0].label == "tiger cat"
    assert (folder_with_cat / "explanation" / "manifest.json").exists()


def test_two_methods_are_compared_as_in_the_docs(folder_with_cat):
    names = run(blocks("docs/compare.md")[0])
    assert [cell.label for cell in names["grid"].cells] == ["tabby, tabby cat"] * 2
    assert names["again"].table() == names["grid"].table()
    assert (folder_with_cat / "sheet.png").exists()


@pytest.mark.slow
def test_the_features_of_vgg_19_become_a_sheet_and_an_animation(folder_with_cat):
    strip = run(blocks("docs/compare.md")[1])["strip"]
    assert len(strip.cells) == 37
    assert all(cell.cam is not None for cell in strip.cells)
    assert {cell.cost.maps for cell in strip.cells} == {37}
    assert (folder_with_cat / "vgg19.webp").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("index", "packages", "steps"),
    [
        (0, ["tensorboard"], [0, 10, 20, 30]),
        (1, ["lightning"], [0, 4]),
        (2, ["transformers", "accelerate"], [0, 2, 4]),
    ],
    ids=["loop", "lightning", "transformers"],
)
def test_the_examples_of_training_run(folder_with_cat, index: int, packages, steps):
    for package in packages:
        pytest.importorskip(package)
    run(blocks("docs/training.md")[index])
    if index:
        files = sorted((folder_with_cat / "maps" / "explanations" / "cat.jpg").iterdir())
        assert [file.name for file in files] == [f"step-{step:08d}.png" for step in steps]
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator("runs/maps", {"images": 0})
        events.Reload()
        assert [event.step for event in events.Images("explanations/cat.jpg")] == steps


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path):
    for target in LINK.findall(page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_table_of_methods_in_the_docs_is_the_registry():
    page = (ROOT / "docs" / "methods.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if re.match(r"\| `\w+` \|", line)
    ]
    listed = {
        name.strip("`"): (level, passes, specific, paper.split(", eq.")[0])
        for name, _, level, passes, specific, paper in rows
    }
    assert listed == {
        name: (
            method.level,
            str(method.passes),
            "yes" if method.class_specific else "no",
            method.citation,
        )
        for name, method in cam_hub.METHODS.items()
    }


def test_ci_runs_the_readmes_own_test_command():
    readme = (ROOT / "README.md").read_text("utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv ")]
    assert len(commands) == 2
    assert commands[1].endswith("-m pytest -n auto")
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "README.md" in script
    assert 'eval "$tests"' in script


def test_the_module_map_in_the_docs_is_the_one_that_is_held():
    from tests.test_layering import LEVELS

    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)
    assert {(int(level), name) for level, name in rows} == {
        (level, name) for level, names in enumerate(LEVELS["cam_hub"]) for name in names
    }
