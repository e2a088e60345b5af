"""The content of the tests' hub, and its requests and responses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from tests.fakes.hub.shelves import Shelf, Uploads


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    """The path without the query, still quoted."""
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes
    address: str
    """The URL of this server, as in ``http://127.0.0.1:1234``."""

    @property
    def token(self) -> str | None:
        """The access token of the request."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token if scheme == "Bearer" else None


@dataclass(frozen=True)
class Reply:
    """One response."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    """Seconds before the response begins."""
    cut: int | None = None
    """The number of bytes of the body after which the connection is closed; None for no limit."""
    pace: float | None = None
    """The speed of the body in bytes per second; None for no limit."""

    @classmethod
    def json(cls, content: object, status: int = 200, **headers: str) -> Reply:
        """A response in JSON."""
        return cls(
            status, {"Content-Type": "application/json", **headers}, json.dumps(content).encode()
        )


Route = Callable[["FakeHub", Call], Reply | None]
"""Handles a request, or returns None if it is of another kind."""


class FakeHub:
    """Repos by name, each a dict of file name to content; all requests are recorded.

    Attributes:
        repos: The files of each model repo. Every repo has one commit, which ``main`` points to.
        facts: Further facts about a repo (``library_name``, ``tags``, ``downloads``, …).
        gated: Repos that cannot be read except with a token that they have accepted.
        accepted: The tokens that a gated repo has accepted.
        tokens: All valid tokens; if there are any, others are refused.
        private: Repos that are visible only to the tokens named.
        uploaded: Repos that were created over the protocol, by ``spaces/OWNER/NAME`` and the like.
        uploads: Further state of uploads.
        broken: Whether every response is a server error.
        faults: The faults of responses.
        cdn: The URL of the server for large files, if there is one.
        requests: Method and path (with query) of every request so far.
        calls: Every request so far, in full.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.gated: set[str] = set()
        self.accepted: dict[str, set[str]] = {}
        self.tokens: set[str] = set()
        self.private: dict[str, set[str]] = {}
        self.uploaded: dict[str, Shelf] = {}
        self.uploads = Uploads()
        self.broken = False
        self.faults: list[Callable[[Call, Reply], Reply]] = []
        self.cdn: str | None = None
        self.calls: list[Call] = []
        self.requests: list[tuple[str, str]] = []

    def commit(self, repo: str) -> str:
        """The repo's commit, which is derived from its content."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.repos[repo].items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def refusal(self, repo: str, call: Call, *, files: bool = True) -> Reply | None:
        """Why the caller may not read this repo, in the words of the Hub; None if it may.

        Args:
            repo: ``owner/name``.
            call: The request.
            files: Whether it is for the content of files, rather than for facts.
        """
        if self.tokens and call.token is not None and call.token not in self.tokens:
            message = "Invalid credentials in Authorization header"
            return Reply(401, {"X-Error-Message": message})
        hidden = repo in self.private and call.token not in self.private[repo]
        if repo not in self.repos or hidden:
            return Reply(404 if call.token else 401, {"X-Error-Code": "RepoNotFound"})
        if files and repo in self.gated and call.token not in self.accepted.get(repo, ()):
            return Reply(403 if call.token else 401, {"X-Error-Code": "GatedRepo"})
        return None
