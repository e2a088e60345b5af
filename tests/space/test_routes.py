"""Every route of the app under malformed requests: a 4xx, and at most one short log line."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from gradio.routes import App

from space.app.create_app import create_app
from tests.fakes.space_app import SETTINGS
from tests.fakes.space_process import RunningApp, run_app

MOST = 300
"""The maximum number of characters that one request may add to the log."""

ODD = [
    "x",
    "-1",
    "99999999999999999999999999",
    "%00",
    "a%0ab%1b%5b31mred",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%ff%fe",
    "http:%2f%2f127.0.0.1:1%2f",
    "%E2%80%A8",
    "x" * 3000,
]
"""Values for each parameter of a path; the last is also used for queries."""

FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="files"%s\r\n\r\nabc\r\n--b--\r\n'
JSON = "application/json"
BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", JSON),
    "no JSON": (b"{", JSON),
    "not UTF-8": (b"\xff\xfe{}", JSON),
    "a number": (b"1", JSON),
    "a list": (b"[]", JSON),
    "an object": (b"{}", JSON),
    "deep": (b"[" * 20_000, JSON),
    "NaN": (b'{"data": [NaN], "fn_index": 0, "session_hash": "s"}', JSON),
    "no data": (b'{"data": null, "fn_index": 0, "session_hash": "s"}', JSON),
    "data of a wrong kind": (b'{"data": {"a": 1}, "fn_index": 0, "session_hash": "s"}', JSON),
    "unknown function": (b'{"data": [], "fn_index": 99999, "session_hash": "s"}', JSON),
    "negative function": (b'{"data": [], "fn_index": -1, "session_hash": "s"}', JSON),
    "huge function": (b'{"data": [], "fn_index": %d, "session_hash": "s"}' % 10**40, JSON),
    "no session": (b'{"data": [], "fn_index": 0}', JSON),
    "session of a wrong kind": (b'{"data": [], "fn_index": 0, "session_hash": ["s"]}', JSON),
    "long session": (b'{"data": [], "fn_index": 0, "session_hash": "%s"}' % (b"s" * 9000), JSON),
    "odd session": (b'{"data": [], "fn_index": 0, "session_hash": "\\n\\u001b[31m\\ud800"}', JSON),
    "odd event": (
        b'{"data": [], "fn_index": 0, "session_hash": "s", "event_id": "\\ud800", '
        b'"trigger_id": -5, "event_data": [1], "batched": true, "simple_format": true}',
        JSON,
    ),
    "component": (b'{"data": [], "component_id": {}, "fn_name": "x", "session_hash": "s"}', JSON),
    "private function": (
        b'{"data": 1, "component_id": 1, "fn_name": "__init__", "session_hash": "s"}',
        JSON,
    ),
    "wrong type": (b"<a/>", "text/xml"),
    "no type": (b"{}", ""),
    "unknown character set": (b"{}", "application/json; charset=klingon"),
    "form without a boundary": (b"--b--", "multipart/form-data"),
    "form without an end": (b"--b\r\nContent-Disposition: form-data", FORM),
    "form that is none": (b"\x00\x01\x02", FORM),
    "part without a name": (b"--b\r\n\r\nabc\r\n--b--\r\n", FORM),
    "part without a file name": (PART % b"", FORM),
    "file with an odd name": (PART % b'; filename="../\x1b[31m\n..\x00"', FORM),
    "file named by dots": (PART % b'; filename=".."', FORM),
    "file without a name": (PART % b'; filename=""', FORM),
    "file with a long name": (PART % (b'; filename="%s"' % (b"n" * 5000)), FORM),
    "fields": (b"".join([PART[:-8] % b""] * 1100) + b"--b--\r\n", FORM),
    "MCP without a method": (b'{"jsonrpc": "2.0", "id": 1}', JSON),
    "MCP call of nothing": (
        b'{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "\\u001b"}}',
        JSON,
    ),
}  # fmt: skip

HEADERS: list[dict[str, str]] = [
    {"Range": "bytes=" + ",".join(f"{each}-" for each in range(50))},
    {"Range": "bytes=5-2"},
    {"Range": "bytes=\u00b2-\u00b3".encode().decode("latin-1")},
    {"Range": "bytes=" + "9" * 5000 + "-"},
    {"Range": "lines=1-2"},
    {"Range": "bytes=-"},
    {"Range": "bytes=999999999-9999999999"},
    {"If-Modified-Since": "yesterday", "If-None-Match": "\x7f"},
    {"Accept-Encoding": "br;q=x, \x80"},
    {"Cookie": "access-token=\x1b[31m; session=e30="},
    {"X-Forwarded-Proto": "gopher, x"},
    {"Authorization": "Bearer " + "x" * 3000},
    {"Accept-Language": "\x1b]0;title\x07"},
]  # fmt: skip


EVERY = pytest.mark.parametrize(
    "every", [pytest.param(3, id="a third"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
"""The quick suite sends each thing to a third of the routes, so that each route gets a third."""


def some(items: Sequence[Any], every: int, first: int) -> list[Any]:
    """Every third of some items (or all), from another one on for each ``first``."""
    return list(items[first % every :: every])


def registered() -> list[tuple[str, str]]:
    """Method and path of all routes of the app, with Gradio's and those of the MCP server."""
    found: set[tuple[str, str]] = set()

    def walk(routes: Any, prefix: str) -> None:
        for route in routes:
            if hasattr(route, "original_router"):
                walk(route.original_router.routes, prefix)
                continue
            path = prefix + getattr(route, "path", "")
            for method in getattr(route, "methods", None) or ["GET", "POST", "DELETE"]:
                found.add((method, path))
            walk(getattr(route, "routes", None) or [], path)

    app = App.create_app(create_app(SETTINGS), mcp_server=True)
    walk(app.routes, "")
    return sorted(found)


