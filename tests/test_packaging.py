"""The installed files, their requirements, and the content of the archives."""

from __future__ import annotations

import importlib
import inspect
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cam_hub
from cam_hub.cli import _parser, main
from tests.test_layering import imported

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def parsed(lines: list[str]) -> dict[str, Requirement]:
    found = (Requirement(line) for line in lines if line.strip() and not line.startswith("#"))
    return {each.name.lower(): each for each in found}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> tuple[Path, Path]:
    """A wheel and an sdist, built by the installed setuptools from a copy of the tree."""
    tree, out = tmp_path_factory.mktemp("tree") / "cam_hub", tmp_path_factory.mktemp("out")
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, tree, ignore=ignored)
    code = (
        "import sys; from setuptools import build_meta as build; out = sys.argv[1]; "
        "build.build_wheel(out); build.build_sdist(out)"  # which change sys.argv
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_the_wheel_contains_the_library_alone(archives) -> None:
    with zipfile.ZipFile(archives[0]) as wheel:
        names = wheel.namelist()
        (metadata,) = (name for name in names if name.endswith("dist-info/METADATA"))
        (scripts,) = (name for name in names if name.endswith("dist-info/entry_points.txt"))
        facts = Parser().parsestr(wheel.read(metadata).decode())
        assert "cam-hub = cam_hub.cli:main" in wheel.read(scripts).decode()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"cam_hub", next(top for top in tops if top.endswith(".dist-info"))}
    assert "cam_hub/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cam_hub").rglob("*.py")}
    assert modules <= set(names)
    assert facts["Version"] == cam_hub.__version__
    assert facts["Author"] == "The cam_hub authors"
    assert facts.get_all("Project-URL")
    assert "Typing :: Typed" in facts.get_all("Classifier")
    needed = [Requirement(each) for each in facts.get_all("Requires-Dist")]
    always = {each.name for each in needed if each.marker is None}
    assert {"torch", "torchcam"} <= always
    assert not always & {"gradio", "captum", "pytest"}
    assert {"app", "test"} <= set(facts.get_all("Provides-Extra"))


def test_the_sdist_contains_the_app_its_tests_and_the_documentation(archives) -> None:
    with tarfile.open(archives[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    expected = [
        "app.py", "requirements.txt", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml",
        "cam_hub/attribution/explain.py", "space/app/create_app.py", "space/examples/cat.jpg",
        "tests/conftest.py",
        "docs/api.md", "bench/stability.py",
    ]  # fmt: skip
    assert [name for name in expected if name not in names] == []
    assert not any(name.endswith(".pyc") for name in names)


def test_the_apps_requirements_are_those_of_the_library_and_of_its_extra() -> None:
    listed = parsed((ROOT / "requirements.txt").read_text("utf-8").splitlines())
    extras = PROJECT["optional-dependencies"]
    needed = parsed([*PROJECT["dependencies"], *extras["app"]])
    compared = {name: str(each) for name, each in listed.items()}
    assert compared == {name: str(each) for name, each in needed.items()}
    assert "gradio" not in parsed(PROJECT["dependencies"])
    assert "cam-hub[app,captum,datasets]" in extras["test"]  # the tests of the app are among them


@pytest.fixture(scope="module")
def homes() -> Mapping[str, list[str]]:
    """The distributions of each importable package; finding them takes a second."""
    return packages_distributions()


@pytest.mark.parametrize(
    ("package", "extras"), [("cam_hub", ["captum", "datasets"]), ("space", ["app"])]
)
def test_every_imported_distribution_is_a_declared_requirement(package, extras, homes) -> None:
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    # Packages of ZeroGPU are imported only there.
    declared = {canonicalize_name(name) for name in parsed(lines)} | {"spaces"}
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path):
            if (top := name.split(".")[0]) not in {"cam_hub", "space", *sys.stdlib_module_names}:
                found = {canonicalize_name(home) for home in homes.get(top, [top])}
                assert found & declared, f"{path.relative_to(ROOT)} imports {top}"


def test_the_console_script_is_the_command_line() -> None:
    module, _, name = PROJECT["scripts"]["cam-hub"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cam_hub {cam_hub.__version__}\n"


def test_the_program_is_called_as_it_was_started(monkeypatch, capsys) -> None:
    for started, name in (("/usr/bin/cam-hub", "cam-hub"), ("__main__.py", "python -m cam_hub")):
        monkeypatch.setattr(sys, "argv", [started])
        with pytest.raises(SystemExit):
            main(["--help"])
        assert capsys.readouterr().out.startswith(f"usage: {name} ")


NAMES = {"target_layers": "layers", "num_samples": "samples"}
ONLY_IN_PYTHON = {"model_or_id", "image", "progress"}


@pytest.mark.parametrize("name", [*inspect.signature(cam_hub.explain).parameters])
def test_the_command_line_has_every_option_of_the_python_call(name: str) -> None:
    if name in ONLY_IN_PYTHON:
        pytest.skip("the photo and the model have arguments of their own; a callback needs Python")
    parameter = inspect.signature(cam_hub.explain).parameters[name]
    given = vars(_parser().parse_args(["explain", "cat.jpg"]))
    found = given[NAMES.get(name, name)]
    # Options of the table are read later, from texts.
    assert found in (parameter.default, None)


@pytest.mark.parametrize("name", [*inspect.signature(cam_hub.explain_dataset).parameters])
def test_the_command_for_datasets_has_every_option_of_the_python_call(name: str) -> None:
    if name in {"model_id", "source", "progress"}:
        pytest.skip("arguments without a flag; a callback needs Python")
    parameter = inspect.signature(cam_hub.explain_dataset).parameters[name]
    given = vars(_parser().parse_args(["dataset", "resnet18", "photos", "rows"]))
    expected = "rows" if name == "out" else parameter.default
    assert given[NAMES.get(name, name)] in (expected, None)
