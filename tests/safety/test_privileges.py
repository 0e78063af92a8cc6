"""Rights that come back, ids that overflow, files of the kernel's that stay writable."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from runtime.container.passwd import parse_group, parse_passwd
from runtime.errors import InvalidSpec
from runtime.spec import load, schema
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine, Result
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

CAP_CHOWN, CAP_NET_RAW = 0, 13
VFS_CAP_REVISION_2, EFFECTIVE = 0x02000000, 1


def give_capabilities(file: Path, *, permitted: int = 0, inheritable: int = 0) -> None:
    """Capabilities of a file (capabilities(7)), as an image brings them: effective at once."""
    os.setxattr(file, "security.capability", struct.pack("<5I", VFS_CAP_REVISION_2 | EFFECTIVE, permitted, inheritable, 0, 0))


def evil_busybox(bundle: Bundle) -> Path:
    """A busybox of its own, to be given capabilities."""
    file = bundle.rootfs / "evil/busybox"
    file.parent.mkdir()
    file.write_bytes((bundle.rootfs / "bin/busybox").read_bytes())
    file.chmod(0o755)
    return file


def run_with_file_capabilities(engine: Engine, bundle: Bundle, inheritable: list[str]) -> dict[str, int]:
    """The sets of a user's process that executed a file with inheritable capabilities."""
    file = evil_busybox(bundle)
    give_capabilities(file, inheritable=1 << CAP_NET_RAW)
    bundle.process.user = schema.User(uid=1000, gid=1000)
    assert bundle.process.capabilities is not None
    bundle.process.capabilities.inheritable = inheritable
    bundle.process.args = ["/evil/busybox", "grep", "Cap", "/proc/self/status"]
    return {line.split(":")[0]: int(line.split()[1], 16) for line in engine.run(bundle).lines}


def test_a_file_gives_no_capability_back(engine: Engine, bundle: Bundle) -> None:
    """CVE-2022-29162, CVE-2022-27650, CVE-2022-27649, CVE-2022-27651, CVE-2022-27652, CVE-2022-24769: an inheritable set
    that is not empty lets a file's inheritable capabilities give a user what was taken.
    """
    sets = run_with_file_capabilities(engine, bundle, [])
    assert sets["CapInh"] == sets["CapPrm"] == sets["CapEff"] == sets["CapAmb"] == 0


def test_an_inheritable_set_would_give_it_back(engine: Engine, bundle: Bundle) -> None:
    """CVE-2022-29162: the attack works on a set that is not empty; who writes it into config.json gets it."""
    sets = run_with_file_capabilities(engine, bundle, ["CAP_NET_RAW"])
    assert sets["CapEff"] == 1 << CAP_NET_RAW


def test_an_exec_has_no_inheritable_set_either(core: Core, bundle: Bundle) -> None:
    """CVE-2022-24769: nor has the process that is exec'd into the container, as root and as a user."""
    bundle.script("exec sleep 100")
    with core.create(bundle) as container:
        container.start()
        for uid in (0, 1000):
            result = container.execute("grep", "-E", "CapInh|CapAmb", "/proc/self/status", user=schema.User(uid=uid))
            assert {line.split()[1] for line in result.lines} == {"0" * 16}


def test_defaults_have_no_inheritable_set() -> None:
    """CVE-2022-24769: nor do the specs that are made here."""
    from tests.support import wishes

    process = wishes.spec(["true"]).process
    assert process is not None
    assert process.capabilities is not None
    assert process.capabilities.inheritable == process.capabilities.ambient == []


