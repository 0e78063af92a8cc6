"""Apply OCI resources to a cgroup: hand down controllers, write limits (``limits``), give the cgroup away where that is asked.

A limit whose controller this node lacks is an error for whoever asked for it, never skipped: a
container that believes in a limit it does not have is worse than one that does not start.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec

from kernel.cgroup import Cgroup
from runtime.container.limits import Write, writes
from runtime.errors import ControllerMissing, InvalidSpec
from runtime.spec import schema

#: Files that a cgroup's owner may have, where the kernel does not list them (cgroups(7), Linux 4.15).
DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
DELEGATE_LIST = Path("/sys/kernel/cgroup/delegate")
#: What the kernel says of a value that it does not take, or of a device that there is not.
_REFUSALS = frozenset({errno.EINVAL, errno.ERANGE, errno.ENODEV, errno.ENXIO, errno.EOPNOTSUPP})
#: Controllers that work on threads, and so below a threaded cgroup.
THREADED = frozenset({"cpu", "cpuset", "perf_event", "pids"})


def apply(cgroup: Cgroup, tree: Path, resources: schema.Resources | None) -> None:
    """Write *resources* to *cgroup*, handing down the controllers from *tree* on.

    Controllers that nothing is asked of are handed down too where that is possible: they count.
    Raises ControllerMissing naming field and controller, Unsupported, InvalidSpec for a value that the kernel does not take.
    """
    wanted = writes(resources) if resources is not None else []
    if resources is not None and resources.memory is not None:
        _check_usage(cgroup, resources.memory)
    fields: dict[str, str] = {}
    for write in wanted:
        fields.setdefault(write.file.partition(".")[0], write.field)
    fields.pop("cgroup", None)
    _settle_type(cgroup, fields)
    for controller, field in fields.items():
        _hand_down(cgroup, tree, controller, field)
    _hand_down_to_count(cgroup, tree)
    for write in wanted:
        _write(cgroup, write)


def without_absent_sizes(resources: schema.Resources | None, tree: Path) -> schema.Resources | None:
    """*resources* without the limits of huge pages that hold anyhow: of a size that this kernel has none of, or of nothing
    where nothing counts them.  A kubelet sends one for every size that it can think of.
    """
    if resources is None or not resources.hugepage_limits:
        return resources
    has_controller = "hugetlb" in Cgroup(tree).controllers()
    sizes = _page_sizes()
    kept = [each for each in resources.hugepage_limits if each.page_size in sizes and (has_controller or each.limit)]
    return msgspec.structs.replace(resources, hugepage_limits=kept)


@cache
def _page_sizes() -> frozenset[str]:
    """The sizes of huge pages that this kernel has, as the names of limits spell them: "2MB"."""
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except FileNotFoundError:
        return frozenset()
    kilobytes = [int(name.removeprefix("hugepages-").removesuffix("kB")) for name in names]
    return frozenset(_size_name(number) for number in kilobytes)


def _size_name(kilobytes: int) -> str:
    for unit in ("KB", "MB"):
        if kilobytes < 1024:
            return f"{kilobytes}{unit}"
        kilobytes //= 1024
    return f"{kilobytes}GB"


def _write(cgroup: Cgroup, write: Write) -> None:
    try:
        cgroup.write(write.file, write.value)
    except FileNotFoundError:
        if write.instead is None:
            raise ControllerMissing(
                f"linux.resources.{write.field}: {write.file}={write.value}: "
                "no such file or directory: this kernel's cgroup v2 has no such limit"
            ) from None
        for other in write.instead:
            _write(cgroup, other)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        if not (write.is_attempt and error.errno == errno.EINVAL):
            raise InvalidSpec(f"linux.resources.{write.field}: {write.file}: {error.strerror}") from error


def _check_usage(cgroup: Cgroup, memory: schema.Memory) -> None:
    """checkBeforeUpdate: refuse a limit that is used up already, which would end in the killing of processes."""
    if not memory.check_before_update:
        return
    used = cgroup.number("memory.current")
    if used is None:
        return
    both = used + (cgroup.number("memory.swap.current") or 0)
    for field, name, limit, usage in (("swap", "memory+swap", memory.swap, both), ("limit", "memory", memory.limit, used)):
        if limit is not None and 0 < limit <= usage:
            reason = f"rejecting {name} limit {limit}: {usage} bytes are used already (checkBeforeUpdate)"
            raise InvalidSpec(f"linux.resources.memory.{field}: {reason}")


def _settle_type(cgroup: Cgroup, controllers: Iterable[str]) -> None:
    """Below a threaded cgroup a new one is invalid until it is threaded, too; what counts by process is not to be had there."""
    if cgroup.kind() not in ("domain invalid", "threaded"):
        return
    for controller in controllers:
        if controller not in THREADED:
            raise ControllerMissing(f"limit of {controller}: {cgroup.path} lies below a threaded cgroup, where it cannot be had")
    cgroup.write("cgroup.type", "threaded")


def _hand_down(cgroup: Cgroup, tree: Path, controller: str, field: str) -> None:
    if controller not in Cgroup(tree).controllers():
        raise ControllerMissing(
            f"linux.resources.{field}: the requested cgroup controller `{controller}` is not available: "
            f"the cgroup v2 tree at {tree} does not have it; "
            "on a host that uses cgroup v1 controllers (hybrid), boot with systemd.unified_cgroup_hierarchy=1"
        )
    for directory in _above(cgroup, tree):
        try:
            directory.enable([controller])
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise ControllerMissing(
                    f"linux.resources.{field}: {directory.path} has processes of its own, so it cannot hand {controller} down"
                ) from error
            raise


def _hand_down_to_count(cgroup: Cgroup, tree: Path) -> None:
    """Hand down every other controller too, as far as it goes: without it there is no figure of what a container uses."""
    rest = Cgroup(tree).controllers() - cgroup.controllers()
    for controller in sorted(rest):
        with contextlib.suppress(OSError):
            for directory in _above(cgroup, tree):
                directory.enable([controller])


def _above(cgroup: Cgroup, tree: Path) -> list[Cgroup]:
    """The cgroups above *cgroup*, from the top of the tree on."""
    return [Cgroup(each) for each in reversed(cgroup.path.parents) if each == tree or tree in each.parents]


def delegate(cgroup: Cgroup, spec: schema.Spec) -> None:
    """Give *cgroup* to the user that the container's process is on the host, if *spec* asks for what makes that right.

    The rules are the specification's (config-linux.md, cgroup ownership): the container has a cgroup namespace of its
    own and mounts /sys/fs/cgroup for writing.  Only the directory and the files that the kernel says are safe to give
    away: with others the container could raise its own limits.
    """
    owner = owner_of(spec)
    if owner is None:
        return
    try:
        names: Iterable[str] = DELEGATE_LIST.read_text().split()
    except FileNotFoundError:
        names = DELEGATED
    os.chown(cgroup.path, owner, -1)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.chown(cgroup.path / name, owner, -1)


def owner_of(spec: schema.Spec) -> int | None:
    """The host's uid that is to own the cgroup of *spec*; None when it is not to be given away."""
    has_namespace = any(each.type == "cgroup" and not each.path for each in spec.linux.namespaces)
    is_writable = any(os.path.normpath(each.destination) == "/sys/fs/cgroup" and "ro" not in each.options for each in spec.mounts)
    if not has_namespace or not is_writable or spec.process is None:
        return None
    uid = spec.process.user.uid
    if not any(each.type == "user" for each in spec.linux.namespaces):
        return uid or None
    for mapping in spec.linux.uid_mappings:
        if mapping.container_id <= uid < mapping.container_id + mapping.size:
            return mapping.host_id + uid - mapping.container_id
    return None
