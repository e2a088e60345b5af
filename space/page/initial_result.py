"""The result that the page opens with: made once, by the code that makes all others."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

from cam_hub.errors import CamHubError
from cam_hub.results.explanation import Explanation
from space.config.settings import Settings
from space.page.controls import DEFAULT_METHOD
from space.page.presenter import Presenter
from space.service.display_options import Look
from space.service.explain_form import read_request
from space.service.explainer import Explainer
from space.service.session_result import SessionResult

__all__ = ["FirstSight"]

_LOG = logging.getLogger(__name__)

_AGAIN = 300.0
"""Seconds after which something that failed is tried again."""


class FirstSight:
    """The explanation of the first example by the model that the page starts with.

    Args:
        explainer: Makes it.
        presenter: Keeps it.
        settings: Of the app.
    """

    def __init__(self, explainer: Explainer, presenter: Presenter, settings: Settings) -> None:
        self._explainer = explainer
        self._presenter = presenter
        self._settings = settings
        self._lock = threading.Lock()
        self._result: Explanation | None = None
        self._kept: SessionResult | None = None
        self._failed_at = -_AGAIN

    def kept(self) -> SessionResult | None:
        """The result, made by whoever asks first; None where there is none to show.

        Its folder is shared by all visitors, and made anew before it is so old that it is removed.
        """
        with self._lock:
            if self._result is None and time.monotonic() - self._failed_at >= _AGAIN:
                self._make()
            if self._result is None or self._kept is None:
                return None
            if not _is_fresh(self._kept.folder, self._settings.keep_seconds / 2):
                self._kept = self._presenter.keep(self._result, self._kept.request)
            return self._kept

    def _make(self) -> None:
        self._failed_at = time.monotonic()
        if not self._presenter.examples:
            return
        try:
            model_id = self._settings.default_model
            # Weights are fetched when somebody asks for them, not for a first sight.
            if self._explainer.describe(model_id).fetch_bytes != 0:
                return
            plain = Look()
            request = read_request(
                image={
                    "path": str(self._presenter.examples[0].served()),
                    "orig_name": self._presenter.examples[0].name,
                },
                model_id=model_id,
                method=DEFAULT_METHOD,
                target_layers=["best"],
                classes=[],
                contrast="",
                num_samples=4,
                std=0.3,
                seed=0,
                alpha=plain.alpha,
                colormap=plain.colormap,
                limits=self._settings.limits,
            )
            result = self._explainer.explain(request, lambda part, what: None).result
        except CamHubError as problem:
            _LOG.info("no first sight: %s", problem.message)
            return
        self._result = replace(result)
        self._kept = self._presenter.keep(result, request)


def _is_fresh(folder: Path, seconds: float) -> bool:
    try:
        return time.time() - folder.stat().st_mtime < seconds
    except OSError:
        return False
