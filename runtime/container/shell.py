"""A container's start as a shell script: the same by hand, with unshare, mount, mknod, ip, prlimit, setpriv.

To read, and to run where the tools suffice; what none of them does is said where it is missing.  Two things are
different from a real start, and the script says so: it trusts the paths of the image, and it leaves a shell's worth of
time between two steps.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path

from kernel.capability import CAPABILITIES
from runtime.container.limits import writes
from runtime.container.options import parse_options
from runtime.container.rootfs_devices import wanted_devices
from runtime.container.sketch import sketch
from runtime.errors import InvalidSpec
from runtime.spec import schema, standard_dev

#: Of unshare(1) and nsenter(1), by the spec's name of the namespace.
_OPTIONS = {
    "pid": "--pid",
    "network": "--net",
    "mount": "--mount",
    "ipc": "--ipc",
    "uts": "--uts",
    "cgroup": "--cgroup",
    "user": "--user",
    "time": "--time",
}
_CLOCKS = {"monotonic", "boottime"}
_TYPES = {"c": "c", "u": "c", "b": "b", "p": "p"}
#: What a bind mount is not told in the first place, but after it is there.
_OF_A_BIND = {"bind", "rbind", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"}

_HEAD = """\
#!/bin/sh
# {title}, by hand.  Written by "kernelet plan --shell"; run it as root.
#
# It does with util-linux, iproute2 and coreutils what the runtime does with system calls.  The runtime opens every path
# of the image so that it cannot lead out of it; here the image is trusted: run nobody's image with this.
set -eu
root={root}
for tool in unshare nsenter setsid mount pivot_root prlimit setpriv mknod ip findmnt hostname; do
    command -v "$tool" >/dev/null || {{ echo "$tool is missing: install util-linux, iproute2, coreutils, hostname" >&2; exit 1; }}
done
"""


def script(spec: schema.Spec, bundle: Path) -> str:
    """The commented script that starts *spec*, whose root is in *bundle*.  Raises InvalidSpec as a start would."""
    process = spec.process
    if process is None or not process.args or spec.root is None:
        raise InvalidSpec("process and root: a container needs a process to be started, and a root file system")
    root = os.path.abspath(os.path.join(bundle, spec.root.path))
    title = f"The start of {_comment(os.path.basename(os.path.abspath(bundle)))}"
    inside = [
        "set -eu",
        *_limits(process),
        *_settings(spec),
        *_root(),
        *_mounts(spec),
        *_devices(spec),
        *_hidden(spec),
        *_not_done(spec),
        *_pivot(),
        *_become(process),
    ]
    end = "INSIDE"
    while any(end in line for line in inside):  # a string of the document must not end what it stands in
        end += "_"
    lines = [
        _HEAD.format(title=title, root=shlex.quote(root)),
        *_cgroup(spec),
        "# What follows runs inside the new namespaces, as their first process.",
        f"inside=$(cat <<'{end}'",
        *inside,
        end,
        ")",
        "",
        *_enter(spec),
    ]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> str:
    """*text* where it can do no harm: on one line, behind a "#"."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def _inside(path: str) -> str:
    """A path of the container's, as a word of the shell."""
    return f'"$root"{shlex.quote(path) if path else ""}'


def _cgroup(spec: schema.Spec) -> list[str]:
    path = shlex.quote(spec.linux.cgroups_path) if spec.linux.cgroups_path.startswith("/") else "/by-hand-$$"
    limits = writes(spec.linux.resources) if spec.linux.resources is not None else []
    return [
        "# The cgroup: a directory of the v2 tree; its limits are files.",
        "tree=$(findmnt --noheadings --first-only --output TARGET --types cgroup2)",
        f'cgroup="$tree"{path}',
        'mkdir -p "$cgroup"',
        *(
            f'echo {shlex.quote(write.value)} > "$cgroup"/{shlex.quote(write.file)}  # linux.resources.{_comment(write.field)}'
            for write in limits
        ),
        *(
            ["# linux.resources.devices: a BPF program in the cgroup decides; no tool here loads one."]
            if spec.linux.resources is not None and spec.linux.resources.devices
            else []
        ),
        "",
    ]


