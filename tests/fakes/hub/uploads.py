"""Creating repos and committing to them: ``/api/repos/create``, ``…/commit/R``, large files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

from tests.fakes.hub.files import part
from tests.fakes.hub.shelves import Shelf
from tests.fakes.hub.state import Call, FakeHub, Reply

_REPO = re.compile(r"/api/((?:spaces|datasets)/[^/]+/[^/]+)(?:/([a-z-]+)(?:/(.+))?)?\Z")
_BATCH = re.compile(r"/((?:spaces|datasets)/[^/]+/[^/]+)\.git/info/lfs/objects/batch\Z")
_STORE = re.compile(r"/large-files/([0-9a-f]{64})\Z")
_FILE = re.compile(r"/((?:spaces|datasets)/[^/]+/[^/]+)/resolve/([^/]+)/(.+)\Z")
_COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def answer(hub: FakeHub, call: Call) -> Reply | None:
    """Accepts an upload, or refuses it with the Hub's own message."""
    if (call.method, call.path) == ("POST", "/api/repos/create"):
        return _create(hub, call)
    if (call.method, call.path) == ("POST", "/api/validate-yaml"):
        return _validate(call)
    if match := _STORE.match(call.path):
        return _store(hub, call, match[1])
    if match := _BATCH.match(call.path):
        return _hidden(hub, call, match[1]) or _batch(hub, call)
    if match := _FILE.match(call.path):
        return _file(hub, call, *map(unquote, match.groups()))
    if match := _REPO.match(call.path):
        action = _ACTIONS.get((call.method, match[2]))
        if action is None:
            return None
        if hub.uploads.busy is not None:
            return Reply(429, {"Retry-After": str(hub.uploads.busy)})
        reads = call.method == "GET" or match[2] == "paths-info" or "create_pr" in call.query
        refusal = _hidden(hub, call, match[1]) if reads else _guarded(hub, call, match[1])
        if refusal is None and match[2] in ("revision", "tree", "paths-info"):
            refusal = _other_revision(hub, match[1], unquote(match[3]).partition("/")[0])
        return refusal or action(hub, call, match[1])
    return None


def _owners(hub: FakeHub, call: Call) -> set[str] | None:
    return hub.uploads.writers.get(call.token or "")


def _hidden(hub: FakeHub, call: Call, key: str) -> Reply | None:
    owners = _owners(hub, call)
    if call.token and owners is None:
        return _unknown_token()
    shelf = hub.uploaded.get(key)
    if shelf is None or (shelf.private and key.split("/")[1] not in (owners or ())):
        return Reply(404, {"X-Error-Code": "RepoNotFound"})
    return None


def _guarded(hub: FakeHub, call: Call, key: str) -> Reply | None:
    owner = key.split("/")[1]
    if refusal := _hidden(hub, call, key):
        return refusal
    return None if owner in (_owners(hub, call) or ()) else _forbidden(f"No rights for {owner}")


def _other_revision(hub: FakeHub, key: str, revision: str) -> Reply | None:
    known = revision in ("main", hub.uploaded[key].sha)
    return None if known else Reply(404, {"X-Error-Code": "RevisionNotFound"})


def _unknown_token() -> Reply:
    return Reply(401, {"X-Error-Message": "Invalid credentials in Authorization header"})


def _forbidden(words: str) -> Reply:
    return Reply.json({"error": words}, 403)


def _create(hub: FakeHub, call: Call) -> Reply:
    wanted = json.loads(call.body)
    owners = _owners(hub, call)
    if owners is None:
        return _unknown_token()
    if wanted["organization"] not in owners:
        return _forbidden(f"No rights for {wanted['organization']}")
    if "create" in hub.uploads.unpaid:
        return Reply.json({"error": "Subscribe to run this"}, 402)
    key = f"{wanted['type']}s/{wanted['organization']}/{wanted['name']}"
    url = {"url": f"{call.address}/{key}"}
    if key in hub.uploaded:
        return Reply.json(url, 409)
    private = wanted.get("visibility") == "private"
    hub.uploaded[key] = Shelf(private=private, sdk=wanted.get("sdk"))
    return Reply.json(url)


