"""``/OWNER/NAME/resolve/REVISION/FILE``: the files of repos."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

from tests.hub.state import Call, FakeHub, Reply

_PATH = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)\Z")


def answer(hub: FakeHub, call: Call) -> Reply | None:
    """Gives a file, or says as the Hub does why not."""
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
    etag = hashlib.sha256(body).hexdigest()
    return Reply(200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, body)
