"""The store of loaded models: each loaded once, within a limit, and used by many threads."""

from __future__ import annotations

import threading

import pytest

import cam_hub
from cam_hub.errors import InvalidArgument, ModelNotFound, ModelRefused
from cam_hub.models.loaded_model import in_double
from cam_hub.models.loading import LoadLimits
from cam_hub.sources.store import ModelStore
from tests.fakes.hub.bread import REPO

ONE, OTHER = "test_efficientnet.r160_in1k", "test_resnet.r160_in1k"
"""timm's smallest architectures."""


def get(store: ModelStore, id: str) -> cam_hub.LoadedModel:
    return store.get(id, pretrained=False, device="cpu")


def size_of(id: str) -> int:
    """The bytes of a model's weights, with a little room for its buffers."""
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


def test_a_cleared_store_loads_again():
    store = ModelStore()
    first = get(store, ONE)
    store.clear()
    assert get(store, ONE) is not first


@pytest.mark.parametrize("numbers", [{"limit": -1}, {"patience": -1}])
def test_negative_numbers_are_refused(numbers):
    with pytest.raises(InvalidArgument, match=next(iter(numbers))):
        ModelStore(**numbers)


def lease(store: ModelStore, id: str, **options):
    return store.lease(id, pretrained=False, device="cpu", **options)


class TestLeases:
    def test_a_model_in_use_is_never_forgotten(self):
        store = ModelStore(limit=size_of(ONE) + size_of(OTHER))
        with lease(store, ONE) as held:
            get(store, OTHER)
            get(store, "test_vit")  # the other one makes room
            assert get(store, ONE) is held

    def test_it_may_be_forgotten_afterwards(self):
        store = ModelStore(limit=size_of(ONE) + size_of(OTHER))
        with lease(store, ONE) as held:
            pass
        get(store, OTHER)
        get(store, "resnet10t")
        assert get(store, ONE) is not held

    def test_also_after_an_error(self):
        store = ModelStore(limit=0)
        with pytest.raises(ZeroDivisionError), lease(store, ONE) as held:
            raise ZeroDivisionError
        get(store, OTHER)
        assert get(store, ONE) is not held

    def test_several_may_use_one_model(self):
        store = ModelStore(limit=0, patience=0)
        with lease(store, ONE) as held:
            with lease(store, ONE) as again:
                assert again is held
            with pytest.raises(ModelRefused):
                get(store, OTHER)
        assert get(store, OTHER)

    def test_beside_models_in_use_another_is_refused_with_the_numbers(self):
        store = ModelStore(limit=2**20, patience=0.05)
        with (
            lease(store, ONE),
            pytest.raises(ModelRefused, match=r"2 MiB.*in use now.*1 MiB.*Try again"),
        ):
            get(store, OTHER)
        assert store.ids == {ONE}

    def test_it_waits_for_room(self):
        store = ModelStore(limit=0, patience=30)
        waiting = threading.Event()
        found = []

        def other() -> None:
            found.append(get(store, OTHER))

        thread = threading.Thread(target=other)
        with lease(store, ONE):
            thread.start()
            waiting.wait(0.3)
            assert found == []
        thread.join(30)
        assert found[0].id == OTHER

    def test_its_copies_in_double_precision_count(self):
        store = ModelStore(limit=2 * size_of(ONE), patience=0)
        with lease(store, ONE) as model:
            get(store, "test_efficientnet")  # of the same size
            in_double(model)
            with pytest.raises(ModelRefused):
                get(store, "test_efficientnet_ln")


class TestTokens:
    @pytest.fixture(autouse=True)
    def private_repo(self, hub):
        hub.private[REPO] = {"hf_secret"}

    def private(self, store: ModelStore):
        return store.lease(REPO, device="cpu", token="hf_secret")

    def test_a_model_that_a_token_opened_is_not_given_to_others(self):
        store = ModelStore()
        with self.private(store), pytest.raises(ModelNotFound):
            store.get(REPO, device="cpu", token=False)

    def test_it_is_gone_afterwards(self):
        store = ModelStore()
        with self.private(store):
            assert store.ids == {REPO}
        assert store.ids == set()

    def test_it_counts_while_it_is_in_use(self):
        store = ModelStore(limit=0, patience=0)
        with self.private(store), pytest.raises(ModelRefused):
            get(store, ONE)

    def test_a_public_model_is_kept_for_all_callers(self, hub):
        del hub.private[REPO]
        store = ModelStore()
        with self.private(store) as first:
            assert store.get(REPO, device="cpu", token=False) is first
        with self.private(store) as again:
            assert again is first

    def test_what_the_token_of_this_machine_may_have_opened_is_not_for_other_tokens(self):
        store = ModelStore()
        found = store.get(cam_hub.DEFAULT_MODEL, device="cpu")
        with store.lease(cam_hub.DEFAULT_MODEL, device="cpu", token="hf_secret") as model:
            assert model is not found
        assert store.get(cam_hub.DEFAULT_MODEL, device="cpu", token=False) is not found


def test_permissions_of_one_caller_are_not_those_of_another():
    store = ModelStore()
    one = get(store, ONE)
    with lease(store, ONE, limits=LoadLimits(pickles=False)) as other:
        assert other is not one
    with lease(store, ONE, limits=LoadLimits(parameters=1)) as other:
        assert other is one  # cached files cost nothing
