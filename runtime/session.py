"""A process that somebody talks to: exec and attach, and a way to a port in a pod.

```
    client <──> cri/streaming <── Sink, Source ──> pipes or a terminal <──> the process        exec: the pipes are ours
                                        └── pipes that the monitor fills beside the log       attach
```

A ``Session`` owns its descriptors, none of which ever blocks: what waits, and for whom, is the caller's.  Closing it
is how a client goes away: an exec'd process is ended with all that it has started, a container is let alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError

from kernel import namespace
from kernel.fd import Fd, open_path, pipe
from kernel.terminal import Terminal, find_devpts, open_terminal, set_window_size
from runtime import exec_process
from runtime.container.descriptors import Descriptor
from runtime.container.state import Container, ContainerState
from runtime.container.userns import host_id
from runtime.context import Context
from runtime.errors import ContainerNotRunning, InvalidArgument, MonitorLost, PortUnreachable, Unsupported

#: What an attached client's pipe holds: fs.pipe-max-size.
PIPE_BYTES = 1 << 20
CHUNK = 1 << 16
CONNECT_SECONDS = 10.0
LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
MAX_WINDOW = 0xFFFF


class Source:
    """What the process says; has a number to be polled."""

    def __init__(self, file: Fd) -> None:
        os.set_blocking(file.fileno(), False)
        self._file = file

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self) -> bytes | None:
        """What is there, some of it; None when that is nothing now, empty at the end."""
        try:
            return os.read(self._file.fileno(), CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EIO:  # nobody has the terminal any more
                return b""
            raise

    def close(self) -> None:
        self._file.close()


class Sink:
    """What the process hears; has a number to be polled.  To close it is the end of a pipe; a terminal has none."""

    def __init__(self, file: Fd, closed: Callable[[], None] | None = None) -> None:
        os.set_blocking(file.fileno(), False)
        self._file = file
        self._closed = closed

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, content: bytes | memoryview) -> int | None:
        """How much of *content* was taken, 0 when that is nothing now, None when nobody will ever read it."""
        try:
            return os.write(self._file.fileno(), content)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.EIO):
                return None
            raise

    def close(self) -> None:
        """Blocks for a moment when the end has to be told to the monitor."""
        self._file.close()
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()


class Session:
    """A process with its streams, as far as they were asked for; a terminal is both stdin and stdout.

    *ended* gets the exit code, or MonitorLost when nobody can say it.  With *outputs_end* the outputs are known to end
    with the process; else what it leaves running may have them open for ever.
    """

    def __init__(
        self,
        *,
        stdin: Sink | None = None,
        stdout: Source | None = None,
        stderr: Source | None = None,
        terminal: Fd | None = None,
        outputs_end: bool = False,
    ) -> None:
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.outputs_end = outputs_end
        self.ended: Future[int] = Future()
        self._terminal = terminal
        self._lock = threading.Lock()
        self._on_close: Callable[[], None] | None = None

    def resize(self, width: int, height: int) -> None:
        """Tell the terminal, if there is one, its size in characters."""
        if self._terminal is not None and 0 <= width <= MAX_WINDOW and 0 <= height <= MAX_WINDOW:
            with contextlib.suppress(OSError):  # its other side is gone
                set_window_size(self._terminal, height, width)

    def wait(self, timeout_seconds: float | None = None) -> int:
        """The exit code.  Raises MonitorLost, and TimeoutError."""
        return self.ended.result(timeout_seconds)

    def close(self) -> None:
        """Let go of it; an exec'd process that still runs is ended.  Idempotent; blocks until that is done."""
        with self._lock:
            for stream in (self.stdin, self.stdout, self.stderr, self._terminal):
                if stream is not None:
                    stream.close()
            done, self._on_close = self._on_close, None
        if done is not None:
            done()

    def end(self, code: int | None) -> None:
        """Say how the process ended; once."""
        with contextlib.suppress(InvalidStateError):
            if code is None:
                self.ended.set_exception(MonitorLost("the monitor of the process was killed; try again"))
            else:
                self.ended.set_result(code)

    def when_closed(self, done: Callable[[], None]) -> None:
        """Have *done* called when it is closed."""
        self._on_close = done


