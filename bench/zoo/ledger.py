"""The results of the sweep, one JSON line per model, safe against interruption at any time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from bench.zoo.row import Row

__all__ = ["Ledger", "source_digest"]

_ROOT = Path(__file__).resolve().parents[2]

_JUDGING = ("check.py", "depth.py", "quadrants.py", "watch.py")
"""The part of this program on which a model's result depends."""

_JUDGED = ("attribution", "hooks", "images", "layers", "methods", "models", "sources", "targets")
"""The packages of cam_hub on which it depends: not those for results, files and interfaces."""


class Ledger:
    """The rows of a file, the latest of each model.

    Args:
        path: The file, which need not exist. Invalid lines, such as the last line of a sweep that
            was killed while writing, are ignored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Row] = {}
        text = path.read_text("utf-8", errors="replace") if path.exists() else ""
        for line in text.splitlines():
            try:
                row = Row.from_json(line)
            except ValueError:
                continue
            self._rows[row.id] = row
        # A row after an incomplete line must begin on a new line.
        self._cut = bool(text) and not text.endswith("\n")

    @property
    def rows(self) -> list[Row]:
        """The latest row of each model, sorted by ID."""
        return [self._rows[id] for id in sorted(self._rows)]

    def get(self, id: str) -> Row | None:
        """The latest row of a model."""
        return self._rows.get(id)

    def add(self, row: Row) -> None:
        """Appends a row; it has been passed to the operating system when this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._cut else "") + row.as_json() + "\n")
            file.flush()
        self._cut = False
        self._rows[row.id] = row

    def compact(self) -> None:
        """Rewrites the file with the latest row of each model, sorted."""
        if not self._rows:
            return
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        beside.write_text("".join(row.as_json() + "\n" for row in self.rows), "utf-8")
        beside.replace(self._path)
        self._cut = False

    def unfinished(
        self, ids: Iterable[str], digest: str | None, *, retry_failed: bool = False
    ) -> list[str]:
        """The models that are still to be checked, in the given order.

        Args:
            ids: All models.
            digest: Only rows of this code count as done; None to count all rows.
            retry_failed: Whether models whose row is not good are checked again.
        """

        def done(id: str) -> bool:
            row = self._rows.get(id)
            if row is None or (digest is not None and row.digest != digest):
                return False
            return row.good or not retry_failed

        return [id for id in ids if not done(id)]


def source_digest(root: Path = _ROOT) -> str:
    """A digest of the code on which results depend: cam_hub's layers and maps, and the checks.

    Args:
        root: The repository.
    """
    files = [
        *(path for name in _JUDGED for path in (root / "cam_hub" / name).rglob("*.py")),
        *(root / "bench" / "zoo" / name for name in _JUDGING),
    ]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
