"""The left column of the page: what to explain and how, with the proposals of its fields."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from cam_hub.attribution.choice import AUTO
from cam_hub.errors import CamHubError
from cam_hub.layers.listing import FAITHFUL
from cam_hub.methods import METHODS
from cam_hub.options import options_for
from cam_hub.sources.registry import find_models
from space.components.combobox import Proposals
from space.components.formatting import layer_choices, method_choices, method_note, percent
from space.components.photo_field import Example, build_photo_field
from space.components.search_fields import (
    ASKING,
    FACTS_CSS,
    ClassEntry,
    build_class_field,
    build_model_field,
    facts_html,
    proposal_of,
    trouble_html,
)
from space.components.style import STARTER_JS, html_view
from space.config.settings import DESCRIBING, SEARCHING, Settings
from space.service.errors import event_value, readable, searching_as, title_of, token_of
from space.service.explain_form import read_model_id
from space.service.explainer import Explainer, Labels, naming
from space.service.exports import SessionResult

__all__ = [
    "ANY_LAYERS",
    "LAYER_WORDS",
    "ClassProposals",
    "Controls",
    "ModelDescription",
    "Values",
    "connect_search",
    "hide_button",
    "press",
    "show_button",
]


LAYER_WORDS = (
    ("Best", "best"),
    ("Faithful", FAITHFUL),
    ("Stages", "stages"),
    ("Convolutions", "convs"),
)
"""Ways to choose target layers that need no names, and the words for them."""

ANY_LAYERS = "any"
"""The way in which layers are picked one by one."""

Values = Mapping[Component, Any]
"""Values by component, as Gradio calls a handler whose inputs are a set."""


class Controls:
    """The components that visitors set, and the buttons; built where it is called.

    ``starter`` presses the button when the server asks for that.

    Args:
        settings: The app's settings.
        examples: The photos that every visitor can choose.
    """

    def __init__(self, settings: Settings, examples: Sequence[Example]) -> None:
        gr.HTML("<h2>Ask</h2>", elem_id="ask")
        self.photo, self.examples, self.photo_url = build_photo_field(examples)
        with gr.Row(elem_id="buttons"):
            self.run = gr.Button(
                "Explain", variant="primary", size="lg", scale=3, elem_id="explain"
            )
            self.stop = gr.Button(
                "Stop", variant="stop", size="lg", visible=False, min_width=96, elem_id="stop"
            )
        self.starter = gr.HTML("", js_on_load=STARTER_JS, elem_id="starter", turn=0)
        self.model_id = build_model_field(settings.model_choices, settings.default_model)
        self.facts = html_view("facts", FACTS_CSS)
        self.classes = build_class_field(
            "classes",
            "Classes",
            "What to look for. Empty: the predicted one. Any label, an index, or top(3).",
            most=settings.limits.max_classes,
        )
        self.contrast = build_class_field(
            "contrast", "Rather than", "Why those, and not this one? Empty: no comparison.", most=1
        )
        self.method = gr.Dropdown(
            choices=method_choices(), value=AUTO, label="Method", elem_id="method"
        )
        self.method_note = gr.HTML(
            method_note(AUTO), apply_default_css=False, elem_id="method_note"
        )
        self._build_layers()
        with gr.Accordion("Region and reference", open=False, elem_id="special"):
            self._build_special(settings)
        with gr.Accordion("Evidence and output", open=False, elem_id="options"):
            self.options = _build_options(settings)
        with gr.Accordion("Noise", open=False, elem_id="advanced"):
            self._build_noise(settings)

    def _build_layers(self) -> None:
        self.layer_choice = gr.Radio(
            choices=[*LAYER_WORDS, ("Any", ANY_LAYERS)],
            value="best",
            label="Target layers",
            info="The recommended one, the one whose map holds best if covered, the end of each "
            "stage, every convolution, or those that you pick. Several are fused.",
            elem_id="layer_choice",
        )
        # The request always uses these values, also while they are hidden.
        self.target_layers = gr.Dropdown(
            choices=layer_choices(),
            value=["best"],
            multiselect=True,
            allow_custom_value=True,
            label="Picked layers",
            info="Tick rows of the table, or choose or type names. Empty: the recommended one.",
            visible=False,
            elem_id="target_layers",
        )

    def _build_special(self, settings: Settings) -> None:
        self.region = gr.Textbox(
            label="Region",
            info="For segmentation and detection: left, top, right, bottom, in the photo's pixels."
            " Empty: all of it.",
            placeholder="120, 40, 300, 260",
            max_lines=1,
            max_length=settings.limits.max_text,
            elem_id="region",
        )
        self.reference = gr.Image(
            None,
            label="Reference, for models without classes",
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            height=160,
            placeholder="None: the photo itself",
            alt_text="The photo to compare with",
            elem_id="reference",
        )

    def _build_noise(self, settings: Settings) -> None:
        self.num_samples = gr.Slider(
            1,
            settings.limits.max_samples,
            4,
            step=1,
            label="Samples",
            info="Noisy copies that are averaged.",
            elem_id="num_samples",
        )
        with gr.Row():
            self.std = gr.Number(
                0.3,
                step=0.05,
                label="Noise",
                info="Standard deviation.",
                elem_id="std",
                min_width=120,
            )
            self.seed = gr.Number(
                0,
                precision=0,
                label="Seed",
                info="The same seed, the same map.",
                elem_id="seed",
                min_width=120,
            )

    def noise_fields(self, method: object) -> dict[Component, bool]:
        """The fields of the noise, and whether a method, or the choice of one, uses each."""
        found = METHODS.get(method) if isinstance(method, str) else None
        noisy = method == AUTO or (found is not None and found.needs_noise)
        seeded = noisy or (found is not None and found.seeded)
        return {self.num_samples: noisy, self.std: noisy, self.seed: seeded}

    @cached_property
    def fields(self) -> dict[str, Component]:
        """The fields of a request but for its photo, by the names of ``/explain``'s parameters."""
        return {
            "model_id": self.model_id,
            "method": self.method,
            "target_layers": self.target_layers,
            "classes": self.classes,
            "contrast": self.contrast,
            "region": self.region,
            "reference": self.reference,
            "num_samples": self.num_samples,
            "std": self.std,
            "seed": self.seed,
            **self.options,
        }

    @property
    def inputs(self) -> set[Component]:
        """The components that ``read`` needs the values of."""
        return {self.photo, self.photo_url, *self.fields.values()}

    def read(self, values: Values) -> dict[str, Any]:
        """The request, as ``read_request`` takes it.

        Args:
            values: The values of the components, among others.
        """
        address = values[self.photo_url]
        given = address.strip() if isinstance(address, str) else ""
        fields = {name: values[each] for name, each in self.fields.items()}
        return {"image": given or values[self.photo], **fields}


