"""Debian's CNI plugins (bridge, host-local, portmap) on a node of their own, and the built-in network beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kernel import nftables
from kernel.fd import open_path
from kernel.netlink import Netlink
from runtime.errors import NetworkFailed
from runtime.network.bridge import BridgeNetwork
from runtime.network.cni import CniNetwork
from runtime.network.selection import SelectedNetwork
from runtime.paths import Paths
from runtime.sandbox import namespaces
from runtime.sandbox.config import PortMapping
from runtime.store import Store
from tests.support import network
from tests.support.bridge import IDS, sandbox
from tests.support.requires import cni_directory, requires

pytestmark = requires("root", "cni-plugins", "iptables")

WEB = PortMapping(container_port=80, host_port=8080)


class Node:
    """A node whose pods have pinned namespaces; its directory of configurations is empty at first."""

    def __init__(self, paths: Paths, store: Store) -> None:
        self.paths = paths
        self.configurations = paths.run_dir / "net.d"
        self.configurations.mkdir(exist_ok=True)
        programs = cni_directory()
        assert programs is not None
        self.cni = CniNetwork(store, directory=self.configurations, programs=[programs])
        self.network = SelectedNetwork("auto", BridgeNetwork(store, name="bridge0", state_dir=paths.run_dir), self.cni)

    def configure(self, version: str = "1.0.0", subnet: str = "10.99.0.0/24", **ipam: Any) -> None:
        ranges = [[{"subnet": subnet}], [{"subnet": "fd00:99::/64"}]]
        where = {"type": "host-local", "dataDir": str(self.paths.run_dir / "ipam"), "ranges": ranges} | ipam
        bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": where}
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
        document = {"cniVersion": version, "name": "pods", "plugins": [bridge, portmap]}
        (self.configurations / "10-pods.conflist").write_text(json.dumps(document))

    def attach(self, sandbox_id: str, *ports: PortMapping) -> Any:
        return self.network.attach(sandbox(sandbox_id, *ports), self.paths.run_sandbox(sandbox_id) / "net")

    def reserved(self) -> set[str]:
        """The addresses that host-local has given and not taken back."""
        found = self.paths.run_dir / "ipam/pods"
        return {path.name for path in found.iterdir() if path.name[0].isdigit()} if found.exists() else set()


@contextmanager
def node(directory: Path, pods: int) -> Iterator[Node]:
    with network.pinned_pods(directory, *IDS[:pods]) as paths:
        store = Store(paths.database)
        yield Node(paths, store)
        assert store.rows("SELECT id FROM attachments") == []
        store.close()


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_a_pod_of_the_clusters_network(tmp_path: Path, version: str) -> None:
    def test() -> None:
        with node(tmp_path, 2) as here:
            here.configure(version)
            assert here.network.problem() is None
            first, second = here.attach(IDS[0]), here.attach(IDS[1])
            assert (first.ip, first.additional) == ("10.99.0.2", ("fd00:99::2",))
            assert here.network.addresses(IDS[0]) == first
            with open_path(here.paths.run_sandbox(IDS[0]) / "net") as one, network.listen(one) as listener:
                assert network.ping(one, second.ip)
                assert network.peer_of_a_connection(listener, None, first.ip) == "10.99.0.1"
            here.cni.check(IDS[0])
            assert here.reserved() == {"10.99.0.2", "10.99.0.3"}
            for sandbox_id in IDS[:2]:
                here.network.detach(sandbox_id)
            assert here.reserved() == set()

    network.in_a_node(test)


def test_a_port_of_the_host_by_portmap(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            here.configure()
            here.attach(IDS[0], WEB)
            with (
                open_path(here.paths.run_sandbox(IDS[0]) / "net") as pod,
                network.listen(pod, 80) as listener,
                network.connect(None, "127.0.0.1", 8080),
                listener.accept()[0],
            ):
                pass
            here.network.detach(IDS[0])
            assert network.refuses(None, "127.0.0.1", 8080)

    network.in_a_node(test)


def test_check_sees_what_is_broken(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            here.configure()
            here.attach(IDS[0])
            with open_path(here.paths.run_sandbox(IDS[0]) / "net") as pod, Netlink(pod) as inside:
                inside.delete_link("eth0")
            with pytest.raises(NetworkFailed, match=r"CNI plugin bridge \(CHECK\): .*eth0"):
                here.cni.check(IDS[0])
            here.network.detach(IDS[0])

    network.in_a_node(test)


def test_a_full_subnet_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 2) as here:
            here.configure(subnet="10.99.0.0/30")
            here.attach(IDS[0])
            with pytest.raises(NetworkFailed, match=r"CNI plugin bridge \(ADD\): .*no IP addresses available in range"):
                here.attach(IDS[1])
            assert network.links_in(None) >= {"cni0"}
            with open_path(here.paths.run_sandbox(IDS[1]) / "net") as pod:
                assert network.links_in(pod) == {"lo"}
            here.network.detach(IDS[0])

    network.in_a_node(test)


def test_a_pod_whose_namespace_is_gone_gives_its_address_back(tmp_path: Path) -> None:
    """As after a reboot: the reservations of host-local outlive it."""

    def test() -> None:
        with node(tmp_path, 1) as here:
            here.configure()
            here.attach(IDS[0], WEB)
            namespaces.remove(here.paths, IDS[0])
            here.network.sweep([])
            assert here.reserved() == set()

    network.in_a_node(test)


def test_pods_of_both_networks_live_beside_each_other(tmp_path: Path) -> None:
    """The cluster's network is installed while a pod of the built-in one runs, and goes again."""

    def test() -> None:
        with node(tmp_path, 3) as here:
            assert here.attach(IDS[0]).ip == "10.85.0.2"
            here.configure()
            assert here.attach(IDS[1]).ip == "10.99.0.2"
            (here.configurations / "10-pods.conflist").unlink()
            assert here.attach(IDS[2]).ip == "10.85.0.3"
            alive = [sandbox(sandbox_id) for sandbox_id in IDS[:3]]
            here.network.sweep(alive)
            assert [here.network.addresses(each.id).ip for each in alive] == ["10.85.0.2", "10.99.0.2", "10.85.0.3"]  # type: ignore[union-attr]
            for each in alive:
                here.network.detach(each.id)
            assert here.reserved() == set()
            here.network.shutdown()
            assert "kernelet-bridge0" not in nftables.tables()

    network.in_a_node(test)


def test_a_range_that_the_cluster_gives_this_node(tmp_path: Path) -> None:
    def test() -> None:
        with node(tmp_path, 1) as here:
            here.configure(ranges=[])
            path = here.configurations / "10-pods.conflist"
            document = json.loads(path.read_text())
            document["plugins"][0]["capabilities"] = {"ipRanges": True}
            path.write_text(json.dumps(document))
            here.network.set_pod_subnets(["10.77.3.0/24"])
            assert here.attach(IDS[0]).ip == "10.77.3.2"
            here.network.detach(IDS[0])

    network.in_a_node(test)
