"""The same path with crictl, the tool that people have."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Registry
from tests.support import requires as needs
from tests.support import wait
from tests.support.daemon import Daemon
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "docker-registry", "crictl")

Crictl = Callable[..., str]


@pytest.fixture
def crictl(daemon: Daemon, tmp_path: Path) -> Crictl:
    """Runs crictl on the daemon; its output, or AssertionError with what it said."""
    (tmp_path / "crictl.yaml").write_text(f"runtime-endpoint: unix://{daemon.paths.socket}\ntimeout: 30\n")

    def run(*arguments: str, fails: bool = False) -> str:
        command = [needs.program("crictl"), "--config", str(tmp_path / "crictl.yaml"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert bool(done.returncode) == fails, f"crictl {' '.join(arguments)}: {done.stderr}"
        return (done.stderr if fails else done.stdout).strip()

    return run


def document(path: Path, content: dict[str, Any]) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_a_walk(crictl: Crictl, registry: Registry, tmp_path: Path) -> None:
    assert "RuntimeName:  kernelet" in crictl("version")
    assert json.loads(crictl("info"))["status"]["conditions"][0] == {
        "message": "",
        "reason": "",
        "status": True,
        "type": "RuntimeReady",
    }
    name = registry.name("gzip")
    assert crictl("pull", name).startswith("Image is up to date for sha256:")
    crictl("pull", registry.exact("gzip"))
    (image,) = json.loads(crictl("images", "-o", "json"))["images"]
    assert (image["repoTags"], image["repoDigests"]) == ([name], [registry.exact("gzip")])
    assert json.loads(crictl("inspecti", name))["status"]["id"] == image["id"]
    assert crictl("images", "-q") == image["id"]

    pod_file = document(
        tmp_path / "pod.json",
        {
            "metadata": {"name": "web", "namespace": "default", "uid": "u1", "attempt": 1},
            "hostname": "web",
            "log_directory": str(tmp_path / "logs"),
            "labels": {"app": "web"},
            "linux": {"security_context": {"namespace_options": {"pid": 1}}},
        },
    )
    container_file = document(
        tmp_path / "container.json",
        {
            "metadata": {"name": "main"},
            "image": {"image": name},
            "command": ["sh", "-c", "echo hello from $(hostname); echo bad >&2; exec sleep 1000"],
            "log_path": "main/0.log",
            "linux": {"security_context": {"namespace_options": {"pid": 1}}},
        },
    )
    pod = crictl("runp", pod_file)
    assert crictl("pods", "-q", "--no-trunc", "--label", "app=web", "--state", "ready") == pod
    status = json.loads(crictl("inspectp", pod))
    assert (status["status"]["state"], status["status"]["metadata"]["name"]) == ("SANDBOX_READY", "web")
    assert status["status"]["network"]["ip"] and status["info"]["id"] == pod
    container = crictl("create", pod, container_file, pod_file)
    assert crictl("ps", "-a", "-q", "--no-trunc", "--state", "created") == container
    assert crictl("start", container[:13]) == container[:13]
    assert crictl("ps", "-q", "--no-trunc") == container
    wait.until(lambda: "hello from web" in crictl("logs", container))
    status = json.loads(crictl("inspect", container))
    assert status["status"]["state"] == "CONTAINER_RUNNING"
    assert status["status"]["imageId"] == image["id"]
    assert status["status"]["imageRef"] in image["repoDigests"]
    pid = status["info"]["pid"]
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    assert status["info"]["sandboxID"] == pod
    assert crictl("exec", "-s", container, "sh", "-c", "hostname; id -u").split() == ["web", "0"]
    assert "exited with 4" in crictl("exec", "-s", container, "sh", "-c", "exit 4", fails=True)
    assert "only a created container can be started" in crictl("start", container, fails=True)
    assert crictl("stop", "-t", "0", container) == container
    assert json.loads(crictl("inspect", container))["status"]["exitCode"] == 137
    assert crictl("rm", container) == container
    assert crictl("stopp", pod) == f"Stopped sandbox {pod}"
    assert json.loads(crictl("inspectp", pod))["status"]["state"] == "SANDBOX_NOTREADY"
    assert crictl("rmp", pod) == f"Removed sandbox {pod}"
    assert crictl("pods", "-q") == crictl("ps", "-a", "-q") == ""
    crictl("rmi", image["id"][:20])
    assert crictl("images", "-q") == ""


def test_what_it_refuses(crictl: Crictl, registry: Registry) -> None:
    assert "not found" in crictl("pull", registry.name("nonesuch"), fails=True)
    assert "RegistryUnavailable: 127.0.0.1:1:" in crictl("pull", "127.0.0.1:1/x", fails=True)
    assert "not found" in crictl("inspect", "0" * 64, fails=True)
    assert "no such image" in crictl("inspecti", "none", fails=True)
