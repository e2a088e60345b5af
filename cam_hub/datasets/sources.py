"""Where the images of a dataset come from: folders, tables, archives and Python objects.

Files are on this machine or behind addresses. Every source becomes a stream of samples with texts
as keys, each of them once.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

from cam_hub._text import first_line
from cam_hub.attribution.samples import Sample, labelled_files, open_samples
from cam_hub.datasets.hub import HubSplit, open_split, read_split
from cam_hub.datasets.parts import is_part
from cam_hub.datasets.remote import list_address
from cam_hub.datasets.rows import plain_text, require
from cam_hub.errors import (
    CamHubError,
    ImageRefused,
    InvalidArgument,
    PackageMissing,
    SourceUnavailable,
)
from cam_hub.images.decoding import file_endings, local_path
from cam_hub.images.remote import MAX_BYTES, RemoteFile, is_address
from cam_hub.targets.classes import LabelledClass, as_index

__all__ = ["DataSource", "open_source"]

_WANTED = (
    "a folder of images, a glob, a .csv or .parquet file, a dataset that was saved by "
    "save_to_disk, .tar archives, an address such as s3://bucket/folder of any of these, a data "
    "set on the Hub such as owner/name:split, or an object that explain_many takes"
)
_IMAGE_COLUMNS = ("image", "img", "bytes", "picture", "photo")
_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image_path",
                 *_IMAGE_COLUMNS)  # fmt: skip
_LABEL_COLUMNS = ("label", "labels", "target", "class", "class_name", "category", "cls", "y")
_KEY_COLUMNS = ("key", "__key__", "id", "image_id")

_TABLES: Final = (".csv", ".tsv")
_PARQUET: Final = (".parquet", ".parq")
_ARCHIVES: Final = (".tar", ".tar.gz", ".tgz")

_MAX_LABEL_BYTES = 1 << 20
_BATCH_ROWS = 32  # of a Parquet file that are read at once; each holds an encoded image

_File = Path | RemoteFile

_WHOLE = re.compile(r"\s*\d+\.0\s*")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 100_000


@dataclass(frozen=True)
class DataSource:
    """The images of a dataset.

    Attributes:
        facts: What identifies it, JSON types only.
        count: How many images there are; None if that is not known beforehand.
        read: Begins to read the samples, whose keys may repeat.
    """

    facts: Mapping[str, Any]
    count: int | None
    read: Callable[[], Iterator[Sample]]

    def keyed(self) -> Iterator[tuple[str, Sample]]:
        """The samples with their keys: texts that differ.

        A key that was there before gets ``#2``, ``#3`` … at its end, in the order of the source.
        """
        seen: set[str] = set()
        counts: dict[str, int] = {}
        for sample in self.read():
            key = plain = plain_text(sample.key)
            while key in seen:
                counts[plain] = counts.get(plain, 1) + 1
                key = f"{plain}#{counts[plain]}"
            seen.add(key)
            yield key, sample

    def find(self, key: str) -> Sample | None:
        """The sample of a key; None if there is none. Reads the source from its beginning."""
        return next((sample for each, sample in self.keyed() if each == key), None)


def open_source(source: Any, *, clips: bool = False) -> DataSource:
    """Opens a source; a path is opened by what it leads to.

    Args:
        source: As ``explain_dataset`` takes it.
        clips: Whether the model takes clips.

    Raises:
        InvalidArgument: If it has no images, or lacks a column that is needed.
        PackageMissing: If reading it needs a package that is not installed.
        SourceUnavailable: If it is on another machine, and cannot be read.
    """
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fsdecode(source))
    # Encoded images are decoded by the threads that read ahead.
    encoded = _undecoded(source)
    count = _length(open_samples(encoded, clips=clips, argument="source"))
    facts = {"kind": type(source).__name__, "count": count}
    if isinstance(fingerprint := getattr(source, "_fingerprint", None), str):
        facts["fingerprint"] = fingerprint
    return DataSource(facts, count, lambda: map(_fetchable, open_samples(encoded, clips=clips)))


def _fetchable(sample: Sample) -> Sample:
    """A sample of a stream whose image is still behind an address."""
    if isinstance(sample.picture, Mapping) and (address := _address_in(sample.picture)):
        return replace(sample, picture=RemoteFile.at(address))
    return sample


def _address_in(image: object) -> str | None:
    """The address in an image of a table, which may have its bytes or a path instead."""
    if isinstance(image, Mapping):
        image = image.get("path") if image.get("bytes") is None else None
    return image if isinstance(image, str) and is_address(image) else None


def _open_path(text: str) -> DataSource:
    if not text.strip():
        raise InvalidArgument("source", text, _WANTED)
    marked = read_split(text) if text.startswith("hf://") else None
    if marked is not None:
        return _open_hub(marked)
    if is_address(text):
        return _open_address(text)
    try:
        path = local_path(text)
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError, ImageRefused) as error:
        raise InvalidArgument("source", text, _WANTED) from error
    if is_folder:
        return _open_folder(path)
    files = [path] if exists else _matches(str(path))
    facts = {"path": os.path.abspath(path)}  # noqa: PTH100 - as it was given
    if not exists and not files and (wanted := _hub_id(text)) is not None:
        try:
            return _open_hub(wanted)
        except PackageMissing as error:
            expected = f"{_WANTED}; nothing here has this name, and the Hub needs: {error.command}"
            raise InvalidArgument("source", text, expected) from error
        except SourceUnavailable as error:
            reason = f"nothing here has this name, and on the Hub: {error.reason}"
            raise SourceUnavailable(text, reason) from error
    is_pipe = exists and not path.is_file()  # opening one would wait for ever
    if not is_pipe and (found := _open_files(files, facts)) is not None:
        return found
    if (instead := _expected_instead(path, files)) is not None:
        raise InvalidArgument("source", text, instead)
    images = open_samples(str(path))
    return DataSource({"kind": "glob", **facts}, _length(images), lambda: iter(images))


def _expected_instead(path: Path, files: Sequence[Path]) -> str | None:
    """What would work in place of a path that leads to no table or archive; None for images.

    Args:
        path: The path, which is not a folder.
        files: The file itself, or those that match it.
    """
    endings = tuple(file_endings())
    if not files and glob.has_magic(str(path)):
        return "a glob that matches files, as 'photos/**/*.jpg' does; this one matches none"
    if not files:
        return f"{_WANTED}; nothing here has this name"
    has_images = any(file.name.lower().endswith(endings) for file in files)
    if not path.exists():
        wanted = f"a glob of images, tables or archives; {files[0].name} is none of these"
        return None if has_images else wanted
    if not path.is_file():
        return f"{_WANTED}; this is a device or a pipe"
    return f"{_WANTED}; this is {'one image: give it in a list' if has_images else 'another file'}"


def _open_files(files: Sequence[_File], facts: Mapping[str, Any]) -> DataSource | None:
    """Tables or archives; None if the files are neither."""
    for kind, endings, open_files in (
        ("table", _TABLES, _open_tables),
        ("parquet", _PARQUET, _open_parquet),
        ("archives", _ARCHIVES, _open_archives),
    ):
        if files and all(each.name.lower().endswith(endings) for each in files):
            return open_files(files, {"kind": kind, **facts})
    return None


def _open_address(address: str) -> DataSource:
    """A file, a folder, a glob or a range of shards that is read through fsspec."""
    if shards := _shards(address):
        files = [RemoteFile.at(each) for each in shards]
        facts = {"path": RemoteFile.at(address).shown}
        for each in (files[0], files[-1]):  # all of them would be a request each
            each.open().close()
        if (found := _open_files(files, facts)) is None:
            raise InvalidArgument("source", facts["path"], _WANTED)
        return found
    listing = list_address(address)
    facts, files = {"path": listing.place.shown}, list(listing.files.values())
    if listing.kind != "folder" and (found := _open_files(files, facts)) is not None:
        return found
    endings = tuple(file_endings())
    images = labelled_files(
        (inner.split("/"), file)
        for inner, file in listing.files.items()
        if listing.kind != "file" and file.name.lower().endswith(endings)
    )
    if images:
        facts["kind"] = listing.kind
        return DataSource(facts, len(images), lambda: iter(images))
    for formats in (_PARQUET, _ARCHIVES):
        inside = [each for each in files if each.name.lower().endswith(formats)]
        if (found := _open_files(inside, facts)) is not None:
            return found
    raise InvalidArgument("source", listing.place.shown, _WANTED)


def _shards(pattern: str) -> list[str]:
    """The names in a range of shards such as ``shard-{000..127}.tar``; empty for another text."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return []
    first, last = braces.groups()
    if not 0 <= int(last) - int(first) < _MAX_SHARDS:
        raise InvalidArgument("source", pattern, "a range from a number to a higher one")
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [pattern[: braces.start()] + each + pattern[braces.end() :] for each in numbers]


