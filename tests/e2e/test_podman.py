"""podman, as Debian has it, with kernelet-oci as its runtime."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.archives import BUSYBOX, NGINX, PAGE, run_in_terminal, write_archives
from tests.support import cgroup, requires, wait
from tests.support.isolation import Run
from tests.support.requires import program

pytestmark = requires.requires(
    *("root", "cgroup2", "busybox", "podman", "conmon", "nginx", "kernelet-oci"),
)

#: No limit that a hybrid host's v2 tree, or a root without CAP_SYS_RESOURCE, could not set.
CONFIG = """[containers]
pids_limit = 0
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_config_dir = "{directory}/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "kernelet-oci"
tmp_dir = "{directory}/tmp"
[engine.runtimes]
kernelet-oci = ["{runtime}"]
"""
STORAGE = """[storage]
driver = "vfs"
graphroot = "{directory}/graph"
runroot = "{directory}/r"
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
PARENT = "libpod_parent"


class Podman:
    """podman with directories of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name, content in (("containers.conf", CONFIG), ("storage.conf", STORAGE)):
            (directory / name).write_text(content.format(directory=directory, runtime=program("kernelet-oci")))
        self.policy = directory / "policy.json"
        self.policy.write_text(POLICY)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": str(directory),
            "CONTAINERS_CONF": str(directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(directory / "storage.conf"),
        }

    def words(self, *words: str) -> list[str]:
        storage = ("--root", f"{self.directory}/graph", "--runroot", f"{self.directory}/r")
        network = ("--network", "none") if words[0] == "run" else ()
        return [program("podman"), *storage, words[0], *network, *words[1:]]

    def call(self, *words: str, expect: int | None = 0) -> str:
        """What podman writes when it is called with *words*; the exit code must be *expect*."""
        command = self.words(*words)
        done = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=self.environment
        )
        assert expect is None or done.returncode == expect, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def status(self, name: str) -> str:
        return self.call("inspect", "--format", "{{.State.Status}}", name).strip()


@pytest.fixture(scope="module")
def podman(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    directory = run.directory / "p"  # podman takes no more than 50 characters
    directory.mkdir()
    engine = Podman(directory)
    parent = cgroup.ROOT / PARENT
    (parent / "conmon").mkdir(parents=True)  # podman makes it once and keeps it, for its monitors
    try:
        for archive in write_archives(tmp_path_factory.mktemp("archives")).values():
            engine.call("load", "--signature-policy", str(engine.policy), "--input", str(archive))
        yield engine
    finally:
        engine.call("rm", "--all", "--force", "--time", "0", expect=None)
        cgroup.remove(parent)


@pytest.fixture
def asleep(podman: Podman) -> Iterator[Podman]:
    """podman with the container "c", which sleeps."""
    podman.call("run", "--detach", "--name", "c", BUSYBOX, "sleep", "1000")
    yield podman
    podman.call("rm", "--force", "--time", "0", "c")


def test_a_container_runs_and_its_exit_code_arrives(podman: Podman) -> None:
    assert podman.call("run", "--rm", BUSYBOX, "sh", "-c", "id -u; exit 3", expect=3).splitlines() == ["0"]


def test_exec_is_who_it_is_asked_to_be(asleep: Podman) -> None:
    assert asleep.call(
        "exec", "--user", "user", "--workdir", "/tmp", "c", "sh", "-c", "id -u; pwd; exit 4", expect=4
    ).splitlines() == [
        "1000",
        "/tmp",
    ]


def test_pause_kill_and_rm(asleep: Podman) -> None:
    asleep.call("pause", "c")
    assert asleep.status("c") == "paused"
    asleep.call("unpause", "c")
    assert asleep.status("c") == "running"
    asleep.call("kill", "--signal", "KILL", "c")
    wait.until(lambda: asleep.status("c") == "exited", 10, "the container to end")
    assert asleep.call("inspect", "--format", "{{.State.ExitCode}}", "c").strip() == "137"


def test_a_stopped_container_starts_again(asleep: Podman) -> None:
    asleep.call("stop", "--time", "0", "c")
    assert asleep.status("c") == "exited"
    asleep.call("start", "c")
    assert asleep.status("c") == "running"


@pytest.mark.parametrize(
    ("name", "code", "words"), [("no-such-program", 127, "executable file not found in $PATH"), ("/etc", 126, "")]
)
def test_what_cannot_be_executed_has_the_shells_exit_code(podman: Podman, name: str, code: int, words: str) -> None:
    assert words in podman.call("run", "--rm", BUSYBOX, name, expect=code)


def test_a_shell_in_a_terminal(podman: Podman) -> None:
    command = podman.words("run", "--rm", "--interactive", "--tty", BUSYBOX, "sh")
    seen, code = run_in_terminal(command, b"tty; stty size; exit 6\n", environment=podman.environment)
    assert "/dev/pts/0" in seen
    assert code == 6


def test_a_further_shell_in_a_terminal(asleep: Podman) -> None:
    command = asleep.words("exec", "--interactive", "--tty", "c", "sh")
    seen, code = run_in_terminal(command, b"tty; exit 7\n", environment=asleep.environment)
    assert "/dev/pts/0" in seen
    assert code == 7


def test_nginx_serves(podman: Podman) -> None:
    podman.call("run", "--detach", "--name", "web", NGINX)
    try:
        fetch = ("exec", "web", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/")
        wait.until(lambda: PAGE in podman.call(*fetch, expect=None), 15, "nginx to serve")
    finally:
        podman.call("rm", "--force", "--time", "0", "web")
