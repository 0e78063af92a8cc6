"""``kernelet-oci`` by a user who is not root: a container's whole life, and what the node's cgroups do not give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.spec import schema
from tests.runtime.container.test_rootless import spec
from tests.runtime.container.test_userns import PERSON, become_person
from tests.support import child, inside
from tests.support.requires import requires

pytestmark = requires("root", "busybox")

Change = Callable[[schema.Spec], object]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that belongs to PERSON."""
    made = tmp_path / "bundle"
    made.mkdir()
    inside.make_node(made)
    (tmp_path / "state").mkdir(mode=0o700)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.lchown(path, PERSON, PERSON)
    for above in tmp_path.parents:
        if above != Path("/") and above.stat().st_mode & 0o5 != 0o5:
            above.chmod(0o755)
    return made


def configure(bundle: Path, script: str, change: Change = lambda _: None) -> None:
    wanted = spec(script)
    wanted.oci_version = "1.3.0"  # a default would be left out
    change(wanted)
    (bundle / "config.json").write_bytes(msgspec.json.encode(wanted))


def as_person(function: Callable[[Callable[..., subprocess.CompletedProcess[str]]], Any], bundle: Path) -> Any:
    """What *function* returns as PERSON, with the command line to call."""

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runtime.oci", "--root", str(bundle.parent / "state"), *arguments]
        log = bundle.parent / "state/output"
        with log.open("w+") as output:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, timeout=30)
            return subprocess.CompletedProcess(command, done.returncode, log.read_text())

    def inside_child() -> Any:
        become_person()
        return function(call)

    return child.run(inside_child, deadline_seconds=60)


def test_a_user_runs_a_container(bundle: Path) -> None:
    configure(bundle, "id -u; hostname; cat /proc/self/uid_map", lambda wanted: setattr(wanted, "hostname", "box"))

    def life(call: Callable[..., subprocess.CompletedProcess[str]]) -> tuple[int, str]:
        done = call("run", "--bundle", str(bundle), "web")
        return done.returncode, done.stdout

    code, said = as_person(life, bundle)
    assert said.split() == ["0", "box", "0", str(PERSON), "1"]
    assert code == 0


def test_a_containers_whole_life(bundle: Path) -> None:
    configure(bundle, "sleep 1000")

    def life(call: Callable[..., subprocess.CompletedProcess[str]]) -> list[tuple[str, int, str]]:
        steps = (
            ("create", "--bundle", str(bundle), "web"),
            ("start", "web"),
            ("state", "web"),
            ("exec", "web", "sh", "-c", "id -u; cat /proc/1/comm; cat /proc/self/uid_map"),
            ("kill", "web", "KILL"),
            ("delete", "--force", "web"),
        )
        done = ((step[0], call(*step)) for step in steps)
        return [(name, each.returncode, each.stdout) for name, each in done]

    done = {name: (code, said) for name, code, said in as_person(life, bundle)}
    assert {name: code for name, (code, _) in done.items()} == dict.fromkeys(done, 0), done
    assert json.loads(done["state"][1])["status"] == "running"
    assert done["exec"][1].split() == ["0", "sleep", "0", str(PERSON), "1"]


def without_users(wanted: schema.Spec) -> None:
    wanted.linux.namespaces.pop()
    wanted.linux.uid_mappings, wanted.linux.gid_mappings = [], []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda wanted: setattr(wanted.linux, "cgroups_path", "/mine"), "no permission is granted for cgroups"),
        (
            lambda wanted: setattr(wanted.linux, "resources", schema.Resources(pids=schema.Pids(limit=5))),
            "no permission is granted for cgroups",
        ),
        (without_users, "needs a user namespace"),
    ],
)
def test_what_only_root_can_do_is_refused_and_leaves_nothing(bundle: Path, change: Change, said: str) -> None:
    configure(bundle, "true", change)

    def create(call: Callable[..., subprocess.CompletedProcess[str]]) -> tuple[int, str, list[str]]:
        done = call("create", "--bundle", str(bundle), "web")
        return done.returncode, done.stdout, sorted(os.listdir(bundle.parent / "state"))

    code, output, left = as_person(create, bundle)
    assert code == 1
    assert said in output
    assert left == ["output"]
