"""The store of loaded models: once, bounded, and by many threads."""

from __future__ import annotations

import random
import threading
import time

import pytest
import timm

import cam_hub
from cam_hub.errors import CamHubError, InvalidArgument, ModelNotFound, ModelRefused
from cam_hub.limits import LoadLimits
from cam_hub.precision import in_double
from cam_hub.store import ModelStore
from tests.checkpoints import save
from tests.conftest import HUB_PORT
from tests.hub import Call, FakeHub, Reply, serve

ONE, OTHER = "test_efficientnet.r160_in1k", "test_resnet.r160_in1k"
"""timm's smallest architectures."""


class SlowHub(FakeHub):
    """Answers only when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()

    def refusal(self, repo: str, call: Call) -> Reply | None:
        self.asked.set()
        assert self.go_on.wait(30)
        return super().refusal(repo, call)


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
            get(store, "test_efficientnet")  # the same size
            in_double(model)
            with pytest.raises(ModelRefused):
                get(store, "test_efficientnet_ln")


class TestTokens:
    """The embedded model loads with any token, as no hub is asked."""

    def private(self, store: ModelStore):
        return store.lease(cam_hub.DEFAULT_MODEL, device="cpu", token="hf_secret")

    def test_a_model_loaded_with_a_token_is_not_given_to_others(self):
        store = ModelStore()
        with self.private(store) as first:
            assert store.get(cam_hub.DEFAULT_MODEL, device="cpu") is not first
        assert store.ids == {cam_hub.DEFAULT_MODEL}

    def test_it_is_gone_afterwards(self):
        store = ModelStore()
        with self.private(store):
            assert store.ids == {cam_hub.DEFAULT_MODEL}
        assert store.ids == set()

    def test_it_counts_while_it_is_in_use(self):
        store = ModelStore(limit=0, patience=0)
        with self.private(store), pytest.raises(ModelRefused):
            get(store, ONE)

    def test_what_is_here_for_all_is_here_for_those_with_a_token(self):
        store = ModelStore()
        found = store.get(cam_hub.DEFAULT_MODEL, device="cpu")
        with self.private(store) as model:
            assert model is found


class TestLoadingAtOnce:
    """Against a hub that can be slow, or fail."""

    @pytest.fixture
    def bread(self, tmp_path) -> dict[str, bytes]:
        """The files of a repo."""
        folder = tmp_path / "bread"
        folder.mkdir()
        save(timm.create_model("test_resnet"), folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    @pytest.fixture
    def hub(self, tmp_path, bread, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        hub = SlowHub()
        hub.repos["baker/bread"] = dict(bread)
        with serve(hub, HUB_PORT):
            yield hub

    def ask(self, store: ModelStore, results: list, **options) -> threading.Thread:
        def work() -> None:
            try:
                results.append(store.get("baker/bread", device="cpu", **options))
            except CamHubError as error:
                results.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def together(self, hub, store: ModelStore, *options) -> list:
        """What several threads get of which the first is loading when the others come."""
        results: list = []
        threads = [self.ask(store, results, **options[0])]
        assert hub.asked.wait(20)
        threads += [self.ask(store, results, **each) for each in options[1:]]
        time.sleep(0.3)
        hub.go_on.set()
        for thread in threads:
            thread.join(60)
        assert len(results) == len(threads)
        return results

    def test_a_model_is_fetched_once(self, hub):
        results = self.together(hub, ModelStore(), {}, {}, {})
        assert len(set(map(id, results))) == 1
        paths = [call.path for call in hub.calls if call.method == "GET"]
        assert sum("safetensors" in path for path in paths) == 1

    def test_those_who_wait_see_how_far_it_is(self, hub):
        told: list = [[], []]
        store = ModelStore()
        results: list = []
        threads = [self.ask(store, results, progress=lambda *state: told[0].append(state))]
        assert hub.asked.wait(20)
        loading = next(iter(store._loading.values()))
        loading.teller(None)(0.5, "half of it")
        threads.append(self.ask(store, results, progress=lambda *state: told[1].append(state)))
        time.sleep(0.5)
        hub.go_on.set()
        for thread in threads:
            thread.join(60)
        assert (0.5, "half of it") in told[1]

    def test_those_who_wait_get_the_same_error_each_their_own(self, hub):
        hub.repos["baker/bread"]["config.json"] = b"{}"
        results = self.together(hub, ModelStore(), {}, {}, {})
        assert all(isinstance(error, ModelRefused) for error in results)
        assert len({str(error) for error in results}) == 1
        assert len(set(map(id, results))) == 3

    def test_those_with_other_limits_try_for_themselves(self, hub):
        hub.repos["baker/bread"]["config.json"] = b"{}"
        wide = LoadLimits(parameters=10**9)
        self.together(hub, ModelStore(), {}, {"limits": wide})
        heads = [call for call in hub.calls if call.method == "HEAD" and "config" in call.path]
        assert len(heads) == 2

    def test_nothing_of_a_failure_stays(self, hub, bread):
        hub.repos["baker/bread"]["config.json"] = b"{}"
        store = ModelStore()
        self.together(hub, store, {}, {})
        assert (store.ids, store._loading) == (set(), {})
        hub.repos["baker/bread"] = bread
        assert store.get("baker/bread", device="cpu")

    def test_what_is_on_its_way_is_named(self, hub):
        store, results = ModelStore(), []
        thread = self.ask(store, results)
        assert hub.asked.wait(20)
        assert store.ids == {"baker/bread"}
        hub.go_on.set()
        thread.join(60)


def test_permissions_of_one_caller_are_not_those_of_another():
    store = ModelStore()
    one = get(store, ONE)
    with lease(store, ONE, limits=LoadLimits(pickles=False)) as other:
        assert other is not one
    with lease(store, ONE, limits=LoadLimits(parameters=1)) as other:
        assert other is one  # what is here costs nothing


def test_many_threads_with_little_room_neither_block_nor_leak():
    store = ModelStore(limit=size_of(ONE), patience=30)
    errors: list[Exception] = []
    rng = random.Random(0)
    plans = [[rng.choice([ONE, OTHER, "test_vit", "no_such_model"]) for _ in range(6)]] * 6

    def work(plan: list[str]) -> None:
        for id in plan:
            try:
                with lease(store, id) as model:
                    assert sum(kept.users for kept in store._kept.values()) >= 1
                    assert model.id == id
            except ModelNotFound:
                assert id == "no_such_model"
            except Exception as error:  # noqa: BLE001
                errors.append(error)

    threads = [threading.Thread(target=work, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert store._loading == {}
    assert not any(kept.users for kept in store._kept.values())
