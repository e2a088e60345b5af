"""The fields for classes: all labels of a model, searched on the server."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

import cam_hub
from cam_hub.targets.classes import choose_classes
from space.service.explainer import LabelCache, Labels
from tests.fakes.browser import Browser
from tests.fakes.space_app import encoded

LABELS = Labels(
    ["great white shark", "cougar, puma", "crane", "tiger shark", "crane", "shark tiger cat", "77",
     "top(3)", "Tiger", ""]
)  # fmt: skip


# Search


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("tiger", [8, 3, 5]),
        ("shark tiger", [3, 5]),
        ("TIGER cat", [5]),
        ("hite", [0]),
        ("puma, cougar", [1]),
        ("4", [4]),
        ("7", [7, 6]),
        ("whale", []),
    ],
)
def test_labels_are_found_by_their_words_in_any_order_or_by_the_index(query: str, found: list[int]):
    assert LABELS.find(query, 10) == (found, len(found))


def test_without_a_word_all_labels_are_there_in_order_as_many_as_wanted():
    assert LABELS.find("  ", 3) == ([0, 1, 2], 10)


def test_a_class_is_named_so_that_it_alone_is_meant():
    import torch

    names = [LABELS.name_of(index) for index in range(len(LABELS))]
    assert names[0] == "great white shark"
    assert names[2] == "2"
    scores = torch.arange(len(LABELS)).float()
    for index, name in enumerate(names):
        assert choose_classes(name, scores, LABELS.names) == [index]


def test_labels_of_a_private_model_are_for_the_visitor_who_opened_it():
    shelf = LabelCache(most=2)
    shelf.put("ann/bread", "hf_ann", ["rye", "spelt"])
    assert shelf.get("ann/bread", "hf_bob") is None
    assert shelf.get("ann/bread", None) is None
    found = shelf.get("ann/bread", "hf_ann")
    assert found is not None
    assert found.names == ("rye", "spelt")
    assert "hf_ann" not in str(vars(shelf))
    shelf.put("b", None, ["x"])
    shelf.put("c", None, ["y"])
    assert shelf.get("ann/bread", "hf_ann") is None, "the least recently used is forgotten"


# On the page


@pytest.fixture
def browser(url: str) -> Browser:
    found = Browser(url)
    found.fire(found.event("model_id", "change", "facts"), {"model_id": cam_hub.DEFAULT_MODEL})
    return found


def proposed(browser: Browser, query: object, field: str = "classes", **values: Any) -> Any:
    event = browser.event(field, "input", field)
    done, shown = browser.fire(event, values, data={"query": query})
    assert done
    return shown[field]["props"]["proposals"]


def test_every_label_of_the_model_can_be_found_before_it_is_loaded(browser: Browser):
    found = proposed(browser, "panthera")
    assert "291" in {entry["facts"] for entry in found["entries"]}
    assert all("panthera" in entry["text"].casefold() for entry in found["entries"])
    everything = proposed(browser, "")
    assert everything["note"] == "1,000 classes: type to find yours."
    assert proposed(browser, "zeppelin mop")["entries"] == []


def test_what_was_predicted_comes_first_with_its_probability(browser: Browser, lion: Image.Image):
    browser.explain(browser.upload(encoded(lion, "PNG")))
    for field in ("classes", "contrast"):
        first, second, *_ = proposed(browser, "", field)["entries"]
        assert first["facts"] == "89.7%"
        assert first["value"] == first["text"] == "lion, king of beasts, Panthera leo"
        assert second["text"] == "Tibetan mastiff"
    other = proposed(browser, "", model_id="torchvision/resnet50")
    assert "%" not in str(other["entries"]), "another model has predicted nothing"


def test_an_unknown_model_explains_how_classes_are_named(browser: Browser):
    found = proposed(browser, "li", model_id="torchvision/vgg11")
    assert found["entries"] == []
    assert "top(3)" in found["note"]


@pytest.mark.parametrize("query", [None, 3, {"a": 1}, "<img src=x onerror=alert(1)>", "x" * 10_000])
def test_a_query_of_any_kind_gets_an_answer(browser: Browser, query: object):
    assert "entries" in proposed(browser, query)
    assert proposed(browser, "lion", model_id="no id at all")["note"]
