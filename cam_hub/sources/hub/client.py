"""The Hub's answers about one repo: one request before any file is fetched, and its errors.

This module and its neighbours are the only ones that use huggingface_hub for models.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal

import httpx2
import huggingface_hub.errors as hub
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from cam_hub._text import clean_line
from cam_hub._version import __version__
from cam_hub.errors import CamHubError, HubUnavailable, InvalidArgument, ModelNotFound, ModelRefused
from cam_hub.models.loading import FileFacts, LoadRequest, ModelFacts
from cam_hub.models.repo_files import not_a_model
from cam_hub.sources.download import FileServer, retry_after, translated_errors

__all__ = ["HUB", "HubClient", "Token", "check_token", "is_commit"]


HUB = FileServer(
    name="the Hub",
    folder="the Hub's cache",
    setting="HF_HOME",
    space_hint="(`hf cache ls`)",
    unreachable_hint="Is HF_ENDPOINT right?",
    rate_limit_hint="With a token more are allowed.",
)
"""The Hub, and its cache on this machine."""


def _refusal(client: HubClient, error: hub.HfHubHTTPError) -> CamHubError | None:
    """The error for a refusal; None if the Hub itself failed."""
    id, status = client.id, error.response.status_code
    if isinstance(error, hub.GatedRepoError):
        return ModelRefused(id, _gated(client.signed))
    if isinstance(error, hub.DisabledRepoError):
        return ModelRefused(id, "the Hub has taken it out of service.")
    if isinstance(error, hub.RevisionNotFoundError):
        return ModelNotFound(id, [client.repo], f"The repo has no revision {client.revision!r}.")
    if isinstance(error, hub.EntryNotFoundError):
        return ModelRefused(id, "a file in its listing does not exist.")
    if isinstance(error, hub.RepositoryNotFoundError) or (status == 401 and not client.signed):
        return ModelNotFound(id, hint=_hidden(client.signed))
    if status == 401:
        return ModelRefused(
            id,
            "the Hub does not accept the token that was sent: it is wrong, expired or revoked. "
            "Make a new one in the Hub's settings; public models need none (token=False).",
        )
    if status == 403:
        return ModelRefused(
            id,
            "the token that was sent may not read it. Let the token read this repo, in the Hub's "
            "settings, or use one that may."
            if client.signed
            else "the Hub forbids to read it without a token.",
        )
    return None


def _gated(signed: bool) -> str:
    if signed:
        return (
            "it is gated, and the account of this token has not been let in: accept its terms on "
            "its page on the Hub (some authors answer by hand), and let the token read gated repos."
        )
    return (
        "it is gated: accept its terms on its page on the Hub, then sign in or give a token of "
        "that account."
    )


def _hidden(signed: bool) -> str:
    if signed:
        return "The Hub has no such repo, or it is private and this token may not read it."
    return (
        "The Hub has no such repo, or it is private: then sign in, or give a token that may read "
        "it (token=…, HF_TOKEN or `hf auth login`)."
    )


Token = str | bool | None
"""An access token; True for that of this machine, which must exist; None for that or,
if there is none, for none; False for none."""

_MAX_WAIT = 3
"""The longest ``Retry-After`` that is honoured, in seconds; a longer one is an error."""

_SHORT_TIMEOUT = 3
"""The time-out in seconds where the cache can replace the response."""

_OTHER_KINDS: tuple[Literal["dataset", "space"], ...] = ("dataset", "space")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_DIGEST = re.compile(r"[0-9a-f]{40}\Z|[0-9a-f]{64}\Z")


class HubClient:
    """Requests about one repo, with the access token of one caller.

    Args:
        request: The request for the model.
        repo: ``owner/name``.

    Attributes:
        id: The model's ID, as it was given.
        repo: ``owner/name``.
        revision: Branch, tag or commit; None for the main branch.
        own: Whether the caller is this machine's user, not a remote one with a token of their own.
        headers: The headers of a request.
        signed: Whether a token is sent.

    Raises:
        InvalidArgument: If the token is not one, or there is none where there must be.
    """

    def __init__(self, request: LoadRequest, repo: str) -> None:
        check_token(request.token)
        self.id, self.repo, self.revision = str(request.id), repo, request.id.revision
        self.own, self._token = request.is_own, request.token
        try:
            self.headers: Mapping[str, str] = build_hf_headers(
                token=self._token, library_name="cam_hub", library_version=__version__
            )
        except LocalTokenNotFoundError as error:
            raise InvalidArgument(
                "token", True, "a token in HF_TOKEN or from `hf auth login`; there is none"
            ) from error
        except OSError as error:
            raise HubUnavailable(
                self.id,
                "the access token of this machine cannot be read. Give one in HF_TOKEN, or use "
                "none (token=False).",
            ) from error
        self.signed = "authorization" in self.headers
        self._api = HfApi(library_name="cam_hub", library_version=__version__, token=self._token)

    @contextmanager
    def plain_errors(self) -> Iterator[None]:
        """Turns errors of huggingface_hub, its HTTP client and the disk into errors of ours.

        Raises:
            ModelNotFound: If there is no such repo or revision, or not for this caller.
            ModelRefused: If the caller may not have it.
            HubUnavailable: If the Hub, the network or the disk fails.
        """
        with translated_errors(self.id, HUB):
            try:
                try:
                    yield
                except httpx2.HTTPStatusError as error:
                    # It knows the Hub's own headers. The body stays unread: it may be endless.
                    hf_raise_for_status(error.response)
                    raise
            except hub.HfHubHTTPError as error:
                if (refusal := _refusal(self, error)) is not None:
                    raise refusal from error
                raise

    def facts(self, *, patient: bool) -> ModelFacts:
        """The facts about the repo.

        Args:
            patient: Whether to wait for a slow Hub, and for a short ``Retry-After``.

        Returns:
            The facts, without the choice of the weights and without what is cached.

        Raises:
            ModelNotFound: If there is no such repo or revision, or it is private.
            ModelRefused: If it is a dataset or a Space, if the token is not accepted, or if the
                Hub has disabled the repo.
            HubUnavailable: If the Hub does not answer as it should.
        """
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        with self.plain_errors():
            try:
                return self._ask(timeout if patient else min(timeout, _SHORT_TIMEOUT))
            except RepositoryNotFoundError as error:
                if (kind := self._other_kind()) is not None:
                    raise ModelRefused(self.id, not_a_model(kind)) from error
                raise
            except HfHubHTTPError as error:
                seconds = retry_after(error.response)
                if not patient or seconds is None or seconds > _MAX_WAIT:
                    raise
            time.sleep(seconds)
            return self._ask(timeout)

    def check_access(self, name: str) -> None:
        """Raises an error if the caller may not fetch a file; the Hub shows facts more freely.

        Raises:
            CamHubError: As for ``facts``.
        """
        with self.plain_errors():
            get_hf_file_metadata(
                self.address(name, self.revision or constants.DEFAULT_REVISION),
                token=self._token,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )

    def address(self, name: str, revision: str) -> str:
        """The URL of a file of the repo."""
        return hf_hub_url(self.repo, name, revision=revision)

    def _other_kind(self) -> Literal["dataset", "space"] | None:
        """The type of the repo of this name, if it is not a model."""
        for kind in _OTHER_KINDS:
            # Any failure: the error that there is no such model is raised in any case.
            with suppress(OSError, httpx2.HTTPError, ValueError, TypeError, KeyError):
                self._api.repo_info(self.repo, repo_type=kind, timeout=_SHORT_TIMEOUT)
                return kind
        return None

    def _ask(self, timeout: float) -> ModelFacts:
        try:
            info = self._api.model_info(
                self.repo, revision=self.revision, files_metadata=True, timeout=timeout
            )
            return _as_facts(self.id, info)
        except OSError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The errors of reading a body that is not JSON, or is other JSON.
            raise HubUnavailable(
                self.id,
                "the answer is not the Hub's: a page to log in to this network, perhaps, or a "
                "wrong HF_ENDPOINT.",
            ) from error


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit in full, which never changes its meaning."""
    return revision is not None and _COMMIT.match(revision) is not None