@pytest.fixture(scope="module", name="routes")
def all_routes() -> list[tuple[str, str]]:
    return registered()


def filled(path: str, value: str) -> str:
    """A route's path with a value in place of its parameters."""
    parts = path.replace("{", "}{").split("}")
    return "".join(value if part.startswith("{") else part for part in parts)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    with run_app(tmp_path_factory.mktemp("app")) as running:
        yield running
        assert "Traceback" not in running.log(), "also of what was written late"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=20, trust_env=False) as client:
        yield client


class Tally:
    """The outcomes of requests, with a list of everything that must not happen."""

    def __init__(self, app: RunningApp) -> None:
        self.app = app
        self.count = 0
        self.statuses: set[int] = set()
        self.wrong: list[str] = []
        self._before = len(app.log())

    def send(self, http: httpx.Client, method: str, address: str, **named: Any) -> int:
        """Sends a request; disconnects from a response that has no end."""
        self.count += 1
        try:
            with http.stream(method, address, **named) as answer:
                status = answer.status_code
        except httpx.RemoteProtocolError:  # the server has closed the connection
            return 0
        self.statuses.add(status)
        if status >= 500:
            self.wrong.append(f"{method} {address[:200]} {status} {str(named)[:200]}")
        return status

    def check(self) -> None:
        """The log has at most a short line for each."""
        written = self.app.grown(self._before).splitlines(keepends=True)
        # The line about the app's health comes once a minute in any case; one about a request of an
        # earlier test comes when that request is done.
        others = ("INFO health: ", "s ok\n")
        grown = "".join(line for line in written if not any(part in line for part in others))
        assert self.wrong == []
        assert "Traceback" not in grown, grown[:2000]
        assert "\x1b" not in grown
        assert len(grown.splitlines()) <= self.count, grown[:2000]
        assert max(map(len, grown.splitlines()), default=0) <= MOST
        assert len(grown) <= MOST * self.count


def test_all_routes_of_gradio_are_under_test(routes: list[tuple[str, str]]):
    paths = {path for _, path in routes}
    assert {"/gradio_api/queue/data", "/gradio_api/upload", "/gradio_api/mcp/sse"} <= paths
    assert len(paths) > 50


@EVERY
def test_odd_paths_and_queries(
    app: RunningApp, http: httpx.Client, routes: list[tuple[str, str]], every: int
):
    tally = Tally(app)
    for number, (method, path) in enumerate(routes):
        if "upload_progress" in path:
            continue  # waits three seconds for an upload with that name
        for value in some(ODD, every, number) if "{" in path else [""]:
            tally.send(http, method, app.url + filled(path, value))
        for value in some(ODD[3:6], every, number):
            query = f"?session_hash={value}&page={value}&__theme={value}&deep_link={value}&{value}"
            tally.send(http, method, app.url + filled(path, "x") + query)
    tally.check()


@EVERY
@pytest.mark.parametrize("body", BODIES)
def test_malformed_bodies(
    app: RunningApp, http: httpx.Client, routes: list[tuple[str, str]], body: str, every: int
):
    content, kind = BODIES[body]
    tally = Tally(app)
    paths = [path for method, path in routes if method == "POST"]
    for path in some(paths, every, list(BODIES).index(body)):
        for name in ("predict", "explain", "x") if "{api_name}" in path else ("x",):
            headers = {"Content-Type": kind, "Accept": "application/json, text/event-stream"}
            address = app.url + filled(path, name)
            tally.send(http, "POST", address, content=content, headers=headers)
    tally.check()


