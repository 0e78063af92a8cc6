"""ExecSync; Exec, Attach and PortForward come with the streaming server."""

from __future__ import annotations

import threading

from cri.api import api_pb2 as api
from cri.node import Node
from runtime.errors import InvalidArgument

#: A kubelet reads no message above 16 MiB; both streams must fit into one, with room for the rest.
OUTPUT_LIMIT_BYTES = (16 << 20) - (4 << 10)


class Execution:
    def __init__(self, node: Node) -> None:
        self._node = node

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


def fit(stdout: bytes, stderr: bytes, limit: int) -> tuple[bytes, bytes]:
    """Both cut so that together they have *limit* bytes at most; a short one is kept whole."""
    half = limit // 2
    kept_stdout = max(limit - len(stderr), half)
    kept_stderr = max(limit - len(stdout), limit - half)
    return stdout[:kept_stdout], stderr[:kept_stderr]
