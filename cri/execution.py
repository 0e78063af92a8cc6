"""ExecSync, and Exec, Attach and PortForward, which answer with the URL of a session to come (``cri.streaming``)."""

from __future__ import annotations

import threading
from functools import partial

from cri.api import api_pb2 as api
from cri.node import Node
from cri.streaming.remote import Wanted
from cri.streaming.server import Offer, StreamingServer
from runtime.errors import InvalidArgument

#: A kubelet reads no message above 16 MiB; both streams must fit into one, with room for the rest.
OUTPUT_LIMIT_BYTES = (16 << 20) - (4 << 10)


class Execution:
    def __init__(self, node: Node, streaming: StreamingServer) -> None:
        self._node = node
        self._streaming = streaming

    def exec_sync(self, request: api.ExecSyncRequest, cancelled: threading.Event) -> api.ExecSyncResponse:
        """Run a command and wait; a command that fails is an answer, not an error.

        A timeout (seconds, zero for none) ends it with DEADLINE_EXCEEDED, by which a kubelet tells a
        slow probe from a broken one; a caller that goes away ends it too.  Output beyond the limit is dropped (CVE-2022-1708).
        """
        if not request.cmd:
            raise InvalidArgument("cmd is empty")
        if request.timeout < 0:
            raise InvalidArgument(f"timeout: {request.timeout} is negative")
        container = self._node.find_container(request.container_id)
        container.require_running("exec")
        result = self._node.exec_sync(container.id, list(request.cmd), float(request.timeout), cancelled)
        stdout, stderr = fit(result.stdout, result.stderr, OUTPUT_LIMIT_BYTES)
        return api.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=result.exit_code)


    def exec(self, request: api.ExecRequest) -> api.ExecResponse:
        """Where to run a command with streams; it is started when the client is there."""
        if not request.cmd:
            raise InvalidArgument("cmd is empty")
        container = self._node.find_container(request.container_id)
        container.require_running("exec")
        wanted = _wanted(request)
        run = partial(
            self._node.exec,
            container.id,
            list(request.cmd),
            terminal=wanted.terminal,
            stdin=wanted.stdin,
            stdout=wanted.stdout,
            stderr=wanted.stderr,
        )
        return api.ExecResponse(url=self._streaming.offer(Offer("exec", wanted, run)))

    def attach(self, request: api.AttachRequest) -> api.AttachResponse:
        """Where to talk to a container's own process."""
        container = self._node.find_container(request.container_id)
        container.require_running("attach")
        wanted = _wanted(request)
        join = partial(self._node.attach, container.id, stdin=wanted.stdin, stdout=wanted.stdout, stderr=wanted.stderr)
        return api.AttachResponse(url=self._streaming.offer(Offer("attach", wanted, join)))

    def port_forward(self, request: api.PortForwardRequest) -> api.PortForwardResponse:
        """Where to reach ports of a pod; which ones, the client says there."""
        sandbox = self._node.find_sandbox(request.pod_sandbox_id)
        sandbox.require_ready("port-forward")
        connect = partial(self._node.port_forward, sandbox.id)
        return api.PortForwardResponse(url=self._streaming.offer(Offer("portforward", connect=connect)))


def _wanted(request: api.ExecRequest | api.AttachRequest) -> Wanted:
    """The streams that are asked for.  Raises InvalidArgument for none, and for a terminal with a stderr of its own."""
    if request.tty and request.stderr:
        raise InvalidArgument("tty and stderr: a terminal has no stderr of its own")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("stdin, stdout, stderr: one of them must be asked for")
    return Wanted(request.stdin, request.stdout, request.stderr, request.tty)


def fit(stdout: bytes, stderr: bytes, limit: int) -> tuple[bytes, bytes]:
    """Both cut so that together they have *limit* bytes at most; a short one is kept whole."""
    half = limit // 2
    kept_stdout = max(limit - len(stderr), half)
    kept_stderr = max(limit - len(stdout), limit - half)
    return stdout[:kept_stdout], stderr[:kept_stderr]
