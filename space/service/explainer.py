"""Request in, explanation out, with the models that stay loaded, their layers and their labels."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cam_hub
from cam_hub.attribution.compare import ask, make_grid
from cam_hub.attribution.compare_work import make_row
from cam_hub.attribution.evidence import add_evidence
from cam_hub.attribution.predict import Predicted
from cam_hub.attribution.preparation import check_passes
from cam_hub.errors import NoMap, TooMuch
from cam_hub.layers.listing import (
    FAITHFUL,
    SUGGESTIONS,
    LayerInfo,
    list_layers,
    resolve_layers,
    suggest_layers,
)
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import ModelFacts
from cam_hub.options import OutputChoice
from cam_hub.results.comparison import Comparison
from cam_hub.results.explanation import Explanation
from cam_hub.sources import disk_cache
from cam_hub.sources.store import ModelStore
from cam_hub.targets.classes import parse_top
from space.config.settings import Settings
from space.service import zerogpu
from space.service.errors import Progress
from space.service.explain_form import CompareForm, ExplainForm
from space.service.photos import Photo
from space.service.result_files import FileBudget

__all__ = ["Explained", "Explainer", "LabelCache", "Labels", "LayerTable", "make_table"]


class Labels:
    """The labels of one model, made ready to be searched.

    Args:
        names: One label per class.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, index: int) -> str:
        """What stands for a class in a request: its label, or the index if the label is ambiguous.

        Several classes may share a label (both kinds of crane), and a label may look like an
        index or like ``top(3)``.
        """
        return naming(self.names[index], index, self._counts[_folded(self.names[index])])

    def find(self, query: str, most: int) -> tuple[list[int], int]:
        """Classes whose labels hold all words of a query, or whose index it is.

        Args:
            query: Words, in any order; none for all classes.
            most: How many to return.

        Returns:
            Class indices, and how many there are in all. The class of that index comes first,
            then labels in which every word begins a word, shorter labels first, then the others.
        """
        words = _folded(query).split()
        if not words:
            return list(range(min(most, len(self)))), len(self)
        hits = [i for i, text in enumerate(self._texts) if all(word in text for word in words)]
        exact = [int(query)] if query.strip().isdecimal() and int(query) < len(self) else []

        def begins(index: int) -> bool:
            return all(f" {word}" in f" {self._texts[index]}" for word in words)

        hits.sort(key=lambda i: (not begins(i), len(self._texts[i]), i))
        found = list(dict.fromkeys([*exact, *hits]))
        return found[:most], len(found)

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return tuple(map(_folded, self.names))

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(self._texts)


class LabelCache:
    """Labels by model and visitor, so that no visitor sees those of another's private model.

    Args:
        most: How many models' labels are held.
    """

    def __init__(self, most: int = 32) -> None:
        self._most = most
        self._held: OrderedDict[tuple[str, str], Labels | None] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, model_id: str, token: str | None, names: Sequence[str] | None) -> None:
        """Notes the labels of a model as a visitor may know them; None where there are none."""
        key = _key(model_id, token)
        with self._lock:
            held = self._held.get(key)
            if held is None or held.names != tuple(names or ()):
                self._held[key] = Labels(names) if names else None
            self._held.move_to_end(key)
            while len(self._held) > self._most:
                self._held.popitem(last=False)

    def get(self, model_id: str, token: str | None) -> Labels | None:
        """The labels, or None where none are known."""
        with self._lock:
            return self._held.get(_key(model_id, token))


def naming(label: str, index: int, count: int = 1) -> str:
    """A class as a request names it, see ``Labels.name_of``."""
    text = label.strip()
    is_plain = count == 1 and not text.lstrip("-").isdecimal() and parse_top(text) is None
    return text if is_plain and text else str(index)


def _folded(text: str) -> str:
    return " ".join(text.casefold().replace(",", " ").split())


def _key(model_id: str, token: str | None) -> tuple[str, str]:
    # A digest, so that tokens are not kept.
    return model_id, hashlib.sha256(token.encode()).hexdigest() if token else ""


@dataclass(frozen=True)
class LayerTable:
    """The layers of one model.

    Attributes:
        model_id: The model's ID.
        layers: All of its layers, in forward order.
        meaning: By each word of ``suggest_layers``, the names that it stands for; none where the
            model has no such layer.
        random_weights: Whether the weights were drawn, not trained.
        notes: Notes for users of the model.
    """

    model_id: str
    layers: tuple[LayerInfo, ...]
    meaning: Mapping[str, tuple[str, ...]]
    random_weights: bool = False
    notes: tuple[str, ...] = ()

    @property
    def usable(self) -> list[LayerInfo]:
        """The layers that a map can be made from."""
        return [layer for layer in self.layers if layer.usable]

    @property
    def recommended(self) -> LayerInfo | None:
        """The layer to explain when nothing else is asked for, if there is one."""
        return next((layer for layer in self.layers if layer.recommended), None)

    def listed(self, show_all: bool) -> list[LayerInfo]:
        """The rows: the usable layers, or all of them."""
        return list(self.layers) if show_all else self.usable

    def words_of(self, name: str) -> list[str]:
        """The words that stand for a layer, among others."""
        return [word for word, names in self.meaning.items() if name in names]

    def chosen(self, wanted: Sequence[str]) -> set[str]:
        """The layers that a choice comes down to.

        Args:
            wanted: Layer names and words; empty for the recommended layer.
        """
        names: set[str] = set()
        for name in wanted or ("best",):
            names.update(self.meaning.get(name, (name,)))
        return names


