"""``update``: other limits for a running container.

What is asked for is laid over what holds: a period without a quota keeps the quota, more memory keeps the sum of
memory and swap.  Only the groups of limits that are asked for are written; what fails half-way is taken back.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runtime.container import device_filter, resources
from runtime.container.update import all_or_nothing
from runtime.errors import ContainerNotRunning, InvalidArgument, InvalidSpec, KerneletError, Unsupported
from runtime.oci.directory import STOPPED, Container
from runtime.oci.flags import TEXT, Parsed
from runtime.oci.request import Request
from runtime.spec import schema

FLAGS = {
    "resources r": TEXT,
    **dict.fromkeys(("blkio-weight", "cpu-period", "cpu-quota", "cpu-burst", "cpu-share", "cpu-idle"), TEXT),
    **dict.fromkeys(("cpu-rt-period", "cpu-rt-runtime", "cpuset-cpus", "cpuset-mems", "pids-limit"), TEXT),
    **dict.fromkeys(("memory", "memory-reservation", "memory-swap", "kernel-memory", "kernel-memory-tcp"), TEXT),
    **dict.fromkeys(("l3-cache-schema", "mem-bw-schema"), TEXT),
}
USAGE = "[--resources FILE|-] [--memory BYTES] [--cpu-quota USEC] [--pids-limit N] ... ID"
#: Where the record keeps what holds now, as JSON; without it that is what config.json says.
RECORDED = "resources"
#: A container's specification has a few KiB of this.
SIZE_LIMIT = 1 << 20

_CPU = {
    "cpu-period": "period",
    "cpu-quota": "quota",
    "cpu-burst": "burst",
    "cpu-share": "shares",
    "cpu-idle": "idle",
    "cpu-rt-period": "realtime_period",
    "cpu-rt-runtime": "realtime_runtime",
}
_MAY_BE_NEGATIVE = {"cpu-quota", "cpu-rt-runtime", "cpu-idle", "pids-limit"}
_MEMORY = {
    "memory": "limit",
    "memory-swap": "swap",
    "memory-reservation": "reservation",
    "kernel-memory": "kernel",
    "kernel-memory-tcp": "kernel_tcp",
}
#: Groups that are written as they are asked for.
_WHOLE = ("pids", "block_io", "hugepage_limits", "network", "rdma")
#: Fields that are one file together, or a sum of each other, or one void while the other holds.
_TOGETHER = ({"quota", "period"}, {"idle", "shares"}, {"limit", "swap"})
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"-?[0-9]+", re.ASCII)
_Model = TypeVar("_Model", bound=schema.Model)


def run(request: Request) -> int:
    request.check_count(1)
    flags = request.flags
    asked = load(flags.text("resources")) if flags.has("resources") else from_flags(flags)
    schemas = (flags.text("l3-cache-schema"), flags.text("mem-bw-schema"))
    with request.container() as container:
        if container.status() == STOPPED:
            raise ContainerNotRunning(f"update container {container.id}: container not running")
        update(container, asked)
        if any(schemas):
            _update_intel_rdt(container, *schemas)
    return 0


def load(source: str) -> schema.Resources:
    """The resources in the file *source*, "-" for stdin.  Raises InvalidSpec, naming the wrong field."""
    document = sys.stdin.buffer.read(SIZE_LIMIT) if source == "-" else Path(source).read_bytes()[:SIZE_LIMIT]
    try:
        return msgspec.json.decode(document, type=schema.Resources)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSpec(f"--resources {source}: {error}") from None


def from_flags(flags: Parsed) -> schema.Resources:
    """The resources that *flags* name.  Raises InvalidArgument."""
    cpu: dict[str, Any] = {field: _number(flags, name) for name, field in _CPU.items() if flags.text(name)}
    cpu |= {field: flags.text(name) for name, field in (("cpuset-cpus", "cpus"), ("cpuset-mems", "mems")) if flags.text(name)}
    memory: dict[str, Any] = {field: _size(name, flags.text(name)) for name, field in _MEMORY.items() if flags.text(name)}
    found: dict[str, Any] = {}
    if cpu:
        found["cpu"] = schema.Cpu(**cpu)
    if memory:
        found["memory"] = schema.Memory(**memory)
    if flags.text("blkio-weight"):
        found["block_io"] = schema.BlockIo(weight=_number(flags, "blkio-weight"))
    if flags.text("pids-limit"):
        found["pids"] = schema.Pids(limit=_number(flags, "pids-limit"))
    return schema.Resources(**found)


def update(container: Container, asked: schema.Resources) -> None:
    """Let *asked* hold for *container*, and remember it.  Raises what ``resources.apply`` raises; the old limits hold then."""
    before = _recorded(container)
    after = merge(before, asked)
    wanted, was = only(after, asked), only(before, asked)
    if wanted == schema.Resources() and not asked.devices:
        return
    if container.cgroup is None:
        raise Unsupported(f"update container {container.id}: it has no cgroup of its own that could be limited")
    tree = Path(container.record.tree)
    from runtime.oci import scopes

    with all_or_nothing(container.cgroup, wanted):
        try:
            if container.record.extra:
                scopes.limit(container, wanted)
            resources.apply(container.cgroup, tree, wanted)
            if asked.devices:
                device_filter.apply(container.cgroup, schema.Linux(resources=asked))
        except (KerneletError, OSError):
            with contextlib.suppress(KerneletError, OSError):  # the first failure is the one to tell
                if container.record.extra:
                    scopes.limit(container, was)
            raise
    container.record.extra[RECORDED] = msgspec.json.encode(after).decode()
    container.save()


def merge(before: schema.Resources, asked: schema.Resources) -> schema.Resources:
    """*before* with what *asked* gives laid over it."""
    after = _laid_over(before, asked)
    after.devices = asked.devices or before.devices
    if asked.memory is not None and after.memory is not None:
        if asked.memory.limit == -1 and asked.memory.swap is None:
            after.memory.swap = 0  # with all memory free the old sum would be no limit, but an error
        after.memory.check_before_update = asked.memory.check_before_update  # about this update, not about the next
    return after


def only(limits: schema.Resources, asked: schema.Resources) -> schema.Resources:
    """Of *limits* what *asked* gives, and what is one file or one sum with it.

    The rest is let be: somebody may have written it since, by ``unified`` or by hand.
    """
    found: dict[str, Any] = {name: getattr(limits, name) for name in _WHOLE if getattr(asked, name)}
    for group, kind in (("cpu", schema.Cpu), ("memory", schema.Memory)):
        given, holds = getattr(asked, group), getattr(limits, group)
        if given is None or holds is None:
            continue
        names = {field.name for field in msgspec.structs.fields(kind) if getattr(given, field.name) not in (None, "")}
        for together in _TOGETHER:
            names |= together if names & together else set()
        found[group] = kind(**{name: getattr(holds, name) for name in names if hasattr(holds, name)})
    unified = {name: limits.unified[name] for name in asked.unified if name in limits.unified}
    return schema.Resources(**found, unified=unified)


def _laid_over(old: _Model, new: _Model) -> _Model:
    changes: dict[str, Any] = {}
    for field in msgspec.structs.fields(old):
        was, given = getattr(old, field.name), getattr(new, field.name)
        if given is None or given == "" or given in ([], {}):
            continue
        if isinstance(given, schema.Model) and was is not None:
            given = _laid_over(was, given)
        elif isinstance(given, list):
            given = list({**{_name(item): item for item in was}, **{_name(item): item for item in given}}.values())
        elif isinstance(given, dict):
            given = {**was, **given}
        changes[field.name] = given
    return msgspec.structs.replace(old, **changes)


def _name(item: schema.Model) -> tuple[object, ...]:
    """What one of a list is about: a device, a page size.  Rules of devices are all different."""
    if isinstance(item, schema.HugepageLimit):
        return (item.page_size,)
    if isinstance(item, schema.WeightDevice | schema.ThrottleDevice):
        return item.major, item.minor
    return (id(item),)


def _recorded(container: Container) -> schema.Resources:
    text = container.record.extra.get(RECORDED)
    if text is not None:
        return msgspec.json.decode(text, type=schema.Resources)
    return container.spec().linux.resources or schema.Resources()


def _update_intel_rdt(container: Container, l3_cache_schema: str, mem_bw_schema: str) -> None:
    from runtime.container import intel_rdt

    group = container.record.extra.get(intel_rdt.RECORDED)
    if group is None:
        raise Unsupported("updating a non-existent Intel RDT configuration is not supported")
    intel_rdt.write_schemata(Path(group), schema.IntelRdt(l3_cache_schema=l3_cache_schema, mem_bw_schema=mem_bw_schema))


#: Of a number or a size: 2^64 has twenty digits.
_LONGEST = 24


def _number(flags: Parsed, name: str) -> int:
    text = flags.text(name)
    if not _NUMBER.fullmatch(text) or len(text) > _LONGEST or (text.startswith("-") and name not in _MAY_BE_NEGATIVE):
        raise InvalidArgument(f'invalid value for {name}: "{text[:80]}" is not a number that it may be')
    return int(text)


def _size(name: str, text: str) -> int:
    """Bytes of "64m", "1.5GiB" or "4096", binary all; -1 is no limit."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > _LONGEST:
        raise InvalidArgument(f'invalid value for {name}: "{text[:80]}" is not a size such as 64m, 1g or 4096')
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))
