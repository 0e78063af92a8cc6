"""A start that fails on a node: what is said of it, and what is kept of it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from runtime import history
from runtime.errors import StartFailed
from runtime.node import Node
from runtime.spec import schema
from tests.support import wishes
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@pytest.fixture
def sandbox(node: Node) -> str:
    return node.run_sandbox(wishes.sandbox())


def test_a_create_that_fails_is_kept_until_its_sandbox_goes(node: Node, sandbox: str) -> None:
    wanted = wishes.container(["true"])
    assert wanted.spec.process is not None
    wanted.spec.mounts.append(schema.Mount(destination="/mnt", type="tmpfs", source="x", options=["nr_inodes=few"]))
    with pytest.raises(StartFailed) as failed:
        node.create_container(sandbox, wanted)
    [kept] = history.failures(node.paths.failures, wanted.name)
    assert kept.message in str(failed.value)
    assert kept.sandbox_id == sandbox
    [wrong] = [step for step in kept.steps if not step.is_fine]
    assert wrong.heading == "mounts" and wrong.result == -errno.EINVAL and "nr_inodes" in wrong.call
    assert f"step {kept.steps.index(wrong) + 1} of " in kept.message
    node.remove_sandbox(sandbox)
    assert history.failures(node.paths.failures, wanted.name) == []


def test_a_program_that_cannot_be_executed_is_told_from_one_that_is_not_there(node: Node, sandbox: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/nothing\n")
    (tmp_path / "script").chmod(0o755)
    gone = wishes.container(["/gone"])
    container = node.create_container(sandbox, gone)
    with pytest.raises(StartFailed, match="there is no /gone in the image"):
        node.start_container(container)
    last = node.history_of(container)[-1]
    assert (last.result, last.is_fine) == (-errno.ENOENT, False)
    assert last.call.startswith('execve("/gone"')


def test_a_script_without_its_interpreter(node: Node, sandbox: str) -> None:
    running = wishes.run(node, sandbox, wishes.container(["sleep", "100"]))
    written = node.exec_sync(running, ["sh", "-c", "echo '#!/bin/nothing' > /script; chmod 755 /script"], 10)
    assert written.exit_code == 0
    with pytest.raises(StartFailed, match="/script is there, but not /bin/nothing, which it names as its interpreter"):
        node.exec_sync(running, ["/script"], 10)
