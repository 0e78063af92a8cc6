"""The program of a container as text, and what of a spec may share one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.program import Program
from runtime.container import init, join
from runtime.container.facts import Facts, Join, LateMount, OpenedMount
from runtime.container.filter import SystemCallFilter
from runtime.errors import InvalidSpec
from runtime.exec_process import KINDS
from runtime.spec import defaults, schema
from tests.support import wishes

GOLDEN = Path(__file__).with_name("golden")
FILTER = bytes(8) * 3


def compare(name: str, program: Program) -> None:
    """*program* as text is what golden/NAME.txt holds; UPDATE_GOLDEN=1 writes it anew."""
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(program.describe())
    assert program.describe() == file.read_text()


def ordinary() -> schema.Spec:
    """An ordinary container of a pod, as it is after ``complete_spec``."""
    spec = wishes.spec(["sh", "-c", 'echo "hello"\n'], env=["HOME=/root"])
    assert spec.process is not None
    spec.process.user = schema.User(uid=1000, gid=1000, additional_gids=[33, 1000])
    spec.process.oom_score_adj = 1000
    kinds = {"mount": "", "cgroup": "", "pid": "", "uts": "/pins/uts", "network": "/pins/net", "ipc": "/pins/ipc"}
    spec.linux.namespaces = [schema.Namespace(type=kind, path=path) for kind, path in kinds.items()]
    spec.mounts.append(schema.Mount(destination="/etc/hosts", type="bind", source="/hosts", options=["rbind"]))
    spec.mounts.append(schema.Mount(destination="/dev/shm", type="bind", source="/shm", options=["rbind"]))
    return spec


def facts_of(spec: schema.Spec) -> Facts:
    """What ``ground`` would have found: *spec*'s binds opened, its paths there."""
    joined = {"uts": "CLONE_NEWUTS", "network": "CLONE_NEWNET", "ipc": "CLONE_NEWIPC"}
    joins = tuple(Join(joined[each.type], 21 + number) for number, each in enumerate(spec.linux.namespaces) if each.path)
    binds = [index for index, mount in enumerate(spec.mounts) if mount.type == "bind"]
    opened = tuple((index, OpenedMount(30 + index, spec.mounts[index].destination != "/etc/hosts")) for index in binds)
    missing = tuple(
        (index, (mount.destination,)) for index, mount in enumerate(spec.mounts) if mount.destination.startswith("/dev/")
    )
    masked = (("/proc/kcore", False), ("/proc/keys", False), ("/proc/acpi", True), ("/sys/firmware", True))
    return Facts("/run/kernelet/rootfs", 20, 40, joins, opened, missing=missing, masked=masked, null_device=50, procfs=53)


def test_the_program_of_an_ordinary_container() -> None:
    spec = ordinary()
    compare("container", init.program("init of web", spec, facts_of(spec), FILTER))


def test_a_container_that_begins_in_an_empty_namespace_never_has_the_nodes_mounts() -> None:
    spec = ordinary()
    steps = init.program("init of web", spec, replace(facts_of(spec), begins_empty=True), FILTER)
    calls = [step.call for step in steps.all_steps]
    assert not {"pivot_root", "umount2", "mount"} & set(calls)
    clone = next(step for step in steps.steps if step.call == "clone3")
    assert "CLONE_NEWNS" not in str(clone)
    entered = next(index for index, step in enumerate(steps.steps) if str(step) == "setns(void, CLONE_NEWNS)")
    assert [str(step) for step in steps.steps[entered + 1 : entered + 3]] == [
        "unshare(CLONE_NEWNS)",
        'move_mount(20, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH)',
    ]
    assert calls.index("chroot") > entered


def test_the_program_of_a_container_with_a_terminal_and_all_rights_to_itself() -> None:
    spec = ordinary()
    assert spec.process is not None
    spec.process.terminal, spec.process.no_new_privileges = True, True
    spec.process.user = schema.User()
    spec.process.rlimits = [schema.Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=4096)]
    spec.linux.sysctl = {"net.ipv4.ip_forward": "1"}
    spec.linux.devices.append(schema.Device(path="/dev/net/tun", type="c", major=10, minor=200, uid=7, gid=8))
    devpts = next(index for index, mount in enumerate(spec.mounts) if mount.type == "devpts")
    facts = facts_of(spec)
    facts = replace(facts, opened=((devpts, OpenedMount(40, True)), *facts.opened), console=41)
    compare("terminal", init.program("init of shell", spec, facts, FILTER, waits=False))


