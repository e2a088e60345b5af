"""``/OWNER/NAME/resolve/REVISION/FILE``: the files of repos."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

from tests.fakes.hub.state import Call, FakeHub, Reply

_PATH = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)\Z")
_LARGE = (".safetensors", ".bin")


def is_large(file: str) -> bool:
    """Whether a file is stored in LFS."""
    return file.endswith(_LARGE)


def sha256(body: bytes) -> str:
    """The hash of a file in LFS."""
    return hashlib.sha256(body).hexdigest()


def git_sha1(body: bytes) -> str:
    """The hash of a file in git."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def answer(hub: FakeHub, call: Call) -> Reply | None:
    """Returns a file, or its location, or the Hub's refusal."""
    match = _PATH.match(call.path)
    if match is None or call.method not in ("GET", "HEAD"):
        return None
    repo, revision, file = map(unquote, match.groups())
    if (refusal := hub.refusal(repo, call)) is not None:
        return refusal
    commit = hub.commit(repo)
    if revision not in ("main", commit):
        return Reply(404, {"X-Error-Code": "RevisionNotFound"})
    if file not in hub.repos[repo]:
        return Reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
    body = hub.repos[repo][file]
    if not is_large(file):
        return part(call, body, {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(body)}"'})
    headers = {
        "X-Repo-Commit": commit,
        "X-Linked-Etag": f'"{sha256(body)}"',
        "X-Linked-Size": str(len(body)),
    }
    if hub.cdn is not None:
        return Reply(302, {**headers, "Location": f"{hub.cdn}/{repo}/{sha256(body)}?signature=s3"})
    return part(call, body, headers)


def part(call: Call, body: bytes, headers: dict[str, str]) -> Reply:
    """The requested range of a file."""
    headers = {**headers, "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range") or "")
    if wanted is None:
        return Reply(200, headers, body)
    start, end = int(wanted[1]), min(int(wanted[2] or len(body) - 1), len(body) - 1)
    if start >= len(body):
        return Reply(416, {"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
    return Reply(206, headers, body[start : end + 1])