def make_table(model: LoadedModel) -> LayerTable:
    """Examines a model, unless its layers are known already.

    Raises:
        CamHubError: As ``cam_hub.list_layers``.
    """
    meaning: dict[str, tuple[str, ...]] = {}
    for word in SUGGESTIONS:
        try:
            meaning[word] = tuple(suggest_layers(model, word))
        except NoMap:
            meaning[word] = ()
    return LayerTable(
        model_id=model.id,
        layers=tuple(list_layers(model)),
        meaning=meaning,
        random_weights=model.pretrained is False,
        notes=(*model.notes, *model.execution.notes),
    )


_POLL_SECONDS = 0.2
"""Seconds between two checks whether the client still waits for the answer."""


@dataclass(frozen=True)
class Explained:
    """An answer.

    Attributes:
        result: The explanation.
        layers: The model's layers, those that cannot be explained included.
        notes: Notes for users of the model.
    """

    result: Explanation
    layers: tuple[LayerInfo, ...]
    notes: tuple[str, ...]


class Explainer:
    """Answers requests; one for all visitors, used by several threads.

    Args:
        settings: The app's settings.
        files: The uploads and results that share the disk with the weights, if there are any.
    """

    def __init__(self, settings: Settings, files: FileBudget | None = None) -> None:
        self._settings = settings
        self._files = files
        self._store = ModelStore(settings.model_bytes)
        # Gradio's own bound counts a cancelled request as gone while its thread still works.
        self._places = threading.BoundedSemaphore(settings.concurrency)
        self._labels = LabelCache()

    def explain(
        self,
        request: ExplainForm,
        progress: Progress,
        visitor: str | None = None,
        tests: Mapping[str, Any] | None = None,
    ) -> Explained:
        """Explains.

        Args:
            request: What to explain.
            progress: Called with each step; an exception that it raises ends the work.
            visitor: The visitor's access token, if there is one. It is used for this request
                only.
            tests: Arguments of ``cam_hub.evidence``, whose result is then in the manifest; None
                for those of the request alone.

        Returns:
            The same as ``cam_hub.explain`` gives for the same arguments, and the layers.

        Raises:
            CamHubError: As ``cam_hub.explain``; also if the photo or the number of layers is
                beyond the limits.
        """
        limits = self._settings.limits
        photo = request.photo.open(limits, progress)
        asked = request.arguments(lambda other: other.open(limits, progress))
        progress(0.05, f"Loading {request.model_id}")
        # Reported unscaled: the text beside it counts bytes.
        with self._model(request.model_id, progress, visitor) as model:
            progress(0.3, "Finding layers")
            wanted = request.target_layers
            count = 1  # the layer that is chosen by evidence
            if wanted and wanted != (FAITHFUL,):
                count = len(resolve_layers(model, wanted))
            if count > limits.max_layers:
                expected = f"at most {limits.max_layers} layers, and these are {count} of "
                expected += "this model"
                raise TooMuch("target_layers", " ".join(wanted), expected)
            check_passes(
                model,
                request.method,
                wanted,
                request.classes,
                request.num_samples,
                limits.max_passes,
                (asked.get("evidence") or ()) if tests is None else tests["checks"],
            )
            progress(0.4, "Explaining")
            share = 0.5 if tests is None else 0.2
            if self._settings.zero_gpu:
                result = zerogpu.explain(model, photo, asked, tests)
            else:
                result = cam_hub.explain(
                    model,
                    photo,
                    **asked,
                    progress=lambda part, what: progress(0.4 + share * part, f"Explaining: {what}"),
                )
                if tests is not None:
                    add_evidence(
                        result,
                        **tests,
                        progress=lambda part, _: progress(0.6 + 0.3 * part, "Testing the map"),
                    )
            self._labels.put(request.model_id, visitor, model.class_names)
            # The model is asked here, since one that a token has opened is not kept.
            notes = (*model.notes, *model.execution.notes)
            return Explained(result, tuple(list_layers(model)), notes)

    def compare(
        self, request: CompareForm, progress: Progress, visitor: str | None = None
    ) -> Comparison:
        """Puts models beside each other; arguments as for ``explain``.

        Raises:
            CamHubError: As ``cam_hub.compare``; also if the photo is beyond the limits. If there is
                no map at all, the first cell's reason.
        """
        limits = self._settings.limits
        photo = request.form.photo.open(limits, progress)
        asked = request.form.arguments(lambda other: other.open(limits, progress))
        del asked["method"]
        question = ask(
            photo,
            request.methods,
            **{**asked, "target_layers": request.layer_choice},
            most=limits.max_cells // len(request.models),
        )
        form = request.form

        @contextmanager
        def opened(model_id: str, report: Progress) -> Iterator[LoadedModel]:
            with self._model(model_id, report, visitor) as model:
                for method in request.methods:
                    check_passes(
                        model,
                        method,
                        form.target_layers,
                        form.classes,
                        form.num_samples,
                        limits.max_passes,
                    )
                yield model

        grid = make_grid(
            request.models,
            question,
            opened,
            lambda part, what: progress(0.05 + 0.85 * part, what),
            zerogpu.make_row_on_gpu if self._settings.zero_gpu else make_row,
        )
        if grid.first_error is not None:
            raise grid.first_error
        return grid

    def predict(
        self,
        photo: Photo,
        model_id: str,
        top: int,
        progress: Progress,
        visitor: str | None = None,
        output: OutputChoice = None,
    ) -> Predicted:
        """What a model sees in a photo; arguments as for ``explain``.

        Raises:
            CamHubError: As ``cam_hub.predict``; also if the photo is beyond the limits.
        """
        picture = photo.open(self._settings.limits, progress)
        progress(0.05, f"Loading {model_id}")
        with self._model(model_id, progress, visitor) as model:
            progress(0.5, "Predicting")
            if self._settings.zero_gpu:
                return zerogpu.predict(model, picture, {"top": top, "output": output})
            return cam_hub.predict(model, picture, top=top, output=output)

    def layers(self, model_id: str, progress: Progress, visitor: str | None = None) -> LayerTable:
        """A model's layers; arguments as for ``explain``.

        Raises:
            CamHubError: As ``cam_hub.load_model`` and ``cam_hub.list_layers``.
        """
        progress(0.0, f"Loading {model_id}")
        with self._model(model_id, progress, visitor) as model:
            progress(0.4, "Finding layers")
            return make_table(model)

    def describe(self, model_id: str, visitor: str | None = None) -> ModelFacts:
        """The facts about a model before it is loaded.

        Raises:
            CamHubError: As ``cam_hub.describe_model``.
        """
        facts = cam_hub.describe_model(
            model_id,
            pretrained=not self._settings.random_weights,
            token=self._token(visitor),
            limits=self._settings.load_limits,
        )
        # A loaded model may have had more labels than its files.
        if facts.class_names or self.labels(model_id, visitor) is None:
            self._labels.put(model_id, visitor, facts.class_names)
        return facts

    def labels(self, model_id: str, visitor: str | None = None) -> Labels | None:
        """The labels of a model's classes, as far as this visitor has met it; costs nothing."""
        return self._labels.get(model_id, visitor)

    @contextmanager
    def _model(
        self, model_id: str, progress: Progress, visitor: str | None
    ) -> Iterator[LoadedModel]:
        """A model, held in memory and on the disk for as long as it is used.

        Only so many threads hold one at a time; the others wait, and report it as their progress.
        """
        while not self._places.acquire(timeout=_POLL_SECONDS):
            progress(0.0, "Waiting for others")
        try:
            was_here = model_id in self._store.ids
            if not was_here:
                # Those that were fetched and then refused have left their files, too.
                self._trim()
            with self._store.lease(
                model_id,
                pretrained=not self._settings.random_weights,
                device="cpu" if self._settings.zero_gpu else self._settings.device,
                token=self._token(visitor),
                limits=self._settings.load_limits,
                progress=progress,
            ) as model:
                if not was_here:
                    self._trim()
                yield model
        finally:
            self._places.release()

    def finish(self, seconds: float) -> None:
        """Waits until no model is in use; at most so many seconds."""
        end = time.monotonic() + seconds
        for _ in range(self._settings.concurrency):
            if not self._places.acquire(timeout=max(0.0, end - time.monotonic())):
                return

    def _trim(self) -> None:
        """Bounds what weights, uploads and results together take on the disk."""
        if self._settings.disk_bytes is None:
            return
        if self._files is None:
            disk_cache.trim(self._settings.disk_bytes, keep=self._store.ids)
            return
        # Files that requests use cannot go; there is that much less for everything else.
        folders = self._files.evictable()
        bound = max(0, self._settings.disk_bytes - self._files.taken_by_requests(folders))
        disk_cache.trim(bound, keep=self._store.ids, folders=folders)

    def _token(self, visitor: str | None) -> str | bool | None:
        """Whose token goes to the Hub: visitors of a Space do not act in its owner's name."""
        if visitor is not None:
            return visitor
        return False if self._settings.space_id else None