def test_the_program_of_an_exec() -> None:
    process = ordinary().process
    assert process is not None
    compare("exec", join.program("exec in web", process, join.Entrance(KINDS, 40), SystemCallFilter(FILTER)))


def test_the_program_of_a_pods_pause() -> None:
    compare("pause", init.pause_program("pause of pod", in_cgroup=True))


def test_steps_come_in_an_order_that_holds() -> None:
    """The rules of the kernel, and those that keep a container in."""
    spec = ordinary()
    calls = [str(step) for step in init.program("init", spec, facts_of(spec), FILTER).steps]

    def at(beginning: str, last: bool = False) -> int:
        found = [index for index, call in enumerate(calls) if call.startswith(beginning)]
        assert found, beginning
        return found[-1 if last else 0]

    assert at('score = openat2(53, "self/oom_score_adj"') < at("move_mount(20")  # the host's own /proc
    assert at("pid = clone3") < at("setns(24") < at("pivot_root") < at('umount2(".", MNT_DETACH)')
    assert at("umount2") < at("close_range(program") < at("close_range(done, 4294967295, 0)")
    assert at("close_range", last=True) < at("cwd = openat2")  # no descriptor leads back
    assert at("cwd = openat2") < at("fchdir(cwd)") < at("prctl(PR_CAPBSET_DROP") < at("setresuid") < at("capset")
    assert at("seccomp") < at("setresuid")  # without no_new_privs it takes a right that goes
    assert at("setgroups") < at("setresgid") < at("setresuid")
    assert at("write(ready") < at("read(start") < at("execve")
    assert at("prctl(PR_SET_DUMPABLE, 0") < at("pid = clone3")