def _matches(pattern: str) -> list[Path]:
    """The files of a glob, or of a range of shards."""
    if names := _shards(pattern):
        missing = [name for name in names if not Path(name).is_file()]
        if missing:
            raise InvalidArgument("source", pattern, f"files that exist: {missing[0]} does not")
        return [Path(name) for name in names]
    if not glob.has_magic(pattern):
        return []
    found = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - may be absolute
    return sorted(path for path in map(Path, found) if path.is_file() and not is_part(path))


def _open_folder(folder: Path) -> DataSource:
    facts = {"path": os.path.abspath(folder)}  # noqa: PTH100 - as it was given
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return _open_saved(folder, {"kind": "datasets", **facts})
    try:
        images = open_samples(folder)
    except InvalidArgument:
        for endings in (_PARQUET, _ARCHIVES):
            files = sorted(
                path
                for path in folder.rglob("*")
                if path.name.lower().endswith(endings) and path.is_file() and not is_part(path)
            )
            if (found := _open_files(files, facts)) is not None:
                return found
        nothing = "a folder with images, .parquet files or .tar archives; this one has none of them"
        raise InvalidArgument("source", str(folder), nothing) from None
    return DataSource({"kind": "folder", **facts}, _length(images), lambda: iter(images))


def _length(samples: Iterable[Sample]) -> int | None:
    return len(samples) if isinstance(samples, Sized) else None


