"""Repos that clients write to: the state that uploads change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass
class Shelf:
    """A repo that was created over the protocol.

    Attributes:
        private: Whether it is visible to its owner's tokens only.
        gated: Whether its files can be read with these tokens only.
        sdk: The SDK of a Space.
        files: Its content, by path.
        commits: The summary of every commit, the first one being the Hub's own.
        pulls: The changes of pull requests, by path; None for deleted files.
        hardware: The hardware requested for a Space.
    """

    private: bool = False
    gated: bool = False
    sdk: str | None = None
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"* text=auto\n"})
    commits: list[str] = field(default_factory=lambda: ["initial commit"])
    pulls: list[dict[str, bytes | None]] = field(default_factory=list)
    hardware: str | None = None

    @property
    def sha(self) -> str:
        """The last commit."""
        digest = hashlib.sha1("\n".join(self.commits).encode(), usedforsecurity=False)
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()


@dataclass
class Uploads:
    """The hub's state of uploads.

    Attributes:
        writers: The owners that each token may write for.
        unpaid: The actions for which the Hub asks for payment: ``"create"``, ``"hardware"``.
        full: The Hub's message if storage is used up; empty while there is some.
        busy: Seconds that every client is asked to wait; None for no wait.
        store_fails: Whether the store of large files refuses them.
        interrupt: Commits by other clients that come first, each with the shelf's key.
        stored: Content of large files by SHA-256.
    """

    writers: dict[str, set[str]] = field(default_factory=dict)
    unpaid: set[str] = field(default_factory=set)
    full: str = ""
    busy: int | None = None
    store_fails: bool = False
    interrupt: list[tuple[str, str, bytes]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
