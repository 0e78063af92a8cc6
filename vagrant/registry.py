"""``registry.py PORT``: a registry on 127.0.0.1 that has one image, ``smoke``, packed out of this machine's /bin/busybox.

smoke.sh pulls from it: what it shows needs no internet.  The image is the demo's.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cri.command import demo

PACKAGE = demo.pack()


class Handler(BaseHTTPRequestHandler):
    """The reading half of the distribution API: /v2/smoke/manifests/latest, and everything by digest."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        target = self.path.rpartition("/")[2]
        digest = PACKAGE.root.digest if target == "latest" else target
        if self.path == "/v2/":
            self._answer(200, b"{}", "application/json")
        elif digest in PACKAGE.documents:
            found = PACKAGE.documents[digest]
            self._answer(200, found.content, found.media_type or "", digest)
        elif digest in PACKAGE.layers:
            self._answer(200, b"".join(PACKAGE.layers[digest].chunks()), "application/octet-stream", digest)
        else:
            self._answer(404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}', "application/json")

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, body: bytes, kind: str, digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads along."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
