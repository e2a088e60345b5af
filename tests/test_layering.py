"""The layering of the code: packages import only from packages below their own."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LEVELS = {
    "cam_hub": [
        {"_text", "_validation", "_version", "errors", "options"},
        {"hooks", "images", "methods"},
        {"faithfulness", "targets"},
        {"models"},
        {"layers", "results", "sources"},
        {"attribution"},
        {"datasets", "training"},
        {"__main__", "cli"},
    ],
    "space": [
        {"config", "publish"},
        {"service"},
        {"api", "components"},
        {"page"},
        {"app"},
    ],
}
"""The packages (or modules) of each level; each may import from levels below its own only."""

PACKAGE = ROOT / "cam_hub"
FILES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = [path for top in LEVELS for path in sorted((ROOT / top).rglob("*.py"))]


def unit_of(path: Path) -> str:
    """The package or top-level module that a file belongs to."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def is_module(top: str, unit: str) -> bool:
    """Whether a unit is a single file, not a package."""
    return (ROOT / top / f"{unit}.py").exists()


def module_name(path: Path) -> str:
    """The dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, *, at_import: bool = False) -> set[str]:
    """The dotted names of all modules that a file imports.

    Args:
        path: The file.
        at_import: Whether only statements at the top of the file count, not those in functions.
    """
    names: set[str] = set()
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (f"{path.relative_to(ROOT).parts[0]}." if node.level else "") + (
                node.module or ""
            )
            names.add(base.rstrip("."))
            names.update(f"{base}.{alias.name}".replace("..", ".") for alias in node.names)
    return names


@pytest.mark.parametrize("top", LEVELS)
def test_every_package_has_a_level_and_nothing_else_has(top: str):
    units = {unit_of(path) for path in ALL_FILES if path.is_relative_to(ROOT / top)}
    assert units - {"__init__"} == set().union(*LEVELS[top])


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_imports_only_from_lower_ones(path: Path):
    top, unit = path.relative_to(ROOT).parts[0], unit_of(path)
    if unit == "__init__":
        pytest.skip("the interface of the whole package may name everything")
    level_of = {name: level for level, names in enumerate(LEVELS[top]) for name in names}
    for name in imported(path):
        first, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if first == top and other in level_of and other != unit:
            # Single modules of one level may: errors import the text module, options the errors.
            beside = level_of[other] == level_of[unit] and is_module(top, unit)
            lower = level_of[other] < level_of[unit]
            assert lower or (beside and is_module(top, other)), f"{unit} imports {other}"


@pytest.mark.parametrize("top", LEVELS)
def test_no_modules_import_each_other_in_a_circle(top: str):
    files = {module_name(path): path for path in ALL_FILES if path.is_relative_to(ROOT / top)}
    graph = {
        name: {other for other in imported(path, at_import=True) if other in files} - {name}
        for name, path in files.items()
        if name != top  # the interface of the whole package may name everything
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_cam_hub_never_imports_the_web_app(path: Path):
    assert not {name.split(".")[0] for name in imported(path)} & {"gradio", "space", "app"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_package_touches_hooks(path: Path):
    text = path.read_text("utf-8")
    assert ("register_" not in text or "hook" not in text) or unit_of(path) == "hooks"


def test_the_layer_cache_does_not_depend_on_the_experiment():
    names = imported(PACKAGE / "layers" / "cache.py")
    assert not {other for other in names if other.startswith("cam_hub.layers")}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "methods").glob("*.py")), ids=lambda path: path.name
)
def test_methods_never_access_a_model(path: Path):
    assert "Module" not in path.read_text("utf-8")
    assert not any(name.startswith(("timm", "torchvision")) for name in imported(path))
