from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from runtime.errors import DigestMismatch, ImagePullFailed, InvalidArgument, RegistryRefused, RegistryUnavailable
from runtime.image.auth import Credentials, decode_auth
from runtime.image.cancellation import Cancellation
from runtime.image.content import digest_of
from runtime.image.manifest import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from runtime.image.mirrors import Mirrors
from runtime.image.reference import parse_reference
from runtime.image.registry import Registry, Repository
from tests.support.registry import CERTIFICATE, faulty_registry, reply

CONTENT = b'{"schemaVersion":2}'


@contextmanager
def opened(
    name: str, registry: Registry | None = None, *, credentials: Credentials | None = None, push: bool = False
) -> Iterator[Repository]:
    with (
        Cancellation() as cancellation,
        (registry or Registry()).open(parse_reference(name), cancellation, credentials=credentials, push=push) as repository,
    ):
        yield repository


class Recording:
    """A registry that wants a token, and the token server beside it; what they were asked."""

    def __init__(self, *, oauth2: bool = True, answer: dict[str, Any] | None = None, status: int = 200) -> None:
        self.oauth2 = oauth2
        self.answer = {"token": "t0k"} if answer is None else answer
        self.status = status
        self.asked: list[tuple[str, str, str | None]] = []
        self.forms: list[dict[str, list[str]]] = []
        self.queries: list[dict[str, list[str]]] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        self.asked.append((request.command, parts.path, request.headers["Authorization"]))
        if parts.path == "/token":
            self.token(request, parts.query)
        elif request.headers["Authorization"] != "Bearer t0k":
            realm = f"http://{request.headers['Host']}/token"
            challenge = f'Bearer realm="{realm}",service="test",scope="repository:x:pull"'
            reply(request, 401, b'{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}', WWW_Authenticate=challenge)
        else:
            reply(request, 200, CONTENT, Content_Type=OCI_MANIFEST, Docker_Content_Digest=digest_of(CONTENT))

    def token(self, request: BaseHTTPRequestHandler, query: str) -> None:
        if request.command == "POST":
            self.forms.append(parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode()))
            if not self.oauth2:
                reply(request, 405)
                return
        else:
            self.queries.append(parse_qs(query))
        reply(request, self.status, json.dumps(self.answer).encode())


def test_an_anonymous_token_is_fetched_once() -> None:
    server, registry = Recording(), Registry()
    with faulty_registry(server) as address:
        for _ in range(2):
            with opened(f"{address}/x", registry) as repository:
                assert repository.head("latest") == digest_of(CONTENT)
                assert repository.manifest("latest").content == CONTENT
    assert server.queries == [{"scope": ["repository:x:pull"], "service": ["test"]}]
    assert [path for _, path, _ in server.asked].count("/token") == 1


def test_a_password_by_oauth2() -> None:
    server = Recording()
    with faulty_registry(server) as address, opened(f"{address}/x", credentials=Credentials("u", "p")) as repository:
        repository.head("latest")
    (form,) = server.forms
    assert (form["grant_type"], form["username"], form["password"], form["scope"]) == (
        ["password"],
        ["u"],
        ["p"],
        ["repository:x:pull"],
    )
    assert server.queries == []


def test_a_password_by_get_where_oauth2_is_unknown() -> None:
    server = Recording(oauth2=False, answer={"access_token": "t0k", "expires_in": 300})
    with faulty_registry(server) as address, opened(f"{address}/x", credentials=Credentials("u", "p")) as repository:
        repository.head("latest")
    basic = "Basic " + base64.b64encode(b"u:p").decode()
    assert ("GET", "/token", basic) in server.asked


def test_an_identity_token_is_a_refresh_token() -> None:
    server = Recording()
    with faulty_registry(server) as address, opened(f"{address}/x", credentials=Credentials(identity_token="id")) as repository:
        repository.head("latest")
    assert (server.forms[0]["grant_type"], server.forms[0]["refresh_token"]) == (["refresh_token"], ["id"])


def test_a_registry_token_is_shown_as_it_is() -> None:
    server = Recording()
    with faulty_registry(server) as address, opened(f"{address}/x", credentials=Credentials(registry_token="t0k")) as repository:
        repository.head("latest")
    assert not any(path == "/token" for _, path, _ in server.asked)


