"""Hooks on the real kernel: what they are given, where they run, and what their failure says."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup, find_tree
from kernel.fd import Fd
from kernel.process import open_pidfd
from kernel.program import Flags, Program
from kernel.report import Report
from kernel.spawn import spawn
from runtime.container import entrance, hooks
from runtime.container.hooks import STATUS, run, run_every, run_in_container, run_in_namespaces
from runtime.container.userns import make
from runtime.errors import HookFailed
from runtime.spec import schema
from tests.runtime.container.test_init import compare
from tests.support import wait
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

NAMESPACES = {"pid": "CLONE_NEWPID", "mnt": "CLONE_NEWNS", "net": "CLONE_NEWNET", "uts": "CLONE_NEWUTS", "ipc": "CLONE_NEWIPC"}


def hook(script: str, **more: object) -> schema.Hook:
    return schema.Hook(path="/bin/busybox", args=["sh", "-c", script], **more)  # type: ignore[arg-type]


def state_of(bundle: Path, pid: int = 4711, **annotations: str) -> schema.State:
    return schema.State(
        oci_version="1.2.0", id="web", status="?", pid=pid, bundle=os.fspath(bundle), annotations=annotations or {"a": "b"}
    )


@contextmanager
def init(*kinds: str, user_namespace: Fd | None = None) -> Iterator[int]:
    """A process in new namespaces of *kinds*, which stands for a container's init; its pid."""
    steps = Program("init")
    files: dict[int, Fd] = {}
    if user_namespace is not None:
        files[20] = user_namespace
        steps.call("setns", 20, Flags(("CLONE_NEWUSER",)), why="the container's user namespace")
    steps.clone((*kinds, "CLONE_PARENT"), cgroup=None, why="the init")
    if "CLONE_NEWNS" in kinds:
        steps.call("mount", 0, "/", 0, Flags(("MS_REC", "MS_PRIVATE")), 0, why="apart")
        steps.call("mount", "none", "/mnt", "tmpfs", 0, 0, why="a mount that only the container has")
    if "CLONE_NEWUTS" in kinds:
        steps.call("sethostname", "inside", 6, why="a name that only the container has")
    steps.call("ppoll", 0, 0, 0, 0, 0, why="wait to be killed")
    runner, report = spawn(steps, "runner", files)
    os.waitpid(runner, 0)
    with report.memory:
        pid = report.read().pid
        try:
            wait.until(lambda: at_the_end(report, steps), 5, "the init to wait")
            yield pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def at_the_end(report: Report, steps: Program) -> bool:
    outcome = report.read()
    assert outcome.failed is None, (steps.steps[outcome.failed], outcome.errno)
    return outcome.at == len(steps.steps) - 1


# What a hook is given.


@pytest.mark.parametrize("kind", STATUS)
def test_the_state_is_on_stdin_with_the_status_of_its_time(tmp_path: Path, kind: str) -> None:
    run(kind, [hook("cat > state")], state_of(tmp_path))
    wanted = {"ociVersion": "1.2.0", "id": "web", "status": STATUS[kind], "bundle": str(tmp_path), "annotations": {"a": "b"}}
    if kind != "poststop":  # by then the number may be somebody else's
        wanted["pid"] = 4711  # type: ignore[assignment]
    assert json.loads((tmp_path / "state").read_text()) == wanted


def test_every_kind_of_the_specification_has_its_status() -> None:
    assert list(STATUS) == [field.encode_name for field in schema.msgspec.structs.fields(schema.Hooks)]


def test_a_state_larger_than_a_pipe_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    run("prestart", [hook("true"), hook("wc -c > size")], state_of(tmp_path, big="x" * 1_000_000))
    assert int((tmp_path / "size").read_text()) > 1_000_000


def test_they_run_in_order(tmp_path: Path) -> None:
    run("createRuntime", [hook(f"echo {number} >> order") for number in range(3)], state_of(tmp_path))
    assert (tmp_path / "order").read_text() == "0\n1\n2\n"


def output_of(tmp_path: Path, given: schema.Hook) -> str:
    """What *given* writes, by crun's annotation: with no shell between that would have ideas of its own."""
    run("prestart", [given], state_of(tmp_path, **{"run.oci.hooks.stdout": f"{tmp_path}/output"}))
    return (tmp_path / "output").read_text()


