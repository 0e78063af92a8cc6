"""What a container's process is, seen from inside: limits, rights, scheduling, keys, descriptors, settings."""

from __future__ import annotations

import os
import re
from contextlib import closing
from pathlib import Path

import pytest

from kernel import mount
from kernel._linux import ffi, lib
from kernel.capability import mask_of, sets_of
from kernel.errors import check
from kernel.fd import memory
from runtime.container import capabilities, init
from runtime.errors import InvalidSpec, StartFailed, Unsupported
from runtime.spec import schema
from tests.support import child, inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

STATUS = "cat /proc/self/status"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> inside.Node:
    return inside.make_node(tmp_path_factory.mktemp("process"))


def status(node: inside.Node, wanted: schema.Spec) -> dict[str, str]:
    """/proc/self/status of a process in the container."""
    return {name: value.strip() for name, value in (line.split(":", 1) for line in node.run(wanted).splitlines())}


# Limits and scores.


def test_limits_are_the_specs(node: inside.Node) -> None:
    limits = [schema.Rlimit(type="RLIMIT_NOFILE", soft=50, hard=100), schema.Rlimit(type="RLIMIT_CORE", soft=0, hard=1 << 20)]
    for wanted in (
        inside.spec("cat /proc/self/limits", rlimits=limits),
        inside.with_users(inside.spec("cat /proc/self/limits", rlimits=limits)),
    ):
        said = node.run(wanted)
        assert re.search(r"Max open files +50 +100 +files", said)
        assert re.search(r"Max core file size +0 +1048576 +bytes", said)


@pytest.mark.parametrize("users", [False, True])
def test_the_score_for_the_end_of_memory_is_the_specs(node: inside.Node, users: bool) -> None:
    wanted = inside.spec("cat /proc/self/oom_score_adj", oom_score_adj=321)
    assert node.run(inside.with_users(wanted) if users else wanted) == "321\n"


@requires("capability sys_resource")
def test_a_negative_score_is_set_before_a_user_namespace_is_entered(node: inside.Node) -> None:
    wanted = inside.with_users(inside.spec("cat /proc/self/oom_score_adj", oom_score_adj=-321))
    assert node.run(wanted) == "-321\n"


def test_a_score_that_is_not_given_is_ours(node: inside.Node) -> None:
    assert node.run(inside.spec("cat /proc/self/oom_score_adj")) == Path("/proc/self/oom_score_adj").read_text()


@pytest.mark.parametrize(("mask", "seen"), [(None, "0022"), (0o077, "0077"), (0, "0000")])
def test_the_umask_is_the_specs_or_an_ordinary_one(node: inside.Node, mask: int | None, seen: str) -> None:
    assert node.run(inside.spec("umask", user=schema.User(umask=mask))).strip() == seen


# Capabilities.


