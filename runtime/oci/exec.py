"""``exec``: a further process in a running container."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import msgspec

from kernel.cgroup import Cgroup
from kernel.fd import Fd, open_path
from kernel.process import adopt_orphans, is_running, open_pidfd
from kernel.terminal import Terminal, find_devpts, open_terminal
from runtime.container import entrance, join
from runtime.container import filter as system_calls
from runtime.container.descriptors import Descriptor
from runtime.container.failure import describe_failure
from runtime.container.userns import host_id
from runtime.errors import ContainerNotRunning, InvalidArgument, KerneletError, StartFailed, WrongState
from runtime.oci import console
from runtime.oci.console import Relay
from runtime.oci.create import hand_over_listener, see_to_profile, take_preserved, warn_of_capabilities, write_pid_files
from runtime.oci.directory import CREATED, PAUSED, RUNNING, Container
from runtime.oci.executable import check_executable
from runtime.oci.flags import LIST, SWITCH, TEXT, Parsed
from runtime.oci.home import environment_of
from runtime.oci.launch import launch, private_ends
from runtime.oci.request import Request
from runtime.oci.wait import Waiting
from runtime.spec import schema
from runtime.spec.checks import MAX_ID
from runtime.spec.load import SIZE_LIMIT_BYTES, check_process, load_process

FLAGS = {
    "console-socket": TEXT,
    "cwd": TEXT,
    "env e": LIST,
    "tty t": SWITCH,
    "user u": TEXT,
    "additional-gids g": LIST,
    "process p": TEXT,
    "detach d": SWITCH,
    "pid-file": TEXT,
    "pidfd-socket": TEXT,
    "process-label": TEXT,
    "apparmor": TEXT,
    "no-new-privs": SWITCH,
    "cap c": LIST,
    "preserve-fds": TEXT,
    "cgroup": LIST,
    "ignore-paused": SWITCH,
    "no-subreaper": SWITCH,
}
USAGE = "[--tty] [--detach] [--cwd DIR] [--env NAME=VALUE] [--user UID[:GID]] ID COMMAND [ARGUMENT...] | --process FILE ID"
#: What exec itself answers when the process could not be started: no exit code of the process's.
FAILED = 255


def run(request: Request) -> int:
    try:
        return execute(request)
    except (KerneletError, OSError) as error:
        from runtime.oci.command import describe

        request.log.error(f"exec failed: {describe(error)}")
        return FAILED


def execute(request: Request) -> int:
    """Start the process, and unless detached wait for it; its exit code."""
    preserved = take_preserved(request)
    detached = request.flags.switch("detach")
    with request.container(lock=False) as container, contextlib.ExitStack() as opened:
        _check_status(container, ignore_paused=request.flags.switch("ignore-paused"))
        spec = container.spec()
        init = opened.enter_context(_open_init(container))
        root = opened.enter_context(open_path(f"/proc/{container.record.pid}/root", os.O_PATH | os.O_DIRECTORY))
        process = process_of(request, spec, root)
        console.check_request(request, process, detached=detached)
        see_to_profile(process)
        check_executable(root, process)
        terminal = _open_terminal(spec, process, root, opened)
        waiting = None if detached else opened.enter_context(Waiting())
        if detached:
            console.hand_over(request, terminal)
        elif not request.flags.switch("no-subreaper"):
            adopt_orphans()
        if container.record.owner and container.record.extra:
            from runtime.oci import scopes

            scopes.come_to(container)
        start = _Start(_find_cgroup(request, container), terminal, preserved)
        pid = _start(request, container, spec, process, start, init)
        write_pid_files(request, pid)
        if waiting is None:
            return 0
        with open_pidfd(pid) as pidfd, Relay(terminal) as relay:
            if terminal is not None:
                terminal.close()
            return waiting.wait(pid, pidfd, relay)


class _Start(NamedTuple):
    """What a process starts with that is not in its description."""

    cgroup: Fd | None
    terminal: Terminal | None
    preserved: list[Fd]


def process_of(request: Request, spec: schema.Spec, root: Fd) -> schema.Process:
    """What is asked for: the process of --process, or that of config.json with the command and what other flags say."""
    flags = request.flags
    if flags.has("process"):
        request.check_count(1)
        with open_path(flags.text("process")) as file:
            process = load_process(os.read(file.fileno(), SIZE_LIMIT_BYTES + 1))
        process.env = environment_of(process, root)
        return process
    if len(request.arguments) < 2:
        raise InvalidArgument("process args cannot be empty")
    process = msgspec.structs.replace(spec.process or schema.Process(), args=request.arguments[1:], terminal=flags.switch("tty"))
    process.env = [*process.env, *flags.texts("env")]
    process.cwd = flags.text("cwd") or process.cwd
    process.apparmor_profile = flags.text("apparmor") or process.apparmor_profile
    process.selinux_label = flags.text("process-label") or process.selinux_label
    if flags.has("no-new-privs"):
        process.no_new_privileges = flags.switch("no-new-privs")
    _change_user(process, flags)
    _add_capabilities(process, flags.texts("cap"))
    check_process(process)
    process.env = environment_of(process, root)
    return process


def parse_user(text: str) -> tuple[int, int | None]:
    """The numbers of "UID" or "UID:GID".

    Raises InvalidArgument for anything else: what is no number must not become another one, least of all 0 (CVE-2026-30892).
    """
    user, colon, group = text.partition(":")
    return _parse_id(user, text), _parse_id(group, text) if colon else None


def _parse_id(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID):
        raise InvalidArgument(f"--user {whole!r}: must be UID or UID:GID, numbers from 0 to {MAX_ID}")
    return int(text)


def _change_user(process: schema.Process, flags: Parsed) -> None:
    user = msgspec.structs.replace(process.user)
    if flags.has("user"):
        user.uid, group = parse_user(flags.text("user"))
        user.gid = user.gid if group is None else group
    added = [_parse_id(text, text) for text in flags.texts("additional-gids")]
    user.additional_gids = [*user.additional_gids, *added]
    process.user = user


def _add_capabilities(process: schema.Process, names: list[str]) -> None:
    """Add to what the process may do; not to what it hands on (CVE-2022-29162)."""
    if names:
        sets = msgspec.structs.replace(process.capabilities or schema.Capabilities())
        sets.bounding, sets.effective, sets.permitted = (
            [*known, *names] for known in (sets.bounding, sets.effective, sets.permitted)
        )
        if sets.inheritable:  # what is not inheritable cannot be ambient
            sets.ambient = [*sets.ambient, *names]
        process.capabilities = sets


def _check_status(container: Container, *, ignore_paused: bool) -> None:
    status = container.status()
    if status == PAUSED and not ignore_paused:
        raise WrongState("cannot exec in a paused container (use --ignore-paused to override)")
    if status not in (RUNNING, CREATED, PAUSED):
        raise ContainerNotRunning(f"cannot exec in a {status} container")


def _open_init(container: Container) -> Fd:
    try:
        return container.open_init()
    except ProcessLookupError:
        raise ContainerNotRunning("cannot exec in a stopped container") from None


def _open_terminal(spec: schema.Spec, process: schema.Process, root: Fd, opened: contextlib.ExitStack) -> Terminal | None:
    """A new one of the container's, which belongs to its root: ours is nobody in its user namespace."""
    if not process.terminal:
        return None
    with find_devpts(root) as devpts:
        terminal = open_terminal(devpts)
    opened.callback(terminal.close)
    owner = host_id(spec.linux.uid_mappings, 0)
    if owner is not None:
        os.fchown(terminal.slave.fileno(), owner, -1)
    console.size_terminal(terminal, process)
    return terminal


