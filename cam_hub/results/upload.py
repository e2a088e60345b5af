"""The upload of explanations to a dataset repo on the Hub: files, card, commit."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from json import JSONDecodeError
from pathlib import Path, PurePath
from typing import Any, Literal, TypeAlias

import huggingface_hub.errors as hub_errors
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCardData,
    DatasetInfo,
    HfApi,
    SpaceInfo,
    get_token,
)
from huggingface_hub.utils import validate_repo_id

from cam_hub._text import clean_line
from cam_hub.errors import CamHubError, HubRefused, HubUnavailable, InvalidArgument
from cam_hub.results.explanation import Explanation

__all__ = [
    "NEWEST",
    "HubWriter",
    "Operation",
    "RepoInfo",
    "files_of",
    "markdown_text",
    "prepare_repo",
    "put_into_card",
    "save_to_hub",
    "section",
    "without_folder",
]


_MAX_TRIES = 5
"""Attempts at a commit, each planned anew, while others commit to the same repo."""

_MAX_CHARS = 300
"""Characters of the Hub's own message in ours."""

RepoInfo: TypeAlias = DatasetInfo | SpaceInfo
Operation: TypeAlias = CommitOperationAdd | CommitOperationDelete


class HubWriter:
    """A repo on the Hub, with an access token to write to it.

    Args:
        repo_id: ``owner/name``.
        kind: The type of the repo.
        token: Access token; None for that of the environment or of the login.

    Raises:
        InvalidArgument: If ``repo_id`` is not of that form.
        HubRefused: If no token is found.
    """

    def __init__(
        self, repo_id: str, kind: Literal["dataset", "space"], token: str | None = None
    ) -> None:
        _check_id(repo_id)
        token = token or get_token()
        if not token:
            raise HubRefused(
                repo_id,
                "there is no access token. Give one with the role 'write', set HF_TOKEN, or log in "
                "with 'hf auth login'.",
            )
        self.repo_id = repo_id
        self._kind = kind
        self._token = token
        self._api = HfApi(token=token)

    @property
    def url(self) -> str:
        """The page of the repo."""
        return f"{self._api.endpoint}/{self._kind}s/{self.repo_id}"

    @contextmanager
    def api(self) -> Iterator[HfApi]:
        """The client of huggingface_hub, whose errors become errors of ours.

        Raises:
            HubRefused: If the Hub does not accept the token, or what it is sent.
            HubUnavailable: If the Hub does not answer as it should.
        """
        try:
            yield self._api
        except (CamHubError, _OutOfDate):
            raise
        except RuntimeError as error:
            # The client's threads wrap the errors of an upload.
            raise self._translated(error.__cause__ or error) from error
        except (OSError, ValueError, hub_errors.HTTPError) as error:  # type: ignore[attr-defined]
            raise self._translated(error) from error

    def info(self) -> RepoInfo | None:
        """The repo at its last commit; None if the token gives access to no such repo."""
        with self.api() as api:
            try:
                info = api.repo_info(self.repo_id, repo_type=self._kind)
            except hub_errors.RepositoryNotFoundError:
                return None
        assert isinstance(info, (DatasetInfo, SpaceInfo))  # noqa: S101
        return info

    def create(self, *, private: bool, sdk: str | None = None) -> None:
        """Creates the repo, unless it exists by now; errors as for ``api``.

        Args:
            private: Whether only its owner may see it.
            sdk: The framework of a Space.
        """
        with self.api() as api:
            api.create_repo(
                self.repo_id, repo_type=self._kind, private=private, space_sdk=sdk, exist_ok=True
            )

    def read(self, path: str, commit: str | None) -> str:
        """A text file of the repo, of which no copy stays here; errors as for ``api``."""
        with tempfile.TemporaryDirectory() as folder, self.api() as api:
            found = api.hf_hub_download(
                self.repo_id, path, repo_type=self._kind, revision=commit, local_dir=folder
            )
            return Path(found).read_text("utf-8", errors="replace")

    def commit(
        self,
        message: str,
        plan: Callable[[RepoInfo], Iterable[Operation]],
        *,
        pull_request: bool = False,
    ) -> str:
        """Changes the repo by one commit, or proposes one.

        Args:
            message: The commit's message, in one line.
            plan: The operations for the repo as it is. Called again if another commit came first,
                so that none is overwritten.
            pull_request: Whether the commit is only proposed.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            HubRefused: If there is no such repo, or the token does not allow it, or the Hub does
                not accept a file.
            HubUnavailable: If the Hub does not answer; the repo is as before.
        """
        for _ in range(_MAX_TRIES):
            if (info := self.info()) is None:
                raise HubRefused(self.repo_id, "there is none, or the access token cannot see it.")
            operations = plan(info)
            with suppress(_OutOfDate), self.api() as api:
                done = api.create_commit(
                    self.repo_id,
                    operations=operations,
                    commit_message=message,
                    repo_type=self._kind,
                    parent_commit=info.sha,
                    create_pr=pull_request,
                )
                return str(done.pr_url if pull_request else done.commit_url)
        raise self._unavailable("others commit to it all the time. Try again.")

    def _translated(self, error: BaseException) -> Exception:
        if isinstance(error, hub_errors.OfflineModeIsEnabled):
            return self._unavailable("HF_HUB_OFFLINE is set, so that nothing is sent.")
        if isinstance(error, hub_errors.HfHubHTTPError):
            return self._of_status(error)
        if isinstance(error, JSONDecodeError):
            return self._unavailable("the Hub's answer is not in its protocol.")
        if isinstance(error, ValueError):
            return HubRefused(self.repo_id, self._shown(str(error)))
        return self._unavailable(f"the Hub cannot be reached ({self._shown(str(error))}).")

    def _of_status(self, error: hub_errors.HfHubHTTPError) -> Exception:
        status = error.response.status_code
        words = self._shown(error.server_message or f"error {status}")
        owner = self.repo_id.partition("/")[0]
        if status == 412:
            return _OutOfDate()
        if status == 429 or status >= 500:
            wait = error.response.headers.get("Retry-After")
            when = f" in {wait} seconds" if wait and wait.isdecimal() else " later"
            return self._unavailable(f"the Hub answered with error {status}. Try again{when}.")
        reasons = {
            401: "the Hub does not know this access token, or it has expired. Make one with the "
            "role 'write' in the settings of your account.",
            402: f"the Hub asks for payment: {words}",
            403: f"the Hub does not allow it: {words}. It takes a token with the role 'write' of "
            f"an account that may write for {owner!r}.",
        }
        return HubRefused(self.repo_id, reasons.get(403 if status == 404 else status, words))

    def _unavailable(self, reason: str) -> HubUnavailable:
        return HubUnavailable(self.repo_id, reason, "written to")

    def _shown(self, text: str) -> str:
        """The Hub's own message in one line, shortened, and never with the token in it."""
        return clean_line(text.replace(self._token, "…"), _MAX_CHARS)


