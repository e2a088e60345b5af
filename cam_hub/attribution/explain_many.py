"""``explain_many``: a folder of pictures, or any number of them, at the speed of batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from cam_hub._validation import with_hints
from cam_hub.attribution.batch_explainer import BatchExplainer
from cam_hub.attribution.passes import Progress
from cam_hub.attribution.prefetch import read_ahead
from cam_hub.attribution.request import Request, check_count, model_of
from cam_hub.attribution.samples import Sample, open_samples
from cam_hub.errors import CamHubError
from cam_hub.hooks.modes import default_modes
from cam_hub.layers.selection import LayerChoice
from cam_hub.methods import METHODS
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.options import OutputChoice
from cam_hub.results.explanation import Explanation
from cam_hub.targets.classes import ClassChoice, ContrastChoice, is_iterable

__all__ = ["Outcome", "explain_many"]

_MOST_THREADS = 8

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What has become of one of many pictures.

    Attributes:
        picture: As it was given; of a folder the file's path.
        result: Its explanation, or the error that states why there is none.
        key: Identifies the picture: the key that came with it; of a folder or a glob the file's
            path relative to it; else its file, or its position.
        label: The class that it is labelled with, as an index or a label; None if it has none.
    """

    picture: object
    result: Explanation | CamHubError
    key: object = None
    label: int | str | None = None

    @property
    def error(self) -> CamHubError | None:
        """Why there is no explanation; None if there is one."""
        return self.result if isinstance(self.result, CamHubError) else None

    @property
    def explanation(self) -> Explanation:
        """The explanation.

        Raises:
            CamHubError: The picture's error, if it has one.
        """
        if isinstance(self.result, CamHubError):
            raise self.result
        return self.result


@with_hints
@default_modes()
def explain_many(
    model_or_id: LoadedModel | str,
    images: str | os.PathLike[str] | Iterable[object],
    *,
    method: str = "smoothgradcampp",
    target_layers: LayerChoice = None,
    classes: ClassChoice = None,
    contrast: ContrastChoice = None,
    sign: str = "for",
    target: str = "logit",
    output: OutputChoice = None,
    call: int | None = None,
    sampling: str = "fixed",
    reference: object = None,
    num_samples: int = 4,
    std: float = 0.3,
    seed: int = 0,
    batch_size: int = 8,
    autocast: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Explains pictures in batches, while threads read those that come next.

    Each explanation is the one that ``explain`` gives for the picture alone, but for rounding. A
    picture that cannot be explained has an error of its own, and the others go on:

        for outcome in explain_many("resnet50.a1_in1k", "photos", method="layercam"):
            if outcome.error is None:
                outcome.explanation.overlay().save(f"overlays/{outcome.picture.stem}.png")

    Memory is bounded: at most ``batch_size`` pictures are being explained, and as many that come
    next are held (at least one per thread).

    Args:
        model_or_id: As for ``explain``.
        images: A folder, whose pictures, and those of the folders in it, are taken in the order
            of their paths; folders on the first level give the labels. Or a glob such as
            ``"photos/**/*.jpg"``; a ``torch.utils.data.Dataset``, a ``DataLoader`` (with or
            without labels), a data set of the library ``datasets``; a mapping of keys to images;
            or any iterable, which is advanced as needed, of what ``explain`` takes as ``image``,
            of ``(key, image)``, ``(key, image, class)`` and ``(image, label)``, of rows such as
            ``{"image": …, "label": …}``, or of batches of these.
        method: As for ``explain``.
        target_layers: As for ``explain``; None looks for another layer where the recommended one
            is blank, picture by picture.
        classes: As for ``explain``; None stands for each picture's own predicted class, or the
            class of ``(key, image, class)``. ``expected`` stands for each picture's label, so
            that ``[top(1), expected]`` explains what was predicted and what is true.
        contrast: As for ``explain``; the error of a picture whose predicted class it is.
        sign: As for ``explain``.
        target: As for ``explain``.
        output: As for ``explain``.
        call: As for ``explain``.
        sampling: As for ``explain``.
        reference: As for ``explain``, for all pictures.
        num_samples: As for ``explain``.
        std: As for ``explain``.
        seed: As for ``explain``; all pictures get the same noise.
        batch_size: How many pictures are collected, and most images, noisy copies included, that
            pass the network at once; fewer where memory does not suffice.
        autocast: As for ``explain``.
        threads: How many read pictures; None for one per processor, at most eight.
        progress: Called after each pass with the part of the pictures that is done (0 where
            ``images`` does not tell how many there are) and a few words; what it raises stops the
            work.

    Returns:
        One outcome per picture, in their order. Closing the iterator, or letting go of it, stops
        the work.

    Raises:
        InvalidArgument: At the call, like all errors that are not about a single picture: a number
            makes no sense, ``images`` is neither a folder with pictures in it nor several
            pictures, or the model has no use for a reference.
        LayerNotFound, ClassNotFound, MethodNotFound, NoMap, ImageRefused: If what was named is
            not there, or the reference does not work.
        ModelNotFound, ModelRefused, HubUnavailable: As ``load_model``.
    """
    request = Request.checked(
        target_layers=target_layers,
        classes=_held(classes),
        contrast=contrast,
        sign=sign,
        target=target,
        output=output,
        call=call,
        sampling=sampling,
        reference=reference,
        num_samples=num_samples,
        std=std,
        seed=seed,
        batch_size=batch_size,
        autocast=autocast,
        reuse=False,
    )
    chosen = METHODS[method].signed(request.sign)
    threads = min(_MOST_THREADS, os.cpu_count() or 1) if threads is None else threads
    check_count("threads", threads)
    model = model_of(model_or_id, request.output)
    pictures = open_samples(images, clips=len(model.input_size) == 4)
    explainer = BatchExplainer.checked(model, chosen, request)
    return _outcomes(explainer, pictures, threads, progress)


def _outcomes(
    explainer: BatchExplainer, pictures: Iterable[Sample], threads: int, progress: Progress | None
) -> Iterator[Outcome]:
    total = len(pictures) if isinstance(pictures, Sized) else None
    size = explainer.request.batch_size
    before = 0

    def done(count: float) -> None:
        if progress is not None:
            part = min((before + count) / total, 1.0) if total else 0.0
            progress(part, f"{before + int(count)}{f' of {total}' if total else ''} pictures")

    ready = read_ahead(explainer.model, pictures, threads=threads, ahead=max(size, threads))
    with closing(ready):
        for group in _groups(ready, size):
            results = explainer.explain(group, done)
            outcomes = deque(
                Outcome(read.sample.picture, result, read.sample.key, read.sample.label)
                for read, result in zip(group, results, strict=True)
            )
            before += len(group)
            group.clear()  # the caller decides how long each is kept
            del results
            while outcomes:
                yield outcomes.popleft()


def _groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in groups of a size; those before an error of ``items`` form the last one."""
    group: list[Item] = []
    try:
        for item in items:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group


def _held(choice: Any) -> Any:
    """What names layers or classes, in a form that can be looked at more than once."""
    once = is_iterable(choice) and not isinstance(choice, (str, Sequence, Tensor))
    return list(choice) if once else choice
