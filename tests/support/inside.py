"""Run a command in a container of a spec, and bring back what it says: for tests that look from inside.

The core alone (ground, program, runner), as the low-level command line composes it: no daemon, no reaper.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kernel import namespace
from kernel.fd import Fd, memory, open_path
from kernel.program import Program
from runtime.container import ground, init
from runtime.container.descriptors import FIRST_PRESERVED, Descriptor
from runtime.container.failure import describe_failure
from runtime.container.ground_binds import open_null_device, open_root
from runtime.container.seccomp import compile_filter
from runtime.errors import StartFailed
from runtime.spec import defaults, schema
from runtime.spec.load import validate
from tests.support import launch
from tests.support.image import BUSYBOX, applets

KINDS = ("pid", "mount", "ipc", "uts", "network", "cgroup")
MAPPED = 100_000


def spec(script: str, *, kinds: tuple[str, ...] = KINDS, **of_process: object) -> schema.Spec:
    """A container that runs *script* in busybox' shell, with all that root may do."""
    from kernel.capability import names_of, sets_of

    every = list(names_of(sets_of().permitted))
    sets = schema.Capabilities(bounding=every, effective=every, permitted=every)
    arguments: dict[str, object] = {
        "args": ["/bin/sh", "-c", script],
        "env": [f"PATH={defaults.PATH}"],
        "capabilities": sets,
        **of_process,
    }
    needs = {"cgroup2": "cgroup", "mqueue": "ipc", "sysfs": "network"}
    mounts = [each for each in defaults.mounts(privileged=True) if needs.get(each.type, "mount") in {"mount", *kinds}]
    made = [schema.Namespace(type=kind) for kind in kinds]
    return schema.Spec(
        root=schema.Root(path="rootfs"),
        process=schema.Process(**arguments),  # type: ignore[arg-type]
        mounts=mounts,
        linux=schema.Linux(namespaces=made),
    )


def with_users(wanted: schema.Spec, first: int = MAPPED) -> schema.Spec:
    """*wanted* in a user namespace of its own, whose ids are those from *first* on."""
    wanted.linux.namespaces.append(schema.Namespace(type="user"))
    for mappings in (wanted.linux.uid_mappings, wanted.linux.gid_mappings):
        mappings.append(schema.IdMapping(container_id=0, host_id=first, size=65536))
    return wanted


@dataclass(frozen=True, slots=True)
class Node:
    """Where the containers of a test find their root file system."""

    rootfs: Path
    attach_point: Path

    def prepare(self, wanted: schema.Spec, **more: object) -> ground.Ground:
        """The ground of *wanted*; the caller closes it."""
        validate(wanted)
        given: dict[str, object] = {"attach_point": self.attach_point, "in_cgroup": False, "has_reaper": False, **more}
        root = open_root(self.rootfs, wanted.linux.rootfs_propagation)
        return ground.prepare(wanted, root, **given)  # type: ignore[arg-type]

    def run(
        self, wanted: schema.Spec, *, handed: tuple[Fd, ...] = (), files: Mapping[int, Fd] | None = None, **more: object
    ) -> str:
        """What the container of *wanted* says on stdout and stderr.

        Raises StartFailed with the step that failed, AssertionError for an exit code that is not zero.
        """
        prepared = self.prepare(wanted, preserved=len(handed), **more)
        try:
            code = None if wanted.linux.seccomp is None else compile_filter(wanted.linux.seccomp)
            program = init.program("test", wanted, prepared.facts, code, waits=False)
            theirs = {**prepared.descriptors, **(files or {})}
            theirs |= {FIRST_PRESERVED + index: file for index, file in enumerate(handed)}
            return execute(program, theirs)
        finally:
            prepared.close()

    def run_in_terminal(self, wanted: schema.Spec, **more: object) -> str:
        """What the container of *wanted* says on its terminal."""
        prepared = self.prepare(wanted, **more)
        try:
            assert prepared.terminal is not None
            program = init.program("test", wanted, prepared.facts, waits=False)
            streams: dict[int, Fd] = dict.fromkeys(range(3), prepared.terminal.slave)
            execute(program, {**prepared.descriptors, **streams})
            return os.read(prepared.terminal.master.fileno(), 1 << 16).decode()
        finally:
            prepared.close()


def execute(program: Program, files: Mapping[int, Fd]) -> str:
    """What the new process of *program*, which has no reaper, says; raises as ``Node.run``."""
    with memory("output", b"", seal=False) as output, open_null() as null:
        streams: dict[int, Fd] = {Descriptor.STDIN: null, Descriptor.STDOUT: output, Descriptor.STDERR: output}
        pipes: dict[int, Fd] = {Descriptor.READY: null, Descriptor.START: null}
        outcome, code = launch.run(program, {**streams, **pipes, **files}, adopts=True)
        if outcome.failed is not None:
            raise StartFailed(describe_failure(program, outcome.failed, outcome.errno, outcome.results))
        said = os.pread(output.fileno(), 1 << 20, 0).decode()
    assert code == 0, f"exit code {code}: {said}"
    return said


def open_null() -> Fd:
    """The null device on a read-only mount of its own: the streams are given to the container's user.

    Whoever may not mount may not give it away either.
    """
    try:
        with open_null_device() as mount:
            return open_path(f"/proc/self/fd/{mount.fileno()}", os.O_RDWR)
    except PermissionError:
        return open_path("/dev/null", os.O_RDWR)


def make_node(directory: Path) -> Node:
    """A root file system of busybox below *directory*."""
    node = Node(directory / "rootfs", directory / "attach")
    for path in ("bin", "dev", "etc", "proc", "sys", "tmp", "usr/bin", "sbin", "usr/sbin", "root", "lib"):
        (node.rootfs / path).mkdir(parents=True)
    node.attach_point.mkdir()
    for parent in (directory, node.rootfs):
        parent.chmod(0o755)
    target = node.rootfs / "bin/busybox"
    target.write_bytes(BUSYBOX.read_bytes())
    target.chmod(0o755)
    for name in applets():
        if not (node.rootfs / name).exists():
            (node.rootfs / name).hardlink_to(target)
    return node


def own_identity(kind: namespace.Kind) -> str:
    """As readlink(1) of /proc/self/ns/KIND shows it, here."""
    return os.readlink(f"/proc/self/ns/{kind}")
