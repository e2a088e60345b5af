"""Samples: images with their keys and labels, from folders, datasets, loaders and iterables.

Everything that ``explain_many`` accepts becomes a stream of :class:`Sample` here, one image each.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from cam_hub.errors import CamHubError, ImageRefused, InvalidArgument
from cam_hub.images.decoding import file_endings, local_path, message_of
from cam_hub.results.serialization import saved_files
from cam_hub.targets.classes import LabelledClass, as_index

__all__ = ["Sample", "image_files", "labelled_files", "open_samples"]

_WANTED = "a folder, a glob, or several images, as in a list, a Dataset or a DataLoader"

# Names of columns in rows of datasets, in the order in which they are looked for.
_IMAGE_COLUMNS = ("image", "img", "pixel_values", "picture", "photo", "input", "x")
_LABEL_COLUMNS = ("label", "labels", "target", "class", "cls", "fine_label", "y")
_KEY_COLUMNS = ("key", "__key__", "id", "image_id", "file_name", "filename", "path")


@dataclass(frozen=True, eq=False)
class Sample:
    """One of many images.

    Attributes:
        key: Identifies it among the others: what came with it, its file's path relative to the
            folder, or its position.
        picture: The image as it was given: a path, an array, a PIL image …
        label: Its class, an index or a label; None if none is known.
        expected: The same for ``classes``, with its place in the dataset.
        explain_label: Whether the class was given for this image alone, so that it is explained
            unless other classes are asked for.
        error: Why the dataset did not yield this image; None if it did.
    """

    key: object
    picture: object
    label: int | str | None = None
    expected: LabelledClass | None = None
    explain_label: bool = False
    error: CamHubError | None = None


class _Samples:
    """An iterable of samples whose length is known."""

    def __init__(self, samples: Iterable[Sample], count: int) -> None:
        self._samples = samples
        self._count = count

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    def __len__(self) -> int:
        return self._count


def open_samples(images: Any, *, clips: bool = False, argument: str = "images") -> Iterable[Sample]:
    """Turns anything that holds several images into samples.

    Args:
        images: A folder, searched with the folders in it, whose first level gives the labels; a
            glob such as ``"photos/**/*.jpg"``; an array ``(N, H, W, C)`` or a tensor
            ``(N, C, H, W)``; a mapping of keys to images; a ``torch.utils.data.Dataset``, a
            ``DataLoader``, a dataset of the library ``datasets``; or any other iterable, which is
            advanced as needed. Its items are images as for ``explain``, ``(key, image)``,
            ``(key, image, class)``, ``(image, label)``, rows such as ``{"image": …, "label": …}``,
            whole batches of these, or samples, which pass through unchanged.
        clips: Whether the model takes clips, so that a list of images is a single clip.
        argument: The name of the argument, for the error.

    Returns:
        The samples in their order; with a length where it is known.

    Raises:
        InvalidArgument: If ``images`` is a single image, or does not hold images at all.
    """
    if isinstance(images, (str, os.PathLike)):
        return image_files(images)
    single = isinstance(images, (bytes, bytearray, memoryview)) or hasattr(images, "read")
    if isinstance(images, (Tensor, np.ndarray)):
        single = images.ndim != (5 if clips else 4)
    if isinstance(images, Mapping):
        if any(hasattr(value, "features") for value in images.values()):
            splits = ", ".join(map(repr, images))
            raise InvalidArgument(argument, type(images).__name__, f"one of its splits ({splits})")
        return _Samples((Sample(k, v) for k, v in images.items()), len(images))
    by_index = _is_read_by_index(images)
    if single or not (by_index or isinstance(images, Iterable)):
        raise InvalidArgument(argument, type(images).__name__, _WANTED)
    samples = _Reader(images, clips).samples(by_index)
    count = _count(images)
    return samples if count is None else _Samples(samples, count)


def image_files(source: str | os.PathLike[str]) -> Sequence[Sample]:
    """The image files of a folder and the folders in it, or of a glob, as samples.

    Files are recognised by the endings of their names and sorted by path. Hidden ones are left
    out, and so are files of results that were saved in the folder. Keys are paths relative to the
    folder, with ``/`` between their parts. The label of a file is the name of the folder on the
    first level that it lies in.

    Raises:
        InvalidArgument: If there is no such folder, or no image in it.
    """
    folder = local_path(os.fsdecode(source))
    endings = file_endings()
    try:
        is_folder = folder.is_dir()
    except OSError as error:  # a name too long
        raise InvalidArgument("images", str(source), _WANTED) from error
    if is_folder:
        root = folder
        found = [path for path in _walk(folder) if path.suffix.lower() in endings]
    elif glob.has_magic(str(folder)):
        # Path.glob has no pattern that is absolute.
        files = (Path(name) for name in glob.iglob(str(folder), recursive=True))  # noqa: PTH207
        found = sorted(path for path in files if path.suffix.lower() in endings and path.is_file())
        root = _root_of_glob(folder)
    else:
        raise InvalidArgument("images", str(source), _WANTED)
    if not found:
        raise InvalidArgument("images", str(source), "a folder or a glob with pictures in it")
    return labelled_files((path.relative_to(root).parts, path) for path in found)


def labelled_files(files: Iterable[tuple[Sequence[str], object]]) -> Sequence[Sample]:
    """Files as samples, whose labels are the names of the folders on the first level.

    Args:
        files: The parts of each file's path in its root folder, and the picture.
    """
    found = list(files)
    labels = sorted({first for (first, *rest), _ in found if rest})
    classes = {
        label: LabelledClass(label, index, len(labels)) for index, label in enumerate(labels)
    }
    return [
        Sample("/".join(part), picture, part[0], classes[part[0]])
        if len(part) > 1
        else Sample(part[0], picture)
        for part, picture in found
    ]


def _walk(folder: Path) -> list[Path]:
    """All visible files below a folder, sorted, without those of results saved there.

    Folders behind links are entered once.
    """
    found, entered = [], set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        own = saved_files(Path(here))
        found += [
            Path(here, name) for name in files if not name.startswith(".") and name not in own
        ]
    return sorted(path for path in found if path.is_file())


def _root_of_glob(pattern: Path) -> Path:
    """The folder that a glob starts from: everything before its first wildcard."""
    plain = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


class _Reader:
    """Reads samples from the items of a dataset, a loader or any iterable."""

    def __init__(self, source: Any, clips: bool) -> None:
        self._source = source
        self._clips = clips
        self._names = _class_names(source)
        self._paths = _paths(source)
        self._position = 0

    def samples(self, by_index: bool) -> Iterator[Sample]:
        if not by_index:
            for item in self._source:
                yield from self._read(item)
            return
        for index in range(len(self._source)):
            try:
                item = self._source[index]
            except IndexError:
                return
            except Exception as error:  # noqa: BLE001 - datasets raise whatever their readers do
                yield self._sample(index, None, error=_unreadable(index, error))
                continue
            yield from self._read(item)

    def _read(self, item: Any) -> Iterator[Sample]:
        """The samples of one item: one, or those of a batch."""
        if isinstance(item, Sample):
            yield item
            return
        try:
            image, label, key, explain_label = self._parts(item)
        except CamHubError as error:
            yield self._sample(None, item, error=error)
            return
        batch = self._batch(image)
        if batch is None:
            yield self._sample(key, image, label, explain_label)
            return
        count = len(batch)
        labels, keys = _each(label, count), _each(key, count)
        for each in zip(batch, labels, keys, strict=True):
            yield self._sample(each[2], each[0], each[1], explain_label)

    def _parts(self, item: Any) -> tuple[Any, Any, Any, bool]:
        """Image, label, key, and whether the label is to be explained."""
        if isinstance(item, Mapping):
            return (*_columns(item), False)
        if not self._is_group(item):
            return item, None, None, False
        if len(item) == 1:
            return item[0], None, None, False
        first, second, *rest = item
        if self._is_image(first) or (rest == [] and _is_file_and_label(first, second)):
            key = next((part for part in rest if _is_plain_key(part)), None)
            return first, second, key, False
        return second, rest[0] if rest else None, first, bool(rest)

    def _is_group(self, item: Any) -> bool:
        """Whether a tuple or list holds an image and what goes with it, not images alone."""
        if not isinstance(item, (tuple, list)) or not 1 <= len(item) <= 3:
            return False
        if isinstance(item, tuple) and not self._clips:
            return True
        if len(item) == 1:  # a list of one: a batch of one image, or a clip of one frame
            return isinstance(item[0], Tensor) and item[0].ndim >= 4
        return not all(self._is_image(part) or isinstance(part, os.PathLike) for part in item)

    def _is_image(self, value: Any) -> bool:
        """Whether a value can be an image (or a batch), and neither a key nor a label."""
        if isinstance(value, (Tensor, np.ndarray)):
            return value.ndim >= 2
        if isinstance(value, (list, tuple)):
            return bool(value) and self._is_image(value[0])
        if isinstance(value, Mapping):
            return _is_encoded(value)
        return isinstance(value, (Image.Image, bytes, bytearray, memoryview)) or hasattr(
            value, "read"
        )

    def _batch(self, image: Any) -> Sequence[Any] | None:
        """The images of a batch; None for a single image."""
        if isinstance(image, (Tensor, np.ndarray)):
            return list(image) if image.ndim == (5 if self._clips else 4) else None
        if isinstance(image, (list, tuple)) and not self._clips:
            return image
        return None

    def _sample(
        self,
        key: Any,
        image: Any,
        label: Any = None,
        explain_label: bool = False,
        error: CamHubError | None = None,
    ) -> Sample:
        position = self._position
        self._position += 1
        if self._paths is not None and position < len(self._paths):
            key = self._paths[position] if key is None or error is not None else key
        if key is None:
            key = _path_of(image) or position
        expected = self._expected(label)
        label = expected.label if expected is not None else None
        return Sample(key, image, label, expected, explain_label and label is not None, error)

    def _expected(self, label: Any) -> LabelledClass | None:
        """What a label means; None for none, and for masks, boxes and soft labels."""
        names = self._names
        if isinstance(label, bytes):
            label = label.decode("utf-8", "replace").strip()
        index = as_index(label)
        if index is not None:
            if names is not None and 0 <= index < len(names):
                return LabelledClass(names[index], index, len(names))
            return LabelledClass(index)
        if isinstance(label, str):
            position = names.index(label) if names is not None and label in names else None
            return LabelledClass(label, position, len(names) if names is not None else None)
        return None


def _columns(row: Mapping[Any, Any]) -> tuple[Any, Any, Any]:
    """Image, label and key of a row of a dataset."""
    if _is_encoded(row):
        return row, None, None

    def named(names: Sequence[str]) -> Any:
        return next((row[name] for name in names if row.get(name) is not None), None)

    image = named(_IMAGE_COLUMNS)
    if image is None:  # WebDataset names columns by the files' endings; others as they like
        endings = {ending.lstrip(".") for ending in file_endings()}
        image = next((row[name] for name in row if str(name).lower() in endings), None)
    if image is None:
        kinds = (Image.Image, np.ndarray, Tensor)
        image = next(
            (v for v in row.values() if isinstance(v, kinds) and getattr(v, "ndim", 2) >= 2), None
        )
    if image is None:
        raise InvalidArgument("images", sorted(map(str, row)), "rows with a column 'image'")
    return image, named(_LABEL_COLUMNS), named(_KEY_COLUMNS)


def _is_encoded(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping is an image as the library ``datasets`` stores it."""
    return bool(value) and set(value) <= {"bytes", "path"}


