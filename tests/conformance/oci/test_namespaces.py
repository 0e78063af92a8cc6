"""``linux.namespaces`` and what is set in them: new ones, the callers', joined ones; names, ids, clocks, sysctls."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.oci.bundle import map_ids, namespace, without_namespace
from tests.conformance.oci.container import Container
from tests.support.requires import requires

#: By the spec's name, that of the file in /proc/PID/ns.
FILES = {
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "mount": "mnt",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}
#: Those that can be left out while the rest of an ordinary container stays as it is.
OPTIONAL = ("pid", "network", "ipc", "uts", "cgroup")


def inside(container: Container, kind: str) -> str:
    """A namespace of the container, as the link in /proc names it."""
    return container.run(["readlink", f"/proc/self/ns/{FILES[kind]}"]).output.strip()


@contextmanager
def somebody(*flags: str) -> Iterator[int]:
    """The id of a process in new namespaces, which unshare(1)'s *flags* name."""
    holder = subprocess.Popen(["unshare", *flags, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write(b"ready\n")
        holder.stdin.flush()
        holder.stdout.readline()
        yield holder.pid
    finally:
        holder.communicate()


@pytest.mark.parametrize("kind", [*OPTIONAL, "mount"])
def test_a_listed_namespace_is_a_new_one(container: Container, kind: str) -> None:
    assert inside(container, kind) != os.readlink(f"/proc/self/ns/{FILES[kind]}")


@pytest.mark.parametrize("kind", OPTIONAL)
def test_one_that_is_not_listed_is_the_callers(container: Container, kind: str) -> None:
    without_namespace(container.config, kind)
    if kind == "uts":
        del container.config["hostname"]
    assert inside(container, kind) == os.readlink(f"/proc/self/ns/{FILES[kind]}")


@pytest.mark.parametrize("kind", ["network", "ipc", "uts"])
def test_a_path_is_joined(container: Container, kind: str) -> None:
    container.config.pop("hostname")
    with somebody(f"--{'net' if kind == 'network' else kind}") as pid:
        namespace(container.config, kind)["path"] = f"/proc/{pid}/ns/{FILES[kind]}"
        assert inside(container, kind) == os.readlink(f"/proc/{pid}/ns/{FILES[kind]}")


def test_the_pid_namespace_of_another_container_is_joined(container: Container) -> None:
    container.launch("sleep 100")
    first = container.state()["pid"]
    namespace(container.config, "pid")["path"] = f"/proc/{first}/ns/pid"
    container.linux["cgroupsPath"] = f"/{container.id}-second"
    container.set_program("readlink /proc/self/ns/pid; test $$ != 1; ps | grep -c 'sleep 10[0]'")
    container.save()
    done = container.call("run", "--bundle", str(container.bundle), f"{container.id}-second")
    assert done.lines == [os.readlink(f"/proc/{first}/ns/pid"), "1"]


@pytest.mark.parametrize("path", ["/nowhere", "/proc/self/ns/uts", "/etc/passwd"])
def test_a_path_to_something_else_is_refused(container: Container, path: str) -> None:
    namespace(container.config, "network")["path"] = path
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_a_namespace_is_listed_once(container: Container) -> None:
    container.linux["namespaces"].append({"type": "ipc"})
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_a_namespace_of_no_known_kind_is_refused(container: Container) -> None:
    container.linux["namespaces"].append({"type": "nonsense"})
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_the_host_name_is_set(container: Container) -> None:
    container.config["hostname"] = "web-1.example.org"
    assert container.run(["hostname"]).output == "web-1.example.org\n"
    assert os.uname().nodename != "web-1.example.org"


def test_the_domain_name_is_set(container: Container) -> None:
    container.config["domainname"] = "example.org"
    assert container.run(["cat", "/proc/sys/kernel/domainname"]).output == "example.org\n"


def test_a_host_name_is_not_set_in_the_callers_namespace(container: Container) -> None:
    without_namespace(container.config, "uts")
    assert container.create(expect=None).code != 0
    assert os.uname().nodename != container.config["hostname"]


def test_loopback_is_up_in_a_new_network(container: Container) -> None:
    assert "UP" in container.run(["ip", "link", "show", "dev", "lo"]).output


def test_ids_are_mapped(container: Container) -> None:
    map_ids(container.config, first=200000, size=1000)
    done = container.run("cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g")
    assert [line.split() for line in done.lines] == [["0", "200000", "1000"]] * 2 + [["0"], ["0"]]


def test_several_ranges_of_ids_are_mapped(container: Container) -> None:
    namespace(container.config, "user")
    ranges = [{"containerID": 0, "hostID": 200000, "size": 10}, {"containerID": 1000, "hostID": 300000, "size": 5}]
    container.linux["uidMappings"] = container.linux["gidMappings"] = ranges
    container.process["user"] = {"uid": 1003, "gid": 1004}
    container.launch("sleep 100")
    found = os.stat(f"/proc/{container.state()['pid']}")
    assert (found.st_uid, found.st_gid) == (300003, 300004)


def test_a_user_that_is_not_mapped_is_refused(container: Container) -> None:
    map_ids(container.config, size=10)
    container.process["user"] = {"uid": 1000, "gid": 0}
    assert container.run("true", expect=None).code != 0
    assert not container.exists()


def test_a_user_namespace_without_mappings_maps_every_id_to_itself(container: Container) -> None:
    namespace(container.config, "user")
    assert container.run(["cat", "/proc/self/uid_map"]).output.split() == ["0", "0", str(2**32 - 1)]


def test_a_mapped_container_has_everything_an_ordinary_one_has(container: Container) -> None:
    map_ids(container.config)
    script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; test -w /dev/shm; ls /dev/pts; hostname; readlink /proc/self/fd/0"
    assert "4" in container.run(script).lines


@requires("kernel 5.6")
def test_the_clocks_are_shifted(container: Container) -> None:
    namespace(container.config, "time")
    container.linux["timeOffsets"] = {"monotonic": {"secs": 1000, "nanosecs": 5}, "boottime": {"secs": 7_000_000}}
    done = container.run("cat /proc/self/timens_offsets; cat /proc/uptime")
    assert [line.split() for line in done.lines[:2]] == [["monotonic", "1000", "5"], ["boottime", "7000000", "0"]]
    assert float(done.lines[2].split()[0]) > 7_000_000


@pytest.mark.parametrize("key", ["net.ipv4.ip_forward", "net/ipv4/ip_forward"])
def test_sysctls_are_set(container: Container, key: str) -> None:
    container.linux["sysctl"] = {key: "1", "kernel.msgmax": "4242"}
    assert container.run(["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax"]).lines == ["1", "4242"]
    assert Path("/proc/sys/kernel/msgmax").read_text() != "4242\n"


@pytest.mark.parametrize("key", ["net.ipv4.ip_forward", "kernel.msgmax"])
def test_a_sysctl_of_the_callers_namespace_is_refused(container: Container, key: str) -> None:
    without_namespace(container.config, "network" if key.startswith("net") else "ipc")
    container.linux["sysctl"] = {key: "1"}
    assert container.create(expect=None).code != 0
    assert Path("/proc/sys/kernel/msgmax").read_text() != "1\n"


def test_a_sysctl_without_a_namespace_is_refused(container: Container) -> None:
    container.linux["sysctl"] = {"vm.swappiness": "60"}
    assert container.create(expect=None).code != 0
    assert not container.exists()