def _enter(spec: schema.Spec) -> list[str]:
    """The outer half: namespaces that are joined, those that are new, and the shell inside."""
    kinds = {namespace.type: namespace for namespace in spec.linux.namespaces}
    user = kinds.pop("user", None)
    joined = {_OPTIONS[kind]: shlex.quote(each.path) for kind, each in kinds.items() if each.path}
    if user is not None:
        joined = {"--user": shlex.quote(user.path) if user.path else '"/proc/$holder/ns/user"', **joined}
    enter = " ".join(["nsenter", *(f"{option}={path}" for option, path in joined.items())]) if joined else ""
    clocks = [f"--{clock}={offset.secs}" for clock, offset in spec.linux.time_offsets.items() if clock in _CLOCKS]
    new = " ".join([*(_OPTIONS[kind] for kind, each in kinds.items() if not each.path), *clocks])
    return [
        *(_users(spec) if user is not None and not user.path else []),
        "# Into the cgroup first, because a cgroup namespace is rooted where its maker is; then the namespaces that exist",
        "# already, by their files; then the new ones.  --fork: a new pid namespace is for children.  setsid: no signal of",
        "# this terminal's may reach the container.",
        "status=0",
        """sh -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' sh "$cgroup" \\""",
        *([f"    {enter} \\"] if enter else []),
        f"    unshare {new} --fork --kill-child -- \\",
        '    setsid sh -c "$inside" sh "$root" || status=$?',
        'rmdir "$cgroup"',
        'exit "$status"',
    ]


def _users(spec: schema.Spec) -> list[str]:
    maps = [
        "printf '%s\\n' "
        + " ".join(shlex.quote(f"{each.container_id} {each.host_id} {each.size}") for each in ranges)
        + f" > /proc/$holder/{file}"
        for file, ranges in (("uid_map", spec.linux.uid_mappings), ("gid_map", spec.linux.gid_mappings))
    ]
    return [
        "# The user namespace comes first, for it owns all the others.  A process that only sleeps holds it open while its",
        "# maps are written from outside, whole and once; whoever enters it then is its root.",
        "unshare --user sleep infinity &",
        "holder=$!",
        "trap 'kill $holder' EXIT",
        'until [ "$(readlink "/proc/$holder/ns/user")" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done',
        *maps,
        "",
    ]


def _limits(process: schema.Process) -> list[str]:
    lines = [
        f"prlimit --pid $$ --{limit.type.removeprefix('RLIMIT_').lower()}={_limit(limit.soft)}:{_limit(limit.hard)}"
        for limit in process.rlimits
    ]
    if process.oom_score_adj is not None:
        lines.append(f"echo {process.oom_score_adj} > /proc/self/oom_score_adj")
    return ["", "# Limits, while /proc is still the host's own.", *lines] if lines else []


def _limit(value: int) -> str:
    return "unlimited" if value == 2**64 - 1 else str(value)


def _settings(spec: schema.Spec) -> list[str]:
    lines = []
    if any(namespace.type == "network" and not namespace.path for namespace in spec.linux.namespaces):
        lines.append("ip link set lo up  # a new network namespace has its loopback down")
    if spec.hostname:
        lines.append(f"hostname {shlex.quote(spec.hostname)}")
    if spec.domainname:
        lines.append(f"domainname {shlex.quote(spec.domainname)}")
    for key, value in spec.linux.sysctl.items():
        lines.append(f"echo {shlex.quote(value)} > {shlex.quote('/proc/sys/' + key.replace('.', '/'))}")
    return ["", "# What belongs to the new namespaces.", *lines] if lines else []