def _open_saved(folder: Path, facts: Mapping[str, Any]) -> DataSource:
    """A dataset of the library ``datasets`` that was saved by ``save_to_disk``."""
    datasets = require("datasets", "A dataset saved by save_to_disk", "pip install datasets")
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        expected = f"a dataset that can be loaded ({first_line(error)})"
        raise InvalidArgument("source", str(folder), expected) from error
    if isinstance(found, Mapping):
        splits = ", ".join(str(folder / name) for name in found)
        raise InvalidArgument("source", str(folder), f"one of its splits: {splits}")
    return replace(open_source(found), facts=facts)


def _hub_id(text: str) -> HubSplit | None:
    """The dataset on the Hub that a text may name, rather than a file that is missing."""
    endings = (*_TABLES, *_PARQUET, *_ARCHIVES, *file_endings())
    return None if text.lower().endswith(endings) else read_split(text)


def _open_hub(wanted: HubSplit) -> DataSource:
    """A dataset on the Hub. The commit is a part of its facts, so that one job has only one."""
    rows = open_split(wanted, (*_IMAGE_COLUMNS, *_PATH_COLUMNS), _LABEL_COLUMNS, _KEY_COLUMNS)
    start = f"hf://datasets/{wanted.repo}@{rows.split.revision}/"
    beside = RemoteFile.at(f"{start}README.md")

    def read() -> Iterator[Sample]:
        for position, row in enumerate(rows):
            address = _address_in(row[rows.image])
            if address is not None and not address.rpartition("::")[2].startswith(start):
                refused = ImageRefused(f"{address} is not a file of this dataset")
                yield Sample(position, None, error=refused)
                continue
            found = _parquet_sample(
                row, rows.image, rows.label, rows.key, beside, position, rows.class_names
            )
            if address is not None and found.key == address:  # maybe in an archive
                inner = address.removeprefix("zip://").partition("::")[0]
                found = replace(found, key=inner.removeprefix(start))
            yield found

    facts = {"kind": "hub", "path": str(rows.split), "revision": rows.split.revision}
    return DataSource(facts, rows.count, read)


