"""A registry, asked for manifests and blobs (OCI distribution spec 1.1).

``Registry`` is the node's: mirrors, certificates, tokens.  ``open`` gives a ``Repository``, one
operation on one name, whose sockets end with it.  Nothing a registry says is believed before it was
hashed; a digest it only announces serves to ask whether we have that already.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from runtime.errors import DigestMismatch, ImagePullFailed, RegistryRefused, RegistryUnavailable
from runtime.image import retry
from runtime.image.auth import Access, Credentials, Tokens
from runtime.image.cancellation import Cancellation
from runtime.image.challenge import parse_challenges
from runtime.image.content import CHUNK, digest_of
from runtime.image.manifest import INDEX_TYPES, MANIFEST_LIMIT, MANIFEST_TYPES, Descriptor
from runtime.image.mirrors import Endpoint, Mirrors, Routes
from runtime.image.reference import DEFAULT_DOMAIN, Reference, is_digest
from runtime.image.wire import READ_SECONDS, Wire, is_loopback, unavailable

#: Without these a registry may answer with schema 1, or not at all.
ACCEPT = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
DOCKER_HUB = "registry-1.docker.io"
REDIRECTS = 10
#: How often in a row a blob may break off without a byte of progress.
STALLS = 3


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document as it came; its digest is that of the bytes."""

    content: bytes
    media_type: str | None
    digest: str