def test_nothing_of_the_hosts_is_reached_by_a_path_after_the_roots_are_swapped() -> None:
    spec = ordinary()
    steps = init.program("init", spec, facts_of(spec), FILTER).steps
    after = next(index for index, step in enumerate(steps) if step.call == "pivot_root")
    plain = {"open", "openat", "mount", "mkdir", "mknod", "chmod", "chown", "symlink"}
    assert [str(step) for step in steps[after:] if step.call in plain] == []
    assert [str(step) for step in steps if step.call == "chdir"] == ['chdir("/")']


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda spec: setattr(spec, "process", None), InvalidSpec, "needs a process"),
        (lambda spec: setattr(spec.process, "args", []), InvalidSpec, "nothing to run"),
        (lambda spec: setattr(spec.process, "args", [""]), InvalidSpec, "the command is empty"),
        (lambda spec: setattr(spec.process, "args", ["a\0b"]), InvalidSpec, "NUL"),
        (lambda spec: spec.process.rlimits.append(schema.Rlimit(type="lib", soft=1, hard=1)), InvalidSpec, "rlimits 'lib'"),
        (lambda spec: setattr(spec.linux, "namespaces", spec.linux.namespaces[1:]), ValueError, "other mounts"),
        (lambda spec: spec.linux.namespaces.append(schema.Namespace(type="mood")), InvalidSpec, "unknown type 'mood'"),
        (lambda spec: spec.linux.devices.append(schema.Device(path="x", type="c")), InvalidSpec, "must be an absolute path"),
        (lambda spec: spec.linux.devices.append(schema.Device(path="/dev/x", type="d")), InvalidSpec, "unknown type 'd'"),
        (lambda spec: setattr(spec.linux, "rootfs_propagation", "loud"), InvalidSpec, "unknown propagation 'loud'"),
        (lambda spec: spec.linux.sysctl.update({"net/../../x": "1"}), InvalidSpec, "not the name of a setting"),
        (lambda spec: spec.linux.sysctl.update({"kernel.core_pattern": "|/x"}), InvalidSpec, "belongs to the node"),
        (lambda spec: spec.linux.sysctl.update({"net.x": "1"}) or spec.linux.namespaces.pop(4), InvalidSpec, "node's network"),
        (lambda spec: setattr(spec, "hostname", "x") or spec.linux.namespaces.pop(3), InvalidSpec, "hostname: .*node's uts"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_by_name(
    change: Callable[[schema.Spec], object], kind: type[Exception], match: str
) -> None:
    spec = ordinary()
    change(spec)
    with pytest.raises(kind, match=match):
        init.program("init", spec, facts_of(ordinary()), None)


# What is remembered.

CHANGES: dict[str, Callable[[schema.Spec, int], object]] = {
    "hostname": lambda spec, n: setattr(spec, "hostname", f"h{n}"),
    "domainname": lambda spec, n: setattr(spec, "domainname", f"d{n}"),
    "cwd": lambda spec, n: setattr(spec.process, "cwd", f"/{n}"),
    "cwd not UTF-8": lambda spec, n: setattr(spec.process, "cwd", f"/\udc80{n}"),
    "uid": lambda spec, n: setattr(spec.process.user, "uid", n),
    "gid": lambda spec, n: setattr(spec.process.user, "gid", n),
    "groups": lambda spec, n: setattr(spec.process.user, "additional_gids", [n]),
    "umask": lambda spec, n: setattr(spec.process.user, "umask", n),
    "terminal": lambda spec, n: setattr(spec.process, "terminal", bool(n % 2)),
    "no new privileges": lambda spec, n: setattr(spec.process, "no_new_privileges", bool(n % 2)),
    "score": lambda spec, n: setattr(spec.process, "oom_score_adj", n),
    "apparmor": lambda spec, n: setattr(spec.process, "apparmor_profile", f"p{n}"),
    "selinux": lambda spec, n: setattr(spec.process, "selinux_label", f"l{n}"),
    "rlimit": lambda spec, n: setattr(spec.process, "rlimits", [schema.Rlimit(type="RLIMIT_CORE", soft=n, hard=n)]),
    "sysctl": lambda spec, n: spec.linux.sysctl.update({"net.x": str(n)}),
    "device": lambda spec, n: spec.linux.devices.append(schema.Device(path=f"/dev/d{n}", type="c")),
    "device mode": lambda spec, n: setattr(spec.linux.devices[0], "file_mode", n),
    "read-only": lambda spec, n: spec.linux.readonly_paths.append(f"/r{n}"),
    "propagation of the root": lambda spec, n: setattr(spec.linux, "rootfs_propagation", "rshared" if n % 2 else "unbindable"),
    "namespace": lambda spec, n: spec.linux.namespaces.pop(2 + n % 2),
    "options": lambda spec, n: setattr(spec.mounts[1], "options", [f"size={n}k"]),
    "mount": lambda spec, n: spec.mounts.append(schema.Mount(destination=f"/m{n}", type="tmpfs")),
    "source": lambda spec, n: setattr(spec.mounts[1], "source", f"s{n}"),
    "destination of a bind": lambda spec, n: setattr(spec.mounts[-1], "destination", f"/b{n}"),
    "filter flags": lambda spec, n: setattr(
        spec.linux, "seccomp", schema.Seccomp(default_action="SCMP_ACT_ALLOW", flags=["SECCOMP_FILTER_FLAG_LOG"][: n % 2])
    ),
    "nice": lambda spec, n: setattr(spec.process, "scheduler", schema.Scheduler(policy="SCHED_OTHER", nice=n)),
    "I/O": lambda spec, n: setattr(spec.process, "io_priority", schema.IoPriority(class_="IOPRIO_CLASS_BE", priority=n)),
    "domain": lambda spec, n: setattr(spec.linux, "personality", schema.Personality(domain=("LINUX", "LINUX32")[n % 2])),
    "nodes": lambda spec, n: setattr(spec.linux, "memory_policy", schema.MemoryPolicy(mode="MPOL_BIND", nodes=str(n))),
    "args": lambda spec, n: setattr(spec.process, "args", [f"/{n}"]),
    "env": lambda spec, n: spec.process.env.append(f"N={n}"),
    **{
        f"{name} capabilities": lambda spec, n, name=name: setattr(
            spec.process.capabilities, name, [sorted(defaults.CAPABILITIES)[n % 14]]
        )
        for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
    },
}
FACTS: dict[str, Callable[[Facts, int], Facts]] = {
    "attach point": lambda facts, n: replace(facts, attach_point=f"/a{n}"),
    "root": lambda facts, n: replace(facts, root=60 + n),
    "last capability": lambda facts, n: replace(facts, last_capability=38 + n % 3),
    "joins": lambda facts, n: replace(facts, joins=facts.joins[: n % 3]),
    "opened": lambda facts, n: replace(facts, opened=((0, OpenedMount(70 + n, True)), *facts.opened)),
    "missing": lambda facts, n: replace(facts, missing=((0, (f"/x{n}",)),)),
    "masked": lambda facts, n: replace(facts, masked=((f"/masked{n}", True),)),
    "null device": lambda facts, n: replace(facts, null_device=80 + n),
    "cgroup": lambda facts, n: replace(facts, in_cgroup=bool(n % 2)),
    "keyring": lambda facts, n: replace(facts, keyring=f"_ses.{n}"),
    "users": lambda facts, n: replace(facts, user_namespace=90 + n),
    "grantable": lambda facts, n: replace(facts, grantable=n),
    "preserved": lambda facts, n: replace(facts, preserved=n),
    "procfs": lambda facts, n: replace(facts, procfs=100 + n),
    "late": lambda facts, n: replace(facts, opened=(), late=((6, LateMount(f"/late{n}", True)),)),
    "modes": lambda facts, n: replace(facts, modes=((1, n),)),
    "devices": lambda facts, n: replace(facts, devices=(("/dev/null", 110 + n),)),
    "read-only root": lambda facts, n: replace(facts, readonly_root=bool(n % 2)),
    "context": lambda facts, n: replace(facts, context=f"label{n}"),
    "hidden": lambda facts, n: replace(facts, pivots=False, hidden=(f"/proc{n}",)),
    "in order": lambda facts, n: replace(facts, in_order=bool(n % 2)),
}


def said(compose: Callable[[], str]) -> str:
    try:
        return compose()
    except InvalidSpec as error:
        return f"refused: {error}"


def uncached(spec: schema.Spec, facts: Facts, code: bytes | None, waits: bool) -> str:
    assert spec.process is not None
    steps = init.compose(spec, spec.process, facts, code, waits=waits)
    init.process.execute(steps, spec.process)
    return steps.describe().partition("\n")[2]


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 5)), max_size=3),
    st.lists(st.tuples(st.sampled_from(sorted(FACTS)), st.integers(0, 5)), max_size=1),
    st.sampled_from([None, FILTER, FILTER + bytes(8)]),
    st.booleans(),
)
def test_what_is_remembered_is_what_would_be_composed(
    changes: list[tuple[str, int]], of_facts: list[tuple[str, int]], code: bytes | None, waits: bool
) -> None:
    spec = ordinary()
    for name, number in changes:
        CHANGES[name](spec, number)
    facts = facts_of(ordinary())
    for name, number in of_facts:
        facts = FACTS[name](facts, number)

    def remembered() -> str:
        return init.program("init", spec, facts, code, waits=waits).describe().partition("\n")[2]

    # A sysctl of a network that another change took away is refused, by both.
    assert said(remembered) == said(lambda: uncached(spec, facts, code, waits))


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_two_that_differ_in_one_thing_do_not_share(name: str) -> None:
    facts, seen = facts_of(ordinary()), set()
    for number in range(2):
        spec = ordinary()
        CHANGES[name](spec, number)
        seen.add(init.program("init", spec, facts, FILTER).pack())
        assert init.program("init", spec, facts, FILTER).describe().partition("\n")[2] == uncached(spec, facts, FILTER, True)
    # A joined namespace is in the facts; whether there is a terminal changes one step, and so on.
    assert len(seen) == 2


def test_a_program_that_is_remembered_is_not_changed_by_who_uses_it() -> None:
    spec = ordinary()
    first = init.program("one", spec, facts_of(spec), FILTER)
    before = first.pack()
    other = ordinary()
    assert other.process is not None
    other.process.args = ["/another"]
    init.program("two", other, facts_of(spec), FILTER).pack()
    assert first.pack() == before
    assert init.program("one", spec, facts_of(spec), FILTER).pack() == before


def test_what_is_remembered_is_bounded() -> None:
    facts = facts_of(ordinary())
    for number in range(init.REMEMBERED + 5):
        spec = ordinary()
        spec.hostname = f"host{number}"
        init.program("init", spec, facts, None)
    assert len(init._known) <= init.REMEMBERED