@EVERY
@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: next(iter(headers)))
def test_odd_headers(
    app: RunningApp,
    http: httpx.Client,
    routes: list[tuple[str, str]],
    headers: dict[str, str],
    every: int,
):
    upload = http.post(f"{app.api}/upload", files={"files": ("cat.png", b"x" * 5000)}).json()[0]
    tally = Tally(app)
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    addresses = [app.url + filled(path, "x") for method, path in routes if method == "GET"]
    addresses = some(addresses, every, HEADERS.index(headers))
    for address in [f"{app.api}/file={quote(upload)}", *addresses]:
        if "upload_progress" not in address:
            tally.send(http, "GET", address, headers=raw)
    tally.check()


@EVERY
def test_functions_by_their_index(app: RunningApp, http: httpx.Client, every: int):
    """Each event of the page is called by its index with nothing, too much, and invalid values."""
    tally = Tally(app)
    dependencies = http.get(f"{app.url}/config").json()["dependencies"]
    invalid = ([], [None] * 40, [{"path": "/etc/passwd"}] * 3, ["\x1b[31m\n"])
    for number, event in enumerate(dependencies):
        for data in some(invalid, every, number):
            body = {"data": data, "fn_index": event["id"], "session_hash": "s", "event_data": data}
            status = tally.send(http, "POST", f"{app.api}/queue/join", json=body)
            if not event["backend_fn"]:
                assert status == 404
            name = event["api_name"] or "x"
            status = tally.send(http, "POST", f"{app.api}/run/{name}", json=body)
            assert event["backend_fn"] or 400 <= status < 500
    tally.check()


ODD_DATA = (None, [1], "x", {}, {"kind": [], "chosen": {}, "layer": [1]})


@EVERY
@pytest.mark.parametrize("odd", ODD_DATA)
def test_events_without_their_data(app: RunningApp, http: httpx.Client, odd: object, every: int):
    """Each event that comes from a component of the page, with its fields but invalid data of its
    own."""
    config = http.get(f"{app.url}/config").json()
    values = {part["id"]: (part["props"] or {}).get("value") for part in config["components"]}
    tally = Tally(app)
    events = [
        event
        for event in config["dependencies"]
        if event["backend_fn"]
        and event["api_visibility"] == "private"
        # These explain a photo.
        and not {"answer", "open"} & {event["api_name"], event["api_name"].rpartition("_")[0]}
    ]
    assert len(events) > 20
    for event in some(events, every, ODD_DATA.index(odd)):
        session = f"odd{event['id']}"
        data = [values[index] for index in event["inputs"]]
        body = {"data": data, "fn_index": event["id"], "session_hash": session, "event_data": odd}
        tally.send(http, "POST", f"{app.api}/queue/join", json=body)
        address = f"{app.api}/queue/data?session_hash={session}"
        with http.stream("GET", address) as answer:
            text = next(part for part in answer.iter_lines() if "process_completed" in part)
        assert "internal" not in text.lower(), (event["api_name"], text)
    tally.check()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/gradio_api/queue/data?session_hash=nobody", 404),
        ("GET", "/gradio_api/queue/data", 422),
        ("GET", "/gradio_api/call/predict/nothing", 404),
        ("GET", "/gradio_api/call/v2/predict/nothing", 404),
        ("GET", "/gradio_api/deep_link?session_hash=x", 404),
        ("GET", "/gradio_api/custom_component/a/client/b/c", 404),
        ("POST", "/gradio_api/component_server", 404),
        ("POST", "/gradio_api/process_recording", 404),
        ("GET", "/monitoring/summary", 404),
        ("GET", "/gradio_api/file=/etc/passwd", 403),
    ],
)
def test_closed_routes_have_a_status(
    app: RunningApp, http: httpx.Client, method: str, path: str, status: int
):
    answer = http.request(method, app.url + path)
    assert answer.status_code == status
    assert answer.json()["error"].endswith(f"[{answer.json()['title']}]")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:7860", "Origin": "http://evil.example:7860"}, 403),
        ({"X-Forwarded-Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 200),
        ({}, 200),
    ],
    ids=str,
)
def test_only_the_page_itself_and_programs_upload(
    app: RunningApp, http: httpx.Client, headers: dict[str, str], status: int
):
    given = {name: text.format(host=f"127.0.0.1:{app.port}") for name, text in headers.items()}
    tally = Tally(app)
    files = {"files": ("a.png", b"x")}
    assert tally.send(http, "POST", f"{app.api}/upload", files=files, headers=given) == status
    body = {"data": [SETTINGS.default_model]}
    sent = tally.send(http, "POST", f"{app.api}/call/describe", json=body, headers=given)
    assert sent == status
    tally.check()