def test_push_asks_for_more() -> None:
    server = Recording()
    with faulty_registry(server) as address, opened(f"{address}/x", push=True) as repository:
        repository.head("latest")
    assert server.queries[0]["scope"] == ["repository:x:pull", "repository:x:pull,push"]


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        ({}, 403, r"the token server 127.0.0.1:.* refused without credentials \(HTTP 403\)"),
        ({"token": ""}, 200, "cannot be used: no token"),
        ({"token": "a\r\nX: y"}, 200, "not printable ASCII"),
        ({"token": "wrong"}, 200, r"access refused without credentials: who are you \(HTTP 401\)"),
    ],
)
def test_a_token_that_is_not_given_or_no_good(answer: dict[str, Any], status: int, why: str) -> None:
    server = Recording(answer=answer, status=status)
    with faulty_registry(server) as address, opened(f"{address}/x") as repository, pytest.raises(RegistryRefused, match=why):
        repository.manifest("latest")


def challenge(text: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda request: reply(request, 401, WWW_Authenticate=text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('Bearer realm="http://tokens.example/t"', "token server 'http://tokens.example/t' is not reached over TLS"),
        ('Bearer realm="ftp://x/"', "not reached over TLS"),
        ("Bearer", "not reached over TLS"),
        ('Bearer realm="http://[x"', "is no address"),
        ("Negotiate", "offers negotiate"),
        ("", "offers no way to do so"),
    ],
)
def test_secrets_go_nowhere_unsafe(text: str, why: str) -> None:
    credentials = Credentials("u", "p")
    with (
        faulty_registry(challenge(text)) as address,
        opened(f"{address}/x", credentials=credentials) as repository,
        pytest.raises(RegistryRefused, match=why),
    ):
        repository.manifest("latest")


def test_many_threads_share_one_token() -> None:
    server, registry = Recording(), Registry()
    with faulty_registry(server) as address:

        def work() -> None:
            with opened(f"{address}/x", registry) as repository:
                repository.head("latest")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.queries) == 1


def test_authorization_stays_with_whom_it_was_meant_for() -> None:
    seen: list[str | None] = []

    def elsewhere(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers["Authorization"])
        reply(request, 200, b"blob")

    with faulty_registry(elsewhere) as other:

        def here(request: BaseHTTPRequestHandler) -> None:
            if request.headers["Authorization"] is None:
                reply(request, 401, WWW_Authenticate="Basic realm=x")
            elif request.path.endswith("sha256:" + "0" * 64):
                reply(request, 307, Location=f"http://{other}/away")
            else:
                reply(request, 302, Location="/v2/x/blobs/sha256:" + "0" * 64)

        blob = Descriptor(media_type="", digest="sha256:" + "1" * 64, size=4)
        with faulty_registry(here) as address, opened(f"{address}/x", credentials=Credentials("u", "p")) as repository:
            assert b"".join(repository.blob(blob)) == b"blob"
    assert seen == [None]


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://elsewhere.example/x", "not reached over TLS"),
        ("file:///etc/passwd", "not reached over TLS"),
        ("http://[x", "is no address"),
        ("/v2/again", "more than 10"),
    ],
)
def test_redirects_that_are_not_followed(location: str, why: str) -> None:
    with (
        faulty_registry(lambda request: reply(request, 302, Location=location)) as address,
        opened(f"{address}/x") as repository,
        pytest.raises(RegistryRefused, match=why),
    ):
        repository.manifest("latest")


def test_all_media_types_are_asked_for() -> None:
    accepted: list[str] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        accepted.append(request.headers["Accept"])
        reply(request, 200, CONTENT)

    with faulty_registry(handle) as address, opened(f"{address}/x") as repository:
        assert repository.head("latest") is None  # no digest in the answer
        assert repository.manifest("latest").digest == digest_of(CONTENT)
    assert all(set(value.split(", ")) == {OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST} for value in accepted)


@pytest.mark.parametrize("status", [404, 405])
def test_a_registry_without_head(status: int) -> None:
    def handle(request: BaseHTTPRequestHandler) -> None:
        reply(request, status if request.command == "HEAD" else 200, CONTENT)

    with faulty_registry(handle) as address, opened(f"{address}/x") as repository:
        assert repository.head("latest") is None
        assert repository.manifest("latest").content == CONTENT


def test_a_manifest_is_what_its_digest_says() -> None:
    with faulty_registry(lambda request: reply(request, 200, CONTENT)) as address, opened(f"{address}/x") as repository:
        assert repository.manifest(digest_of(CONTENT)).content == CONTENT
        with pytest.raises(DigestMismatch, match="what came has digest"):
            repository.manifest("sha256:" + "0" * 64)


def test_a_manifest_has_an_end() -> None:
    with (
        faulty_registry(lambda request: reply(request, 200, bytes(5 << 20))) as address,
        opened(f"{address}/x") as repository,
        pytest.raises(ImagePullFailed, match="more than 4194304"),
    ):
        repository.manifest("latest")