def _undecoded(source: Any) -> Any:
    """A dataset of the library ``datasets`` whose images stay encoded."""
    features = getattr(source, "features", None)
    if not isinstance(features, Mapping) or not hasattr(source, "cast_column"):
        return source
    if hasattr(source, "decode"):  # a stream
        return source.decode(False)
    for name, feature in features.items():
        if type(feature).__name__ == "Image" and getattr(feature, "decode", False):
            source = source.cast_column(name, type(feature)(decode=False))
    return source


def _open_tables(files: Sequence[_File], facts: Mapping[str, Any]) -> DataSource:
    """Tables with a header, whose rows name files."""
    for file in files:
        with _table_of(file) as table:
            _path_column(file, table.fieldnames)

    def read() -> Iterator[Sample]:
        position = 0
        for file in files:
            with _table_of(file) as table:
                names = table.fieldnames or []
                column = _path_column(file, names)
                label, key = _named(names, _LABEL_COLUMNS), _named(names, _KEY_COLUMNS)
                try:
                    for row in table:
                        yield _sample_of(
                            row[key] if key else row[column],
                            row[column] or None,
                            row[label] if label else None,
                            file,
                            position,
                        )
                        position += 1
                except CamHubError:
                    raise
                except Exception as error:  # noqa: BLE001 - clients of servers raise anything
                    yield _broken(file, position, error)

    return DataSource(facts, _rows_of(files), read)


def _rows_of(tables: Sequence[_File]) -> int | None:
    """How many rows tables have; None if they are not all on this machine, or one is damaged."""
    count = 0
    for file in tables:
        if not isinstance(file, Path):
            return None
        with _table_of(file) as table:
            try:
                count += sum(1 for _ in table)
            except (OSError, csv.Error):
                return None
    return count


@contextmanager
def _table_of(file: _File) -> Iterator[csv.DictReader[str]]:
    """Opens a table, whose columns are separated by what its header has most of, or by tabs."""
    with io.TextIOWrapper(_opened(file), "utf-8-sig", errors="surrogateescape", newline="") as text:
        header = text.readline()
        separators = "\t" if file.name.lower().endswith(".tsv") else ",;\t"
        lines = chain([header], text) if header else text
        yield csv.DictReader(lines, delimiter=max(separators, key=header.count))


def _opened(file: _File) -> IO[bytes]:
    """Opens a file.

    Raises:
        InvalidArgument, SourceUnavailable: If that is not possible.
    """
    if isinstance(file, RemoteFile):
        return file.open()
    try:
        return file.open("rb")
    except OSError as error:
        raise InvalidArgument("source", str(file), f"a file that can be read ({error})") from error


def _shown(file: _File) -> str:
    return file.shown if isinstance(file, RemoteFile) else str(file)


def _path_column(file: _File, names: Sequence[str] | None) -> str:
    found = _named(names or (), _PATH_COLUMNS)
    if found is None:
        listed = ", ".join(map(repr, names or ())) or "nothing"
        expected = f"a header with a column 'path', and the first line has {listed}"
        raise InvalidArgument("source", _shown(file), expected)
    return found


