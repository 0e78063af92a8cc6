"""A node whose pods are connected by the bridge network, and the audit of what that leaves."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from kernel import nftables
from kernel.fd import Fd, open_path
from runtime.network import Addresses
from runtime.network.bridge import IP_FORWARD, SUBNET, BridgeNetwork
from runtime.paths import Paths
from runtime.sandbox.config import PortMapping, SandboxConfig
from runtime.sandbox.state import Sandbox
from runtime.store import Store
from tests.support import network

#: Sandbox ids, for as many pods as a test wants.
IDS = [f"{number:02x}" * 32 for number in range(1, 33)]


def sandbox(sandbox_id: str, *ports: PortMapping) -> Sandbox:
    """A pod whose name is the beginning of its id."""
    config = SandboxConfig(name=f"pod-{sandbox_id[:2]}", namespace="default", uid=sandbox_id, port_mappings=list(ports))
    return Sandbox(id=sandbox_id, config=config)


@dataclass
class Node:
    """A node with pods whose namespaces are pinned, and the network under test."""

    paths: Paths
    store: Store
    network: BridgeNetwork

    def pin(self, sandbox_id: str) -> Path:
        return self.paths.run_sandbox(sandbox_id) / "net"

    def attach(self, sandbox_id: str, *ports: PortMapping) -> Addresses:
        return self.network.attach(sandbox(sandbox_id, *ports), self.pin(sandbox_id))

    @contextmanager
    def inside(self, sandbox_id: str) -> Iterator[Fd]:
        with open_path(self.pin(sandbox_id)) as found:
            yield found

    @contextmanager
    def connection_to(self, sandbox_id: str, ip: str) -> Iterator[tuple[socket.socket, socket.socket]]:
        """A TCP connection from the node to a pod: our end and the pod's."""
        with (
            self.inside(sandbox_id) as pod,
            network.listen(pod) as listener,
            network.connect(None, ip, listener.getsockname()[1]) as client,
            listener.accept()[0] as server,
        ):
            yield client, server

    def restarted(self) -> BridgeNetwork:
        """The network as a daemon that starts now sees it."""
        return BridgeNetwork(self.store, name="bridge0", state_dir=self.paths.run_dir)


@contextmanager
def node(
    directory: Path, pods: int, *, subnet: IPv4Network = SUBNET, kept: Set[str] = frozenset(), forwarding: str = "0"
) -> Iterator[Node]:
    """A node with *pods* pods and the links *kept*; afterwards nothing of the pods' network may be left on it."""
    assert network.links_in() == {"lo", *kept}, "this must not be the node that runs the tests"
    IP_FORWARD.write_text(forwarding)  # a new namespace inherits the first one's
    with network.pinned_pods(directory, *IDS[:pods]) as paths, ExitStack() as undo:
        store = Store(paths.database)
        undo.callback(store.close)
        here = Node(paths, store, BridgeNetwork(store, name="bridge0", subnet=subnet, state_dir=paths.run_dir))
        yield here
        for sandbox_id in IDS[:pods]:
            here.network.detach(sandbox_id)
        here.network.shutdown()
        assert network.links_in() == {"lo", *kept}
        assert nftables.tables() == []
        assert store.rows("SELECT * FROM addresses") == []
        assert IP_FORWARD.read_text().strip() == forwarding
        assert not (paths.run_dir / "network.json").exists()
