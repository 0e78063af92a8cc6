"""``exec``: a further process in a running container; no part of the spec, but every caller's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.oci.bundle import PATH, map_ids
from tests.conformance.oci.container import Container
from tests.support import wait


@pytest.fixture
def running(container: Container) -> Container:
    """The container, asleep."""
    container.launch("sleep 100")
    return container


def process_file(container: Container, **properties: Any) -> str:
    """The path of a process document for --process, with *properties*."""
    ordinary = {"user": {"uid": 0, "gid": 0}, "args": ["true"], "env": [PATH], "cwd": "/"}
    file = container.directory / "process.json"
    file.write_text(json.dumps(ordinary | properties))
    return str(file)


def exec_document(container: Container, *flags: str, expect: int | None = 0, **properties: Any) -> list[str]:
    """The lines that a process with *properties* wrote."""
    return container.call("exec", *flags, "--process", process_file(container, **properties), container.id, expect=expect).lines


def test_the_process_is_in_every_namespace_of_the_container(running: Container) -> None:
    pid = running.state()["pid"]
    kinds = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
    script = "".join(f"readlink /proc/self/ns/{kind};" for kind in kinds)
    assert running.exec(script).lines == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]


def test_the_process_is_in_the_containers_cgroup(running: Container) -> None:
    pid = running.state()["pid"]
    done = running.exec("cat /proc/self/cgroup")
    assert [line for line in done.lines if line.startswith("0::")] == ["0::/"] or "0::" not in Path(
        f"/proc/{pid}/cgroup"
    ).read_text()


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_exec_ends_as_its_process_does(running: Container, code: int) -> None:
    running.exec(f"exit {code}", expect=code)


def test_a_signal_is_128_and_its_number(running: Container) -> None:
    running.exec("kill -TERM $$", expect=128 + 15)


def test_output_is_passed_on(running: Container) -> None:
    done = running.exec("echo out; echo err >&2")
    assert (done.output, done.errors) == ("out\n", "err\n")


def test_what_is_not_said_is_as_the_containers_process_has_it(container: Container) -> None:
    container.process.update(cwd="/data", user={"uid": 1000, "gid": 1000}, env=[PATH, "MINE=yes"])
    container.launch("sleep 100")
    assert container.exec("pwd; id -u; id -g; echo $MINE").lines == ["/data", "1000", "1000", "yes"]


def test_flags_change_it(running: Container) -> None:
    done = running.exec("pwd; id -u; id -g; echo $ADDED", "--cwd", "/data", "--user", "33:50000", "--env", "ADDED=1")
    assert done.lines == ["/data", "33", "50000", "1"]


def test_a_document_says_it_all(running: Container) -> None:
    script = "pwd; id -u; id -g; id -G; env | grep -c MINE; grep NoNewPrivs /proc/self/status; umask; ulimit -n"
    lines = exec_document(
        running,
        args=["sh", "-c", script],
        cwd="/data",
        env=[PATH, "MINE=yes"],
        user={"uid": 1000, "gid": 1001, "additionalGids": [33], "umask": 0o027},
        noNewPrivileges=True,
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}],
    )
    assert lines == ["/data", "1000", "1001", "1001 33", "1", "NoNewPrivs:\t1", "0027", "77"]


def test_capabilities_are_the_documents(running: Container) -> None:
    kinds = ("bounding", "effective", "permitted")
    lines = exec_document(
        running,
        args=["sh", "-c", "grep Cap /proc/self/status"],
        capabilities={kind: ["CAP_KILL"] for kind in kinds},
    )
    found = dict(line.split(":\t") for line in lines)
    assert {int(found[name], 16) for name in ("CapBnd", "CapPrm", "CapEff")} == {1 << 5}


def test_no_capabilities_in_the_document_are_none(running: Container) -> None:
    lines = exec_document(running, args=["sh", "-c", "grep -E 'Cap(Eff|Prm)' /proc/self/status"], capabilities={})
    assert {line.split(":\t")[1] for line in lines} == {"0" * 16}


def test_a_detached_process_lives_on(running: Container) -> None:
    file = running.directory / "exec.pid"
    running.exec("sleep 100", "--detach", "--pid-file", str(file))
    pid = int(file.read_text())
    running.pids.append(pid)
    assert Path(f"/proc/{pid}/ns/mnt").readlink() == Path(f"/proc/{running.pids[0]}/ns/mnt").readlink()
    assert running.exec("ps").output.count("sleep 100") == 2


def test_a_program_that_is_not_there_is_an_error(running: Container) -> None:
    done = running.exec(["nowhere"], expect=None)
    assert done.code not in (0, 1) or done.errors
    assert running.status() == "running"


def test_exec_in_a_container_that_was_not_started(container: Container) -> None:
    container.create("sleep 100")
    assert container.exec("echo inside").output == "inside\n"


def test_exec_in_a_stopped_container_is_refused(container: Container) -> None:
    container.launch("true")
    container.wait()
    assert container.exec("true", expect=None).code != 0


def test_exec_in_mapped_namespaces(container: Container) -> None:
    map_ids(container.config, first=200000)
    container.launch("sleep 100")
    lines = container.exec("id -u; cat /proc/self/uid_map").lines
    assert lines[0] == "0"
    assert lines[1].split() == ["0", "200000", "65536"]


def test_the_processes_die_with_the_container(running: Container) -> None:
    file = running.directory / "exec.pid"
    running.exec("sleep 100", "--detach", "--pid-file", str(file))
    pid = int(file.read_text())
    running.pids.append(pid)
    running.kill()
    status = wait.until(lambda: os.waitpid(pid, os.WNOHANG)[1], 10, "the end of the exec'd process")
    assert os.waitstatus_to_exitcode(status) == -9


def test_many_at_once(running: Container) -> None:
    for number in range(5):
        running.exec(f"sleep 0.1; echo {number} >> /data/log", "--detach", "--pid-file", str(running.directory / f"pid{number}"))
        running.pids.append(int((running.directory / f"pid{number}").read_text()))
    wait.until(lambda: (running.rootfs / "data/log").exists() and len(running.read("data/log").split()) == 5)


def test_ps_lists_the_processes(running: Container) -> None:
    listed = json.loads(running.call("ps", "--format", "json", running.id).output)
    assert running.state()["pid"] in listed


@pytest.mark.parametrize("path", ["..", "../pytest", "below/../.."])
def test_an_exec_stays_below_the_containers_cgroup(running: Container, path: str) -> None:
    assert running.exec("true", "--cgroup", path, expect=None).code != 0
