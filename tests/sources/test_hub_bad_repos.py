"""Repos that are inconsistent, malicious or of another kind: refused with the reason, at minimum
cost.

Each is loaded by its ID from the hub of the tests; the table includes the files that were fetched
and those left on the disk.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

import cam_hub
from cam_hub.errors import CamHubError, ModelRefused
from cam_hub.models.loading import UNLIMITED, LoadLimits
from tests.fakes.hub import FakeHub
from tests.fakes.hub.bread import REPO
from tests.fakes.hub.files import git_sha1, sha256
from tests.fakes.hub.repos import changed, pushed
from tests.fakes.peaks import takes_at_most
from tests.fakes.repo_folders import network

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
VISITOR = LoadLimits(pickles=False, local=False)
"""The limits of an app on a public server."""

Repo = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A repo that is refused.

    Attributes:
        make: Creates its files, with a folder to work in.
        words: Words of the refusal.
        fetched: The files that must have been requested; no others may.
        limits: The caller's limits.
        facts: The Hub's facts about the repo.
    """

    make: Callable[[Path], Repo]
    words: str
    fetched: tuple[str, ...] = ()
    limits: LoadLimits = UNLIMITED
    facts: dict[str, Any] | None = None


def weights(make: Callable[[], bytes]) -> Callable[[Path], Repo]:
    """A repo with modified weights."""
    return lambda folder: {**pushed(folder), WEIGHTS: make()}


def config(**changes: Any) -> Callable[[Path], Repo]:
    """A repo with other values in its configuration."""
    return lambda folder: changed(folder, **changes)


def without(*names: str, **added: bytes) -> Callable[[Path], Repo]:
    """A repo with some files removed, and others added."""

    def make(folder: Path) -> Repo:
        files = {name: body for name, body in pushed(folder).items() if name not in names}
        return files | {name.replace("__", "."): body for name, body in added.items()}

    return make


def named(name: str) -> Callable[[Path], Repo]:
    """A repo whose weights have another name."""

    def make(folder: Path) -> Repo:
        files = pushed(folder)
        return {CONFIG: files[CONFIG], name: files[WEIGHTS]}

    return make


def other(config: dict[str, Any] | None, *names: str) -> Callable[[Path], Repo]:
    """A repo of another library."""
    own = {} if config is None else {CONFIG: json.dumps(config).encode()}
    return lambda _: own | dict.fromkeys(names, b"0123")