class _OutOfDate(Exception):
    """Another commit came first."""


def files_of(info: RepoInfo) -> frozenset[str]:
    """The paths of a repo's files."""
    return frozenset(entry.rfilename for entry in info.siblings or ())


def _check_id(repo_id: str) -> None:
    expected = "'owner/name' of letters, digits, '.', '_' and '-'"
    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        raise InvalidArgument("repo_id", repo_id, expected)
    try:
        validate_repo_id(repo_id)
    except ValueError:
        raise InvalidArgument("repo_id", repo_id, expected) from None


NEWEST = 50
"""Maximum number of explanations in a card; older ones stay in the repo."""

_BEGIN = "<!-- cam_hub: explanations, newest first; written anew with each one that is saved -->"
_END = "<!-- cam_hub: end of the explanations -->"
_ENTRY = "<!-- cam_hub: entry -->"

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+.!|~$:-])")


def section(manifest: Mapping[str, Any], path: str, files: Iterable[str]) -> str:
    """The section of a card about one explanation, in Markdown.

    Args:
        manifest: Its manifest. Names in it may be of unknown origin and stay plain text.
        path: The path of its folder, relative to the card; empty for the card's own folder.
        files: Names of the files in the folder.
    """
    prefix = f"{path}/" if path else ""
    model, present = manifest["model"], set(files)
    pictures = [("photo", "photo.png")]
    for entry in manifest["classes"]:
        index = entry["class_index"]
        name = markdown_text(entry["label"] or f"class {index}")
        drawn = {f"overlay-{index}.png", f"animation-{index}.gif"} & present
        pictures += [(name, file) for file in sorted(drawn, reverse=True)]
    labels = ", ".join(markdown_text(e["label"] or e["class_index"]) for e in manifest["classes"])
    facts = [
        f"model: {markdown_text(model['id'])}",
        f"revision: {markdown_text(model['revision'] or 'none')}",
        f"method: {markdown_text(manifest['method'])}",
        f"layers: {', '.join(map(markdown_text, manifest['layers']))}",
    ]
    return "\n".join(
        [
            f"## {labels}",
            "",
            *(f"- {fact}" for fact in facts),
            f"- [all that is needed to make it again]({prefix}manifest.json)",
            "",
            f"| {' | '.join(name for name, _ in pictures)} |",
            f"|{' --- |' * len(pictures)}",
            f"| {' | '.join(f'![{name}]({prefix}{file})' for name, file in pictures)} |",
            "",
        ]
    )


