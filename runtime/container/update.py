"""Other limits for a cgroup that is in use: all of them, or what was there before.

The kernel takes limits a file at a time, and may refuse the fifth.  So what the files say is read first and written back
when one is refused.  A limit of memory below what is used would not be refused but end in the killing of processes:
it is refused here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kernel.cgroup import Cgroup
from runtime.container import resources as limits
from runtime.container.limits import Write, writes
from runtime.spec import schema

#: What a new cgroup says: no limit.  In the order in which the kernel takes them.
DEFAULTS = {
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.low": "0",
    "cpu.weight": "100",
    "cpu.max": "max 100000",
    "cpuset.cpus": "",
    "cpuset.mems": "",
}
#: Files with a line for each device, and what a device has without one.
_BY_DEVICE = {
    "io.max": "rbps=max wbps=max riops=max wiops=max",
    "io.weight": "default",
    "io.bfq.weight": "default",
    "rdma.max": "hca_handle=max hca_object=max",
}
#: Some values are refused while another holds (a weight of what is idle, a burst above the quota): then after that one.
_PASSES = 2

logger = logging.getLogger(__name__)


def careful(cgroup: Cgroup, resources: schema.Resources) -> schema.Resources:
    """*resources*, of which a limit of memory that is lower than what holds must be above what is used (InvalidSpec)."""
    memory = resources.memory
    if memory is None or memory.limit is None or memory.limit <= 0:
        return resources
    holds = cgroup.number("memory.max")
    is_lower = holds is None or memory.limit < holds
    return msgspec.structs.replace(resources, memory=msgspec.structs.replace(memory, check_before_update=is_lower))


@contextlib.contextmanager
def all_or_nothing(cgroup: Cgroup, resources: schema.Resources) -> Iterator[None]:
    """For a block that lets *resources* hold for *cgroup*: when it fails, the files say again what they said before."""
    files = dict.fromkeys(file for write in writes(resources) for file in _files_of(write))
    before = {file: text for file in files if (text := _read(cgroup, file)) is not None}
    try:
        yield
    except BaseException:
        _put_back(cgroup, before)
        raise


def settle(cgroup: Cgroup, tree: Path, resources: schema.Resources) -> None:
    """Let *resources* hold and nothing else that an update can have changed: for one that was interrupted.

    Raises what ``resources.apply`` raises.
    """
    given = {file for write in writes(resources) for file in _files_of(write)}
    for file, value in DEFAULTS.items():
        if file not in given and _read(cgroup, file) is not None:
            cgroup.write(file, value or "\n")
    limits.apply(cgroup, tree, resources)


def _files_of(write: Write) -> list[str]:
    return [write.file, *(file for other in write.instead or () for file in _files_of(other))]


def _read(cgroup: Cgroup, file: str) -> str | None:
    """None when it is not there, or cannot be read."""
    try:
        return cgroup.read(file)
    except OSError:
        return None


def _put_back(cgroup: Cgroup, before: dict[str, str]) -> None:
    """Write what is not as it was; what cannot be written is said in the log: the first failure is the one to raise."""
    failures: dict[str, OSError] = {}
    for _ in range(_PASSES):
        failures.clear()
        for file, text in reversed(before.items()):
            now = _read(cgroup, file)
            if now is None or now == text:
                continue
            try:
                for line in _lines(file, text, now):
                    cgroup.write(file, line)
            except OSError as error:
                failures[file] = error
    for file, failure in failures.items():
        logger.warning("%s/%s: what was there before a failed update could not be put back: %s", cgroup.path, file, failure)


def _lines(file: str, text: str, now: str) -> list[str]:
    """The writes that make *file* say *text* again; an empty write would be none."""
    if file not in _BY_DEVICE:
        return [text or "\n"]
    was = {line.split()[0] for line in text.splitlines()}
    added = [line.split()[0] for line in now.splitlines() if line.split()[0] not in was]
    return [*text.splitlines(), *(f"{device} {_BY_DEVICE[file]}" for device in added)]
