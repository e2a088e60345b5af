"""Explanations in a dataset repo on the Hub: files, card, commits."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from json import JSONDecodeError
from pathlib import Path, PurePath
from typing import Any, Literal

import huggingface_hub.errors as hub_errors
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCardData,
    HfApi,
    get_token,
)
from huggingface_hub.utils import validate_repo_id

from cam_hub._text import clean_line
from cam_hub.errors import CamHubError, HubRefused, HubUnavailable, InvalidArgument
from cam_hub.results.explanation import Explanation

__all__ = ["NEWEST", "Change", "HubWriter", "RepoState", "put_into_card", "save_to_hub", "section"]


_TRIES = 5
"""How often a commit is made anew when others committed in between."""

_LONGEST = 300  # characters of the Hub's own words in a message


@dataclass(frozen=True)
class RepoState:
    """A repo at one commit.

    Attributes:
        commit: The last commit of its main branch.
        private: Whether only its owner sees it.
        files: Paths of its files.
        sdk: Of a Space: what it is built with.
    """

    commit: str | None
    private: bool
    files: frozenset[str]
    sdk: str | None = None


@dataclass(frozen=True)
class Change:
    """What one commit does.

    Attributes:
        message: What it is for, in one line.
        add: Content of the files to write, or a file to read it from, by path in the repo.
        delete: Paths to remove.
    """

    message: str
    add: Mapping[str, bytes | Path]
    delete: Sequence[str] = field(default=())


class HubWriter:
    """A repo on the Hub, and the right to write to it.

    Args:
        repo_id: ``owner/name``.
        kind: What sort of repo.
        token: Access token; None for that of the environment or of the login.

    Raises:
        InvalidArgument: If ``repo_id`` is not of that form.
        HubRefused: If there is no token.
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
        """Where people find the repo."""
        return f"{self._api.endpoint}/{self._kind}s/{self.repo_id}"

    def state(self) -> RepoState | None:
        """The repo as it is now; None if there is none that this token may see.

        Raises:
            HubRefused: If the token is not valid.
            HubUnavailable: If the Hub does not answer.
        """
        with self._plain_errors():
            try:
                info: Any = self._api.repo_info(self.repo_id, repo_type=self._kind)
            except hub_errors.RepositoryNotFoundError:
                return None
        return RepoState(
            commit=info.sha,
            private=bool(info.private),
            files=frozenset(entry.rfilename for entry in info.siblings or ()),
            sdk=getattr(info, "sdk", None),
        )

    def create(self, *, private: bool, sdk: str | None = None) -> None:
        """Makes the repo; one that somebody made in the meantime is left as it is.

        Raises:
            HubRefused: If the token does not allow it, or the account would have to pay.
            HubUnavailable: If the Hub does not answer.
        """
        with self._plain_errors():
            self._api.create_repo(
                self.repo_id, repo_type=self._kind, private=private, space_sdk=sdk, exist_ok=True
            )

    def set_private(self, private: bool) -> None:
        """Hides the repo from all but its owner, or shows it to everybody; errors as ``create``."""
        with self._plain_errors():
            self._api.update_repo_settings(self.repo_id, repo_type=self._kind, private=private)

    def request_hardware(self, name: str) -> None:
        """Asks for a Space's hardware, by the Hub's name of it; errors as ``create``."""
        with self._plain_errors():
            self._api.request_space_hardware(self.repo_id, name)  # type: ignore[arg-type]

    def read(self, path: str, commit: str | None) -> str:
        """A text file of the repo, of which no copy is kept; errors as ``state``."""
        with tempfile.TemporaryDirectory() as folder, self._plain_errors():
            found = self._api.hf_hub_download(
                self.repo_id, path, repo_type=self._kind, revision=commit, local_dir=folder
            )
            return Path(found).read_text("utf-8", errors="replace")

    def commit(self, plan: Callable[[RepoState], Change], *, pull_request: bool = False) -> str:
        """Changes the repo by one commit, or proposes one.

        Args:
            plan: Given the repo as it is, what to change. Called again when somebody else
                committed in between, so that nobody's work is overwritten.
            pull_request: Whether the commit is only proposed.

        Returns:
            Where people find the commit, or the pull request.

        Raises:
            HubRefused: If there is no such repo, or the token does not allow it, or the Hub does
                not accept a file.
            HubUnavailable: If the Hub does not answer; the repo is as before.
        """
        for _ in range(_TRIES):
            state = self.state()
            if state is None:
                raise HubRefused(self.repo_id, "there is none, or the access token cannot see it.")
            try:
                return self._commit(plan(state), state.commit, pull_request)
            except _Moved:
                continue
        raise HubUnavailable(
            self.repo_id, "others commit to it all the time. Try again.", "written to"
        )

    def _commit(self, change: Change, parent: str | None, pull_request: bool) -> str:
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationDelete(path) for path in change.delete),
            *(CommitOperationAdd(path, content) for path, content in change.add.items()),
        ]
        with self._plain_errors():
            done = self._api.create_commit(
                self.repo_id,
                operations=operations,
                commit_message=change.message,
                repo_type=self._kind,
                parent_commit=parent,
                create_pr=pull_request,
            )
        return str(done.pr_url if pull_request else done.commit_url)

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Turns what huggingface_hub raises into errors of ours."""
        try:
            yield
        except (CamHubError, _Moved):
            raise
        except RuntimeError as error:
            # The client's threads wrap what happened to an upload.
            raise self._plain(error.__cause__ or error) from error
        except (OSError, ValueError, hub_errors.HTTPError) as error:  # type: ignore[attr-defined]
            raise self._plain(error) from error

    def _plain(self, error: BaseException) -> Exception:
        if isinstance(error, hub_errors.OfflineModeIsEnabled):
            return self._unavailable("HF_HUB_OFFLINE is set, so that nothing is sent.")
        if isinstance(error, hub_errors.HfHubHTTPError):
            return self._answered(error)
        if isinstance(error, JSONDecodeError):
            return self._unavailable("the Hub's answer is not in its protocol.")
        if isinstance(error, ValueError):
            return HubRefused(self.repo_id, self._words(str(error)))
        return self._unavailable(f"the Hub cannot be reached ({self._words(str(error))}).")

    def _answered(self, error: hub_errors.HfHubHTTPError) -> Exception:
        status = error.response.status_code
        words = self._words(error.server_message or f"error {status}")
        owner = self.repo_id.partition("/")[0]
        if status == 412:
            return _Moved()
        if status == 429 or status >= 500:
            wait = error.response.headers.get("Retry-After")
            when = f" in {wait} seconds" if wait and wait.isdecimal() else " later"
            return self._unavailable(f"the Hub answered with error {status}. Try again{when}.")
        if status == 401:
            return HubRefused(
                self.repo_id,
                "the Hub does not know this access token, or it has expired. Make one with the "
                "role 'write' in the settings of your account.",
            )
        if status == 402:
            return HubRefused(self.repo_id, f"the Hub asks for payment: {words}")
        if status in (403, 404):
            return HubRefused(
                self.repo_id,
                f"the Hub does not allow it: {words}. It takes a token with the role 'write' of "
                f"an account that may write for {owner!r}.",
            )
        return HubRefused(self.repo_id, words)

    def _unavailable(self, reason: str) -> HubUnavailable:
        return HubUnavailable(self.repo_id, reason, "written to")

    def _words(self, text: str) -> str:
        """The Hub's own words on one line, cut, and never with the token in them."""
        line = " ".join(text.replace(self._token, "…").split())
        return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