def check_token(token: Token) -> None:
    """Refuses a malformed token, which would appear in messages of the HTTP client.

    Raises:
        InvalidArgument: If it is malformed. The message does not show it.
    """
    if isinstance(token, str) and not _TOKEN.match(token):
        raise InvalidArgument("token", "…", "an access token of the Hub, True, False or None")


def _as_facts(id: str, info: ModelInfo) -> ModelFacts:
    """The facts in the client's response."""
    if not is_commit(info.sha) or info.siblings is None:
        raise ValueError("no commit, or no files")
    card: Any = info.card_data
    licence = getattr(card, "license", None)
    if licence == "other":
        licence = getattr(card, "license_name", None) or licence
    return ModelFacts(
        id=id,
        source="hub",
        revision=info.sha,
        parameters=info.safetensors.total if info.safetensors else None,
        licence=clean_line(licence, 60) if licence else None,
        gated=bool(info.gated),
        private=bool(info.private),
        disabled=bool(info.disabled),
        library=clean_line(info.library_name, 60) if info.library_name else None,
        tags=tuple(clean_line(tag, 200) for tag in info.tags or ()),
        downloads=info.downloads,
        files=tuple(
            FileFacts(
                file.rfilename,
                file.size,
                _digest(file.lfs.sha256 if file.lfs else file.blob_id),
            )
            for file in info.siblings
        ),
    )


def _digest(text: str | None) -> str | None:
    """The text, if it is a digest: it becomes the name of a file."""
    return text if text is not None and _DIGEST.match(text) else None
