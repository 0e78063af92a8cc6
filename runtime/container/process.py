"""The steps that turn a set-up process into the user's: limits, ids, capabilities, filter, and execve.

The same for a container's init and for an exec'd process: an exec that forgot one of these would be
a way around it.  The order is the kernel's: dropping the bounding set takes CAP_SETPCAP, a filter
without no_new_privs takes CAP_SYS_ADMIN, ids go before the last capabilities, ambient comes last.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from kernel.program import MAX_STEPS, Buffer, Flags, Program, Slot, Vector, Words
from runtime.container.capabilities import drop_bounding, set_all
from runtime.container.descriptors import FIRST_PRESERVED, Descriptor
from runtime.container.filter import SystemCallFilter, install
from runtime.container.rlimits import limit_files
from runtime.errors import InvalidSpec
from runtime.spec import schema

LAST = 0xFFFFFFFF
#: Where preserved descriptors begin in the container.
FIRST = 3
#: Rights of a keyring (keyctl_setperm(3)): what join_session_keyring gives, and searching by its user.
_KEYRING_RIGHTS = 0x3F130000 | 0x00080000
#: Steps that come after execve: the reaper's.
RESERVED = 32
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Pipes:
    """Where the new process says how far it is, and where it waits to go on."""

    ready: Descriptor | Slot = Descriptor.READY
    start: Descriptor | Slot = Descriptor.START


def attach_terminal(steps: Program, process: schema.Process, keyring: str | None = "") -> None:
    """A session of its own, led by this process, with its own keys, and the terminal in control of it.

    *keyring* is the name of the session keyring, which an exec'd process of the same container joins by that name;
    empty for one without a name, None for the caller's.
    """
    steps.heading("session and terminal")
    steps.call("setsid", why="a session of its own")
    if keyring is not None:
        ring = steps.call(
            "keyctl",
            Flags(("KEYCTL_JOIN_SESSION_KEYRING",)),
            keyring or 0,
            store="keyring" if keyring else None,
            tolerate=(errno.ENOSYS,),
            why="a key ring of its own: the keys of whoever started this are not the container's",
            hint="too many keys for this user: look at /proc/key-users",
        )
        if keyring:
            why = "that an exec'd process finds it by its name: it joins as the same user"
            steps.call("keyctl", Flags(("KEYCTL_SETPERM",)), ring, _KEYRING_RIGHTS, why=why, tolerate=(errno.EACCES,))
    if process.terminal:
        steps.call("ioctl", Descriptor.STDIN, Flags(("TIOCSCTTY",)), 0, why="the terminal controls this session")


def close_all(steps: Program, preserved: int = 0) -> Pipes:
    """Let go of every descriptor but the streams, the ready pipe, the start event and those *preserved* for the container.

    For real, before chdir: a working directory of /proc/self/fd/N must find nothing (CVE-2024-21626).  Preserved ones
    take their places from 3 on, for which the pipes make way; returns where these are then.
    """
    steps.heading("descriptors")
    if preserved:
        return _hand_down(steps, preserved)
    steps.call(
        "close_range", Descriptor.PROGRAM, Descriptor.READY_READ, 0, why="the program is mapped, the rest is the monitor's"
    )
    steps.call("close_range", Descriptor.DONE, LAST, 0, why="no descriptor of the host's may live on (CVE-2024-21626)")
    steps.call("close_range", Descriptor.READY, LAST, Flags(("CLOSE_RANGE_CLOEXEC",)), why="what is left ends at execve")
    return Pipes()


def _hand_down(steps: Program, preserved: int) -> Pipes:
    """Move what is handed down to its places, and the pipes behind it: low, for a limit of descriptors may hold already."""
    why, behind = "no descriptor of the host's may live on (CVE-2024-21626)", FIRST + preserved
    steps.call("close_range", Descriptor.PROGRAM, Descriptor.READY_READ, 0, why="the program is mapped")
    steps.call("close_range", Descriptor.DONE, FIRST_PRESERVED - 1, 0, why=why)
    steps.call("close_range", FIRST_PRESERVED + preserved, LAST, 0, why=why)
    move, aside = Flags(("F_DUPFD_CLOEXEC",)), "out of the way of the descriptors that the caller hands to the container"
    ready = steps.call("fcntl", Descriptor.READY, move, behind, store="ready", why=aside)
    start = steps.call("fcntl", Descriptor.START, move, behind, store="start", why=aside)
    steps.call("close_range", Descriptor.READY, Descriptor.START, 0, why="they are elsewhere now")
    for index in range(preserved):
        steps.call("dup3", FIRST_PRESERVED + index, FIRST + index, 0, why=f"the container's descriptor {FIRST + index}")
    steps.call("close_range", FIRST_PRESERVED, LAST, 0, why="they are in their places")
    return Pipes(ready, start)


@dataclass(frozen=True, slots=True)
class Becoming:
    """What decides, besides the spec's process, what a process may become here."""

    last_capability: int
    grantable: int = ~0
    filter: SystemCallFilter | None = None
    has_users: bool = False
    """It is in a user namespace of the container's, where setgroups(2) may be forbidden."""


