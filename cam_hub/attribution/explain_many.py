"""``explain_many``: a folder or any number of images, read ahead and explained in batches."""

from __future__ import annotations

import copy
import os
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar, Unpack

import torch

from cam_hub._validation import check_whole, check_word, with_hints
from cam_hub.attribution.choice import (
    AUTO,
    DEFAULT_METHOD,
    by_choice,
    method_name,
    not_by_evidence,
    observe,
)
from cam_hub.attribution.passes import BatchLimit, Job, Pass, Progress, run, run_together
from cam_hub.attribution.preparation import input_layers, make_job, prepare
from cam_hub.attribution.read_ahead import Ready, Refused, read_ahead
from cam_hub.attribution.request import (
    ExplainArguments,
    ExplainOptions,
    model_of,
    takes_arguments,
)
from cam_hub.attribution.result import explanation_of, is_complete, off_device
from cam_hub.attribution.samples import Sample, open_samples
from cam_hub.errors import CamHubError, ClassNotFound
from cam_hub.hooks.modes import default_modes
from cam_hub.images.preprocessing import PREPROCESSING_MODES
from cam_hub.layers.listing import FAITHFUL, resolve_layers
from cam_hub.methods import METHODS, Method
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.results.explanation import Explanation
from cam_hub.targets.base import Target
from cam_hub.targets.classes import (
    ClassChoice,
    Expected,
    choose_classes,
    expected,
    find_contrast,
    names_expected,
    with_expected,
)

__all__ = ["BatchExplainer", "Outcome", "explain_many"]


Found = Explanation | CamHubError | Callable[[], Explanation]
"""An explanation, or what makes it without any pass; or why there is none."""

Done = Callable[[float], None]
"""Called with the number of pictures that are done, fractions included."""


@dataclass(frozen=True)
class _Planned:
    """The method, the job and the request of one picture."""

    method: Method
    job: Job
    request: ExplainOptions


