"""Configurations of repos: what is read from them, and what is refused."""

from __future__ import annotations

import json
import time
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import timm
from timm.models import PretrainedCfg

from cam_hub.errors import ModelRefused
from cam_hub.models.config import CONFIG_BYTES, RepoConfig, read_config
from tests.fakes.peaks import takes_at_most

ID = "baker/bread"


def read(folder: Path, content: object) -> RepoConfig:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_config(ID, path)


def bread(**changes: Any) -> dict[str, Any]:
    cfg = {"input_size": [3, 64, 48], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    return {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": cfg, **changes}


def changed(**changes: Any) -> dict[str, Any]:
    """A configuration with other values in its ``pretrained_cfg``."""
    return bread(pretrained_cfg={**bread()["pretrained_cfg"], **changes})


# --- values that are read ---


def test_todays_layout(tmp_path):
    config = read(tmp_path, bread(model_args={"global_pool": "max"}, label_names=["a", "b", "c"]))
    assert (config.architecture, config.num_classes) == ("test_resnet", 3)
    assert config.model_args == {"global_pool": "max"}
    assert config.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    assert config.label_names == ("a", "b", "c")
    assert config.raw["label_names"] == ["a", "b", "c"]
    with pytest.raises(FrozenInstanceError):
        config.num_classes = 4


def test_the_old_flat_layout_with_its_pool_and_its_labels(tmp_path):
    flat = {"architecture": "test_resnet.r160_in1k", "num_classes": 2, "labels": ["a", "b"],
            "input_size": [3, 64, 64], "global_pool": "avgmax", "num_features": 128}  # fmt: skip
    config = read(tmp_path, flat)
    assert (config.architecture, config.num_classes) == ("test_resnet", 2)
    assert config.model_args == {"global_pool": "avgmax"}
    assert config.label_names == ("a", "b")
    PretrainedCfg(**config.pretrained_cfg)  # would refuse unknown values


def test_the_count_at_the_top_goes_before_the_one_of_the_weights_it_came_from(tmp_path):
    assert read(tmp_path, changed(num_classes=1000)).pretrained_cfg["num_classes"] == 3


def test_keys_that_timm_does_not_know_do_no_harm(tmp_path):
    config = read(tmp_path, {**changed(colour="red"), "epochs": 7})
    assert "colour" not in config.pretrained_cfg
    assert config.raw["epochs"] == 7


@pytest.mark.parametrize("channels", [1, 4])
def test_three_colours_statistics_are_averaged_for_other_channels(channels, tmp_path):
    config = read(tmp_path, bread(model_args={"in_chans": channels}))
    assert list(config.pretrained_cfg["input_size"]) == [channels, 64, 48]
    assert config.pretrained_cfg["mean"] == pytest.approx([0.2])
    assert config.pretrained_cfg["std"] == pytest.approx([0.5])


def test_a_fixed_size_follows_the_size_that_the_network_is_built_for(tmp_path):
    sized = changed(fixed_input_size=True) | {"model_args": {"img_size": 96}}
    assert list(read(tmp_path, sized).pretrained_cfg["input_size"]) == [3, 96, 96]
    sized["model_args"]["dynamic_img_size"] = True
    config = read(tmp_path, sized)
    assert config.pretrained_cfg["fixed_input_size"] is False
    assert list(config.pretrained_cfg["input_size"]) == [3, 64, 48]


def test_configurations_of_timm_are_read_unchanged(tmp_path):
    for name in timm.list_pretrained()[::4]:
        told = timm.models.get_pretrained_cfg(name).to_dict(remove_source=True)
        told = json.loads(json.dumps(told))
        wanted = PretrainedCfg(**{**told, "custom_load": False}).to_dict()
        content = {"architecture": told["architecture"], "pretrained_cfg": told}
        got = PretrainedCfg(**read(tmp_path, content).pretrained_cfg).to_dict()
        assert {**got, "mean": None, "std": None} == {**wanted, "mean": None, "std": None}, name
        channels = wanted["input_size"][0]
        assert len(got["mean"]) in (1, channels)
        assert got["mean"] == wanted["mean"] or len(wanted["mean"]) != channels


# --- labels ---

LABELS: dict[str, tuple[dict[str, Any], tuple[str, ...] | None]] = {
    "a list": ({"label_names": ["a", "b", "c"]}, ("a", "b", "c")),
    "names before descriptions": (
        {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "rye", "n3": "oat"}},
        ("rye", "n2", "oat"),
    ),
    "a map with a gap": ({"label_names": {"0": "a", "2": "c"}}, ("a", "1", "c")),
    "the format of transformers": ({"id2label": {"1": "b", "0": "a", "2": "c"}}, ("a", "b", "c")),
    "the other way round": ({"label2id": {"b": 1, "a": 0, "c": 2}}, ("a", "b", "c")),
    "timm's before transformers'": (
        {"label_names": ["a", "b", "c"], "id2label": {"0": "x", "1": "y", "2": "z"}},
        ("a", "b", "c"),
    ),
    "placeholders": ({"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}}, None),
    "too few": ({"label_names": ["a", "b"]}, None),
    "an index too high": ({"id2label": {"0": "a", "1": "b", "9": "c"}}, None),
    "words for indices": ({"id2label": {"zero": "a"}}, None),
    "nested": ({"label_names": [["a"], ["b"], ["c"]]}, None),
    "white space": ({"label_names": ["a\n b", " c ", "d"]}, ("a b", "c", "d")),
    "none": ({}, None),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_found_where_the_repo_has_them(case, tmp_path):
    declared, wanted = LABELS[case]
    config = read(tmp_path, bread(**declared))
    assert config.label_names == wanted
    assert config.pretrained_cfg.get("label_names") == wanted


def test_labels_determine_the_class_count_if_no_number_does(tmp_path):
    config = read(tmp_path, bread(num_classes=None, label_names=["a", "b"]))
    assert (config.num_classes, config.label_names) == (2, ("a", "b"))


CARDS = {
    "list": "---\nlicense: mit\nlabels: [rye, oat, wheat]\n---\n# Bread\n",
    "map": "---\nid2label:\n  0: rye\n  1: oat\n  2: wheat\n---\n",
}


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_the_card_provides_labels_that_the_configuration_lacks(card, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert read(tmp_path, bread()).label_names == ("rye", "oat", "wheat")
    own = read(tmp_path, bread(label_names=["a", "b", "c"]))
    assert own.label_names == ("a", "b", "c")


BAD_CARDS = {
    "no front matter": b"# Bread",
    "damaged": b"---\nlabels: [rye, oat\n---\n",
    "executable": b"---\nlabels: !!python/object/apply:os.system ['true']\n---\n",
    "binary": bytes(range(256)),
    "a list": b"---\n- rye\n---\n",
    "deep": b"---\nlabels: " + b"[" * 50_000 + b"\n---\n",
    "endless": b"---\n" + b"x: y\n" * 400_000,
    "bomb": b"---\na: &a [x,x]\nb: &b [*a,*a]\n"
    + b"".join(b"%c: &%c [*%c,*%c]\n" % (c + 1, c + 1, c, c) for c in range(98, 118))
    + b"labels: [*v, *v, *v]\n---\n",
}


@pytest.mark.parametrize("card", BAD_CARDS.values(), ids=BAD_CARDS)
def test_an_unreadable_card_provides_no_labels(card, tmp_path):
    (tmp_path / "README.md").write_bytes(card)
    start = time.perf_counter()
    assert read(tmp_path, bread()).label_names is None
    assert time.perf_counter() - start < 5, "seconds"


# --- values that are refused ---

NAN, INFINITE = float("nan"), float("inf")

ABSURD: dict[str, dict[str, Any]] = {
    "a thousand million classes": bread(num_classes=10**9),
    "negative classes": bread(num_classes=-1),
    "classes in words": bread(num_classes="3"),
    "half a class": bread(num_classes=2.5),
    "truth as a count": bread(num_classes=True),
    "two counts": bread(model_args={"num_classes": 5}),
    "a huge side": changed(input_size=[3, 100_000, 100_000]),
    "a negative side": changed(input_size=[3, -64, 64]),
    "no sides": changed(input_size=[3]),
    "a size in words": changed(input_size="large"),
    "many channels": changed(input_size=[10**6, 64, 64]),
    "a huge test side": changed(test_input_size=[3, 10**5, 10**5]),
    "a mean that is not a number": changed(mean=[NAN, 0, 0]),
    "an infinite mean": changed(mean=[INFINITE, 0, 0]),
    "a mean in words": changed(mean="grey"),
    "no std": changed(std=[0, 0, 0]),
    "negative std": changed(std=[-1, 1, 1]),
    "empty std": changed(std=[]),
    "no crop": changed(crop_pct=0),
    "an odd crop": changed(crop_mode="stretch"),
    "an odd filter": changed(interpolation="psychic"),
    "an offset": changed(label_offset=-1),
    "a layer's number": changed(first_conv=3),
    "not quite yes": changed(fixed_input_size="yes"),
    "a list for an object": bread(pretrained_cfg=[1]),
    "arguments in a list": bread(model_args=[1]),
    "a huge argument": bread(model_args={"depth": 10**9}),
    "a hidden huge argument": bread(model_args={"depths": [2, [2, {"x": -(10**9)}]]}),
    "an argument that is not a number": bread(model_args={"drop_rate": NAN}),
    "deep arguments": bread(model_args={"a": [[[[[[[[[[1]]]]]]]]]]}),
    "very many arguments": bread(model_args={"a": [0] * 20_000}),
    "a long text": bread(model_args={"act_layer": "x" * 10_000}),
    "a huge image": bread(model_args={"img_size": 10_000}),
    "no channels": bread(model_args={"in_chans": 0}),
    "a foreign file": bread(model_args={"checkpoint_path": "/etc/passwd"}),
    "a foreign device": bread(model_args={"device": "cuda"}),
    "loose loading": bread(model_args={"pretrained_strict": False}),
    "another preset": bread(model_args={"pretrained_cfg_overlay": {"hf_hub_id": "evil/twin"}}),
    "an unknown architecture": bread(architecture="test_resnett"),
    "an address for an architecture": bread(architecture="hf-hub:evil/twin"),
    "a folder for an architecture": bread(architecture="local-dir:/etc"),
    "a number for an architecture": bread(architecture=7),
    "a list for an architecture": bread(architecture=["test_resnet"]),
}


@pytest.mark.parametrize("case", ABSURD)
def test_what_cannot_be_is_refused_with_what_was_seen(case, tmp_path):
    with pytest.raises(ModelRefused) as caught:
        read(tmp_path, ABSURD[case])
    assert str(caught.value).startswith("'baker/bread' was refused: ")
    assert len(str(caught.value)) < 500
    assert str(tmp_path) not in str(caught.value)


def test_a_refusal_names_value_and_range(tmp_path):
    with pytest.raises(ModelRefused, match=r"num_classes=1000000000 .* from 0 to 1000000"):
        read(tmp_path, bread(num_classes=10**9))
    with pytest.raises(
        ModelRefused, match=r"no architecture 'test_resnett'\. Nearest: test_resnet"
    ):
        read(tmp_path, bread(architecture="test_resnett"))


DAMAGED = {
    "empty": "",
    "half": '{"architecture": "test_res',
    "deep": "[" * 100_000,
    "long number": '{"num_classes": ' + "9" * 10_000 + "}",
    "binary": "\x00\x01",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_invalid_json_is_refused(text, tmp_path):
    with pytest.raises(ModelRefused, match=r"its config\.json cannot be read"):
        read(tmp_path, text)


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(50 * 2**20)  # takes no disk space, and would take 50 MB of memory
    refused = pytest.raises(ModelRefused, match=f"at most {CONFIG_BYTES:,} are read")
    with takes_at_most(5_000_000), refused:
        read_config(ID, path)


def test_a_missing_file_is_refused_without_its_place(tmp_path):
    with pytest.raises(ModelRefused, match="No such file") as caught:
        read_config(ID, tmp_path / "config.json")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("content", [{"hidden_size": 3}, [1, 2], "resnet", None])
def test_a_configuration_without_an_architecture_is_not_timms(content, tmp_path):
    with pytest.raises(ModelRefused, match="not a timm model"):
        read(tmp_path, json.dumps(content))


def test_a_configuration_of_another_library_is_named(tmp_path):
    with pytest.raises(ModelRefused, match="a transformers model of type 'bert'"):
        read(tmp_path, {"model_type": "bert"})
