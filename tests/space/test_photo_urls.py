"""Photos by URL: from public addresses only, limited in bytes and time."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cam_hub.errors import ImageRefused
from space.config.settings import PhotoRules
from space.service.photos import check_url, fetch_photo, is_public, look_up, read_photo, url_name
from tests.fakes.photo_server import PhotoServer, serve_photos

PHOTO = b"\xff\xd8 the bytes of a photo"
HERE = PhotoRules(loopback=True, max_bytes=1_000_000, read_seconds=0.4, total_seconds=1.0)
"""Settings for a server on this machine, with short timeouts."""


@pytest.fixture(scope="module")
def server() -> Iterator[PhotoServer]:
    with serve_photos(PHOTO) as running:
        yield running


class Names:
    """A resolver that returns the next of some results each time, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0)


# Valid URLs


def test_a_photo_arrives_byte_for_byte_whatever_it_is_declared_to_be(server: PhotoServer):
    heard: list[int] = []
    assert fetch_photo(f"{server.address}/cat.jpg?size=big", HERE, heard.append) == PHOTO
    assert server.asked[-1] == "/cat.jpg?size=big"
    assert heard[-1] == len(PHOTO)
    assert server.headers["Host"] == server.address.removeprefix("http://")
    assert server.headers["User-Agent"].startswith("cam_hub/")


def test_redirects_are_followed_also_relative_ones(server: PhotoServer):
    server.elsewhere = "cat.jpg"
    assert fetch_photo(f"{server.address}/to", HERE) == PHOTO


def test_the_proxies_of_the_environment_are_not_asked(server: PhotoServer, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.3:9")
    assert fetch_photo(f"{server.address}/cat.jpg", HERE) == PHOTO


def test_over_ipv6(monkeypatch):
    with serve_photos(PHOTO, "::1") as server:
        assert fetch_photo(f"{server.address}/cat.jpg", HERE) == PHOTO


def test_an_address_that_does_not_answer_gives_way_to_the_next(server: PhotoServer):
    names = Names(["127.0.0.9", "127.0.0.2"])
    rules = replace(HERE, resolve=names)
    assert fetch_photo(f"http://photos.example:{server.port}/cat.jpg", rules) == PHOTO


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The certificates of a server at photos.example, and of a client that trusts it."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "photos.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("photos.example")]), False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificates")
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "both.pem").write_bytes(secret + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "both.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


def test_a_certificate_must_be_of_the_host_that_was_named_not_of_its_address(certificates):
    of_server, trust = certificates
    with serve_photos(PHOTO, tls=of_server) as server:
        for host, works in (("photos.example", True), ("elsewhere.example", False)):
            rules = replace(HERE, resolve=Names(["127.0.0.2"]), trust=trust)
            url = f"https://{host}:{server.port}/cat.jpg"
            if works:
                assert fetch_photo(url, rules) == PHOTO
            else:
                with pytest.raises(ImageRefused, match="could not be fetched"):
                    fetch_photo(url, rules)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",  # the metadata service of clouds
        "168.63.129.16",
        "100.64.0.1",  # shared by the customers of a provider
        "0.0.0.0",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "192.88.99.1",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",  # 127.0.0.1 by NAT64
        "64:ff9b:1::1",
        "2002:7f00:1::",  # 127.0.0.1 by 6to4
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
        "2606:2800:220:1:0:5efe:10.0.0.1",  # 10.0.0.1 by ISATAP
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "100::1",
        "no address",
        "",
    ],
)
def test_what_only_some_can_reach_is_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.215.14",
        "8.8.8.8",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2606:2800:21f:cb07:6820:80da:af6b:8b2c",
        "2002:808:808::1",
    ],
)
def test_globally_reachable_addresses_are_public(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2",
        "localhost",
        "2130706434",
        "0x7f000002",
        "0177.0.0.2",
        "127.2",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "[::ffff:7f00:2]",
        "0",
        "[::]",
    ],
)
def test_no_spelling_of_this_machine_is_contacted(server: PhotoServer, host: str):
    before = len(server.asked)
    strict = replace(HERE, loopback=False)
    with pytest.raises(ImageRefused, match=r"only 80 and 443|is not a URL"):
        fetch_photo(f"http://{host}:{server.port}/cat.jpg", strict)
    with pytest.raises(ImageRefused, match=r"does not lead to a public address|is not a URL"):
        fetch_photo(f"http://{host}/cat.jpg", strict)
    assert len(server.asked) == before


def test_a_host_with_one_private_address_is_refused_whatever_else_it_has(server: PhotoServer):
    names = Names(["93.184.215.14", "127.0.0.2"])
    rules = PhotoRules(resolve=names)
    with pytest.raises(ImageRefused, match="public address"):
        fetch_photo("http://photos.example/cat.jpg", rules)


def test_a_host_is_resolved_once_and_the_connection_uses_the_result(server: PhotoServer):
    # The second result would lead to another machine, as in DNS rebinding.
    names = Names(["127.0.0.2"], ["127.0.0.1"])
    rules = replace(HERE, resolve=names)
    assert fetch_photo(f"http://photos.example:{server.port}/cat.jpg", rules) == PHOTO
    assert names.asked == ["photos.example"]