class _Moved(Exception):
    """Somebody else committed first."""


def _check_id(repo_id: str) -> None:
    expected = "'owner/name' of letters, digits, '.', '_' and '-'"
    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        raise InvalidArgument("repo_id", repo_id, expected)
    try:
        validate_repo_id(repo_id)
    except ValueError:
        raise InvalidArgument("repo_id", repo_id, expected) from None


NEWEST = 50
"""How many explanations a card shows; older ones stay in the repo."""

_BEGIN = "<!-- cam_hub: explanations, newest first; written anew with each one that is saved -->"
_END = "<!-- cam_hub: end of the explanations -->"
_ENTRY = "<!-- cam_hub: entry -->"

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+.!|~$:-])")


def section(manifest: Mapping[str, Any], path: str, files: Iterable[str]) -> str:
    """What a card says of one explanation, in Markdown.

    Args:
        manifest: Its manifest. Names in it may come from strangers and stay plain text.
        path: Of its folder, from where the card is; empty for the card's own folder.
        files: Names of the files in the folder.
    """
    prefix = f"{path}/" if path else ""
    model, present = manifest["model"], set(files)
    pictures = [("photo", "photo.png")]
    for entry in manifest["classes"]:
        index = entry["class_index"]
        name = _plain(entry["label"] or f"class {index}")
        drawn = {f"overlay-{index}.png", f"animation-{index}.gif"} & present
        pictures += [(name, file) for file in sorted(drawn, reverse=True)]
    labels = ", ".join(_plain(e["label"] or e["class_index"]) for e in manifest["classes"])
    facts = [
        f"model: {_plain(model['id'])}",
        f"revision: {_plain(model['revision'] or 'none')}",
        f"method: {_plain(manifest['method'])}",
        f"layers: {', '.join(map(_plain, manifest['layers']))}",
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
        The new card. Of a card of ours only the list of explanations changes; one that somebody
        wrote without that list is left alone: then None.
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
        "Class activation maps that cam_hub made. Each folder holds the photo, overlays, the maps "
        "as NPY, and a manifest; `cam_hub.Explanation.load` reads it once it is downloaded.\n\n"
        f"{_BEGIN}\n{_END}\n"
    )


