"""Files designed to delay or crash their readers: refused, in linear time."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cam_hub
from cam_hub.errors import ModelRefused, nearest_names
from cam_hub.models.config import read_config
from cam_hub.models.loading import MAX_NAME, MAX_TENSORS
from cam_hub.models.pickle_scan import scan_pickles
from cam_hub.sources import download as reporting
from tests.fakes.checkpoints import read_checkpoint
from tests.fakes.repo_folders import network, push, read_back

pytestmark = pytest.mark.filterwarnings("ignore::cam_hub.models.checkpoint.PickleWarning")

ID = "baker/bread"


def read(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(ID, path, pickles=True)


def safetensors(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def scalars(names: list[str]) -> bytes:
    """A header of one number for each name."""
    entries = {
        name: {"dtype": "F32", "shape": [], "data_offsets": [4 * place, 4 * place + 4]}
        for place, name in enumerate(names)
    }
    return json.dumps(entries).encode()


# --- safetensors ---


def test_a_name_that_stands_twice_among_many_is_found(tmp_path):
    # In quadratic time, this takes hours.
    names = [f"n{place}" for place in range(MAX_TENSORS)]
    header = scalars(names)[:-1] + b"," + scalars(["n0"])[1:]
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(header, bytes(4 * len(names))))
    with pytest.raises(ModelRefused, match=r"names 'n0' twice|invalid offset"):
        read(path)


def test_more_tensors_than_any_network_has_are_refused(tmp_path):
    names = [f"n{place}" for place in range(MAX_TENSORS + 1)]
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(scalars(names), bytes(4 * len(names))))
    with pytest.raises(ModelRefused, match=f"{MAX_TENSORS + 1:,} tensors"):
        read(path)


def test_a_name_beyond_reason_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(scalars(["x" * (MAX_NAME + 1)]), bytes(4)))
    with pytest.raises(ModelRefused, match="more than"):
        read(path)


ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, 1.5, 1e308, "", "F32", "f32", "\x1b[2J",
    "\u202e", "é" * 300, [], {}, ["F32"], [1, [2]], [[[[1]]]], {"dtype": "F32"}, [0, 4], [4, 0],
    [-4, 0], [0, 2**64], [0.0, 4.0], ["0", "4"], [True, 4], [1] * 200, "LABEL_0", "resnet18",
]  # fmt: skip


def test_every_header_is_read_or_refused(tmp_path):
    chance = random.Random(0)
    path = tmp_path / "model.safetensors"
    outcomes = set()
    for _ in range(400):
        entries: dict[str, Any] = {
            "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "y": {"dtype": "I64", "shape": [2], "data_offsets": [4, 20]},
        }
        for _ in range(chance.randint(0, 2)):
            place = chance.choice([entries, entries["x"], entries["y"]])
            if isinstance(place, dict):
                key = chance.choice(["x", "y", "dtype", "shape", "data_offsets", "__metadata__"])
                place[key] = chance.choice(ODD_VALUES)
            entries = {"x": {}, "y": {}} | entries
        path.write_bytes(safetensors(json.dumps(entries).encode(), bytes(20)))
        try:
            read(path)
            outcomes.add("read")
        except ModelRefused:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# --- configurations ---


def nest(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def test_every_configuration_is_read_or_refused(tmp_path):
    push(tmp_path, network(num_classes=3), label_names=["a", "b", "c"])
    whole = read_back(tmp_path)
    keys = [*whole, *whole["pretrained_cfg"], "labels", "id2label", "label2id", "model_args"]
    keys += ["label_names", "label_descriptions", "in_chans", "img_size", "problem_type"]
    odd = [*ODD_VALUES, "\ud800", nest(300), nest(900), {"0": nest(900), "1": "b", "2": "c"},
           {"a": 2**70, "b": -1}, {str(10**30): "a"}, {"x" * 10_000: {"y": 1}},
           ["a", "b", nest(9)], {"0": "\ud800", "1": "\x1b]0;x\x07", "2": "c\x00"}, float("nan"),
           float("inf")]  # fmt: skip
    chance = random.Random(1)
    outcomes = set()
    for _ in range(400):
        config = json.loads(json.dumps(whole))
        for _ in range(chance.randint(1, 2)):
            places = [config, config["pretrained_cfg"], config.get("model_args")]
            place = chance.choice([each for each in places if isinstance(each, dict)] or [config])
            place[chance.choice(keys)] = chance.choice(odd)
            if not isinstance(config.get("pretrained_cfg"), dict):
                break
        (tmp_path / "config.json").write_text(json.dumps(config))
        try:
            found = read_config(ID, tmp_path / "config.json")
            "".join(found.label_names or ()).encode()  # not half of a surrogate pair
            outcomes.add("read")
        except ModelRefused as error:
            str(error).encode()
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


CARDS = {
    "laughs": "a0: &a0 {k: v}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 40)),
    "brackets": "labels: " + "[" * 60_000,
    "braces": "labels: " + "{a: " * 15_000,
    "infinite": "labels: {.inf: a, 1: b, 2: c}",
    "a huge number": "labels: [0x" + "f" * 50_000 + ", b, c]",
    "lists for labels": "labels: [[a], [b], [c]]",
    "sixties": "labels: [" + "1:" * 20_000 + "1, b, c]",
}


@pytest.mark.parametrize("case", CARDS)
def test_a_card_that_would_take_forever_provides_no_labels(case, tmp_path):
    push(tmp_path, network(num_classes=3))
    (tmp_path / "README.md").write_text(f"---\n{CARDS[case]}\n---\n")
    assert read_config(ID, tmp_path / "config.json").label_names is None


def test_a_label_is_searched_among_many_without_comparing_all_in_full():
    names = [f"{'ab' * 40}{number}" for number in range(20_000)]
    found = nearest_names("abba" * 20 + "77777", [*names, "ab" * 40 + "77777x"])
    assert len(found) <= 5
    assert nearest_names("a" * 10_000, names) == []


# --- pickles ---


def scan(data: bytes) -> None:
    scan_pickles(data, 1, lambda: None)


def archive(tmp_path: Path, data: bytes) -> Path:
    """A file of torch's whose instructions are replaced."""
    honest, path = io.BytesIO(), tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(1)}, honest)
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, data if name.endswith("data.pkl") else source.read(name))
    return path


