"""A person's end of exec and attach: the terminal on one side, a WebSocket to the daemon's streaming server on the other.

v5.channel.k8s.io, as a kubectl of today speaks it: the first byte of a message is the number of a channel, a message
255, n ends channel n, and how it all ended comes on channel 3 as a metav1.Status.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import ssl
import sys
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, RejectData, Request

from cri import config
from cri.streaming.websocket import Channel
from runtime.errors import InvalidArgument, KerneletError

PROTOCOL = "v5.channel.k8s.io"
CONNECT_SECONDS = 20.0
PIECE = 65536
#: More than that is not taken from the terminal while the daemon does not take it from us.
MOST_UNSENT = 1 << 20
#: What docker and podman leave a container with: ^P ^Q.
DETACH = b"\x10\x11"


class Detached(Exception):
    """The person left; the container goes on."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the session is to have; *can_detach*: its end is not the process's."""

    stdin: bool
    terminal: bool
    can_detach: bool = False


def hold(url: str, wish: Wish) -> int:
    """Hold a session at *url* until its process has ended; its exit code.  Raises Detached, or KerneletError with the reason."""
    with _connect(url) as connection, _raw(wish.terminal and wish.stdin), _resized() as resized:
        return _Session(connection, url, wish, resized).hold()


def check_terminal(wanted: bool) -> None:
    """Raises InvalidArgument when a terminal is *wanted* and standard input is none."""
    if wanted and not sys.stdin.isatty():
        raise InvalidArgument("-t: standard input is no terminal; leave -t away, as in a script")


class _Session:
    def __init__(self, connection: socket.socket, url: str, wish: Wish, resized: socket.socket) -> None:
        self._connection, self._wish, self._resized = connection, wish, resized
        self._websocket = WSConnection(ConnectionType.CLIENT)
        # poll(2): of a file it says that it can be read, where epoll(7) takes none.
        self._selector = selectors.PollSelector()
        self._out = bytearray()
        self._channel: int | None = None
        self._status = bytearray()
        self._has_more = wish.stdin
        self._is_listening = self._is_open = False
        self._before = b""
        target = urlsplit(url)
        self._out += self._websocket.send(Request(host=target.netloc, target=target.path, subprotocols=[PROTOCOL]))

    def hold(self) -> int:
        """Pass everything on, both ways, until the other side has said how it ended."""
        self._connection.setblocking(False)
        self._selector.register(self._connection, selectors.EVENT_READ, self._move)
        while True:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
            self._selector.modify(self._connection, events, self._move)
            self._listen(self._is_open and self._has_more and len(self._out) < MOST_UNSENT)
            for key, _ in self._selector.select():
                if key.data() is False:
                    return outcome(bytes(self._status))

    def _listen(self, wanted: bool) -> None:
        """Listen to what is typed, or do not for now."""
        if wanted and not self._is_listening:
            self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self._say)
        elif self._is_listening and not wanted:
            self._selector.unregister(sys.stdin.fileno())
        self._is_listening = wanted

    def _begin(self) -> None:
        """The handshake is done: now there is something to say."""
        self._is_open = True
        if self._wish.terminal:
            self._selector.register(self._resized, selectors.EVENT_READ, self._resize)
            self._resize()

    def _say(self) -> None:
        """Pass on what is typed, and the end of it."""
        try:
            said = os.read(sys.stdin.fileno(), PIECE)
        except OSError:  # EIO: our own terminal is gone
            said = b""
        if not said:
            self._has_more = False
            self._tell(bytes((Channel.CLOSE, Channel.STDIN)))
            return
        if self._wish.can_detach and DETACH in self._before + said:
            raise Detached
        self._before = said[-1:]
        self._tell(bytes((Channel.STDIN,)) + said)

    def _resize(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._resized.recv(PIECE)
        size = os.get_terminal_size(sys.stdin.fileno())
        text = json.dumps({"Width": size.columns, "Height": size.lines}).encode()
        self._tell(bytes((Channel.RESIZE,)) + text)

    def _tell(self, message: bytes) -> None:
        self._out += self._websocket.send(BytesMessage(message))

    def _move(self) -> bool:
        """Send what is there, take what has come; False when that was the last."""
        self._flush()
        try:
            received = self._connection.recv(PIECE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except ConnectionError as error:
            raise KerneletError(f"the connection to the daemon broke: {error.strerror}") from None
        self._websocket.receive_data(received or None)
        is_over = any(self._hear(event) for event in self._websocket.events())
        return not (is_over or not received)

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError, BrokenPipeError, ConnectionResetError):
            while self._out:
                del self._out[: self._connection.send(self._out)]

    def _hear(self, event: Any) -> bool:
        """Do what *event* asks; True for the last one."""
        match event:
            case AcceptConnection():
                self._begin()
            case RejectConnection(status_code=code) if not event.has_body:
                raise KerneletError(f"the daemon refuses the session: HTTP status {code}")
            case RejectData(data=data):
                raise KerneletError(f"the daemon refuses the session: {bytes(data).decode(errors='replace').strip()}")
            case BytesMessage(data=data, message_finished=is_finished):
                self._take(bytes(data), is_finished)
            case Ping():
                self._out += self._websocket.send(event.response())
            case CloseConnection():
                with contextlib.suppress(Exception):  # it may have gone already
                    self._out += self._websocket.send(event.response())
                    self._flush()
                return True
        return False

    def _take(self, data: bytes, is_finished: bool) -> None:
        """A piece of a message: its first begins with the channel."""
        if self._channel is None and data:
            self._channel, data = data[0], data[1:]
        if self._channel == Channel.STDOUT:
            _write(sys.stdout.fileno(), data)
        elif self._channel == Channel.STDERR:
            _write(sys.stderr.fileno(), data)
        elif self._channel == Channel.ERROR:
            self._status += data
        if is_finished:
            self._channel = None


def outcome(status: bytes) -> int:
    """The exit code in a metav1.Status.  Raises KerneletError with its message when there is none."""
    try:
        said = json.loads(status)
    except ValueError:
        raise KerneletError("the session ended, and nobody said how: the daemon may have been stopped") from None
    if said.get("status") == "Success":
        return 0
    for cause in said.get("details", {}).get("causes", []):
        if cause.get("reason") == "ExitCode" and str(cause.get("message")).isdigit():
            return int(cause["message"])
    raise KerneletError(said.get("message") or "the session failed")


def _connect(url: str) -> socket.socket:
    """Raises KerneletError.  A certificate is the one that the daemon was given, and no other."""
    target = urlsplit(url)
    assert target.hostname is not None and target.port is not None
    try:
        connection = socket.create_connection((target.hostname, target.port), CONNECT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.load_verify_locations(config.load(None).streaming.tls_cert_file)
            connection = context.wrap_socket(connection)
    except OSError as error:
        raise KerneletError(f"connect to the daemon's streams at {target.netloc}: {error.strerror or error}") from None
    return connection


@contextlib.contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """The terminal passes every key on as it is, and is as before afterwards."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(sys.stdin.fileno())
    tty.setraw(sys.stdin.fileno())
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resized() -> Iterator[socket.socket]:
    """A socket that has something to read when the window has another size."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        before = signal.signal(signal.SIGWINCH, lambda *_: None)
        woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(woken)
            signal.signal(signal.SIGWINCH, before)


def _write(number: int, content: bytes) -> None:
    while content:
        content = content[os.write(number, content) :]
