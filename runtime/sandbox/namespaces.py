"""The namespaces that the containers of a pod share, kept alive by names: ``net``, ``ipc``, ``uts``, ``user`` in its run dir.

A pin is a bind mount of /proc/thread-self/ns/KIND, made by a thread that exists only to leave the
node's namespaces.  No process holds them; a pause container is not needed.  With a user namespace, that one
comes first and a process in it makes the others: a network namespace obeys the root of its maker's user namespace.

A mount below a shared directory (systemd makes / shared) appears in every mount namespace that listens,
that of each container included, and a pin there keeps a dead pod's network alive.  So the directory of
the run dirs is a private mount of its own (``prepare``): *measured*, 0.5 ms, once.  A pod's three namespaces take 0.9 ms,
removing the pins 0.1 (with the run dir on tmpfs, as /run is).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kernel import foreign_namespace, mount, namespace
from kernel.fd import Fd, open_path
from kernel.mountinfo import load_mountinfo
from kernel.netlink import Netlink
from runtime.errors import InvalidArgument
from runtime.paths import Paths

KINDS: tuple[namespace.Kind, ...] = ("net", "ipc", "uts")

#: What may be pinned: the pid namespace too, by whoever starts the process that it needs (``lifecycle``).
PINS: tuple[namespace.Kind, ...] = (*KINDS, "pid", "user")

#: What a pod's own network begins with: no port needs privileges, and everybody may ping (as containerd and CRI-O do).
NETWORK_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

IPC_SYSCTLS = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)



@dataclass(frozen=True, slots=True)
class UserNamespace:
    """A pod's own user namespace, and how many groups it maps: no setting can speak of others."""

    file: Fd
    group_count: int


#: A key's parts become a path below /proc/sys: no separator, no "..", nothing that is not a name (CVE-2022-0811).
SYSCTL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)+", re.ASCII)


def prepare(paths: Paths) -> None:
    """Make the directory of the run dirs a private mount; done already, it only sees to that."""
    if not _is_mounted(paths.run_sandboxes):
        mount.bind(paths.run_sandboxes, paths.run_sandboxes, recursive=False)
    mount.set_propagation(paths.run_sandboxes, "private")


def release(paths: Paths) -> None:
    """Undo ``prepare``; raises OSError (EBUSY) while something is still pinned below, so that nothing is let go by accident."""
    while _is_mounted(paths.run_sandboxes):
        mount.unmount(paths.run_sandboxes, detach=False)


def create(
    paths: Paths,
    sandbox_id: str,
    *,
    network: bool,
    ipc: bool,
    hostname: str | None,
    sysctls: Mapping[str, str],
    user: UserNamespace | None = None,
) -> None:
    """Make a pod's namespaces and pin them: network and IPC as asked, UTS if there is a *hostname*; *user* owns them then.

    In the new network the loopback is up.  Raises InvalidArgument, naming the key, for a sysctl that does
    not belong to a namespace made here, or that the kernel refuses; then nothing is left.
    """
    _check_hostname(hostname)
    wanted = {**(_network_sysctls(user) if network else {}), **sysctls}
    for key, value in wanted.items():
        _check_sysctl(key, value, network=network, ipc=ipc)
    made: dict[namespace.Kind, bool] = {"net": network, "ipc": ipc, "uts": hostname is not None}
    kinds = [kind for kind in KINDS if made[kind]]
    directory = paths.run_sandbox(sandbox_id)
    directory.mkdir(mode=0o700, exist_ok=True)

    def work() -> None:
        if user is None:
            namespace.unshare(sum(namespace.FLAGS[kind] for kind in kinds))
        else:
            _enter_new(user.file, kinds, wanted)
            namespace.pin(user.file, directory / "user")
        if hostname is not None:
            namespace.set_hostname(hostname)
        if network:
            with Netlink() as here:
                here.set_up("lo")
        for key, value in wanted.items() if user is None else ():
            _write_sysctl(key, value)
        for kind in kinds:
            namespace.pin(kind, directory / kind)

    try:
        namespace.in_new_thread(work)
    except BaseException:
        remove(paths, sandbox_id)
        raise


