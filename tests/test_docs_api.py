"""docs/api.md: its examples run, and its tables match the running app."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client

from cam_hub import errors
from cam_hub.errors import CamHubError
from space.app import request_guard as http_errors
from space.config.settings import Settings
from space.service import errors as problems

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "api.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:7860"
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)
SECTIONS = dict(re.findall(r"^## `/(\w+)`\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE))
TYPES = {
    "image": "filepath",
    "text": "str",
    "list of texts": "list[str]",
    "whole number": "int",
    "number": "float",
    "true or false": "bool",
    "file or URL": "filepath",
    "file or URL, or none": "None | filepath",
    "list of numbers": "list[float]",
}


def has_mcp() -> bool:
    return importlib.util.find_spec("mcp") is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos) -> Path:
    """The working folder that the docs assume."""
    folder = tmp_path_factory.mktemp("docs")
    photos["cat"].save(folder / "cat.jpg")
    return folder


def test_every_python_example_runs(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for language, text in BLOCKS:
        agents = "mcp" in text or "ask(" in text
        if language == "python" and (has_mcp() or not agents):
            exec(compile(text.replace(ADDRESS, url.rstrip("/")), "docs/api.md", "exec"), names)
    assert names["manifest"]["method"] == "layercam"
    assert names["manifest"]["classes"][0]["label"] == "tabby, tabby cat"
    assert names["recommended"]
    assert [cell["method"] for cell in names["cells"]] == ["layercam", "gradcam"]
    assert names["evidence"]["tests"][1]["name"] == "class_check"
    assert names["code"] == "method_not_found"
    if has_mcp():
        assert names["sheet"].startswith(b"\x89PNG")
        assert names["picture"].startswith(b"\x89PNG")
        assert '"class_index": 282' in names["predictions"]
        assert "torchvision/resnet50" in names["models"]


@pytest.mark.parametrize("name", SECTIONS)
def test_the_example_for_plain_http_completes(url: str, folder: Path, name: str):
    (text,) = re.findall(r"```sh\n(.*?)```", SECTIONS[name], re.DOTALL)
    done = subprocess.run(
        ["bash", "-euc", text.replace(ADDRESS, url.rstrip("/"))],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("event: complete"), done.stdout
    assert {"explain": "tabby", "predict": "tiger cat"}.get(name, "{") in done.stdout


def test_each_endpoint_has_its_table_and_examples_for_all_three_ways(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {f"/{name}" for name in SECTIONS} <= set(info)
    for name, text in SECTIONS.items():
        rows = [
            [cell.strip() for cell in row.strip("|").split("|")]
            for row in re.findall(r"^\| `.*\|$", text, re.MULTILINE)
        ]
        parameters = info[f"/{name}"]["parameters"]
        assert [row[0].strip("`") for row in rows] == [p["parameter_name"] for p in parameters]
        for row, parameter in zip(rows, parameters, strict=True):
            assert TYPES[row[1]] == parameter["python_type"]["type"], row
            default = parameter["parameter_default"]
            if not parameter["parameter_has_default"]:
                assert row[2] == ""
            elif isinstance(default, bool | int | float):
                assert row[2].lower() == str(default).lower()
            elif default and row[0] != "`model_id`":
                assert row[2] == f"`{default}`"
        for outcome in info[f"/{name}"]["returns"]:
            assert f"**{outcome['label']}" in text or f"**{outcome['label']}**" in text
        assert f'api_name="/{name}"' in text
        assert f"call/v2/{name}" in text
        assert f'ask("{name}"' in text


def test_the_limits_are_those_of_the_settings():
    limits = Settings().limits
    explain, predict, compare = SECTIONS["explain"], SECTIONS["predict"], SECTIONS["compare"]
    assert f"{limits.max_file_bytes // 2**20} MiB" in explain
    assert f"{limits.max_pixels // 10**6} million pixels" in explain
    assert f"| {limits.max_layers} layers |" in explain
    assert f"| {limits.max_classes} classes |" in explain
    assert f"| 4 | {limits.max_samples} |" in explain
    assert f"| 5 | {limits.max_top} |" in predict
    assert f"| {limits.max_models} models |" in compare
    assert f"| {limits.max_cells} maps in all |" in compare
    assert f"within {limits.urls.total_seconds:g} seconds" in PAGE
    assert f"at most {limits.urls.redirects} redirects" in PAGE


def test_the_table_of_codes_is_complete():
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE.partition("## Errors")[2], re.MULTILINE)
    raised = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, CamHubError)
        and kind.__module__ == errors.__name__
    }
    raised -= {"error"}  # of base classes, which are never raised
    raised |= {problems.INTERNAL_CODE, problems.CANCELLED}
    raised |= {http_errors.BUSY, http_errors.FORBIDDEN, http_errors.NOT_FOUND}
    assert len(listed) == len(set(listed))
    assert set(listed) == raised
