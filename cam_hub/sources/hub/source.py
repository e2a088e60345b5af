"""Source of timm models on the Hub; the files of a repo, cached on disk or fetched.

The cache has the layout that huggingface_hub describes in its guide (``blobs``, ``snapshots``,
``refs``), so that other programs find what was fetched here, and the other way round.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name
from timm.data.imagenet_info import infer_imagenet_subset

from cam_hub.errors import CamHubError, HubUnavailable, ModelNotFound, ModelRefused
from cam_hub.models.checkpoint import pickle_notes
from cam_hub.models.config import CARD, CONFIG, CONFIG_BYTES, RepoConfig, read_config
from cam_hub.models.loaded_model import LoadedModel
from cam_hub.models.loading import (
    FileFacts,
    LoadLimits,
    LoadRequest,
    ModelFacts,
    check_fits,
    check_limits,
)
from cam_hub.models.network import build
from cam_hub.models.repo_files import choose_weights, why_no_weights, why_other_library
from cam_hub.sources.download import (
    RemoteFile,
    Report,
    caller_may_stop,
    download,
    file_lock,
    poll_of,
)
from cam_hub.sources.hub.client import HUB, HubClient, is_commit
from cam_hub.sources.timm import (
    ambiguous,
    as_loaded,
    class_names_of,
    hub_id_of,
    hub_ids,
    input_size_of,
    tags_of,
)

__all__ = ["HubSource"]


_PUBLIC = ".cam_hub_public"
"""Name of an empty file in the folder of a public repo, by the last response of the Hub."""


class RepoCache:
    """The cached files of one repo.

    Args:
        repo: ``owner/name``.
        root: The cache's folder; the Hub's own one if left out.
    """

    def __init__(self, repo: str, root: Path | None = None) -> None:
        self.repo = repo
        self.root = root or Path(constants.HF_HUB_CACHE).expanduser()
        self.folder = self.root / repo_folder_name(repo_id=repo, repo_type="model")

    def find(self, revision: str | None, name: str, size: int | None = None) -> Path | None:
        """A complete file.

        Args:
            revision: Branch, tag or commit as it was last seen; None for the main branch.
            name: The file's path in the repo.
            size: Its size in bytes, if known.
        """
        found = try_to_load_from_cache(self.repo, name, cache_dir=self.root, revision=revision)
        if not isinstance(found, str):
            return None
        path = Path(found)
        return path if size is None or path.stat().st_size == size else None

    def blob(self, digest: str) -> Path:
        """The path of the content with this digest."""
        return self.folder / "blobs" / digest

    def holds(self, digest: str | None, size: int | None) -> bool:
        """Whether the content with this digest is cached, for any commit."""
        if digest is None:
            return False
        blob = self.blob(digest)
        return blob.is_file() and size in (None, blob.stat().st_size)

    def lock(self, digest: str) -> Path:
        """The lock file of this content, the same for all programs."""
        return self.root / ".locks" / self.folder.name / f"{digest}.lock"

    def name(self, digest: str, commit: str, name: str) -> Path:
        """Links a file of a commit to its cached content.

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
        """Records the commit of a branch or tag, for use without a network."""
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
        """Whether the repo was public in the last response of the Hub."""
        return (self.folder / _PUBLIC).is_file()

    def note_public(self, public: bool) -> None:
        """Records whether the repo is public."""
        mark = self.folder / _PUBLIC
        with suppress(OSError):
            if not public:
                mark.unlink(missing_ok=True)
            elif self.folder.exists() and not mark.exists():
                mark.touch()


def _beside(path: Path) -> Path:
    """A temporary name in the same folder, from which a file is replaced atomically."""
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp")


@dataclass(frozen=True, eq=False)
class _Snapshot:
    """The files of a model at one commit, by the facts about it."""

    facts: ModelFacts
    _cache: RepoCache
    _client: HubClient
    _report: Report

    @property
    def commit(self) -> str:
        """The commit."""
        return self.facts.revision or ""

    def path(self, name: str) -> Path:
        """A file of the model, fetched unless it is cached.

        Raises:
            HubUnavailable: If it cannot be fetched.
            ModelRefused: If the caller may not have it.
        """
        file = self.facts.file(name) or FileFacts(name)
        if (found := self._cache.find(self.commit, name, file.size)) is not None:
            return found
        if file.digest is None or file.size is None:
            raise HubUnavailable(self.facts.id, f"the Hub states no size or no digest of {name}.")
        path = self._fetch(file, file.digest, file.size)
        self._cache.note_public(not self.facts.restricted)
        self._cache.point(self._client.revision, self.commit)
        return path

    def _fetch(self, file: FileFacts, digest: str, size: int) -> Path:
        """A file of the model, fetched unless its content is in the cache already."""
        client, cache = self._client, self._cache
        blob, on_bytes = cache.blob(digest), self._report.file(size)
        with client.plain_errors(), file_lock(blob, cache.lock(digest), on_bytes):
            if (found := cache.find(self.commit, file.name, size)) is not None:
                return found  # another thread has fetched it, and may be reading it
            if not cache.holds(digest, size):
                remote = RemoteFile(
                    self.facts.id,
                    file.name,
                    client.address(file.name, self.commit),
                    size,
                    digest,
                    HUB,
                    headers=client.headers,
                )
                download(remote, blob, on_bytes)
            return cache.name(digest, self.commit, file.name)

    def weights(self) -> Path:
        """The file of the weights; errors as for ``path``."""
        name = self.facts.weights_file
        assert name is not None, "a snapshot without weights is not opened"  # noqa: S101
        return self.path(name)


