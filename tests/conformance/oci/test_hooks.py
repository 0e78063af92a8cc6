"""``hooks``: when each runs and where, what it is told, and what its failure does."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.oci.container import Container
from tests.support import wait

BEFORE_START = ("prestart", "createRuntime", "createContainer")
KINDS = (*BEFORE_START, "startContainer", "poststart", "poststop")
#: Those that run in the container's namespaces, and are told the pid that is seen there.
INSIDE = ("createContainer", "startContainer")


def add(container: Container, kind: str, script: str, **more: Any) -> None:
    """A hook of *kind* that runs *script*; in the container it is its own shell that runs it."""
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], **more}
    container.config.setdefault("hooks", {}).setdefault(kind, []).append(hook)


def record(container: Container, kind: str, text: str = "") -> None:
    """A hook that adds a line to the log, from wherever it runs."""
    add(container, kind, f"cat > /dev/null; echo {text or kind} >> {log_of(container, kind)}")


def log_of(container: Container, kind: str) -> Path:
    """Where a hook of *kind* finds a file of the bundle's root."""
    return Path("/data/log") if kind == "startContainer" else container.rootfs / "data/log"


def state_told(container: Container, kind: str) -> dict[str, Any]:
    """What a hook of *kind* reads from its standard input in one life of *container*."""
    file = Path("/data/state") if kind == "startContainer" else container.rootfs / "data/state"
    add(container, kind, f"cat > {file}")
    container.create("sleep 100")
    container.start()
    container.kill()
    container.wait()
    container.delete()
    told: dict[str, Any] = json.loads(container.read("data/state"))
    return told


def test_hooks_run_in_the_order_of_the_spec(container: Container) -> None:
    for kind in reversed(KINDS):
        record(container, kind)
    container.create("echo program >> /data/log")
    assert container.read("data/log").split() == list(BEFORE_START)
    container.start()
    container.wait()
    container.delete()
    said = container.read("data/log").split()
    assert sorted(said) == sorted([*KINDS, "program"])
    said.remove("program")  # the kernel may let it run before or after poststart
    assert said == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_one_kind_run_in_the_order_that_is_listed(container: Container, kind: str) -> None:
    for text in ("first", "second", "third"):
        record(container, kind, text)
    container.launch("true")
    container.wait()
    container.delete()
    assert container.read("data/log").split() == ["first", "second", "third"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_reads_the_state(container: Container, kind: str) -> None:
    container.config["annotations"] = {"org.example.key": "value"}
    told = state_told(container, kind)
    assert told["id"] == container.id
    assert Path(told["bundle"]).samefile(container.bundle)
    assert told["annotations"] == {"org.example.key": "value"}
    assert told["ociVersion"].startswith("1.")
    if kind == "poststop":
        assert told["status"] == "stopped"
    else:
        assert told["pid"] == (1 if kind in INSIDE else container.pids[-1])


@pytest.mark.parametrize(
    ("kind", "statuses"),
    [("createRuntime", "creating created"), ("startContainer", "created"), ("poststart", "running"), ("poststop", "stopped")],
    ids=["createRuntime", "startContainer", "poststart", "poststop"],
)
def test_the_state_that_a_hook_reads_is_the_one_it_runs_in(container: Container, kind: str, statuses: str) -> None:
    """During create the specification can be read in two ways, and has been."""
    assert state_told(container, kind)["status"] in statuses.split()


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_has_its_own_arguments_and_environment(container: Container, kind: str) -> None:
    script = f'cat > /dev/null; echo "$0 $1 $MINE $PATH $CALLERS" > {log_of(container, kind)}'
    container.config["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", script, "zero", "one"], "env": ["MINE=yes", "PATH=/usr/bin:/bin"]}]
    }
    container.create("true", CALLERS="seen")
    container.start()
    container.wait()
    container.delete()
    assert container.read("data/log") == "zero one yes /usr/bin:/bin \n"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_runtime_hooks_run_in_the_callers_namespaces(container: Container, kind: str) -> None:
    add(container, kind, f"cat > /dev/null; readlink /proc/self/ns/net /proc/self/ns/mnt > {log_of(container, kind)}")
    container.create("true")
    assert container.read("data/log").split() == [os.readlink(f"/proc/self/ns/{each}") for each in ("net", "mnt")]


