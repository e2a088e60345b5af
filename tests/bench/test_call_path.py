"""The number of functions on the call path of an explanation, and how they are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.call_path import call_path, measured
from cam_hub.models.model_id import parse_model_id


def test_a_function_counts_once_and_only_if_it_is_ours() -> None:
    with call_path() as once:
        parse_model_id("timm/resnet18")
    with call_path() as twice:
        parse_model_id("timm/resnet18")
        sorted(["b", "a"], key=lambda name: name.upper())
        parse_model_id("timm/resnet18")
    names = {name for _, name in once.functions}
    assert {"parse_model_id", "ModelId.__post_init__"} <= names
    assert once.functions == twice.functions
    assert {Path(name).name for name in once.files} == {"model_id.py"}
    assert (once.jumps, once.of_space) == (set(), set())
    assert 2 <= once.depth <= len(once.functions)


def test_an_explanation_stays_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a step needs more functions, others should go, or it must be worth a higher
    limit."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    found = dict(measured(tmp_path))
    loaded, by_id, endpoint, page = found.values()
    assert len(loaded.functions) <= 120
    assert len(loaded.files) <= 28
    assert len(by_id.functions) <= 190
    assert len(by_id.files) <= 40
    assert max(loaded.depth, by_id.depth) <= 12
    assert len(endpoint.of_space) <= 40
    assert len(page.of_space) <= 80
