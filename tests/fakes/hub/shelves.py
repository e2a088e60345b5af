"""Repos that are written to: what uploads change."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass
class Shelf:
    """One repo that was made over the protocol.

    Attributes:
        private: Whether it shows itself to its owner's tokens only.
        sdk: Of a Space.
        files: Its content, by path.
        commits: The summary of every commit, the first one being the Hub's own.
        pulls: What pull requests would change, by path; None for what they delete.
        hardware: Of a Space: what was asked for.
    """

    private: bool = False
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
    """Everything about uploads that a hub knows.

    Attributes:
        writers: The owners that each token may write for.
        unpaid: What the Hub asks to be paid for: ``"create"``, ``"hardware"``.
        full: What the Hub says when storage is used up; empty while there is some.
        busy: Seconds that everybody is asked to wait; None for nobody.
        store_fails: Whether the store of large files refuses them.
        interrupt: Commits of somebody else that come first, each with the shelf's key.
        stored: Content of large files by SHA-256.
    """

    writers: dict[str, set[str]] = field(default_factory=dict)
    unpaid: set[str] = field(default_factory=set)
    full: str = ""
    busy: int | None = None
    store_fails: bool = False
    interrupt: list[tuple[str, str, bytes]] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
