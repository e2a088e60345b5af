"""Repos for the hub of the tests, from folders that timm's own code writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from tests.fakes.repo_folders import network, push, rewrite


def pushed(folder: Path, module: nn.Module | None = None, **options: Any) -> dict[str, bytes]:
    """The files of a pushed network, which has three classes by default.

    Args:
        folder: The folder to which its files are written.
        module: The network.
        **options: The options of ``push``.
    """
    push(folder, network(num_classes=3) if module is None else module, **options)
    return content(folder)


def changed(folder: Path, **changes: Any) -> dict[str, bytes]:
    """The files after values of config.json have been changed (None removes a value)."""
    push(folder, network(num_classes=3))
    rewrite(folder, **changes)
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
