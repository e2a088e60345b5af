"""The layering of the code, held against its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Modules on one line may import only from lines above it (packages: also from within themselves).
LEVELS = [
    {"_text"},
    {"_version", "eager", "errors", "marks", "modes", "sparse_gradients"},
    {"image_files", "geometry", "keywords", "options", "ranking", "resampling"},
    {
        "hub_urls",
        "images",
        "pictures",
        "methods",
        "recording",
        "shortcuts",
        "guard",
        "hub_writer",
        "sharing_card",
        "classes",
        "cropping",
        "blending",
        "colormaps",
        "tensors",
        "limits",
        "disk_cache",
        "memory",
        "timeline",
        "manifest_schema",
    },
    {"execution", "model_id", "preprocessing", "regions", "tasks", "clips", "folders"},
    {"rendering", "clip_preprocessing", "maps", "samples", "transforms"},
    {"sources", "figures", "animations"},
    {"model_outputs", "precision", "search", "loading"},
    {"introspection", "results", "manifests"},
    {"store", "passes", "preparation", "sharing", "memory_format"},
    {"composing", "request", "readahead"},
    {"jobs"},
    {"explaining"},
    {"engine"},
    {"batch_explainer", "prediction"},
    {"batches", "comparison"},
    {"cli", "reproduction"},
    {"__main__"},
]

# The same for what lies in cam_hub/sources.
SOURCES = [
    {"facts", "faults", "formats", "origin", "building", "class_names"},
    {"transfer", "base", "repos"},
    {"admission", "timm_models"},
    {"reporting", "module"},
    {"embedded", "torchvision", "timm_source", "hub", "local"},
    {"nearest"},
    {"registry"},
]

PACKAGE = ROOT / "cam_hub"
FILES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path: Path) -> str:
    """The module or subpackage of cam_hub that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ("cam_hub." if node.level else "") + (node.module or "")
            names.add(base.rstrip("."))
            names.update(f"{base}.{alias.name}".replace("..", ".") for alias in node.names)
    return names


def level_of(unit: str) -> int:
    """The line of the table on which a unit stands."""
    return next(level for level, units in enumerate(LEVELS) if unit in units)


def test_every_module_stands_in_the_table_and_nothing_else_does():
    units = {unit_of(path) for path in FILES} - {"__init__"}
    assert units == set().union(*LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_lower_ones(path: Path):
    if path == PACKAGE / "__init__.py":
        pytest.skip("the package's own face may name everything")
    unit = unit_of(path)
    units = set().union(*LEVELS)
    for name in imported(path):
        first, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if first == "cam_hub" and other in units and other != unit:
            assert level_of(other) < level_of(unit), f"{unit} imports {other}"


def test_sources_import_only_lower_ones():
    folder = PACKAGE / "sources"
    levels = {unit: level for level, units in enumerate(SOURCES) for unit in units}
    seen = set()
    for path in folder.rglob("*.py"):
        unit = path.relative_to(folder).parts[0].removesuffix(".py")
        names = [name.split(".") for name in imported(path)]
        others = {name[2] for name in names if name[:2] == ["cam_hub", "sources"] and name[2:]}
        for other in (others & levels.keys()) - {unit}:
            assert levels[other] < levels[unit], f"{unit} imports {other}"
        seen.add(unit)
    assert seen - {"__init__"} == levels.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_cam_hub_never_imports_the_web_app(path: Path):
    assert not {name.split(".")[0] for name in imported(path)} & {"gradio", "space", "app"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_module_touches_hooks(path: Path):
    text = path.read_text("utf-8")
    assert ("register_" not in text or "hook" not in text) or path.name == "recording.py"


@pytest.mark.parametrize("name", ["cache", "fingerprint"])
def test_what_keeps_the_answers_knows_nothing_of_the_experiment(name: str):
    names = imported(PACKAGE / "introspection" / f"{name}.py")
    assert not {other for other in names if other.startswith("cam_hub.introspection")}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "methods").glob("*.py")), ids=lambda path: path.name
)
def test_the_mathematics_never_sees_a_model(path: Path):
    assert "Module" not in path.read_text("utf-8")
    assert not any(name.startswith(("timm", "torchvision")) for name in imported(path))


def test_importing_the_package_imports_neither_torch_nor_timm_nor_numpy():
    code = "import cam_hub, sys; print([m for m in ('torch', 'timm', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
