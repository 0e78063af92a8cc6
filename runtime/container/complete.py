"""Fill in what only the node knows: the namespaces to join, the pod's files, the user's numbers."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import msgspec

from kernel.cgroup import find_tree
from kernel.fd import Fd
from runtime.container.state import Container
from runtime.container.user import resolve_user
from runtime.errors import InvalidSpec
from runtime.paths import Paths
from runtime.sandbox import files
from runtime.sandbox.state import Sandbox
from runtime.spec import schema


def complete_spec(paths: Paths, sandbox: Sandbox, container: Container, root: Fd, target_pid: int | None) -> schema.Spec:
    """*container*'s spec with nothing left open; *target_pid* is the process whose pid namespace is joined, if one is.

    The user that is found is written down in *container*.
    """
    spec = _own(container.config.spec)
    if spec.process is None:
        raise InvalidSpec("process: a container needs a process to be started")
    container.user, container.home = resolve_user(root, container.config)
    spec.process.user, spec.process.terminal = container.user, container.config.tty
    spec.process.env = with_home(spec.process.env, container.home)
    spec.process.rlimits = with_open_files(spec.process.rlimits)
    spec.hostname = ""  # the pod's UTS namespace has its name
    spec.linux.namespaces = _namespaces(paths, sandbox, container, target_pid)
    spec.linux.uid_mappings, spec.linux.gid_mappings = sandbox.config.uid_mappings, sandbox.config.gid_mappings
    spec.mounts = _with_pod_files(paths, sandbox, spec)
    if container.config.host_cgroups:
        _show_all_cgroups(spec.mounts)
    spec.linux.cgroups_path = container.cgroup
    return spec


def _own(spec: schema.Spec) -> schema.Spec:
    """A copy that may be changed, all but its seccomp profile: that has hundreds of rules, and stays as it is."""
    linux = spec.linux
    bare = msgspec.structs.replace(spec, linux=msgspec.structs.replace(linux, seccomp=None))
    copy = msgspec.convert(msgspec.to_builtins(bare), schema.Spec)
    copy.linux.seccomp = linux.seccomp
    return copy


def with_home(env: list[str], home: str) -> list[str]:
    """*env* with HOME, if it has none, as login(1) would set it."""
    return env if any(entry.startswith("HOME=") for entry in env) else [*env, f"HOME={home}"]


def with_open_files(rlimits: list[schema.Rlimit]) -> list[schema.Rlimit]:
    """*rlimits* with the daemon's limit of descriptors, if there is none: the monitor's is as high as it goes.

    A soft limit of half a million makes programs that close all descriptors one by one hang for minutes.
    """
    if any(rlimit.type == "RLIMIT_NOFILE" for rlimit in rlimits):
        return rlimits
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [*rlimits, schema.Rlimit(type="RLIMIT_NOFILE", soft=soft, hard=hard)]


def _namespaces(paths: Paths, sandbox: Sandbox, container: Container, target_pid: int | None) -> list[schema.Namespace]:
    pins = paths.run_sandbox(sandbox.id)
    users = [_at("user", pins / "user")] if sandbox.config.uid_mappings else []
    found = [*users, schema.Namespace(type="mount"), _at("uts", pins / "uts")]
    if not container.config.host_cgroups:
        found.append(schema.Namespace(type="cgroup"))
    if sandbox.config.namespaces.network == "pod":
        found.append(_at("network", pins / "net"))
    if sandbox.config.namespaces.ipc == "pod":
        found.append(_at("ipc", pins / "ipc"))
    if container.config.pid_mode == "pod":
        found.append(_at("pid", pins / "pid"))
    elif container.config.pid_mode == "container":
        found.append(schema.Namespace(type="pid"))
    elif container.config.pid_mode == "target":
        found.append(_at("pid", Path(f"/proc/{target_pid}/ns/pid")))
    return found


def _show_all_cgroups(mounts: list[schema.Mount]) -> None:
    """A new cgroup2 without a cgroup namespace would show the same, and reset the options of the node's."""
    for mount in mounts:
        if mount.type == "cgroup2":
            mount.type, mount.source = "bind", os.fspath(find_tree())
            mount.options = ["rbind", "rprivate", *mount.options]


def _at(kind: str, path: Path) -> schema.Namespace:
    return schema.Namespace(type=kind, path=os.fspath(path))


def _with_pod_files(paths: Paths, sandbox: Sandbox, spec: schema.Spec) -> list[schema.Mount]:
    """The pod's files where the request mounts none of its own; parents before children."""
    taken = {mount.destination.rstrip("/") for mount in spec.mounts}
    kept = paths.sandbox(sandbox.id)
    shm = files.shm_directory(paths, sandbox.id) if sandbox.config.namespaces.ipc == "pod" else Path("/dev/shm")
    offered = {
        "/etc/hosts": kept / "hosts",
        "/etc/hostname": kept / "hostname",
        "/etc/resolv.conf": kept / "resolv.conf",
        "/dev/shm": shm,
    }
    # The pod's other containers see them too: a container that may not write its root may not write them either.
    access = "ro" if spec.root is not None and spec.root.readonly else "rw"
    added = [
        schema.Mount(
            destination=target,
            type="bind",
            source=os.fspath(source),
            options=["rbind", "rprivate", "rw" if target == "/dev/shm" else access],
        )
        for target, source in offered.items()
        if target not in taken
    ]
    return sorted((*spec.mounts, *added), key=lambda mount: len(Path(mount.destination).parts))