def test_create_container_hooks_run_in_the_containers_namespaces_with_the_hosts_files(container: Container) -> None:
    link = "readlink /proc/self/ns/net /proc/self/ns/uts"
    add(
        container,
        "createContainer",
        f"cat > /dev/null; {link} > {log_of(container, 'createContainer')}; test -e /etc/debian_version",
    )
    container.create("sleep 100")
    pid = container.state()["pid"]
    assert container.read("data/log").split() == [os.readlink(f"/proc/{pid}/ns/{each}") for each in ("net", "uts")]


def test_start_container_hooks_run_inside(container: Container) -> None:
    add(container, "startContainer", "cat > /dev/null; hostname > /data/log; readlink /proc/self/ns/net >> /data/log")
    container.create("sleep 100")
    pid = container.state()["pid"]
    container.start()
    wait.until(lambda: container.await_file("data/log").count("\n") == 2)  # peers' start does not wait for it
    assert container.read("data/log").split() == [container.config["hostname"], os.readlink(f"/proc/{pid}/ns/net")]


def test_the_namespaces_are_there_when_runtime_hooks_run(container: Container) -> None:
    """Network plugins begin here: the pid in the state leads to the container's network."""
    log = log_of(container, "createRuntime")
    pid = "sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'"
    add(container, "createRuntime", f"cat /proc/$(tr -d '\\n' | {pid})/net/dev > {log}; readlink /proc/self/ns/net")
    container.create("true")
    assert [line.split(":")[0].strip() for line in container.read("data/log").splitlines()[2:]] == ["lo"]


@pytest.mark.parametrize("kind", BEFORE_START)
def test_a_hook_that_fails_fails_create(container: Container, kind: str) -> None:
    add(container, kind, "cat > /dev/null; exit 3")
    record(container, "poststop")
    assert container.create("touch /data/ran", expect=None).code != 0
    assert not container.exists()
    assert not (container.rootfs / "data/ran").exists()


def test_a_start_container_hook_that_fails_fails_start(container: Container) -> None:
    add(container, "startContainer", "cat > /dev/null; exit 3")
    container.create("touch /data/ran")
    assert container.start(expect=None).code != 0
    container.wait()
    assert not (container.rootfs / "data/ran").exists()
    assert not container.exists() or container.status() == "stopped"


def test_a_poststart_hook_that_fails_stops_the_container(container: Container) -> None:
    """An error since 1.3.0 of the spec; it was a warning before."""
    add(container, "poststart", "cat > /dev/null; exit 3")
    container.create("sleep 100")
    assert container.start(expect=None).code != 0
    assert container.wait() == 128 + 9


def test_a_poststop_hook_that_fails_does_not_keep_the_container(container: Container) -> None:
    add(container, "poststop", "cat > /dev/null; exit 3")
    record(container, "poststop", "second")
    container.launch("true")
    container.wait()
    container.delete(expect=None)
    assert not container.exists()
    assert container.read("data/log") == "second\n"


def test_poststop_runs_after_a_forced_delete(container: Container) -> None:
    record(container, "poststop")
    container.launch("sleep 100")
    container.delete("--force")
    assert container.read("data/log") == "poststop\n"


def test_a_hook_that_takes_too_long_is_ended(container: Container) -> None:
    add(container, "createRuntime", "exec sleep 100", timeout=1)
    before = time.monotonic()
    assert container.create(expect=None).code != 0
    assert 0.9 < time.monotonic() - before < 10
    assert not container.exists()


@pytest.mark.parametrize("kind", BEFORE_START)
def test_a_hook_that_is_not_there_is_an_error(container: Container, kind: str) -> None:
    container.config["hooks"] = {kind: [{"path": "/nowhere/hook"}]}
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_a_relative_path_of_a_hook_is_refused(container: Container) -> None:
    container.config["hooks"] = {"createRuntime": [{"path": "bin/sh"}]}
    assert container.create(expect=None).code != 0
    assert not container.exists()


def test_a_hook_need_not_read_its_input(container: Container) -> None:
    container.config["annotations"] = {f"key{number}": "x" * 4000 for number in range(64)}
    for kind in KINDS:
        container.config.setdefault("hooks", {})[kind] = [{"path": "/bin/true"}]
    container.launch("true")
    container.wait()
    container.delete()
