"""Signing in with Hugging Face, where that is set up; elsewhere, a line on whose token is used."""

from __future__ import annotations

import gradio as gr
from gradio import oauth
from gradio.utils import get_space
from huggingface_hub import get_token

from space.config.settings import Settings

__all__ = ["account_line", "build_account", "can_sign_in"]


def can_sign_in() -> bool:
    """Whether visitors can sign in: on a Space whose card asks for that (``hf_oauth: true``).

    Elsewhere Gradio's button does not sign anybody in, and on a Space without these variables the
    app would not start.
    """
    return get_space() is not None and all(
        (
            oauth.OAUTH_CLIENT_ID,
            oauth.OAUTH_CLIENT_SECRET,
            oauth.OAUTH_SCOPES,
            oauth.OPENID_PROVIDER_URL,
        )
    )


def build_account(app: gr.Blocks, settings: Settings) -> None:
    """Builds the button to sign in and out, or the line, where it is called.

    Args:
        app: The app that is being built.
        settings: Its settings.
    """
    if settings.space_id:
        gr.DuplicateButton("Duplicate this Space", size="sm", min_width=180, elem_id="duplicate")
    if settings.random_weights:
        return
    if settings.sign_in:
        gr.LoginButton(
            "Sign in with Hugging Face",
            logout_value="Sign out ({})",
            size="sm",
            scale=0,
            min_width=220,
            elem_id="account",
        )
    else:
        line = gr.Markdown(elem_id="account")
        app.load(
            lambda: account_line(settings),
            None,
            line,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )


def account_line(settings: Settings) -> str:
    """Whose access token opens models; nobody is asked for it."""
    if settings.space_id:
        return "Public models only: nobody can sign in here."
    try:
        token = get_token()
    except OSError:  # a file that cannot be read
        token = None
    if token:
        return "Private and gated models are opened by this machine's access token."
    return "Nobody is logged in to the Hub: public models only (`hf auth login` opens others)."