def _build_options(settings: Settings) -> dict[str, gr.Radio | gr.Textbox]:
    """One component per entry of ``cam_hub.options`` that the page has, in its order."""
    found: dict[str, gr.Radio | gr.Textbox] = {}
    for name, option in options_for("page").items():
        info = option.help[:1].upper() + option.help[1:] + "."
        if option.choices:
            found[name] = gr.Radio(
                [(words, value) for value, words in option.choices.items()],
                value=option.default,
                label=option.title,
                info=info,
                elem_id=f"option_{name}",
            )
        else:
            found[name] = gr.Textbox(
                label=option.title,
                info=info,
                max_lines=1,
                max_length=settings.limits.max_text,
                elem_id=f"option_{name}",
            )
    return found


def show_button() -> Any:
    """The update that offers to end a request while it runs."""
    return gr.update(visible=True)


def hide_button() -> Any:
    """The update that takes that away when it is over."""
    return gr.update(visible=False)


def press() -> Any:
    """The update that lets the starter press the button."""
    return gr.update(turn=time.monotonic_ns())


_MAX_MODELS = 20


def connect_search(controls: Controls) -> None:
    """Wires the field for the model's ID. The event is not an endpoint."""
    field = controls.model_id

    def propose(typed: gr.EventData, visitor: gr.OAuthToken | None) -> dict[Any, Any]:
        """Proposes models for what was typed."""
        query = event_value(typed, "query")
        return {field: gr.update(proposals=asdict(_proposals(query, visitor)))}

    field.input(
        propose,
        None,
        field,
        preprocess=False,
        show_progress="hidden",
        # A deferred event would repeat the words before these; answers to old words are dropped.
        trigger_mode="multiple",
        api_visibility="private",
        **SEARCHING,
    )


def _proposals(query: Any, visitor: gr.OAuthToken | None) -> Proposals:
    """The models for a query; a problem is shown below them, since any ID may still be typed."""
    text = query if isinstance(query, str) else ""
    try:
        found = find_models(text, limit=_MAX_MODELS, token=searching_as(visitor))
    except CamHubError as error:
        return Proposals(text, note=error.message)
    entries = tuple(map(proposal_of, found.hits))
    if found.trouble:
        note = f"Without the Hub: {found.trouble}"
    else:
        note = "" if entries else "No model with these words. An ID is taken as it is typed."
    return Proposals(text, entries, note)


_MAX_LABELS = 60


