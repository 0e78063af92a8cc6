"""Network namespaces for tests, and real packets between them.

``in_a_node`` runs a function on a node of its own: a child whose network, mounts, IPC and host name are
not the test run's.  A socket belongs to the namespace it was opened in, so the helpers below open one
inside a namespace and hand it out: no process has to be there.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TypeVar

from kernel import namespace
from kernel._linux import lib
from kernel.fd import Fd, open_path
from kernel.netlink import Netlink
from runtime.paths import Paths
from runtime.sandbox import namespaces
from tests.support import child

T = TypeVar("T")


def in_a_node(function: Callable[[], T]) -> T:
    """What *function* returns on a node of its own, where only the loopback is up."""
    return child.run(function, namespaces=("mount", "network", "ipc", "uts"))


def new_namespace() -> Fd:
    """A network namespace that lives as long as the descriptor, its loopback up."""

    def work() -> Fd:
        namespace.unshare(lib.CLONE_NEWNET)
        with Netlink() as here:
            here.set_up("lo")
        return namespace.open_namespace("thread-self", "net")

    return namespace.in_new_thread(work)


@contextmanager
def pinned_pods(directory: Path, *sandbox_ids: str) -> Iterator[Paths]:
    """Pods with pinned network namespaces below *directory*; all is gone afterwards."""
    paths = Paths(directory / "root", directory / "run")
    paths.prepare()
    namespaces.prepare(paths)
    try:
        for sandbox_id in sandbox_ids:
            namespaces.create(paths, sandbox_id, network=True, ipc=False, hostname=None, sysctls={})
        yield paths
    finally:
        for sandbox_id in sandbox_ids:
            namespaces.remove(paths, sandbox_id)
        namespaces.release(paths)


@contextmanager
def outside_world(node: IPv4Interface, outside: IPv4Interface) -> Iterator[Fd]:
    """A machine beyond the node, which has no route to any pod: a namespace behind a link of its own."""
    with new_namespace() as world, Netlink() as here, Netlink(world) as there:
        here.create_veth("uplink", peer_name="eth0", peer_namespace=world)
        here.set_address(here.link("uplink"), node)
        there.set_address(there.link("eth0"), outside)
        there.set_up("eth0")
        try:
            yield world
        finally:
            here.delete_link("uplink")


def listen(inside: Fd | None = None, port: int = 0) -> socket.socket:
    """A TCP listener on every address of *inside*, or of the current namespace."""

    def work() -> socket.socket:
        return socket.create_server(("0.0.0.0", port))

    return work() if inside is None else namespace.in_namespace(inside, "net", work)


def connect(inside: Fd | None, address: str, port: int, timeout_seconds: float = 5) -> socket.socket:
    """A TCP connection from *inside*, or from the current namespace."""

    def work() -> socket.socket:
        return socket.create_connection((address, port), timeout=timeout_seconds)

    return work() if inside is None else namespace.in_namespace(inside, "net", work)


def peer_of_a_connection(listener: socket.socket, source: Fd | None, address: str) -> str:
    """Connect from *source* to *listener* at *address*, pass a word each way, and return whom the listener saw."""
    with connect(source, address, listener.getsockname()[1]) as client:
        server, (peer, _) = listener.accept()
        with server:
            client.sendall(b"ping")
            assert server.recv(4) == b"ping"
            server.sendall(b"pong")
            assert client.recv(4) == b"pong"
    return str(peer)


def ping(inside: Fd | None, address: str, timeout_seconds: float = 5) -> bool:
    """Whether *address* answers an ICMP echo request from *inside*."""

    def work() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)

    with work() if inside is None else namespace.in_namespace(inside, "net", work) as raw:
        request = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, 1)
        total = sum(struct.unpack("!4H", request))
        checksum = ~(total + (total >> 16)) & 0xFFFF
        raw.sendto(request[:2] + struct.pack("!H", checksum) + request[4:], (address, 0))
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0 and select.select([raw], [], [], left)[0]:
            answer, (peer, _) = raw.recvfrom(1500)
            if peer == address and answer[20] == 0:
                return True
    return False


def links_in(inside: Fd | None = None) -> set[str]:
    """The names of the links in a namespace."""
    with Netlink(inside) as here:
        return {link.name for link in here.links()}


def address_of(pin: Path, link: str) -> list[IPv4Interface]:
    """The addresses of *link* in a pinned namespace."""
    with open_path(pin) as inside, Netlink(inside) as here:
        return here.addresses(here.link(link))


def gateways_of(pin: Path) -> list[IPv4Address]:
    """Where a pinned namespace sends what it has no other route for."""
    with open_path(pin) as inside, Netlink(inside) as here:
        return here.default_gateways()


def refuses(inside: Fd | None, address: str, port: int) -> bool:
    """Whether a connection is refused or never answered."""
    with suppress(OSError):
        connect(inside, address, port, 0.3).close()
        return False
    return True