def _validate(call: Call) -> Reply:
    sent = json.loads(call.body)
    found = re.match(r"---\n(.*?)\n---\n", sent["content"], re.DOTALL)
    data = yaml.safe_load(found[1]) if found else None
    errors = [] if isinstance(data, dict) else ["no metadata"]
    if sent["repoType"] == "space" and isinstance(data, dict):
        if len(data.get("short_description", "")) > 60:
            errors.append('"short_description" must be at most 60 characters')
        errors += [
            f'"{name}" must be a colour'
            for name in ("colorFrom", "colorTo")
            if data.get(name) not in _COLORS
        ]
        errors += [
            f'"{name}" must be a string'
            for name in ("title", "emoji", "sdk", "sdk_version", "python_version", "app_file")
            if not isinstance(data.get(name), str)
        ]
    answer = {"errors": [{"message": error} for error in errors], "warnings": []}
    return Reply.json(answer, 400 if errors else 200)


def _info(hub: FakeHub, call: Call, key: str) -> Reply:
    shelf = hub.uploaded[key]
    siblings = [{"rfilename": path} for path in sorted(shelf.files)]
    id = key.partition("/")[2]
    facts = {"id": id, "sha": shelf.sha, "private": shelf.private, "siblings": siblings}
    return Reply.json({**facts, **({"sdk": shelf.sdk} if shelf.sdk else {})})


def _tree(hub: FakeHub, call: Call, key: str) -> Reply:
    """The files and folders in a folder; with ``recursive``, those in its folders, too."""
    folder = unquote(call.path).partition("/tree/")[2].partition("/")[2]
    start = f"{folder}/" if folder else ""
    entries = _entries(hub.uploaded[key].files)
    found = [entry for path, entry in entries.items() if path.startswith(start)]
    if call.query.get("recursive", ["false"])[0].lower() == "false":
        found = [entry for entry in found if "/" not in entry["path"].removeprefix(start)]
    if folder and not found:
        return Reply(404, {"X-Error-Code": "EntryNotFound"})
    return Reply.json(found)


def _paths_info(hub: FakeHub, call: Call, key: str) -> Reply:
    entries = _entries(hub.uploaded[key].files)
    wanted = parse_qs(call.body.decode())["paths"]
    return Reply.json([entries[path] for path in wanted if path in entries])


