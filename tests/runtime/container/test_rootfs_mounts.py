"""The steps of mounts as text: what needs a kernel that this one is not, labels above all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kernel.program import Program
from runtime.container import rootfs, rootfs_mounts
from runtime.container.facts import Facts
from runtime.errors import InvalidSpec
from runtime.spec import schema

FACTS = Facts("/run/attach", 20, 40)
LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def steps_of(*mounts: schema.Mount, facts: Facts = FACTS, masked: tuple[str, ...] = ()) -> list[str]:
    steps = Program("test")
    spec = schema.Spec(mounts=list(mounts), linux=schema.Linux(masked_paths=list(masked)))
    rootfs.mount_all(steps, spec, facts)
    rootfs.protect(steps, spec, facts)
    return [str(step) for step in steps.steps]


def tmpfs(*options: str) -> schema.Mount:
    return schema.Mount(destination="/data", type="tmpfs", source="tmpfs", options=list(options))


def test_new_file_systems_are_labelled_where_there_are_labels() -> None:
    """linux.mountLabel: only with SELinux there is a context, and the kernel labels its own file systems itself."""
    labelled = f'fsconfig(context, FSCONFIG_SET_STRING, "context", "{LABEL}", 0)'
    facts = replace(FACTS, context=LABEL)
    assert labelled in steps_of(tmpfs(), facts=facts)
    assert labelled not in steps_of(tmpfs())
    assert steps_of(tmpfs("context=mine"), facts=facts).count(labelled) == 0
    for kind in ("proc", "sysfs", "mqueue", "cgroup", "cgroup2"):
        assert labelled not in steps_of(schema.Mount(destination="/x", type=kind), facts=facts)
    assert labelled in steps_of(facts=replace(facts, masked=(("/etc", True),)))  # what hides a directory, too
    old = steps_of(tmpfs("silent"), facts=facts)
    assert any(f'context=\\"{LABEL}\\"' in step for step in old), old  # quoted: it has a comma of its own


def test_a_file_system_that_mount_alone_can_make_is_mounted_where_the_process_stands() -> None:
    steps = steps_of(tmpfs("iversion", "ro", "size=1k", "shared"))
    assert 'mount("tmpfs", ".", "tmpfs", MS_I_VERSION, "size=1k")' in steps  # read-only when it has been filled
    assert steps.index("fchdir(target)") == next(index for index, step in enumerate(steps) if step.startswith("mount(")) - 1
    assert not any(step.startswith("move_mount") for step in steps)
    assert sum("MS_SHARED" in step for step in steps) == 1
    assert sum("+MOUNT_ATTR_RDONLY" in step or "MOUNT_ATTR_RDONLY" in step for step in steps) == 1


def test_more_options_than_a_page_are_refused_by_the_mount() -> None:
    with pytest.raises(InvalidSpec, match="mount /data: options: more than the 4095 bytes"):
        steps_of(tmpfs(f"x={'y' * 4095}"))


@pytest.mark.parametrize(
    ("kind", "options", "is_later"),
    [("tmpfs", ["ro"], True), ("tmpfs", ["rro"], True), ("tmpfs", ["rw"], False), ("ramfs", ["ro"], False)],
)
def test_what_is_filled_first_is_sealed_later(kind: str, options: list[str], is_later: bool) -> None:
    assert rootfs_mounts.is_sealed_later(schema.Mount(destination="/x", type=kind, options=options)) == is_later


def test_two_that_do_not_share_a_set_up_differ_in_their_outline() -> None:
    bind = schema.Mount(destination="/x", type="bind", source="/a", options=["rbind", "rprivate"])
    outline = rootfs_mounts.outline(bind)
    for same in ({"source": "/b"}, {"options": ["rbind", "ro", "rprivate"]}):
        assert (
            rootfs_mounts.outline(schema.Mount(**{"destination": "/x", "type": "bind", "options": bind.options, **same}))
            == outline
        )  # type: ignore[arg-type]
    for other in ({"destination": "/y"}, {"type": "devpts"}, {"options": ["rbind", "unbindable"]}):
        assert (
            rootfs_mounts.outline(schema.Mount(**{"destination": "/x", "type": "bind", "options": bind.options, **other}))
            != outline
        )  # type: ignore[arg-type]
