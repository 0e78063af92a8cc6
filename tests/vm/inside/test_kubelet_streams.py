"""Exec, attach and port-forward through a real kubelet, as the API server asks for them: over SPDY and a WebSocket."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request

from tests.cri.streaming.client import SECONDS, Client
from tests.support.requires import requires
from tests.vm.inside.test_kubelet import Kubelet, kubelet

__all__ = ["kubelet"]

PORT = 10250
POD = """apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: probed
    image: busybox
    imagePullPolicy: Never
    stdin: true
    command: ["sh", "-c", "touch /ready; while read line; do echo got $line; done"]
    readinessProbe: {exec: {command: [test, -e, /ready]}, periodSeconds: 1}
"""
WHERE = "default/web-node"

pytestmark = [requires("root", "controllers memory cpu pids"), pytest.mark.timeout(400)]


@contextlib.contextmanager
def connected() -> Iterator[ssl.SSLSocket]:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", PORT), SECONDS) as plain, trusting.wrap_socket(plain) as connection:
        yield connection


@contextlib.contextmanager
def spdy(path: str, protocol: str = "v4.channel.k8s.io") -> Iterator[Client]:
    """A client of the kubelet's, upgraded."""
    with connected() as connection:
        lines = (f"POST {path} HTTP/1.1", "Host: node", "Content-Length: 0", "Connection: Upgrade", "Upgrade: SPDY/3.1")
        connection.sendall("\r\n".join((*lines, f"X-Stream-Protocol-Version: {protocol}", "", "")).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            piece = connection.recv(1)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        yield Client(connection)


def exec_path(*command: str) -> str:
    streams = [("input", "1"), ("output", "1"), ("error", "1")]
    return f"/exec/{WHERE}/probed?" + urlencode([*(("command", word) for word in command), *streams], quote_via=quote)


@pytest.fixture
def pod(kubelet: Kubelet) -> None:
    (kubelet.manifests / "web.yaml").write_text(POD)
    assert kubelet.until("probed", "ready")["state"]["running"]


def test_exec_attach_and_port_forward(pod: None) -> None:
    with spdy(exec_path("sh", "-c", "cat; echo bad >&2; exit 7")) as client:
        for kind in ("error", "stdin", "stdout", "stderr"):
            client.name(kind)
        for _ in range(20):
            client.say("stdin", bytes(50_000))
        client.say("stdin", b"", ends=True)
        out, err, error = client.hear_all("stdout", "stderr", "error")
        assert (out, err) == (bytes(1_000_000), b"bad\n")
        assert json.loads(error)["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    with spdy(f"/attach/{WHERE}/probed?input=1&output=1&error=1") as client:
        for kind in ("error", "stdin", "stdout", "stderr"):
            client.name(kind)
        client.say("stdin", b"it\n")
        client.hear("stdout", b"got it\n")
    with socket.create_server(("127.0.0.1", 0)) as server, spdy(f"/portForward/{WHERE}", "portforward.k8s.io") as client:
        headers = {"port": str(server.getsockname()[1]), "requestid": "0"}
        client.names["error"] = client.open({"streamtype": "error", **headers}, ends=True)
        client.names["data"] = client.open({"streamtype": "data", **headers})
        there, _ = server.accept()
        with there:
            client.say("data", b"question")
            assert there.recv(100) == b"question"
            there.sendall(b"answer")
        assert client.hear_all("data", "error") == [b"answer", b""]


def test_exec_over_a_websocket(pod: None) -> None:
    """v5: the kubelet passes it on, or translates it to SPDY; to us it is one or the other."""
    target = exec_path("sh", "-c", "read line; echo got $line; exit 3")
    messages = WSConnection(ConnectionType.CLIENT)
    said: dict[int, bytes] = {}
    with connected() as connection:
        connection.sendall(messages.send(Request(host="node", target=target, subprotocols=["v5.channel.k8s.io"])))
        is_open = True
        while is_open:
            messages.receive_data(connection.recv(65536))
            for event in messages.events():
                match event:
                    case AcceptConnection(subprotocol=protocol):
                        assert protocol == "v5.channel.k8s.io"
                        connection.sendall(messages.send(BytesMessage(data=b"\0it\n")))
                    case BytesMessage(data=content) if content:
                        said[content[0]] = said.get(content[0], b"") + bytes(content[1:])
                    case CloseConnection():
                        is_open = False
    assert said[1] == b"got it\n"
    assert json.loads(said[3])["details"]["causes"] == [{"reason": "ExitCode", "message": "3"}]