def test_capabilities_are_exactly_those_of_the_spec(node: inside.Node) -> None:
    sets = schema.Capabilities(
        bounding=["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
        permitted=["CAP_CHOWN", "CAP_KILL"],
        effective=["CAP_KILL"],
        inheritable=["CAP_KILL"],
        ambient=["CAP_KILL"],
    )
    seen = status(node, inside.spec(STATUS, capabilities=sets, user=schema.User(uid=1000, gid=1000)))
    names = {
        "CapBnd": sets.bounding,
        "CapPrm": ["CAP_KILL"],
        "CapEff": ["CAP_KILL"],
        "CapInh": sets.inheritable,
        "CapAmb": sets.ambient,
    }
    assert {name: int(seen[name], 16) for name in names} == {name: mask_of(wanted) for name, wanted in names.items()}


def test_nothing_is_inheritable_unless_asked_for(node: inside.Node) -> None:
    seen = status(node, inside.spec(STATUS))
    assert int(seen["CapInh"], 16) == int(seen["CapAmb"], 16) == 0
    assert int(seen["CapEff"], 16) == sets_of().permitted


def test_names_that_cannot_be_given_are_left_out_and_told(node: inside.Node) -> None:
    names = ["CAP_CHOWN", "CAP_FLY", "CAP_SYS_RESOURCE", "CAP_KILL"]
    ambient = ["CAP_KILL", "CAP_CHOWN"]
    sets = schema.Capabilities(bounding=names, permitted=names, effective=names, inheritable=["CAP_CHOWN"], ambient=ambient)
    wanted = inside.spec(STATUS, capabilities=sets)
    held = sets_of().permitted
    seen = status(node, wanted)
    assert int(seen["CapEff"], 16) == mask_of(["CAP_CHOWN", "CAP_KILL", "CAP_SYS_RESOURCE"]) & held
    assert wanted.process is not None
    lacking = "" if held & mask_of(["CAP_SYS_RESOURCE"]) else " CAP_SYS_RESOURCE"
    unknown, kill = capabilities.unavailable(wanted.process, 40, held)
    assert unknown.endswith(f": CAP_FLY{lacking}")
    assert "can't raise ambient capability CAP_KILL: " in kill
    assert int(seen["CapAmb"], 16) == mask_of(["CAP_CHOWN"])
    sets.inheritable = []
    assert capabilities.unavailable(wanted.process, 40, held) == [unknown]


def test_every_capability_can_be_had_in_a_user_namespace(node: inside.Node) -> None:
    every = schema.Capabilities(bounding=["CAP_SYS_RESOURCE"], permitted=["CAP_SYS_RESOURCE"], effective=["CAP_SYS_RESOURCE"])
    seen = status(node, inside.with_users(inside.spec(STATUS, capabilities=every)))
    held = mask_of(["CAP_SYS_RESOURCE"]) if int(seen["CapBnd"], 16) else 0
    assert int(seen["CapPrm"], 16) == held


@pytest.mark.parametrize("asked", [False, True])
def test_no_new_privileges_is_the_specs(node: inside.Node, asked: bool) -> None:
    assert status(node, inside.spec(STATUS, no_new_privileges=asked))["NoNewPrivs"] == str(int(asked))


# Scheduling.


@pytest.mark.parametrize(
    ("wanted", "policy", "nice", "priority"),
    [
        (schema.Scheduler(policy="SCHED_BATCH", nice=7), 3, 7, 0),
        (schema.Scheduler(policy="SCHED_OTHER", nice=-3), 0, -3, 0),
        (schema.Scheduler(policy="SCHED_IDLE"), 5, 0, 0),
        (schema.Scheduler(policy="SCHED_FIFO", priority=11), 1, 0, 11),
        (schema.Scheduler(policy="SCHED_RR", priority=1), 2, 0, 1),
    ],
    ids=lambda value: value.policy if isinstance(value, schema.Scheduler) else None,
)
def test_the_scheduler_is_the_specs(node: inside.Node, wanted: schema.Scheduler, policy: int, nice: int, priority: int) -> None:
    fields = node.run(inside.spec("cat /proc/self/stat", scheduler=wanted)).rpartition(")")[2].split()
    assert (int(fields[38]), int(fields[37])) == (policy, priority)
    if not priority:
        assert int(fields[16]) == nice


def test_a_flag_of_the_scheduler_is_passed_on(node: inside.Node) -> None:
    """A deadline process may not fork, unless its children begin as ordinary ones: so the shell's cat does."""
    millisecond = 1_000_000
    wanted = schema.Scheduler(
        policy="SCHED_DEADLINE",
        flags=["SCHED_FLAG_RESET_ON_FORK"],
        runtime=millisecond,
        deadline=10 * millisecond,
        period=20 * millisecond,
    )
    both = "cat /proc/$$/stat; cat /proc/self/stat; true"
    shell, child = node.run(inside.spec(both, scheduler=wanted)).splitlines()
    assert int(shell.rpartition(")")[2].split()[38]) == 6
    assert int(child.rpartition(")")[2].split()[38]) == 0


def test_a_policy_that_linux_lacks_is_refused_by_name(node: inside.Node) -> None:
    with pytest.raises(Unsupported, match=r"process.scheduler.policy: SCHED_ISO"):
        node.run(inside.spec("true", scheduler=schema.Scheduler(policy="SCHED_ISO")))


@pytest.mark.parametrize(
    ("kind", "priority", "said"),
    [("IOPRIO_CLASS_BE", 6, "best-effort: prio 6"), ("IOPRIO_CLASS_RT", 2, "realtime: prio 2"), ("IOPRIO_CLASS_IDLE", 0, "idle")],
)
def test_the_io_priority_is_the_specs(node: inside.Node, kind: str, priority: int, said: str) -> None:
    wanted = inside.spec("ionice -p $$", io_priority=schema.IoPriority(class_=kind, priority=priority))
    assert node.run(wanted).strip().startswith(said)


@pytest.mark.parametrize(("domain", "machine"), [("LINUX32", "i686"), ("LINUX", os.uname().machine)])
@requires("machine x86_64")
def test_the_execution_domain_is_the_specs(node: inside.Node, domain: str, machine: str) -> None:
    wanted = inside.spec("uname -m")
    wanted.linux.personality = schema.Personality(domain=domain)
    assert node.run(wanted).strip() == machine


@pytest.mark.parametrize(
    ("policy", "seen"),
    [
        (schema.MemoryPolicy(mode="MPOL_BIND", nodes="0", flags=["MPOL_F_STATIC_NODES"]), "bind=static:0"),
        (schema.MemoryPolicy(mode="MPOL_INTERLEAVE", nodes="0"), "interleave:0"),
        (schema.MemoryPolicy(mode="MPOL_PREFERRED", nodes="0", flags=["MPOL_F_RELATIVE_NODES"]), "prefer=relative:0"),
        (schema.MemoryPolicy(mode="MPOL_PREFERRED_MANY", nodes="0"), "prefer (many):0"),
        (schema.MemoryPolicy(mode="MPOL_LOCAL"), "local"),
        (schema.MemoryPolicy(mode="MPOL_DEFAULT"), "default"),
        (schema.MemoryPolicy(mode="MPOL_WEIGHTED_INTERLEAVE", nodes="0"), "weighted interleave:0"),
    ],
    ids=lambda value: value.mode if isinstance(value, schema.MemoryPolicy) else None,
)
def test_the_memory_policy_is_the_specs(node: inside.Node, policy: schema.MemoryPolicy, seen: str) -> None:
    wanted = inside.spec("head -n 1 /proc/self/numa_maps")
    wanted.linux.memory_policy = policy
    assert f" {seen} " in node.run(wanted)


def test_memory_of_a_node_that_is_not_there_is_refused_by_its_step(node: inside.Node) -> None:
    wanted = inside.spec("true")
    wanted.linux.memory_policy = schema.MemoryPolicy(mode="MPOL_BIND", nodes="63")
    with pytest.raises(StartFailed, match=r"set_mempolicy.*none of these nodes is there"):
        node.run(wanted)


# Keys.


def keyrings(text: str) -> list[str]:
    return re.findall(r"keyring +(\S+?):", text)


def test_the_session_keyring_has_the_containers_name(node: inside.Node) -> None:
    assert "_ses.web" in keyrings(node.run(inside.spec("cat /proc/keys"), keyring="_ses.web"))
    assert "_ses.web" in keyrings(node.run(inside.with_users(inside.spec("cat /proc/keys")), keyring="_ses.web"))


def test_the_callers_keys_are_not_the_containers_unless_asked_for(node: inside.Node) -> None:
    """The caller's keyring shows itself to those who possess it, and to nobody else."""

    def start() -> list[bool]:
        ring = check(lib.linux_syscall(lib.SYS_keyctl, lib.KEYCTL_JOIN_SESSION_KEYRING, name, 0, 0, 0, 0), "keyctl")
        check(lib.linux_syscall(lib.SYS_keyctl, lib.KEYCTL_SETPERM, ring, 0x3F000000, 0, 0, 0), "keyctl")
        said = (node.run(inside.spec("cat /proc/keys"), keyring=keyring) for keyring in ("", "_ses.web", None))
        return ["callers-own" in keyrings(each) for each in said]

    buffer = ffi.new("char[]", b"callers-own")
    name = int(ffi.cast("intptr_t", buffer))
    assert child.run(start) == [False, False, True]


# Descriptors.


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_descriptors_of_the_caller_begin_at_three_and_no_other_is_there(node: inside.Node, count: int) -> None:
    handed = tuple(memory(f"handed{index}", b"%d" % index) for index in range(count))
    limit = [schema.Rlimit(type="RLIMIT_NOFILE", soft=64, hard=64)]
    names = " ".join(str(3 + index) for index in range(count))
    script = f"for n in {names}; do readlink /proc/self/fd/$n; done; ls /proc/self/fd | wc -l"
    try:
        *links, total = node.run(inside.spec(script, rlimits=limit), handed=handed).splitlines()
    finally:
        for file in handed:
            file.close()
    assert links == [f"/memfd:handed{index} (deleted)" for index in range(count)]
    assert int(total) == 3 + count + 1  # and the directory that ls reads


def test_streams_belong_to_the_user(node: inside.Node) -> None:
    user = schema.User(uid=1000, gid=1001)
    assert node.run(inside.spec("stat -L -c %u:%g /proc/self/fd/1", user=user)) == "1000:1001\n"


def test_a_terminal_has_the_size_of_the_spec(node: inside.Node) -> None:
    wanted = inside.spec("stty size", terminal=True, console_size=schema.Box(height=33, width=99))
    with closing(node.prepare(wanted)) as prepared:
        assert prepared.terminal is not None
        program = init.program("test", wanted, prepared.facts, waits=False)
        streams = dict.fromkeys((0, 1, 2), prepared.terminal.slave)
        assert inside.execute(program, {**prepared.descriptors, **streams}) == ""
        assert os.read(prepared.terminal.master.fileno(), 100).split() == [b"33", b"99"]


# Kernel settings.


def test_settings_of_own_namespaces_are_written(node: inside.Node) -> None:
    settings = {
        "net.ipv4.ip_forward": "1",
        "net/ipv4/conf/lo/forwarding": "0",
        "kernel.msgmax": "9000",
        "fs.mqueue.msg_max": "20",
        "kernel.domainname": "here",
        "kernel.hostname": "there",
    }
    paths = " ".join(f"/proc/sys/{key.replace('.', '/')}" for key in settings)
    for users in (False, True):
        wanted = inside.spec(f"cat {paths}")
        wanted.linux.sysctl = settings
        if users:
            inside.with_users(wanted)
        assert node.run(wanted).split() == list(settings.values())


def test_a_setting_that_contradicts_a_field_is_refused_by_name(node: inside.Node) -> None:
    for key, field in (("kernel.domainname", "domainname"), ("kernel/hostname", "hostname")):
        wanted = inside.spec(f"cat /proc/sys/kernel/{field}")
        setattr(wanted, field, "one")
        wanted.linux.sysctl = {key: "two"}
        with pytest.raises(InvalidSpec, match=f"^linux.sysctl {key}: .*{field} says 'one'"):
            node.run(wanted)
        wanted.linux.sysctl = {key: "one"}
        assert node.run(wanted) == "one\n"


def test_settings_of_the_node_are_refused_by_name(node: inside.Node) -> None:
    for key, match in (
        ("kernel.core_pattern", "belongs to the node"),
        ("vm/overcommit_memory", "belongs to the node"),
        ("user.max_user_namespaces", "the node's user namespace"),
        ("net.ipv4/../../../kernel/core_pattern", "not the name of a setting"),
        ("net..x", "not the name of a setting"),
    ):
        wanted = inside.spec("true")
        wanted.linux.sysctl = {key: "1"}
        with pytest.raises(InvalidSpec, match=f"^linux.sysctl .*{match}"):
            node.run(wanted)


def test_settings_of_a_joined_namespace_that_is_the_nodes_are_refused(node: inside.Node) -> None:
    wanted = inside.spec("true", kinds=("mount",))
    wanted.linux.namespaces.append(schema.Namespace(type="network", path="/proc/self/ns/net"))
    wanted.linux.sysctl = {"net.ipv4.ip_forward": "1"}
    with pytest.raises(InvalidSpec, match=r"linux.sysctl net.ipv4.ip_forward: .*node's network namespace"):
        node.run(wanted)


def test_an_interface_with_a_dot_has_a_slash_in_its_setting(node: inside.Node) -> None:
    wanted = inside.spec("true")
    wanted.linux.sysctl = {"net.ipv4.conf.eth0/100.forwarding": "1"}
    with pytest.raises(StartFailed, match=r"sys/net/ipv4/conf/eth0.100/forwarding.*no such file.*no such setting"):
        node.run(wanted)


def test_a_user_namespace_has_its_own_limits_of_namespaces(node: inside.Node) -> None:
    wanted = inside.with_users(inside.spec("cat /proc/sys/user/max_mnt_namespaces"))
    wanted.linux.sysctl = {"user.max_mnt_namespaces": "17"}
    assert node.run(wanted) == "17\n"


def test_what_covers_proc_does_not_catch_what_is_written(node: inside.Node, tmp_path: Path) -> None:
    """A file in place of /proc/self/oom_score_adj (CVE-2025-52881's family): ours is in no mount table."""
    trap = tmp_path / "trap"
    trap.write_text("")

    def start() -> str:
        mount.bind(trap, Path("/proc/sys/kernel/msgmax"))
        wanted = inside.spec("cat /proc/sys/kernel/msgmax")
        wanted.linux.sysctl = {"kernel.msgmax": "7000"}
        return node.run(wanted)

    assert child.run(start, namespaces=["mount"]) == "7000\n"
    assert trap.read_text() == ""


@requires("selinux")
def test_a_label_is_asked_for_at_execve(node: inside.Node) -> None:
    label = Path("/proc/self/attr/current").read_text().strip("\0\n")
    assert label in node.run(inside.spec("cat /proc/self/attr/current", selinux_label=label))


def test_a_label_without_its_security_module_is_refused_by_its_step(node: inside.Node) -> None:
    if Path("/proc/self/attr/apparmor").exists():
        pytest.skip("this kernel has AppArmor")
    with pytest.raises(StartFailed, match=r"attr/apparmor/exec.*this kernel does not have the security module"):
        node.run(inside.spec("true", apparmor_profile="x"))