@contextmanager
def _open_snapshot(request: LoadRequest, repo: str) -> Iterator[_Snapshot]:
    """The files of a model, if the caller may use them; outside this context they may be deleted.

    Raises:
        ModelNotFound: If there is no such repo or revision, or it is private.
        ModelRefused: If it is not a timm model, exceeds the limits, or may not be read.
        HubUnavailable: If the Hub fails and the cache does not hold the model.
    """
    limits = request.limits
    cache = RepoCache(repo)
    client = HubClient(request, repo)
    with caller_may_stop():
        facts = _facts(client, cache, limits)
        if facts.fresh and facts.gated and not client.own:
            client.check_access(CONFIG)  # cached files would be used without a request
        if facts.restricted and not limits.keep_restricted and not client.own:
            with tempfile.TemporaryDirectory(
                prefix="cam-hub-", ignore_cleanup_errors=True
            ) as folder:
                own = RepoCache(repo, Path(folder))
                yield _admitted(facts, own, client, request)
        else:
            yield _admitted(facts, cache, client, request)


def _facts_of(request: LoadRequest, repo: str) -> ModelFacts:
    """The facts about a repo, without fetching a file; errors as for a snapshot.

    A repo that would be refused is described, too, with the reason. For a gated repo, a second
    request checks the caller's access.
    """
    client = HubClient(request, repo)
    cache = RepoCache(repo)
    facts = _facts(client, cache, request.limits)
    facts = replace(facts, fetch_bytes=_missing(facts, cache))
    try:
        _check(facts, request.limits)
        if facts.fresh and facts.gated and (facts.fetch_bytes or not client.own):
            client.check_access(CONFIG)
    except ModelRefused as error:
        return replace(facts, refusal=error.reason)
    return facts


def _check(facts: ModelFacts, limits: LoadLimits) -> None:
    """Refuses a repo that timm cannot read."""
    id = facts.id
    if facts.disabled:
        raise ModelRefused(id, "the Hub has taken it out of service.")
    names = [file.name for file in facts.files]
    other = why_other_library(names, facts.library, None, facts.tags)
    config = facts.file(CONFIG)
    if config is None:
        reason = f"it has no {CONFIG}, so it is not a model that timm can read."
        raise ModelRefused(id, other or reason)
    if (config.size or 0) > CONFIG_BYTES:
        raise ModelRefused(id, f"its {CONFIG} has {config.size:,} bytes; none needs that many.")
    if facts.weights_file is None:
        reason = "it has no model.safetensors, so it is not a model that timm can read."
        raise ModelRefused(id, other or why_no_weights(names) or reason)


def _admitted(
    facts: ModelFacts, cache: RepoCache, client: HubClient, request: LoadRequest
) -> _Snapshot:
    """The snapshot, if the model may be loaded."""
    _check(facts, request.limits)
    facts = replace(facts, fetch_bytes=_missing(facts, cache))
    check_limits(facts, request.limits, cache.root)
    check_fits(facts, request)
    # Fresh facts apply to cached files, too.
    if facts.fresh:
        cache.note_public(not facts.restricted)
        if cache.find(facts.revision, CONFIG):
            cache.point(client.revision, facts.revision or "")
    report = Report(facts.id, facts.fetch_bytes or 0, request.progress)
    return _Snapshot(facts, cache, client, report)


def _facts(client: HubClient, cache: RepoCache, limits: LoadLimits) -> ModelFacts:
    """The Hub's facts; those of the cache for a fixed commit, or if the Hub fails."""
    cached = _cached_facts(client, cache, limits)
    may_use = cached is not None and (client.own or cache.public)
    if cached is not None and may_use and is_commit(client.revision):
        return cached
    try:
        facts = client.facts(patient=not may_use)
    except HubUnavailable as error:
        if cached is None:
            raise HubUnavailable(
                error.model_id, f"{error.reason} It is not in the local cache."
            ) from error
        if not may_use:
            raise HubUnavailable(
                error.model_id,
                f"{error.reason} So it is not known whether this caller may use the files in the "
                "local cache.",
            ) from error
        return cached
    weights = _weights(facts.files, limits)
    return replace(
        facts,
        weights_file=weights.name if weights else None,
        weights_bytes=weights.size if weights else None,
    )


