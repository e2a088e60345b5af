"""Weights files: read without executing anything, refused if they are inconsistent."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from cam_hub.errors import ModelRefused
from cam_hub.models.checkpoint import HEADER_BYTES, PickleWarning
from tests.fakes.checkpoints import read_checkpoint
from tests.fakes.peaks import takes_at_most

ID = "baker/bread"
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def read(path: Path, *, pickles: bool = True) -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PickleWarning)
        return read_checkpoint(ID, path, pickles=pickles)


def same(got: dict[str, torch.Tensor]) -> bool:
    return got.keys() == WEIGHTS.keys() and all(
        torch.equal(got[name], WEIGHTS[name]) for name in WEIGHTS
    )


# --- safetensors ---


def test_safetensors_are_read_without_a_warning(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(read_checkpoint(ID, tmp_path / "model.safetensors", pickles=False))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint16,
              torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64], ids=str
)  # fmt: skip
def test_every_type_of_tensor_is_read(dtype, tmp_path):
    save_file(
        {"x": torch.zeros(3, 2).to(dtype), "none": torch.zeros(0, 4)}, tmp_path / "m.safetensors"
    )
    assert read(tmp_path / "m.safetensors")["x"].dtype == dtype


def header(entries: object, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(start: int, end: int, shape: Any = None, dtype: str = "F32") -> dict[str, Any]:
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


LYING: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short"),
    "cut in the header's length": (b"\x10\0\0", "cut short"),
    "cut in the header": (save(WEIGHTS)[:40], "cut short"),
    "cut in the weights": (save(WEIGHTS)[:-4], "file not fully covered"),
    "a huge header": (header({}, length=2**62), "cut short"),
    "a header beyond reason": (header(b" " * (HEADER_BYTES + 1)), f"more than {HEADER_BYTES:,}"),
    "no json": (header(b"{'a': 1}"), "invalid JSON"),
    "no text": (header(b'{"\xff\xfe": 1}'), "invalid UTF-8"),
    "a list": (header([1, 2]), "invalid type: sequence"),
    "nested deep": (header(b'{"a":' + b"[" * 100_000), "recursion limit exceeded"),
    "beyond the file": (header({"x": entry(0, 400)}, bytes(8)), "file not fully covered"),
    "a shape too large": (header({"x": entry(0, 8, [10**9, 10**9])}, bytes(8)), "overflow"),
    "a negative shape": (header({"x": entry(0, 8, [-1, -2])}, bytes(8)), "invalid value"),
    "a shape in words": (header({"x": entry(0, 8, "large")}, bytes(8)), "invalid type: string"),
    "backwards": (header({"x": entry(8, 0, [2])}, bytes(8)), "invalid offset"),
    "an unknown type": (header({"x": entry(0, 8, [2], "F7")}, bytes(8)), "unknown variant `F7`"),
    "overlapping": (
        header({"x": entry(0, 8), "y": entry(4, 12)}, bytes(12)), "invalid offset for tensor `y`"
    ),
    "with a hole": (header({"x": entry(0, 4), "y": entry(8, 12)}, bytes(12)), "invalid offset"),
    "with a tail": (header({"x": entry(0, 4)}, bytes(999)), "file not fully covered"),
    "a list for a type": (header({"x": entry(0, 4, [1], ["F32"])}, bytes(4)), "invalid type"),
    "one name twice": (
        header(b'{"x":' + json.dumps(entry(0, 4)).encode() + b',"x":'
               + json.dumps(entry(0, 4)).encode() + b"}", bytes(4)), "names 'x' twice"
    ),
    "a pickle": (pickle.dumps({"a": 1}, protocol=2) * 20, "not a safetensors file"),
    "nothing in it": (header({}), "no named weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", LYING)
def test_a_file_that_lies_is_refused_with_how(case, tmp_path):
    content, words = LYING[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with takes_at_most(30_000_000), pytest.raises(ModelRefused, match=words) as caught:
        read(path)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_with_any_changed_byte_is_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    whole = save(WEIGHTS)
    path = tmp_path / "model.safetensors"
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(whole) // 2, len(whole) + 1)])
        try:
            read(path)
            outcomes.add("read")
        except ModelRefused:
            outcomes.add("refused")
    assert "refused" in outcomes


# --- pickles ---


def test_a_pickle_is_read_with_a_visible_warning(tmp_path):
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    with pytest.warns(PickleWarning, match=r"baker/bread come as a pickle \(pytorch_model\.bin\)"):
        assert same(read_checkpoint(ID, tmp_path / "pytorch_model.bin", pickles=True))


def test_a_pickle_is_refused_where_none_are_read(tmp_path):
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelRefused, match=r"only as a pickle .* save them as model\.safetensors"):
        read(tmp_path / "pytorch_model.bin", pickles=False)


def test_a_pickle_of_torchs_old_format_is_read(tmp_path):
    torch.save(WEIGHTS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(read(tmp_path / "old.pth"))


class Malicious:
    """Creates a file when it is unpickled by a reader that executes what it reads."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("place", ["alone", "beside the weights"])
