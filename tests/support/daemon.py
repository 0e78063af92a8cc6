"""A real daemon, ``kernelet serve``, in the run's own namespaces: start it, kill it, start it again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from runtime.paths import Paths
from tests.support import wait
from tests.support.client import Client
from tests.support.isolation import Run

#: The public registries that tests name: the daemon asks the test's own for them.
MIRRORED = ("docker.io", "registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws")


class Daemon:
    """One daemon's place; the process in it may change."""

    def __init__(self, paths: Paths, run: Run, *, registry: str | None = None, cluster: str = "") -> None:
        """*registry* stands in for those of the world; *cluster* is what the section "network" says besides."""
        self.paths = paths
        self.log = paths.run_dir.parent / "daemon.log"
        self._config = paths.run_dir.parent / "kernelet.toml"
        mirror = f'{{ urls = ["http://{registry}"], fall_back = false }}'
        mirrors = "".join(f'"{host}" = {mirror}\n' for host in MIRRORED) if registry else ""
        cluster = cluster or f'cni_config_dir = "{paths.run_dir.parent}/net.d"\n'
        self._config.write_text(
            f'root_dir = "{paths.root_dir}"\nrun_dir = "{paths.run_dir}"\n'
            f"[network]\n{cluster}"
            f'bridge = "{run.bridge}"\nsubnet = "{run.subnet}"\n[registry.mirrors]\n{mirrors}'
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.begin()
        self.arrive()

    def begin(self) -> None:
        """Start it, and wait for nothing."""
        self._process = self.another()

    def another(self) -> subprocess.Popen[bytes]:
        """A further process of the same command."""
        command = [sys.executable, "-m", "cri", "serve", "--config", str(self._config)]
        with open(self.log, "ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def arrive(self) -> None:
        """Wait until it answers."""
        try:
            wait.until(self._answers, 60, f"the daemon to answer; it says: {self.log.read_text()[-2000:]}")
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the daemon ended: {self.log.read_text()[-3000:]}"
        with socket.socket(socket.AF_UNIX) as probe:  # one that was killed leaves its socket's name behind
            return probe.connect_ex(str(self.paths.socket)) == 0

    def client(self) -> Client:
        return Client(self.paths.socket)

    def stop(self) -> int:
        """Ask it to stop, and wait; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(30)
        self._process = None
        return code

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self.reap()

    def reap(self) -> None:
        """Wait for the end of one that somebody else has killed."""
        assert self._process is not None
        self._process.wait(30)
        self._process = None

    def has_ended(self) -> bool:
        """Whether it has come to its end by itself."""
        return self._process is not None and self._process.poll() is not None

    def replace(self, process: subprocess.Popen[bytes]) -> None:
        """Let *process*, made by ``another``, be the daemon from now on."""
        self._process = process

    def monitor_pid(self) -> int:
        """The pid of the monitor of this run directory."""
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if b"runtime.monitor" in words and os.fsencode(self.paths.run_dir) in words:
                    return int(name)
        raise AssertionError("there is no monitor")

    @property
    def is_running(self) -> bool:
        return self._process is not None