def _cached_facts(client: HubClient, cache: RepoCache, limits: LoadLimits) -> ModelFacts | None:
    """The facts about a model whose required files are all cached; None for any other."""
    config = cache.find(client.revision, CONFIG)
    if config is None:
        return None
    commit = config.parent.name
    files = tuple(
        FileFacts(path.name, path.stat().st_size)
        for path in sorted(config.parent.iterdir())
        if path.is_file()
    )
    weights = _weights(files, limits)
    if weights is None:
        return None
    return ModelFacts(
        id=client.id,
        source="hub",
        revision=commit,
        weights_file=weights.name,
        weights_bytes=weights.size,
        fetch_bytes=0,
        files=files,
        fresh=False,
    )


def _missing(facts: ModelFacts, cache: RepoCache) -> int:
    """The number of bytes that are not cached."""
    wanted = [facts.file(CONFIG), facts.file(facts.weights_file or "")]
    return sum(
        file.size or 0
        for file in wanted
        if file is not None
        and cache.find(facts.revision, file.name, file.size) is None
        and not cache.holds(file.digest, file.size)
    )


def _weights(files: Sequence[FileFacts], limits: LoadLimits) -> FileFacts | None:
    """The file of weights to read."""
    have = {file.name: file for file in files}
    name = choose_weights(have, pickles=limits.pickles)
    return have[name] if name is not None else None


class HubSource:
    """Loads repos that timm can read, and bare timm names by the repo that timm keeps them in."""

    name = "hub"

    def claims(self, request: LoadRequest) -> bool:
        """Whether the request is for pretrained weights of a repo or of a bare timm name."""
        return request.pretrained and request.id.kind in ("hub", "timm")

    def load(self, request: LoadRequest) -> LoadedModel:
        """Requests the facts, fetches missing files into the Hub's cache, and builds the model."""
        id, repo = str(request.id), _repo(request)
        with _open_snapshot(request, repo) as snapshot:
            config = _config(id, snapshot)
            weights = snapshot.weights()
            poll = poll_of(id, request.progress)
            module = build(
                id,
                config,
                weights,
                pickles=request.limits.pickles,
                dtype=request.dtype,
                device=request.device,
                poll=poll,
            )
        return as_loaded(
            module,
            request,
            id=_name(request, repo),
            source=self.name,
            revision=snapshot.commit,
            declared=config.raw,
            notes=pickle_notes(id, weights.name),
        )

    def describe(self, request: LoadRequest) -> ModelFacts:
        """The facts from the Hub; without it, those from the cache."""
        repo = _repo(request)
        facts = _facts_of(request, repo)
        size, labels = _declared(request, repo, facts)
        return replace(facts, id=_name(request, repo), input_size=size, class_names=labels)

    def known_ids(self, *, pretrained: bool) -> Iterable[str]:
        """The IDs of timm's own weights; their architectures can be built without them, too."""
        return hub_ids()


def _config(id: str, snapshot: _Snapshot) -> RepoConfig:
    """The repo's configuration; its card is fetched where only that can hold the labels."""
    path = snapshot.path(CONFIG)
    config = read_config(id, path)
    if config.label_names or not config.num_classes or infer_imagenet_subset(config.pretrained_cfg):
        return config
    card = snapshot.facts.file(CARD)
    if card is None or (card.size or CONFIG_BYTES) >= CONFIG_BYTES:
        return config
    snapshot.path(CARD)
    return read_config(id, path)


def _declared(
    request: LoadRequest, repo: str, facts: ModelFacts
) -> tuple[tuple[int, ...] | None, tuple[str, ...] | None]:
    """Input size and labels: from the configuration if it is cached, else from timm.

    A cached configuration of a restricted repo is used for this machine's user only.
    """
    owner, _, name = repo.partition("/")
    size = input_size_of(name) if owner == "timm" else None
    labels = class_names_of(name) if owner == "timm" else None
    path = RepoCache(repo).find(facts.revision, CONFIG)
    if path is None or (facts.restricted and not request.is_own):
        return size, labels
    try:
        config = read_config(facts.id, path)
    except CamHubError:
        return size, labels
    declared = config.pretrained_cfg.get("input_size")
    return tuple(declared) if declared else size, config.label_names or labels


def _name(request: LoadRequest, repo: str) -> str:
    """The ID that loads the same model."""
    return repo + (f"@{request.id.revision}" if request.id.revision else "")


def _repo(request: LoadRequest) -> str:
    """The repo of an ID: named in it, or that of timm's architecture, if it has only one tag."""
    name = request.id.name
    if request.id.kind == "hub":
        return name
    tags = [name] if "." in name else tags_of(name)
    if len(tags) > 1:
        raise ambiguous(request.id, tags)
    repo = hub_id_of(tags[0]) if tags else None
    if repo is None:
        raise ModelNotFound(name)
    return repo
