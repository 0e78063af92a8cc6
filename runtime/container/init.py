"""The program that turns a new process into a container: the recipe.

Read it from top to bottom to learn what a container is.  Each line adds the steps of one facility
and lives in the file of its name; nothing here touches the node (``ground.py`` has, before).
"""

from __future__ import annotations

import os

import msgspec

from kernel.program import Flags, Program, Words
from runtime.container import (
    filter,
    label,
    namespaces,
    process,
    reaper,
    rlimits,
    rootfs,
    rootfs_devices,
    rootfs_mounts,
    scheduling,
    sysctls,
)
from runtime.container.descriptors import FIRST_OPENED, Descriptor
from runtime.container.facts import Facts
from runtime.errors import InvalidSpec
from runtime.spec import schema


def program(title: str, spec: schema.Spec, facts: Facts, filter_code: bytes | None = None, *, waits: bool = True) -> Program:
    """The steps of *spec* on the ground that *facts* describe.  The order is the kernel's, not ours.

    Up to ``wait_for_start`` they run when the container is created; starting it only lets it go on.
    """
    if spec.process is None:
        raise InvalidSpec("process: a container needs a process to be started")
    steps = _set_up(spec, spec.process, facts, filter_code, waits=waits).continued(title)
    process.execute(steps, spec.process)
    return steps


def compose(spec: schema.Spec, user: schema.Process, facts: Facts, filter_code: bytes | None, *, waits: bool) -> Program:
    """The recipe: all steps but the last."""
    steps = Program("init")
    if namespaces.has(spec, "mount") != facts.has_mounts:
        raise ValueError("the facts are of a container with other mounts")  # it would be the node's that are changed
    has_users = facts.user_namespace is not None
    leave_the_monitor(steps)
    namespaces.clone(steps, spec, facts, Descriptor.CGROUP if facts.in_cgroup else None)
    rlimits.limit(steps, user, facts.procfs, has_users=has_users, later=(rlimits.FILES,))
    label.label(steps, user, facts.procfs)
    scheduling.schedule(steps, user)
    namespaces.enter(steps, spec, facts)
    sysctls.set_sysctls(steps, spec, facts.procfs, sysctls.OF_THE_NODES_ROOT)
    rootfs.enter(steps, spec, facts)
    if has_users:
        process.become_root(steps)  # after what only the owner of the host's files may do, before it makes files itself
    sysctls.set_sysctls(steps, spec, facts.procfs, sysctls.OF_ITS_ROOT)
    rootfs.mount_all(steps, spec, facts)
    rootfs_devices.make_devices(steps, spec, facts)
    if facts.pauses:
        process.wait_for_caller(steps)
    rootfs.pivot(steps, facts)
    rootfs.protect(steps, spec, facts)
    process.attach_terminal(steps, user, facts.keyring)
    pipes = process.close_all(steps, facts.preserved)  # before chdir: no descriptor may lead back to the host
    scheduling.set_personality(steps, spec.linux.personality)
    scheduling.set_memory_policy(steps, spec.linux.memory_policy)
    system_calls = filter.of(spec.linux.seccomp, filter_code)
    process.become(
        steps, user, process.Becoming(facts.last_capability, facts.grantable, system_calls, has_users or facts.is_rootless)
    )
    if waits:
        process.wait_for_start(steps, pipes)
    if facts.has_reaper:
        reaper.stay_behind(steps, lets_go_of_input=facts.lets_go_of_input)
    return steps


def _set_up(spec: schema.Spec, user: schema.Process, facts: Facts, filter_code: bytes | None, *, waits: bool) -> Program:
    """``compose``, remembered: containers of one kind differ in command and environment, and seldom in anything else.

    Composing and packing takes 440 us, finding it again 30.
    """
    opened = {index for index, _ in facts.opened}
    mounts = [rootfs_mounts.outline(mount) if index in opened else mount for index, mount in enumerate(spec.mounts)]
    namespaces_of = [(namespace.type, bool(namespace.path)) for namespace in spec.linux.namespaces]  # each pod has its own paths
    key = (
        msgspec.json.encode(
            (
                mounts,
                namespaces_of,
                [getattr(spec.linux, name) for name in _OF_LINUX],
                [getattr(user, name) for name in _OF_PROCESS],
                filter.flags_of(spec.linux.seccomp) if spec.linux.seccomp else (),
                spec.hostname,
                spec.domainname,
                os.fsencode(user.cwd),
            )
        ),
        facts,
        filter_code,
        waits,
    )
    known = _known.get(key)
    if known is None:
        if len(_known) >= REMEMBERED:
            _known.clear()
        known = _known[key] = compose(spec, user, facts, filter_code, waits=waits)
    return known


