"""Real containers, by the runner and by Python: the same answer to every step, also when any one of them fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel import mount
from kernel.cgroup import Cgroup
from kernel.fd import Fd, eventfd, pipe
from kernel.program import Flags, Program, Step
from kernel.report import Outcome
from runtime.container import ground, init
from runtime.container.descriptors import Descriptor
from runtime.container.seccomp import compile_filter, default_profile
from runtime.spec import schema
from tests.kernel.test_stepper import same
from tests.runtime.container.test_shell import as_a_user, spec, write_bundle
from tests.runtime.container.test_sketch import joined, with_a_terminal
from tests.support import cgroup, inside, launch

Run = Callable[..., tuple[Outcome, int]]
NOWHERE = (Flags(("AT_FDCWD",)), "/nonexistent", 0, 0)


def filtered(made: schema.Spec) -> None:
    as_a_user(made)
    assert made.process is not None and made.process.capabilities is not None
    made.linux.seccomp = default_profile(made.process.capabilities.bounding)


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = Cgroup(cgroup.ROOT / "executors")
    made.create()
    yield made
    made.remove()


@contextlib.contextmanager
def prepared_program(wanted: schema.Spec, bundle: Path, group: Cgroup) -> Iterator[tuple[Program, dict[int, Fd]]]:
    """The program of *wanted* on a ground of its own, which one start uses up; it need not wait for its start."""
    assert wanted.process is not None
    wanted.process.args = ["sh", "-c", "exit 7"]
    attach_point = bundle / "attach"
    attach_point.mkdir(exist_ok=True)
    root = mount.clone_tree(bundle / "rootfs", recursive=True)
    mount.set_attributes(root, propagation="private", recursive=True)
    with contextlib.ExitStack() as opened:
        prepared = ground.prepare(wanted, root, attach_point=attach_point, in_cgroup=True, has_reaper=False)
        opened.callback(prepared.close)
        start = opened.enter_context(eventfd())
        os.eventfd_write(start.fileno(), 1)
        reader, writer = map(opened.enter_context, pipe())
        null = opened.enter_context(inside.open_null())
        stdio = null if prepared.terminal is None else prepared.terminal.slave
        descriptors: dict[int, Fd] = {
            **prepared.descriptors,
            **dict.fromkeys((Descriptor.STDIN, Descriptor.STDOUT, Descriptor.STDERR), stdio),
            Descriptor.READY_READ: reader,
            Descriptor.READY: writer,
            Descriptor.START: start,
            Descriptor.CGROUP: opened.enter_context(group.open()),
        }
        code = compile_filter(wanted.linux.seccomp) if wanted.linux.seccomp else None
        yield init.program("x", wanted, prepared.facts, code), descriptors


def start(wanted: schema.Spec, bundle: Path, group: Cgroup, run: Run, failing: int | None = None) -> tuple[Program, Outcome, int]:
    """Start it with *run*, in which the step of index *failing* is another, one that fails; the last is the exit code."""
    with prepared_program(wanted, bundle, group) as (whole, descriptors):
        program = Program("x", list(whole.steps), [], whole.clone_index)
        if failing is not None:
            program.steps[failing] = Step("openat", NOWHERE, "fails", store=whole.steps[failing].store)
        outcome, code = run(program, descriptors, adopts=True)
    return program, outcome, code


KINDS = {"ordinary": lambda _: None, "filtered": filtered, "joined": joined, "with a terminal": with_a_terminal}


@pytest.mark.requires("root", "cgroup2")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_container_starts_the_same_way(kind: str, tmp_path: Path, group: Cgroup) -> None:
    wanted = spec(KINDS[kind])
    bundle = write_bundle(tmp_path, wanted)
    program, by_runner, code = start(wanted, bundle, group, launch.run)
    _, by_python, other_code = start(wanted, bundle, group, launch.run_stepped)
    same(program, by_runner, by_python)
    assert (code, other_code) == (7, 7)
    assert by_python.failed is None


@pytest.mark.requires("root", "cgroup2")
def test_whichever_step_fails_it_fails_the_same_way(tmp_path: Path, group: Cgroup) -> None:
    wanted = spec(filtered)
    # Of 190 starts each would take 50 ms to make and end a network.
    wanted.linux.namespaces = [each for each in wanted.linux.namespaces if each.type != "network"]
    wanted.linux.sysctl = {}
    bundle = write_bundle(tmp_path, wanted)
    with prepared_program(wanted, bundle, group) as (program, _):
        count, cloned = len(program.steps), program.clone_index
    assert count > 100
    for failing in range(count):
        if failing == cloned:
            continue
        broken, by_runner, code = start(wanted, bundle, group, launch.run, failing)
        _, by_python, other_code = start(wanted, bundle, group, launch.run_stepped, failing)
        same(broken, by_runner, by_python)
        assert (by_python.failed, code, other_code) == (failing, 111, 111)
