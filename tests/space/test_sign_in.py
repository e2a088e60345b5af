"""When visitors can sign in, and the message if they cannot."""

from __future__ import annotations

import pytest

from space.app import create_app as sign_in
from space.config.settings import Settings


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({"SYSTEM": "spaces", "SPACE_ID": "a/b"}, "OAUTH_CLIENT_ID"),
        ({"SYSTEM": "spaces", "SPACE_ID": "a/b"}, "OAUTH_CLIENT_SECRET"),
        ({"SYSTEM": "spaces", "SPACE_ID": "a/b"}, "OPENID_PROVIDER_URL"),
        ({"SYSTEM": "spaces", "SPACE_ID": "a/b"}, None),
        ({"SPACE_ID": "a/b"}, None),
        ({}, None),
    ],
)
def test_sign_in_is_unavailable_if_a_variable_is_missing(monkeypatch, environment, missing):
    for name in ("SYSTEM", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in ("CLIENT_ID", "CLIENT_SECRET", "SCOPES"):
        value = None if missing == f"OAUTH_{name}" else "x"
        monkeypatch.setattr(f"gradio.oauth.OAUTH_{name}", value)
    provider = None if missing == "OPENID_PROVIDER_URL" else "http://127.0.0.1"
    monkeypatch.setattr("gradio.oauth.OPENID_PROVIDER_URL", provider)
    assert sign_in.can_sign_in() is (missing is None and "SYSTEM" in environment)


@pytest.mark.parametrize(
    ("settings", "token", "words"),
    [
        (Settings(), "hf_mine", "opened by this machine's access token"),
        (Settings(), "", "Not logged in"),
        (Settings(space_id="a/b"), "hf_mine", "Public models only"),
    ],
)
def test_outside_a_space_a_line_states_whose_token_is_used_without_showing_it(
    monkeypatch, settings: Settings, token: str, words: str
):
    monkeypatch.setenv("HF_TOKEN", token)
    line = sign_in.account_line(settings)
    assert words in line
    assert "hf_mine" not in line
