"""``GET /api/models``: the list of models."""

from __future__ import annotations

from typing import Any

from tests.fakes.hub.state import Call, FakeHub, Reply

EXPIRED = "hf_expired"
"""A token that the Hub no longer accepts."""

_ALWAYS = ("id", "private", "tags")


class WithoutList(FakeHub):
    """A hub with repos whose list of them fails."""


def answer(hub: FakeHub, call: Call) -> Reply | None:
    """Lists the repos that the caller may see, filtered and sorted as requested."""
    if call.path != "/api/models" or call.method != "GET":
        return None
    if isinstance(hub, WithoutList):
        return Reply(500)
    if call.token == EXPIRED:
        return Reply(401)
    query = call.query
    hidden = {repo for repo, tokens in hub.private.items() if call.token not in tokens}
    rows = [_row(hub, repo) for repo in {**hub.repos, **hub.facts} if repo not in hidden]
    for tag in query.get("filter", ()):
        rows = [row for row in rows if tag in (row.get("library_name"), *row["tags"])]
    for author in query.get("author", ()):
        rows = [row for row in rows if row["id"].partition("/")[0] == author]
    for text in query.get("search", ()):
        rows = [row for row in rows if text.lower() in row["id"].lower()]
    for name in query.get("sort", ()):
        rows.sort(key=lambda row: -row.get(name, 0))
    wanted = {*_ALWAYS, *query["expand"]} if "expand" in query else None
    limit = int(query.get("limit", ["1000"])[0])
    return Reply.json(
        [
            {name: value for name, value in row.items() if wanted is None or name in wanted}
            for row in rows[:limit]
        ]
    )


def _row(hub: FakeHub, repo: str) -> dict[str, Any]:
    facts = {"tags": [], "downloads": 0, "likes": 0, **hub.facts.get(repo, {})}
    gated = "manual" if repo in hub.gated else False
    return {**facts, "id": repo, "private": repo in hub.private, "gated": gated}
