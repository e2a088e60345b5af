"""Malicious IDs, and IDs of repos that are not models: the cost and the error of each."""

from __future__ import annotations

import pytest

import cam_hub
from cam_hub.errors import ModelNotFound, ModelRefused
from cam_hub.models.loading import LoadLimits
from tests.fakes.hub.shelves import Shelf


@pytest.mark.parametrize(
    ("shelf", "words"), [("datasets", "a dataset and not"), ("spaces", r"a Space \(an app\) and")]
)
def test_an_object_that_is_not_a_model_is_refused_with_its_kind(shelf, words, hub):
    hub.uploaded[f"{shelf}/baker/photos"] = Shelf()
    with pytest.raises(ModelRefused, match=words):
        cam_hub.load_model("baker/photos")
    hub.requests.clear()
    for id in (f"{shelf}/baker/photos", f"https://huggingface.co/{shelf}/baker/photos"):
        with pytest.raises(ModelNotFound, match=words.partition(" and")[0].partition(" \\(")[0]):
            cam_hub.load_model(id)
    assert hub.requests == []


TRICKS = [
    "../baker/bread", "baker/../bread", "baker//bread", "/baker/bread", "baker/bread/", "//bread",
    "baker/bread\0", "baker/bre\nad", "baker\\bread", "..\\..\\bread", "%2e%2e/bread",
    "baker/%2e%2e",
    "baker/" + "x" * 300, "x" * 5000, "file:///etc/passwd", "ftp://hub/baker/bread", "C:\\bread",
    "baker/bread@../../main", "baker/bread@main\0", "baker/bread@/etc", "baker/bread@" + "x" * 300,
    "local-dir:/etc", "~/bread", "./bread", "baker/bread?x=1", "baker/bread#x", "baker/bread.git",
    "https://evil.invalid/baker/bread", "https://huggingface.co@evil.invalid/baker/bread",
    "ｂaker/bread", "baker/br\u0435ad", "", " ", "baker/", "/", ".", "..", "torchvision/../x",
]  # fmt: skip


@pytest.mark.parametrize("id", TRICKS, ids=lambda id: repr(id)[:30])
def test_ids_that_are_tricks_cost_nothing(id, hub, hub_cache):
    with pytest.raises(ModelNotFound) as caught:
        cam_hub.load_model(id, limits=LoadLimits(local=False))
    assert hub.requests == []
    assert not hub_cache.exists()
    assert len(str(caught.value)) < 1000