def _root() -> list[str]:
    return [
        "",
        "# The root: bound upon itself, because only a mount can become /.  unshare has made all mounts private.",
        "root=$1",
        'mount --rbind "$root" "$root"',
        'mount --make-rprivate "$root"',
    ]


def _mounts(spec: schema.Spec) -> list[str]:
    lines = ["", "# The mounts of the spec, in its order."]
    for mount in spec.mounts:
        options = parse_options(mount.options)
        target = _inside(mount.destination)
        if mount.type == "bind" or options.is_bind:
            propagation = options.propagation[-1][0] if options.propagation else None
            lines += _bind(mount, target, recursive=options.is_recursive, propagation=propagation)
        else:
            kind = "cgroup2" if mount.type == "cgroup" else mount.type
            flags = f" -o {shlex.quote(','.join(mount.options))}" if mount.options else ""
            lines += [f"mkdir -p {target}", f"mount -t {shlex.quote(kind)}{flags} {shlex.quote(mount.source or 'none')} {target}"]
    if spec.root is not None and spec.root.readonly:
        lines.append('mount -o remount,bind,ro "$root"')
    return lines


def _bind(mount: schema.Mount, target: str, *, recursive: bool, propagation: str | None) -> list[str]:
    source, above = shlex.quote(mount.source), _inside(os.path.dirname(mount.destination.rstrip("/")))
    flags = [option for option in mount.options if option not in _OF_A_BIND]
    lines = [
        f"if [ -d {source} ]; then mkdir -p {target}; else mkdir -p {above}; touch {target}; fi",
        f"mount --{'rbind' if recursive else 'bind'} {source} {target}",
        f"mount --make-{'r' if recursive else ''}{propagation or 'private'} {target}",
    ]
    if flags:
        lines.append(f"mount -o {shlex.quote(','.join(['remount', 'bind', *flags]))} {target}")
    return lines


def _devices(spec: schema.Spec) -> list[str]:
    """The nodes on a /dev of the container's own."""
    if not any(mount.destination.rstrip("/") == "/dev" and mount.type == "tmpfs" for mount in spec.mounts):
        return []
    has_users = any(namespace.type == "user" for namespace in spec.linux.namespaces)
    lines = ["", "# Devices, on a /dev that is the container's own."]
    if has_users:
        lines.append("# In a user namespace nobody may make one: those of the node are bound.")
    for device in wanted_devices(spec).values():
        path = _inside(device.path)
        mode = 0o666 if device.file_mode is None else stat.S_IMODE(device.file_mode)
        numbers = "" if device.type == "p" else f" {device.major} {device.minor}"
        if os.path.dirname(device.path) != "/dev":
            lines.append(f"mkdir -p {_inside(os.path.dirname(device.path))}")
        if has_users:
            lines.append(f"touch {path}; mount --bind {shlex.quote(device.path)} {path}")
            continue
        lines.append(f"mknod -m {mode:o} {path} {_TYPES[device.type]}{numbers}")
        if device.uid or device.gid:
            lines.append(f"chown -h {device.uid}:{device.gid} {path}")
    return lines + [f'ln -s {target} "$root"/dev/{name}' for target, name in standard_dev.LINKS]


def _hidden(spec: schema.Spec) -> list[str]:
    """Read-only and masked paths: mounts over them."""
    masked = sketch(spec).facts.masked
    functions = [
        ("protect", 'mount --rbind "$1" "$1"; mount -o remount,bind,ro "$1"', bool(spec.linux.readonly_paths)),
        ("hide_file", 'mount --bind /dev/null "$1"; mount -o remount,bind,ro "$1"', any(not kind for _, kind in masked)),
        (
            "hide_directory",
            'mount -t tmpfs -o nosuid,nodev,noexec,nr_inodes=2,mode=0555 none "$1"; mount -o remount,bind,ro "$1"',
            any(kind for _, kind in masked),
        ),
    ]
    lines = [f'{name}() {{ if [ -e "$1" ]; then {body}; fi; }}' for name, body, is_used in functions if is_used]
    lines += [f"protect {_inside(path)}" for path in spec.linux.readonly_paths]
    lines += [f"hide_{'directory' if kind else 'file'} {_inside(path)}" for path, kind in masked]
    return ["", "# What of the kernel's must not be changed, and what must not be seen.", *lines] if lines else []