def header(entries: dict[str, Any], body: bytes = bytes(8), length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def broken(value: float) -> bytes:
    module = network(num_classes=3)
    module.get_parameter("fc.weight").data.view(-1)[0] = value
    return save(module.state_dict())


class Malicious:
    """Creates a folder when it is unpickled by a reader that executes code."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def malicious(folder: Path) -> Repo:
    files = pushed(folder)
    del files[WEIGHTS]
    bad = {"state_dict": network(num_classes=3).state_dict(), "args": Malicious(folder / "ran")}
    torch.save(bad, folder / PICKLE)
    return {**files, PICKLE: (folder / PICKLE).read_bytes()}


ALL = (CONFIG, WEIGHTS)
HUGE_TENSOR = {"fc.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 8]}}
LYING_RANGE = {"fc.weight": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}
TWO = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
TRANSFORMERS = {"library_name": "transformers", "tags": ["transformers"]}
NOBODY = {"library_name": None, "tags": []}

CASES: dict[str, Case] = {
    # Impossible configurations.
    "a thousand million classes": Case(
        config(num_classes=10**9), r"num_classes=1000000000 .* from 0 to 1000000", (CONFIG,)
    ),
    "a huge side": Case(
        config(pretrained_cfg={"input_size": [3, 10**5, 10**5]}), "at most 4096 pixels", (CONFIG,)
    ),
    "no architecture of timm's": Case(
        config(architecture="evil_net"), "no architecture 'evil_net'", (CONFIG,)
    ),
    "another repo for an architecture": Case(
        config(architecture="hf-hub:evil/twin"), "no architecture 'hf-hub:evil/twin'", (CONFIG,)
    ),
    "a file of this machine": Case(
        config(model_args={"checkpoint_path": "/etc/passwd"}), "arguments of the network", (CONFIG,)
    ),
    "a link of git's": Case(
        without(config__json=b"../../../../etc/passwd"), "cannot be read", (CONFIG,)
    ),
    "no JSON": Case(without(config__json=b"{'a': 1}"), "cannot be read", (CONFIG,)),
    # Invalid weights.
    "another network's": Case(
        config(architecture="test_vit", model_args=None), "not those of 'test_vit'", ALL
    ),
    "another class count": Case(config(num_classes=7, model_args=None), "size mismatch", ALL),
    "NaN": Case(weights(lambda: broken(float("nan"))), "NaN or infinite values", ALL),
    "infinite": Case(weights(lambda: broken(float("inf"))), "NaN or infinite values", ALL),
    "a header that is too long": Case(weights(lambda: header({}, length=2**62)), "cut short", ALL),
    "a header of a huge tensor": Case(weights(lambda: header(HUGE_TENSOR)), "overflow", ALL),
    "a header of bytes that are not there": Case(
        weights(lambda: header(LYING_RANGE)), "file not fully covered", ALL
    ),
    "a pickle by another name": Case(weights(lambda: b"\x80\x02}q\x00." * 9), "cut short", ALL),
    # Malicious pickles.
    "a malicious pickle": Case(malicious, "Nothing in it was executed", (CONFIG, PICKLE)),
    "a malicious pickle for visitors": Case(malicious, "only as a pickle", limits=VISITOR),
    # Files in the wrong place, or missing.
    "weights in a folder": Case(
        named("weights/model.safetensors"), r"in a folder \(weights/model\.safetensors\)"
    ),
    "a pickle in a folder": Case(
        named("checkpoints/best.pth"), r"in a folder \(checkpoints/best\.pth\)"
    ),
    "weights in parts": Case(
        without(WEIGHTS, **dict.fromkeys(TWO, b""), model__safetensors__index__json=b"{}"),
        r"in several files \(model\.safetensors\.index\.json\)",
    ),
    "weights in parts without an index": Case(
        without(WEIGHTS, **dict.fromkeys(TWO, b"")), r"in several files \(model-00001-of-"
    ),
    "a pickle in parts": Case(
        without(WEIGHTS, **{"pytorch_model-00001-of-00002.bin": b""}), "in several files"
    ),
    "no weights": Case(without(WEIGHTS), r"no model\.safetensors"),
    "no configuration": Case(without(CONFIG), r"no config\.json"),
    "nothing at all": Case(lambda _: {".gitattributes": b""}, r"no config\.json"),
    # Names that lead elsewhere.
    "up and away": Case(named("../../model.safetensors"), r"no model\.safetensors"),
    "up and away on Windows": Case(named("..\\..\\model.safetensors"), r"no model\.safetensors"),
    "at the root": Case(named("/etc/model.safetensors"), r"no model\.safetensors"),
    "on a drive": Case(named("C:model.safetensors"), r"no model\.safetensors"),
    "with a NUL": Case(named("model\0.safetensors"), r"no model\.safetensors"),
    "with a line break": Case(named("model\n.safetensors"), r"no model\.safetensors"),
    "longer than a disk takes": Case(named("x" * 300 + ".safetensors"), r"no model\.safetensors"),
    # Other libraries.
    "transformers": Case(
        other({"model_type": "vit", "architectures": ["ViT"]}, WEIGHTS, "preprocessor_config.json"),
        "a transformers model of type 'vit'", (CONFIG,), facts=TRANSFORMERS,
    ),
    "transformers without a library name": Case(
        other({"model_type": "bert"}, WEIGHTS), "a transformers model of type 'bert'", (CONFIG,),
        facts=NOBODY,
    ),
    "open_clip": Case(
        other(None, "open_clip_config.json", "open_clip_model.safetensors"), "an open_clip model",
        facts={"library_name": "open_clip", "tags": ["open_clip"]},
    ),
    "open_clip's configuration in the place of ours": Case(
        other({"model_cfg": {}, "preprocess_cfg": {}}, "open_clip_model.safetensors"),
        "an open_clip model", (CONFIG,), facts=NOBODY,
    ),
    "Keras": Case(other(None, "saved_model.pb"), "a Keras model", facts=NOBODY),
    "Keras of today": Case(
        other({"keras_version": "3"}, "model.weights.h5", "bread.keras"), "a Keras model",
        facts={"library_name": "keras", "tags": []},
    ),
    "ultralytics": Case(
        other(None, "best.pt"), "library ultralytics",
        facts={"library_name": "ultralytics", "tags": []},
    ),
}  # fmt: skip


def asked_for(hub: FakeHub) -> tuple[str, ...]:
    return tuple(path.partition("/resolve/")[2][41:] for _, path in hub.requests if "solve" in path)


def left_over(cache: Path) -> list[str]:
    """Cached files whose content does not match their names."""
    odd = []
    for path in (path for path in cache.rglob("*") if path.is_file() and not path.is_symlink()):
        body = path.read_bytes()
        known = {"blobs": (sha256(body), git_sha1(body)), "refs": ("main",)}
        known[cache.name] = known["models--baker--bread"] = (".cam_hub_public",)
        if ".locks" not in path.parts and path.name not in known.get(path.parent.name, ()):
            odd.append(str(path.relative_to(cache)))
    return odd


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Imports everything that loading needs, before memory is measured."""
    cam_hub.load_model("test_resnet", pretrained=False, device="cpu")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::cam_hub.models.checkpoint.PickleWarning")
def test_what_cannot_be_loaded_is_refused_for_what_it_is(name, hub, hub_cache, tmp_path):
    case = CASES[name]
    hub.repos[REPO] = case.make(tmp_path / "pushed")
    hub.facts[REPO] = case.facts or {}
    with takes_at_most(100_000_000), pytest.raises(ModelRefused, match=case.words) as caught:
        cam_hub.load_model(REPO, device="cpu", limits=case.limits)
    assert asked_for(hub) == case.fetched
    assert left_over(hub_cache) == []
    assert not (tmp_path / "pushed" / "ran").exists()
    assert str(tmp_path) not in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_the_malicious_pickle_of_the_table_does_run_where_pickles_are_trusted(tmp_path):
    malicious(tmp_path)
    torch.load(tmp_path / PICKLE, weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_configuration_of_50_megabytes_is_not_fetched(hub, hub_cache):
    weights = {"rfilename": WEIGHTS, "size": 9, "blobId": "0" * 40}
    huge = {"rfilename": CONFIG, "size": 50_000_000, "blobId": "0" * 40}
    hub.facts[REPO] = {"siblings": [huge, weights]}
    with pytest.raises(ModelRefused, match=r"config\.json has 50,000,000 bytes"):
        cam_hub.load_model(REPO, device="cpu")
    assert len(hub.requests) == 1
    assert not hub_cache.exists()


DIGESTS = {"a path": "../../../../evil", "nothing": "", "too short": "0" * 39, "words": "x" * 64}


@pytest.mark.parametrize("digest", DIGESTS.values(), ids=DIGESTS)
def test_an_invalid_digest_refers_to_no_file(digest, hub, hub_cache):
    sizes = {name: len(body) for name, body in hub.repos[REPO].items()}
    hub.facts[REPO] = {
        "siblings": [
            {"rfilename": name, "size": size, "blobId": digest} for name, size in sizes.items()
        ]
    }
    with pytest.raises(CamHubError, match="states no size or no digest"):
        cam_hub.load_model(REPO, device="cpu")
    assert not list(hub_cache.rglob("*evil*"))
