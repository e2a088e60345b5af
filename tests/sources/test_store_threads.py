"""Several threads that request models from the store at the same time, from a slow hub."""

from __future__ import annotations

import random
import threading
import time

import pytest
import timm

from cam_hub.errors import CamHubError, ModelNotFound, ModelRefused
from cam_hub.models.loading import LoadLimits
from cam_hub.sources.store import ModelStore
from tests.conftest import HUB_PORT
from tests.fakes.checkpoints import save
from tests.fakes.hub import Call, FakeHub, Reply, serve
from tests.sources.test_store import ONE, OTHER, lease, size_of


class SlowHub(FakeHub):
    """A hub that responds only when it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = threading.Event(), threading.Event()
        self.faults.append(self.hold)

    def hold(self, call: Call, reply: Reply) -> Reply:
        self.asked.set()
        assert self.go_on.wait(30)
        return reply


@pytest.fixture
def bread(tmp_path) -> dict[str, bytes]:
    """The files of a repo."""
    folder = tmp_path / "bread"
    folder.mkdir()
    save(timm.create_model("test_resnet"), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(tmp_path, bread, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub = SlowHub()
    hub.repos["baker/bread"] = dict(bread)
    with serve(hub, HUB_PORT):
        yield hub


def ask(store: ModelStore, results: list, **options) -> threading.Thread:
    def work() -> None:
        try:
            results.append(store.get("baker/bread", device="cpu", **options))
        except CamHubError as error:
            results.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def together(hub, store: ModelStore, *options) -> list:
    """The results of several threads, of which the first is loading when the others begin."""
    results: list = []
    threads = [ask(store, results, **options[0])]
    assert hub.asked.wait(20)
    threads += [ask(store, results, **each) for each in options[1:]]
    time.sleep(0.3)
    hub.go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(results) == len(threads)
    return results


def test_a_model_is_fetched_once(hub):
    results = together(hub, ModelStore(), {}, {}, {})
    assert len(set(map(id, results))) == 1
    paths = [call.path for call in hub.calls if call.method == "GET"]
    assert sum("safetensors" in path for path in paths) == 1


def test_those_who_wait_see_how_far_it_is(hub):
    told: list = [[], []]
    store = ModelStore()
    results: list = []
    threads = [ask(store, results, progress=lambda *state: told[0].append(state))]
    assert hub.asked.wait(20)
    loading = next(iter(store._loading.values()))
    loading.report(0.5, "half of it")
    threads.append(ask(store, results, progress=lambda *state: told[1].append(state)))
    time.sleep(0.5)
    hub.go_on.set()
    for thread in threads:
        thread.join(60)
    assert (0.5, "half of it") in told[1]


def test_those_who_wait_get_the_same_error_each_their_own(hub):
    hub.repos["baker/bread"]["config.json"] = b"{}"
    results = together(hub, ModelStore(), {}, {}, {})
    assert all(isinstance(error, ModelRefused) for error in results)
    assert len({str(error) for error in results}) == 1
    assert len(set(map(id, results))) == 3


def test_those_with_other_limits_try_for_themselves(hub):
    hub.repos["baker/bread"]["config.json"] = b"{}"
    wide = LoadLimits(parameters=10**9)
    together(hub, ModelStore(), {}, {"limits": wide})
    asked = [call for call in hub.calls if call.path.startswith("/api/models/baker/bread")]
    assert len(asked) == 2


def test_nothing_of_a_failure_stays(hub, bread):
    hub.repos["baker/bread"]["config.json"] = b"{}"
    store = ModelStore()
    together(hub, store, {}, {})
    assert (store.ids, store._loading) == (set(), {})
    hub.repos["baker/bread"] = bread
    assert store.get("baker/bread", device="cpu")


def test_what_is_on_its_way_is_named(hub):
    store, results = ModelStore(), []
    thread = ask(store, results)
    assert hub.asked.wait(20)
    assert store.ids == {"baker/bread"}
    hub.go_on.set()
    thread.join(60)


def test_many_threads_with_little_room_neither_block_nor_leak():
    store = ModelStore(limit=size_of(ONE), patience=30)
    errors: list[Exception] = []
    rng = random.Random(0)
    plans = [[rng.choice([ONE, OTHER, "test_vit", "no_such_model"]) for _ in range(6)]] * 6

    def work(plan: list[str]) -> None:
        for id in plan:
            try:
                with lease(store, id) as model:
                    assert sum(entry.users for entry in store._entries.values()) >= 1
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
    assert not any(entry.users for entry in store._entries.values())
