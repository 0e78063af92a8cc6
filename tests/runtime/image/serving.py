"""A registry that has one image under every name, and what may go wrong with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

from runtime.image.layerwriter import Compression, LayerWriter
from runtime.image.pack import Package, Packer
from tests.support.registry import reply


def package(
    *names: str, compression: Compression = "gzip", docker: bool = False, architecture: str | None = None, size: int = 20_000
) -> Package:
    """An image with one layer per name."""
    packer = Packer(docker=docker, architecture=architecture)
    for name in names:
        layer = LayerWriter(compression)
        layer.directory("d", 0o755)
        layer.file(f"d/{name}", os.urandom(size))
        packer.add_layer(layer)
    return packer.pack()


Serve = Callable[[BaseHTTPRequestHandler, Package], bool]


def serving(made: Package, fault: Serve = lambda request, made: False) -> Callable[[BaseHTTPRequestHandler], None]:
    """A registry that has *made* under every tag; *fault* may answer instead and says whether it did."""

    def handle(request: BaseHTTPRequestHandler) -> None:
        if fault(request, made):
            return
        _, kind, target = request.path.partition("?")[0].rsplit("/", 2)
        if kind == "manifests":
            document = made.documents.get(target) or made.documents[made.root.digest]
            headers = {"Content_Type": document.media_type or "", "Docker_Content_Digest": document.digest}
            reply(request, 200, document.content, **headers)
        elif target in made.layers:
            body = b"".join(made.layers[target].chunks())
            reply(request, 200, body)
        else:
            reply(request, 200, made.documents[target].content)

    return handle


def stall(reached: threading.Event, until_over: threading.Event, part: str, after: int) -> Serve:
    """Send *after* bytes of what has *part* in its path, then nothing."""

    def fault(request: BaseHTTPRequestHandler, made: Package) -> bool:
        digest = request.path.rsplit("/", 1)[1]
        if part not in request.path or (after and digest not in made.layers):
            return False
        if after:
            request.send_response(200)
            request.send_header("Content-Length", str(made.layers[digest].size))
            request.end_headers()
            request.wfile.write(b"".join(made.layers[digest].chunks())[:after])
            request.wfile.flush()
        reached.set()
        until_over.wait(20)
        request.close_connection = True
        return True

    return fault
