"""``explain_dataset``: explains every image of a dataset, one Parquet row each; resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from torch import Tensor, nn

from cam_hub._text import clean_line
from cam_hub._validation import check_flag, check_whole, check_word, with_hints
from cam_hub._version import __version__
from cam_hub.attribution.choice import AUTO, method_name
from cam_hub.attribution.explain_many import explain_many
from cam_hub.attribution.request import (
    ExplainArguments,
    ExplainOptions,
    model_of,
    takes_arguments,
)
from cam_hub.datasets.parts import PartFolder, PartWriter, check_folder
from cam_hub.datasets.ray_runner import RayRunner, run_on_ray
from cam_hub.datasets.report import DatasetReport
from cam_hub.datasets.rows import MAP_TYPES, RowMaker, require
from cam_hub.datasets.runner import Job, run_locally
from cam_hub.datasets.sources import open_source
from cam_hub.errors import CamHubError, InvalidArgument
from cam_hub.hooks.modes import default_modes
from cam_hub.images.decoding import open_image
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.options import name_of, recorded
from cam_hub.results.serialization import folder_path
from cam_hub.targets.classes import Expected, LabelledClass, Top

__all__ = ["explain_dataset"]

_SCHEMA = 1
_RUNNERS = ("local", "ray")

_VALUES = 64  # compared in each weight


@with_hints
@default_modes()
@takes_arguments("many", without=["region"])
def explain_dataset(
    model_id: LoadedModel | str,
    source: object,
    out: str | os.PathLike[str],
    *,
    runner: RayRunner | str = "local",
    method: str = AUTO,
    map_type: str = "float32",
    part_size: int = 1000,
    retry_errors: bool = False,
    threads: int | None = None,
    workers: int = 0,
    preprocessing: str = "exact",
    **arguments: Unpack[ExplainArguments],
) -> DatasetReport:
    """Explains all images of a dataset and writes one Parquet row for each.

    Images that cannot be explained have a row, too, with the error. The job can be stopped or
    killed at any moment: the same call goes on with the images that have no row yet.

        report = explain_dataset("resnet50.a1_in1k", "photos", "rows", method="layercam")
        report.accuracy
        report["cats/1.jpg"].overlay()

    Args:
        model_id: As for ``explain``: an ID or a model.
        source: A folder of images, whose folders on the first level give the labels; a glob; a
            ``.csv``, ``.tsv`` or ``.parquet`` file, or a glob or folder of these, with a column of
            paths (``path``, ``file_name`` …) or of image files' bytes (``image``, ``bytes``) and
            maybe ``label`` and ``key``; ``.tar`` archives of WebDataset, also as
            ``"shard-{000..127}.tar"``; an address of any of these, such as ``"s3://bucket/photos"``;
            a dataset on the Hub such as ``"owner/name@revision:config/split"``; a folder that
            ``datasets`` saved by ``save_to_disk``; or an object that ``explain_many`` takes. Keys
            that repeat get ``#2``, ``#3`` … at their end.
            An object must give the same images in the same order for a job to be resumed.
        out: The folder of the rows, which is made if need be.
        runner: ``"local"``: in this process. ``"ray"``: in other processes of this machine, by Ray;
            or a ``RayRunner``, which sets how many, and where. Runs of one job may differ in it.
        method: As for ``explain``.
        target_layers: As for ``explain_many``, and so are the others, as far as not described.
        classes: The classes; ``expected`` stands for each image's label.
        contrast: A class to contrast with.
        sign: Evidence for or against.
        target: The explained score.
        output: An output of the network.
        call: A call of a layer.
        sampling: How the number of noisy copies is found.
        evidence: Tests of each map, such as ``("cover", "class_check")``. How focused a map is
            costs nothing and is always there.
        reference: A picture to compare with.
        num_samples: The number of noisy copies.
        std: Their noise.
        seed: The seed.
        batch_size: Maximum number of images in one pass.
        autocast: Lower precision.
        map_type: ``"float32"``; or ``"uint8"`` for maps of a quarter of the size, within 0.2 % of
            their range.
        part_size: Maximum number of rows in one file. Rows are written when there are so many, and
            at least once a minute.
        retry_errors: Whether images whose row has an error are explained again.
        threads: How many threads read images; None for one per processor, at most eight.
        workers: How many processes read images in place of threads, as for ``explain_many``.
        preprocessing: ``"exact"``; or ``"draft"`` or ``"device"``, which are faster for large
            photos and less exact, as for ``explain_many``.
        progress: Called with the part that is done (0 where the number of images is unknown) and
            words such as ``"1,200 of 50,000 images, 310 images/s, 2 min 37 s left"``; what it
            raises stops the work.

    Returns:
        The report on all rows.

    Raises:
        InvalidArgument: If ``out`` belongs to another job, ``source`` has no images, or an
            argument does not work. Nothing is written then.
        PackageMissing: If pyarrow, Ray, or what the source needs is not installed.
        SourceUnavailable: If the source is on another machine, and cannot be read.
        ModelRefused, OutOfMemory: If the model fails on 32 images in a row, of which no row is
            written; or if Ray's workers cannot get it.
        ClusterUnavailable: If Ray does not start, or the cluster cannot be reached.
        DiskUnavailable, SaveFailed: If the system refuses to write. The rows before are kept.
        CamHubError: As ``explain_many``, at the call.
    """
    require("pyarrow.parquet")
    if not isinstance(runner, RayRunner):
        check_word("runner", runner, _RUNNERS)
    on_ray = RayRunner() if runner == "ray" else runner
    check_word("map_type", map_type, MAP_TYPES)
    check_whole("part_size", part_size)
    check_flag("retry_errors", retry_errors)
    folder = folder_path(out, "out")
    progress = arguments.pop("progress", None)
    options = ExplainOptions.checked(**arguments)
    model = model_of(model_id, options.options["output"])
    method = method_name(method)
    if isinstance(on_ray, RayRunner):
        on_ray.needs(model)
        if workers:
            expected = (
                "0 with Ray, whose workers read the images (RayRunner has a number of its own)"
            )
            raise InvalidArgument("workers", workers, expected)
    images = open_source(source, clips=len(model.input_size) == 4)
    many: dict[str, Any] = {
        **arguments,
        "method": method,
        "threads": threads,
        "workers": workers,
        "preprocessing": preprocessing,
    }
    for _ in explain_many(model, [], **many):  # refuses what works with no image
        pass
    identity: dict[str, Any] = {
        "schema": _SCHEMA,
        "model": _model_facts(model),
        "source": dict(images.facts),
        "map_type": map_type,
        "arguments": {"method": method, "preprocessing": preprocessing, **_recorded(options)},
    }
    # As it is read again: with lists in place of tuples.
    job = {"identity": json.loads(json.dumps(identity)), "version": __version__}
    check_folder(folder, job)
    writer = PartWriter(folder, job)
    try:
        if retry_errors:
            writer.drop_errors()
        done = {row["key"] for row in PartFolder(folder).columns("key")}
        maker = RowMaker(model, map_type)
        run = Job(images, maker, writer, done, many, part_size, progress)
        if isinstance(on_ray, RayRunner):
            run_on_ray(run, on_ray)
        else:
            run_locally(run)
    finally:
        writer.close()
    return DatasetReport(PartFolder(folder), images, model)


def _model_facts(model: LoadedModel) -> dict[str, Any]:
    """What identifies a model, its weights included."""
    return {
        "id": model.id,
        "source": model.source,
        "revision": model.revision,
        "weights": _digest_of_weights(model),
        "preprocessing": clean_line(model.preprocessing.as_dict()),
    }


def _digest_of_weights(model: LoadedModel) -> str:
    """A hash of names, shapes and up to 64 values of each weight, however it was made."""
    found = hashlib.sha256()
    module = model.module
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel() and not (tensor.is_meta or tensor.is_quantized):
            flat = tensor.detach().flatten()
            found.update(str(flat[:: -(-len(flat) // _VALUES)].tolist()).encode())
    return found.hexdigest()


def _recorded(options: ExplainOptions) -> dict[str, Any]:
    """The arguments that determine the rows, as JSON types.

    Others may differ between the runs of one job: maps are the same but for rounding.
    """
    noise = options.noise
    return {
        **recorded(options.options),
        "autocast": options.options["autocast"],
        "target_layers": _plain(options.target_layers),
        "classes": _plain(options.classes),
        "contrast": _plain(options.contrast),
        "reference": _plain(options.reference),
        "noise": [noise.num_samples, noise.std, noise.seed],
    }


def _plain(value: Any) -> Any:
    """A value of an argument as JSON types; equal values have equal texts."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Top):
        return f"top({value.count})"
    if isinstance(value, Expected):
        return "expected"
    if isinstance(value, LabelledClass):
        return value.label
    if isinstance(value, os.PathLike):
        return str(Path(value))
    if isinstance(value, Tensor):
        return _digest(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray):
        return _digest(value)
    if isinstance(value, nn.Module):
        return type(value).__name__
    if callable(value):
        return {"function": name_of(value)}
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    try:
        return _digest(np.asarray(open_image(value)))
    except CamHubError:
        return clean_line(repr(value), 200)


def _digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
