"""``gr.Blocks`` whose every request is guarded, comes to an end in words, and is logged.

All that asks anything of the app passes here, whichever way it came in: the page,
``gradio_client``, plain HTTP, MCP.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.data_classes import PredictBodyInternal
from gradio.exceptions import InvalidPathError
from gradio.queueing import Event, Queue
from gradio.route_utils import API_PREFIX
from gradio.routes import App
from gradio.state_holder import SessionState
from starlette.exceptions import HTTPException
from starlette.routing import Route

from cam_hub.errors import CamHubError, ImageRefused, InvalidArgument
from space.app.mcp import configure_mcp
from space.app.request_guard import NOT_FOUND, KnownHosts, RequestGuard
from space.config.settings import Settings
from space.service.errors import CANCELLED, Problem
from space.service.explainer import Explainer
from space.service.request_log import HealthLog
from space.service.result_files import Uploads, Workspace

__all__ = ["GuardedBlocks"]

_LOG = logging.getLogger(__name__)


MAX_BODY = 4 * 2**20
"""The maximum length of other requests than uploads, in bytes; the page takes far less."""

_SESSION = re.compile(r"[\w.-]{1,200}\Z", re.ASCII)
"""The name that a page or a client gives its session."""


class GuardedQueue(Queue):
    """Gradio's queue, which prints a traceback where a request cannot be answered."""

    async def push(self, body: PredictBodyInternal, request: Any, username: str | None) -> Any:
        """Puts a request into the queue.

        Raises:
            HTTPException: If nothing in the app answers it.
        """
        if body.session_hash is not None and not _SESSION.match(body.session_hash):
            expected = "up to 200 letters, digits, '.', '_' and '-'"
            raise HTTPException(422, f"The session_hash is malformed: expected {expected}.")
        # By its index in the app, so that a call of nothing does not make a session.
        if body.fn_index is not None:
            found = self.blocks.fns.get(body.fn_index)
            if found is None or found.fn is None:
                raise HTTPException(404, "There is no such endpoint.")
        return await super().push(body, request, username)

    def compute_analytics_summary(self, records: Any) -> Any:
        """Computes nothing: statistics are switched off, and odd requests make Pandas fail."""
        return self.cached_event_analytics_summary

    def send_message(self, event: Event, event_message: Any) -> None:
        """Puts a message into the session's stream, if there is still one."""
        if event.session_hash in self.pending_messages_per_session:
            super().send_message(event, event_message)