def _not_done(spec: schema.Spec) -> list[str]:
    """What the spec asks and no tool does, by the name that it has in the document."""
    process = spec.process or schema.Process()
    asked = {
        "hooks": any(getattr(spec.hooks, name) for name in spec.hooks.__struct_fields__),
        "linux.seccomp (no tool loads a filter: Seccomp in /proc/self/status stays 0)": spec.linux.seccomp is not None,
        "linux.personality (setarch)": spec.linux.personality is not None,
        "process.scheduler (chrt)": process.scheduler is not None,
        "process.ioPriority (ionice)": process.io_priority is not None,
        "process.terminal (start this under script)": process.terminal,
        "linux.memoryPolicy (numactl)": spec.linux.memory_policy is not None,
        "linux.netDevices (ip link set NAME netns PID)": bool(spec.linux.net_devices),
        "linux.intelRdt": spec.linux.intel_rdt is not None,
        "linux.rootfsPropagation (mount --make-...)": spec.linux.rootfs_propagation not in ("", "private", "rprivate"),
        "linux.timeOffsets: nanoseconds": any(offset.nanosecs for offset in spec.linux.time_offsets.values()),
    }
    lines = [f"#   {name}" for name, is_asked in asked.items() if is_asked]
    keyring = "#   a key ring of its own (keyctl session)"
    return ["", "# What a start does and this script does not:", *lines, keyring]


def _pivot() -> list[str]:
    return [
        "",
        "# The pivot: the container's root becomes / and the host's tree goes.  The shell stays in the host's /usr, to which",
        "# nothing but its working directory leads from then on: the last tools come from there, with their libraries.",
        "cd /usr",
        'for libraries in "lib/$(uname -m)-linux-gnu" lib64 lib; do [ -e "$libraries/libc.so.6" ] && break; done',
        'loader=$(echo "$libraries"/ld-linux-*.so.*)',
        'pivot_root "$root" "$root"',
        '"$loader" --library-path "$libraries" bin/umount --lazy /',
    ]


def _become(process: schema.Process) -> list[str]:
    """The last line: the user, the capabilities, the environment, the program."""
    user, capabilities = process.user, process.capabilities or schema.Capabilities()
    groups = ",".join(map(str, user.additional_gids))
    words = [
        '"$loader" --library-path "$libraries" bin/setpriv',
        f"--reuid={user.uid} --regid={user.gid} {f'--groups={groups}' if groups else '--clear-groups'}",
        f"--bounding-set={_set(capabilities.bounding)}",
        f"--inh-caps={_set(capabilities.inheritable)}",
        f"--ambient-caps={_set(capabilities.ambient)}",
        *(["--no-new-privs"] if process.no_new_privileges else []),
        *([f"--apparmor-profile={shlex.quote(process.apparmor_profile)}"] if process.apparmor_profile else []),
        *([f"--selinux-label={shlex.quote(process.selinux_label)}"] if process.selinux_label else []),
        '"$loader" --library-path "$libraries" bin/env',
        f"--ignore-environment --chdir={shlex.quote(process.cwd)}",
        *map(shlex.quote, process.env),
        " ".join(map(shlex.quote, process.args)),
    ]
    return [
        "",
        "# Become the user, with these capabilities and no others, in the working directory, and become the program.",
        f"umask {0o022 if user.umask is None else user.umask:04o}",
        "exec " + " \\\n    ".join(words),
    ]


def _set(names: Iterable[str]) -> str:
    """setpriv's spelling of exactly these capabilities."""
    known = sorted((name for name in set(names) if name in CAPABILITIES), key=CAPABILITIES.__getitem__)
    return ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in known)])
