"""The steps that turn a set-up process into the user's: limits, ids, capabilities, filter, and execve.

The same for a container's init and for an exec'd process: an exec that forgot one of these would be
a way around it.  The order is the kernel's: dropping the bounding set takes CAP_SETPCAP, a filter
without no_new_privs takes CAP_SYS_ADMIN, ids go before the last capabilities, ambient comes last.
"""

from __future__ import annotations

import errno
import os

from kernel.capability import CAPABILITIES
from kernel.program import Buffer, Filter, Flags, Program, Slot, Vector, Words
from runtime.container.descriptors import Descriptor
from runtime.errors import InvalidSpec
from runtime.spec import schema
from runtime.spec.load import RLIMITS

LAST = 0xFFFFFFFF
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def limit(steps: Program, process: schema.Process) -> None:
    """Resource limits and the out-of-memory score, while /proc is still the host's own."""
    steps.heading("limits")
    names = [rlimit.type for rlimit in process.rlimits]
    for rlimit in process.rlimits:
        if rlimit.type not in RLIMITS or names.count(rlimit.type) > 1:
            raise InvalidSpec(f"process.rlimits {rlimit.type!r}: not the name of a limit, or there twice")
        value = Words(8, (rlimit.soft, rlimit.hard))
        steps.call(
            "prlimit64",
            0,
            Flags((rlimit.type,)),
            value,
            0,
            why=f"limit {rlimit.type} to {rlimit.soft}, {rlimit.hard} at most",
            hint="raising a hard limit takes CAP_SYS_RESOURCE",
        )
    if process.oom_score_adj is not None:
        steps.call(
            "openat",
            Flags(("AT_FDCWD",)),
            "/proc/self/oom_score_adj",
            Flags(("O_WRONLY", "O_CLOEXEC")),
            0,
            store="score",
            why="the host's /proc, before anything of the container's could stand in its place",
        )
        score = str(process.oom_score_adj)
        steps.call(
            "write",
            Slot("score"),
            score,
            len(score),
            tolerate=(errno.EACCES,),
            why="how soon the kernel should end this process when memory is short (EACCES: lowering takes CAP_SYS_RESOURCE)",
        )


def label(steps: Program, process: schema.Process) -> None:
    """The AppArmor or SELinux label to change to at execve, asked for through the host's own /proc (CVE-2019-16884)."""
    steps.heading("security label")
    for name, value in (("apparmor/exec", f"exec {process.apparmor_profile}"), ("exec", process.selinux_label)):
        if value in ("", "exec "):
            continue
        path = f"/proc/thread-self/attr/{name}"
        steps.call(
            "openat",
            Flags(("AT_FDCWD",)),
            path,
            Flags(("O_WRONLY", "O_CLOEXEC")),
            0,
            store="label",
            why="the kernel's label door",
            hint="this kernel does not have the security module that the spec asks for",
        )
        steps.call(
            "write",
            Slot("label"),
            value,
            len(value.encode()),
            why="change to this label at execve",
            hint="the profile is not loaded, or the label is not known",
        )


def attach_terminal(steps: Program, process: schema.Process) -> None:
    """A session of its own, led by this process, and the terminal in control of it."""
    steps.heading("session and terminal")
    steps.call("setsid", why="a session of its own")
    steps.call(
        "keyctl",
        Flags(("KEYCTL_JOIN_SESSION_KEYRING",)),
        0,
        tolerate=(errno.ENOSYS,),
        why="a key ring of its own: the keys of whoever started the daemon are not the container's",
    )
    if process.terminal:
        steps.call("ioctl", Descriptor.STDIN, Flags(("TIOCSCTTY",)), 0, why="the terminal controls this session")


def close_all(steps: Program) -> None:
    """Let go of every descriptor but the streams, the ready pipe and the start event.

    For real, before chdir: a working directory of /proc/self/fd/N must find nothing (CVE-2024-21626).
    """
    steps.heading("descriptors")
    steps.call(
        "close_range", Descriptor.PROGRAM, Descriptor.READY_READ, 0, why="the program is mapped, the rest is the monitor's"
    )
    steps.call("close_range", Descriptor.DONE, LAST, 0, why="no descriptor of the host's may live on (CVE-2024-21626)")
    steps.call("close_range", Descriptor.READY, LAST, Flags(("CLOSE_RANGE_CLOEXEC",)), why="what is left ends at execve")