def test_what_is_not_in_the_bounding_set_stays_away(engine: Engine, bundle: Bundle) -> None:
    """CVE-2022-27650: a file with permitted capabilities beyond the bounding set gives none of them."""
    file = evil_busybox(bundle)
    give_capabilities(file, permitted=1 << 21)  # CAP_SYS_ADMIN
    bundle.process.user = schema.User(uid=1000, gid=1000)
    bundle.process.args = ["/evil/busybox", "grep", "Cap", "/proc/self/status"]
    result = engine.run(bundle)
    assert result.refusal  # the kernel refuses an effective capability that it cannot give
    assert "operation not permitted" in result.refusal


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uid", 1 << 32), ("uid", (1 << 32) - 1), ("uid", -1), ("uid", 1 << 64), ("gid", 1 << 32), ("gid", -1),
        ("additionalGids", [1 << 32]), ("additionalGids", [-1]), ("umask", 1 << 32), ("umask", -1),
    ],
)  # fmt: skip
def test_a_number_that_is_no_id_is_refused(field: str, value: object) -> None:
    """CVE-2024-40635: 2^32 is root to who cuts it off, and -1 is "leave it as it is"."""
    import json

    document = {"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "process": {"args": ["x"], "cwd": "/", "user": {field: value}}}
    with pytest.raises(InvalidSpec, match=rf"process\.user\.{field}"):
        load.load(json.dumps(document).encode())


@pytest.mark.parametrize("uid", [1, 1000, (1 << 31) - 1, 1 << 31, (1 << 32) - 2])
def test_the_largest_ids_arrive_whole(engine: Engine, bundle: Bundle, uid: int) -> None:
    """CVE-2024-40635: what is an id to the kernel is not another one in between."""
    bundle.process.user = schema.User(uid=uid, gid=uid, additional_gids=[uid])
    bundle.process.args = ["grep", "-E", "^(Uid|Gid|Groups)", "/proc/self/status"]
    words = engine.run(bundle).output.split()
    assert [word for word in words if word.isdigit()] == [str(uid)] * 9


def test_a_number_of_an_image_is_no_id_by_being_cut_off() -> None:
    """CVE-2026-46680, CVE-2024-40635: lines of /etc/passwd with numbers that are none are no lines."""
    lines = b"a:x:4294967296:0::/:\nb:x:-1:0::/:\nc:x:0x0:0::/:\nd:x:\xd9\xa0:0::/:\ne:x:1_0:0::/:\nf:x: 0:0::/:\ng:x:7:7::/:\n"
    assert [entry.name for entry in parse_passwd(lines)] == ["g"]
    assert [entry.name for entry in parse_group(b"a:x:4294967296:\nb:x:+0:\nc:x:7:\n")] == ["c"]


def writable_files(engine: Engine, bundle: Bundle) -> Result:
    bundle.script(
        "for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/kcore /sys/power/state"
        " /sys/kernel/uevent_helper /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/new; do"
        " ([ -e $f ] || mkdir $f) 2>/dev/null; (echo 0 >> $f) 2>/dev/null && echo $f; done;"
        " mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo remounted"
    )
    return engine.run(bundle)


def test_no_file_of_the_kernels_is_writable(engine: Engine, bundle: Bundle) -> None:
    """CVE-2023-25809: /sys/fs/cgroup was writable; and what else changes the node."""
    assert set(writable_files(engine, bundle).lines) <= {"/proc/kcore"}  # which is the null device


def test_without_the_read_only_paths_they_are(engine: Engine, bundle: Bundle) -> None:
    """CVE-2023-25809: the look would find them."""
    bundle.spec.linux.readonly_paths = []
    for mount in bundle.spec.mounts:
        mount.options = [option for option in mount.options if option != "ro"]
    assert "/sys/fs/cgroup/cgroup.procs" in writable_files(engine, bundle).lines


def test_the_cgroup_of_a_container_without_a_cgroup_namespace_is_not_writable(engine: Engine, bundle: Bundle) -> None:
    """CVE-2023-25809: without a cgroup namespace what is mounted is everybody's tree, or the container's own part of it."""
    bundle.spec.linux.namespaces = [each for each in bundle.spec.linux.namespaces if each.type != "cgroup"]
    result = writable_files(engine, bundle)
    assert set(result.lines) <= {"/proc/kcore"}, result


def test_an_id_above_is_refused_for_the_whole_range(engine: Engine, bundle: Bundle) -> None:
    """CVE-2024-40635: also of a spec that was made, not read."""
    bundle.process.user = schema.User(uid=1 << 32)
    assert "process.user.uid" in engine.run(bundle).refusal
