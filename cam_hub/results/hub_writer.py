"""Writing to a repo on the Hub: looked at, made, and changed by whole commits or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from json import JSONDecodeError
from pathlib import Path
from typing import Any, Literal

import huggingface_hub.errors as hub_errors
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.utils import validate_repo_id

from cam_hub.errors import CamHubError, HubRefused, HubUnavailable, InvalidArgument

__all__ = ["Change", "HubWriter", "RepoState"]

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
