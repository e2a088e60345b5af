"""The Hub's own cache on disk: what it holds of one repo, and how a file is put into it.

Its layout is the one that huggingface_hub describes in its guide (``blobs``, ``snapshots``,
``refs``), so that other programs find what was fetched here, and the other way round.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

__all__ = ["RepoCache", "is_commit"]

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_PUBLIC = ".cam_hub_public"
"""Name of an empty file in a repo's folder: the Hub said that everybody may have what is there."""


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit in full, which never changes its meaning."""
    return revision is not None and _COMMIT.match(revision) is not None


class RepoCache:
    """What the cache holds of one repo.

    Args:
        repo: ``owner/name``.
        root: The cache's folder; the Hub's own one if left out.
    """

    def __init__(self, repo: str, root: Path | None = None) -> None:
        self.repo = repo
        self.root = root or Path(constants.HF_HUB_CACHE).expanduser()
        self.folder = self.root / repo_folder_name(repo_id=repo, repo_type="model")

    def find(self, revision: str | None, name: str, size: int | None = None) -> Path | None:
        """A file that is there whole.

        Args:
            revision: Branch, tag or commit as it was last seen; None for the main branch.
            name: The file's path in the repo.
            size: Bytes that it must have, if known.
        """
        found = try_to_load_from_cache(self.repo, name, cache_dir=self.root, revision=revision)
        if not isinstance(found, str):
            return None
        path = Path(found)
        return path if size is None or path.stat().st_size == size else None

    def blob(self, digest: str) -> Path:
        """Where the content of this digest belongs."""
        return self.folder / "blobs" / digest

    def holds(self, digest: str | None, size: int | None) -> bool:
        """Whether the content of this digest is there, of whichever commit it is."""
        if digest is None:
            return False
        blob = self.blob(digest)
        return blob.is_file() and size in (None, blob.stat().st_size)

    def lock(self, digest: str) -> Path:
        """The file that whoever fetches this content locks, in whatever program."""
        return self.root / ".locks" / self.folder.name / f"{digest}.lock"

    def name(self, digest: str, commit: str, name: str) -> Path:
        """Lets a file of a commit stand for a blob that is there.

        Returns:
            The file.

        Raises:
            OSError: If it cannot be written.
        """
        blob = self.blob(digest)
        pointer = self.folder / "snapshots" / commit / name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        if not constants.HF_HUB_DISABLE_SYMLINKS:
            fresh = _beside(pointer)
            with suppress(OSError, NotImplementedError):  # where links are not to be had
                fresh.symlink_to(os.path.relpath(blob, pointer.parent))
                return fresh.replace(pointer)
        return blob.replace(pointer)

    def point(self, revision: str | None, commit: str) -> None:
        """Notes which commit a branch or tag stands for, for times without a network."""
        revision = revision or constants.DEFAULT_REVISION
        reference = self.folder / "refs" / revision
        if revision == commit or not self.folder.exists():
            return
        with suppress(OSError):  # a cache that can only be read is still a cache
            if not reference.exists() or reference.read_text("utf-8") != commit:
                reference.parent.mkdir(parents=True, exist_ok=True)
                fresh = _beside(reference)
                fresh.write_text(commit, "utf-8")
                fresh.replace(reference)

    @property
    def public(self) -> bool:
        """Whether everybody may have what is here, as the Hub said when it was last asked."""
        return (self.folder / _PUBLIC).is_file()

    def note_public(self, public: bool) -> None:
        """Remembers what the Hub said about that."""
        mark = self.folder / _PUBLIC
        with suppress(OSError):
            if not public:
                mark.unlink(missing_ok=True)
            elif self.folder.exists() and not mark.exists():
                mark.touch()


def _beside(path: Path) -> Path:
    """A name for what is to replace a file at one stroke, so that others never miss it."""
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp")