def test_a_malicious_pickle_is_refused_and_has_not_run(new, place, tmp_path):
    marker = tmp_path / "it ran"
    bad: object = Malicious(marker)
    content = bad if place == "alone" else {"state_dict": WEIGHTS, "args": bad}
    path = tmp_path / "pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ModelRefused, match="Nothing in it was executed"):
        read(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "a reader that executes does run it"


def test_a_plain_pickle_of_python_is_refused_and_has_not_run(tmp_path):
    marker = tmp_path / "it ran"
    (tmp_path / "model.pth").write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(ModelRefused):
        read(tmp_path / "model.pth")
    assert not marker.exists()


def test_a_whole_pickled_network_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(ModelRefused, match="not a plain pickle of tensors"):
        read(tmp_path / "model.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_program_in_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "model.pt"))
    with pytest.raises(ModelRefused):
        read(tmp_path / "model.pt")


def swollen() -> dict[str, torch.Tensor]:
    return {"x": torch.zeros(1).expand(10**6, 10**6)}


ODD: dict[str, tuple[object, str]] = {
    "a list": ([torch.ones(2)], "holds a list"),
    "a number": (7, "holds a int"),
    "no tensors": ({"epoch": 3}, "no named weights"),
    "numbers for names": ({0: torch.ones(2)}, "no named weights"),
    "a few bytes repeated": (swollen(), r"claims 4,000,000,000,000 bytes"),
    "without content": ({"x": torch.ones(2, device="meta")}, "not a plain dense tensor"),
    "sparse": ({"x": torch.eye(3).to_sparse()}, "not a plain dense tensor"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_holds_no_plain_weights_is_refused(case, tmp_path):
    content, words = ODD[case]
    torch.save(content, tmp_path / "pytorch_model.bin")
    with takes_at_most(30_000_000), pytest.raises(ModelRefused, match=words):
        read(tmp_path / "pytorch_model.bin")


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    torch.save(WEIGHTS, tmp_path / "honest.bin")
    bomb = tmp_path / "pytorch_model.bin"
    with (
        zipfile.ZipFile(tmp_path / "honest.bin") as honest,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in honest.namelist():
            archive.writestr(name, honest.read(name))
        archive.writestr("archive/data/9", bytes(10**7))
    with pytest.raises(ModelRefused, match="compressed archive"):
        read(bomb)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "old.pth"])
def test_a_pickle_cut_short_is_refused(name, tmp_path):
    torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization="old" not in name)
    whole = (tmp_path / name).read_bytes()
    for share in (0, 0.3, 0.6, 0.95):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ModelRefused) as caught:
            read(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


WRAPPED: dict[str, Any] = {
    "state_dict": {"state_dict": WEIGHTS, "epoch": 3, "optimizer": {"lr": 0.1}},
    "model": {"model": WEIGHTS},
    "averaged first": {"state_dict_ema": WEIGHTS, "state_dict": {"a.weight": torch.zeros(1)}},
    "averaged model": {"model_ema": WEIGHTS, "model": {"a.weight": torch.zeros(1)}},
    "parallel": {f"module.{name}": value for name, value in WEIGHTS.items()},
    "compiled": {f"_orig_mod.{name}": value for name, value in WEIGHTS.items()},
    "in transformers": {f"timm_model.{name}": value for name, value in WEIGHTS.items()},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_weights_come_out_of_what_training_programs_wrap_around_them(case, tmp_path):
    torch.save(WRAPPED[case], tmp_path / "pytorch_model.bin")
    assert same(read(tmp_path / "pytorch_model.bin"))
