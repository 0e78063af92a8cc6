"""The handshake: an HTTP request that names a token and asks for another protocol, and the answer to it.

```
    POST /exec/TOKEN HTTP/1.1                          101 Switching Protocols
    Connection: Upgrade                                Connection: Upgrade
    Upgrade: SPDY/3.1                         ──>      Upgrade: SPDY/3.1
    X-Stream-Protocol-Version: v5.channel.k8s.io       X-Stream-Protocol-Version: v4.channel.k8s.io
    X-Stream-Protocol-Version: v4.channel.k8s.io
```

or a WebSocket's, with Sec-WebSocket-Protocol.  Bytes and rules alone.  SPDY's clients read the answer through a buffer
that they throw away, so nothing may be sent before their first frame (k8s.io/streaming, httpstream/spdy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal

import h11
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection
from wsproto.events import Request as WebSocketRequest
from wsproto.handshake import H11Handshake
from wsproto.typing import Headers
from wsproto.utilities import RemoteProtocolError

MAX_REQUEST = 16 << 10
VERSIONS = "x-stream-protocol-version"
TUNNEL = "SPDY/3.1+portforward.k8s.io"

Act = Literal["exec", "attach", "portforward"]
ACTS: tuple[Act, ...] = ("exec", "attach", "portforward")
#: What each is spoken in, over SPDY and over a WebSocket.  Of several that a client knows, its first is taken.
SPDY_PROTOCOLS = {
    "exec": ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"),
    "attach": ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"),
    "portforward": ("portforward.k8s.io",),
}
WEBSOCKET_PROTOCOLS = {
    "exec": ("v5.channel.k8s.io", "v4.channel.k8s.io"),
    "attach": ("v5.channel.k8s.io", "v4.channel.k8s.io"),
    "portforward": (TUNNEL,),
}


class Refused(Exception):
    """The request is answered with a status, and that is all."""

    def __init__(self, status: HTTPStatus, reason: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """A request, complete."""

    act: Act
    token: str
    headers: Headers
    path: str
    is_websocket: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer, and in what the two speak from then on."""

    answer: bytes
    protocol: str
    early: bytes = field(default=b"")
    """What the client has said already."""


class Handshake:
    """One connection's request and the answer to it."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST)
        self._request: h11.Request | None = None

    def receive(self, content: bytes) -> Request | None:
        """The request, once *content* completes it.  Raises Refused."""
        try:
            self._http.receive_data(content)
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    return None
                if isinstance(event, h11.Request):
                    self._request = event
                elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                    return _understood(self._request)
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    raise Refused(HTTPStatus.BAD_REQUEST, "no request")
                elif isinstance(event, h11.Data):
                    raise Refused(HTTPStatus.BAD_REQUEST, "a request for a stream has no body")
        except h11.RemoteProtocolError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error).lower()) from None

    def accept(self, request: Request) -> Accepted:
        """Agree to a protocol.  Raises Refused when there is none that both know."""
        early, _ = self._http.trailing_data
        return _accept_websocket(request, bytes(early)) if request.is_websocket else _accept_spdy(request, bytes(early))

    def refuse(self, refused: Refused) -> bytes:
        """The answer to a request that leads to nothing."""
        text = f"{refused}\n".encode()
        lines = [f"HTTP/1.1 {refused.status.value} {refused.status.phrase}", "Connection: close", f"Content-Length: {len(text)}"]
        lines += ["Content-Type: text/plain; charset=utf-8", "X-Content-Type-Options: nosniff"]
        lines += [f"{name}: {value}" for name, value in refused.headers]
        return "\r\n".join((*lines, "", "")).encode() + text


def _understood(request: h11.Request) -> Request:
    path = request.target.decode("ascii", "replace")
    if request.method not in (b"GET", b"POST"):
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and POST", [("Allow", "GET, POST")])
    parts = path.partition("?")[0].split("/")
    act = next((known for known in ACTS if parts[:2] == ["", known]), None)
    if act is None or len(parts) != 3 or not parts[2]:
        raise Refused(HTTPStatus.NOT_FOUND, "no such stream")
    headers = [(name, value) for name, value in request.headers]
    asked = _values(headers, "upgrade")
    if "upgrade" not in _values(headers, "connection") or not asked:
        raise Refused(HTTPStatus.BAD_REQUEST, "a stream is asked for with Connection: Upgrade")
    if "websocket" not in asked and "spdy/3.1" not in asked:
        raise Refused(HTTPStatus.BAD_REQUEST, f"upgrade to {', '.join(asked)}: SPDY/3.1 and websocket are spoken here")
    return Request(act, parts[2], headers, path, "websocket" in asked)


def _accept_spdy(request: Request, early: bytes) -> Accepted:
    offered = _values(request.headers, VERSIONS)
    if not offered:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{VERSIONS} is missing")
    known = SPDY_PROTOCOLS[request.act]
    chosen = next((each for each in offered if each in known), None)
    if chosen is None:
        named = [("X-Accepted-Stream-Protocol-Versions", each) for each in known]
        raise Refused(HTTPStatus.FORBIDDEN, f"none of {', '.join(offered)} is spoken here", named)
    lines = ("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: SPDY/3.1")
    answer = "\r\n".join((*lines, f"X-Stream-Protocol-Version: {chosen}", "", "")).encode()
    return Accepted(answer, chosen, early)


def _accept_websocket(request: Request, early: bytes) -> Accepted:
    handshake = H11Handshake(ConnectionType.SERVER)
    try:
        handshake.initiate_upgrade_connection(request.headers, request.path)
        asked = next(handshake.events())
    except (RemoteProtocolError, StopIteration) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"websocket: {error}".lower()) from None
    offered = asked.subprotocols if isinstance(asked, WebSocketRequest) else []
    chosen = next((each for each in offered if each in WEBSOCKET_PROTOCOLS[request.act]), None)
    if chosen is None:
        known = ", ".join(WEBSOCKET_PROTOCOLS[request.act])
        raise Refused(HTTPStatus.FORBIDDEN, f"none of {', '.join(offered) or 'no protocol'} is spoken here: {known}")
    return Accepted(handshake.send(AcceptConnection(subprotocol=chosen)), chosen, early)


def _values(headers: Headers, name: str) -> list[str]:
    """What the headers of that name list, in lower case: some clients write a line for each, some commas."""
    lines = [value.decode("ascii", "replace") for key, value in headers if key.lower() == name.encode()]
    return [each.strip().lower() for line in lines for each in line.split(",") if each.strip()]