def exec_in(
    context: Context, container_id: str, arguments: list[str], *, terminal: bool, stdin: bool, stdout: bool, stderr: bool
) -> Session:
    """Start *arguments* in the container, with pipes or a terminal; returns when it has become its program.

    Raises ContainerNotRunning, StartFailed, MonitorLost; Unsupported for a terminal where the container has no devpts.
    """
    container = context.inventory.find_container(container_id)
    container.require_running("exec")
    if terminal and stderr:
        raise InvalidArgument("exec: a terminal has no stderr of its own")
    place = exec_process.make_place(context, container)
    with contextlib.ExitStack() as undo:
        undo.callback(exec_process.clean_up, context, place)
        if terminal:
            maps = context.inventory.find_sandbox(container.sandbox_id).config.uid_mappings
            session, theirs = _with_terminal(container, host_id(maps, 0) or 0, stdin=stdin, stdout=stdout)
        else:
            session, theirs = _with_pipes(stdin=stdin, stdout=stdout, stderr=stderr)
        undo.callback(session.close)
        try:
            process = exec_process.process_of(container, arguments, terminal=terminal)
            exec_process.launch(context, container, place, process, exec_process.Output(streams=theirs))
        finally:
            for file in theirs.values():
                file.close()
        undo.pop_all()
    session.when_closed(lambda: exec_process.clean_up(context, place, kills=not session.ended.done()))
    _follow(context, place, session)
    return session


