"""A limit for downloaded weights on disk: the Hub's cache and torch's checkpoints.

Other files may share the limit: an app passes the folders of its uploads and results.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub import CachedRepoInfo, CachedRevisionInfo, HFCacheInfo
from huggingface_hub.errors import CacheNotFound

from cam_hub.errors import InvalidArgument

__all__ = ["trim"]

GRACE = 900.0
"""Seconds for which a file stays after it was written, since another thread or process may still be
downloading."""

_busy = threading.Lock()


@dataclass(frozen=True)
class _Item:
    """A revision of a repo, or a file, that may be deleted.

    Attributes:
        used: When it was last read or written, in seconds since 1970.
        what: The commit of a revision, or the path of a file.
        size: The size of a file, in bytes.
    """

    used: float
    what: str | Path
    size: int = 0


def trim(
    limit_bytes: int,
    *,
    keep: Collection[str] = (),
    grace: float = GRACE,
    folders: Iterable[Path] = (),
) -> int:
    """Deletes the least recently used files until the rest fits.

    Models in ``keep`` are in use and marked as just used. From a cache that is damaged, or changed
    by another process meanwhile, only what is safe to delete is deleted, without an error. If
    another thread is trimming, nothing is done.

    Args:
        limit_bytes: Maximum size of models of the Hub, checkpoints of torchvision and ``folders``
            together, in bytes.
        keep: IDs of models that stay (``owner/name[@revision]``, ``torchvision/name[@weights]``,
            bare timm names).
        grace: Seconds for which a file stays after it was written, at least 0.
        folders: Folders of other files that share the limit; each is deleted as a whole.

    Returns:
        The number of bytes freed.

    Raises:
        InvalidArgument: If a number is negative.
    """
    if limit_bytes < 0:
        raise InvalidArgument("limit_bytes", limit_bytes, "a number of bytes, at least 0")
    if not grace >= 0:
        raise InvalidArgument("grace", grace, "a number of seconds, at least 0")
    if not _busy.acquire(blocking=False):
        return 0
    try:
        kept = {name.partition("@")[0] for name in keep}
        kept |= {f"timm/{name}" for name in kept if "/" not in name}
        return _trim(limit_bytes, kept, time.time() - grace, list(_folders(folders)))
    finally:
        _busy.release()


def _trim(limit: int, keep: Collection[str], newest: float, folders: list[_Item]) -> int:
    cache = _scan()
    repos = [repo for repo in cache.repos if repo.repo_type == "model"] if cache else []
    _mark_as_used(
        file.blob_path
        for repo in repos
        if repo.repo_id in keep
        for revision in repo.revisions
        for file in revision.files
    )
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"  # of torchvision
    _mark_as_used(checkpoints / name for id in keep for name in _checkpoint_names(id))
    files = list(_files(checkpoints.glob("*")))
    for repo in repos:  # interrupted downloads, which would be resumed
        files += _files((repo.repo_path / "blobs").glob("*.incomplete"))
    files += folders
    total = sum(repo.size_on_disk for repo in repos) + sum(file.size for file in files)
    old = [file for file in files if file.used < newest]
    for repo in repos:
        if repo.repo_id not in keep and not _is_being_written(repo, newest):
            old += map(_revision, repo.revisions)
    freed = 0
    commits: list[str] = []
    in_commits = 0
    for item in sorted(old, key=lambda each: each.used):
        if total - freed - in_commits <= limit:
            break
        if isinstance(item.what, Path):
            freed += _delete(item.what, item.size)
        elif cache is not None:
            commits.append(item.what)
            # Revisions share files: the freed size is known only for all of them together.
            in_commits = cache.delete_revisions(*commits).expected_freed_size
    if cache is not None and commits:
        with suppress(OSError):  # another process may be faster
            cache.delete_revisions(*commits).execute()
    return freed + in_commits


def _scan() -> HFCacheInfo | None:
    """The content of the Hub's cache; None if it does not exist."""
    try:
        return huggingface_hub.scan_cache_dir(huggingface_hub.constants.HF_HUB_CACHE)
    except (CacheNotFound, ValueError, OSError):
        return None


def _revision(revision: CachedRevisionInfo) -> _Item:
    read = (file.blob_last_accessed for file in revision.files)
    return _Item(max(read, default=revision.last_modified), revision.commit_hash)


def _is_being_written(repo: CachedRepoInfo, newest: float) -> bool:
    """Whether a file has been downloaded into this repo recently."""
    for path in (repo.repo_path / "blobs").glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime >= newest:
                return True
    return False


def _checkpoint_names(id: str) -> list[str]:
    """The names of the files of all weights of a model of torchvision."""
    source, _, name = id.partition("/")
    if source != "torchvision":
        return []
    import torchvision.models as zoo  # noqa: PLC0415 - takes seconds

    if name not in zoo.list_models():
        return []
    return [Path(weights.url).name for weights in zoo.get_model_weights(name)]


def _files(paths: Iterable[Path]) -> Iterator[_Item]:
    for path in paths:
        with suppress(OSError):
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode):
                yield _Item(max(facts.st_atime, facts.st_mtime), path, facts.st_size)


def _folders(paths: Iterable[Path]) -> Iterator[_Item]:
    for path in paths:
        with suppress(OSError):
            sizes = [file.size for file in _files(path.rglob("*"))]
            yield _Item(path.lstat().st_mtime, path, sum(sizes))


def _mark_as_used(paths: Iterable[Path]) -> None:
    """Sets the access time, which file systems update late or never."""
    for path in paths:
        with suppress(OSError):
            os.utime(path, (time.time(), path.stat().st_mtime))


def _delete(path: Path, size: int) -> int:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:  # another process was faster, or it may not be deleted
        return 0
    return size
