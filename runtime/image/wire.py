"""HTTP as registries speak it: urllib3 underneath, every failure one of ours, every wait cancellable.

A registry that cannot be reached is RegistryUnavailable, with the prefix by which a kubelet knows it.
"""

from __future__ import annotations

import contextlib
import errno
import ssl
import threading
import urllib.request
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from runtime.errors import RegistryRefused, RegistryUnavailable
from runtime.image.cancellation import Cancellation
from runtime.image.connection import CONNECT_SECONDS, pool_classes

#: No single byte for this long is a stall.
READ_SECONDS = 60.0


class Wire:
    """Connections of one operation.  Not shared between operations; threads of one may share it."""

    def __init__(
        self,
        cancellation: Cancellation,
        context: ssl.SSLContext | None = None,
        *,
        plain_hosts: Collection[str] = (),
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.cancellation = cancellation
        self._context = context
        self._plain_hosts = plain_hosts
        self._timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds)
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Any = None, *, fields: str | None = None
    ) -> urllib3.BaseHTTPResponse:
        """The response, its body not read yet; raises RegistryUnavailable or Cancelled.  Follows no redirect.

        *body* is bytes, or a function that returns an iterator over them, whose length the headers give.
        """
        self.cancellation.check()
        if fields is not None:
            headers, body = {**headers, "Content-Type": "application/x-www-form-urlencoded"}, fields.encode()
        for attempt in (1, 2):
            try:
                return self._manager(url).request(
                    method,
                    url,
                    headers={"User-Agent": "kernelet", "Accept-Encoding": "identity", **headers},
                    body=body() if callable(body) else body,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                    timeout=self._timeout,
                )
            except (HTTPError, OSError) as error:
                self.cancellation.check()
                # A connection kept open may be closed by the other side at the moment it is used again.
                stale = isinstance(error, ProtocolError) and isinstance(error.__cause__ or error.__context__, ConnectionError)
                if attempt == 2 or not stale or method not in ("GET", "HEAD"):
                    raise unavailable(url, error) from error
        raise AssertionError("unreachable")

    def require_safe(self, url: str, what: str) -> None:
        """Raise RegistryRefused unless *url* is HTTPS, or HTTP to a host for which that was allowed."""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise RegistryRefused(f"the {what} {url[:200]!r} is no address") from None
        plain = parts.scheme == "http" and (is_loopback(parts.hostname or "") or parts.netloc in self._plain_hosts)
        if parts.scheme != "https" and not plain:
            raise RegistryRefused(f"the {what} {url[:200]!r} is not reached over TLS; plain HTTP must be configured for its host")

    def read(self, response: urllib3.BaseHTTPResponse, limit: int, url: str) -> bytes:
        """A whole body, from *url*, of at most *limit* bytes; one byte more shows that it was longer."""
        content = bytearray()
        try:
            while len(content) <= limit and (piece := response.read1(min(65536, limit + 1 - len(content)), decode_content=False)):
                content += piece
            return bytes(content)
        except (HTTPError, OSError, ValueError) as error:
            self.cancellation.check()
            raise unavailable(url, error) from error
        finally:
            self.finish(response)

    def finish(self, response: urllib3.BaseHTTPResponse) -> None:
        """Give the connection back when the body was read to its end, close it otherwise."""
        with contextlib.suppress(HTTPError, OSError, ValueError):
            left = getattr(response, "length_remaining", None)
            if left == 0:
                response.drain_conn()
                response.release_conn()
                return
        response.close()

    def close(self) -> None:
        """Close every connection now: urllib3 leaves that to the garbage collector, and a traceback can hold a pool for long."""
        for manager in self._managers.values():
            for pool in map(manager.pools.get, manager.pools.keys()):
                if pool is not None:
                    pool.close()
            manager.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = proxy_for(url)
        with self._lock:
            if proxy not in self._managers:
                options: dict[str, Any] = {"maxsize": 8}
                if self._context is not None:
                    options["ssl_context"] = self._context
                made = urllib3.PoolManager(**options) if proxy is None else urllib3.ProxyManager(proxy, **options)
                made.pool_classes_by_scheme = pool_classes(self.cancellation)
                self._managers[proxy] = made
            return self._managers[proxy]


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for *url* (HTTPS_PROXY, NO_PROXY ...); never one for this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def is_loopback(host: str) -> bool:
    """Whether *host*, no port, is this machine by its name or number."""
    bare = host.strip("[]").lower()
    return bare in ("localhost", "::1") or (bare.startswith("127.") and all(part.isdigit() for part in bare.split(".")))


def unavailable(url: str, error: BaseException) -> RegistryUnavailable:
    """What a failed exchange with *url* means, for people."""
    host = urlsplit(url).netloc or url
    if isinstance(error, RegistryUnavailable):
        return error
    return RegistryUnavailable(f"RegistryUnavailable: {host}: {_cause(error)}")


def _cause(error: BaseException) -> str:
    root = error.__cause__ or error.__context__ or error
    if isinstance(error, NameResolutionError):
        return "no such host, or no name server answers"
    if isinstance(error, ReadTimeoutError):
        return "the registry stopped sending"
    if isinstance(error, NewConnectionError) and isinstance(root, OSError):
        return (root.strerror or str(root)).lower() + ("; is it running, and is the port right?" if _refused(root) else "")
    if isinstance(error, ConnectTimeoutError):
        return f"no answer to a connection attempt in {CONNECT_SECONDS:.0f} seconds"
    if isinstance(error, ssl.SSLError) or isinstance(root, ssl.SSLError):
        reason = root if isinstance(root, ssl.SSLError) else error
        hint = "; a registry without TLS must be configured as such" if "WRONG_VERSION" in str(reason) else ""
        return f"TLS: {getattr(reason, 'verify_message', '') or getattr(reason, 'reason', '') or reason}{hint}"
    return f"the connection broke: {error}"


def _refused(error: OSError) -> bool:
    return error.errno == errno.ECONNREFUSED
