"""Descriptors of the host's that a container must never hold, be born with, or stand in."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.program import Step
from runtime.spec import schema
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine, without
from tests.safety.oci import Oci
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

#: All numbers that a launch uses, and some above.
NUMBERS = (*range(3, 16), *range(20, 40), 96, 128, 400, 600)


@pytest.fixture
def leaky(outside: Path) -> Iterator[list[int]]:
    """Whoever starts the runtime has a directory open that every child inherits."""
    opened = []
    for number in (50, 90, 300, 601):
        directory = os.open(outside, os.O_RDONLY | os.O_DIRECTORY)
        os.dup2(directory, number, inheritable=True)
        os.close(directory)
        opened.append(number)
    yield opened
    for number in opened:
        os.close(number)


def stand_by_chdir(step: Step) -> Step | None:
    """The working directory is entered by its name, as chdir(2) does."""
    if step.store == "cwd":
        return Step("chdir", (step.arguments[1],), step.why)
    return None if str(step) == "fchdir(cwd)" else step


@pytest.mark.parametrize("form", ["/proc/self/fd/{}", "/proc/self/fd/{}/..", "/proc/1/fd/{}", "/proc/thread-self/fd/{}/../../.."])
def test_a_working_directory_in_a_descriptor_is_refused(engine: Engine, bundle: Bundle, leaky: list[int], form: str) -> None:
    """CVE-2024-21626: a directory of the host's, left open over the set-up, was the way out of the container."""
    for number in (*NUMBERS, *leaky):
        bundle.process.cwd = form.format(number)
        result = engine.run(bundle)
        assert result.code is None, (number, result)
        assert "working directory" in result.refusal or "cwd" in result.refusal or "no place" in result.refusal


def test_without_the_defence_a_descriptor_leads_out(core: Core, bundle: Bundle) -> None:
    """CVE-2024-21626: the attack works when nothing is closed and links of /proc are followed."""
    bundle.script("/bin/busybox pwd -P; /bin/busybox ls /proc/self/cwd/; /bin/busybox true")
    weak = core.weakened(stand_by_chdir, without("close_range(program", "close_range(done"))
    outcomes = []
    for number in NUMBERS:
        bundle.process.cwd = f"/proc/self/fd/{number}"
        outcomes.append(weak.run(bundle).output)
    assert any("cgroup.procs" in output or "unreachable" in output for output in outcomes), outcomes


def test_an_exec_cannot_stand_in_a_descriptor(core: Core, bundle: Bundle, leaky: list[int]) -> None:
    """CVE-2024-21626: by "exec --cwd", or by a link of the image's as the working directory."""
    bundle.link("out", "/proc/self/fd/9")
    bundle.script("exec sleep 100")
    with core.create(bundle) as container:
        container.start()
        for number in (*NUMBERS, *leaky):
            result = container.execute("sh", "-c", "ls", cwd=f"/proc/self/fd/{number}")
            assert result.code is None, (number, result)
        assert container.execute("ls", cwd="/out").code is None
        assert container.execute("true").code == 0


def test_a_container_has_its_three_streams_and_nothing_else(core: Core, bundle: Bundle, leaky: list[int]) -> None:
    """P8, CVE-2016-9962: whatever the runtime and its caller have open, inheritable or not, is not open inside."""
    bundle.script("ls /proc/1/fd; true")
    assert core.run(bundle).lines == ["0", "1", "2"]
    bundle.script("exec sleep 100")
    with core.create(bundle) as container:
        container.start()
        assert container.execute("sh", "-c", "ls /proc/$$/fd; true").lines == ["0", "1", "2"]
        assert sorted(os.listdir(f"/proc/{container.pid}/fd")) == ["0", "1", "2"]


def test_without_the_defence_descriptors_are_seen_inside(core: Core, bundle: Bundle) -> None:
    """P8: the look would find them."""
    bundle.script("ls /proc/1/fd")
    assert len(core.weakened(without("close_range")).run(bundle).lines) > 5


def test_a_created_container_holds_what_starts_it_and_nothing_of_the_hosts(
    engine: Engine, bundle: Bundle, leaky: list[int]
) -> None:
    """P8: up to execve there are the streams, the two ends for its start, and its own working directory."""
    with engine.create(bundle) as container:
        places = {number: os.readlink(f"/proc/{container.pid}/fd/{number}") for number in os.listdir(f"/proc/{container.pid}/fd")}
        rest = {number: place for number, place in places.items() if int(number) > 2}
        assert len(rest) <= 4, rest
        for number, place in rest.items():
            kind = stat.S_IFMT(os.stat(f"/proc/{container.pid}/fd/{number}").st_mode)
            if place == "/":  # of its own tree, or of the detached mount of the null device
                assert kind in (stat.S_IFDIR, stat.S_IFCHR)
            else:
                assert kind == stat.S_IFIFO or place == "anon_inode:[eventfd]", rest


def test_flags_say_close_on_exec_of_all_that_is_left(engine: Engine, bundle: Bundle) -> None:
    """P8: what starts the container ends with execve, by the kernel's hand."""
    with engine.create(bundle) as container:
        for number in os.listdir(f"/proc/{container.pid}/fd"):
            flags = Path(f"/proc/{container.pid}/fdinfo/{number}").read_text().split("flags:\t")[1].split()[0]
            assert int(number) <= 2 or int(flags, 8) & os.O_CLOEXEC, (number, flags)


def test_a_start_that_fails_leaves_nothing_open(engine: Engine, bundle: Bundle) -> None:
    """CVE-2022-23471, CVE-2025-64329: what fails gives back its descriptors (the audit after each test counts them)."""
    for change in ("args", "cwd"):
        for _ in range(20):
            setattr(bundle.process, change, ["/none"] if change == "args" else "/proc/self/fd/9")
            assert engine.run(bundle).refusal


def test_the_program_ends_by_closing_for_real(core: Core, bundle: Bundle) -> None:
    """CVE-2024-21626: closed before the working directory is entered, not only marked to be closed."""
    seen: list[Step] = []
    core.weakened(lambda step: seen.append(step) or step).run(bundle)  # type: ignore[func-returns-value]
    calls = [str(step) for step in seen]
    closes = [index for index, call in enumerate(calls) if call.startswith("close_range") and call.endswith(", 0)")]
    assert closes
    assert max(closes) < next(index for index, step in enumerate(seen) if step.store == "cwd")


@pytest.mark.parametrize("kind", ["prestart", "create_runtime", "create_container", "start_container", "poststart", "poststop"])
def test_a_hook_has_its_three_streams_and_nothing_else(
    oci: Oci, bundle: Bundle, leaky: list[int], tmp_path: Path, kind: str
) -> None:
    """P8, P10, CVE-2024-21626: nor do hooks inherit what the runtime or its caller has open, or what is in its environment."""
    inside = kind == "start_container"
    place = "/seen" if inside else str(tmp_path / "seen")
    shell = "/bin/sh" if inside else "/bin/busybox"
    script = f"exec > {place}; ls /proc/self/fd; env"
    hook = schema.Hook(path=shell, args=["sh", "-c", script], env=["ONLY=this", "PATH=/bin:/usr/bin"])
    getattr(bundle.spec.hooks, kind).append(hook)
    os.environ["KERNELET_SECRET"] = "secret"
    try:
        assert oci.run(bundle).code == 0
    finally:
        del os.environ["KERNELET_SECRET"]
    lines = (bundle.rootfs / "seen" if inside else tmp_path / "seen").read_text().splitlines()
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2", "3"]  # the last is the directory that is listed
    assert "ONLY=this" in lines
    assert not [line for line in lines if "secret" in line]
