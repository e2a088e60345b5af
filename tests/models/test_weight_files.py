"""Which of a repo's files holds its weights, and what is said where none does."""

from __future__ import annotations

import pytest

from cam_hub.models.repo_files import choose_weights, why_no_weights


@pytest.mark.parametrize(
    ("files", "pickles", "wanted"),
    [
        (["config.json", "pytorch_model.bin", "model.safetensors"], True, "model.safetensors"),
        (["pytorch_model.bin", "other.safetensors"], False, "other.safetensors"),
        (["pytorch_model.bin"], True, "pytorch_model.bin"),
        (["pytorch_model.bin"], False, None),
        (["last.pth", "best.pth.tar", "z.safetensors"], True, "z.safetensors"),
        (["my own weights (2).pth"], True, "my own weights (2).pth"),
        (["config.json", "training_args.json"], True, None),
        (["weights/model.safetensors", "best.pth"], True, "best.pth"),
        (["model-00001-of-00002.safetensors", "best.pth"], True, "best.pth"),
    ],
)
def test_the_safe_file_at_the_top_is_chosen_where_there_is_one(files, pickles, wanted):
    assert choose_weights(files, pickles=pickles) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "../m.pth",
        "/m.pth",
        "..\\m.pth",
        "C:m.pth",
        "m\0.pth",
        "m\n.pth",
        "a/m.pth",
        "x" * 300 + ".pth",
    ],
)
def test_no_name_is_chosen_that_is_more_than_a_name_on_any_system(name):
    assert choose_weights([name], pickles=True) is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["model.safetensors.index.json"], "in several files (model.safetensors.index.json)"),
        (["model-00001-of-00002.safetensors"], "in several files (model-00001-of-00002"),
        (["best.pth"], "only as a pickle (best.pth)"),
        (["best.pth", "weights/model.safetensors"], "only as a pickle (best.pth)"),
        (["a/b/model.safetensors"], "in a folder (a/b/model.safetensors)"),
    ],
)
def test_the_reason_names_the_file_and_what_would_work(files, words):
    reason = why_no_weights(files)
    assert words in reason
    assert "model.safetensors they work" in reason


@pytest.mark.parametrize(
    "files", [[], ["config.json"], ["../x.safetensors"], ["..\\x.pth"], ["/etc/x.pth"]]
)
def test_nothing_like_weights_has_no_reason(files):
    assert why_no_weights(files) is None
