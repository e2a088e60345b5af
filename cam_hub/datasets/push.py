"""The rows of a dataset in a repo on the Hub: Parquet with images, and a card."""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCardData
from PIL import Image

from cam_hub._text import counted
from cam_hub._version import __version__
from cam_hub.attribution.passes import Progress
from cam_hub.datasets.parts import PartFolder, file_metadata
from cam_hub.datasets.rows import public_path, public_text, require, schema
from cam_hub.errors import CamHubError, HubRefused
from cam_hub.images.remote import is_address
from cam_hub.results.upload import (
    HubWriter,
    Operation,
    RepoInfo,
    files_of,
    markdown_text,
    prepare_repo,
    without_folder,
)

if TYPE_CHECKING:
    from cam_hub.datasets.report import DatasetReport
    from cam_hub.datasets.report_row import DatasetRow

__all__ = ["PushedRows", "jpeg", "thumbnail"]

_CARD: Final = "README.md"
_MARK: Final = "<!-- cam_hub: rows of a dataset -->"
_OURS = re.compile(r"data/part-\d{5,}\.parquet")
_EMPTY: Final = {".gitattributes"}
"""The files of a repo that was just made."""

_SIDE: Final = 256  # pixels of the longer side of an overlay
_GROUP: Final = 100  # rows of a group, which the viewer reads at once
_QUALITY: Final = 95
_THREADS: Final = 8


