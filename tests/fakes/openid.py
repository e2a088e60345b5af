"""An OpenID provider on loopback, as the Hub is for its Spaces; and a sign-in with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx

from tests.fakes.hub import Reply

CLIENT = "the-space"


@dataclass
class Provider:
    """The next person to sign in, and the data that the app receives.

    Attributes:
        address: Its URL.
        tokens: The access token that each person gives to the app, by name.
        person: The person at the browser.
    """

    address: str = ""
    tokens: dict[str, str] = field(default_factory=dict)
    person: str = ""

    def answer(self, path: str, query: dict[str, str]) -> Reply:
        """The response to a request."""
        if path == "/.well-known/openid-configuration":
            return Reply.json(
                {
                    "issuer": self.address,
                    "authorization_endpoint": f"{self.address}/oauth/authorize",
                    "token_endpoint": f"{self.address}/oauth/token",
                    "jwks_uri": f"{self.address}/keys",
                    "id_token_signing_alg_values_supported": ["RS256"],
                }
            )
        if path == "/keys":
            return Reply.json({"keys": [_key().as_dict(private=False)]})
        if path == "/oauth/authorize":
            # The person agrees at once.
            granted = {"code": f"{self.person} {query['nonce']}", "state": query["state"]}
            joint = "&" if "?" in query["redirect_uri"] else "?"
            return Reply(302, {"Location": query["redirect_uri"] + joint + urlencode(granted)})
        person, nonce = query["code"].split()
        return Reply.json(
            {
                "access_token": self.tokens[person],
                "token_type": "bearer",
                "expires_in": 3600,
                "scope": "openid profile read-repos gated-repos",
                "id_token": self._signed(person, nonce),
            }
        )

    def _signed(self, person: str, nonce: str) -> str:
        from joserfc import jwt

        now = int(time.time())
        facts: dict[str, Any] = {"iss": self.address, "sub": person, "aud": CLIENT, "nonce": nonce}
        facts |= {"iat": now, "exp": now + 3600, "name": person, "preferred_username": person}
        facts |= {"profile": f"{self.address}/{person}", "picture": f"{self.address}/{person}.png"}
        return jwt.encode({"alg": "RS256", "kid": "1"}, facts, _key())


_KEYS: list[Any] = []


def _key() -> Any:
    from joserfc.jwk import RSAKey

    if not _KEYS:
        _KEYS.append(RSAKey.generate_key(2048, {"kid": "1", "use": "sig"}, private=True))
    return _KEYS[0]


@contextmanager
def serve_provider() -> Iterator[Provider]:
    """Runs it in a thread."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            target = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            query = {name: values[0] for name, values in parse_qs(target.query or body).items()}
            reply = provider.answer(target.path, query)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    provider.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sign_in(url: str, provider: Provider, person: str) -> str:
    """Follows the redirects of a browser that signs in; returns the cookie of its session.

    This is done by hand, since clients do not send cookies that are marked as secure over plain
    HTTP.
    """
    provider.person = person
    begun = httpx.get(f"{url}login/huggingface", params={"_target_url": "/"})
    cookie = begun.headers["Set-Cookie"].partition(";")[0]
    allowed = httpx.get(begun.headers["Location"])
    done = httpx.get(allowed.headers["Location"], headers={"Cookie": cookie})
    assert done.is_redirect and urlsplit(done.headers["Location"]).path == "/"
    return str(done.headers["Set-Cookie"].partition(";")[0])