def _named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of the wanted columns that there is, whatever its case."""
    known = {str(name).strip().casefold(): name for name in reversed(names) if name is not None}
    return next((known[name] for name in wanted if name in known), None)


def _sample_of(
    key: object, image: object, label: object, table: _File, position: int, names: Any = None
) -> Sample:
    """The sample of a row of a table.

    Args:
        key: Its key; its position if that is None or empty.
        image: A path, which may be relative to the table's folder, an address, the bytes of an
            image file, or None.
        label: Its label, or None.
        table: The table.
        position: The position of the row.
        names: Labels of the class indices, or None.
    """
    key = position if key is None or key == "" else key
    expected = _label(label, names)
    known = expected.label if expected is not None else None
    if isinstance(image, (bytes, bytearray)):
        return Sample(key, bytes(image), known, expected)
    if not isinstance(image, str) or not image.strip():
        error = ImageRefused("the row has neither a path nor the bytes of an image")
        return Sample(key, None, known, expected, error=error)
    try:
        return Sample(key, _beside(table, image), known, expected)
    except InvalidArgument as error:
        return Sample(key, None, known, expected, error=ImageRefused(str(error)))


def _beside(table: _File, text: str) -> _File:
    """The file that a table names: by an address, or by a path relative to the table's folder."""
    if is_address(text):
        return RemoteFile.at(text)
    if isinstance(table, RemoteFile):
        return table.beside(text)
    path = Path(text)
    beside = table.parent / path
    return beside if beside.exists() or not path.exists() else path


def _label(value: object, names: Sequence[str] | None) -> LabelledClass | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    # If a label is missing, pandas makes the others floats.
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = value.partition(".")[0]
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return LabelledClass(value.strip()) if value.strip() else None
    index = as_index(value)
    if index is None:
        return None
    if names is not None and 0 <= index < len(names):
        return LabelledClass(names[index], index, len(names))
    return LabelledClass(index)


def _broken(file: _File, count: int, error: Exception) -> Sample:
    """The sample that stands for the rest of a file that cannot be read."""
    reason = f"{file.name} cannot be read further, after {count} images: {first_line(error)}"
    return Sample(f"{file.name} (rest)", None, error=ImageRefused(reason))


def _open_parquet(files: Sequence[_File], facts: Mapping[str, Any]) -> DataSource:
    """Parquet files with paths, or with the bytes of image files."""
    tables = []
    count = 0
    for file in files:
        try:
            with _parquet_file(file) as opened:
                schema, rows = opened.schema_arrow, opened.metadata.num_rows
        except CamHubError:
            raise
        except (OSError, ValueError) as error:
            expected = f"Parquet files, and {file.name} cannot be read ({first_line(error)})"
            raise InvalidArgument("source", _shown(file), expected) from error
        names = list(schema.names)
        image = _named(names, (*_IMAGE_COLUMNS, *_PATH_COLUMNS))
        if image is None:
            listed = ", ".join(map(repr, names))
            expected = f"a column 'image' or 'path', and {file.name} has {listed}"
            raise InvalidArgument("source", _shown(file), expected)
        label, key = _named(names, _LABEL_COLUMNS), _named(names, _KEY_COLUMNS)
        tables.append((file, image, label, key, _class_names(schema, label)))
        count += rows

    def read() -> Iterator[Sample]:
        position = 0
        for file, image, label, key, names in tables:
            wanted = [name for name in (image, label, key) if name is not None]
            try:
                with _parquet_file(file) as opened:
                    for batch in opened.iter_batches(_BATCH_ROWS, columns=wanted):
                        for row in batch.to_pylist():
                            yield _parquet_sample(row, image, label, key, file, position, names)
                            position += 1
            except PackageMissing:
                raise
            except Exception as error:  # noqa: BLE001 - clients of servers raise anything
                yield _broken(file, position, error)

    return DataSource(facts, count, read)


def _parquet_file(file: _File) -> Any:
    """A ``pyarrow.parquet.ParquetFile``."""
    parquet = require("pyarrow.parquet")
    if isinstance(file, Path):  # a relative path with a colon would be taken for a URI
        return parquet.ParquetFile(file.absolute())
    stream = file.open()
    try:
        stream.seek(0, os.SEEK_END)
    except (OSError, ValueError):  # some web servers give whole files only
        stream = io.BytesIO(file.read())
    return parquet.ParquetFile(stream)