def test_patience_as_long_as_the_registry_asks() -> None:
    asked: list[str] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.command)
        if len(asked) < 3:
            reply(request, 429, Retry_After="0")
        else:
            reply(request, 200, CONTENT)

    with faulty_registry(handle) as address, opened(f"{address}/x") as repository:
        assert repository.manifest("latest").content == CONTENT
    assert len(asked) == 3
    asked.clear()
    with (
        faulty_registry(lambda request: reply(request, 429, Retry_After="86400")) as address,
        opened(f"{address}/x") as repository,
        pytest.raises(RegistryUnavailable, match="too many requests without credentials, try again later"),
    ):
        repository.manifest("latest")


def test_credentials_are_not_shown_to_a_mirror() -> None:
    seen: list[str | None] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers["Authorization"])
        reply(request, 401, WWW_Authenticate="Basic realm=x")

    with faulty_registry(handle) as address:
        registry = Registry(mirrors={"registry.example": Mirrors((f"http://{address}/",))})
        with (
            opened("registry.example/x", registry, credentials=Credentials("u", "p")) as repository,
            pytest.raises(RegistryRefused, match="none were given"),
        ):
            repository.manifest("latest")
        assert seen == [None]
        ours = Credentials("u", "p", server_address=address)
        with opened("registry.example/x", registry, credentials=ours) as repository, pytest.raises(RegistryRefused):
            repository.manifest("latest")
    assert seen[-1] is not None


def test_tls_with_a_certificate_that_is_trusted_and_one_that_is_not() -> None:
    with faulty_registry(lambda request: reply(request, 200, CONTENT), tls=True) as address:
        mirrors = {"registry.example": Mirrors((f"https://{address}",))}
        with opened("registry.example/x", Registry(mirrors=mirrors, certificates=CERTIFICATE)) as repository:
            assert repository.manifest("latest").content == CONTENT
        with (
            opened("registry.example/x", Registry(mirrors=mirrors)) as repository,
            pytest.raises(RegistryUnavailable, match=r"^RegistryUnavailable: 127.0.0.1:\d+: TLS: self.signed certificate"),
        ):
            repository.manifest("latest")


def test_a_server_without_tls_is_told_apart() -> None:
    with (
        faulty_registry(lambda request: reply(request, 200, CONTENT)) as address,
        opened("registry.example/x", Registry(mirrors={"registry.example": Mirrors((f"https://{address}",))})) as repository,
        pytest.raises(RegistryUnavailable, match=r"TLS: .*; a registry without TLS must be configured as such"),
    ):
        repository.manifest("latest")


@pytest.mark.parametrize(
    ("name", "plain", "base"),
    [
        ("busybox", (), "https://registry-1.docker.io"),
        ("localhost:5000/x", (), "http://localhost:5000"),
        ("[::1]:5000/x", (), "http://[::1]:5000"),
        ("127.0.0.2/x", (), "http://127.0.0.2"),
        ("127.evil.example/x", (), "https://127.evil.example"),
        ("registry.example:80/x", ("registry.example:80",), "http://registry.example:80"),
        ("registry.example:80/x", ("registry.example",), "http://registry.example:80"),
        ("registry.example/x", ("registry.example:80",), "https://registry.example"),
    ],
)
def test_plain_http_only_where_it_was_allowed(name: str, plain: tuple[str, ...], base: str) -> None:
    with opened(name, Registry(plain_hosts=plain)) as repository:
        assert repository.root.startswith(f"{base}/v2/")


def test_credentials_belong_to_a_host() -> None:
    hub = Credentials("u", "p", server_address="https://index.docker.io/v1/")
    assert hub.fits("docker.io")
    assert not hub.fits("quay.io")
    assert Credentials("u", "p", server_address="Quay.IO").fits("quay.io")
    assert Credentials("u", "p").fits("quay.io")
    assert "p@ss" not in repr(Credentials("u", "p@ss", "p@ss", "p@ss"))


def test_docker_s_auth_field() -> None:
    assert decode_auth(base64.b64encode(b"name:pass:word\0\0").decode()) == ("name", "pass:word")
    for text in [
        "",
        "ä",
        "*",
        base64.b64encode(b"nocolon").decode(),
        base64.b64encode(b":p").decode(),
        base64.b64encode(b"\xff:x").decode(),
    ]:
        with pytest.raises(InvalidArgument):
            decode_auth(text)


def test_a_token_cannot_bring_a_header_of_its_own() -> None:
    credentials = Credentials(registry_token="t0k\r\nX-Evil: 1")
    with (
        faulty_registry(Recording()) as address,
        opened(f"{address}/x", credentials=credentials) as repository,
        pytest.raises(RegistryRefused, match="not printable ASCII"),
    ):
        repository.head("latest")