@dataclass(frozen=True)
class BatchExplainer:
    """What is done with each batch of pictures.

    Attributes:
        model: The model.
        method: Makes the maps.
        request: The request for each picture; it holds no iterator.
        room: Most images, noisy copies included, that pass the network at once.
        by_evidence: The method, or ``"auto"``, where evidence decides for each picture; else None.
    """

    model: LoadedModel
    method: Method
    request: ExplainOptions
    room: BatchLimit
    by_evidence: str | None = None
    _targets: dict[tuple[int, ...], Target] = field(default_factory=dict)

    @classmethod
    def checked(cls, model: LoadedModel, name: str, request: ExplainOptions) -> BatchExplainer:
        """Makes sure that nothing is wrong that would be wrong with every picture.

        Args:
            model: The model.
            name: The method, or ``"auto"``.
            request: The request.

        Raises:
            CamHubError: What is wrong.
        """
        task = model.task
        task.check_request(contrast=request.contrast, reference=request.reference)
        if task.takes_reference:
            if request.reference is not None:
                request = replace(request, reference=prepare(model, request.reference))
        else:
            task.check_request(target=request.options["target"])
            names = model.class_names
            count = len(names or "1")
            try:
                if not callable(request.classes):
                    choose_classes(_without_labels(request.classes), torch.zeros(count), names)
                find_contrast(request.contrast, count, names)
            except ClassNotFound as error:
                # How many classes there are shows only when the network has answered.
                if isinstance(error.name, str):
                    raise
        method = METHODS[DEFAULT_METHOD if name == AUTO else name]
        by_evidence = name if name == AUTO or request.target_layers == FAITHFUL else None
        layers = request.target_layers if request.target_layers != FAITHFUL else None
        if method.attribute is not None and by_evidence is not None:
            raise not_by_evidence(method)
        if method.level == "pixel":
            input_layers(model, [method], request, model.input_size)
        else:
            resolve_layers(model, layers, model.input_size)
        room = BatchLimit(request.options["batch_size"])
        signed = method.signed(request.options["sign"])
        return cls(model, signed, request, room, by_evidence)

    @default_modes()
    def explain(self, pictures: Sequence[Ready | Refused], done: Done) -> list[Found]:
        """An explanation of each picture, or why there is none.

        Args:
            pictures: Any; those of one size pass the network together.
            done: What it raises stops the work.
        """
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        found: dict[int, Found] = {}
        for position, picture in enumerate(pictures):
            if isinstance(picture, Ready):
                alike[picture.prepared.tensor.shape[1:]].append(position)
            else:
                found[position] = picture.error
        for positions in alike.values():
            ready = [picture for p in positions if isinstance(picture := pictures[p], Ready)]
            chosen = self._moved(ready)
            results = self._together(chosen, partial(_report, done, len(found), 1))
            found.update(zip(positions, results, strict=True))
        return [found[position] for position in range(len(pictures))]

    def _moved(self, pictures: list[Ready]) -> list[Ready]:
        """Pictures of one size with their inputs on the model's device, moved as one batch."""
        device = self.model.device
        tensors = [picture.prepared.tensor for picture in pictures]
        if all(tensor.device == device for tensor in tensors):
            return pictures
        if all(tensor.is_cpu for tensor in tensors):
            batch = torch.cat(tensors)
            batch = batch.pin_memory() if device.type == "cuda" else batch
            inputs = torch.split(batch.to(device, non_blocking=True), 1)
        else:
            inputs = tuple(tensor.to(device) for tensor in tensors)
        return [
            replace(picture, prepared=replace(picture.prepared, tensor=tensor))
            for picture, tensor in zip(pictures, inputs, strict=True)
        ]

    def _together(self, pictures: list[Ready], done: Done) -> list[Found]:
        """The same for pictures of one size; those with one method and layer pass together."""
        found: dict[int, Found] = {}
        alike: dict[object, dict[int, _Planned]] = defaultdict(dict)
        plans: dict[int, Callable[[], _Planned]] = {}
        for position, picture in enumerate(pictures):
            try:
                plans[position] = self._plan(picture, done)
            except CamHubError as error:
                found[position] = error
        for position, plan in plans.items():  # once all of them have been put to the test
            try:
                planned = plan()
            except CamHubError as error:
                found[position] = error
            else:
                alike[planned.method.key, tuple(planned.job.layers)][position] = planned
        for group in alike.values():
            before, count = len(found), len(group)
            passes = run_together(
                [each.job for each in group.values()],
                self.room,
                progress=partial(_report, done, before, count),
            )
            for (position, planned), passed in zip(group.items(), passes, strict=True):
                # Of methods with passes of their own, those before are done, and no others.
                own = planned.method.attribute is not None
                at = (len(found), 1) if own else (before + count, 0)
                progress = partial(_report, done, *at)
                found[position] = self._result(pictures[position], planned, passed, progress)
        return [found[position] for position in range(len(pictures))]

    def _plan(self, picture: Ready, done: Done) -> Callable[[], _Planned]:
        """Puts the candidates of a picture to the test where evidence decides.

        Returns:
            What decides, and makes the job; pictures that are put to the test in the meantime
            count, too.
        """
        request, name = self._request(picture), self.by_evidence
        if name is None:
            return lambda: _Planned(self.method, self._job(picture, self.method, request), request)
        # What other pictures show counts, although passes are not stored.
        functions = callable(request.classes) or callable(request.options["output"])
        asked = replace(request, progress=lambda *_: done(_BEGUN), reuse=not functions)
        observed = observe(self.model, picture.prepared, name, asked)

        def plan() -> _Planned:
            method, chosen = by_choice(observed.choice(), request)
            return _Planned(method, self._job(picture, method, chosen), chosen)

        return plan

    def _request(self, picture: Ready) -> ExplainOptions:
        """The request for one picture, with its own label where that is to be explained."""
        sample, classes = picture.sample, self.request.classes
        if classes is None and sample.explain_label:
            classes = expected
        classes = with_expected(classes, sample.expected)
        return replace(self.request, classes=classes)

    def _job(self, picture: Ready, method: Method, request: ExplainOptions) -> Job:
        job = make_job(self.model, picture.prepared, [method], request)
        if not self.model.task.takes_reference:
            return job
        return replace(job, aim=partial(self._shared_target, job))

    def _shared_target(self, job: Job) -> Target:
        """What features are compared with costs passes, and is the same for inputs of one size."""
        key = (*job.image.shape, id(job.model))
        if key not in self._targets:
            self._targets[key] = job.aim()
        return copy.copy(self._targets[key])

    def _result(
        self,
        picture: Ready,
        planned: _Planned,
        passed: Pass | CamHubError | None,
        progress: Progress,
    ) -> Found:
        if isinstance(passed, CamHubError):
            return passed
        method, job = planned.method, planned.job
        if passed is not None and is_complete(method, job, passed, planned.request):
            # Results that wait must not fill the memory of an accelerator with their images.
            prepared = replace(picture.prepared, tensor=off_device(picture.prepared.tensor))
            job = replace(job, image=off_device(job.image))
            return partial(
                explanation_of, self.model, prepared, method, job, passed, planned.request
            )
        asked = replace(planned.request, progress=progress)
        try:
            if passed is None:  # alone it may be passed with more care
                job = make_job(self.model, picture.prepared, [method], asked)
                passed = run(job, reuse=asked.reuse)
            return explanation_of(self.model, picture.prepared, method, job, passed, asked)
        except CamHubError as error:
            return error


def _without_labels(choice: ClassChoice) -> ClassChoice:
    """The classes that are the same for all pictures; None where there are none."""
    if not names_expected(choice):
        return choice
    listed = choice if isinstance(choice, (list, tuple)) else ()
    return [item for item in listed if not isinstance(item, Expected)] or None


def _report(done: Done, before: int, weight: float, part: float, _: str = "") -> None:
    """Reports a part of so many pictures, after others that are done."""
    done(before + weight * part)


_BEGUN = 0.05
"""The part of a picture's work that is reported while its layer and method are chosen."""

