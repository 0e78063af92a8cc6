"""kernelet step, with its commands on standard input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cri.command.pages import WIDTH
from runtime.spec import schema
from tests.runtime.oci.test_stepping import bundle_of, leftovers
from tests.support import cgroup, wait
from tests.support.requires import TREE

pytestmark = pytest.mark.requires("root", "cgroup2")


def step(bundle: Path, commands: str = "", *options: str) -> tuple[int, list[str]]:
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cri", "step", *options, bundle],
        input=commands, capture_output=True, text=True, timeout=60, cwd=TREE, env=environment, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


def numbers(lines: list[str]) -> list[int]:
    return [int(line[:4]) for line in lines if line[:4].strip().isdigit() and line[4:6] == "  " and line[6:7].strip()]


def test_all_steps_are_made_and_the_program_runs(tmp_path: Path) -> None:
    code, lines = step(bundle_of(tmp_path, command="echo hello; exit 7"), "", "--all")
    assert code == 7
    assert lines[-1] == "it ended with exit code 7; nothing is left of it"
    assert "hello" in lines
    made = numbers(lines)
    assert made == list(range(1, len(made) + 1)) and len(made) > 100
    assert any(line.startswith("      namespaces   ~ pid ") and line.endswith(", new") for line in lines)
    assert any(line.startswith("      mounts       ~ <root>/proc -> /proc proc") for line in lines)
    can_be_folded = [line for line in lines if '"' not in line and all(len(word) < 40 for word in line.split())]
    assert [line for line in can_be_folded if len(line) > WIDTH] == []


def test_a_terminal_is_served(tmp_path: Path) -> None:
    def with_a_terminal(made: schema.Spec) -> None:
        assert made.process is not None
        made.process.terminal = True

    code, lines = step(bundle_of(tmp_path, with_a_terminal, "tty; exit 3"), "", "--all")
    assert code == 3
    assert "/dev/pts/0" in lines


def test_commands_say_how_far_to_go(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    code, lines = step(bundle, "\nn 2\nq\n")
    assert (code, numbers(lines), lines[-1]) == (0, [1, 2, 3], "nothing is left of it")
    _, lines = step(bundle, "b clone3\nq\n")
    before = numbers(lines)
    assert before and not any("clone3(" in line for line in lines)
    _, lines = step(bundle, "b clone3\n\nq\n")
    assert numbers(lines) == [*before, len(before) + 1] and any("clone3(" in line for line in lines)
    _, lines = step(bundle, "g the new\nn 1\ng limits\nq\n")
    assert "the new process" in lines and "limits" not in lines
    code, lines = step(bundle, "")  # the end of input is the end
    assert (code, numbers(lines)) == (0, [])
    assert leftovers() == []


def test_what_is_no_command_makes_no_step(tmp_path: Path) -> None:
    _, lines = step(bundle_of(tmp_path), "x\nb nothing\ng nowhere\nn many\nl\ns\nq\n")
    assert any("make the next step" in line for line in lines)
    assert "no further call 'nothing' ahead" in lines and "no further heading 'nowhere' ahead" in lines
    assert "   1  leaving the caller" in lines
    assert "namespaces" in lines and any(line.startswith("      bounding ") for line in lines)
    assert not any(line.startswith("      = ") for line in lines)


def test_a_failure_is_one_sentence(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    (bundle / "rootfs/bin/sh").unlink()
    code, lines = step(bundle, "c\n")
    assert code == 1
    assert lines[-1].startswith("step ") and "execve(" in lines[-1] and " — " in lines[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_ended_from_outside_it_leaves_no_process(tmp_path: Path, number: int, code: int) -> None:
    """And nothing else either, if it is not killed outright."""
    command = [sys.executable, "-m", "cri", "step", bundle_of(tmp_path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TREE, env=environment
    ) as stepping:
        assert stepping.stdin is not None and stepping.stdout is not None
        stepping.stdin.write("b pivot_root\n")
        stepping.stdin.flush()
        for line in stepping.stdout:
            if "fchdir(" in line:
                break
        group = cgroup.ROOT / "compared"  # as the bundle has it
        wait.until(lambda: bool(cgroup.processes(group)), 10)
        stepping.send_signal(number)
        stepping.stdout.read()
    assert stepping.returncode == code
    wait.until(lambda: not group.exists() or not cgroup.processes(group), 10)
    if number == signal.SIGKILL:
        cgroup.remove(group)
        for name in leftovers():
            shutil.rmtree(Path("/run") / name)
    assert not group.exists() and leftovers() == []


def test_it_takes_the_rights_of_root(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    code = (
        "import os, sys; os.setresuid(65534, 65534, 65534); sys.path.insert(0, sys.argv[1]);"
        "from cri.__main__ import main; sys.exit(main(['step', sys.argv[2]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, TREE, bundle], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 1
    assert "takes the rights of root" in done.stderr
