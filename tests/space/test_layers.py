"""The layers of a model, on the page and over the endpoint ``/layers``."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import timm
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from torch import nn

import cam_hub
from cam_hub.layers.listing import LayerInfo
from space.app.create_app import create_app
from space.config.settings import Settings
from space.page.layers_tab import NO_TABLE, layer_table
from space.service.explainer import Explainer, LayerTable, make_table
from tests.fakes.browser import Browser
from tests.fakes.space_app import SETTINGS

HOSTILE = "<img src=x onerror=alert(1)>"


def rows(page: str) -> dict[str, str]:
    """The table's rows by the layer's name, as HTML."""
    found = re.findall(r"<tr class=.*?</tr>", page)
    return {re.sub("<.*?>", "", re.findall("<code>(.*?)</code>", row)[0]): row for row in found}


def ticked(page: str) -> set[str]:
    return {name for name, row in rows(page).items() if 'aria-checked="true"' in row}


@pytest.fixture(scope="module")
def table(lite0: cam_hub.LoadedModel) -> LayerTable:
    return make_table(lite0)


@pytest.fixture
def browser(url: str) -> Browser:
    return Browser(url)


# The table


def test_the_usable_layers_are_listed_in_forward_order_and_the_others_on_demand(
    table: LayerTable, lite0: cam_hub.LoadedModel
):
    layers = cam_hub.list_layers(lite0)
    assert list(rows(layer_table(table))) == [layer.name for layer in layers if layer.usable]
    everything = rows(layer_table(table, show_all=True))
    assert list(everything) == [layer.name for layer in layers]
    assert "has no rows and columns" in everything["classifier"]
    assert 'role="checkbox"' not in everything["classifier"]


def test_the_recommendation_stands_above_the_table_with_its_reason(table: LayerTable):
    page = layer_table(table)
    words = " ".join(re.sub("<.*?>", "", page.partition("<table>")[0]).split())
    assert words.startswith("Recommended: bn2, NCHW 7×7, because it follows the image on a 7×7 ")
    assert f"{len(table.usable)} of {len(table.layers)} layers" in words
    marked = [name for name, row in rows(page).items() if "recommended" in row]
    assert marked == ["bn2"]


def test_a_row_shows_type_layout_grid_channels_stage_prefix_tokens_and_reason(table: LayerTable):
    cells = re.findall(r"<t[dh].*?>(.*?)</t[dh]>", rows(layer_table(table))["blocks.2"])
    texts = [re.sub("<.*?>", "", cell) for cell in cells]
    assert texts[1:8] == ["blocks.2", "Sequential", "NCHW", "28×28", "40", "2", "0"]
    assert texts[8].startswith("follows the image on a 28×28 grid")


@pytest.mark.parametrize("word", ["best", "stages", "convs"])
def test_a_word_ticks_the_layers_that_it_selects(
    table: LayerTable, lite0: cam_hub.LoadedModel, word: str
):
    assert ticked(layer_table(table, [word])) == set(cam_hub.suggest_layers(lite0, word))


def test_names_are_ticked_beside_words_and_no_choice_means_the_recommended_one(table: LayerTable):
    assert ticked(layer_table(table, ["best", "blocks.4"])) == {"bn2", "blocks.4"}
    assert ticked(layer_table(table)) == {"bn2"}


def test_tokens_that_belong_to_no_place_are_counted():
    torch.manual_seed(0)
    vit = timm.create_model("deit_tiny_distilled_patch16_224", depth=2, img_size=64)
    table = make_table(cam_hub.wrap_model(vit, input_size=(3, 64, 64)))
    best = table.recommended
    assert best is not None
    assert best.prefix_tokens == 2
    assert '<td class="number">2</td><td class="why">' in rows(layer_table(table))[best.name]


def test_what_a_models_author_named_is_shown_as_text_and_never_as_markup():
    layer = LayerInfo(
        HOSTILE, HOSTILE, HOSTILE, (7, 7), 8, 0, False, 0, True, True, reason=f"it {HOSTILE}"
    )
    page = layer_table(LayerTable(HOSTILE, (layer,), {"best": (HOSTILE,)}))
    tags: list[str] = []
    attributes: list[str | None] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, found: (  # type: ignore[method-assign]
        tags.append(tag),
        attributes.extend(value for _, value in found),
    )
    parser.feed(page)
    assert "img" not in tags
    assert {HOSTILE, f"Explain {HOSTILE}", f"Layers of {HOSTILE}"} <= set(attributes)


def test_a_model_without_a_usable_layer_is_reported():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    table = make_table(cam_hub.wrap_model(flat, input_size=(3, 8, 8)))
    assert table.recommended is None
    assert "No layer of" in layer_table(table)
    assert "<table>" not in layer_table(table)
    assert set(rows(layer_table(table, show_all=True))) == {layer.name for layer in table.layers}


# The page


def select(browser: Browser, **changed: Any) -> tuple[bool, dict[str, Any]]:
    """Opens the tab."""
    values = {"model_id": SETTINGS.default_model, "target_layers": ["best"], "show_all": False}
    return browser.fire(browser.event("layers", "select", "layer_table"), {**values, **changed})


def test_layers_are_not_searched_before_the_tab_is_opened(browser: Browser):
    values = {"model_id": "torchvision/resnet5", "target_layers": ["best"]}
    looking = next(
        event
        for event in browser.config["dependencies"]
        if event["trigger_after"] == browser.event("model_id", "select", "layer_table")["id"]
    )
    done, shown = browser.fire(looking, values)
    assert done
    assert "torchvision/resnet5" not in str(shown)
    opening = next(
        event
        for event in browser.config["dependencies"]
        if event["targets"] == [[browser.ids["layers"], "select"]] and not event["inputs"]
    )
    browser.fire(opening, values)
    done, shown = browser.fire(looking, values)
    assert done
    assert "torchvision/resnet5" in shown["layer_table"]


def test_opening_the_tab_lists_the_layers_and_offers_them_by_name(
    browser: Browser, table: LayerTable
):
    done, shown = select(browser, target_layers=["stages"], show_all=True)
    assert done
    assert shown["layer_table"] == layer_table(table, ["stages"], show_all=True)
    values = [value for _, value in shown["target_layers"]["choices"]]
    assert values[:5] == ["best", "stages", "blocks", "convs", "all"]
    assert {"bn2", "blocks.6"} <= set(values)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("torchvision/resnet5", "torchvision/resnet50"),
        ("", "a model ID such as"),
        (HOSTILE, "&lt;img"),
        ("torchvision/raft_small", "refused"),
    ],
)
def test_a_model_that_cannot_be_listed_gets_a_message_in_the_tables_place(
    browser: Browser, model: str, part: str
):
    done, shown = select(browser, model_id=model)
    assert done
    assert 'role="alert"' in shown["layer_table"]
    assert part in shown["layer_table"]
    assert "<img" not in shown["layer_table"]
    assert "Traceback" not in shown["layer_table"]


def test_a_word_is_taken_at_once_and_any_opens_the_table(browser: Browser):
    event = browser.event("layer_choice", "input", "target_layers")
    for word in ("best", "stages", "convs"):
        _, chosen = browser.fire(event, {"layer_choice": word})
        assert chosen["target_layers"]["value"] == [word]
        assert chosen["target_layers"]["visible"] is False
        assert chosen["tabs"].get("selected") is None
    _, chosen = browser.fire(event, {"layer_choice": "any"})
    assert chosen["target_layers"]["visible"] is True
    assert "value" not in chosen["target_layers"], "picking starts from what is chosen"
    assert chosen["tabs"]["selected"] == "layers"


def test_ticked_rows_become_the_target_layers(browser: Browser):
    event = browser.event("layer_table", "select", "target_layers")
    done, picked = browser.fire(event, {}, data={"chosen": ["blocks.4", "bn2"]})
    assert done
    assert picked["target_layers"]["value"] == ["blocks.4", "bn2"]
    assert picked["layer_choice"] == "any"
    done, refused = browser.fire(event, {}, data={"chosen": [{"name": "bn2"}]})
    assert not done
    assert "expected a text" in refused["error"]


@pytest.mark.parametrize(
    ("before", "after"),
    [(["stages"], None), (["best", "convs"], None), (["bn2"], ["best"]), (None, ["best"])],
)
def test_another_model_keeps_words_and_forgets_names(
    browser: Browser, before: list[str] | None, after: list[str] | None
):
    event = browser.event("model_id", "select", "layer_table")
    done, forgotten = browser.fire(event, {"target_layers": before})
    assert done
    assert forgotten["layer_table"] == NO_TABLE
    assert forgotten["target_layers"].get("value") == after
    assert [value for _, value in forgotten["target_layers"]["choices"]][-1] == "all"


# Random weights


def test_an_app_with_random_weights_loads_any_architecture_with_a_note():
    settings = Settings(device="cpu", random_weights=True)
    told: list[str] = []
    table = Explainer(settings).layers(
        "mobilenetv3_small_050", lambda part, what: told.append(what)
    )
    assert table.random_weights
    assert "<code>mobilenetv3_small_050</code> (random weights)" in layer_table(table)
    assert told == ["Loading mobilenetv3_small_050", "Finding layers"]
    texts = [str(part["props"].get("value")) for part in create_app(settings).config["components"]]
    assert any("Random weights" in text for text in texts)
    trained = create_app(SETTINGS).config["components"]
    assert not any("Random weights" in str(part["props"].get("value")) for part in trained)


# The endpoint


def test_the_endpoint_answers_with_the_public_facts_of_every_usable_layer(
    client: Client, lite0: cam_hub.LoadedModel
):
    listed = client.predict(cam_hub.DEFAULT_MODEL, api_name="/layers")
    usable = [layer for layer in cam_hub.list_layers(lite0) if layer.usable]
    assert [row["name"] for row in listed] == [layer.name for layer in usable]
    for row, layer in zip(listed, usable, strict=True):
        words = row.pop("words")
        assert ("best" in words) == layer.recommended
        assert ("convs" in words) == layer.is_conv
        assert "all" in words
        assert row.pop("grid") == list(layer.grid or ())
        assert row == {name: getattr(layer, name) for name in row}


def test_the_endpoint_lists_unusable_layers_on_demand_with_the_reason(client: Client):
    listed = client.predict(show_all=True, api_name="/layers")
    (classifier,) = [row for row in listed if row["name"] == "classifier"]
    assert classifier["usable"] is False
    assert classifier["layout"] is classifier["grid"] is classifier["stage"] is None
    assert "no rows and columns" in classifier["reason"]
    assert classifier["words"] == []


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("torchvision/resnet5", "torchvision/resnet50"),
        ("", "a model ID such as"),
        (HOSTILE, HOSTILE),
    ],
)
def test_a_model_that_the_endpoint_cannot_list_gets_a_message_in_plain_text(
    client: Client, model: str, part: str, capfd: Any
):
    with pytest.raises(AppError) as caught:
        client.predict(model, api_name="/layers")
    assert part in str(caught.value)
    assert "Traceback" not in str(caught.value) + capfd.readouterr().err


def test_the_endpoint_documents_names_types_defaults_and_meanings(client: Client):
    info: Any = client.view_api(return_format="dict", print_info=False)
    endpoint = info["named_endpoints"]["/layers"]
    assert endpoint["description"].startswith("Lists the layers")
    parameters = {p["parameter_name"]: p for p in endpoint["parameters"]}
    assert {name: p["python_type"]["type"] for name, p in parameters.items()} == {
        "model_id": "str",
        "show_all": "bool",
    }
    assert parameters["model_id"]["parameter_default"] == cam_hub.DEFAULT_MODEL
    assert parameters["show_all"]["parameter_default"] is False
    (answer,) = endpoint["returns"]
    assert answer["label"] == "layers"
    for part in ("name: str", "layout: None | str", "usable: bool", "words: list[str]"):
        assert part in answer["python_type"]["type"]