def _parquet_sample(
    row: Mapping[str, Any],
    image: str,
    label: str | None,
    key: str | None,
    file: _File,
    position: int,
    names: Sequence[str] | None,
) -> Sample:
    found, own = row[image], row[key] if key else None
    if isinstance(found, Mapping):  # as the library datasets stores images
        own = found.get("path") if own is None else own
        found = found["bytes"] if found.get("bytes") is not None else found.get("path")
    elif isinstance(found, str) and own is None:
        own = found
    given = row[label] if label else None
    return _sample_of(own, found, given, file, position, names)


def _class_names(schema: Any, label: str | None) -> list[str] | None:
    """The labels of class indices, as the library ``datasets`` stores them in Parquet files."""
    try:
        facts = json.loads((schema.metadata or {})[b"huggingface"])
        names = facts["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if isinstance(names, Mapping):
        names = [names[key] for key in sorted(names, key=int)]
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None


def _open_archives(files: Sequence[_File], facts: Mapping[str, Any]) -> DataSource:
    """Tar archives as WebDataset writes them: files of one sample share the name up to a dot."""
    for file in files:
        if isinstance(file, Path) and not os.access(file, os.R_OK):
            raise InvalidArgument("source", str(file), "a file that can be read")
    return DataSource(facts, None, lambda: _read_archives(files))


def _read_archives(files: Sequence[_File]) -> Iterator[Sample]:
    for file in files:
        count = 0
        try:
            with _opened(file) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
                for key, members in _groups(archive):
                    for sample in _samples_of(key, members):
                        yield sample
                        count += 1
        except Exception as error:  # noqa: BLE001 - clients of servers raise anything
            yield _broken(file, count, error)


_Members = dict[str, bytes | ImageRefused]
"""The files of one sample by the rest of their names, after the first dot."""


def _groups(archive: tarfile.TarFile) -> Iterator[tuple[str, _Members]]:
    """The files of an archive by their common names; files of one sample follow each other."""
    endings = file_endings()
    current: str | None = None
    members: _Members = {}
    for member in archive:
        folder, _, name = member.name.removeprefix("./").rpartition("/")
        stem, dot, ending = name.partition(".")
        if not member.isfile() or not stem or not dot:  # hidden ones, too
            continue
        key = f"{folder}/{stem}" if folder else stem
        if current is not None and (key != current or ending in members):
            yield current, members
            members = {}
        current = key
        suffix = f".{ending.rpartition('.')[2].lower()}"
        is_image = suffix in endings
        if is_image and member.size > MAX_BYTES:
            reason = f"{name} has {member.size:,} bytes, and {MAX_BYTES:,} is the limit"
            members[ending] = ImageRefused(reason)
        elif is_image or (suffix in (".cls", ".json") and member.size <= _MAX_LABEL_BYTES):
            content = archive.extractfile(member)
            members[ending] = b"" if content is None else content.read()
    if current is not None:
        yield current, members


def _samples_of(key: str, members: _Members) -> Iterator[Sample]:
    """The sample of one group of files; of several images the one without a further name."""
    endings = file_endings()
    images = [name for name in members if f".{name.rpartition('.')[2].lower()}" in endings]
    plain = [name for name in images if "." not in name]
    expected = _archive_label(members)
    known = expected.label if expected is not None else None
    for name in plain[:1] or images:
        found = members[name]
        own = key if plain else f"{key}.{name.rpartition('.')[0]}"
        if isinstance(found, ImageRefused):
            yield Sample(own, None, known, expected, error=found)
        else:
            yield Sample(own, found, known, expected)


def _archive_label(members: _Members) -> LabelledClass | None:
    """The label in a file ``.cls`` (an index or a name) or ``.json``."""
    given = members.get("cls")
    if isinstance(given, bytes) and given.strip():
        text = given.decode("utf-8", "replace").strip()
        return LabelledClass(int(text)) if text.isdecimal() else LabelledClass(text)
    facts = members.get("json")
    if isinstance(facts, bytes):
        try:
            found = json.loads(facts)
        except ValueError:
            return None
        if isinstance(found, Mapping):
            column = _named(list(found), _LABEL_COLUMNS)
            return None if column is None else _label(found[column], None)
        return _label(found, None)
    return None
