"""``/api/models/OWNER/NAME…`` and ``/api/whoami-v2``: the Hub's facts about repos and tokens."""

from __future__ import annotations

import json
import math
import re
from typing import Any
from urllib.parse import unquote

from tests.fakes.hub.files import git_sha1, is_large, sha256
from tests.fakes.hub.state import Call, FakeHub, Reply

_MODEL = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/([^/]+))?)?\Z")


def answer(hub: FakeHub, call: Call) -> Reply | None:
    """Returns the facts of a repo, or the owner of a token."""
    if call.method != "GET":
        return None
    if call.path == "/api/whoami-v2":
        known = call.token is not None and (not hub.tokens or call.token in hub.tokens)
        return Reply.json({"name": "somebody", "type": "user"}) if known else Reply(401)
    match = _MODEL.match(call.path)
    if match is None:
        return None
    repo, kind, revision = unquote(match[1]), match[2], unquote(match[3] or "main")
    if (refusal := hub.refusal(repo, call, files=False)) is not None:
        return refusal
    commit = hub.commit(repo)
    if kind == "refs":
        return Reply.json({"branches": [{"name": "main", "ref": "refs/heads/main"}], "tags": []})
    if revision not in ("main", commit):
        return Reply(404, {"X-Error-Code": "RevisionNotFound"})
    files = [_file(name, body) for name, body in sorted(hub.repos[repo].items())]
    if kind == "tree":
        return Reply.json(
            [{"type": "file", "path": file.pop("rfilename"), **file} for file in files]
        )
    if "blobs" not in call.query:
        files = [{"rfilename": file["rfilename"]} for file in files]
    about = {
        "id": repo,
        "sha": commit,
        "private": repo in hub.private,
        "gated": "auto" if repo in hub.gated else False,
        "disabled": False,
        "downloads": 7,
        "tags": ["timm"],
        "library_name": "timm",
        "cardData": {"license": "apache-2.0"},
        "siblings": files,
    }
    if (total := _parameters(hub.repos[repo])) is not None:
        about["safetensors"] = {"parameters": {"F32": total}, "total": total}
    return Reply.json({**about, **hub.facts.get(repo, {})})


def _file(name: str, body: bytes) -> dict[str, Any]:
    file: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": git_sha1(body)}
    if is_large(name):
        file["lfs"] = {"sha256": sha256(body), "size": len(body), "pointerSize": 134}
    return file


def _parameters(files: dict[str, bytes]) -> int | None:
    """The number of parameters, which the Hub reads from the file's header."""
    body = files.get("model.safetensors", b"")
    try:
        header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        return sum(
            math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
