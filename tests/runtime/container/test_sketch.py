"""A sketch is what the ground would be: the program that is planned is the program that is run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel import mount
from runtime.container import ground, init
from runtime.container.plan import describe
from runtime.container.sketch import names_of, sketch
from runtime.errors import InvalidSpec
from runtime.spec import schema
from tests.runtime.container.test_shell import as_a_user, spec, write_bundle


def with_a_terminal(made: schema.Spec) -> None:
    assert made.process is not None
    made.process.terminal = True


def joined(made: schema.Spec) -> None:
    for namespace in made.linux.namespaces:
        if namespace.type in ("network", "ipc", "uts", "pid"):
            namespace.path = f"/proc/self/ns/{namespace.type.removesuffix('work')}"
    made.hostname, made.linux.sysctl = "", {}


def nested(made: schema.Spec) -> None:
    """Mounts on file systems that are new themselves, and in binds."""
    made.mounts += [
        schema.Mount(destination="/run", type="tmpfs", source="tmpfs"),
        schema.Mount(destination="/run/a/b", type="bind", source="/usr/share", options=["rbind"]),
        schema.Mount(destination="/run/a/hosts", type="bind", source="/etc/hosts", options=["rbind"]),
        schema.Mount(destination="/opt", type="bind", source="/tmp", options=["rbind"]),
    ]


def users(made: schema.Spec) -> None:
    made.linux.namespaces.append(schema.Namespace(type="user"))
    made.linux.uid_mappings = [schema.IdMapping(container_id=0, host_id=100000, size=65536)]
    made.linux.gid_mappings = [schema.IdMapping(container_id=0, host_id=200000, size=65536)]


def hooked(made: schema.Spec) -> None:
    made.hooks.create_runtime = [schema.Hook(path="/bin/true")]
    made.mounts.append(schema.Mount(destination="/etc", type="tmpfs", source="tmpfs", options=["tmpcopyup"]))


@pytest.mark.requires("root")
@pytest.mark.parametrize("change", [lambda _: None, as_a_user, with_a_terminal, joined, nested, users, hooked])
def test_what_is_planned_is_what_is_run(tmp_path: Path, change: Callable[[schema.Spec], object]) -> None:
    wanted = spec(change)
    wanted.linux.masked_paths = [path for path in wanted.linux.masked_paths if os.path.exists(path)]
    assert wanted.linux.masked_paths
    bundle = write_bundle(tmp_path / "bundle", wanted)
    for each in wanted.mounts:  # what the image has; a bind makes its own place
        if each.type != "bind" and not each.destination.startswith(("/dev/", "/sys/")):
            (bundle / "rootfs" / each.destination.strip("/")).mkdir(exist_ok=True)
    root = mount.clone_tree(bundle / "rootfs", recursive=True)
    prepared = ground.prepare(
        wanted, root, attach_point=tmp_path, in_cgroup=True, has_reaper=False, can_pause=True, in_order=True
    )
    drawn = sketch(wanted, has_reaper=False, in_order=True)
    try:
        facts = dataclasses.replace(prepared.facts, attach_point=drawn.facts.attach_point)
        drawn_facts = dataclasses.replace(drawn.facts, last_capability=facts.last_capability, grantable=facts.grantable)
        assert drawn_facts == facts
        real = describe(init.program("x", wanted, facts), names_of(wanted, facts))
    finally:
        prepared.close()
    planned = describe(init.program("x", drawn.spec, drawn_facts), names_of(drawn.spec, drawn_facts))
    assert [step.text for step in planned.steps] == [step.text for step in real.steps]
    assert planned == real


def test_descriptors_have_names() -> None:
    drawn = sketch(spec(as_a_user))
    names = names_of(drawn.spec, drawn.facts)
    assert names[drawn.facts.root] == "<root>"
    assert set(names.values()) == {"<root>", "<procfs>", "<mount of /etc/passwd>", "<mount of /usr/share>", "</dev/null>"}
    opened = dict(drawn.facts.opened).values()
    assert [each.is_directory for each in opened] == [False, True]


def test_a_namespace_that_linux_does_not_have_is_refused() -> None:
    made = spec()
    made.linux.namespaces.append(schema.Namespace(type="mood", path="/x"))
    with pytest.raises(InvalidSpec, match="mood"):
        sketch(made)