def test_arguments_and_environment_are_exactly_those_given(tmp_path: Path) -> None:
    given = schema.Hook(path="/bin/busybox", args=["cat", "/proc/self/cmdline", "/proc/self/environ"], env=["A=1", "B=x y", "C="])
    assert output_of(tmp_path, given) == "cat\0/proc/self/cmdline\0/proc/self/environ\0A=1\0B=x y\0C=\0"


def test_without_arguments_it_is_called_by_its_path(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/busybox sh\necho $0 $# > called\n")
    script.chmod(0o755)
    run("prestart", [schema.Hook(path=str(script))], state_of(tmp_path))
    assert (tmp_path / "called").read_text() == f"{script} 0\n"


def test_without_an_environment_it_has_path_and_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = schema.Hook(path="/bin/busybox", args=["cat", "/proc/self/environ"])
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    monkeypatch.setenv("TOKEN", "secret")
    assert output_of(tmp_path, look) == "PATH=/bin:/usr/bin\0"
    (tmp_path / "output").unlink()
    monkeypatch.delenv("PATH")
    assert output_of(tmp_path, look) == ""


def test_it_has_three_streams_and_no_file_of_ours(tmp_path: Path) -> None:
    ours = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        shown = output_of(tmp_path, schema.Hook(path="/bin/busybox", args=["ls", "-l", "/proc/self/fd"]))
    finally:
        os.close(ours)
    links = [line.partition(" -> ")[2] for line in shown.splitlines() if " -> " in line]
    assert [link.partition(":")[0] for link in links] == ["/memfd", f"{tmp_path}/output", "pipe"]


def test_no_signal_is_ignored_or_blocked(tmp_path: Path) -> None:
    shown = output_of(tmp_path, schema.Hook(path="/bin/busybox", args=["grep", "Sig", "/proc/self/status"]))
    values = dict(line.split() for line in shown.splitlines())
    assert {values[name] for name in ("SigBlk:", "SigIgn:")} == {"0" * 16}


def test_the_working_directory_is_the_bundle_or_where_we_are(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    run("prestart", [hook(f"pwd > {tmp_path}/at")], state_of(bundle))
    assert (tmp_path / "at").read_text() == f"{bundle}\n"
    bundle.rmdir()
    run("poststop", [hook(f"pwd > {tmp_path}/at")], state_of(bundle))
    assert (tmp_path / "at").read_text() == f"{os.getcwd()}\n"


def test_what_it_says_goes_to_the_files_that_annotations_name(tmp_path: Path) -> None:
    files = {"run.oci.hooks.stdout": f"{tmp_path}/out", "run.oci.hooks.stderr": f"{tmp_path}/err"}
    state = state_of(tmp_path, **files)
    run("prestart", [hook("echo one; echo two >&2"), hook("echo three")], state)
    assert (tmp_path / "out").read_text() == "one\nthree\n"
    assert (tmp_path / "err").read_text() == "two\n"


# How one fails.


def test_a_failure_names_kind_index_path_and_what_was_said_and_ends_the_row(tmp_path: Path) -> None:
    row = [hook("true"), hook("echo no such bridge; echo really >&2; exit 3"), hook("touch reached")]
    message = (
        "^error running createRuntime hook #1: /bin/busybox: createRuntime hook failed with exit code 3: no such bridge\nreally$"
    )
    with pytest.raises(HookFailed, match=message):
        run("createRuntime", row, state_of(tmp_path))
    assert not (tmp_path / "reached").exists()


@pytest.mark.parametrize(
    ("failing", "reason"),
    [
        (schema.Hook(path="/nonexistent"), "/nonexistent: cannot execute: no such file or directory"),
        (schema.Hook(path="/etc/passwd"), "/etc/passwd: cannot execute: permission denied"),
        (hook("kill -TERM $$"), "/bin/busybox: killed by signal 15, terminated$"),
        (hook("exit 111"), "failed with exit code 111$"),
    ],
)
def test_what_cannot_be_executed_or_dies_is_told_apart(tmp_path: Path, failing: schema.Hook, reason: str) -> None:
    with pytest.raises(HookFailed, match=f"poststart hook #0: .*{reason}"):
        run("poststart", [failing], state_of(tmp_path))


def test_one_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    script = "echo before; sleep 1000 & echo $! > child; wait"
    begun = time.monotonic()
    with pytest.raises(HookFailed, match=r"prestart hook #0: /bin/busybox: not done after 1 s, killed: before$"):
        run("prestart", [hook(script, timeout=1)], state_of(tmp_path))
    assert 1 <= time.monotonic() - begun < 5
    child = int((tmp_path / "child").read_text())
    wait.until(lambda: not is_running(child), 5, "the hook's child to be gone")
    reap(child)


def test_one_that_never_stops_talking_is_stopped_in_time_too(tmp_path: Path) -> None:
    with pytest.raises(HookFailed, match=r"not done after 1 s, killed: y\ny\n") as failure:
        run("prestart", [schema.Hook(path="/bin/busybox", args=["yes"], timeout=1)], state_of(tmp_path))
    assert len(str(failure.value)) < hooks.OUTPUT_LIMIT + 200


def test_of_much_output_the_beginning_is_kept(tmp_path: Path) -> None:
    with pytest.raises(HookFailed, match="exit code 1: first") as failure:
        run("prestart", [hook("echo first; head -c 3000000 /dev/zero | tr '\\0' x; exit 1")], state_of(tmp_path))
    assert len(str(failure.value)) < hooks.OUTPUT_LIMIT + 200


def test_a_daemon_that_is_left_behind_is_neither_waited_for_nor_killed(tmp_path: Path) -> None:
    run("prestart", [hook("sleep 1000 & echo $! > daemon", timeout=60)], state_of(tmp_path))
    daemon = int((tmp_path / "daemon").read_text())
    assert is_running(daemon)
    os.kill(daemon, signal.SIGKILL)
    reap(daemon)


def test_a_daemon_that_goes_on_talking_is_not_listened_to(tmp_path: Path) -> None:
    begun = time.monotonic()
    run("prestart", [hook("yes & echo $! > daemon")], state_of(tmp_path))
    assert time.monotonic() - begun < 5
    daemon = int((tmp_path / "daemon").read_text())
    wait.until(lambda: not is_running(daemon), 5, "its next word to find nobody")  # SIGPIPE
    reap(daemon)


def test_when_the_wait_is_broken_off_the_hook_is_ended(tmp_path: Path) -> None:
    def handle(number: int, frame: object) -> None:
        if (tmp_path / "hook").exists() and (tmp_path / "hook").read_text():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("prestart", [hook("echo $$ > hook; sleep 1000")], state_of(tmp_path))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not is_running(int((tmp_path / "hook").read_text()))


def test_after_the_end_every_hook_runs_and_failures_are_warnings(tmp_path: Path) -> None:
    row = [hook("exit 1"), hook("touch reached"), schema.Hook(path="/nonexistent")]
    warnings = run_every("poststop", row, state_of(tmp_path))
    assert [warning.partition(": ")[0] for warning in warnings] == [f"error running poststop hook #{index}" for index in (0, 2)]
    assert "poststop hook failed with exit code 1" in warnings[0]
    assert (tmp_path / "reached").exists()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def reap(pid: int) -> None:
    """The test run is the subreaper."""
    wait.until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, 5, "an orphan to end")


# In the container.


def test_in_the_containers_namespaces_it_finds_the_hosts_programs_and_the_containers_mounts(tmp_path: Path) -> None:
    look = (
        "for name in /proc/self/ns/*; do readlink $name; done > ns; hostname > name; "
        "grep ' /mnt tmpfs' /proc/self/mounts > mounted; grep NSpid /proc/self/status > pids"
    )
    with init(*NAMESPACES.values()) as pid, open_pidfd(pid) as pidfd:
        run_in_namespaces("createContainer", [hook(look), hook("exit 0")], state_of(tmp_path, pid), pidfd, str(tmp_path))
        theirs = {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}
    assert set(theirs.values()) <= set((tmp_path / "ns").read_text().split())
    assert (tmp_path / "name").read_text() == "inside\n"
    assert (tmp_path / "mounted").read_text() != ""
    assert len((tmp_path / "pids").read_text().split()) >= 3  # "NSpid:", and a number in each of two namespaces


def test_in_a_user_namespace_it_is_root_of_the_container(tmp_path: Path) -> None:
    mapping = [schema.IdMapping(container_id=0, host_id=100_000, size=1000)]
    script = "id -u; cut -d' ' -f1-99 /proc/self/uid_map | tr -s ' '; grep CapEff /proc/self/status; pwd; exit 1"
    with (
        make(mapping, mapping) as user_namespace,
        init("CLONE_NEWNS", "CLONE_NEWPID", user_namespace=user_namespace) as pid,
        open_pidfd(pid) as pidfd,
        pytest.raises(HookFailed) as said,
    ):
        run_in_namespaces("createContainer", [hook(script)], state_of(tmp_path, pid), pidfd, str(tmp_path))
    uid, mapped, capabilities, directory = str(said.value).partition("exit code 1: ")[2].splitlines()
    assert (uid, mapped.split(), directory) == ("0", ["0", "100000", "1000"], str(tmp_path))
    assert int(capabilities.split()[1], 16) >> 21 & 1  # CAP_SYS_ADMIN, over its own namespaces


def test_when_the_init_is_gone_it_is_said(tmp_path: Path) -> None:
    with init("CLONE_NEWNS", "CLONE_NEWUTS") as pid:
        pidfd = open_pidfd(pid)
        kinds = entrance.kinds_of(pid)
        assert kinds == ("CLONE_NEWNS", "CLONE_NEWUTS")
    with pidfd, pytest.raises(FileNotFoundError):
        run_in_namespaces("createContainer", [hook("true")], state_of(tmp_path, pid), pidfd, str(tmp_path))


USER = schema.Process(
    args=["true"],
    cwd="/mnt",
    env=["ONE=two", "HOME=/home"],
    user=schema.User(uid=1000, gid=1001, additional_gids=[5]),
    capabilities=schema.Capabilities(bounding=["CAP_CHOWN"], permitted=["CAP_CHOWN"]),
    no_new_privileges=True,
    terminal=True,
)


def test_inside_it_is_the_containers_user_with_no_more_than_its_rights(tmp_path: Path) -> None:
    script = (
        "pwd; id -u; id -g; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr '\t' ' '; echo $ONE $HOME; exit 1"
    )
    with init(*NAMESPACES.values()) as pid, open_pidfd(pid) as pidfd, pytest.raises(HookFailed) as said:
        run_in_container("startContainer", [hook(script)], state_of(tmp_path, pid), pidfd, USER, None, None)
    assert str(said.value).partition("exit code 1: ")[2].splitlines() == [
        "/mnt",
        "1000",
        "1001",
        "1001 5",
        "CapEff: 0000000000000000",
        "CapBnd: 0000000000000001",
        "NoNewPrivs: 1",
        "two /home",
    ]


def test_inside_it_reads_the_state_and_has_the_environment_that_it_names(tmp_path: Path) -> None:
    with init(*NAMESPACES.values()) as pid, open_pidfd(pid) as pidfd, pytest.raises(HookFailed) as said:
        row = [hook("true"), hook("cat; echo; env | grep -E '^(A|ONE|HOME)='; exit 1", env=["A=b"])]
        run_in_container("startContainer", row, state_of(tmp_path, pid), pidfd, USER, None, None)
    document, environment = str(said.value).partition("exit code 1: ")[2].splitlines()
    assert json.loads(document)["status"] == "created"
    assert environment == "A=b"


@requires("cgroup2")
def test_inside_it_is_in_the_containers_cgroup(tmp_path: Path) -> None:
    group = Cgroup(find_tree() / "hooked")
    group.create()
    try:
        with (
            init(*NAMESPACES.values()) as pid,
            open_pidfd(pid) as pidfd,
            group.open() as opened,
            pytest.raises(HookFailed) as said,
        ):
            row = [hook("grep ^0:: /proc/self/cgroup; exit 1")]
            run_in_container("startContainer", row, state_of(tmp_path, pid), pidfd, USER, None, opened)
        assert str(said.value).endswith("0::/hooked")
    finally:
        group.remove()


def test_the_program_of_a_hook_in_the_containers_namespaces() -> None:
    kinds = ("CLONE_NEWNS", "CLONE_NEWPID", "CLONE_NEWUSER")
    given = schema.Hook(path="/usr/bin/hook", args=["hook", "now"], env=["A=b"])
    compare("hook", hooks.program("createContainer", 0, given, "/bundle", kinds))
