"""The CRI's resources to OCI's (pure).  Zero and empty mean "not given" here, and None there."""

from __future__ import annotations

from cri.api import api_pb2 as api
from runtime.errors import InvalidArgument
from runtime.spec import schema


def resources(wish: api.LinuxContainerResources) -> schema.Resources:
    """What the cgroup is to hold to.  Raises InvalidArgument where memory and swap contradict."""
    return schema.Resources(
        memory=_memory(wish),
        cpu=_cpu(wish),
        hugepage_limits=[schema.HugepageLimit(page_size=limit.page_size, limit=limit.limit) for limit in wish.hugepage_limits],
        unified=dict(wish.unified),
    )


def _memory(wish: api.LinuxContainerResources) -> schema.Memory | None:
    """Limit and swap; the swap limit counts memory too, as cgroup v1 did.

    A limit without a word about swap gets none: a container that swaps hides that its limit is too
    small.  -1 is without limit.
    """
    limit, swap = wish.memory_limit_in_bytes, wish.memory_swap_limit_in_bytes
    if limit < -1 or swap < -1:
        raise InvalidArgument(f"resources: memory limit {limit} and swap limit {swap}: less than -1")
    if not limit and not swap:
        return None
    if swap > 0 and limit <= 0:
        raise InvalidArgument("resources: memory_swap_limit_in_bytes counts memory too and needs memory_limit_in_bytes")
    if 0 < swap < limit:
        raise InvalidArgument(f"resources: memory_swap_limit_in_bytes {swap} counts memory too, of which {limit} is given")
    return schema.Memory(limit=limit or None, swap=swap or (limit if limit > 0 else None))


def _cpu(wish: api.LinuxContainerResources) -> schema.Cpu | None:
    if wish.cpu_shares < 0 or wish.cpu_period < 0 or wish.cpu_quota < -1:
        raise InvalidArgument("resources: negative cpu shares, period or quota")
    cpu = schema.Cpu(
        shares=wish.cpu_shares or None,
        quota=wish.cpu_quota or None,
        period=wish.cpu_period or None,
        cpus=wish.cpuset_cpus,
        mems=wish.cpuset_mems,
    )
    return None if cpu == schema.Cpu() else cpu
