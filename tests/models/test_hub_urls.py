"""URLs copied from a browser."""

from __future__ import annotations

import pytest

from cam_hub import ModelId, parse_model_id
from cam_hub.errors import ModelNotFound

REPO = ModelId("hub", "owner/name")
GOOD = {
    "https://huggingface.co/owner/name": REPO,
    "http://huggingface.co/owner/name/": REPO,
    "https://HuggingFace.co/owner/name": REPO,
    "https://hf.co/owner/name": REPO,
    "https://www.huggingface.co/owner/name": REPO,
    "huggingface.co/owner/name": REPO,
    "hf.co/owner/name": REPO,
    "https://huggingface.co/owner/name.git": REPO,
    "https://huggingface.co/owner/name?library=timm#files": REPO,
    "https://huggingface.co/owner/name/discussions/3": REPO,
    "https://huggingface.co/owner/name/tree": REPO,
    "https://huggingface.co/owner/name/tree/main": ModelId("hub", "owner/name", "main"),
    "https://huggingface.co/owner/name/tree/v1.0/sub/folder": ModelId("hub", "owner/name", "v1.0"),
    "https://huggingface.co/owner/name/blob/main/config.json": ModelId("hub", "owner/name", "main"),
    "https://hf.co/owner/name/resolve/0123abc/model.safetensors?download=true": ModelId(
        "hub", "owner/name", "0123abc"
    ),
    "https://hf.co/owner/name/raw/main/README.md": ModelId("hub", "owner/name", "main"),
    "https://hf.co/owner/name/commit/0123abc": ModelId("hub", "owner/name", "0123abc"),
    "https://hf.co/owner/name/tree/refs%2Fpr%2F3": ModelId("hub", "owner/name", "refs/pr/3"),
    "https://hf.co/owner/name/tree/refs/pr/3/sub": ModelId("hub", "owner/name", "refs/pr/3"),
    "https://hf.co/torchvision/resnet50": ModelId("hub", "torchvision/resnet50"),
}

OTHER = {
    "https://huggingface.co/datasets/owner/name": "a dataset",
    "https://huggingface.co/spaces/owner/name": "a Space",
    "https://huggingface.co/papers/2303.11114": "a paper",
    "https://huggingface.co/models?library=timm": "a list of models",
    "https://huggingface.co/api/models/owner/name": "Hub's API",
    "https://huggingface.co/owner": "all repos of 'owner'",
    "https://huggingface.co": "front page",
    "https://huggingface.co/owner/name/dance": "no page 'dance'",
    "https://example.org/owner/name": "outside the Hub",
    "https://huggingface.co.example.org/owner/name": "outside the Hub",
    "https://huggingface.co:8443/owner/name": "outside the Hub",
    "https://huggingfасe.co/owner/name": "outside the Hub",
    "ftp://huggingface.co/owner/name": "scheme is ftp://",
    "hf://owner/name": "scheme is hf://",
    "file:///etc/passwd": "scheme is file://",
    "https://[huggingface.co/owner/name": "not a valid address",
    "https://huggingface.co:port/owner/name": "not a valid address",
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_the_address_of_a_model_is_its_id(text: str, expected: ModelId):
    assert parse_model_id(text) == expected
    assert parse_model_id(str(expected)) == expected


@pytest.mark.parametrize(("text", "what"), OTHER.items())
def test_an_address_of_something_else_is_refused_with_what_it_is(text: str, what: str):
    with pytest.raises(ModelNotFound, match=what) as caught:
        parse_model_id(text)
    assert "IDs look like" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/owner/..",
        "https://huggingface.co/owner/%2e%2e",
        "https://huggingface.co/ow%20ner/name",
        "https://huggingface.co//owner/name",
        "https://huggingface.co/owner/na\nme",
        "https://huggingface.co/owner/name/tree/..%2F..%2Fetc",
        "https://huggingface.co/owner/name/tree/%252e%252e",
        "https://huggingface.co/owner/name/tree/%00",
        "https://huggingface.co/owner/name/tree/-rf",
    ],
)
def test_tricks_in_an_address_end_in_the_grammar(text: str):
    with pytest.raises(ModelNotFound, match="IDs look like"):
        parse_model_id(text)


def test_a_secret_in_an_address_is_not_repeated():
    for text in (
        "https://user:hf_secret@huggingface.co/owner/name",
        "https://example.org/owner/name?token=hf_secret",
    ):
        with pytest.raises(ModelNotFound) as caught:
            parse_model_id(text)
        assert "hf_secret" not in str(caught.value) + str(vars(caught.value))


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/owner/name"),
        ("https://mirror.example.org", "https://mirror.example.org/owner/name/tree/main"),
        ("https://mirror.example.org/hub/", "https://mirror.example.org/hub/owner/name"),
    ],
)
def test_the_host_of_the_environment_is_also_the_hub(endpoint, text, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT")
    with pytest.raises(ModelNotFound, match="outside the Hub"):
        parse_model_id(text)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert parse_model_id(text).name == "owner/name"


@pytest.mark.parametrize("endpoint", ["", "https://[", "no address at all"])
def test_an_endpoint_that_is_not_a_url_changes_nothing(endpoint, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert parse_model_id("https://huggingface.co/owner/name") == REPO