@dataclass(frozen=True)
class PushedRows:
    """The rows of a report as they are pushed.

    Attributes:
        report: The report.
        folder: Its files.
        photos: Whether photos are written.
        progress: Called with the part that is done and a few words; or None.
    """

    report: DatasetReport
    folder: PartFolder
    photos: bool
    progress: Progress | None

    def push(self, writer: HubWriter, private: bool | None, overwrite: bool) -> str:
        """Writes the rows by one commit.

        Args:
            writer: The repo.
            private: As for ``prepare_repo``.
            overwrite: Whether the repo may hold something else.

        Returns:
            The repo's address.

        Raises:
            HubRefused, HubUnavailable: As ``DatasetReport.push_to_hub``.
        """
        if (info := writer.info()) is not None:  # before the rows are made, which takes long
            _check(writer, info, overwrite)
        prepare_repo(writer, private)
        with tempfile.TemporaryDirectory(prefix="cam_hub-") as name:
            files = self._files(Path(name))
            card = self._card(writer.repo_id)

            def plan(info: RepoInfo) -> Iterable[Operation]:
                _check(writer, info, overwrite)
                for path in files_of(info):
                    if _OURS.fullmatch(path) and path not in files:
                        yield CommitOperationDelete(path)
                yield CommitOperationAdd(_CARD, card.encode())
                for path, file in files.items():
                    yield CommitOperationAdd(path, file)

            writer.commit(f"Add {counted(len(self.report), 'row')}", lambda info: list(plan(info)))
        return writer.url

    def _files(self, folder: Path) -> dict[str, Path]:
        """Writes the Parquet files into a folder; returns them by their paths in the repo."""
        pa, parquet = require("pyarrow"), require("pyarrow.parquet")
        names = _distinct(self.report.model.class_names or ()) if self.report.model else []
        identity = self._identity()
        found, done = {}, 0
        for number, part in enumerate(self.folder.files):
            common = self.folder.common(part)
            common["model"] = without_folder(common.get("model", {}))
            metadata = file_metadata({**self.folder.job, "identity": identity}, common)
            metadata[b"huggingface"] = json.dumps({"info": {"features": self._features(names)}})
            rows = self._with_images(self.folder.rows(part))
            table = pa.Table.from_pylist(rows, schema=self._schema().with_metadata(metadata))
            name = f"part-{number:05d}.parquet"
            parquet.write_table(table, folder / name, row_group_size=_GROUP, write_page_index=True)
            found[f"data/{name}"] = folder / name
            done += len(rows)
            if self.progress is not None:
                total = len(self.report)
                self.progress(done / total, f"{done:,} of {total:,} rows")
        return found

    def _identity(self) -> dict[str, Any]:
        """The job without paths of this machine."""
        job = dict(self.report.job)
        job["model"] = without_folder(job["model"])
        job["source"] = {name: public_path(value) for name, value in job["source"].items()}
        job["arguments"] = {
            **job["arguments"],
            "reference": public_path(job["arguments"].get("reference")),
        }
        return job

    def _schema(self) -> Any:
        """Our schema, the images first; class indices have the type of ``ClassLabel``."""
        pa = require("pyarrow")
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        images = ["image", "overlay"] if self.photos else ["overlay"]
        own = schema()
        own = own.set(own.get_field_index("label_index"), pa.field("label_index", pa.int64()))
        more = [pa.field("predicted", pa.int64()), pa.field("probability", pa.float32())]
        return pa.schema([*(pa.field(name, image) for name in images), *own, *more])

    def _features(self, names: Sequence[str]) -> dict[str, Any]:
        """What the library ``datasets`` and the viewer do not see from the schema."""
        image = {"_type": "Image"}
        found: dict[str, Any] = {"image": image} if self.photos else {}
        found["overlay"] = image
        if names:
            classes = {"names": list(names), "_type": "ClassLabel"}
            found |= {"label_index": classes, "predicted": classes}
        return found

    def _with_images(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.report.fetch(row["key"] for row in rows)
        opened = [self.report[row["key"]] for row in rows]
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            images = list(pool.map(self._images, opened))
        return [self._pushed(row) | found for row, found in zip(rows, images, strict=True)]

    def _pushed(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row without paths of this machine, and with its first prediction."""
        best = (row["predictions"] or [{}])[0]
        message, source = row["message"], self.report.job["source"].get("path")
        return {
            **row,
            "path": row["path"] if row["path"] and is_address(row["path"]) else None,
            "message": None if message is None else public_text(message, row["path"], source),
            "predicted": best.get("index"),
            "probability": best.get("probability"),
        }

    def _images(self, row: DatasetRow) -> dict[str, Any]:
        """The photo and the overlay, as far as the photo is still there."""
        found: dict[str, Any] = {"image": None, "overlay": None}
        with suppress(CamHubError):
            if row.error is None:
                explanation = row.explanation()
                photo = explanation.photo
                found["overlay"] = _stored(thumbnail(explanation.overlay()))
            else:
                photo = row.photo()
            found["image"] = _stored(photo) if self.photos else None
        return found

    def _card(self, repo_id: str) -> str:
        job, report = self._identity(), self.report
        data = DatasetCardData(
            pretty_name=f"Where {job['model']['id']} looks",
            tags=["cam_hub", "class-activation-map", "explainability"],
            task_categories=["image-classification"],
            configs=[
                {
                    "config_name": "default",
                    "data_files": [{"split": "train", "path": "data/part-*.parquet"}],
                }
            ],
        )
        accuracy = report.accuracy
        facts = {
            "model": job["model"]["id"],
            "source": job["source"].get("path") or job["source"]["kind"],
            "method": job["arguments"]["method"],
            "images": f"{len(report):,}",
            "errors": f"{len(report.errors()):,}",
            "accuracy": "unknown" if accuracy is None else f"{accuracy:.1%}",
            "made by": f"cam_hub {__version__}",
        }
        listed = "\n".join(f"| {name} | {markdown_text(text)} |" for name, text in facts.items())
        return (
            f"---\n{data.to_yaml()}\n---\n\n{_MARK}\n\n"
            f"# Where {markdown_text(job['model']['id'])} looks\n\n"
            "One row for each image: the photo, its class activation map as an overlay and as raw "
            "numbers (`maps`), predictions, and how focused the map is.\n\n"
            f"| | |\n|---|---|\n{listed}\n\n"
            "```python\n"
            "import cam_hub, datasets, huggingface_hub\n\n"
            f'rows = datasets.load_dataset("{repo_id}", split="train")\n'
            f'folder = huggingface_hub.snapshot_download("{repo_id}", repo_type="dataset")\n'
            f'report = cam_hub.DatasetReport.open(f"{{folder}}/data", source="{repo_id}")\n'
            "```\n"
        )


def _check(writer: HubWriter, info: RepoInfo, overwrite: bool) -> None:
    """Refuses a repo with something else in it."""
    present = files_of(info)
    if overwrite or present <= _EMPTY:
        return
    if _CARD not in present or _MARK not in writer.read(_CARD, info.sha):
        reason = "it has other files than rows of cam_hub. Take another name, or overwrite=True."
        raise HubRefused(writer.repo_id, reason)


def _distinct(names: Sequence[str]) -> list[str]:
    """Class names that differ, as ``ClassLabel`` needs them: repeated ones get their index."""
    return [
        f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names)
    ]


def _stored(picture: Image.Image) -> dict[str, Any]:
    """A picture as the library ``datasets`` stores it."""
    return {"bytes": jpeg(picture), "path": None}


def jpeg(picture: Image.Image) -> bytes:
    """A picture as a JPEG file without metadata."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def thumbnail(picture: Image.Image) -> Image.Image:
    """A picture, scaled down in place to at most 256 pixels."""
    picture.thumbnail((_SIDE, _SIDE))
    return picture
