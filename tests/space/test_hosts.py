"""Known hosts only: the names that the app serves, and the pages that may send it requests."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from space.app.request_guard import (
    Authority,
    KnownHosts,
    RequestGuard,
    read_authority,
    read_origin,
)
from space.config.settings import Settings

LOCAL = Settings(device="cpu")
EVERYWHERE = replace(LOCAL, host="0.0.0.0")
SPACE = replace(EVERYWHERE, space_id="Owner/My_Space.2", space_host="")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", Authority("localhost")),
        ("LocalHost.:7860", Authority("localhost", "7860")),
        ("example.org:80", Authority("example.org")),
        ("example.org:443", Authority("example.org")),
        ("[::1]:7860", Authority("::1", "7860")),
        ("[::1]", Authority("::1")),
        ("::1", None),
        ("", None),
        (":80", None),
        (".", None),
        ("a b", None),
        ("a:b", None),
        ("a:1:2", None),
        ("user@localhost", None),
        ("localhost/x", None),
        ("[::1", None),
        ("[::g]", None),
        ("a\x1b[31m", None),
        ("\u0661", None),
    ],
)
def test_a_host_is_read(text: str, expected: Authority | None):
    assert read_authority(text) == expected


@pytest.mark.parametrize("text", ["null", "", "file://", "chrome-extension://abc", "http://"])
def test_an_invalid_origin_of_a_site_is_none(text: str):
    assert read_origin(text) is None


def serves(settings: Settings, host: str) -> bool:
    return not KnownHosts.of(settings).refusal(Headers({"host": host}))


LOOPBACK = ["localhost", "localhost:1", "127.0.0.1:7860", "127.9.9.9", "[::1]:7860", "LOCALHOST."]
STRANGERS = ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "2130706433", "0", "é"]


@pytest.mark.parametrize("settings", [LOCAL, EVERYWHERE, SPACE], ids=["local", "all", "Space"])
def test_loopback_is_always_known_and_strange_names_never(settings: Settings):
    assert all(serves(settings, host) for host in LOOPBACK)
    assert not any(serves(settings, host) for host in STRANGERS)


def test_the_address_that_the_app_listens_on_is_known():
    assert serves(replace(LOCAL, host="192.168.1.5"), "192.168.1.5:7860")
    assert serves(replace(LOCAL, host="fd00::5"), "[fd00::5]:7860")
    assert serves(replace(LOCAL, host="lab"), "LAB:7860")
    assert not serves(LOCAL, "192.168.1.5:7860")


def test_an_app_on_all_addresses_is_reached_by_any_and_by_the_machines_name():
    assert serves(EVERYWHERE, "192.168.1.5:7860")
    assert serves(EVERYWHERE, "[fd00::5]")
    assert serves(EVERYWHERE, socket.gethostname())
    assert not serves(EVERYWHERE, f"{socket.gethostname()}.evil.example")


@pytest.mark.parametrize("named", ["", "owner-my-space-2.hf.space"])
def test_a_space_answers_under_its_own_host(named: str):
    settings = replace(SPACE, space_host=named)
    assert serves(settings, "owner-my-space-2.hf.space")
    assert not serves(settings, "other.hf.space")


def test_further_hosts_are_known_with_their_port_or_with_any():
    settings = replace(LOCAL, allowed_hosts=("cam.example.org", "proxy.example.org:8443"))
    assert serves(settings, "cam.example.org:99")
    assert serves(settings, "proxy.example.org:8443")
    assert not serves(settings, "proxy.example.org:9")


def test_two_hosts_and_a_proxys_strange_one_are_refused():
    known = KnownHosts.of(LOCAL)
    assert known.refusal(Headers(raw=[(b"host", b"localhost")] * 2))
    assert known.refusal(Headers({"host": "localhost", "x-forwarded-host": "evil.example, x"}))
    assert "--allowed-hosts evil.example" in known.refusal(Headers({"host": "evil.example"}))
    assert not known.refusal(Headers({}))  # HTTP/1.0 from a program; no browser sends that


def foreign(method: str, path: str = "/upload", **headers: str) -> bool:
    named = {"host": "localhost:7860"} | {k.replace("_", "-"): v for k, v in headers.items()}
    settings = replace(LOCAL, allowed_hosts=("lab.example.org",))
    return KnownHosts.of(settings).is_foreign(Headers(named), method, path)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:7860", False),
        ("https://LOCALHOST:7860", False),
        ("https://lab.example.org", False),
        ("http://localhost:3000", True),
        ("http://127.0.0.1:7860", True),
        ("https://evil.example", True),
        ("https://lab.example.org.evil.example", True),
        ("null", True),
        ("", True),
    ],
)
def test_an_origin_must_be_the_page_or_trusted(method: str, origin: str, expected: bool):
    assert foreign(method, origin=origin) is expected


def test_without_an_origin_the_fetch_metadata_of_the_browser_count():
    assert not foreign("POST")
    assert not foreign("POST", sec_fetch_site="same-origin")
    assert not foreign("POST", sec_fetch_site="none")
    assert foreign("POST", sec_fetch_site="cross-site")
    assert foreign("POST", sec_fetch_site="same-site", sec_fetch_mode="navigate")
    # A link to the page, and huggingface.co's frame around a Space.
    assert not foreign("GET", "", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    assert not foreign("GET", "/file=x", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")
    assert foreign("GET", "/queue/data", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")


def test_only_a_trusted_site_may_read_responses():
    async def page(scope: Any, receive: Any, send: Any) -> None:
        assert not [value for name, value in scope["headers"] if name == b"origin"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})

    guarded = RequestGuard(
        page,
        hosts=KnownHosts.of(replace(LOCAL, allowed_hosts=("lab.example.org",))),
        has_session=lambda session: True,
        has_event=lambda event: True,
        max_body=100,
        max_message=100,
        max_upload=100,
    )

    async def ask(method: str, origin: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=guarded)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            headers = {"Origin": origin, "Access-Control-Request-Headers": "content-type"}
            return await http.request(method, "/config", headers=headers)

    for method, status in (("GET", 200), ("OPTIONS", 204)):
        answer = asyncio.run(ask(method, "https://lab.example.org"))
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://lab.example.org"
        assert "Origin" in answer.headers["vary"]
        answer = asyncio.run(ask(method, "https://evil.example"))
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
