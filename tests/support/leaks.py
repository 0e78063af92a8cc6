"""Whatever a test leaves behind fails it.

A census is taken before each test and compared after it: mounts, namespaces, cgroups, links, nftables
objects, open descriptors, threads, processes.  What ends by itself a moment later gets that moment; what
stays is named, removed, and the test has failed.  There is no mark that allows a leak.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kernel import mount, process
from kernel.mountinfo import parse_mountinfo
from runtime.monitor.launch import RUNNER_NAME
from runtime.monitor.spare import SOCKET
from tests.support import cgroup, wait

#: What a census holds: ("mount", its line of mountinfo), ("process", its id), ...
Found = tuple[str, str | int]
Census = frozenset[Found]

#: How long a thing may take to end by itself.
PATIENCE_SECONDS = 2.0

NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NLM_F_REQUEST_DUMP, NLMSG_ERROR, NLMSG_DONE = 12, 10, 0x301, 2, 3
#: Of tables, chains and rules: the request (NFT_MSG_GET...) and the attributes that together are a name.
NFTABLES = {"table": (1, (1,)), "chain": (4, (1, 3)), "rule": (7, (1, 2, 3))}


def take() -> Census:
    """Everything that this run holds now."""
    pids = processes()
    return frozenset(
        [
            *(("process", pid) for pid in pids),
            *(("cgroup", group) for group in cgroups()),
            *(("mount", line) for line in mounts()),
            *(("namespace", name) for name in namespaces(pids)),
            *(("link", name) for _, name in socket.if_nameindex()),
            *nftables(),
            *(("descriptor", name) for name in descriptors()),
            *(("thread", thread.name) for thread in threading.enumerate()),
        ]
    )


def settle(before: Census, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Return when nothing is left that was not in *before*; AssertionError that names the rest when it stays."""
    left: Census = frozenset()

    def is_clean() -> bool:
        nonlocal left
        reap(before)
        left = take() - before
        return not left

    if is_clean():
        return
    gc.collect()  # an owner in a reference cycle closes its descriptor only now
    with suppress(AssertionError):
        wait.until(is_clean, patience_seconds)
    if left:
        report = "\n".join(f"  {kind} {_describe(kind, what)}" for kind, what in sorted(left, key=str))
        discard(left)
        raise AssertionError(f"left behind:\n{report}")


def reap(before: Census) -> None:
    """Wait for the children that have ended, orphans of daemons among them, save those that lived in *before*.

    Those are a fixture's, which asks for their exit status itself.
    """
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ("process", ended.si_pid) in before:
                return
            os.waitid(os.P_PID, ended.si_pid, os.WEXITED)


def processes() -> set[int]:
    """The living processes of this run, apart from pytest and the spare runner of each monitor.

    They cannot leave our cgroup tree, so its lists are all: ten times cheaper than a walk through /proc.
    """
    if not _has_own_tree():
        return set()
    living = cgroup.all_processes(cgroup.ROOT) - {os.getpid()}
    return {pid for pid in living if not (_is_spare(pid) and process.parent_of(pid) in living)}


def _is_spare(pid: int) -> bool:
    """Whether it is a runner that waits for its program: a monitor always has one, and with each launch another."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{SOCKET}").startswith("socket:") and RUNNER_NAME in process.executable_of(pid)
    except OSError:
        return False


def cgroups() -> list[str]:
    """The cgroups of this run, apart from the one pytest is in."""
    return [group for group in cgroup.walk(cgroup.ROOT) if group != f"{cgroup.ROOT}/pytest"] if _has_own_tree() else []


def mounts() -> list[str]:
    """The lines of our mountinfo: a mount that changed its flags or propagation counts as a new one."""
    return Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()


def namespaces(pids: set[int]) -> set[str]:
    """The namespaces that a process of the run or a thread of pytest is in (a pin is a mount, a handle a descriptor)."""
    tasks = [f"/proc/self/task/{task}" for task in os.listdir("/proc/self/task")]
    found: set[str] = set()
    for task in [*tasks, *(f"/proc/{pid}" for pid in pids)]:
        for kind in ("mnt", "net", "pid", "ipc", "uts", "user", "cgroup"):
            with suppress(OSError):  # it has ended meanwhile
                found.add(os.readlink(f"{task}/ns/{kind}"))
    return found


def descriptors() -> Iterator[str]:
    """Number and file of every open descriptor of pytest."""
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            yield f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}"


def nftables() -> Iterator[Found]:
    """The tables, chains and rules of our network namespace, asked of the kernel without the nft program."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
        for kind, (request, parts) in NFTABLES.items():
            call = NFNL_SUBSYS_NFTABLES << 8 | request
            kernel.send(struct.pack("=IHHII4x", 20, call, NLM_F_REQUEST_DUMP, 1, 0))
            for message in _dump(kernel):
                attributes = _attributes(message)
                yield kind, " ".join(attributes[part] for part in parts)


def _dump(kernel: socket.socket) -> Iterator[bytes]:
    """The payloads of one multi-part answer; none when this kernel has no nftables."""
    while True:
        answer = kernel.recv(65536)
        while answer:
            length, kind = struct.unpack_from("=IH", answer)
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                return
            yield answer[20:length]  # after nlmsghdr and nfgenmsg
            answer = answer[(length + 3) & ~3 :]


def _attributes(message: bytes) -> dict[int, str]:
    found = {}
    while message:
        length, number = struct.unpack_from("=HH", message)
        value = message[4:length]
        text = value.rstrip(b"\0").decode(errors="backslashreplace")
        found[number & 0x3FFF] = text if text.isprintable() else f"handle {int.from_bytes(value, 'big')}"
        message = message[(length + 3) & ~3 :]
    return found


def discard(left: Census) -> None:
    """End, unmount and remove what was left, so that it does not meet the next test."""
    by_kind: dict[str, list[str | int]] = {}
    for kind, what in left:
        by_kind.setdefault(kind, []).append(what)
    for pid in by_kind.get("process", ()):
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    for line in sorted(map(str, by_kind.get("mount", ())), key=lambda line: int(line.split(" ")[0]), reverse=True):
        with suppress(OSError):
            mount.unmount(parse_mountinfo(line)[0].target)
    for group in by_kind.get("cgroup", ()):
        cgroup.remove(str(group))


def _describe(kind: str, what: str | int) -> str:
    if kind != "process":
        return str(what)
    try:
        command = Path(f"/proc/{what}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        parent = Path(f"/proc/{what}/stat").read_text().rpartition(")")[2].split()[1]
        return f"{what}, child of {parent}: {command or Path(f'/proc/{what}/comm').read_text().strip()}"
    except OSError:
        return f"{what}, which has just ended"


def _has_own_tree() -> bool:
    return os.path.isdir(f"{cgroup.ROOT}/pytest")
