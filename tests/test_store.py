"""The store of loaded models: once, bounded, and by many threads."""

from __future__ import annotations

import threading

import pytest

import cam_hub
from cam_hub.errors import InvalidArgument, ModelNotFound
from cam_hub.store import ModelStore

ONE, OTHER = "test_efficientnet.r160_in1k", "test_resnet.r160_in1k"
"""timm's smallest architectures."""


def get(store: ModelStore, id: str) -> cam_hub.LoadedModel:
    return store.get(id, pretrained=False, device="cpu")


def size_of(id: str) -> int:
    """Bytes of a model's weights, with a little room for its buffers."""
    return sum(weight.numel() * 5 for weight in get(ModelStore(), id).module.parameters())


def test_a_model_is_loaded_once():
    store = ModelStore()
    assert get(store, ONE) is get(store, f" {ONE} ")


def test_random_and_trained_weights_are_not_mixed_up():
    store = ModelStore()
    random = store.get(cam_hub.DEFAULT_MODEL, pretrained=False, device="cpu")
    assert store.get(cam_hub.DEFAULT_MODEL, device="cpu") is not random


def test_the_least_recently_used_model_is_forgotten_first():
    store = ModelStore(limit=size_of(ONE) + size_of(OTHER))
    first = get(store, ONE)
    get(store, OTHER)
    assert get(store, ONE) is first
    get(store, "resnet10t")  # too large to be kept together with the others
    assert get(store, ONE) is not first


def test_the_model_asked_for_last_is_kept_however_large():
    store = ModelStore(limit=0)
    assert get(store, ONE) is get(store, ONE)


def test_a_forgotten_model_lives_on_where_it_is_in_use():
    store = ModelStore(limit=0)
    held = get(store, ONE)
    get(store, OTHER)
    assert cam_hub.list_layers(held)


def test_many_threads_that_ask_at_once_get_the_same_model():
    store, found = ModelStore(), []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait(10)
        found.append(get(store, ONE))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_a_model_that_cannot_be_loaded_is_tried_again_the_next_time():
    store = ModelStore()
    for _ in range(2):
        with pytest.raises(ModelNotFound):
            get(store, "no_such_model")
    assert get(store, ONE)


def test_a_cleared_store_loads_anew():
    store = ModelStore()
    first = get(store, ONE)
    store.clear()
    assert get(store, ONE) is not first


def test_a_negative_limit_is_refused():
    with pytest.raises(InvalidArgument, match="limit"):
        ModelStore(limit=-1)
