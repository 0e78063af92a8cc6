"""The CRI's resources to OCI's (pure).  Zero and empty mean "not given" here, and None there."""

from __future__ import annotations

from cri.api import api_pb2 as api
from runtime.container.limits import DEFAULT_PERIOD
from runtime.errors import InvalidArgument
from runtime.spec import schema

#: proc(5), oom_score_adj.
OOM_SCORES = (-1000, 1000)
#: What an int64 holds.
LARGEST = (1 << 63) - 1


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


def merged(holds: api.LinuxContainerResources, asked: api.LinuxContainerResources) -> api.LinuxContainerResources:
    """*holds* with what *asked* says laid over it; zero and empty are "as it is".

    What may be swapped stays as it is when memory alone is changed, though its limit is told as a sum with memory's.
    """
    after = api.LinuxContainerResources()
    after.CopyFrom(holds)
    for field, value in asked.ListFields():
        if not field.is_repeated:
            setattr(after, field.name, value)
    after.unified.update(asked.unified)
    sizes = {limit.page_size: limit.limit for limit in (*holds.hugepage_limits, *asked.hugepage_limits)}
    del after.hugepage_limits[:]
    after.hugepage_limits.extend(api.HugepageLimit(page_size=size, limit=limit) for size, limit in sizes.items())
    if asked.memory_limit_in_bytes and not asked.memory_swap_limit_in_bytes:
        after.memory_swap_limit_in_bytes = _swap_kept(holds, asked.memory_limit_in_bytes)
    return after


def added(first: api.LinuxContainerResources, second: api.LinuxContainerResources) -> api.LinuxContainerResources:
    """What both together take, as a pod's containers and the overhead of running them; no limit of the first is none of both."""
    total = api.LinuxContainerResources()
    total.CopyFrom(first)
    for name in ("cpu_shares", "memory_limit_in_bytes", "memory_swap_limit_in_bytes"):
        one, other = getattr(first, name), getattr(second, name)
        setattr(total, name, _amount(name, one + other) if one > 0 and other > 0 else one)
    if first.cpu_quota > 0 and second.cpu_quota > 0:
        share = second.cpu_quota * (first.cpu_period or DEFAULT_PERIOD) // (second.cpu_period or DEFAULT_PERIOD)
        total.cpu_quota = _amount("cpu_quota", first.cpu_quota + share)
    return total


def _swap_kept(holds: api.LinuxContainerResources, limit: int) -> int:
    """The sum of memory and swap, with *limit* for memory and the swap that there was; 0 is none given, -1 no limit."""
    before, both = holds.memory_limit_in_bytes, holds.memory_swap_limit_in_bytes
    if both <= 0 or limit < 0 or before <= 0:
        return min(both, 0) if both <= 0 else 0
    return _amount("memory_swap_limit_in_bytes", limit + both - before)


def _amount(name: str, value: int) -> int:
    """*value*, if a message holds it.  Raises InvalidArgument."""
    if value > LARGEST:
        raise InvalidArgument(f"resources: {name}: together {value}, which is more than there can be of anything")
    return value


def oom_score(wish: api.LinuxContainerResources) -> int | None:
    """The score by which the kernel chooses whom to kill; None when it is not given.  Raises InvalidArgument."""
    if not OOM_SCORES[0] <= wish.oom_score_adj <= OOM_SCORES[1]:
        raise InvalidArgument(f"resources: oom_score_adj {wish.oom_score_adj} is not between {OOM_SCORES[0]} and {OOM_SCORES[1]}")
    return wish.oom_score_adj or None