class GuardedBlocks(gr.Blocks):
    """The app.

    Plain Gradio fetches every file that a request names by a URL, of any size, before a handler
    sees it. Here URLs reach the handlers as they were sent.

    Args:
        explainer: Answers the requests.
        workspace: The folders for files.
        settings: The configuration of the app.
        options: Of ``gr.Blocks``.
    """

    def __init__(
        self, explainer: Explainer, workspace: Workspace, settings: Settings, **options: Any
    ) -> None:
        self._settings = settings
        self._budget = workspace.budget
        self._budget.in_use = self._names_in_use
        super().__init__(**options)
        self.explainer = explainer
        self.health = HealthLog()
        self.warm_up: Callable[[], object] = lambda: None
        """What can be done before the first visitor comes."""

    @property
    def mcp_server_obj(self) -> Any:
        """The server for agents; Gradio makes it when the app is launched."""
        return self._agents

    @mcp_server_obj.setter
    def mcp_server_obj(self, server: Any) -> None:
        if server is not None:
            configure_mcp(server)
        self._agents = server

    @property
    def app(self) -> Any:
        """The ASGI app; Gradio makes it when the app is launched."""
        return self._app

    @app.setter
    def app(self, app: App) -> None:
        self._app = app
        most = self._settings.limits.max_file_bytes
        uploads = Uploads(self._budget, self._settings, self.upload_file_set.update)
        # Before Gradio's own route of that address.
        app.router.routes.insert(
            0, Route(f"{API_PREFIX}/upload", uploads.receive, methods=["POST"])
        )
        # Added last, so it is the first of the middleware: before Gradio's own CORS rules.
        app.add_middleware(
            RequestGuard,
            hosts=KnownHosts.of(self._settings),
            has_session=self._has_session,
            has_event=self._has_event,
            max_body=MAX_BODY,
            max_message=MAX_BODY + most * 4 // 3,  # Base64 makes a third more of a photo
            max_upload=self._settings.upload_bytes,
        )

    def _has_session(self, session: str) -> bool:
        return session in self._queue.pending_messages_per_session

    def _has_event(self, event: str) -> bool:
        if event in self._queue.event_ids_to_events or self._has_session(event):
            return True
        return any(event in ids for ids in list(self._queue.pending_event_ids_session.values()))

    def _names_in_use(self) -> set[str]:
        """The names of the folders of all files that queued and running requests refer to."""
        values: list[Any] = []
        for event in list(self._queue.event_ids_to_events.values()):
            if event.data is not None:
                values += event.data.data
        names = set()
        for value in values:  # which grows by the values within
            if isinstance(value, list | tuple):
                values.extend(value)
            elif isinstance(value, dict):
                values.extend(value.values())
                if isinstance(path := value.get("path"), str):
                    names.add(Path(path).parent.name)
        return names

    def queue(self, *rest: Any, **named: Any) -> GuardedBlocks:
        """Makes the queue, which refuses what cannot be answered before it is in it."""
        super().queue(*rest, **named)
        self._queue.__class__ = GuardedQueue
        return self

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """Turns what was sent into what the handler gets.

        Raises:
            Problem: If values are missing, too many, or not of the components' kinds.
        """
        as_html = block_fn.api_visibility != "public"
        try:
            inputs = [_without_links(value) for value in _completed(block_fn, inputs)]
            found: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error:
            raise
        except CamHubError as error:
            raise Problem.of(error, as_html=as_html) from error
        except InvalidPathError as error:
            refused = ImageRefused("it is not among the uploaded files; upload it again")
            raise Problem.of(refused, as_html=as_html) from error
        except Exception as error:
            if isinstance(error, OSError):
                raise Problem.around(error, "an input", as_html=as_html) from error
            _LOG.info("an input was not of its component's kind: %s", type(error).__name__)
            wrong = InvalidArgument("input", "…", "values of the kinds that the API documents")
            raise Problem.of(wrong, as_html=as_html) from error
        return found

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *rest: Any, **named: Any
    ) -> dict[str, Any]:
        """Answers a request, and logs how that ended.

        Raises:
            Problem: If it failed, whatever the reason.
        """
        asked = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if asked.fn is None:  # an event that the page handles alone
            missing = "There is no such endpoint."
            raise Problem(NOT_FOUND, missing, "Unknown endpoint", as_html=False)
        public = asked.api_visibility == "public"
        name = f"/{asked.api_name}" if public else f"page:{asked.name}"
        model_id = _model_id(asked, inputs)
        begin, code = time.monotonic(), "ok"
        try:
            answer: dict[str, Any] = await super().process_api(block_fn, inputs, *rest, **named)
        except asyncio.CancelledError:
            code = CANCELLED
            raise
        except gr.Error as error:
            code = getattr(error, "code", "error")
            raise
        except Exception as error:
            problem = Problem.around(error, str(asked.name), as_html=not public)
            code = problem.code
            raise problem from error
        finally:
            if public:
                self._forget(named.get("session_hash"))
            # A word about every glance at the page would bury the rest.
            if public or asked.concurrency_id == "model" or code != "ok":
                self.health.answered(name, model_id, time.monotonic() - begin, code)
        return answer

    def _forget(self, session: str | None) -> None:
        """Drops what Gradio keeps of a session in which nothing is remembered.

        It keeps a copy of the whole page's configuration, even of sessions that are one call of an
        endpoint.
        """
        if session is None:
            return
        holder = self.state_holder
        with holder.lock:
            kept = holder.session_data.get(session)
            if kept is not None and not kept.state_data:
                holder.session_data.pop(session, None)
                holder.time_last_used.pop(session, None)


def _model_id(asked: BlockFunction, inputs: list[Any]) -> object:
    """What stands in the field for the model's ID, if the request has one."""
    for block, value in zip(asked.inputs, inputs, strict=False):
        if "model_id" in (getattr(block, "elem_id", None), getattr(block, "label", None)):
            return value
    return None


def _completed(asked: BlockFunction, inputs: list[Any]) -> list[Any]:
    """The values, with their defaults for those at the end that were not sent.

    So a program that lists the values of an endpoint goes on working when one is added.

    Raises:
        InvalidArgument: If there are too many, or one without a default is missing.
    """
    names = [str(getattr(block, "label", None) or block.get_block_name()) for block in asked.inputs]
    missing: list[Any] = []
    if asked.api_visibility == "public" and asked.fn is not None:
        parameters = list(inspect.signature(asked.fn).parameters.values())
        missing = [each.default for each in parameters[len(inputs) : len(names)]]
    complete = [*inputs, *missing]
    if len(complete) != len(names) or inspect.Parameter.empty in missing:
        raise InvalidArgument("data", f"{len(inputs)} values", f"{len(names)}: {', '.join(names)}")
    return complete


def _without_links(value: Any) -> Any:
    """The value, in which nothing that lies at a URL is marked as a file any more."""
    if isinstance(value, list | tuple):
        return [_without_links(item) for item in value]
    if not isinstance(value, dict):
        return value
    path = value.get("path")
    if isinstance(path, str) and path.strip().lower().startswith(("http://", "https://")):
        return {"path": path, "orig_name": value.get("orig_name")}
    return {key: _without_links(item) for key, item in value.items()}