def _entries(files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """The files and folders of a repo by their paths, in the words of the Hub."""
    folders = {str(folder) for path in files for folder in PurePosixPath(path).parents} - {"."}
    found: dict[str, dict[str, Any]] = {
        path: {"type": "directory", "path": path, "size": 0, "oid": _oid(path.encode(), "regular")}
        for path in folders
    }
    for path, body in files.items():
        oid = _oid(body, "regular")
        found[path] = {"type": "file", "path": path, "size": len(body), "oid": oid}
    return dict(sorted(found.items()))


def _settings(hub: FakeHub, call: Call, key: str) -> Reply:
    hub.uploaded[key].private = json.loads(call.body)["visibility"] == "private"
    return Reply.json({})


def _hardware(hub: FakeHub, call: Call, key: str) -> Reply:
    if "hardware" in hub.uploads.unpaid:
        return Reply.json({"error": "Add a payment method"}, 402)
    hub.uploaded[key].hardware = json.loads(call.body)["flavor"]
    return _runtime(hub, call, key)


def _runtime(hub: FakeHub, call: Call, key: str) -> Reply:
    hardware = {"current": "cpu-basic", "requested": hub.uploaded[key].hardware}
    return Reply.json({"stage": "BUILDING", "hardware": hardware})


def _preupload(hub: FakeHub, call: Call, key: str) -> Reply:
    if hub.uploads.full:
        return _forbidden(hub.uploads.full)
    present = hub.uploaded[key].files
    files = [
        {
            "path": file["path"],
            "uploadMode": (mode := _mode(file)),
            "shouldIgnore": False,
            "oid": _oid(present[file["path"]], mode) if file["path"] in present else None,
        }
        for file in json.loads(call.body)["files"]
    ]
    return Reply.json({"files": files})


def _oid(content: bytes, mode: str) -> str:
    """The Hub's name for content: git's hash, or SHA-256 for a large file."""
    if mode == "lfs":
        return hashlib.sha256(content).hexdigest()
    blob = f"blob {len(content)}\0".encode() + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def _mode(file: dict[str, Any]) -> str:
    binary = b"\0" in base64.b64decode(file["sample"])
    return "lfs" if binary or file["size"] > 10 * 2**20 else "regular"


def _batch(hub: FakeHub, call: Call) -> Reply:
    objects = [
        {"oid": wanted["oid"], "size": wanted["size"]}
        | (
            {}
            if wanted["oid"] in hub.uploads.stored
            else {"actions": {"upload": {"href": f"{call.address}/large-files/{wanted['oid']}"}}}
        )
        for wanted in json.loads(call.body)["objects"]
    ]
    return Reply.json({"transfer": "basic", "objects": objects})


def _store(hub: FakeHub, call: Call, digest: str) -> Reply:
    if hub.uploads.store_fails:
        return Reply(403, body=b"signature expired")
    if hashlib.sha256(call.body).hexdigest() != digest:
        return Reply(400, body=b"wrong checksum")
    hub.uploads.stored[digest] = call.body
    return Reply()


def _commit(hub: FakeHub, call: Call, key: str) -> Reply:
    shelf = hub.uploaded[key]
    if hub.uploads.interrupt and hub.uploads.interrupt[0][0] == key:
        _, path, content = hub.uploads.interrupt.pop(0)
        shelf.files[path] = content
        shelf.commits.append("another client's")
    header, *rest = [json.loads(line) for line in call.body.splitlines()]
    if header["value"].get("parentCommit", shelf.sha) != shelf.sha:
        return Reply.json({"error": "A commit has happened since"}, 412)
    changes: dict[str, bytes | None] = {}
    for entry in rest:
        value = entry["value"]
        if entry["key"] == "file":
            changes[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            changes[value["path"]] = hub.uploads.stored[value["oid"]]
        elif value["path"] in shelf.files:
            changes[value["path"]] = None
        else:
            return Reply(404, {"X-Error-Code": "EntryNotFound"})
    url = f"{call.address}/{key}"
    if "create_pr" in call.query:
        shelf.pulls.append(changes)
        pull = f"{url}/discussions/{len(shelf.pulls)}"
        proposed = {"commitUrl": f"{url}/commit/{shelf.sha}", "commitOid": shelf.sha}
        return Reply.json({**proposed, "pullRequestUrl": pull})
    kept = {path: content for path, content in shelf.files.items() if path not in changes}
    shelf.files = kept | {path: body for path, body in changes.items() if body is not None}
    shelf.commits.append(header["value"]["summary"])
    return Reply.json({"commitUrl": f"{url}/commit/{shelf.sha}", "commitOid": shelf.sha})


def _file(hub: FakeHub, call: Call, key: str, revision: str, path: str) -> Reply:
    if refusal := _hidden(hub, call, key) or _other_revision(hub, key, revision):
        return refusal
    shelf = hub.uploaded[key]
    if shelf.gated and key.split("/")[1] not in (_owners(hub, call) or ()):
        return Reply(403 if call.token else 401, {"X-Error-Code": "GatedRepo"})
    if path not in shelf.files:
        return Reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": shelf.sha})
    etag = hashlib.sha256(shelf.files[path]).hexdigest()
    headers = {"X-Repo-Commit": shelf.sha, "ETag": f'"{etag}"'}
    return part(call, shelf.files[path], headers)


_ACTIONS: dict[tuple[str, str | None], Callable[[FakeHub, Call, str], Reply]] = {
    ("GET", None): _info,
    ("GET", "revision"): _info,
    ("GET", "tree"): _tree,
    ("POST", "paths-info"): _paths_info,
    ("GET", "runtime"): _runtime,
    ("POST", "hardware"): _hardware,
    ("PUT", "settings"): _settings,
    ("POST", "preupload"): _preupload,
    ("POST", "commit"): _commit,
}
