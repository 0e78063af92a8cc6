"""Registries on 127.0.0.1: Debian's docker-registry as it is, and one in this process that misbehaves on request."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.wait import until

EXECUTABLE = "/usr/bin/docker-registry"

#: The key and self-signed certificate of 127.0.0.1, good until 2120 and for nothing but these tests.
CERTIFICATE = Path(__file__).with_name("registry.pem")

CONFIG = """
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  cache: {{blobdescriptor: inmemory}}
  filesystem: {{rootdirectory: {root}, maxthreads: 100}}
  delete: {{enabled: true}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http: {{addr: {address}, headers: {{X-Content-Type-Options: [nosniff]}}}}
health: {{storagedriver: {{enabled: false}}}}
{auth}
"""


@contextmanager
def docker_registry(*, htpasswd: str | None = None, store: Path | None = None) -> Iterator[str]:
    """A docker-registry with an empty store of its own, or with *store*; yields "127.0.0.1:PORT".

    *htpasswd* is the content of such a file.
    """
    directory = Path(tempfile.mkdtemp(prefix="kernelet-registry-"))
    address = f"127.0.0.1:{free_port()}"
    auth = ""
    if htpasswd is not None:
        (directory / "htpasswd").write_text(htpasswd)
        auth = f"auth: {{htpasswd: {{realm: test, path: {directory / 'htpasswd'}}}}}"
    (directory / "config.yml").write_text(CONFIG.format(root=store or directory / "data", address=address, auth=auth))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([EXECUTABLE, "serve", str(directory / "config.yml")], stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or is_listening(address), 10)
        assert process.poll() is None, (directory / "log").read_text()
        yield address
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


Handler = Callable[[BaseHTTPRequestHandler], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what many tests are about, and no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def faulty_registry(handle: Handler, *, tls: bool = False) -> Iterator[str]:
    """A server in this process that answers every request by *handle*; yields "127.0.0.1:PORT"."""

    class Handling(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self) -> None:
            try:
                handle(self)
            except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 - http.server looks for these names

    server = _Server(("127.0.0.1", 0), Handling)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Send a whole answer; underscores in the names of *headers* are dashes."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
