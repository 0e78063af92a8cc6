"""Containers in a user namespace, whose root has every right in there: none of them may be over the runtime or the node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel.capability import CAPABILITIES
from runtime.spec import schema
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine
from tests.safety.oci import Oci
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

FIRST, COUNT = 200_000, 65_536
LINKS = "exe root cwd fd/0 fd/6 fd/7 fd/9 fd/20 ns/mnt"
LOOK = (
    f"for p in /proc/[0-9]*; do for l in {LINKS}; do readlink $p/$l; done; ls $p/map_files; head -c 64 $p/environ;"
    " (echo x > $p/exe) && echo WROTE; done 2>/dev/null"
)


@pytest.fixture
def almighty(bundle: Bundle) -> Bundle:
    """Root of a user namespace, with every capability, and nothing read-only or hidden."""
    every = sorted(CAPABILITIES)
    bundle.process.capabilities = schema.Capabilities(bounding=every, effective=every, permitted=every)
    bundle.spec.linux.namespaces.append(schema.Namespace(type="user"))
    mapping = schema.IdMapping(container_id=0, host_id=FIRST, size=COUNT)
    bundle.spec.linux.uid_mappings, bundle.spec.linux.gid_mappings = [mapping], [mapping]
    bundle.spec.linux.readonly_paths, bundle.spec.linux.masked_paths = [], []
    for mount in bundle.spec.mounts:
        mount.options = [option for option in mount.options if option != "ro"]
    for directory in (bundle.directory.parent, bundle.directory):
        directory.chmod(0o755)
    return bundle


def test_its_root_is_nobody_to_the_node(engine: Engine, almighty: Bundle) -> None:
    """CVE-2024-40635, CVE-2023-25809: every right over itself, and none over what is the node's."""
    almighty.script(
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches /sys/kernel/uevent_helper"
        " /proc/sys/kernel/modprobe; do (echo x > $f) 2>/dev/null && echo $f; done;"
        " mknod /tmp/memory c 1 1 2>/dev/null && echo mknod; mount -t ext4 /dev/sda /mnt 2>/dev/null && echo mount;"
        " hostname changed && echo own"
    )
    before = Path("/proc/sys/kernel/core_pattern").read_text(), os.uname().nodename
    result = engine.run(almighty)
    assert result.lines == ["own"], result
    assert (Path("/proc/sys/kernel/core_pattern").read_text(), os.uname().nodename) == before


def test_what_it_makes_is_its_own(engine: Engine, almighty: Bundle, outside: Path) -> None:
    """CVE-2024-45310: places that are made for it belong to its root, and to nobody of the node's."""
    almighty.mount(outside, "/made/deep")
    almighty.script("stat -c %u /made /made/deep")
    assert engine.run(almighty).lines[0] == "0"
    assert (almighty.rootfs / "made").stat().st_uid == FIRST
    assert outside.stat().st_uid == 0


def test_a_neighbour_with_every_right_sees_nothing_of_an_exec(oci: Oci, almighty: Bundle) -> None:
    """CVE-2016-9962, CVE-2019-5736, P3, P4: who enters is not to be looked into, though its user is the container's own root."""
    almighty.script(f"echo looking; while :; do {LOOK}; done")
    with oci.create(almighty) as container:
        container.start()
        for _ in range(20):
            assert container.execute("true").code == 0
        seen = set(container.said().splitlines())
    assert "looking" in seen
    assert "/bin/busybox" in seen or "/bin/sh" in seen  # it did look, at itself at least
    leaked = [line for line in seen if "memfd" in line or "WROTE" in line or "kernelet" in line or "python" in line]
    assert leaked == []


def test_a_half_made_neighbour_is_not_looked_into(core: Core, almighty: Bundle) -> None:
    """CVE-2016-9962: in the same user and pid namespaces, with CAP_SYS_PTRACE over all that is in there.

    Twice over: the runner is not dumpable, and its memory belongs to the node's user namespace, in which it was executed.
    """
    almighty.script("exec sleep 100")
    with core.create(almighty) as container:
        other = Bundle(almighty.directory / "spy")
        other.spec.linux = almighty.spec.linux
        other.process.capabilities = almighty.process.capabilities
        other.spec.linux.namespaces = [
            schema.Namespace(type=each.type, path=f"/proc/{container.pid}/ns/{each.type}" if each.type in ("pid", "user") else "")
            for each in almighty.spec.linux.namespaces
        ]
        other.script(f"{LOOK}; kill -0 1 && echo in sight")
        output = core.run(other).output
    assert "in sight" in output
    assert "memfd" not in output
    assert "WROTE" not in output