def put_into_card(card: str | None, entry: str) -> str | None:
    """A card with one more explanation in it.

    Args:
        card: The repo's present card, or None if it has none.
        entry: The explanation's ``section``.

    Returns:
        The new card, in which only the list of explanations differs. None for a card without that
        list, which is not ours.
    """
    if card is None:
        card = _new_card()
    head, begin, rest = card.partition(_BEGIN)
    entries, end, tail = rest.partition(_END)
    if not begin or not end:
        return None
    known = [found.strip() for found in entries.split(_ENTRY) if found.strip()]
    kept = list(dict.fromkeys([entry.strip(), *known]))[:NEWEST]
    listed = "\n\n".join(f"{_ENTRY}\n{found}" for found in kept)
    return f"{head}{_BEGIN}\n{listed}\n{_END}{tail}"


def _new_card() -> str:
    data = DatasetCardData(
        pretty_name="Explanations of image classifiers",
        tags=["cam_hub", "class-activation-map", "explainability"],
        task_categories=["image-classification"],
    )
    return (
        f"---\n{data.to_yaml()}\n---\n\n# Which pixels support which class\n\n"
        "Class activation maps that cam_hub made. Each folder holds the photo, overlays, "
        "the maps as NPY, and a manifest; `cam_hub.Explanation.load` reads it once it is "
        "downloaded.\n\n"
        f"{_BEGIN}\n{_END}\n"
    )


def markdown_text(text: object) -> str:
    """A text of unknown origin, escaped for one line of Markdown."""
    line = clean_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


_CARD = "README.md"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")


