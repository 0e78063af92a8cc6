"""OCI resources as cgroup v2 files (pure), and applying them.

A limit whose controller this node lacks is an error for whoever asked for it, never skipped: a
container that believes in a limit it does not have is worse than one that does not start.
"""

from __future__ import annotations

import errno
import math
from pathlib import Path

from kernel.cgroup import Cgroup
from runtime.errors import ControllerMissing, InvalidSpec
from runtime.spec import schema

DEFAULT_PERIOD = 100_000
#: Of the tree's own files those that limit; cgroup.procs, say, would move processes.
_OF_CGROUP = {"cgroup.max.depth", "cgroup.max.descendants"}


def files(resources: schema.Resources) -> list[tuple[str, str]]:
    """(file, value) in the order to write them; ``unified`` comes last and wins."""
    return [
        *_pids(resources.pids),
        *_memory(resources.memory),
        *_cpu(resources.cpu),
        *_hugepages(resources.hugepage_limits),
        *((name, value) for name, value in resources.unified.items()),
    ]


def weight_of(shares: int) -> int:
    """cpu.weight for *shares*, on the curve that keeps 1024 at the kernel's default of 100.

    The formula of opencontainers/cgroups#20, which runc 1.3.2 and crun of 2025-06 took up; the older
    linear one made 1024 shares a weight of 39.
    """
    if shares <= 2:
        return 1
    if shares >= 262_144:
        return 10_000
    logarithm = math.log2(shares)
    return math.ceil(10 ** ((logarithm**2 + 125 * logarithm) / 612 - 7 / 34))


def apply(cgroup: Cgroup, tree: Path, resources: schema.Resources | None) -> None:
    """Write *resources* to *cgroup*, handing down the controllers from *tree* on.

    Raises ControllerMissing naming the controller, or OSError naming file and value.
    """
    wanted = files(resources) if resources is not None else []
    for controller in dict.fromkeys(name.partition(".")[0] for name, _ in wanted):
        if controller != "cgroup":
            _hand_down(cgroup, tree, controller)
    for name, value in wanted:
        if "/" in name or (name.startswith("cgroup.") and name not in _OF_CGROUP):
            raise InvalidSpec(f"linux.resources.unified {name!r}: must be the name of a controller's file, without a path")
        try:
            cgroup.write(name, value)
        except FileNotFoundError:
            if name.endswith(".rsvd.max"):
                continue
            raise ControllerMissing(f"limit {name}={value}: this kernel's cgroup v2 has no {name}") from None


def _hand_down(cgroup: Cgroup, tree: Path, controller: str) -> None:
    if controller not in Cgroup(tree).controllers():
        raise ControllerMissing(
            f"limit of {controller}: the cgroup v2 tree at {tree} does not have the {controller} controller; "
            "on a host that uses cgroup v1 controllers (hybrid), boot with systemd.unified_cgroup_hierarchy=1"
        )
    for directory in reversed(cgroup.path.parents):
        if directory == tree or tree in directory.parents:
            try:
                Cgroup(directory).enable([controller])
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise ControllerMissing(
                        f"limit of {controller}: {directory} has processes of its own, so it cannot hand controllers down"
                    ) from error
                raise


def _pids(pids: schema.Pids | None) -> list[tuple[str, str]]:
    if pids is None or pids.limit is None:
        return []
    return [("pids.max", "max" if pids.limit < 0 else str(pids.limit))]


def _memory(memory: schema.Memory | None) -> list[tuple[str, str]]:
    if memory is None:
        return []
    written = []
    if memory.limit:
        written.append(("memory.max", _amount(memory.limit)))
    if memory.swap:
        written.append(("memory.swap.max", _swap(memory)))
    if memory.reservation:
        written.append(("memory.low", _amount(memory.reservation)))
    return written


def _swap(memory: schema.Memory) -> str:
    """OCI counts memory and swap together, v2 swap alone."""
    assert memory.swap is not None
    if memory.swap < 0:
        return "max"
    if not memory.limit or memory.limit < 0:
        raise InvalidSpec("linux.resources.memory.swap: a limit of swap needs a limit of memory")
    if memory.swap < memory.limit:
        raise InvalidSpec("linux.resources.memory.swap: must be at least memory.limit, which it includes")
    return str(memory.swap - memory.limit)


def _cpu(cpu: schema.Cpu | None) -> list[tuple[str, str]]:
    if cpu is None:
        return []
    written = []
    if cpu.shares:
        written.append(("cpu.weight", str(weight_of(cpu.shares))))
    if cpu.quota or cpu.period:
        quota = "max" if not cpu.quota or cpu.quota < 0 else str(cpu.quota)
        written.append(("cpu.max", f"{quota} {cpu.period or DEFAULT_PERIOD}"))
    if cpu.burst is not None:
        written.append(("cpu.max.burst", str(cpu.burst)))
    if cpu.idle is not None:
        written.append(("cpu.idle", str(cpu.idle)))
    if cpu.cpus:
        written.append(("cpuset.cpus", cpu.cpus))
    if cpu.mems:
        written.append(("cpuset.mems", cpu.mems))
    return written


def _hugepages(limits: list[schema.HugepageLimit]) -> list[tuple[str, str]]:
    return [(f"hugetlb.{item.page_size}{kind}.max", str(item.limit)) for item in limits for kind in ("", ".rsvd")]


def _amount(value: int) -> str:
    return "max" if value < 0 else str(value)