def attach(context: Context, container_id: str, *, stdin: bool, stdout: bool, stderr: bool) -> Session:
    """Listen to what the container says from now on, and talk to it.  Raises ContainerNotRunning, InvalidArgument.

    The container's stdin stays open when the session ends, unless its config says that it ends once.
    """
    container = context.inventory.find_container(container_id)
    container.require_running("attach")
    config = container.config
    if stdin and not config.stdin:
        raise InvalidArgument(f"attach: stdin: container {config.name} was created without one (stdin: true)")
    wanted = [number for number, is_wanted in ((1, stdout), (2, stderr and not config.tty)) if is_wanted]
    with contextlib.ExitStack() as undo:
        sources, sinks = {}, {}
        for number in wanted:
            reader, sinks[number] = pipe()
            undo.callback(sinks[number].close)
            with contextlib.suppress(OSError):  # a node that grants less: a smaller one does, too
                fcntl.fcntl(reader.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            sources[number] = Source(reader)
        try:
            other = context.monitor.attach(container.id, sinks)
        except ProcessLookupError:
            raise ContainerNotRunning(f"attach: container {config.name} has just ended") from None
    sink = None if not stdin or other is None else Sink(other.duplicate(), _end_of_input(context, container))
    terminal = other if config.tty else None
    if other is not None and terminal is None:  # one copy too many of stdin's other end, and it would not end
        other.close()
    session = Session(stdin=sink, stdout=sources.get(1), stderr=sources.get(2), terminal=terminal, outputs_end=True)
    _follow_container(context, container, session)
    return session


def port_forward(context: Context, sandbox_id: str, port: int) -> socket.socket:
    """A connection to *port* on the loopback of the sandbox's network, IPv4 first.

    Raises InvalidArgument, SandboxNotReady, and PortUnreachable when nobody listens there.
    """
    sandbox = context.inventory.find_sandbox(sandbox_id)
    sandbox.require_ready("port-forward")
    if not 0 < port <= 0xFFFF:
        raise InvalidArgument(f"port-forward: {port} is not a port")
    if sandbox.config.namespaces.network == "node":
        made = _sockets()
    else:
        with open_path(context.paths.run_sandbox(sandbox.id) / "net") as network:
            made = namespace.in_namespace(network, "net", _sockets)
    return _connected(made, port, sandbox.config.name)


def _sockets() -> list[tuple[socket.socket, str]]:
    """A socket for each kind of loopback, of the network namespace that the thread is in now and the socket for ever."""
    made = []
    for family, address in LOOPBACK:
        with contextlib.suppress(OSError):  # a kernel without IPv6
            made.append((socket.socket(family, socket.SOCK_STREAM), address))
    return made


def _connected(made: list[tuple[socket.socket, str]], port: int, pod: str) -> socket.socket:
    found, reason = None, "no sockets"
    for each, address in made:
        if found is not None:
            each.close()
            continue
        each.settimeout(CONNECT_SECONDS)
        try:
            each.connect((address, port))
            found = each
        except OSError as error:
            reason = (error.strerror or str(error)).lower() if address == "127.0.0.1" else reason
            each.close()
    if found is None:
        raise PortUnreachable(f"port-forward: port {port} of pod {pod}: {reason}")
    return found


def _with_terminal(container: Container, owner: int, *, stdin: bool, stdout: bool) -> tuple[Session, Mapping[int, Fd]]:
    """A session on a new terminal of the container's own devpts, and the streams of the process.

    It belongs to *owner*, the container's root, who can give it on: our own root is nobody in a user namespace.
    """
    try:
        with open_path(f"/proc/{container.pid}/root", os.O_PATH | os.O_DIRECTORY) as root, find_devpts(root) as devpts:
            made: Terminal = open_terminal(devpts)
            os.fchown(made.slave.fileno(), owner, -1)
    except OSError as error:
        if not os.path.exists(f"/proc/{container.pid}/root/"):
            raise ContainerNotRunning(f"exec: container {container.config.name} has just ended") from None
        raise Unsupported(
            f"exec: a terminal: container {container.config.name} has no devpts on /dev/pts: {(error.strerror or '').lower()}"
        ) from error
    session = Session(
        stdin=Sink(made.master.duplicate()) if stdin else None,
        stdout=Source(made.master.duplicate()) if stdout else None,
        terminal=made.master,
    )
    return session, dict.fromkeys((Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR), made.slave)


def _with_pipes(*, stdin: bool, stdout: bool, stderr: bool) -> tuple[Session, Mapping[int, Fd]]:
    theirs: dict[int, Fd] = {}
    session = Session()
    if stdin:
        theirs[Descriptor.STDIN], writer = pipe()
        session.stdin = Sink(writer)
    if stdout:
        reader, theirs[Descriptor.STDOUT] = pipe()
        session.stdout = Source(reader)
    if stderr:
        reader, theirs[Descriptor.STDERR] = pipe()
        session.stderr = Source(reader)
    return session, theirs


def _follow(context: Context, place: exec_process.Place, session: Session) -> None:
    """Pass the process's end on to *session*; when a monitor dies over it, the next one is asked."""

    def ended(future: Future[int | None]) -> None:
        code = future.result()
        if code is not None:
            session.end(code)
        else:  # not in this thread, which is to bring the next monitor
            threading.Thread(target=_find_again, args=(context, place, session), name="exec", daemon=True).start()

    place.ended.add_done_callback(ended)


def _find_again(context: Context, place: exec_process.Place, session: Session) -> None:
    """The pipes are ours, so nothing is lost with a monitor but the word of the process's end."""
    again = exec_process.Place(place.id, place.run_dir, place.cgroup, Future())
    if place.id not in context.executing:  # nobody waits any more
        session.end(None)
        return
    context.executing[place.id] = again.ended
    try:
        standing = context.monitor.adopt(place.id, "exec", run_dir=place.run_dir, output="given", settled=True)
    except (MonitorLost, OSError):
        session.end(None)
        return
    if standing.state == "running":
        _follow(context, again, session)
    else:
        session.end(standing.code if standing.state == "ended" else None)


def _follow_container(context: Context, container: Container, session: Session) -> None:
    ended: Future[int | None] = Future()
    ended.add_done_callback(lambda future: session.end(future.result()))
    waiting = context.attached.setdefault(container.id, set())
    waiting.add(ended)
    session.when_closed(lambda: waiting.discard(ended))
    current = context.inventory.containers.get(container.id)
    if current is None or current.state is ContainerState.EXITED:  # before anybody knew of us
        session.end(0 if current is None else current.exit_code)


def _end_of_input(context: Context, container: Container) -> Callable[[], None] | None:
    """What is to be done when a client's stdin ends, if anything is."""
    if not container.config.stdin_once or container.config.tty:
        return None

    def close() -> None:
        with contextlib.suppress(ProcessLookupError, MonitorLost):
            context.monitor.close_input(container.id)

    return close