def _is_plain_key(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _is_file_and_label(first: Any, second: Any) -> bool:
    """Whether a pair is a file and its class, rather than a key and a file."""
    if as_index(second) is not None:
        return isinstance(first, (str, os.PathLike))
    if not isinstance(first, (str, os.PathLike)) or not isinstance(second, str):
        return False
    endings = file_endings()
    return Path(first).suffix.lower() in endings and Path(second).suffix.lower() not in endings


def _is_read_by_index(images: Any) -> bool:
    """Whether items are fetched one by one, so that a damaged one does not end the others."""
    if not (hasattr(images, "__getitem__") and isinstance(images, Sized)):
        return False
    if isinstance(images, Dataset):
        return not isinstance(images, IterableDataset)
    return not isinstance(images, Iterable) or hasattr(images, "features")


def _count(images: Any) -> int | None:
    """How many images there are, where that is known before they are read."""
    inner = getattr(images, "dataset", None)
    if inner is not None and hasattr(images, "batch_size"):  # a loader's length counts batches
        images = inner
    try:
        return len(images)
    except (TypeError, NotImplementedError):
        return None


def _class_names(source: Any) -> Sequence[str] | None:
    """The labels of a dataset's class indices, if it has some.

    Those of the dataset inside a loader or a subset, and of datasets in a row that all have the
    same.
    """
    names = getattr(source, "classes", None)
    parts = getattr(source, "datasets", None)
    if names is None and isinstance(parts, (list, tuple)) and parts:
        first, *others = map(_class_names, parts)
        return first if all(other == first for other in others) else None
    inner = getattr(source, "dataset", None)
    if names is None and inner is not None and inner is not source:
        return _class_names(inner)
    features = getattr(source, "features", None)
    if names is None and isinstance(features, Mapping):
        columns = [getattr(features.get(name), "names", None) for name in _LABEL_COLUMNS]
        names = next((found for found in columns if found), None)
    if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
        return names
    return None


def _paths(source: Any) -> Sequence[str] | None:
    """The files of a dataset that lists them as torchvision's do, relative to its folder."""
    if isinstance(source, Subset) and (whole := _paths(source.dataset)) is not None:
        with suppress(IndexError, TypeError):
            return [whole[index] for index in source.indices]
    listed = getattr(source, "samples", None)
    root = getattr(source, "root", None)
    if not isinstance(listed, list) or not isinstance(root, (str, os.PathLike)):
        return None
    if not all(isinstance(entry, tuple) and isinstance(entry[0], str) for entry in listed):
        return None
    return [Path(os.path.relpath(entry[0], root)).as_posix() for entry in listed]


def _path_of(image: Any) -> str | None:
    if isinstance(image, Mapping):
        image = image.get("path")
    return os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else None


def _each(values: Any, count: int) -> Sequence[Any]:
    """One value for each image of a batch; None for all where there is not one for each."""
    if isinstance(values, (Tensor, np.ndarray)):
        values = list(values) if values.ndim else None
    if isinstance(values, (list, tuple)) and len(values) == count:
        return values
    return [None] * count


def _unreadable(index: int, error: Exception) -> CamHubError:
    if isinstance(error, CamHubError):
        return error
    return ImageRefused(f"item {index} of the dataset cannot be read: {message_of(error)}")