@dataclass(frozen=True)
class ClassProposals:
    """Proposes classes. The events are not endpoints, and none uses a model.

    ``kept`` is the visitor's last result.
    """

    explainer: Explainer
    settings: Settings
    controls: Controls
    kept: gr.State

    def connect(self) -> None:
        """Wires both fields for classes."""
        for field in (self.controls.classes, self.controls.contrast):
            field.input(
                self.propose,
                [self.kept, self.controls.model_id],
                field,
                preprocess=False,
                show_progress="hidden",
                trigger_mode="multiple",
                api_visibility="private",
                **SEARCHING,
            )

    def propose(
        self,
        kept: SessionResult | None,
        model_id: Any,
        typed: gr.EventData,
        visitor: gr.OAuthToken | None,
    ) -> Any:
        """Proposes classes for what was typed."""
        query = event_value(typed, "query")
        found = self.proposals(query, kept, model_id, token_of(visitor))
        return gr.update(proposals=asdict(found))

    def proposals(
        self, query: Any, kept: SessionResult | None, model_id: Any, token: str | None
    ) -> Proposals:
        """The predicted classes first, then all labels that hold the words."""
        text = query if isinstance(query, str) else ""
        try:
            id = read_model_id(model_id, self.settings.limits)
        except CamHubError as problem:
            return Proposals(text, note=problem.message)
        labels = self.explainer.labels(id, token)
        predicted = _predicted(kept, id, labels) if not text.strip() else ()
        if labels is None:
            note = (
                "The labels of this model are known once it was loaded. Until then, type a label, "
                "an index or top(3), and press Enter."
            )
            return Proposals(text, predicted, note)
        indices, count = labels.find(text, _MAX_LABELS)
        taken = {entry.value for entry in predicted}
        found = (
            ClassEntry(labels.name_of(index), labels.names[index], str(index)) for index in indices
        )
        entries = predicted + tuple(entry for entry in found if entry.value not in taken)
        return Proposals(text, entries, _note(text, count, len(labels)))


def _predicted(
    kept: SessionResult | None, model_id: str, labels: Labels | None
) -> tuple[ClassEntry, ...]:
    """What the model saw in the photo, if it has seen it."""
    if kept is None or kept.request.model_id != model_id:
        return ()
    return tuple(
        ClassEntry(
            labels.name_of(found.class_index)
            if labels is not None and found.class_index < len(labels)
            else naming(found.label, found.class_index),
            found.label,
            percent(found),
        )
        for found in kept.predictions
    )


def _note(text: str, count: int, all_of_them: int) -> str:
    if not count:
        return f"None of the model's {all_of_them:,} labels holds these words."
    if count > _MAX_LABELS:
        more = "labels hold these words" if text.strip() else "classes"
        return f"{count:,} {more}: type to find yours."
    return ""


@dataclass(frozen=True)
class ModelDescription:
    """The lines below the field for the model's ID. None of the events is an endpoint."""

    explainer: Explainer
    settings: Settings
    controls: Controls

    def connect(self, app: gr.Blocks, run: Dependency) -> None:
        """Wires the lines.

        Args:
            app: The app that is being built.
            run: The event that loads the model; connected before, so that nothing waits for facts.
        """
        model_id, facts = self.controls.model_id, self.controls.facts
        quiet: dict[str, Any] = {
            "show_progress": "hidden",
            "preprocess": False,
            "api_visibility": "private",
            **DESCRIBING,
        }
        # The value changes when an ID was chosen or its text is left: not while one types.
        changes = [app.load, model_id.change]
        gr.on(changes, self.show, model_id, facts, trigger_mode="always_last", **quiet)
        run.success(self.refresh, model_id, facts, **quiet)

    def show(self, model_id: Any, visitor: gr.OAuthToken | None) -> Iterator[str]:
        """Shows first that the Hub is asked, then the facts or the problem."""
        if not isinstance(model_id, str) or not model_id.strip():
            yield ""
            return
        yield ASKING
        yield self.refresh(model_id, visitor)

    def refresh(self, model_id: Any, visitor: gr.OAuthToken | None) -> str:
        """Shows the facts, also again after the model was loaded."""
        try:
            with readable(as_html=True):
                return self._facts(model_id, visitor)
        except gr.Error as problem:  # one that was not foreseen
            return trouble_html("Nothing is known about it", problem.message)

    def _facts(self, model_id: Any, visitor: gr.OAuthToken | None) -> str:
        try:
            id = read_model_id(model_id, self.settings.limits)
            facts = self.explainer.describe(id, token_of(visitor))
        except CamHubError as error:
            return trouble_html(title_of(error), error.message)
        return facts_html(facts, random_weights=self.settings.random_weights)
