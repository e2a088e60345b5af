"""Signed-in visitors of a Space: each sees only the models that they may read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from cam_hub.sources.hub.listing import shared_listing
from space.app import create_app as account
from tests.fakes.browser import Browser
from tests.fakes.hub import Call, FakeHub
from tests.fakes.hub.bread import REPO, bread_repo
from tests.fakes.hub.cdn import serve_cdn
from tests.fakes.openid import CLIENT, Provider, serve_provider, sign_in
from tests.fakes.space_app import SETTINGS, encoded, explain, serve

pytest.importorskip("authlib", reason="signing in needs gradio[oauth]")

# On a Space, Gradio starts a thread that needs a package which only Spaces have.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

TOKENS = {"ann": "hf_ann_secret", "bob": "hf_bob_secret"}
OWNERS_TOKEN = "hf_owner_of_the_space"
ANNS, BOBS, GATED = "ann/bread", "bob/bread", "baker/gated"


@dataclass
class Space:
    """The app as a Space runs it."""

    url: str
    provider: Provider

    def visitor(self, person: str | None) -> Browser:
        """The page in the browser of a visitor, signed in or not."""
        return Browser(self.url, sign_in(self.url, self.provider, person) if person else None)

    def client(self, folder: Path, person: str | None = None, **options: object) -> Client:
        """A program that acts for a visitor."""
        token = TOKENS[person] if person else None
        return Client(
            self.url, verbose=False, download_files=str(folder), oauth_token=token, **options
        )


@pytest.fixture(scope="module")
def space() -> Iterator[Space]:
    with serve_provider() as provider, pytest.MonkeyPatch.context() as patch:
        provider.tokens = TOKENS
        # Gradio reads these when it is imported.
        patch.setattr("gradio.oauth.OAUTH_CLIENT_ID", CLIENT)
        patch.setattr("gradio.oauth.OAUTH_CLIENT_SECRET", "secret")
        patch.setattr("gradio.oauth.OAUTH_SCOPES", "openid profile read-repos gated-repos")
        patch.setattr("gradio.oauth.OPENID_PROVIDER_URL", provider.address)
        patch.setenv("SYSTEM", "spaces")
        patch.setenv("SPACE_ID", "owner/maps")
        patch.setenv("HF_TOKEN", OWNERS_TOKEN)
        settings = replace(SETTINGS, space_id="owner/maps", sign_in=account.can_sign_in())
        assert settings.sign_in
        with serve(settings) as url:
            yield Space(url, provider)


@pytest.fixture
def hub(hub: FakeHub) -> FakeHub:
    """A hub with a private repo of each visitor, and a gated one that is open to ann."""
    for repo, owner in ((ANNS, "ann"), (BOBS, "bob")):
        hub.repos[repo] = {**bread_repo(), "README.md": repo.encode()}
        hub.facts[repo] = {"pipeline_tag": "image-classification", "library_name": "timm"}
        hub.private[repo] = {TOKENS[owner], OWNERS_TOKEN}
    hub.repos[GATED] = {**bread_repo(), "README.md": b"gated"}
    hub.gated.add(GATED)
    hub.accepted[GATED] = {TOKENS["ann"], OWNERS_TOKEN}
    shared_listing.forget()
    return hub


@pytest.fixture
def cdn(hub: FakeHub) -> Iterator[list[Call]]:
    with serve_cdn(hub) as calls:
        yield calls


def explained(browser: Browser, lion: Image.Image, model_id: str) -> tuple[bool, str]:
    """Whether the page explains with a model, and all of its messages."""
    done, shown = browser.explain(browser.upload(encoded(lion, "PNG")), model_id=model_id)
    return done, json.dumps(shown, default=str)


def proposed(browser: Browser, query: str) -> list[str]:
    event = browser.event("model_id", "input", "model_id")
    _, shown = browser.fire(event, {}, data={"query": query})
    return [entry["value"] for entry in shown["model_id"]["props"]["proposals"]["entries"]]


def facts(browser: Browser, model_id: str) -> str:
    event = browser.event("model_id", "change", "facts")
    _, shown = browser.fire(event, {"model_id": model_id})
    return str(shown["facts"])


def layers(browser: Browser, model_id: str) -> str:
    values = {"model_id": model_id, "target_layers": ["best"], "show_all": False}
    _, shown = browser.fire(browser.event("show_all", "input", "layer_table"), values)
    return str(shown["layer_table"])


def test_each_visitor_explains_with_their_own_models_only(
    space: Space, hub: FakeHub, lion: Image.Image
):
    for person, own, other in (("ann", ANNS, BOBS), ("bob", BOBS, ANNS)):
        browser = space.visitor(person)
        assert explained(browser, lion, own)[0]
        done, said = explained(browser, lion, other)
        assert not done and "private" in said
    for repo in (ANNS, BOBS, GATED):
        done, said = explained(space.visitor(None), lion, repo)
        assert not done and "sign in" in said


def test_a_visitors_token_goes_to_the_hub_for_that_visitor_only_and_never_to_another_host(
    space: Space, hub: FakeHub, cdn: list[Call], lion: Image.Image
):
    assert explained(space.visitor("ann"), lion, ANNS)[0]
    assert {call.token for call in hub.calls} == {TOKENS["ann"]}
    assert cdn and {call.headers["Authorization"] for call in cdn} == {None}
    hub.calls.clear()
    explained(space.visitor("bob"), lion, ANNS)
    assert {call.token for call in hub.calls} == {TOKENS["bob"]}
    hub.calls.clear()
    explained(space.visitor(None), lion, ANNS)
    assert hub.calls and {call.token for call in hub.calls} == {None}


def test_public_models_are_fetched_without_anybodys_token_and_shared(
    space: Space, hub: FakeHub, lion: Image.Image
):
    assert explained(space.visitor("ann"), lion, REPO)[0]
    assert {call.token for call in hub.calls if "/resolve/" in call.path} == {None}
    fetched = len(hub.calls)
    assert explained(space.visitor(None), lion, REPO)[0]
    assert len(hub.calls) == fetched


def test_what_was_opened_for_one_visitor_stays_neither_in_memory_nor_on_the_disk(
    space: Space, hub: FakeHub, hub_cache: Path, lion: Image.Image
):
    ann = space.visitor("ann")
    assert explained(ann, lion, GATED)[0]
    assert "recommended" in layers(ann, GATED)
    for person in ("bob", None):
        assert not explained(space.visitor(person), lion, GATED)[0]
        assert "gated" in layers(space.visitor(person), GATED)
    assert not list(hub_cache.rglob("*.safetensors"))


def test_models_are_proposed_and_described_to_those_who_may_see_them(space: Space, hub: FakeHub):
    ann, bob, nobody = (space.visitor(person) for person in ("ann", "bob", None))
    assert [proposed(who, "bread") for who in (ann, bob)] == [[ANNS], [BOBS]]
    assert proposed(nobody, "bread") == []
    assert "private" in facts(ann, ANNS) and "1.5 MB to fetch" in facts(ann, ANNS)
    assert "Unknown model" in facts(bob, ANNS)
    assert "would not be loaded" not in facts(ann, GATED)
    assert "has not been let in" in facts(bob, GATED)
    assert "then sign in" in facts(nobody, GATED)


def test_signing_out_ends_it(space: Space, hub: FakeHub):
    ann = space.visitor("ann")
    left = httpx.get(f"{space.url}logout", headers=ann.headers)
    after = Browser(space.url, left.headers["Set-Cookie"].partition(";")[0])
    assert "private" in facts(ann, ANNS)
    assert "Unknown model" in facts(after, ANNS)


def test_a_token_is_in_nothing_that_is_shown_logged_or_written(
    space: Space, hub: FakeHub, lion: Image.Image, tmp_path: Path, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    ann = space.visitor("ann")
    token = TOKENS["ann"]
    shown = [explained(ann, lion, id)[1] for id in (ANNS, BOBS)]
    shown += [facts(ann, ANNS), layers(ann, ANNS), json.dumps(ann.config, default=str)]
    files = explain(space.client(tmp_path, "ann"), _photo(lion, tmp_path), model_id=ANNS)
    written = "".join(Path(path).read_bytes().decode("latin-1") for path in (files[0], files[4]))
    spoken = "".join(capfd.readouterr())
    assert token not in "".join(shown) + json.dumps(files[3]) + written + caplog.text + spoken


# Programs


def _photo(lion: Image.Image, folder: Path) -> Path:
    path = folder / "lion.png"
    lion.save(path)
    return path


def test_a_program_hands_over_a_token_as_gradio_means_it(
    space: Space, hub: FakeHub, lion: Image.Image, tmp_path: Path
):
    client = space.client(tmp_path, "ann")
    photo = handle_file(_photo(lion, tmp_path))
    answer = client.predict(photo, ANNS, method="layercam", api_name="/explain")
    assert answer[3]["model"]["id"] == ANNS
    assert client.predict(ANNS, api_name="/layers")
    assert client.predict(ANNS, api_name="/describe")["private"] is True
    assert [row["id"] for row in client.predict("bread", api_name="/search")] == [ANNS]
    assert {call.token for call in hub.calls} == {TOKENS["ann"]}


@pytest.mark.parametrize(
    "api", ["/explain", "/layers", "/predict", "/compare", "/describe", "/search", "/evidence"]
)
def test_every_endpoint_documents_that_it_accepts_a_token_but_needs_none(
    space: Space, hub: FakeHub, tmp_path: Path, api: str
):
    info = space.client(tmp_path).view_api(return_format="dict", print_info=False)
    endpoint = info["named_endpoints"][api]
    assert endpoint["oauth_token"] == "optional"
    assert "visitor" not in [value["parameter_name"] for value in endpoint["parameters"]]


@pytest.mark.parametrize(
    "options",
    [
        {"token": TOKENS["ann"]},
        {"headers": {"Authorization": f"Bearer {TOKENS['ann']}"}},
    ],
    ids=["x-hf-authorization", "Authorization"],
)
def test_a_token_that_only_opens_the_space_is_not_taken_to_act_in_somebodys_name(
    space: Space, hub: FakeHub, tmp_path: Path, options: dict[str, object]
):
    client = space.client(tmp_path, **options)
    hub.calls.clear()
    with pytest.raises(AppError, match="sign in"):
        client.predict(ANNS, api_name="/describe")
    assert {call.token for call in hub.calls} == {None}


@pytest.mark.parametrize("token", ["hf_line\nbreak", "hf_ümlaut"])
@pytest.mark.parametrize(("api", "value"), [("/describe", ANNS), ("/search", "bread")])
def test_what_cannot_be_a_token_is_refused_without_being_repeated(
    space: Space, hub: FakeHub, api: str, value: str, token: str
):
    client = Client(space.url, verbose=False, oauth_token=token)
    with pytest.raises(AppError, match="token=") as caught:
        client.predict(value, api_name=api)
    assert token not in str(caught.value)


# When sign-in is available


def buttons(url: str) -> list[str]:
    config = httpx.get(f"{url}config").json()
    return [
        part["props"]["value"]
        for part in config["components"]
        if part["type"] == "button" and "Hugging Face" in str(part["props"].get("value"))
    ]


def test_the_button_is_on_a_space_that_is_set_up_for_it_and_nowhere_else(space: Space, url: str):
    assert buttons(space.url) == ["Sign in with Hugging Face"]
    assert buttons(url) == []