# Tuples of two references to the previous one: their hash takes 2 ** 60 steps.
PAIRS = b"\x80\x02}(N\x85" + b"q\x00h\x00\x86" * 60 + b"Nu."
ATTACKS = {
    "a key of endless tuples": (PAIRS, "tuples in tuples"),
    "endless bytes": (
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R.", "bytearray"
    ),
    "a tensor without end": (
        b"\x80\x02ctorch\nFloatTensor\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R.", "FloatTensor"
    ),
    "endless bytes, by another opcode": (
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cbuiltins\nbytearray\nctorch\nTensor\n"
        b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85}tR.", "bytearray"
    ),
    "instructions without end": (b"\x80\x02]" + b"N0" * 3 + b".", "instruction"),
    "more instructions than a network has": (b"\x80\x02(" + b"N" * 1_100_000 + b"t.", "more than"),
    "nothing to take": (b"\x80\x02R.", "damaged"),
    "no end": (b"\x80\x02}", "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", ATTACKS)
def test_a_pickle_that_attacks_its_reader_is_refused(case, tmp_path):
    data, words = ATTACKS[case]
    with pytest.raises(ModelRefused, match=words):
        read(archive(tmp_path, data))
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        scan(data)


def test_an_archive_of_more_files_than_weights_need_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as target:
        for number in range(22_000):
            target.writestr(f"archive/{'x' * 150}{number}", b"")
    with pytest.raises(ModelRefused, match="far more files"):
        read(path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old format"])
def test_what_training_leaves_beside_the_weights_is_let_through(new, tmp_path):
    module = network()
    moments = {
        place: {"step": torch.tensor(1.0), "exp_avg": weight, "exp_avg_sq": weight.detach() ** 2}
        for place, weight in enumerate(module.parameters())
    }
    groups = [{"lr": 0.1, "betas": (0.9, 0.99), "params": list(moments), "foreach": None}]
    content = {
        "state_dict": module.state_dict(),
        "optimizer": {"state": moments, "param_groups": groups},
        "epoch": 3,
        "loss": 0.5,
        "history": [("a", 1), ("b", (2, None, True))],
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    assert read(tmp_path / "a.pth").keys() == module.state_dict().keys()


# --- the caller disconnects ---


class Gone(Exception):
    pass


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("after", [0, 1, 20])
def test_a_caller_who_goes_away_ends_the_reading(safe, after, tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "_FIRST_CALL", 0)
    monkeypatch.setattr(reporting, "_INTERVAL", 0)
    push(tmp_path, network(num_classes=3), safe=safe)
    calls = []

    def progress(part: float, what: str) -> None:
        assert 0 <= part <= 1 and "Reading" in what
        calls.append(part)
        if len(calls) > after:
            raise Gone

    with pytest.raises(Gone):
        cam_hub.load_model(tmp_path, progress=progress)
    assert len(calls) == after + 1


def test_a_file_that_is_read_at_once_causes_no_progress_report(tmp_path):
    push(tmp_path, network(num_classes=3))
    calls: list[float] = []
    cam_hub.load_model(tmp_path, progress=lambda part, what: calls.append(part))
    assert calls == []


# --- weights under other names ---


def head_elsewhere(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        ("classifier." if name.startswith("head.") else "encoder.net.") + name: value
        for name, value in state.items()
    }


def tables(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Each part between dots is a table of its own."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        *parts, last = name.split(".")
        place = found
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    return found


def under(*prefixes: str):
    return lambda state: {
        f"{prefix}{name}": value if prefix == prefixes[0] else value + 1
        for prefix in reversed(prefixes)
        for name, value in state.items()
    }


WRAPPED: dict[str, Any] = {
    "lightning": lambda state: {"epoch": 1, "state_dict": under("model.")(state)},
    "lightning, with a loss": lambda state: {
        "state_dict": {**under("model.")(state), "loss.weight": torch.ones(9)}
    },
    "an own class": under("my_own_net."),
    "compiled within lightning": under("model._orig_mod."),
    "a backbone in parallel": under("module.backbone.body."),
    "averaged first": under("ema_model.module.", "online_model.module."),
    "a head beside its backbone": head_elsewhere,
    "tables": tables,
    "tables in a wrapper": lambda state: {"net": {"weights": tables(state)}, "step": 4},
    "beside the optimiser": lambda state: {
        "network": state, "optim": {"state": {0: {"exp_avg": torch.ones(3)}}, "lr": 0.1}
    },
}  # fmt: skip


@pytest.mark.parametrize("case", WRAPPED)
def test_weights_are_found_under_any_prefix(case, tmp_path):
    module = network(num_classes=3)
    push(tmp_path, module)
    (tmp_path / "model.safetensors").unlink()
    torch.save(WRAPPED[case](dict(module.state_dict())), tmp_path / "last.ckpt")
    loaded = cam_hub.load_model(tmp_path).module
    wanted = module.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(loaded.state_dict()[name], wanted[name]) for name in wanted)


def test_a_prefix_is_also_found_in_a_safetensors_file(tmp_path):
    module = network(num_classes=3)
    path = push(tmp_path, module)
    save_file({f"model.net.{name}": each for name, each in module.state_dict().items()}, path)
    loaded = cam_hub.load_model(tmp_path).module
    assert torch.equal(next(loaded.parameters()), next(module.parameters()))


@pytest.mark.parametrize("part", ["missing", "of another shape"])
def test_weights_that_are_not_all_there_are_refused(part, tmp_path):
    module = network(num_classes=3)
    push(tmp_path, module)
    (tmp_path / "model.safetensors").unlink()
    state = under("model.")(dict(module.state_dict()))
    name = next(name for name in state if name.endswith("weight"))
    if part == "missing":
        del state[name]
    else:
        state[name] = torch.ones(1, 2, 3)
    torch.save(state, tmp_path / "last.ckpt")
    with pytest.raises(ModelRefused):
        cam_hub.load_model(tmp_path)
