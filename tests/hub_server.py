"""A server on loopback that speaks as much of the Hub's protocol as downloading takes."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub:
    """Repos by name, each a dict of file name to content; what was asked for is kept.

    Attributes:
        repos: The files of each repo. Every repo has one commit, which ``main`` points to.
        gated: Repos that refuse to be read.
        broken: Whether every answer is a server error.
        requests: Method and path of every request so far.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.broken = False
        self.requests: list[tuple[str, str]] = []

    def commit(self, repo: str) -> str:
        """The repo's commit, which follows from its content."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.repos[repo].items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, with_body: bool) -> None:
            hub.requests.append((self.command, self.path))
            status, headers, body = self.found()
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def found(self) -> tuple[int, dict[str, str], bytes]:
            if hub.broken:
                return 500, {}, b"out of order"
            owner, name, _, rest = [*self.path.lstrip("/").split("/", 3), "", "", ""][:4]
            repo = f"{owner}/{name}"
            revision, _, file = rest.partition("/")
            if repo not in hub.repos:
                return 401, {"X-Error-Code": "RepoNotFound"}, b""
            if repo in hub.gated:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            commit = hub.commit(repo)
            if revision not in ("main", commit):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            if file not in hub.repos[repo]:
                return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
            body = hub.repos[repo][file]
            etag = hashlib.sha256(body).hexdigest()
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, body

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serve(hub: FakeHub, port: int = 0) -> Iterator[str]:
    """Runs the server in a thread; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