def save_to_hub(
    result: Explanation,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    path_in_repo: str | None = None,
) -> str:
    """Writes an explanation into a dataset repo on the Hub, by one commit.

    It writes the files of ``Explanation.save``, the photo included, into a folder of their own with
    a card that shows the pictures; the repo's own card lists the newest explanations. Nothing else
    in the repo is overwritten, not even a file of the same explanation that was changed since, and
    no copy stays on this machine. Metadata of the photo's file (place, camera) is not part of an
    explanation. The path of a model's folder is reduced to its last name.

    Args:
        result: The explanation.
        repo_id: ``owner/name`` of the dataset repo; made if there is none.
        token: Access token with the role "write"; None for that of the environment or the login.
        private: Whether only the owner may see the repo. None: private if it is made now,
            otherwise as it is.
        path_in_repo: The folder to write to, where nothing is yet. None: a folder in
            ``explanations/`` whose name follows from the content, so that saving the same again
            changes nothing.

    Returns:
        The folder's address.

    Raises:
        InvalidArgument: If ``repo_id`` or ``path_in_repo`` does not work.
        HubRefused: If a token is missing, or does not allow this; if the repo is public where
            ``private=True`` was asked for, or the other way round; if ``path_in_repo`` is taken.
        HubUnavailable: If the Hub does not answer as it should.
    """
    if path_in_repo is not None:
        _check_path(path_in_repo)
    writer = HubWriter(repo_id, "dataset", token)
    with tempfile.TemporaryDirectory(prefix="cam_hub-") as name:
        shared = _without_folder(result)
        files = {path.name: path for path in shared.save(Path(name) / "it").iterdir()}
        path = path_in_repo or f"explanations/{_name(result, files)}"
        prepare_repo(writer, private)

        def plan(info: RepoInfo) -> Iterable[Operation]:
            present = files_of(info)
            if path_in_repo is not None and any(
                other == path or other.startswith(f"{path}/") for other in present
            ):
                raise HubRefused(
                    repo_id, f"{path!r} is taken. Without path_in_repo a free one is found."
                )
            card = writer.read(_CARD, info.sha) if _CARD in present else None
            return _operations(shared.manifest, path, files, card, present)

        writer.commit(f"Add {path}", plan)
    return f"{writer.url}/tree/main/{path}"


def _without_folder(result: Explanation) -> Explanation:
    """The explanation without the path of the model's folder."""
    model = result.manifest["model"]
    return replace(result, described={**result.manifest, "model": without_folder(model)})


def without_folder(model: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a manifest for a model, without the path of its folder: it may name a person."""
    if model.get("source") != "local":
        return dict(model)
    name = PurePath(model["id"].removeprefix("local-dir:")).name
    return {**model, "id": f"local-dir:{name}"}


def prepare_repo(writer: HubWriter, private: bool | None) -> None:
    """Creates the repo if there is none; refuses one that is not as private as requested.

    Args:
        writer: The repo.
        private: Whether only its owner may see it. None: private if it is made now, else as it is.

    Raises:
        HubRefused, HubUnavailable: As ``HubWriter.api``.
    """
    info = writer.info()
    if info is None:
        writer.create(private=private is not False)
    elif private is not None and private != bool(info.private):
        seen = "private" if info.private else "public"
        raise HubRefused(
            writer.repo_id,
            f"it is {seen}, and private={private} was asked for. Take another name, or change it "
            "in the settings of the repo.",
        )


def _operations(
    manifest: Mapping[str, Any],
    path: str,
    files: Mapping[str, Path],
    card: str | None,
    present: Collection[str],
) -> list[Operation]:
    written: dict[str, bytes | Path] = {f"{path}/{name}": file for name, file in files.items()}
    written[f"{path}/{_CARD}"] = section(manifest, "", files).encode()
    # The folder's name follows from the files: a file of this name in the repo is either the same,
    # or was changed since and must not be lost.
    add = {name: content for name, content in written.items() if name not in present}
    if (new := put_into_card(card, section(manifest, path, files))) is not None and new != card:
        add[_CARD] = new.encode()
    return [CommitOperationAdd(name, content) for name, content in add.items()]


def _name(result: Explanation, files: Mapping[str, Path]) -> str:
    """A folder's name: class, method, and a digest of its content."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    index = result.classes[0]
    label, method = map(_slug, (result.labels[index] or "", result.method))
    return "-".join((label or f"class-{index}", method or "map", digest.hexdigest()[:12]))


def _slug(text: str) -> str:
    """A text of unknown origin, reduced to a part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _check_path(path: object) -> None:
    parts = path.split("/") if isinstance(path, str) else [""]
    if len(parts) > 8 or not all(_PART.fullmatch(part) and ".." not in part for part in parts):
        raise InvalidArgument(
            "path_in_repo", path, "names of letters, digits, '.', '_' and '-' with '/' between them"
        )
