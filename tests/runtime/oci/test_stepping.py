"""Containers made step by step: what each step changes is seen, and wherever it ends nothing is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.container.observation import Change, changes
from runtime.container.seccomp import default_profile
from runtime.errors import InvalidSpec, StartFailed, Unsupported
from runtime.oci.stepping import Stepping, open_stepping
from runtime.spec import schema
from tests.runtime.container.test_shell import as_a_user, spec, write_bundle

pytestmark = pytest.mark.requires("root", "cgroup2")


def bundle_of(directory: Path, change: Callable[[schema.Spec], object] = lambda _: None, command: str = "exit 7") -> Path:
    wanted = spec(change)
    assert wanted.process is not None
    wanted.process.args = ["sh", "-c", command]
    return write_bundle(directory / "bundle", wanted)


def to(stepping: Stepping, call: str) -> list[Change]:
    """Go up to the next *call* and make it; what that step changed."""
    while stepping.plan.steps[stepping.at or 0].call != call:
        stepping.advance()
    before = stepping.observe()
    stepping.advance()
    after = stepping.observe()
    assert before is not None and after is not None
    return changes(before, after)


def to_the_end(stepping: Stepping) -> int:
    while stepping.at is not None:
        stepping.advance()
    return stepping.wait()


def leftovers() -> list[str]:
    return [name for name in os.listdir("/run") if name.startswith("kernelet-step-")]


def filtered(made: schema.Spec) -> None:
    as_a_user(made)
    assert made.process is not None and made.process.capabilities is not None
    made.linux.seccomp = default_profile(made.process.capabilities.bounding)


def filtered_without_futex(made: schema.Spec) -> None:
    """A filter under which our own way to wait would be the end."""
    filtered(made)
    forbidden = schema.SyscallRule(names=["futex"], action="SCMP_ACT_KILL_PROCESS")
    made.linux.seccomp = schema.Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=[forbidden])


def with_users(made: schema.Spec) -> None:
    made.linux.namespaces.append(schema.Namespace(type="user"))
    made.linux.uid_mappings = [schema.IdMapping(container_id=0, host_id=0, size=65536)]
    made.linux.gid_mappings = [schema.IdMapping(container_id=0, host_id=0, size=65536)]


def with_a_terminal(made: schema.Spec) -> None:
    assert made.process is not None
    made.process.terminal = True


@pytest.mark.parametrize("change", [lambda _: None, filtered, filtered_without_futex, with_users, with_a_terminal])
def test_made_step_by_step_it_runs(tmp_path: Path, change: Callable[[schema.Spec], object]) -> None:
    with open_stepping(bundle_of(tmp_path, change)) as stepping:
        assert stepping.at == 0
        assert to_the_end(stepping) == 7
        assert stepping.has_become_program
    assert leftovers() == []


@pytest.mark.parametrize("call", ["setsid", "clone3", "pivot_root", "seccomp", "capset", "read"])
def test_wherever_it_is_left_nothing_stays(tmp_path: Path, call: str) -> None:
    with open_stepping(bundle_of(tmp_path, filtered)) as stepping:
        to(stepping, call)
        pid = stepping.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert leftovers() == []


def test_what_a_step_changes_is_seen(tmp_path: Path) -> None:
    with open_stepping(bundle_of(tmp_path, filtered)) as stepping:
        born = to(stepping, "clone3")
        assert {change.name for change in born if change.table == "namespaces"} == {"pid", "mnt", "net", "ipc", "uts"}
        assert [change.table for change in to(stepping, "prlimit64")] == ["limits"]
        assert [change.name for change in to(stepping, "unshare")] == ["cgroup"]
        [attached] = [change for change in to(stepping, "move_mount") if change.table == "mounts"]
        assert attached.before is None and attached.after is not None and attached.after.startswith(stepping.attach_point)
        moved = [change for change in to(stepping, "pivot_root") if change.table == "mounts"]
        assert all(change.before and change.after for change in moved)
        assert any(change.after.startswith("/proc  proc") for change in moved if change.after)
        assert all(change.after is None for change in to(stepping, "umount2") if change.table == "mounts")
        assert [change.name for change in to(stepping, "close_range") if change.table == "descriptors"]
        assert {(change.name, change.after) for change in to(stepping, "seccomp")} >= {("system call filter", "filter")}
        assert {change.name for change in to(stepping, "setresuid")} >= {"user"}
        assert {change.table for change in to(stepping, "capset")} == {"capabilities"}


def test_a_step_that_fails_is_told_with_its_number(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path)
    (bundle / "rootfs/bin/sh").unlink()
    with open_stepping(bundle) as stepping, pytest.raises(StartFailed) as failed:
        to_the_end(stepping)
    count = len(stepping.plan.steps)
    assert str(failed.value).startswith(f"step {count} of {count}, execve(")
    assert "no such file or directory" in str(failed.value)
    assert leftovers() == []


def test_hooks_are_run_in_their_turn(tmp_path: Path) -> None:
    told = tmp_path / "told"

    def ask(made: schema.Spec) -> None:
        for kind in ("create_runtime", "poststart", "poststop"):
            script = f"cat > {told}.{kind}"
            setattr(made.hooks, kind, [schema.Hook(path="/bin/sh", args=["sh", "-c", script])])

    def seen() -> list[str]:
        return sorted(path.suffix for path in tmp_path.glob("told.*"))

    with open_stepping(bundle_of(tmp_path, ask)) as stepping:
        to(stepping, "clone3")
        assert seen() == []
        to(stepping, "read")
        assert seen() == [".create_runtime"]
        assert to_the_end(stepping) == 7
        assert seen() == [".create_runtime", ".poststart"]
    assert seen() == [".create_runtime", ".poststart", ".poststop"]


def test_what_is_no_bundle_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises((InvalidSpec, FileNotFoundError)):
        open_stepping(tmp_path)

    def listen(made: schema.Spec) -> None:
        made.linux.seccomp = schema.Seccomp(default_action="SCMP_ACT_ALLOW", listener_path="/run/x.sock")

    with pytest.raises(Unsupported, match="listenerPath"):
        open_stepping(bundle_of(tmp_path, listen))
    assert leftovers() == []


def test_nothing_of_the_image_runs_before_its_program(tmp_path: Path) -> None:
    """An image with modules where ours are; Python is in there, as root, until execve."""
    bundle = bundle_of(tmp_path, filtered)
    root = bundle / "rootfs"
    for place in {path for path in sys.path if path.startswith("/")}:
        for name in (
            "sitecustomize",
            "linecache",
            "traceback",
            "ctypes",
            "json",
            "encodings.idna",
            "encodings.cp437",
            "kernel.fd",
        ):
            file = Path(f"{root}{place}", *name.split(".")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("open('/planted', 'w').close()")
            for package in file.parents:
                if package.name in ("encodings", "kernel"):
                    (package / "__init__.py").write_text("open('/planted', 'w').close()")
    with open_stepping(bundle) as stepping:
        assert to_the_end(stepping) == 7
    (root / "bin/sh").unlink()
    with open_stepping(bundle) as stepping, pytest.raises(StartFailed):
        to_the_end(stepping)
    assert not (root / "planted").exists()
