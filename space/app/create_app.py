"""``create_app``: the page and the endpoints, put together; and how they are launched."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio import oauth
from gradio.utils import get_space
from huggingface_hub import get_token

from space.api.compare import add_compare_endpoint
from space.api.describe import add_describe_endpoint
from space.api.evidence import add_evidence_endpoint
from space.api.explain import add_endpoint
from space.api.layers import add_layers_endpoint
from space.api.predict import add_predict_endpoint
from space.api.search import add_search_endpoint
from space.app.blocks import GuardedBlocks
from space.app.mcp import has_mcp_package
from space.app.request_guard import handlers
from space.components.photo_field import load_examples
from space.components.style import CSS, JS, theme
from space.config.settings import Settings
from space.page.compare_tab import COMPARE_TAB, CompareHandlers, ComparePanel
from space.page.controls import ClassProposals, Controls, ModelDescription, connect_search
from space.page.events import ExplainEvents
from space.page.layers_tab import LAYERS_TAB, RESULT_TAB, LayerHandlers, LayersPanel
from space.page.page_load import InitialResult, PageLoad
from space.page.results_panel import Presenter, ResultsPanel
from space.service.explainer import Explainer
from space.service.result_files import Workspace, cleanup

__all__ = ["account_line", "can_sign_in", "create_app", "launch_options"]


def can_sign_in() -> bool:
    """Whether visitors can sign in: on a Space whose card asks for that (``hf_oauth: true``).

    Elsewhere Gradio's button does not sign visitors in, and on a Space without these variables the
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
    """Whose access token opens models."""
    if settings.space_id:
        return "Public models only: sign-in is not set up here."
    try:
        token = get_token()
    except OSError:  # a file that cannot be read
        token = None
    if token:
        return "Private and gated models are opened by this machine's access token."
    return "Not logged in to the Hub: public models only (`hf auth login` opens others)."


_TITLE = """
# cam_hub

Which pixels support which class, for any timm or torchvision model by its ID.
"""

_JUMP = '<a href="#ask">Ask about another photo</a>'

_RANDOM_WEIGHTS = """
**Random weights:** the models of this app were not trained. Their layers are the real ones; what
maps and predictions show means nothing.
"""


def create_app(settings: Settings | None = None) -> GuardedBlocks:
    """Builds the app; no model is loaded and nothing is launched.

    Args:
        settings: Its configuration.

    Returns:
        The app, with its queue; launch it with ``launch_options``.
    """
    settings = settings or Settings()
    workspace = Workspace.of(settings)
    explainer = Explainer(settings, workspace.budget)
    app = GuardedBlocks(
        explainer,
        workspace,
        settings,
        title="cam_hub",
        analytics_enabled=False,
        delete_cache=(settings.cleaning_seconds, settings.keep_seconds),
        fill_width=True,
    )
    examples = load_examples()
    with app:
        with gr.Row(elem_id="head", equal_height=False):
            gr.Markdown(_TITLE, elem_id="title")
            build_account(app, settings)
        if settings.random_weights:
            gr.Markdown(_RANDOM_WEIGHTS, elem_id="random_weights")
        gr.HTML(_JUMP, elem_id="jump")
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                controls = Controls(settings, examples)
            answer = gr.Column(scale=7, min_width=320, elem_id="answer")
            with answer, gr.Tabs(elem_id="tabs") as tabs:
                with gr.Tab("Result", id=RESULT_TAB) as result_tab:
                    panel = ResultsPanel(settings)
                with gr.Tab("Layers", id=LAYERS_TAB, elem_id="layers") as layers_tab:
                    layers = LayersPanel(tabs, result_tab, layers_tab)
                with gr.Tab("Compare", id=COMPARE_TAB, elem_id="compare"):
                    compared = ComparePanel(settings)
        presenter = Presenter(settings, workspace, examples, panel)
        run = ExplainEvents(explainer, settings, controls, panel, presenter).connect()
        initial_result = InitialResult(explainer, presenter, settings)
        PageLoad(settings, controls, presenter, initial_result).connect(app)
        app.warm_up = initial_result.kept
        ClassProposals(explainer, settings, controls, panel.kept).connect()
        LayerHandlers(explainer, settings, controls, layers).connect()
        CompareHandlers(explainer, workspace, settings, controls, compared).connect()
        connect_search(controls)
        ModelDescription(explainer, settings, controls).connect(app, run)
        add_endpoint(explainer, workspace, settings)
        add_layers_endpoint(explainer, settings)
        add_predict_endpoint(explainer, settings)
        add_compare_endpoint(explainer, workspace, settings)
        add_search_endpoint(settings)
        add_describe_endpoint(explainer, settings)
        add_evidence_endpoint(explainer, settings)
    # A request that skipped the queue would skip its bounds.
    app.queue(max_size=settings.queue_size, default_concurrency_limit=8, api_open=False)
    return app


def launch_options(settings: Settings) -> dict[str, Any]:
    """The arguments of ``launch``."""
    return {
        "theme": theme(),
        "css": CSS,
        "js": JS,
        "max_file_size": settings.limits.max_file_bytes,
        # All errors of ours are put into words; Gradio's own (a missing argument, a file that
        # was not uploaded) are better than silence.
        "show_error": True,
        "footer_links": ["api", "settings"],
        "ssr_mode": False,
        "share": False,
        "enable_monitoring": False,
        "state_session_capacity": settings.sessions,
        "mcp_server": has_mcp_package(),
        "app_kwargs": {
            "lifespan": cleanup(settings),
            "exception_handlers": handlers(),
        },
    }
