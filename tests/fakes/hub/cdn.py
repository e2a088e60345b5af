"""A second server, on another host name, for the large files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.hub.files import part, sha256
from tests.fakes.hub.server import serve
from tests.fakes.hub.state import Call, FakeHub, Reply


@contextmanager
def serve_cdn(hub: FakeHub) -> Iterator[list[Call]]:
    """Makes the hub redirect its clients there for large files; yields their requests."""
    calls: list[Call] = []

    def answer(hub: FakeHub, call: Call, _: str) -> Reply:
        calls.append(call)
        name = call.path.rpartition("/")[2]
        bodies = (body for repo in hub.repos.values() for body in repo.values())
        found = next((body for body in bodies if sha256(body) == name), None)
        reply = Reply(403) if found is None else part(call, found, {"ETag": f'"{name}"'})
        for fault in hub.faults:
            reply = fault(call, reply)
        return reply

    with serve(hub, answer_with=answer) as address:
        hub.cdn = address.replace("127.0.0.1", "localhost")
        try:
            yield calls
        finally:
            hub.cdn = None
