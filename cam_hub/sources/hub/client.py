"""What is asked of the Hub about a repo: one request, before anything is fetched.

This module and its neighbours are the only ones that speak to huggingface_hub about models.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils import build_hf_headers

from cam_hub._text import clean_line
from cam_hub._version import __version__
from cam_hub.errors import HubUnavailable, InvalidArgument, ModelRefused
from cam_hub.models.facts import FileFacts, ModelFacts
from cam_hub.models.faults import retry_after
from cam_hub.models.foreign import not_a_model
from cam_hub.sources.hub.cache import is_commit
from cam_hub.sources.hub.errors import RepoRequest, plain_errors

__all__ = ["HubClient", "Token", "check_token"]

Token = str | bool | None
"""An access token; True for the one of this machine, which must then have one; None for that one
if there is one; False for none."""

_LONGEST_WAIT = 3
"""Seconds that are waited when the Hub asks for it; if it asks for more, that is an error."""

_HURRY = 3
"""Seconds that the Hub has to answer while the cache could answer in its place."""

_OTHER_KINDS: tuple[Literal["dataset", "space"], ...] = ("dataset", "space")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}\Z")
_DIGEST = re.compile(r"[0-9a-f]{40}\Z|[0-9a-f]{64}\Z")


class HubClient:
    """Asks about one repo on behalf of one caller.

    Args:
        id: The model's ID, as it was given.
        repo: ``owner/name``.
        revision: Branch, tag or commit; None for the main branch.
        token: The caller's access token.

    Raises:
        InvalidArgument: If the token is not one, or there is none where there must be.
    """

    def __init__(self, id: str, repo: str, revision: str | None, token: Token) -> None:
        check_token(token)
        self.repo, self.revision, self._token = repo, revision, token
        try:
            self.headers: Mapping[str, str] = build_hf_headers(
                token=token, library_name="cam_hub", library_version=__version__
            )
        except LocalTokenNotFoundError as error:
            raise InvalidArgument(
                "token", True, "a token in HF_TOKEN or from `hf auth login`; there is none"
            ) from error
        except OSError as error:
            raise HubUnavailable(
                id,
                "the access token of this machine cannot be read. Give one in HF_TOKEN, or use "
                "none (token=False).",
            ) from error
        self.wanted = RepoRequest(id, repo, revision, signed="authorization" in self.headers)

    @property
    def own(self) -> bool:
        """Whether the caller is the one whose machine this is, rather than somebody served."""
        return self._token is None or self._token is True

    def facts(self, *, patient: bool) -> ModelFacts:
        """Everything that the Hub tells about the repo.

        Args:
            patient: Whether to wait where the Hub is slow, or asks for a little time.

        Returns:
            The facts; which file is read, and what of it is cached, is left open.

        Raises:
            ModelNotFound: If there is no such repo or revision, or it is private.
            ModelRefused: If it is a dataset or a Space, if the token is not accepted, or if the
                Hub has disabled the repo.
            HubUnavailable: If the Hub does not answer as it should.
        """
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        with plain_errors(self.wanted):
            try:
                return self._ask(timeout if patient else min(timeout, _HURRY))
            except RepositoryNotFoundError as error:
                if (kind := self._other_kind()) is not None:
                    raise ModelRefused(self.wanted.id, not_a_model(kind)) from error
                raise
            except HfHubHTTPError as error:
                seconds = retry_after(error.response)
                if not patient or seconds is None or seconds > _LONGEST_WAIT:
                    raise
            time.sleep(seconds)
            return self._ask(timeout)

    def check_access(self, name: str) -> None:
        """Does nothing if the caller may fetch a file of the repo; facts are shown more freely.

        Raises:
            CamHubError: As for ``facts``.
        """
        with plain_errors(self.wanted):
            get_hf_file_metadata(
                self.address(name, self.revision or constants.DEFAULT_REVISION),
                token=self._token,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )

    def address(self, name: str, revision: str) -> str:
        """Where a file of the repo is fetched from."""
        return hf_hub_url(self.repo, name, revision=revision)

    def _other_kind(self) -> Literal["dataset", "space"] | None:
        """What the Hub has under this name, where that is no model."""
        api = HfApi(library_name="cam_hub", library_version=__version__)
        for kind in _OTHER_KINDS:
            # Whatever goes wrong: that there is no such model has been said already.
            with suppress(OSError, httpx2.HTTPError, ValueError, TypeError, KeyError):
                api.repo_info(self.repo, repo_type=kind, timeout=_HURRY, token=self._token)
                return kind
        return None

    def _ask(self, timeout: float) -> ModelFacts:
        try:
            info = HfApi(library_name="cam_hub", library_version=__version__).model_info(
                self.repo,
                revision=self.revision,
                files_metadata=True,
                timeout=timeout,
                token=self._token,
            )
            return _as_facts(self.wanted.id, info)
        except OSError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Whatever reading JSON that is none, or is another, ends in.
            raise HubUnavailable(
                self.wanted.id,
                "the answer is not the Hub's: a page to log in to this network, perhaps, or a "
                "wrong HF_ENDPOINT.",
            ) from error


def check_token(token: Token) -> None:
    """Does nothing if this can be a token: others would come up in the HTTP client's messages.

    Raises:
        InvalidArgument: If it cannot; what was given is not shown.
    """
    if isinstance(token, str) and not _TOKEN.match(token):
        raise InvalidArgument("token", "…", "an access token of the Hub, True, False or None")


def _as_facts(id: str, info: ModelInfo) -> ModelFacts:
    """The client's answer as ours."""
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
    """A digest, if it is one: it becomes the name of a file."""
    return text if text is not None and _DIGEST.match(text) else None
