"""What the hub of the tests holds, and what goes in and out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from tests.hub.shelves import Shelf, Uploads


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    """Without the query, still quoted."""
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes
    address: str
    """Of this server, as in ``http://127.0.0.1:1234``."""

    @property
    def token(self) -> str | None:
        """The access token that came along."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token if scheme == "Bearer" else None


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def json(cls, content: object, status: int = 200, **headers: str) -> Reply:
        """An answer of JSON."""
        return cls(
            status, {"Content-Type": "application/json", **headers}, json.dumps(content).encode()
        )


Route = Callable[["FakeHub", Call], Reply | None]
"""Answers a request, or None if it is not one of its kind."""


class FakeHub:
    """Repos by name, each a dict of file name to content; what was asked for is kept.

    Attributes:
        repos: The files of each model repo. Every repo has one commit, which ``main`` points to.
        facts: What else the Hub says about a repo (``library_name``, ``tags``, ``downloads``, …).
        gated: Repos that refuse to be read.
        private: Repos that only show themselves to the tokens named.
        uploaded: Repos that were made over the protocol, by ``spaces/OWNER/NAME`` and the like.
        uploads: What else the hub knows about uploads.
        broken: Whether every answer is a server error.
        requests: Method and path (with query) of every request so far.
        calls: Every request so far, in full.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.gated: set[str] = set()
        self.private: dict[str, set[str]] = {}
        self.uploaded: dict[str, Shelf] = {}
        self.uploads = Uploads()
        self.broken = False
        self.calls: list[Call] = []
        self.requests: list[tuple[str, str]] = []

    def commit(self, repo: str) -> str:
        """The repo's commit, which follows from its content."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.repos[repo].items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()

    def refusal(self, repo: str, call: Call) -> Reply | None:
        """Why this repo is not for this caller, in the words of the Hub; None if it is."""
        hidden = repo in self.private and call.token not in self.private[repo]
        if repo not in self.repos or hidden:
            return Reply(401, {"X-Error-Code": "RepoNotFound"})
        if repo in self.gated:
            return Reply(403, {"X-Error-Code": "GatedRepo"})
        return None