def _network_sysctls(user: UserNamespace | None) -> dict[str, str]:
    if user is None:
        return NETWORK_SYSCTLS
    return {**NETWORK_SYSCTLS, "net.ipv4.ping_group_range": f"0 {user.group_count - 1}"}


def _enter_new(user: Fd, kinds: list[namespace.Kind], sysctls: Mapping[str, str]) -> None:
    """Have *user* own new namespaces of *kinds* with *sysctls*, which its root alone may write, and enter them."""
    settings = {_path_of(key): (key, value) for key, value in sysctls.items()}
    try:
        made = foreign_namespace.new_namespaces(user, kinds, {path: value for path, (_, value) in settings.items()})
    except OSError as error:
        if error.filename in settings:
            raise _refused(*settings[error.filename], error) from error
        raise
    for kind, file in made.items():
        with file:
            namespace.set_namespace(file, kind)


def pinned(paths: Paths, sandbox_id: str) -> dict[namespace.Kind, Path]:
    """The namespaces of a pod that are pinned, and where."""
    directory = paths.run_sandbox(sandbox_id)
    return {kind: directory / kind for kind in PINS if namespace.is_pin(directory / kind)}


def remove(paths: Paths, sandbox_id: str) -> None:
    """Unpin a pod's namespaces, which end when no process is left in them; what is gone already is no error."""
    directory = paths.run_sandbox(sandbox_id)
    for kind in PINS:
        while namespace.is_pin(directory / kind):
            mount.unmount(directory / kind)
        (directory / kind).unlink(missing_ok=True)
    remove_run_directory(paths, sandbox_id)


def remove_run_directory(paths: Paths, sandbox_id: str) -> None:
    """Remove a pod's run dir once nothing is in it; who comes last does it."""
    with contextlib.suppress(FileNotFoundError):
        try:
            paths.run_sandbox(sandbox_id).rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def _is_mounted(directory: Path) -> bool:
    resolved = str(directory.resolve())
    return any(row.target == resolved for row in load_mountinfo("thread-self"))


def _check_hostname(hostname: str | None) -> None:
    if hostname is not None and (not hostname or len(hostname.encode()) > 64 or not hostname.isprintable()):
        raise InvalidArgument(f"host name {hostname!r}: must be 1 to 64 printable characters (HOST_NAME_MAX)")


def _check_sysctl(key: str, value: str, *, network: bool, ipc: bool) -> None:
    if not SYSCTL_KEY.fullmatch(key):
        raise InvalidArgument(f"sysctl {key!r}: not a name of dot-separated parts")
    if not value.isprintable() and not value.replace("\t", " ").isprintable():
        raise InvalidArgument(f"sysctl {key}: its value has control characters in it")
    if key.startswith("net."):
        owner, is_made = "network", network
    elif key in IPC_SYSCTLS or key.startswith("fs.mqueue."):
        owner, is_made = "IPC", ipc
    else:
        raise InvalidArgument(f"sysctl {key}: belongs to the node, not to a namespace of the pod")
    if not is_made:
        raise InvalidArgument(f"sysctl {key}: the pod shares the node's {owner} namespace, which is not changed for a pod")


def _write_sysctl(key: str, value: str) -> None:
    try:
        with open_path(_path_of(key), os.O_WRONLY) as file:
            os.write(file.fileno(), value.encode())
    except OSError as error:
        raise _refused(key, value, error) from error


def _path_of(key: str) -> str:
    return os.fspath(Path("/proc/sys", *key.split(".")))


def _refused(key: str, value: str, error: OSError) -> InvalidArgument:
    if isinstance(error, FileNotFoundError):
        return InvalidArgument(f"sysctl {key}: there is none of this name in the pod's namespaces")
    return InvalidArgument(f"sysctl {key}: the kernel refuses {value!r}: {error.strerror}")
