"""The defaults make a spec that is valid, and every caller gets its own."""

from __future__ import annotations

import os
import stat

from runtime.spec import defaults, load, schema, standard_dev


def test_defaults_make_a_valid_spec() -> None:
    spec = schema.Spec(
        root=schema.Root(path="rootfs"),
        process=schema.Process(args=["/bin/true"]),
        mounts=defaults.mounts(),
        linux=schema.Linux(
            devices=defaults.devices(),
            masked_paths=list(defaults.MASKED_PATHS),
            readonly_paths=list(defaults.READONLY_PATHS),
        ),
    )
    load.validate(spec)


def test_parents_are_mounted_before_their_children() -> None:
    seen: list[str] = []
    for mount in defaults.mounts():
        assert not any(earlier.startswith(mount.destination + "/") for earlier in seen)
        seen.append(mount.destination)
    assert seen[0] == "/proc"


def test_only_a_privileged_container_may_write_to_sysfs_and_cgroup() -> None:
    for privileged, access in ((False, "ro"), (True, "rw")):
        by_path = {mount.destination: mount.options for mount in defaults.mounts(privileged=privileged)}
        assert by_path["/sys"][-1] == by_path["/sys/fs/cgroup"][-1] == access


def test_device_numbers_are_the_kernels() -> None:
    for path, major, minor in standard_dev.DEVICES:
        status = os.stat(path)
        assert stat.S_ISCHR(status.st_mode)
        assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (major, minor)


def test_device_rules_begin_by_refusing_everything() -> None:
    first, *rest = defaults.device_rules()
    assert not first.allow and first.type == "a"
    assert all(rule.allow for rule in rest)
    # nothing but mknod is allowed for a device that is not named
    assert all(rule.access == "m" for rule in rest if rule.major is None)


def test_each_call_makes_new_values() -> None:
    defaults.mounts()[0].options.append("changed")
    assert "changed" not in defaults.mounts()[0].options


def test_there_are_fourteen_capabilities() -> None:
    assert len(set(defaults.CAPABILITIES)) == 14
    assert "CAP_SYS_ADMIN" not in defaults.CAPABILITIES
