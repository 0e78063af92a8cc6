"""containerd, as Debian has it, with kernelet-oci in runc's place: its own client drives it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel import mount
from tests.e2e.archives import BUSYBOX, NGINX, PAGE, run_in_terminal, write_archives
from tests.support import cgroup, requires, wait
from tests.support.requires import program

pytestmark = requires.requires("root", "cgroup2", "busybox", "containerd", "ctr", "nginx", "kernelet-oci", "filesystem overlay")

CONFIG = """version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{directory}/socket"
[ttrpc]
  address = "{directory}/socket.ttrpc"
"""
#: The sockets of its shims, whatever the configuration says.
SHIMS = Path("/run/containerd")
#: ctr asks for a share of the processor, which a hybrid host's v2 tree cannot give: 0 is no wish.
RUN = ("run", "--runc-binary", program("kernelet-oci"), "--cpu-shares", "0")


class Containerd:
    """One containerd, with directories of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        config = directory / "config.toml"
        config.write_text(CONFIG.format(directory=directory))
        self.log = directory / "log"
        with open(self.log, "wb") as log:
            command = [program("containerd"), "--config", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.wait_for_socket()

    def wait_for_socket(self) -> None:
        wait.until((self.directory / "socket").exists, 20, "containerd to listen")

    def words(self, *words: str) -> list[str]:
        words_of_run = (*RUN, "--runc-root", str(self.directory / "runc"), *words[1:]) if words[0] == "run" else words
        return [program("ctr"), "--address", str(self.directory / "socket"), *words_of_run]

    def ctr(self, *words: str, expect: int | None = 0) -> str:
        """What ctr writes when it is called with *words*; the exit code must be *expect*."""
        command = self.words(*words)
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert expect is None or done.returncode == expect, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def status(self, name: str) -> str:
        """RUNNING, STOPPED, PAUSED; empty when there is no such task."""
        rows = [line.split() for line in self.ctr("task", "ls").splitlines()[1:]]
        return next((row[2] for row in rows if row[0] == name), "")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    directory = tmp_path_factory.mktemp("containerd")
    made = not SHIMS.exists()
    SHIMS.mkdir(exist_ok=True)
    shims = tmp_path_factory.mktemp("shims")
    mount.bind(shims, SHIMS)
    parent = cgroup.ROOT / "default"  # of all that is in containerd's namespace of that name
    parent.mkdir()
    engine = Containerd(directory)
    try:
        for archive in write_archives(tmp_path_factory.mktemp("archives")).values():
            engine.ctr("image", "import", "--snapshotter", "overlayfs", str(archive))
        yield engine
    finally:
        engine.stop()
        cgroup.remove(parent)
        mount.unmount(SHIMS)
        if made:
            SHIMS.rmdir()


@pytest.fixture
def asleep(containerd: Containerd) -> Iterator[Containerd]:
    """containerd with the container "c", which sleeps."""
    containerd.ctr("run", "--detach", BUSYBOX, "c", "sleep", "1000")
    yield containerd
    containerd.ctr("task", "rm", "--force", "c", expect=None)
    containerd.ctr("container", "rm", "c")


def test_a_container_runs_and_its_exit_code_arrives(containerd: Containerd) -> None:
    said = containerd.ctr("run", "--rm", BUSYBOX, "c", "sh", "-c", "id -u; tail -n 1 /proc/self/cgroup; exit 3", expect=3)
    assert said.splitlines()[0] == "0"
    assert containerd.status("c") == ""


def test_exec_kill_and_rm(asleep: Containerd) -> None:
    assert asleep.ctr("task", "exec", "--exec-id", "e", "c", "sh", "-c", "hostname; exit 4", expect=4)
    pids = {line.split()[0] for line in asleep.ctr("task", "ps", "c").splitlines()[1:]}
    assert len(pids) == 1
    asleep.ctr("task", "kill", "--signal", "KILL", "c")
    wait.until(lambda: asleep.status("c") == "STOPPED", 10, "the task to stop")
    assert "exit code 137" in asleep.ctr("task", "rm", "c")
    assert asleep.status("c") == ""


def test_pause_and_resume(asleep: Containerd) -> None:
    asleep.ctr("task", "pause", "c")
    assert asleep.status("c") == "PAUSED"
    asleep.ctr("task", "resume", "c")
    assert asleep.status("c") == "RUNNING"


def test_what_went_wrong_is_what_the_user_reads(containerd: Containerd) -> None:
    said = containerd.ctr("run", "--rm", BUSYBOX, "c", "no-such-program", expect=1)
    assert 'OCI runtime create failed: exec: "no-such-program": executable file not found in $PATH' in said
    assert containerd.status("c") == ""


def test_a_shell_in_a_terminal(containerd: Containerd) -> None:
    command = containerd.words("run", "--rm", "--tty", BUSYBOX, "c", "sh")
    seen, code = run_in_terminal(command, b"tty; stty size; exit 6\n")
    assert "/dev/pts/0" in seen
    assert code == 6


def test_nginx_serves(containerd: Containerd) -> None:
    containerd.ctr("run", "--detach", NGINX, "web")
    try:
        fetch = ("task", "exec", "--exec-id", "fetch", "web", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/")
        wait.until(lambda: PAGE in containerd.ctr(*fetch, expect=None), 15, "nginx to serve")
        containerd.ctr("task", "kill", "--signal", "QUIT", "web")
        wait.until(lambda: containerd.status("web") == "STOPPED", 10, "nginx to end")
    finally:
        containerd.ctr("task", "rm", "--force", "web", expect=None)
        containerd.ctr("container", "rm", "web")


def test_nothing_of_a_container_is_left(containerd: Containerd) -> None:
    containerd.ctr("run", "--rm", BUSYBOX, "c", "true")
    assert os.listdir(containerd.directory / "runc/default") == []
