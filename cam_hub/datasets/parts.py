"""The folder of a dataset's rows: Parquet files that are complete, and of one job.

A file is written under a hidden name and renamed when it is complete, so that at any moment, even
if the process is killed, the folder holds complete files only. The first file has no rows: it
marks the folder as that of the job before any image is explained.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cam_hub._text import clean_line
from cam_hub.datasets.rows import require, schema, split_details
from cam_hub.errors import DiskUnavailable, InvalidArgument, SaveFailed

__all__ = ["PartFolder", "PartWriter", "check_folder", "file_metadata", "is_part"]

_JOB = b"cam_hub.job"
_COMMON = b"cam_hub.manifest"
_NAME = re.compile(r"part-(\d{5,})\.parquet")
_HIDDEN = re.compile(r"\.part-\d{5,}\.parquet-\d+")
_IDENTITY = "identity"
"""The entry of a job that must be the same for all files of a folder."""


class PartFolder:
    """The complete files of a folder.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        job: The job that wrote it, JSON types only.

    Raises:
        InvalidArgument: If the folder holds no rows of ours, or those of several jobs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = _files(path)
        if not files:
            expected = "a folder that explain_dataset wrote, and it has no part-….parquet"
            raise InvalidArgument("out", str(path), expected)
        self.job = _job_of(files[0])
        self._files: dict[Path, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Takes files into account that were added in the meantime.

        Raises:
            InvalidArgument: If one of them is damaged, or of another job.
        """
        for file in _files(self.path):
            if file not in self._files:
                if _job_of(file)[_IDENTITY] != self.job[_IDENTITY]:
                    raise InvalidArgument("out", str(self.path), f"one job; {file.name} is another")
                self._files[file] = int(_open(file).metadata.num_rows)

    @property
    def files(self) -> list[Path]:
        """The files with rows, in the order in which they were written."""
        return [file for file, count in self._files.items() if count]

    def __len__(self) -> int:
        """The number of rows."""
        return sum(self._files.values())

    def columns(self, *names: str) -> Iterator[dict[str, Any]]:
        """Some of the columns, row by row; one file at a time is in memory.

        Args:
            names: The columns; none for all of our schema.
        """
        for file in self.files:
            yield from self.rows(file, *names)

    def rows(self, file: Path, *names: str) -> list[dict[str, Any]]:
        """The rows of one file.

        Raises:
            InvalidArgument: If the file is damaged.
        """
        try:
            table = _open(file).read(columns=list(names) or schema().names)
            found: list[dict[str, Any]] = table.to_pylist()
        except OSError as error:
            raise _damaged(file, error) from error
        return found

    def common(self, file: Path) -> dict[str, Any]:
        """What the manifests of a file's rows have in common."""
        return _metadata(file, _COMMON)


class PartWriter:
    """Adds files to a folder, which has one writer at a time.

    Args:
        path: The folder, which is made if need be.
        job: The job; its entry ``identity`` must be that of the files that are there already.

    Raises:
        InvalidArgument: If the folder belongs to another job, holds other Parquet files, is a
            file, or another process writes to it. Nothing is written then.
        DiskUnavailable, SaveFailed: If the system refuses to write.
    """

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self.path = path
        self._job = dict(job)
        self._schema = schema()
        check_folder(path, job)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
        except OSError as error:
            raise _refused(path, error) from error
        try:
            check_folder(path, job)  # from here on, it has no other writer
            for file in path.iterdir():
                if _HIDDEN.fullmatch(file.name):  # of a process that was killed
                    file.unlink(missing_ok=True)
            numbers = [int(m[1]) for file in _files(path) if (m := _NAME.fullmatch(file.name))]
            self._next = max(numbers, default=-1) + 1
            if not numbers:
                self.write([])
        except BaseException:
            self.close()
            raise

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes a file of rows, all of it or nothing.

        Args:
            rows: By column, as ``RowMaker.row`` returns them.

        Raises:
            DiskUnavailable, SaveFailed: If the system refuses.
        """
        pa = require("pyarrow")
        rows = [dict(row) for row in rows]
        common = split_details(rows)
        metadata = file_metadata(self._job, common)
        table = pa.Table.from_pylist(rows, schema=self._schema.with_metadata(metadata))
        self._save(table, f"part-{self._next:05d}.parquet")
        self._next += 1

    def drop_errors(self) -> None:
        """Removes the rows with errors, so that their images are explained again.

        Each file is replaced as a whole: at any moment, an image has one row or none.

        Raises:
            DiskUnavailable, SaveFailed: If the system refuses.
        """
        for file in _files(self.path):
            table = _open(file).read()
            good = table.filter(table["error"].is_null())
            if len(good) < len(table):
                self._save(good, file.name)

    def _save(self, table: Any, name: str) -> None:
        """Writes a file, all of it or nothing; an earlier one of the name is replaced."""
        parquet = require("pyarrow.parquet")
        hidden = self.path / f".{name}-{os.getpid()}"
        try:
            with hidden.open("wb") as file:
                with parquet.ParquetWriter(file, table.schema, compression="zstd") as writer:
                    if len(table):  # the library datasets cannot read an empty row group
                        writer.write_table(table)
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(self.path / name)
        except OSError as error:
            raise _refused(self.path, error) from error
        finally:
            with suppress(OSError):
                hidden.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets other processes write to the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def check_folder(path: Path, job: Mapping[str, Any]) -> None:
    """Refuses a folder that is not this job's.

    Args:
        path: The folder; it may be missing.
        job: The job.

    Raises:
        InvalidArgument: If there is a file in its place, or Parquet files of something else.
    """
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise InvalidArgument("out", str(path), "a folder, and this is a file")
    ours = _files(path)
    others = [each.name for each in path.glob("*.parquet") if each not in ours]
    if others:
        expected = f"a folder of its own: {sorted(others)[0]} there is not from explain_dataset"
        raise InvalidArgument("out", str(path), expected)
    for file in ours:
        difference = _difference(_job_of(file).get(_IDENTITY), job[_IDENTITY])
        if difference:
            expected = f"an empty folder, or that of the same job; there, {difference}"
            raise InvalidArgument("out", str(path), expected)


def file_metadata(job: Mapping[str, Any], common: Mapping[str, Any]) -> dict[bytes, str]:
    """The metadata of a file.

    Args:
        job: The job.
        common: What the manifests of its rows have in common.
    """
    return {_JOB: json.dumps(job), _COMMON: json.dumps(common)}


def is_part(file: Path) -> bool:
    """Whether a file holds rows of ours, not images."""
    if not _NAME.fullmatch(file.name):
        return False
    try:
        return _JOB in (_open(file).schema_arrow.metadata or {})
    except InvalidArgument:
        return False


def _difference(theirs: Any, ours: Mapping[str, Any]) -> str:
    """The first difference between two jobs in words; empty if there is none."""
    if not isinstance(theirs, Mapping):
        return "the job is unknown"
    for name in sorted({*theirs, *ours}):
        there, here = theirs.get(name), ours.get(name)
        if there == here:
            continue
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            return f"{name}: {_difference(there, here)}"
        return f"{name} is {there!r}, and here {here!r}"
    return ""


def _files(path: Path) -> list[Path]:
    try:
        files = list(path.iterdir())
    except OSError as error:
        raise InvalidArgument("out", str(path), f"a folder ({error.strerror})") from error
    found = [(int(match[1]), file) for file in files if (match := _NAME.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def _open(file: Path) -> Any:
    """A Parquet file of ours, with its footer read.

    Raises:
        InvalidArgument: If it is damaged.
    """
    parquet = require("pyarrow.parquet")
    try:
        # A relative path with a colon would be taken for a URI.
        return parquet.ParquetFile(file.absolute())
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> InvalidArgument:
    expected = (
        f"complete Parquet files, and {file.name} cannot be read ({clean_line(error, 200)}); "
        "if it is deleted, its images are explained again"
    )
    return InvalidArgument("out", str(file.parent), expected)


def _metadata(file: Path, name: bytes) -> dict[str, Any]:
    metadata = _open(file).schema_arrow.metadata or {}
    try:
        found = json.loads(metadata[name])
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except (KeyError, ValueError) as error:
        expected = f"files of explain_dataset, and {file.name} has no {name.decode()}"
        raise InvalidArgument("out", str(file.parent), expected) from error
    return found


def _job_of(file: Path) -> dict[str, Any]:
    job = _metadata(file, _JOB)
    if not isinstance(job.get(_IDENTITY), dict):
        expected = f"files of explain_dataset, and {file.name} does not state its job"
        raise InvalidArgument("out", str(file.parent), expected)
    return job


def _locked(path: Path) -> int | None:
    """Holds a folder against other writers; None where the system cannot do that.

    Raises:
        InvalidArgument: If another process holds it.
    """
    try:
        import fcntl  # noqa: PLC0415
    except ImportError:  # Windows
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        expected = "a folder that no other process is writing to"
        raise InvalidArgument("out", str(path), expected) from None
    except OSError:  # a file system without locks
        os.close(handle)
        return None
    return handle


def _refused(path: Path, error: OSError) -> Exception:
    """Our error in place of one of the operating system's."""
    return DiskUnavailable.of(error) or SaveFailed(str(path), str(error.strerror or error))
