"""What goes wrong in runtimes that are written in Python, and why it does not here: nothing of ours runs in a child.

The other hazards, of variables, signals and imports, are in ``test_environment``; those of descriptors and executables in
the files of these names.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.spec import schema
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine, without
from tests.support import wait
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Threads that allocate, import, log and lock all the time, as a gRPC server's do."""
    over = threading.Event()

    def work() -> None:
        import json

        while not over.is_set():
            json.loads(json.dumps({str(number): [number] * 10 for number in range(50)}))
            gc.collect(0)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_threaded_process_starts_containers_and_stays_where_it_is(core: Core, bundle: Bundle) -> None:
    """P5, P6, P7: no unshare, no setns and no fork in a process with threads: locks that others hold are nobody's concern."""

    def places() -> dict[str, str]:
        return {kind: os.readlink(f"/proc/thread-self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}

    before, tasks = places(), len(os.listdir("/proc/self/task"))
    bundle.script("readlink /proc/self/ns/pid")
    with busy(4):
        for _ in range(25):
            result = core.run(bundle)
            assert result.code == 0
            assert result.lines[0] != before["pid"]
    assert places() == before
    wait.until(lambda: len(os.listdir("/proc/self/task")) == tasks, 5, "the threads that were joined to be gone")


def test_a_container_is_no_copy_of_this_process(core: Core, bundle: Bundle) -> None:
    """P6, P14: what becomes a container shares no memory with us, so that no collector and no __del__ can run there."""
    with core.create(bundle) as container:
        pages = int(Path(f"/proc/{container.pid}/statm").read_text().split()[0])
        assert pages < 100
        for pid in (container.pid, container.reaper_pid):
            assert "python" not in Path(f"/proc/{pid}/maps").read_text()


class Precious:
    """Takes note of its end."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __del__(self) -> None:
        with open(self.place, "a") as file:
            file.write("collected\n")


@pytest.mark.parametrize("failing", ["none", "command", "mount", "program"])
def test_nothing_of_ours_is_undone_twice(core: Core, bundle: Bundle, tmp_path: Path, failing: str) -> None:
    """P13, P14: after a fork a child would run the parent's finally, atexit and __del__ again: unlink and rmdir twice."""
    match failing:
        case "command":
            bundle.process.args = ["/nonexistent"]
        case "mount":
            bundle.mount("/nonexistent", "/data")
        case "program":
            core = core.weakened(lambda step: step._replace(arguments=(99,)) if step.call == "umask" else step, without("chdir"))
            bundle.process.cwd = "/proc/self/fd/9"
        case _:
            pass
    mark = tmp_path / "mark"
    kept = Precious(mark)
    try:
        core.run(bundle)
    finally:
        with open(mark, "a") as file:
            file.write("finally\n")
    assert kept.place == mark
    del kept
    assert mark.read_text() == "finally\ncollected\n"


def test_children_of_others_are_left_to_them(core: Core, bundle: Bundle) -> None:
    """P12: only processes of our own are waited for: whoever embeds this runtime has children too."""
    others = [subprocess.Popen(["/bin/busybox", "sh", "-c", f"exit {code}"]) for code in range(1, 6)]
    for _ in range(3):
        assert core.run(bundle).code == 0
    bundle.process.args = ["/nonexistent"]
    assert core.run(bundle).refusal
    assert [other.wait(10) for other in others] == [1, 2, 3, 4, 5]


def memory_of(pid: int) -> int:
    """Bytes that are in memory because of *pid* alone (its proportional set)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def test_a_container_costs_no_interpreter(core: Core, bundle: Bundle) -> None:
    """P15: an interpreter for each container would take 8 MB; a created one and its reaper take less than a hundredth."""
    with core.create(bundle) as container:
        assert memory_of(container.pid) + memory_of(container.reaper_pid) < 80 * 1024


def test_a_document_that_is_too_much_is_an_answer_not_an_end(engine: Engine, bundle: Bundle) -> None:
    """P16: what is wrong with a document, or too large, is told in words, quickly, and nothing is left of it."""
    bundle.spec.annotations = {str(number): "x" * 1000 for number in range(5000)}
    bundle.spec.linux.seccomp = schema.Seccomp(
        default_action="SCMP_ACT_ALLOW",
        syscalls=[
            schema.SyscallRule(
                names=["read"],
                action="SCMP_ACT_ERRNO",
                args=[schema.SeccompArg(index=0, value=number, op="SCMP_CMP_EQ")],
            )
            for number in range(20_000)
        ],
    )
    begun = time.monotonic()
    result = engine.run(bundle)
    assert "seccomp" in result.refusal or "document has" in result.refusal
    assert time.monotonic() - begun < 10
