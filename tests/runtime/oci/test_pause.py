"""pause, resume: what stands still and what does not."""

from __future__ import annotations

from pathlib import Path

from tests.support import wait
from tests.support.oci import CommandLine


def ticks(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_a_paused_container_stands_still_until_it_is_resumed(oci: CommandLine) -> None:
    oci.configure("sh", "-c", "while true; do true; done")
    oci.call("run", "--detach", "web")
    pid = oci.state("web")["pid"]
    oci.call("pause", "web")
    assert oci.state("web")["status"] == "paused"
    before = ticks(pid)
    assert "it is paused" in oci.refusal("pause", "web")
    assert ticks(pid) == before
    oci.call("resume", "web")
    assert oci.state("web")["status"] == "running"
    wait.until(lambda: ticks(pid) > before, 5, "the container to go on")
    assert "container not paused: it is running" in oci.refusal("resume", "web")


def test_a_created_container_can_be_paused_and_a_stopped_one_cannot(oci: CommandLine) -> None:
    oci.call("create", "web")
    oci.call("pause", "web")
    oci.call("resume", "web")
    assert oci.state("web")["status"] == "created"
    oci.call("kill", "web", "KILL")
    wait.until(lambda: oci.state("web")["status"] == "stopped", 5, "the container to end")
    assert "container not running: it is stopped" in oci.refusal("pause", "web")
    assert "container does not exist" in oci.refusal("pause", "nobody")


def test_a_paused_container_can_be_killed_and_deleted(oci: CommandLine) -> None:
    oci.call("run", "--detach", "web")
    oci.call("pause", "web")
    oci.call("delete", "--force", "web")
    assert "container does not exist" in oci.refusal("state", "web")


def test_checkpoint_and_restore_say_that_they_are_not_done(oci: CommandLine) -> None:
    assert oci.refusal("checkpoint", "--image-path", "/tmp", "--leave-running", "web").startswith("checkpoint: not supported")
    assert oci.refusal("restore", "--bundle", ".", "-d", "web").startswith("restore: not supported")