def _find_cgroup(request: Request, container: Container) -> Fd | None:
    """The container's cgroup, or the one below it that --cgroup names; where the init is now, if the first takes nobody."""
    cgroup = container.cgroup
    if cgroup is None:
        return None
    if request.flags.has("cgroup"):
        named = request.flags.texts("cgroup")[-1]
        if ".." in named.split("/"):
            raise InvalidArgument(f"--cgroup {named}: bad sub cgroup path: `..` components are not allowed")
        below = os.path.normpath("/" + named.lstrip("/"))
        return open_cgroup(Cgroup(Path(f"{cgroup.path}{below}")), f"--cgroup {below}")
    if not cgroup.exists() or cgroup.read("cgroup.subtree_control").split():
        cgroup = _cgroup_of_init(container)
    return open_cgroup(cgroup, "exec")


def open_cgroup(cgroup: Cgroup, what: str) -> Fd:
    """The directory of *cgroup*, for *what*; raises InvalidArgument when there is none."""
    try:
        return cgroup.open()
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidArgument(f"{what}: cgroup {cgroup.path}: no such file or directory") from None


def _cgroup_of_init(container: Container) -> Cgroup:
    """Where the init has moved to from its first cgroup, which is gone, or takes no processes since it hands controllers on."""
    lines = Path(f"/proc/{container.record.pid}/cgroup").read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::/")), "")
    return Cgroup(Path(container.record.tree + path))


def _start(request: Request, container: Container, spec: schema.Spec, process: schema.Process, start: _Start, init: Fd) -> int:
    """Start *process*, wait until it has become its program, and return its pid.  Raises StartFailed."""
    profile = system_calls.of(spec.linux.seccomp, system_calls.compiled(spec.linux.seccomp))
    opened = entrance.prepare(
        process,
        container.record.pid,
        start.cgroup,
        linux=spec.linux,
        has_reaper=False,
        waits=profile is not None and profile.listens,
        preserved=len(start.preserved),
        keyring=container.record.keyring,
    )
    try:
        if not is_running(init):  # else what was opened by its number, its root and namespaces, might be another's
            raise ContainerNotRunning("cannot exec in a stopped container")
        warn_of_capabilities(request, process, opened.entrance.grantable)
        program = join.program(f"exec in {container.id}", process, opened.entrance, profile)
        files = dict(opened.descriptors)
        if start.terminal is not None:
            files |= dict.fromkeys((Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR), start.terminal.slave)
        with launch(program, files, private_ends(program), start.preserved) as launched:
            if launched.hear() == "c":  # its listener is there
                try:
                    hand_over_listener(launched, program, container, spec)
                except BaseException:
                    launched.end()
                    raise
                launched.go_on()
                launched.hear()
            progress = launched.progress()
            if progress.failed is not None or not progress.pid:
                launched.end()
                failed = progress.at if progress.failed is None else progress.failed
                if program.all_steps[failed].call == "execve":
                    raise StartFailed(f"exec {process.args[0]}: {os.strerror(progress.errno).lower()}")
                raise StartFailed(describe_failure(program, failed, progress.errno))
            return progress.pid
    finally:
        opened.close()
