"""``DatasetReport``: the rows of a dataset, read from Parquet alone, and statistics over them."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import nlargest, nsmallest
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from cam_hub._text import counted
from cam_hub._validation import check_flag, check_sizes, check_whole, check_word
from cam_hub.attribution.passes import Progress
from cam_hub.attribution.samples import Sample
from cam_hub.datasets.clusters import GRID, MIN_IMAGES, MapCluster, cluster_maps, heat_shares
from cam_hub.datasets.exports import fiftyone_dataset, spotlight_table
from cam_hub.datasets.html import check_page, write_page
from cam_hub.datasets.parts import PartFolder
from cam_hub.datasets.push import PushedRows
from cam_hub.datasets.report_row import DatasetRow, resized
from cam_hub.datasets.rows import require
from cam_hub.datasets.sources import DataSource, open_source
from cam_hub.errors import (
    CamHubError,
    ImageRefused,
    InvalidArgument,
    RowNotFound,
    SourceUnavailable,
    nearest_names,
)
from cam_hub.faithfulness import Evidence
from cam_hub.images.geometry import Placement
from cam_hub.images.remote import RemoteFile, is_address
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.maps import Map
from cam_hub.results.serialization import folder_path
from cam_hub.results.upload import HubWriter
from cam_hub.targets.region import RegionChoice, read_region

__all__ = ["DatasetReport", "HeatInside"]

By = Literal["explained", "predicted", "label", "correct"]
_GROUPINGS = get_args(By)

_FILES_HELD = 4
"""So many files of rows stay in memory for ``report[key]``."""


@dataclass(frozen=True)
class HeatInside:
    """How much of a map's heat lies inside of a region.

    Attributes:
        key: The image.
        share: The part of the heat inside, in [0, 1].
        area: The part of the model's input that the region covers: the share of a flat map.
    """

    key: str
    share: float
    area: float


class DatasetReport:
    """The rows of a dataset, and statistics over them; read from the Parquet files as needed.

    Args:
        folder: The files.
        source: Where the images are; None to open the source that the job names, when it is needed.
        model: The model; None to load it when it is needed.

    Attributes:
        model: The model, or None.
    """

    def __init__(
        self,
        folder: PartFolder,
        source: DataSource | None = None,
        model: LoadedModel | None = None,
    ) -> None:
        self._folder = folder
        self._source = source
        self.model = model
        self._fetched: dict[str, object] = {}
        self._ahead: Iterator[tuple[str, Sample]] | None = None
        self._held: OrderedDict[Path, tuple[list[dict[str, Any]], dict[str, Any]]] = OrderedDict()

    @classmethod
    def open(
        cls,
        out: str | os.PathLike[str],
        source: object = None,
        model: LoadedModel | None = None,
    ) -> Self:
        """Opens the rows that ``explain_dataset`` wrote, also those of an unfinished job.

        Args:
            out: Their folder.
            source: Where the images are, if they were moved, or are not files: as for
                ``explain_dataset``. Needed for overlays only.
            model: The model, for ``reproduce``, if it cannot be loaded by its ID, and for overlays
                of tensors and lists of frames.

        Raises:
            InvalidArgument: If there are no such rows, or the source has no images.
            PackageMissing: If pyarrow is not installed.
        """
        folder = PartFolder(folder_path(out, "out"))
        return cls(folder, None if source is None else open_source(source), model)

    @property
    def job(self) -> Mapping[str, Any]:
        """What the job was: model, source and arguments; JSON types only."""
        found: Mapping[str, Any] = self._folder.job["identity"]
        return found

    def __len__(self) -> int:
        """The number of rows, those with errors included."""
        return len(self._folder)

    def __iter__(self) -> Iterator[DatasetRow]:
        """All rows in the order in which they were written; one file at a time is in memory."""
        for file in self._folder.files:
            common = self._folder.common(file)
            for raw in self._folder.rows(file):
                yield DatasetRow.read(raw, common, self)

    @cached_property
    def _places(self) -> dict[str, tuple[Path, int]]:
        """The file of each row, and its position in it."""
        return {
            row["key"]: (file, position)
            for file in self._folder.files
            for position, row in enumerate(self._folder.rows(file, "key"))
        }

    def keys(self) -> list[str]:
        """The keys of all rows."""
        return list(self._places)

    def __contains__(self, key: object) -> bool:
        """Whether an image has a row."""
        return str(key) in self._places

    def __getitem__(self, key: object) -> DatasetRow:
        """The row of an image.

        Args:
            key: Its key; a number stands for its text.

        Raises:
            RowNotFound: If there is none.
        """
        if str(key) not in self._places:
            hint = f"keys() lists the keys of {counted(len(self), 'row')}."
            raise RowNotFound(key, nearest_names(str(key), self._places), hint)
        file, position = self._places[str(key)]
        if file not in self._held:
            self._held[file] = self._folder.rows(file), self._folder.common(file)
            while len(self._held) > _FILES_HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(file)
        rows, common = self._held[file]
        return DatasetRow.read(rows[position], common, self)

    def errors(self) -> dict[str, tuple[str, str]]:
        """Code and message of each image that could not be explained, by key."""
        return {
            row["key"]: (row["error"], row["message"])
            for row in self._folder.columns("key", "error", "message")
            if row["error"] is not None
        }

    @property
    def accuracy(self) -> float | None:
        """The part of the images whose most probable class is that of their label.

        Only explained images whose label the model has count; None if there are none.
        """
        known = [row["correct"] for row in self._folder.columns("correct")]
        known = [each for each in known if each is not None]
        return sum(known) / len(known) if known else None

    def most_focused(self, count: int = 10) -> list[DatasetRow]:
        """The rows whose heat is on the smallest part of the image, that with the least first."""
        return self._by_focus(count, nlargest)

    def least_focused(self, count: int = 10) -> list[DatasetRow]:
        """The rows whose heat is most spread, the flattest map first."""
        return self._by_focus(count, nsmallest)

    def _by_focus(self, count: int, select: Callable[..., list[Any]]) -> list[DatasetRow]:
        check_whole("count", count)
        known = (
            (row["focus"], row["key"])
            for row in self._folder.columns("focus", "key")
            if row["focus"] is not None
        )
        return [self[key] for _, key in select(count, known, key=lambda each: each[0])]

    def shared_maps(self) -> dict[str, float]:
        """Images whose map other classes would share: it does not distinguish classes.

        Returns:
            The mean rank correlation with the maps of other classes, by key, the highest first, of
            the images whose class check has failed. Empty if the job had no
            ``evidence="class_check"``.
        """
        found = {}
        for row in self.columns("key", "evidence"):
            if row["evidence"] is not None:
                tested = Evidence.from_dict(json.loads(row["evidence"]))
                if tested.class_specific is False:
                    found[row["key"]] = tested["class_check"].value or 0.0
        return dict(sorted(found.items(), key=lambda each: -each[1]))

    def mean_maps(
        self, by: By = "explained", *, size: tuple[int, int] = (14, 14)
    ) -> dict[str, Map]:
        """The mean map of the images of each class, or of those that are right and wrong.

        Maps lie on the model's input, not on the photo. Each is the first class's map, of several
        layers their fusion, divided by its largest value, so that every image counts the same; of a
        signed map the positive part.

        Args:
            by: ``"explained"``, ``"predicted"`` or ``"label"`` for the label of that class;
                ``"correct"`` for ``"correct"`` and ``"wrong"``.
            size: Rows and columns of the result.

        Returns:
            Float32 ``size`` in [0, 1], by label, the labels in their order. Images without a map
            or without that label do not count.
        """
        check_word("by", by, _GROUPINGS)
        rows, cols = check_sizes("size", size, 2)
        sums: dict[str, NDArray[np.float64]] = {}
        counts: dict[str, int] = {}
        for row in self:
            name, heat = _group_of(row, by), row.heat()
            if name is None or heat is None:
                continue
            wide = resized(heat / heat.max(), rows, cols)
            sums[name] = sums[name] + wide if name in sums else wide
            counts[name] = counts.get(name, 0) + 1
        return {name: (sums[name] / counts[name]).astype(np.float32) for name in sorted(sums)}

    def heat_inside(
        self, regions: Mapping[object, RegionChoice] | Callable[[DatasetRow], RegionChoice]
    ) -> list[HeatInside]:
        """The share of the heat that lies inside of boxes or masks, the lowest share first.

        Args:
            regions: By key, a box ``(left, top, right, bottom)`` in the photo's pixels or a boolean
                mask ``(H, W)`` of the photo; or a function of a row that returns one. Images
                without one (None), or without a map, are left out. A number stands for its text.

        Raises:
            InvalidArgument: If no key has a row, or a region is none, or lies outside of the photo.
                One that the model did not see, as it was cropped away, has no heat.
        """
        given = regions if callable(regions) else self._by_key(regions)
        found = []
        for row in self:
            region = given(row) if callable(given) else given.get(row.key)
            heat = row.heat()
            if region is None or heat is None or row.placement is None:
                continue
            rows, cols = row.placement.input_size
            try:
                whole = read_region(region, Placement.identity(row.placement.photo_size))
            except InvalidArgument as error:
                expected = f"a region of each photo; that of {row.key!r}: {error}"
                raise InvalidArgument("regions", region, expected) from error
            weights = replace(whole, placement=row.placement).weights(rows, cols)
            wide = resized(heat, rows, cols)
            share = float((wide * weights).sum() / wide.sum())
            found.append(HeatInside(row.key, share, float(weights.mean())))
        return sorted(found, key=lambda each: (each.share, each.key))

    def _by_key(self, regions: Mapping[object, RegionChoice]) -> dict[str, RegionChoice]:
        """Regions by the text of their keys."""
        found = {str(key): region for key, region in regions.items()}
        if found and not any(key in self for key in found):
            expected = f"keys of rows, such as {', '.join(map(repr, self.keys()[:1])) or 'none'}"
            raise InvalidArgument("regions", next(iter(found)), expected)
        return found

    def clusters(
        self, by: By = "label", *, label: str | None = None, count: int | None = None
    ) -> list[MapCluster]:
        """Groups of images of one class whose maps are alike: candidates for spurious cues.

        A small, distinct group that looks at another place than the rest of its class is worth a
        look. The maps are those of ``mean_maps``, compared on the model's input.

        Args:
            by: As for ``mean_maps``: what an image's class is.
            label: One of the classes; None for all with at least 8 images.
            count: Number of clusters of a class; None for the number from 2 to 6 whose clusters
                are most distinct.

        Returns:
            The clusters, those that are farthest from the rest of their class first, of equal ones
            the smaller.

        Raises:
            InvalidArgument: If an argument makes no sense, or no image with a map has the label.
            PackageMissing: If scikit-learn is not installed.
        """
        check_word("by", by, _GROUPINGS)
        if count is not None:
            check_whole("count", count)
        require("sklearn.cluster")
        images: dict[str, list[tuple[str, NDArray[np.float32], bool | None]]] = {}
        for row in self:
            name = _group_of(row, by)
            if name is None or label not in (None, name):
                continue
            if (heat := row.heat((GRID, GRID))) is not None:
                images.setdefault(name, []).append((row.key, heat_shares(heat), row.correct))
        if label is not None and not images:
            raise InvalidArgument("label", label, "the label of an image with a map")
        found = []
        for name, each in images.items():
            if len(each) >= MIN_IMAGES or label is not None:
                keys, maps, correct = zip(*each, strict=True)
                found += cluster_maps(name, keys, np.stack(maps), correct, count)
        return sorted(found, key=MapCluster.order)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each image, without the maps.

        Columns: ``key``, ``path``, ``label``, ``label_index``, ``predicted_index``, ``predicted``,
        ``probability``, ``correct``, ``explained`` (label of the first explained class),
        ``method``, ``layers`` (with commas), ``focus``, ``boxes``, ``verdict``, ``error``,
        ``message``; and for each test of the maps its value, as ``evidence_cover``.

        Raises:
            PackageMissing: If pandas is not installed.
        """
        pandas = require("pandas")
        columns = ("key", "path", "label", "label_index", "predictions", "correct", "classes",
                   "method", "layers", "focus", "boxes", "verdict", "evidence", "error",
                   "message")  # fmt: skip
        rows = []
        tests: dict[str, None] = {}
        for row in self._folder.columns(*columns):
            if (evidence := row.pop("evidence")) is not None:
                values = Evidence.from_dict(json.loads(evidence)).tests
                row |= {f"evidence_{test.name}": test.value for test in values}
                tests |= dict.fromkeys(f"evidence_{test.name}" for test in values)
            best = (row.pop("predictions") or [{}])[0]
            explained = (row.pop("classes") or [{}])[0]
            row["layers"] = None if row["layers"] is None else ",".join(row["layers"])
            row |= {
                "predicted_index": best.get("index"),
                "predicted": best.get("label"),
                "probability": best.get("probability"),
                "explained": explained.get("label"),
            }
            rows.append(row)
        order = ["key", "path", "label", "label_index", "predicted_index", "predicted",
                 "probability", "correct", "explained", "method", "layers", "focus", "boxes",
                 "verdict", "error", "message", *tests]  # fmt: skip
        frame = pandas.DataFrame(rows, columns=order)
        for name in ("label_index", "predicted_index"):
            frame[name] = frame[name].astype("Int64")
        frame["correct"] = frame["correct"].astype("boolean")
        return frame

    def to_fiftyone(
        self,
        name: str | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        persistent: bool = False,
        overwrite: bool = False,
    ) -> Any:
        """A ``fiftyone.Dataset`` with a sample for each image, for the FiftyOne App.

            dataset = report.to_fiftyone("where it looks")
            fiftyone.launch_app(dataset.match(F("correct") == False).sort_by("focus"))

        Fields, as far as known: ``ground_truth``, ``prediction`` (as ``evaluate_classifications``
        takes them), ``predictions`` (the five most probable), ``heatmap`` and ``boxes`` of the
        ``explained`` class, ``focus``, ``correct``, ``verdict``, a value ``evidence_cover`` or the
        like for each test, ``key``, ``method``, ``layers``, ``error``, ``message``.

        Args:
            name: The dataset's name in FiftyOne; None for one of FiftyOne's choice.
            folder: Where photos are written that are not files on this machine, such as those of
                archives: FiftyOne shows files. Photos that are not there any more have no sample.
            persistent: Whether FiftyOne keeps the dataset beyond this session.
            overwrite: Whether a dataset of that name is replaced.

        Raises:
            InvalidArgument: If the name is taken, or ``folder`` is needed.
            PackageMissing: If FiftyOne is not installed.
            DiskUnavailable, SaveFailed: If the system refuses to write photos.
        """
        check_flag("persistent", persistent)
        check_flag("overwrite", overwrite)
        place = None if folder is None else folder_path(folder, "folder").absolute()
        return fiftyone_dataset(self, name, place, persistent=persistent, overwrite=overwrite)

    def to_spotlight(self, *, overlays: bool = True) -> tuple[Any, dict[str, str]]:
        """A table for Renumics Spotlight, and the types of its columns.

            frame, types = report.to_spotlight()
            spotlight.show(frame, dtype=types)

        The columns of ``to_pandas``, and ``overlay`` (a JPEG file of at most 256 pixels), ``box``
        (the first of the boxes, as Spotlight takes it), and ``map`` (the heat on 14 × 14 cells, by
        which Spotlight lays out images whose maps are alike next to each other).

        Args:
            overlays: Whether overlays are drawn, which takes the photos, and memory for all of
                them.

        Returns:
            A ``pandas.DataFrame``, and the type of each column by its name, for columns whose type
            does not follow from their values.

        Raises:
            PackageMissing: If pandas is not installed. Spotlight itself is not needed.
        """
        check_flag("overlays", overlays)
        return spotlight_table(self, overlays=overlays)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Writes a page to share: one file, with all pictures in it and no scripts.

        It has counts, mean maps, a table of the classes, the first clusters, overlays of
        wrong predictions and of the most and least focused images, and the errors.

        Args:
            path: The file, ending in ``.html``. An earlier such page is replaced.

        Returns:
            The path.

        Raises:
            InvalidArgument: If there is another file, or the name ends otherwise.
            DiskUnavailable, SaveFailed: If the system refuses to write.
        """
        file = check_page(path)
        write_page(self, file)
        return file

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | None = None,
        private: bool | None = None,
        photos: bool = True,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> str:
        """Writes the rows into a dataset repo on the Hub, whose viewer shows them, by one commit.

            report.push_to_hub("owner/rows")
            rows = datasets.load_dataset("owner/rows", split="train")

        Each row has the photo, a small overlay, and all columns but the path of its file. Photos
        are encoded anew, without metadata such as the place. Paths of this machine are not written.
        ``DatasetReport.open(folder, source="owner/rows")`` opens the folder ``data`` of a download.

        Args:
            repo_id: ``owner/name`` of the dataset repo; made if there is none.
            token: Access token with the role "write"; None for that of the environment or login.
            private: Whether only the owner may see the repo. None: private if it is made now,
                otherwise as it is.
            photos: Whether the photos themselves are written.
            overwrite: Whether a repo may be written to that has other files than such rows; its
                card and the rows in it are replaced, other files stay. Earlier rows of ours are
                replaced in any case.
            progress: Called with the part that is done and a few words before the upload.

        Returns:
            The repo's address.

        Raises:
            InvalidArgument: If ``repo_id`` does not work.
            HubRefused: If a token is missing, or does not allow this; if the repo holds something
                else, or is not as private as requested.
            HubUnavailable: If the Hub does not answer as it should; the repo is as before.
        """
        check_flag("photos", photos)
        check_flag("overwrite", overwrite)
        pushed = PushedRows(self, self._folder, photos, progress)
        return pushed.push(HubWriter(repo_id, "dataset", token), private, overwrite)

    def columns(self, *names: str) -> Iterator[dict[str, Any]]:
        """Some columns of all rows, as dictionaries; one file at a time is in memory."""
        return self._folder.columns(*names)

    def fetch(self, keys: Iterable[str]) -> None:
        """Reads images that are not files of their own, for overlays: all in one pass.

        The source is read on from where the last call stopped, which suits keys in the order of the
        rows, and then from its beginning. Images of earlier calls are forgotten.

        Args:
            keys: The images; those that are not found are passed over.
        """
        self._fetched = {}
        wanted = {key for key in keys if self[key].path is None}
        for again in (False, True):
            if not wanted:
                return
            with suppress(CamHubError):
                if self._ahead is None or again:
                    self._ahead = self._opened(min(wanted)).keyed()
                for key, sample in self._ahead:
                    if key in wanted and sample.error is None:
                        self._fetched[key] = sample.picture
                        wanted.discard(key)
                    if not wanted:
                        return

    def find_image(self, key: str, path: str | None) -> object:
        """The image of a row, as ``explain`` takes it.

        Args:
            key: Its key.
            path: The path in the row, or None.

        Raises:
            ImageRefused: If it is neither there nor in the source.
        """
        place = _place_of(path)
        if place is not None and self._source is None:
            return place
        if key in self._fetched:
            return self._fetched[key]
        source = self._opened(key)
        if place is not None and self.job["source"] == source.facts:
            return place
        sample = source.find(key)
        if sample is None or sample.error is not None or sample.picture is None:
            raise ImageRefused(f"the source has no image {key!r} any more")
        return sample.picture

    def _opened(self, key: str) -> DataSource:
        """The source; ``ImageRefused`` for this key if it is not there any more."""
        if self._source is None:
            place = self.job["source"].get("path")
            if place is None:
                reason = "its source was an object: give it to DatasetReport.open(out, source=…)"
                raise ImageRefused(f"{key!r} is not a file, and {reason}")
            try:
                self._source = open_source(place)
            except (InvalidArgument, SourceUnavailable) as error:
                moved = "give its place to DatasetReport.open(out, source=…)"
                raise ImageRefused(
                    f"{key!r} cannot be found: {error} If it was moved, {moved}"
                ) from error
        return self._source

    def __repr__(self) -> str:
        accuracy = self.accuracy
        known = "" if accuracy is None else f", accuracy={accuracy:.3f}"
        model = self.job["model"]["id"]
        return f"DatasetReport({counted(len(self), 'row')}, model={model!r}{known})"


def _place_of(path: str | None) -> str | RemoteFile | None:
    """What the path of a row leads to; None if it is not there any more."""
    if path is None:
        return None
    if is_address(path):
        return RemoteFile.at(path)
    return path if Path(path).is_file() else None


def _group_of(row: DatasetRow, by: By) -> str | None:
    if by == "label":
        return row.label
    if by == "correct":
        return None if row.correct is None else ("correct" if row.correct else "wrong")
    named = row.classes if by == "explained" else row.predictions
    return named[0].label if named else None
