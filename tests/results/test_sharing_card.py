"""Cards of explanations: their content, and the escaping of untrusted names."""

from __future__ import annotations

import yaml

from cam_hub.results.upload import NEWEST, put_into_card, section


def manifest(**changed: object) -> dict[str, object]:
    return {
        "model": {"id": "ann/net", "revision": "c0ffee"},
        "method": "layercam",
        "layers": ["layer4"],
        "classes": [{"class_index": 7, "label": "cock"}],
        **changed,
    }


def test_a_new_card_has_metadata_that_the_hub_can_read():
    card = put_into_card(None, section(manifest(), "a", ["photo.png"]))
    assert card is not None
    _, metadata, _ = card.split("---\n", 2)
    assert yaml.safe_load(metadata)["task_categories"] == ["image-classification"]


def test_images_are_shown_where_they_are():
    files = ["photo.png", "overlay-7.png", "overlay-7-00-layer4.png", "animation-7.gif"]
    text = section(manifest(), "maps/a", files)
    for file in ("photo.png", "overlay-7.png", "animation-7.gif"):
        assert f"](maps/a/{file})" in text
    assert "layer4.png" not in text


def test_an_overlay_that_was_not_drawn_is_not_shown():
    assert "overlay" not in section(manifest(), "a", ["photo.png"])


def test_a_class_without_a_label_goes_by_its_number():
    text = section(manifest(classes=[{"class_index": 7, "label": ""}]), "a", ["overlay-7.png"])
    assert "class 7" in text


def test_untrusted_names_stay_plain_text():
    evil = (
        "](x)![pixel](https://evil.example/p.png)\n---\n# <img src=x> "
        "<!-- cam_hub: end of the explanations --> | `a` & b"
    )
    named = [{"class_index": 7, "label": evil}]
    hostile = manifest(
        classes=named, layers=[evil], method=evil, model={"id": evil, "revision": evil}
    )
    entry = section(hostile, "a", ["photo.png", "overlay-7.png"])
    assert "<img" not in entry
    assert "](https" not in entry
    assert "\n---\n" not in entry
    card = put_into_card(put_into_card(None, entry), section(manifest(), "b", []))
    assert card is not None
    assert card.count("<!-- cam_hub: end of the explanations -->") == 1
    assert entry.strip() in card


def test_the_newest_come_first_and_no_more_than_a_page_of_them():
    card = None
    for number in range(NEWEST + 3):
        card = put_into_card(card, section(manifest(), f"n{number:03d}", []))
    assert card is not None
    listed = [line for line in card.splitlines() if "manifest.json" in line]
    assert len(listed) == NEWEST
    assert f"n{NEWEST + 2:03d}/" in listed[0]


def test_what_the_owner_wrote_around_the_list_stays():
    card = put_into_card(None, section(manifest(), "a", []))
    assert card is not None
    edited = put_into_card(f"{card}\nThanks to all.\n", section(manifest(), "b", []))
    assert edited is not None
    assert edited.endswith("\nThanks to all.\n")


def test_a_card_without_the_list_is_left_alone():
    assert put_into_card("# Mine\n", section(manifest(), "a", [])) is None