def _fields_of(kind: type[schema.Model], *elsewhere: str) -> tuple[str, ...]:
    """The fields of *kind* that a set-up may depend on: all but those that reach it by another way, or not at all."""
    return tuple(name for name in kind.__struct_fields__ if name not in elsewhere)


_OF_PROCESS = _fields_of(schema.Process, "args", "env", "cwd", "console_size")
_OF_LINUX = _fields_of(
    schema.Linux,
    *("namespaces", "cgroups_path", "resources", "seccomp", "masked_paths", "uid_mappings", "gid_mappings", "intel_rdt"),
)
#: Kinds of containers whose set-up is remembered, some 60 KB each.
REMEMBERED = 64
_known: dict[object, Program] = {}


def leave_the_monitor(steps: Program) -> None:
    """What the runner does before it clones."""
    steps.heading("leaving the caller")
    for number in (32, 33):
        default = Words(8, (0, 0, 0, 0), label="{SIG_DFL}")
        steps.call("rt_sigaction", number, default, 0, 8, why="the C library's own signal, which its posix_spawn ignores")
    steps.call("umask", 0, why="modes as they are written here")
    steps.call(
        "prctl",
        Flags(("PR_SET_DUMPABLE",)),
        0,
        0,
        0,
        0,
        why="until execve no process of a shared pid namespace may look into or trace this one",
    )


#: Whom the pause becomes, and the pod's user namespace among its descriptors.
NOBODY = 65534
USER_NAMESPACE = FIRST_OPENED


def pause_program(title: str, *, in_cgroup: bool, has_users: bool = False, nobody: int = NOBODY) -> Program:
    """The first process of a pid namespace that a pod shares: it adopts orphans and does nothing else.

    It keeps no file, no right and no root: /proc/1/root must not lead containers anywhere.  With *has_users* the user
    namespace behind USER_NAMESPACE owns the pid namespace, or nobody in the pod could mount a procfs of it.
    """
    steps = Program(title)
    leave_the_monitor(steps)
    if has_users:
        why = "what is made next belongs to the pod's user namespace"
        steps.call("setns", USER_NAMESPACE, Flags(("CLONE_NEWUSER",)), why=why)
    steps.clone(
        ("CLONE_NEWPID", "CLONE_NEWNS"),
        cgroup=Descriptor.CGROUP if in_cgroup else None,
        why="the first process of the pod's pid namespace",
    )
    steps.call("prctl", Flags(("PR_SET_NAME",)), "pause", 0, 0, 0, why="what ps shows")
    steps.call("setsid", why="a session of its own")
    if has_users:
        process.become_root(steps)
    _enter_nothing(steps)
    ignore = Words(8, (1, 0, 0, 0), label="{SIG_IGN}")
    steps.call(
        "rt_sigaction", Flags(("SIGCHLD",)), ignore, 0, 8, why="the kernel reaps orphans of a parent that ignores their end"
    )
    steps.call("close_range", Descriptor.STDIN, Descriptor.READY_READ, 0, why="keep no file")
    steps.call("close_range", Descriptor.START, process.LAST, 0, why="keep no file but the ready pipe")
    steps.call("setgroups", 0, 0, why="no group of root's")
    steps.call("setresgid", nobody, nobody, nobody, why="nobody's group")
    steps.call("setresuid", nobody, nobody, nobody, why="nobody, with no capability")
    steps.call("prctl", Flags(("PR_SET_NO_NEW_PRIVS",)), 1, 0, 0, 0, why="for good")
    steps.call("write", Descriptor.READY, "c", 1, why="the namespace is there")
    steps.call("close", Descriptor.READY, why="and nothing more will be said")
    steps.call("ppoll", 0, 0, 0, 0, 0, why="wait until the pod ends")
    reaper.stay_behind(steps)
    return steps


def _enter_nothing(steps: Program) -> None:
    steps.call("mount", 0, "/", 0, Flags(("MS_REC", "MS_PRIVATE")), 0, why="apart from everybody else's mounts")
    steps.call(
        "mount",
        "none",
        "/proc",
        "tmpfs",
        Flags(("MS_RDONLY", "MS_NOSUID", "MS_NODEV", "MS_NOEXEC")),
        "size=0,nr_inodes=2",
        why="an empty root (over /proc, which is a directory on every host)",
    )
    steps.call("chdir", "/proc", why="stand in it")
    steps.call("pivot_root", ".", ".", why="the empty directory becomes /")
    steps.call("umount2", ".", Flags(("MNT_DETACH",)), why="let go of the host's tree")
