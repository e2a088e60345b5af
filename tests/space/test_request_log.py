"""The log: the start of the app, the end of each request, and no personal data."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from space.config.settings import Settings
from space.service.request_log import HealthLog
from tests.fakes.space_app import explain


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "cam_hub.app")
    return caplog


def test_the_start_logs_versions_and_limits(log: pytest.LogCaptureFixture):
    HealthLog().started(Settings(device="cpu", concurrency=3))
    (line,) = log.messages
    assert line.startswith("start: cam_hub ")
    for part in ("torch ", "gradio ", "timm ", "device cpu", "64000000 pixels", "3 at work"):
        assert part in line


def test_each_call_is_a_line_with_its_outcome_and_without_the_photos_name(
    client: Client, photo: Path, log: pytest.LogCaptureFixture
):
    explain(client, photo)
    with pytest.raises(AppError):
        explain(client, photo, num_samples=0)
    lines = [line for line in log.messages if line.startswith("request: /explain ")]
    assert [line.split()[-1] for line in lines] == ["ok", "invalid_argument"]
    assert all("timm/tf_efficientnet_lite0.in1k" in line for line in lines)
    assert not any("lion" in line for line in lines)


@pytest.mark.parametrize(
    "model_id", [None, 5, "hf_secret token", "\x1b[31mred", "x" * 5000, {"path": "a"}]
)
def test_what_can_be_no_model_id_is_not_written(log: pytest.LogCaptureFixture, model_id: object):
    HealthLog().answered("/layers", model_id, 0.5, "model_not_found")
    assert log.messages == ["request: /layers - 0.50s model_not_found"]


def test_memory_and_counts_are_logged_periodically(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("space.service.request_log._EVERY", 0.0)
    health = HealthLog()
    health.answered("/layers", None, 0.1, "ok")
    health.answered("/layers", None, 0.1, "too_much")
    assert log.messages[-1].endswith("requests: ok=1 too_much=1")
    assert " MiB;" in log.messages[-1] or "unknown" in log.messages[-1]
    monkeypatch.setattr("space.service.request_log._EVERY", 60.0)
    health.answered("/layers", None, 0.1, "ok")
    assert log.messages[-1].startswith("request: ")