def become(steps: Program, process: schema.Process, how: Becoming) -> None:
    """Become the user, with no more than the spec's capabilities, under its filter."""
    user, capabilities = process.user, process.capabilities or schema.Capabilities()
    steps.heading("working directory")
    _stand_in(steps, process.cwd)
    limit_files(steps, process)  # after the last that is opened, before the right to raise it goes
    steps.call("umask", 0o022 if user.umask is None else user.umask, why="the mask for new files")
    drop_bounding(steps, capabilities, how.last_capability)
    if how.filter is not None and not process.no_new_privileges:
        install(steps, how.filter, "now, because without no_new_privs it takes CAP_SYS_ADMIN")
    _change_user(steps, process, has_users=how.has_users)
    set_all(steps, capabilities, how.last_capability, how.grantable)
    steps.heading("no new privileges")
    if process.no_new_privileges:
        steps.call("prctl", Flags(("PR_SET_NO_NEW_PRIVS",)), 1, 0, 0, 0, why="setuid programs give nothing from now on")
        if how.filter is not None:
            install(steps, how.filter, "last, so that the profile need not allow what stands above")


def become_root(steps: Program) -> None:
    """Become the root of the user namespace that this process is in: what it makes from here on is that root's."""
    steps.heading("root of the user namespace")
    why = "no group of the node's (EPERM: the namespace forbids setgroups)"
    steps.call("setgroups", 0, 0, tolerate=(errno.EPERM,), why=why)
    hint = "the user namespace must map the id 0"
    steps.call("setresgid", 0, 0, 0, why="root's group", hint=hint)
    steps.call("setresuid", 0, 0, 0, why="root of the container, nobody to the node", hint=hint)


def _change_user(steps: Program, process: schema.Process, *, has_users: bool) -> None:
    user = process.user
    steps.heading("user and groups")
    if user.uid:
        steps.call("prctl", Flags(("PR_SET_KEEPCAPS",)), 1, 0, 0, 0, why="keep capabilities over the change of user")
    if user.uid or has_users:
        for stream in (Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR):
            steps.call(
                "fchown",
                stream,
                user.uid,
                -1 if process.terminal else user.gid,  # the group of a terminal is the devpts'
                tolerate=(errno.EPERM, errno.EINVAL, errno.EROFS),
                why="so that /dev/stdout can be opened again by the user",
            )
    groups = Words(4, tuple(user.additional_gids))
    steps.call(
        "setgroups",
        len(user.additional_gids),
        groups if user.additional_gids else 0,
        tolerate=(errno.EPERM,) if has_users and not user.additional_gids else (),
        why="these groups and no others",
        hint="a user namespace that a user alone has made has no other groups" if has_users else "",
    )
    hint = "the user namespace must map this id" if has_users else ""
    steps.call("setresgid", user.gid, user.gid, user.gid, why="the group", hint=hint)
    steps.call("setresuid", user.uid, user.uid, user.uid, why="the user", hint=hint)


