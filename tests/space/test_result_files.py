"""Folders of requests and uploads: hard to guess, and removed after a while."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from space.config.settings import Settings
from space.service.result_files import Workspace, cleanup


def aged(folder: Path, seconds: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "file").write_text("x", "utf-8")
    os.utime(folder, (time.time() - seconds,) * 2)
    return folder


def test_a_folders_name_cannot_be_guessed(tmp_path: Path):
    workspace = Workspace(tmp_path / "work", keep_seconds=60)
    names = set()
    for _ in range(50):
        with workspace.writing() as folder:
            names.add(folder.name)
    assert len(names) == 50
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


def test_old_folders_go_of_results_and_of_uploads_and_nothing_else(tmp_path: Path):
    workspace = Workspace(tmp_path / "work", keep_seconds=60)
    old = [aged(tmp_path / "work" / ("a" * 32), 61), aged(tmp_path / ("b" * 64), 61)]
    new = [aged(tmp_path / "work" / ("c" * 32), 50), aged(tmp_path / ("d" * 64), 50)]
    others = [aged(tmp_path / "another-app", 1000), aged(tmp_path / ("g" * 64), 1000)]
    workspace.sweep()
    assert not any(folder.exists() for folder in old)
    assert all(folder.exists() for folder in new + others)


def test_it_is_swept_also_without_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("space.service.result_files.get_upload_folder", lambda: str(tmp_path))
    settings = replace(Settings(device="cpu"), keep_seconds=60, cleaning_seconds=1)
    folder = aged(tmp_path / "cam_hub" / "old", 59.7)

    async def live() -> None:
        async with cleanup(settings)(None):
            for _ in range(60):
                await asyncio.sleep(0.05)
                if not folder.exists():
                    return

    asyncio.run(live())
    assert not folder.exists()