_MOST_THREADS = 8

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What has become of one of many pictures.

    Attributes:
        picture: As it was given; of a folder the file's path.
        key: Identifies the picture: the key that came with it; of a folder or a glob the file's
            path relative to it; else its file, or its position.
        label: The class that it is labelled with, as an index or a label; None if it has none.
    """

    picture: object
    _found: Found = field(repr=False)
    key: object = None
    label: int | str | None = None

    @cached_property
    def result(self) -> Explanation | CamHubError:
        """Its explanation, which is made when it is first asked for; or why there is none."""
        found = self._found
        if not callable(found):
            return found
        with default_modes():
            explanation = found()
        object.__setattr__(self, "_found", explanation)  # what it was made of may go
        return explanation

    def __getstate__(self) -> dict[str, Any]:
        """For pickles: the explanation, rather than what makes it."""
        return {**vars(self), "_found": self.result}

    @property
    def error(self) -> CamHubError | None:
        """The error in place of an explanation; None if there is one."""
        return self._found if isinstance(self._found, CamHubError) else None

    @property
    def explanation(self) -> Explanation:
        """The explanation.

        Raises:
            CamHubError: The picture's error, if it has one.
        """
        found = self.result
        if isinstance(found, CamHubError):
            raise found
        return found


@with_hints
@default_modes()
@takes_arguments("many", without=["region"])
def explain_many(
    model_or_id: LoadedModel | str,
    images: str | os.PathLike[str] | Iterable[object],
    *,
    method: str = AUTO,
    threads: int | None = None,
    workers: int = 0,
    preprocessing: str = "exact",
    **arguments: Unpack[ExplainArguments],
) -> Iterator[Outcome]:
    """Explains pictures in batches, while threads read those that come next.

    Each explanation is the one that ``explain`` gives for the picture alone, but for rounding.
    Where evidence chooses layer and method, the pictures of a batch are all tested first, so that
    each choice rests on all of them. A picture that cannot be explained has an error of its own,
    and the others go on:

        for outcome in explain_many("resnet50.a1_in1k", "photos", method="layercam"):
            if outcome.error is None:
                outcome.explanation.overlay().save(f"overlays/{outcome.picture.stem}.png")

    Memory is bounded: at most ``batch_size`` pictures are being explained, and as many that come
    next are held (at least one per thread, and two per worker process).

    With ``workers``, or ``preprocessing`` other than ``"exact"``, a file is opened again when its
    photo is first needed, as for an overlay or the manifest. It must still be there then.

    Args:
        model_or_id: As for ``explain``.
        images: A folder, whose pictures, and those of the folders in it, are taken in the order
            of their paths; folders on the first level give the labels. Or a glob such as
            ``"photos/**/*.jpg"``; a ``torch.utils.data.Dataset``, a ``DataLoader`` (with or
            without labels), a dataset of the library ``datasets``; a mapping of keys to images;
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
        threads: How many threads read pictures; None for one per processor, at most eight.
        workers: How many processes read pictures in place of threads: files and their bytes. All
            else, such as arrays and tensors, is read by threads, and so are files where a
            ``transform`` cannot be pickled. They start with the first file, which takes seconds
            and an ``if __name__ == "__main__":`` in scripts. A picture that ends two of them has
            an error.
        preprocessing: ``"exact"``: as ``explain``. ``"draft"``: JPEGs are decoded at 1/2, 1/4 or
            1/8 of their size if at least twice the size of the input's resize remains.
            ``"device"``: the same, and photos are resized on the model's device. Measured maps
            differ by up to 6 % of their maximum, 0.7 % on average; inputs by 0.05 and 0.003 in
            normalised units. What is not a file is preprocessed exactly.
        progress: Called after each pass with the part of the pictures that is done (0 where
            ``images`` has no length) and a few words; what it raises stops the
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
    progress = arguments.pop("progress", None)
    arguments["reuse"] = False
    request = ExplainOptions.checked(**arguments)
    method = method_name(method)
    threads = min(_MOST_THREADS, os.cpu_count() or 1) if threads is None else threads
    check_whole("threads", threads)
    check_whole("workers", workers, 0)
    check_word("preprocessing", preprocessing, PREPROCESSING_MODES)
    model = model_of(model_or_id, request.options["output"])
    pictures = open_samples(images, clips=len(model.input_size) == 4)
    explainer = BatchExplainer.checked(model, method, request)
    ready = read_ahead(
        model,
        pictures,
        threads=threads,
        ahead=max(request.options["batch_size"], threads, 2 * workers),
        workers=workers,
        preprocessing=preprocessing,
    )
    return _outcomes(explainer, pictures, ready, progress)


def _outcomes(
    explainer: BatchExplainer,
    pictures: Iterable[Sample],
    ready: Generator[Ready | Refused, None, None],
    progress: Progress | None,
) -> Iterator[Outcome]:
    total = len(pictures) if isinstance(pictures, Sized) else None
    size = explainer.request.options["batch_size"]
    before = 0

    def done(count: float) -> None:
        if progress is not None:
            part = min((before + count) / total, 1.0) if total else 0.0
            progress(part, f"{before + int(count)}{f' of {total}' if total else ''} pictures")

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