def test_no_other_site_reads_what_the_app_answers(app: RunningApp, http: httpx.Client):
    path = http.post(f"{app.api}/upload", files={"files": ("a.png", b"x")}).json()[0]
    for host in (f"127.0.0.1:{app.port}", "localhost", "[::1]:80", "[::ffff:127.0.0.1]"):
        for address in (f"{app.api}/file={path}", f"{app.url}/config", f"{app.api}/upload"):
            for method in ("GET", "OPTIONS"):
                headers = {"Origin": "https://evil.example", "Host": host}
                headers |= {"Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
                answer = http.request(method, address, headers=headers)
                assert answer.status_code == 403
                assert "access-control-allow-origin" not in answer.headers


def test_a_range_of_a_file(app: RunningApp, http: httpx.Client):
    content = bytes(range(256)) * 4
    path = http.post(f"{app.api}/upload", files={"files": ("a.png", content)}).json()[0]
    address = f"{app.api}/file={quote(path)}"
    for given, part in (("bytes=0-9", content[:10]), ("bytes=1020-", content[1020:]),
                        ("bytes=-7", content[-7:]), ("bytes=0-99999", content)):  # fmt: skip
        answer = http.get(address, headers={"Range": given, "X-Mine": "1"})
        assert (answer.status_code, answer.content) == (206, part)
        assert "x-mine" not in answer.headers  # Gradio's own handler repeats the request's headers
    for given in ("bytes=0-1,3-4", "bytes=a-b", "bytes=\u00b2-".encode()):
        answer = http.get(address, headers={"Range": given})
        assert answer.status_code == 416


RAW = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /\x1b[31m HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n\tb\x1b\r\n\r\n",
    b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\n\r\n",
    b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; "
    b'name="files"; filename="a"\r\n\r\nabc',
    b"POST /gradio_api/call/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    b"POST /gradio_api/call/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n",
    b"GET http://example.org/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


def test_what_is_hardly_http(app: RunningApp):
    tally = Tally(app)
    for sent in RAW:
        tally.count += 1
        with socket.create_connection(("127.0.0.1", app.port), timeout=10) as connection:
            connection.sendall(sent)
            connection.settimeout(0.5)
            with suppress(OSError):
                got = connection.recv(100)
                assert not got.startswith(b"HTTP/1.1 5"), (sent[:80], got)
    tally.check()


def test_streams_that_are_left(app: RunningApp, http: httpx.Client):
    """Requests whose responses are not read, and responses that are abandoned midway."""
    tally = Tally(app)
    upload = http.post(f"{app.api}/upload", files={"files": ("a.png", b"no photo")}).json()[0]
    for number in range(10):
        body = {"data": [{"path": upload}, SETTINGS.default_model, 1]}
        if number % 2:
            event = http.post(f"{app.api}/call/predict", json=body).json()["event_id"]
            tally.send(http, "GET", f"{app.api}/call/predict/{event}")
            tally.send(http, "GET", f"{app.api}/call/predict/{event}")
        else:
            body |= {"fn_index": 0, "session_hash": f"left{number}"}
            tally.send(http, "POST", f"{app.api}/queue/join", json=body)
            tally.send(http, "GET", f"{app.api}/queue/data?session_hash=left{number}")
        tally.send(http, "GET", f"{app.api}/heartbeat/left{number}")
        given = {"session_hash": f"left{number}", "fn_index": 0, "event_id": "none"}
        tally.send(http, "POST", f"{app.api}/cancel", json=given)
        tally.send(http, "POST", f"{app.api}/cancel", json={**given, "event_id": 5})
    tally.check()
    with http.stream("GET", f"{app.api}/queue/data?session_hash=left1") as answer:
        assert answer.status_code in (200, 404)
    assert json.loads(http.get(f"{app.url}/config").text)["version"]


def test_after_all_of_this_it_ends_with_a_signal(app: RunningApp, http: httpx.Client):
    assert http.get(app.url).status_code == 200
    app.process.send_signal(signal.SIGTERM)
    assert app.process.wait(20) == 0
    assert "has ended" in app.log()