def _plain(text: object) -> str:
    """A text in Markdown that shows as it is, on one line, whatever is in it."""
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

    What is written is what ``Explanation.save`` writes, the photo included, in a folder of its own
    with a card that shows its pictures; the repo's own card lists the newest of them. Nothing in
    the repo is overwritten but that list, also not what was changed since in the folder of the same
    explanation; and nothing stays on this machine. Metadata of the
    photo's file (where it was taken, with which camera) is not part of an explanation, nor is the
    path of a folder that the model came from, only its last name.

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
        HubRefused: If there is no token, or it does not allow this; if the repo is public where
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
        _meet(writer, private)

        def plan(state: RepoState) -> Change:
            if path_in_repo is not None and any(
                other == path or other.startswith(f"{path}/") for other in state.files
            ):
                raise HubRefused(
                    repo_id, f"{path!r} is taken. Without path_in_repo a free one is found."
                )
            card = writer.read(_CARD, state.commit) if _CARD in state.files else None
            return _change(shared.manifest, path, files, card, state.files)

        writer.commit(plan)
    return f"{writer.url}/tree/main/{path}"


def _without_folder(result: Explanation) -> Explanation:
    """The same without the path of the folder that the model came from: it tells of a person."""
    model = result.manifest["model"]
    if model.get("source") != "local":
        return result
    named = f"local-dir:{PurePath(model['id'].removeprefix('local-dir:')).name}"
    return replace(result, described={**result.manifest, "model": {**model, "id": named}})


def _meet(writer: HubWriter, private: bool | None) -> None:
    """Sees to it that the repo is there, and as private as was asked for."""
    state = writer.state()
    if state is None:
        writer.create(private=private is not False)
    elif private is not None and private != state.private:
        seen = "private" if state.private else "public"
        raise HubRefused(
            writer.repo_id,
            f"it is {seen}, and private={private} was asked for. Take another name, or change it "
            "in the settings of the repo.",
        )


def _change(
    manifest: Mapping[str, Any],
    path: str,
    files: Mapping[str, Path],
    card: str | None,
    present: Collection[str],
) -> Change:
    written: dict[str, bytes | Path] = {f"{path}/{name}": file for name, file in files.items()}
    written[f"{path}/{_CARD}"] = section(manifest, "", files).encode()
    # The folder's name follows from the files. A file that is there is the same, or was changed
    # since and must not be lost.
    add = {name: content for name, content in written.items() if name not in present}
    if (new := put_into_card(card, section(manifest, path, files))) is not None and new != card:
        add[_CARD] = new.encode()
    return Change(f"Add {path}", add)


def _name(result: Explanation, files: Mapping[str, Path]) -> str:
    """A folder's name: what was explained, and a digest of all that is in it."""
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    index = result.classes[0]
    label, method = map(_words, (result.labels[index] or "", result.method))
    words = (label or f"class-{index}", method or "map", digest.hexdigest()[:12])
    return "-".join(words)


def _words(text: str) -> str:
    """A text of unknown origin as a part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def _check_path(path: object) -> None:
    parts = path.split("/") if isinstance(path, str) else [""]
    if len(parts) > 8 or not all(_PART.fullmatch(part) and ".." not in part for part in parts):
        raise InvalidArgument(
            "path_in_repo", path, "names of letters, digits, '.', '_' and '-' with '/' between them"
        )