def become(steps: Program, process: schema.Process, last_capability: int, filter_code: bytes | None) -> None:
    """Become the user, with no more than the spec's capabilities, under its filter."""
    user, capabilities = process.user, process.capabilities or schema.Capabilities()
    steps.heading("working directory")
    _stand_in(steps, process.cwd)
    steps.call("umask", 0o022 if user.umask is None else user.umask, why="the mask for new files")
    steps.heading("capabilities that can never come back")
    for number in range(last_capability + 1):
        if f"CAP_{_name(number)}" not in capabilities.bounding:
            steps.call("prctl", Flags(("PR_CAPBSET_DROP",)), number, 0, 0, 0, why=f"CAP_{_name(number)} can never come back")
    if filter_code is not None and not process.no_new_privileges:
        _filter(steps, filter_code, "now, because without no_new_privs it takes CAP_SYS_ADMIN")
    steps.heading("user and groups")
    if user.uid:
        steps.call("prctl", Flags(("PR_SET_KEEPCAPS",)), 1, 0, 0, 0, why="keep capabilities over the change of user")
        for stream in (Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR):
            steps.call(
                "fchown",
                stream,
                user.uid,
                user.gid,
                tolerate=(errno.EPERM, errno.EINVAL, errno.EROFS),
                why="so that /dev/stdout can be opened again by the user",
            )
    groups = Words(4, tuple(user.additional_gids))
    steps.call("setgroups", len(user.additional_gids), groups if user.additional_gids else 0, why="these groups and no others")
    steps.call("setresgid", user.gid, user.gid, user.gid, why="the group")
    steps.call("setresuid", user.uid, user.uid, user.uid, why="the user")
    _set_capabilities(steps, capabilities)
    steps.heading("no new privileges")
    if process.no_new_privileges:
        steps.call("prctl", Flags(("PR_SET_NO_NEW_PRIVS",)), 1, 0, 0, 0, why="setuid programs give nothing from now on")
        if filter_code is not None:
            _filter(steps, filter_code, "last, so that the profile need not allow what stands above")


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
        hint="the working directory must exist in the image",
    )
    steps.call("fchdir", directory, why="the working directory")


def wait_for_caller(steps: Program) -> None:
    """Let the caller do what is done from outside while the host's tree is still there: hooks, network devices."""
    steps.heading("waiting for hooks")
    steps.call("write", Descriptor.READY, "h", 1, why="everything is mounted, and the host's tree is still there")
    steps.call("read", Descriptor.START, Buffer("started", 8), 8, why="wait for hooks and what else is done from outside")


def wait_for_start(steps: Program) -> None:
    """Say that the set-up is done, and wait to be started."""
    steps.heading("waiting for start")
    steps.call("write", Descriptor.READY, "c", 1, why="the container is created")
    steps.call("read", Descriptor.START, Buffer("started", 8), 8, why="wait for start")


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
    candidates = [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in path.split(":")]
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


def _filter(steps: Program, code: bytes, when: str) -> None:
    steps.heading("system call filter")
    steps.call(
        "seccomp",
        Flags(("SECCOMP_SET_MODE_FILTER",)),
        0,
        Filter(code),
        why=f"the system call filter: {when}",
        hint="the filter is longer than the kernel takes, or the kernel has no seccomp",
    )


def _set_capabilities(steps: Program, capabilities: schema.Capabilities) -> None:
    steps.heading("capabilities")
    effective, permitted, inheritable = map(_mask, (capabilities.effective, capabilities.permitted, capabilities.inheritable))
    low = 0xFFFFFFFF
    header = Words(4, (Flags(("_LINUX_CAPABILITY_VERSION_3",)).value(), 0), label="{version 3}")
    sets = Words(4, (effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32))
    steps.call("capset", header, sets, why="exactly the effective, permitted and inheritable capabilities of the spec")
    steps.call(
        "prctl",
        Flags(("PR_CAP_AMBIENT",)),
        Flags(("PR_CAP_AMBIENT_CLEAR_ALL",)),
        0,
        0,
        0,
        why="no ambient capability but the spec's",
    )
    for name in capabilities.ambient:
        steps.call(
            "prctl",
            Flags(("PR_CAP_AMBIENT",)),
            Flags(("PR_CAP_AMBIENT_RAISE",)),
            _number(name),
            0,
            0,
            # What is not also inheritable and permitted cannot be ambient: it is left out, as other runtimes do.
            tolerate=() if name in capabilities.inheritable and name in capabilities.permitted else (errno.EPERM,),
            why=f"{name} survives execve",
        )


def _mask(names: list[str]) -> int:
    return sum(1 << _number(name) for name in set(names))


def _number(name: str) -> int:
    try:
        return CAPABILITIES[name]
    except KeyError:
        raise InvalidSpec(f"process.capabilities: unknown capability {name!r}") from None


def _name(number: int) -> str:
    known = next((name for name, value in CAPABILITIES.items() if value == number), f"CAP_{number}")
    return known.removeprefix("CAP_")
