"""``create``: everything up to the program itself, which waits for ``start``: the recipe."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

import msgspec

from kernel.capability import last_capability
from kernel.cgroup import Cgroup, find_tree
from kernel.fd import Fd, open_path
from kernel.process import open_pidfd
from kernel.program import Program
from kernel.terminal import Terminal
from runtime.container import filter, ground, init
from runtime.container.capabilities import unavailable
from runtime.container.descriptors import Descriptor
from runtime.container.failure import describe_failure
from runtime.container.filter import SystemCallFilter
from runtime.errors import InvalidArgument, InvalidSpec, StartFailed
from runtime.oci import console, place
from runtime.oci.around import give_devices_back, late_hooks, run_create_hooks
from runtime.oci.bundle import Bundle, load_bundle, make_attach_point
from runtime.oci.delete import destroy
from runtime.oci.directory import (
    CONFIG,
    CREATING,
    FACTS,
    Container,
    Record,
    make_container,
    start_time,
    write_whole,
)
from runtime.oci.executable import check_executable
from runtime.oci.flags import SWITCH, TEXT, is_number
from runtime.oci.home import environment_of
from runtime.oci.launch import Launch, ends_in, launch
from runtime.oci.log import timestamp
from runtime.oci.request import Request
from runtime.spec import schema

FLAGS = {
    "bundle b": TEXT,
    "config f": TEXT,
    "console-socket": TEXT,
    "pidfd-socket": TEXT,
    "pid-file": TEXT,
    "no-pivot": SWITCH,
    "no-new-keyring": SWITCH,
    "preserve-fds": TEXT,
}
USAGE = "[--bundle DIR] [--console-socket SOCKET] [--pid-file FILE] ID"


def run(request: Request) -> int:
    request.check_count(1)
    with create(request):
        return 0


def create(request: Request, *, detached: bool = True) -> Created:
    """Make the container; its first process waits to be started.  The container is locked until it is closed.

    Raises KerneletError or OSError, and leaves nothing then.
    """
    preserved = take_preserved(request)
    bundle = load_bundle(request.flags.text("bundle", "."), request.flags.text("config"))
    process = _process_of(bundle)
    console.check_request(request, process, detached=detached)
    owner = os.getuid()
    if owner:
        _enter_users(bundle.spec)
    with contextlib.ExitStack() as held, contextlib.ExitStack() as undo:
        see_to_profile(process)
        container = make_container(request.root, _record(request, bundle, owner))
        undo.callback(container.close)
        undo.callback(destroy, container)
        write_whole(container.path / CONFIG, bundle.document)
        cgroup = _make_cgroup(request, container, bundle.spec, held)
        prepared = _prepare(request, container, bundle, cgroup, len(preserved))
        undo.callback(prepared.close)
        write_whole(container.path / FACTS, msgspec.json.encode(prepared.facts))
        warn_of_capabilities(request, process, prepared.facts.grantable)
        code = filter.compiled(bundle.spec.linux.seccomp)
        tell_of_filter(request, filter.of(bundle.spec.linux.seccomp, code))
        program = init.program(f"init of {container.id}", bundle.spec, prepared.facts, code)
        launched = launch(program, _descriptors(prepared, cgroup), ends_in(container.path, program), preserved)
        undo.callback(launched.close)
        undo.callback(launched.end)
        undo.callback(give_devices_back, container, bundle.spec)
        if cgroup is not None and not container.record.owner:
            place.give_away(cgroup, bundle.spec)
        _wait_for_creation(launched, program, container, bundle.spec)
        with open_path(f"/proc/{launched.pid}/root", os.O_PATH | os.O_DIRECTORY) as inside:
            check_executable(inside, process)
        container.record.pid, container.record.start_time = launched.pid, start_time(launched.pid)
        container.save()
        request.log.debug(
            f"create {container.id}: {len(program.all_steps)} steps, process {launched.pid}, {container.record.cgroup}"
        )
        if detached:
            console.hand_over(request, prepared.terminal)
        write_pid_files(request, launched.pid)
        undo.pop_all()
    launched.close()
    return Created(container, bundle.spec, prepared)


class Created:
    """A container that waits to be started, and what only its creator has."""

    def __init__(self, container: Container, spec: schema.Spec, prepared: ground.Ground) -> None:
        self.container, self.spec, self._prepared = container, spec, prepared

    @property
    def terminal(self) -> Terminal | None:
        """Both ends of its terminal."""
        return self._prepared.terminal

    def close_ground(self) -> None:
        """Let go of what was opened for the start: the container has its own."""
        self._prepared.close()

    def __enter__(self) -> Created:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_ground()
        self.container.close()


def _wait_for_creation(launched: Launch, program: Program, container: Container, spec: schema.Spec) -> None:
    """Wait until the new process is a container, and do meanwhile what is done from outside.

    Raises StartFailed naming the step that failed, or HookFailed.
    """
    said = launched.hear()
    if said == "h":
        run_create_hooks(container, spec, launched.pid)
        launched.go_on()
        said = launched.hear()
    if said != "c":
        progress = launched.progress()
        failed = progress.at if progress.failed is None else progress.failed
        raise StartFailed(describe_failure(program, failed, progress.errno))
    hand_over_listener(launched, program, container, spec)


def hand_over_listener(launched: Launch, program: Program, container: Container, spec: schema.Spec) -> None:
    """Send the listener of the process's system call filter, if there is one, to who answers."""
    if spec.linux.seccomp is None or not spec.linux.seccomp.listener_path:
        return
    from runtime.container.notify import hand_over

    state = container.hook_state()
    state.pid, state.status = (state.pid, container.status()) if state.pid else (launched.pid, CREATING)
    hand_over(program, launched.report, spec.linux.seccomp, state)