class Registry:
    """How this node reaches registries.

    *mirrors* are asked in a registry's place, by its host, for pulls only.
    *plain_hosts* ("host" or "host:port") may be spoken to over HTTP, as loopback addresses may.
    *certificates* is a file of authorities trusted beside the system's.
    """

    def __init__(
        self,
        *,
        mirrors: Mapping[str, Mirrors] | None = None,
        plain_hosts: Collection[str] = (),
        certificates: Path | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.tokens = Tokens()
        self._routes = Routes(mirrors or {})
        self._plain_hosts = frozenset([*plain_hosts, *self._routes.plain_hosts()])
        self._certificates = certificates
        self._read_seconds = read_seconds
        self._context: ssl.SSLContext | None = None

    def endpoints(self, reference: Reference) -> list[Endpoint]:
        """Who is asked for *reference*, in order; at least one."""
        return self._routes.to(reference.domain, self._base(reference.domain))

    @contextmanager
    def open(
        self,
        reference: Reference,
        cancellation: Cancellation,
        *,
        endpoint: Endpoint | None = None,
        credentials: Credentials | None = None,
        push: bool = False,
    ) -> Iterator[Repository]:
        """The repository of *reference* at *endpoint*, else at the first, for one operation; a *push* goes to the registry."""
        if push:
            endpoint = Endpoint(self._base(reference.domain), is_mirror=False)
        elif endpoint is None:
            endpoint = self.endpoints(reference)[0]
        base, mirrored = endpoint.url, endpoint.is_mirror
        if credentials is not None and not credentials.fits(urlsplit(base).netloc if mirrored else reference.domain):
            credentials = None
        if mirrored and credentials is not None and not credentials.server_address:
            credentials = None  # they were given for the registry, not for whoever stands in for it
        context = self._tls() if base.startswith("https:") else None
        wire = Wire(cancellation, context, plain_hosts=self._plain_hosts, read_seconds=self._read_seconds)
        scope = f"repository:{reference.path}:pull" + (",push" if push else "")
        try:
            yield Repository(wire, self.tokens, reference, Access(base, scope, credentials), mirrored=mirrored)
        finally:
            wire.close()

    def _base(self, domain: str) -> str:
        host = DOCKER_HUB if domain == DEFAULT_DOMAIN else domain
        bare = urlsplit(f"//{host}").hostname or host
        plain = is_loopback(bare) or host in self._plain_hosts or bare in self._plain_hosts
        return f"{'http' if plain else 'https'}://{host}"

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self._certificates is not None:
                context.load_verify_locations(self._certificates)
            self._context = context
        return self._context


class Repository:
    """One name at one registry, for one operation."""

    def __init__(self, wire: Wire, tokens: Tokens, reference: Reference, access: Access, *, mirrored: bool = False) -> None:
        self.reference = reference
        self._wire = wire
        self._tokens = tokens
        self._access = access
        self._query = f"?ns={quote(reference.domain)}" if mirrored else ""
        self.root = f"{access.base}/v2/{reference.path}"

    def head(self, target: str) -> str | None:
        """The digest that the registry gives for a tag or digest, not verified; None if it does not say.

        Raises RegistryRefused when there is no such image or we may not see it.
        """
        response = self.send("HEAD", f"{self.root}/manifests/{target}{self._query}", {"Accept": ACCEPT})
        self._wire.finish(response)
        if response.status in (404, 405):
            return None  # some answer GET only; GET will tell
        self.require(response, (200,), f"manifest {target}")
        digest = response.headers.get("Docker-Content-Digest", "")
        return digest if is_digest(digest) else None

    def manifest(self, target: str) -> Fetched:
        """The index or manifest of a tag or digest; raises RegistryRefused, DigestMismatch or ImagePullFailed."""
        response = self.send("GET", f"{self.root}/manifests/{target}{self._query}", {"Accept": ACCEPT})
        self.require(response, (200,), f"manifest {target}")
        content = self._wire.read(response, MANIFEST_LIMIT, self.root)
        if len(content) > MANIFEST_LIMIT:
            raise ImagePullFailed(f"manifest {target}: more than {MANIFEST_LIMIT} bytes")
        digest = digest_of(content)
        if is_digest(target) and digest != target:
            raise DigestMismatch(f"manifest {target}: what came has digest {digest}")
        return Fetched(content, response.headers.get("Content-Type"), digest)

    def blob(self, descriptor: Descriptor) -> Generator[bytes]:
        """A blob as it arrives, not verified; resumed where it broke off.  Close it to give the connection back."""
        url = f"{self.root}/blobs/{descriptor.digest}{self._query}"
        at, stalls = 0, 0
        while True:
            response = self.send("GET", url, {"Range": f"bytes={at}-"} if at else {})
            self.require(response, (200, 206) if at else (200,), f"blob {descriptor.digest}")
            skip = at if at and response.status == 200 else 0
            try:
                while piece := response.read1(CHUNK, decode_content=False):
                    if skip:
                        piece, skip = piece[skip:], max(0, skip - len(piece))
                    at += len(piece)
                    stalls = stalls if not piece else 0
                    if piece:
                        yield piece
                return
            except (HTTPError, OSError, ValueError) as error:
                stalls += 1
                if stalls > STALLS:
                    raise unavailable(url, error) from error
                self._wire.cancellation.wait(0.2 * stalls)
            finally:
                self._wire.finish(response)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Any = None) -> urllib3.BaseHTTPResponse:
        """The response to a request with authorization, patience and redirects; its status is the caller's to judge."""
        authorization = self._tokens.known(self._access)
        for attempt in range(retry.ATTEMPTS):
            response = self._follow(method, url, headers, body, authorization)
            if response.status == 401:
                answered = self._authorize(response, authorization)
                if answered == authorization:
                    return response  # nothing better to show
                self._wire.finish(response)
                authorization = answered
                continue
            seconds = retry.pause(response.status, response.headers.get("Retry-After"), attempt)
            if seconds is None or body is not None:
                return response
            self._wire.finish(response)
            self._wire.cancellation.wait(seconds)
        return response

    def _authorize(self, response: urllib3.BaseHTTPResponse, stale: str | None) -> str:
        """The header that answers the challenges of *response*; raises RegistryRefused, the response given back."""
        challenges = parse_challenges(", ".join(response.headers.getlist("WWW-Authenticate")))
        try:
            return self._tokens.answer(self._wire, challenges, self._access, stale=stale)
        except RegistryRefused as error:
            self._wire.finish(response)
            raise RegistryRefused(f"{self._access.base}: {error}") from error
        except BaseException:
            self._wire.finish(response)
            raise

    def require(self, response: urllib3.BaseHTTPResponse, expected: tuple[int, ...], what: str) -> None:
        """Raise what a status other than the *expected* means: RegistryRefused, or RegistryUnavailable."""
        if response.status in expected:
            return
        said = _message(self._wire.read(response, 65536, self.root))
        text = f"{self._access.base}: {what}: {_meaning(response.status, self._access)}{said} (HTTP {response.status})"
        if response.status >= 500 or response.status in (408, 429):
            raise RegistryUnavailable(f"RegistryUnavailable: {text}")
        raise RegistryRefused(text)

    def finish(self, response: urllib3.BaseHTTPResponse) -> None:
        self._wire.finish(response)

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], body: Any, authorization: str | None
    ) -> urllib3.BaseHTTPResponse:
        """Follow redirects; what authorizes us here is not shown to anybody else (spec, pull #607)."""
        origin = _origin(url)
        for _ in range(REDIRECTS + 1):
            sent = dict(headers)
            if authorization is not None and _origin(url) == origin:
                sent["Authorization"] = authorization
            response = self._wire.request(method, url, sent, body)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location or body is not None:
                return response
            self._wire.finish(response)
            url = join_url(url, location)
            self._wire.require_safe(url, "redirect to")
        raise RegistryRefused(f"{self._access.base}: more than {REDIRECTS} redirects")


def join_url(base: str, location: str) -> str:
    """Where a Location header leads; raises RegistryRefused when it is no address."""
    try:
        return urljoin(base, location)
    except ValueError:
        raise RegistryRefused(f"{base}: redirected to {location[:200]!r}, which is no address") from None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _meaning(status: int, access: Access) -> str:
    who = "without credentials" if access.credentials is None else "with the credentials given"
    meanings = {
        401: f"access refused {who}",
        403: f"access refused {who}",
        404: "not found: no such name or tag, or it is private",
        416: "the registry cannot resume the download",
        429: f"too many requests {who}, try again later",
    }
    return meanings.get(status, "the registry failed" if status >= 500 else "unexpected answer")


def _message(body: bytes) -> str:
    """What the registry's error document says, cut short."""
    try:
        errors = json.loads(body)["errors"]
        texts = [str(error.get("message") or error.get("code")) for error in errors if isinstance(error, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f": {'; '.join(texts)[:300]}" if texts else ""