def _stand_in(steps: Program, path: str) -> None:
    """Enter the working directory.

    Not by chdir(2): an image may name /proc/1/root, which with all our rights would lead to the root of whatever is
    process 1 there, the host's own in its pid namespace.  Links that are no paths are not followed (CVE-2024-21626).
    """
    flags, resolve = ("O_PATH", "O_DIRECTORY", "O_CLOEXEC"), ("RESOLVE_IN_ROOT", "RESOLVE_NO_MAGICLINKS")
    label = "{" + "|".join(flags) + ", " + "|".join(resolve) + "}"
    how = Words(8, (Flags(flags).value(), 0, Flags(resolve).value()), label=label)
    directory = steps.call(
        "openat2",
        Flags(("AT_FDCWD",)),
        path,
        how,
        24,
        store="cwd",
        why="find the working directory inside the root",
        hint="chdir: the working directory must exist in the image",
    )
    steps.call("fchdir", directory, why="the working directory")


def wait_for_caller(steps: Program) -> None:
    """Let the caller do what is done from outside while the host's tree is still there: hooks, network devices."""
    steps.heading("waiting for hooks")
    steps.call("write", Descriptor.READY, "h", 1, why="everything is mounted, and the host's tree is still there")
    steps.call("read", Descriptor.START, Buffer("started", 8), 8, why="wait for hooks and what else is done from outside")


def wait_for_start(steps: Program, pipes: Pipes = Pipes()) -> None:
    """Say that the set-up is done, and wait to be started."""
    steps.heading("waiting for start")
    steps.call("write", pipes.ready, "c", 1, why="the container is created")
    steps.call("read", pipes.start, Buffer("started", 8), 8, why="wait for start")


def execute(steps: Program, process: schema.Process) -> None:
    """Become the program, found as execvp(3) would: one step a directory of PATH."""
    if not process.args:
        raise InvalidSpec("process.args: nothing to run: neither the container nor the image names a command")
    for what, text in (*(("args", argument) for argument in process.args), *(("env", entry) for entry in process.env)):
        if "\0" in text:  # of env the name alone is told: the value may be a secret
            raise InvalidSpec(f"process.{what} {text.partition('=')[0]!r}: must not contain a NUL")
    steps.heading("the program")
    arguments = Vector(tuple(os.fsencode(argument) for argument in process.args))
    environment = Vector(tuple(os.fsencode(entry) for entry in process.env))
    name = process.args[0]
    if not name:
        raise InvalidSpec("process.args[0]: the command is empty")
    path = next((entry[5:] for entry in process.env if entry.startswith("PATH=")), DEFAULT_PATH)
    # Twice the same directory is looked into once, or the first of the two would be taken for the last of all.
    directories = dict.fromkeys(directory or "." for directory in path.split(":"))
    candidates = [name] if "/" in name else [f"{directory}/{name}" for directory in directories]
    if len(steps.all_steps) + len(candidates) + RESERVED > MAX_STEPS:
        raise InvalidSpec(
            f"{len(steps.all_steps)} steps to set the container up and {len(candidates)} directories in PATH are more than "
            f"a program holds, {MAX_STEPS}: fewer mounts, options, paths or settings are needed"
        )
    for candidate in candidates:
        last = candidate == candidates[-1]
        steps.call(
            "execve",
            candidate,
            arguments,
            environment,
            why="become the program",
            tolerate=() if last else (errno.ENOENT, errno.ENOTDIR, errno.EACCES),
            hint="the program, or the interpreter that it names, is not in the image",
        )