def tell_of_filter(request: Request, system_calls: SystemCallFilter | None) -> None:
    """For who asked with --debug: the flags of the system call filter, as the kernel takes them."""
    if system_calls is not None:
        request.log.debug(f"seccomp filter flags: {system_calls.flags_value}")


def see_to_profile(process: schema.Process) -> None:
    """Make sure that the process's AppArmor profile is there.  Raises WrongState."""
    if process.apparmor_profile:
        from runtime.container.apparmor import see_to

        see_to(process.apparmor_profile)


def warn_of_capabilities(request: Request, process: schema.Process, grantable: int) -> None:
    """Tell of capabilities that the process will not get, for nobody can give them here."""
    for warning in unavailable(process, last_capability(), grantable):
        request.log.warning(warning)


def take_preserved(request: Request) -> list[Fd]:
    """The descriptors that the caller hands to the container: from 3 on, as many as --preserve-fds and LISTEN_FDS say.

    Sockets to listen on (sd_listen_fds(3)) are for a container's first process.
    """
    count = request.flags.number("preserve-fds")
    if request.command != "exec" and is_number(os.environ.get("LISTEN_FDS", "")):
        count += int(os.environ["LISTEN_FDS"])
    is_open = [_is_open(number) for number in range(3, 3 + count)]
    while is_open and not is_open[-1]:
        is_open.pop()  # callers ask for more than they have; a gap would shift what comes after it
    if not all(is_open):
        raise InvalidArgument(f"--preserve-fds: descriptor {3 + is_open.index(False)} is not open, and a later one is")
    return [Fd(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3 + count)) for number in range(3, 3 + len(is_open))]


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def write_pid_files(request: Request, pid: int) -> None:
    """What --pid-file and --pidfd-socket ask for."""
    if request.flags.has("pid-file"):
        write_whole(request.flags.text("pid-file"), str(pid).encode(), 0o644)
    if request.flags.has("pidfd-socket"):
        console.send_file(request.flags.text("pidfd-socket"), "pidfd", open_pidfd(pid))


def _process_of(bundle: Bundle) -> schema.Process:
    process = bundle.spec.process
    if process is None:
        raise InvalidSpec("process: a container needs a process to be started")
    listening = os.environ.get("LISTEN_FDS", "")
    if is_number(listening):
        process.env = [*process.env, f"LISTEN_FDS={listening}", "LISTEN_PID=1"]
    with open_path(bundle.rootfs, os.O_PATH | os.O_DIRECTORY) as root:
        process.env = environment_of(process, root)
    return process


def _enter_users(spec: schema.Spec) -> None:
    from runtime.container.rootless import enter

    enter(spec)


def _record(request: Request, bundle: Bundle, owner: int) -> Record:
    return Record(
        id=request.arguments[0],
        bundle=os.fspath(bundle.path),
        rootfs=os.fspath(bundle.rootfs),
        oci_version=bundle.spec.oci_version,
        created=timestamp(),
        annotations=bundle.spec.annotations,
        owner=owner,
        shares_processes=not any(each.type == "pid" and not each.path for each in bundle.spec.linux.namespaces),
        late_hooks=late_hooks(bundle.spec.hooks),
        keyring=None if request.flags.switch("no-new-keyring") else f"_ses.{request.arguments[0]}",
    )


def _make_cgroup(request: Request, container: Container, spec: schema.Spec, held: contextlib.ExitStack) -> Cgroup | None:
    """The container's cgroup, with its limits, and none of its processes yet; what keeps it until then is *held*.

    None where this user may make none, and the spec needs none.
    """
    tree = find_tree()
    if request.systemd:
        from runtime.oci import scopes

        cgroup, end = scopes.start(container, tree, spec.linux)
        held.callback(end)
        container.record.cgroup_inode = os.stat(cgroup.path).st_ino
        place.apply_limits(cgroup, tree, spec.linux)
        return cgroup
    cgroup = place.find_place(tree, container.id, spec.linux.cgroups_path)
    container.record.cgroup, container.record.tree = os.fspath(cgroup.path), os.fspath(tree)
    container.save()
    try:
        place.make_place(cgroup)
    except OSError as error:
        if not container.record.owner or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        container.record.cgroup = ""  # there is none to take away
        container.save()
        place.do_without(spec.linux, error)
        return None
    container.record.cgroup_inode = os.stat(cgroup.path).st_ino
    place.apply_limits(cgroup, tree, spec.linux)
    return cgroup


def _prepare(request: Request, container: Container, bundle: Bundle, cgroup: Cgroup | None, preserved: int) -> ground.Ground:
    return ground.prepare(
        bundle.spec,
        bundle.open_root(),
        attach_point=make_attach_point(bundle, container.path),
        in_cgroup=cgroup is not None,
        has_reaper=False,
        preserved=preserved,
        keyring=container.record.keyring,
        can_pause=True,
        pivots=not request.flags.switch("no-pivot"),
        in_order=True,
        exactly=True,
        bundle=bundle.path,
        rootfs=bundle.rootfs,
        cgroup=None if cgroup is None else cgroup.path,
    )


def _descriptors(prepared: ground.Ground, cgroup: Cgroup | None) -> dict[int, Fd]:
    descriptors = dict(prepared.descriptors)
    if cgroup is not None:
        descriptors[Descriptor.CGROUP] = cgroup.open()
    if prepared.terminal is not None:
        descriptors |= dict.fromkeys((Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR), prepared.terminal.slave)
    return descriptors
