"""A process as /proc shows it from outside, and what has changed between two looks: for lessons."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kernel.decode import capability_names
from kernel.mountinfo import Mount, load_mountinfo

_KINDS = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time")
_SETS = {"CapEff": "effective", "CapPrm": "permitted", "CapInh": "inheritable", "CapBnd": "bounding", "CapAmb": "ambient"}
_SECCOMP = {"0": "off", "1": "strict", "2": "filter"}


@dataclass(frozen=True, slots=True)
class Observation:
    """One look: each table by the name under which a difference is told."""

    pid: int
    mounts: dict[str, str]
    namespaces: dict[str, str]
    capabilities: dict[str, str]
    identity: dict[str, str]
    limits: dict[str, str]
    places: dict[str, str]
    descriptors: dict[str, str]

    def tables(self) -> dict[str, Mapping[str, str]]:
        """All of it, in the order in which it is shown."""
        return {
            "namespaces": self.namespaces,
            "mounts": self.mounts,
            "places": self.places,
            "identity": self.identity,
            "capabilities": self.capabilities,
            "limits": self.limits,
            "descriptors": self.descriptors,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """*before* is None for what is new, *after* for what is gone."""

    table: str
    name: str
    before: str | None
    after: str | None


def observe(pid: int) -> Observation | None:
    """What /proc says of process *pid* now; None when it is gone.  Takes the right to look into it."""
    base = f"/proc/{pid}"
    try:
        status = dict(_status(Path(f"{base}/status").read_text(errors="surrogateescape")))
        return Observation(
            pid=pid,
            mounts=dict(_mounts(load_mountinfo(pid))),
            namespaces=dict(_namespaces(base)),
            capabilities={name: capability_names(int(status[key], 16)) for key, name in _SETS.items()},
            identity=_identity(base, status),
            limits=dict(_limits(Path(f"{base}/limits").read_text())),
            places={name: os.readlink(f"{base}/{name}") for name in ("root", "cwd", "exe")},
            descriptors=dict(_descriptors(base)),
        )
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH, errno.EINVAL):  # EINVAL: it has ended and was not waited for yet
            return None
        raise


def changes(before: Observation, after: Observation) -> list[Change]:
    """What *after* shows that *before* did not, and the other way round; mounts in the order in which they were made."""
    found = []
    for (table, old), new in zip(before.tables().items(), after.tables().values(), strict=True):
        for name in dict.fromkeys((*old, *new)):
            if old.get(name) != new.get(name):
                found.append(Change(table, name, old.get(name), new.get(name)))
    return found


def _namespaces(base: str) -> Iterator[tuple[str, str]]:
    """The number of each: /proc says "pid:[4026531836]"."""
    for kind in _KINDS:
        if os.path.lexists(f"{base}/ns/{kind}"):  # older kernels have fewer
            yield kind, os.readlink(f"{base}/ns/{kind}").partition("[")[2].rstrip("]")


def _mounts(rows: list[Mount]) -> Iterator[tuple[str, str]]:
    """By the kernel's number, which a mount keeps when it is moved: where it is, then type, what of it, options."""
    for row in rows:
        part = "" if row.root == "/" else f"{row.root} of "
        shared = ", shared" if row.is_shared else ""
        yield f"#{row.mount_id}", f"{row.target}  {part}{row.filesystem} {row.source} ({','.join(row.options)}{shared})"


def _status(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _identity(base: str, status: Mapping[str, str]) -> dict[str, str]:
    with contextlib.suppress(OSError):
        score = Path(f"{base}/oom_score_adj").read_text().strip()
    session = Path(f"{base}/stat").read_text().rpartition(")")[2].split()[3]
    return {
        "name": status["Name"],
        "pid": ", inside ".join(status.get("NSpid", status["Pid"]).split()),
        "session": session,
        "user": _ids(status["Uid"]),
        "group": _ids(status["Gid"]),
        "groups": status["Groups"] or "none",
        "umask": status.get("Umask", "?"),
        "no new privileges": "yes" if status.get("NoNewPrivs") == "1" else "no",
        "system call filter": _SECCOMP.get(status.get("Seccomp", "0"), "?"),
        "out-of-memory score": score,
    }


def _ids(line: str) -> str:
    """Real, effective, saved, and of the file system; one number when they are the same."""
    numbers = line.split()
    return numbers[0] if len(set(numbers)) == 1 else " ".join(numbers)


def _limits(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines()[1:]:
        soft, hard = line[26:47].strip(), line[47:68].strip()
        yield line[:26].strip().removeprefix("Max ").lower(), f"{soft}, {hard} at most"


def _descriptors(base: str) -> Iterator[tuple[str, str]]:
    for number in sorted(os.listdir(f"{base}/fd"), key=int):
        with contextlib.suppress(FileNotFoundError):
            yield number, os.readlink(f"{base}/fd/{number}")