def test_an_unknown_host_and_a_private_one_get_the_same_words():
    def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    told = []
    for resolve in (unknown, Names(["10.0.0.1"])):
        with pytest.raises(ImageRefused) as caught:
            fetch_photo("http://intranet/cat.jpg", PhotoRules(resolve=resolve))
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert "10.0.0.1" not in told[0]


def test_a_redirect_to_a_private_address_is_not_followed(server: PhotoServer):
    # The first host is resolved to this machine, as if it were public.
    names = Names(["127.0.0.2"], ["10.0.0.1"])
    server.elsewhere = f"http://intranet:{server.port}/secret"
    with pytest.raises(ImageRefused, match="public address"):
        fetch_photo(f"http://photos.example:{server.port}/to", replace(HERE, resolve=names))
    assert names.asked == ["photos.example", "intranet"]


def test_a_redirect_to_another_scheme_is_not_followed(server: PhotoServer):
    for elsewhere in ("file:///etc/hostname", "ftp://127.0.0.2/a", "http://a:b@127.0.0.2/"):
        server.elsewhere = elsewhere
        with pytest.raises(ImageRefused, match="only"):
            fetch_photo(f"{server.address}/to", HERE)


def test_this_machines_own_addresses_are_not_public_in_any_notation(monkeypatch):
    # Every address of the loopback network belongs to this machine; here they count as public.
    monkeypatch.setattr("space.service.photos.is_public", lambda address: True)
    with pytest.raises(ImageRefused, match="public address"):
        fetch_photo("http://photos.example/a", PhotoRules(resolve=Names(["127.0.0.2"])))


# Timeouts


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/endless", "more than 1,000,000 bytes"),
        ("/drip", "did not arrive in time"),
        ("/drip-headers", "did not arrive in time"),
        ("/silent", "did not arrive in time"),
        ("/around", "redirected more than 5 times"),
        ("/nowhere", "status 404"),
        ("/cut", "could not be fetched"),
    ],
)
def test_what_does_not_come_as_a_photo_does_is_given_up_soon(
    server: PhotoServer, path: str, words: str
):
    begin = time.monotonic()
    with pytest.raises(ImageRefused, match=words):
        fetch_photo(server.address + path, HERE)
    assert time.monotonic() - begin < 2.5


def test_names_that_are_not_found_in_time_are_given_up():
    def slow(host: str, port: int) -> Sequence[str]:
        time.sleep(0.6)
        return look_up(host, port)

    with pytest.raises(ImageRefused, match="in time"):
        fetch_photo("http://photos.example/a", PhotoRules(resolve=slow, total_seconds=0.1))


def test_no_photo_is_fetched_for_a_client_that_has_left(server: PhotoServer):
    class LeftError(Exception):
        pass

    def left(arrived: int) -> None:
        raise LeftError

    with pytest.raises(LeftError):
        fetch_photo(f"{server.address}/endless", HERE, left)


# Invalid URLs of photos


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("file:///etc/passwd", "only http"),
        ("ftp://example.org/cat.jpg", "only http"),
        ("gopher://example.org/", "only http"),
        ("data:image/png;base64,AAAA", "only http"),
        ("//example.org/cat.jpg", "only http"),
        ("http:///cat.jpg", "no host"),
        ("http://", "no host"),
        ("https://me:secret@example.org/cat.jpg", "user name or password"),
        ("https://me@example.org/cat.jpg", "user name or password"),
        ("http://example.org:22/cat.jpg", "port 22"),
        ("https://example.org:8443/cat.jpg", "port 8443"),
        ("http://exa\nmple.org/", "not a URL"),
        ("http://example.org:port/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://example.org/" + "a" * 3000, "3019 characters"),
    ],
)
def test_an_invalid_url_is_refused_before_any_request(url: str, words: str):
    with pytest.raises(ImageRefused, match=words) as caught:
        check_url(url, PhotoRules())
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_urls_are_distinguished_from_other_texts():
    for url in ["http://example.org/b", "HTTPS://example.org", " https://example.org/a "]:
        assert read_photo(url, PhotoRules()).url is not None
    for url in ["file:///a", "data:image/png,", "s3://b"]:
        with pytest.raises(ImageRefused, match="http") as caught:
            read_photo(url, PhotoRules())
        assert "a text must be a URL" not in str(caught.value)
    for text in ["cat.jpg", "/tmp/cat.jpg", "a:b"]:
        with pytest.raises(ImageRefused, match="a text must be a URL"):
            read_photo(text, PhotoRules())


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/photos/cat.jpg?size=2", "cat.jpg"),
        ("https://example.org/", "photo"),
        ("https://example.org/a%2F..%2Fb%00.png", "b.png"),
        ("https://example.org/" + "x" * 300, "x" * 100),
        ("http://[", "photo"),
    ],
)
def test_a_photo_is_called_after_the_end_of_its_url(url: str, name: str):
    assert url_name(url) == name
