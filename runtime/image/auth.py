"""Who we are to a registry: nobody, a name and password, or a token got with them.

Credentials go to the registry that the image is named after, and to the token server it names; never
to a mirror, never along a redirect, never over plain HTTP to a host that was not configured so.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from runtime.errors import InvalidArgument, RegistryRefused
from runtime.image.challenge import Challenge
from runtime.image.wire import Wire

#: A token without a lifetime lives this long (distribution spec, token authentication).
TOKEN_SECONDS = 60
TOKEN_LIMIT = 1 << 20
#: Answers by which token servers say that they know GET only (GCR, Artifactory, ACR among them).
NO_OAUTH2 = frozenset({400, 401, 404, 405})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a pull was given.  ``repr`` shows no secret.

    *identity_token* is a refresh token, *registry_token* a bearer token as it is.  *server_address*,
    when given, must be the image's registry, else the credentials are not used.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""

    def fits(self, host: str) -> bool:
        """Whether these are for the registry *host*."""
        if not self.server_address:
            return True
        address = self.server_address if "//" in self.server_address else f"//{self.server_address}"
        named = urlsplit(address).netloc.lower()
        hub = {"docker.io", "index.docker.io", "registry-1.docker.io"}
        return named == host.lower() or (named in hub and host in hub)

    @property
    def basic(self) -> str | None:
        """The Basic header, when there is a name."""
        if not self.username:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def decode_auth(text: str) -> tuple[str, str]:
    """Name and password in Docker's ``auth`` field (base64 of "name:password"); raises InvalidArgument."""
    try:
        name, colon, password = base64.b64decode(text, validate=True).decode().strip("\0").partition(":")
    except ValueError:  # not ASCII, not base64, not UTF-8
        name, colon, password = "", "", ""
    if not colon or not name:
        raise InvalidArgument('credentials: auth is not the base64 of "name:password"')
    return name, password


@dataclass(frozen=True, slots=True)
class Access:
    """What is asked for, of whom and as whom: the key of a token."""

    base: str
    scope: str
    credentials: Credentials | None


@dataclass(slots=True)
class _Token:
    header: str | None = None
    expires_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Tokens:
    """Authorization headers by registry, scope and credentials; each is fetched once for all who wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[Access, _Token] = {}

    def known(self, access: Access) -> str | None:
        """A header that worked and should still."""
        token = self._token(access)
        return token.header if time.monotonic() < token.expires_at else None

    def answer(self, wire: Wire, challenges: list[Challenge], access: Access, *, stale: str | None) -> str:
        """A header that answers *challenges*, other than *stale*, which was just refused; raises RegistryRefused."""
        token = self._token(access)
        with token.lock:
            if token.header is not None and token.header != stale and time.monotonic() < token.expires_at:
                return token.header
            token.header, seconds = _answer(wire, challenges, access)
            token.expires_at = time.monotonic() + seconds * 0.9
            return token.header

    def _token(self, access: Access) -> _Token:
        with self._lock:
            if len(self._tokens) > 1000:
                self._tokens.clear()
            return self._tokens.setdefault(access, _Token())


def _answer(wire: Wire, challenges: list[Challenge], access: Access) -> tuple[str, float]:
    """A header for the best scheme that was offered, and for how many seconds it is good."""
    credentials = access.credentials
    by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
    if "bearer" in by_scheme:
        if credentials is not None and credentials.registry_token:
            return f"Bearer {_printable(credentials.registry_token)}", TOKEN_SECONDS
        return _fetch_token(wire, by_scheme["bearer"].parameters, access.scope, credentials)
    if "basic" in by_scheme:
        header = None if credentials is None else credentials.basic
        if header is None:
            raise RegistryRefused("the registry wants a name and password, and none were given for it")
        return header, 3600.0
    offered = ", ".join(challenge.scheme for challenge in challenges) or "no way to do so"
    raise RegistryRefused(f"the registry wants to know who we are, but offers {offered}")


def _fetch_token(wire: Wire, parameters: dict[str, str], scope: str, credentials: Credentials | None) -> tuple[str, float]:
    realm = parameters.get("realm", "")
    wire.require_safe(realm, "token server")
    scopes = sorted({scope, *parameters.get("scope", "").split()})
    query = [("scope", one) for one in scopes]
    if "service" in parameters:
        query.append(("service", parameters["service"]))
    secret = credentials is not None and (credentials.identity_token or credentials.password)
    status, body = 405, b""
    if credentials is not None and secret:
        status, body = _post(wire, realm, " ".join(scopes), parameters.get("service", ""), credentials)
    if status in NO_OAUTH2 and not (credentials is not None and credentials.identity_token):
        headers = {} if credentials is None or credentials.basic is None else {"Authorization": credentials.basic}
        glue = "&" if urlsplit(realm).query else "?"
        response = wire.request("GET", f"{realm}{glue}{urlencode(query)}", headers)
        status, body = response.status, wire.read(response, TOKEN_LIMIT, realm)
    if status != 200:
        who = "without credentials" if not secret else "with the credentials given"
        raise RegistryRefused(f"the token server {urlsplit(realm).netloc} refused {who} (HTTP {status})")
    return _parse_token(body)


def _post(wire: Wire, realm: str, scope: str, service: str, credentials: Credentials) -> tuple[int, bytes]:
    """The OAuth2 way (distribution, token/oauth)."""
    form = {"client_id": "kernelet", "scope": scope, "service": service}
    if credentials.identity_token:
        form |= {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
    else:
        form |= {"grant_type": "password", "username": credentials.username, "password": credentials.password}
    response = wire.request("POST", realm, {}, fields=urlencode(form))
    return response.status, wire.read(response, TOKEN_LIMIT, realm)


def _parse_token(body: bytes) -> tuple[str, float]:
    try:
        answer: Any = json.loads(body)
        token = answer.get("token") or answer.get("access_token")
        seconds = answer.get("expires_in") or TOKEN_SECONDS
        if not isinstance(token, str) or not token:
            raise ValueError("no token in it")
        return f"Bearer {_printable(token)}", max(float(seconds), float(TOKEN_SECONDS))
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise RegistryRefused(f"the token server's answer cannot be used: {error}") from None


def _printable(token: str) -> str:
    """*token*, if it can stand in a header; one with a line break would begin a header of its own."""
    if not token.isascii() or not token.isprintable():
        raise RegistryRefused("a token that is not printable ASCII")
    return token
