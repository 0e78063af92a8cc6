"""Wild documents: a valid config.json with some of its values replaced, structure-aware; and broken bytes.

Every field of the schema can be hit.  Values are of the right type (sizes at the edges of what the kernel counts
with, names that exist and names that do not, paths that lead out) and of wrong ones.

Some values are left out, because they would be no attack on the runtime but an order to change the node that the
tests run on: a root of "/", a file system of the node's mounted anew, a mount namespace that is somebody else's.
"""

from __future__ import annotations

import copy
import types
import typing
from typing import Any

import msgspec
from hypothesis import strategies as st

from runtime.spec import schema
from tests.safety.bundle import ordinary

Json = Any
Place = tuple[str | int, ...]

NUMBERS = (0, 1, -1, 7, 255, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63))
PATHS = (
    *("/", "", "/tmp", "/etc/passwd", "/nonexistent", "/proc", "/proc/self/fd/9", "/proc/1/root", "/dev", "/dev/null"),
    *("..", "../..", "/tmp/..", "/a/b/c/d", "//", "/link", "/link/x", "/loop", "/etc/passwd/x", "relative/path", "/" + "x" * 300),
)
TEXTS = ("", "x", "a b", "ä", "\0", "\n", "a\0b", "%s", "-", "x" * 5000, "0", "max", "\U0001f600")
#: By field: words that mean something there; some that do not come with ``TEXTS``.
WORDS: dict[str, tuple[str, ...]] = {
    "ociVersion": ("1.0.0", "1.3.0", "1", "2.0.0", "0.1", "1.x"),
    "options": (
        *("ro", "rw", "nosuid", "nodev", "noexec", "bind", "rbind", "rro", "rnoexec", "private", "rslave", "shared"),
        *("unbindable", "noatime", "strictatime", "size=1k", "mode=755", "mode=x", "uid=0", "tmpcopyup", "idmap", "ridmap"),
        *(
            "nr_inodes=1",
            "sync",
            "newinstance",
            "ptmxmode=0666",
            "gid=5",
            "context=x",
            "lazytime",
            "dirsync",
            "mand",
            "nosymfollow",
            "huge=always",
            "",
        ),
    ),
    "bounding": ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_FLY", "CAP_SYS_RESOURCE", "chown"),
    "args": ("true", "/bin/true", "nonexistent", "/etc/passwd", "/tmp", "."),
    "env": ("PATH=/bin", "PATH=", "PATH", "=", "A=b", "PATH=:::", "LD_PRELOAD=/x"),
    "policy": ("SCHED_OTHER", "SCHED_FIFO", "SCHED_BATCH", "SCHED_IDLE", "SCHED_DEADLINE", "SCHED_ISO"),
    "class": ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"),
    "initial": ("0", "0-1", "9999", "1-0", "0,0", "-"),
    "defaultAction": ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE"),
    "architectures": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_NONE"),
    "names": ("read", "execve", "getpid", "mkdir", "nonexistent"),
    "op": ("SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_GT"),
    "rootfsPropagation": ("rprivate", "rslave", "rshared", "unbindable", "shared"),
    "domain": ("LINUX", "LINUX32"),
    "mode": ("MPOL_DEFAULT", "MPOL_BIND", "MPOL_LOCAL", "MPOL_PREFERRED"),
    "nodes": ("0", "0-1", "99"),
    "cgroupsPath": ("", "fuzz", "/fuzz/x", "../fuzz", "/", "..", "/pytest", "a:b:c", "/" + "x" * 300),
    "access": ("rwm", "r", "m", "x", ""),
    "pageSize": ("2MB", "1GB", "3KB"),
    "cpus": ("0", "0-1", "x"),
    "flags": (
        *("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SCHED_FLAG_RESET_ON_FORK", "MPOL_F_STATIC_NODES"),
        *("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
    ),
    "hostname": ("host", "h" * 64, "h" * 65, "a.b", "-"),
    "closID": ("a", "..", "a/b"),
}
WORDS |= dict.fromkeys(("effective", "permitted", "inheritable", "ambient"), WORDS["bounding"])
WORDS |= {"action": WORDS["defaultAction"], "final": WORDS["initial"], "domainname": WORDS["hostname"], "mems": WORDS["cpus"]}
KEYS: dict[str, tuple[str, ...]] = {
    "sysctl": ("net.ipv4.ip_forward", "net.core.somaxconn", "kernel.msgmax", "kernel.core_pattern", "net..x", ""),
    "timeOffsets": ("monotonic", "boottime", "realtime", ""),
    "unified": ("memory.max", "pids.max", "cgroup.procs", "../x", "cgroup.freeze", "nonexistent.file", "hugetlb.2MB.max", ""),
    "netDevices": ("eth9", "lo", "a/b", "x" * 20, ""),
    "rdma": ("mlx5_0", ""),
    "annotations": ("a", "", "org.example", "\0"),
}
#: Of types "tmpfs" and the like; those that the node has one of are not mounted anew by a test.
FILE_SYSTEMS = ("tmpfs", "bind", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "ramfs", "none", "", "nofs")
SOURCES = ("data", "file", "nonexistent", "rootfs/etc", "rootfs/link", "tmpfs", "proc", "", "x" * 5000, "a\0b", "rootfs")
ROOTS = ("rootfs", "./rootfs", "nonexistent", "config.json", "", "rootfs/link", "rootfs/\0", "data")
TYPES: dict[str, tuple[str, ...]] = {
    "Mount": FILE_SYSTEMS,
    "Namespace": ("pid", "network", "ipc", "uts", "cgroup", "user", "time", "mood", ""),
    "Device": ("c", "b", "u", "p", "x", ""),
    "DeviceRule": ("a", "c", "b", "x"),
    "Rlimit": ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_STACK", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_X", ""),
}

numbers = st.sampled_from(NUMBERS) | st.integers(-10, 70_000)
texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=12)
scalars: st.SearchStrategy[Json] = st.none() | st.booleans() | numbers | texts | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=5
)


def strings(owner: str, field: str) -> st.SearchStrategy[str]:
    """Texts for the field *field* of the structure *owner*."""
    if owner == "Root" and field == "path":
        return st.sampled_from(ROOTS)
    if owner == "Mount" and field == "source":
        return st.sampled_from(SOURCES)
    if owner == "Mount" and field == "type":
        return st.sampled_from(FILE_SYSTEMS)
    if owner == "Namespace" and field == "path":
        return st.sampled_from(("", "/nonexistent", "/proc/self/ns/net", "/proc/self/ns/ipc", "/etc/passwd", "relative"))
    if owner == "Hook" and field == "path":
        return st.sampled_from(("/bin/true", "/bin/false", "/nonexistent", "true", "", "/etc/passwd"))
    if field == "type":
        return st.sampled_from(TYPES[owner])
    if field in ("path", "destination", "cwd", "maskedPaths", "readonlyPaths", "listenerPath"):
        return st.sampled_from(PATHS) | texts
    known = WORDS.get(field)
    return texts if known is None else st.sampled_from(known) | texts


def of_type(kind: Any, owner: str, field: str) -> st.SearchStrategy[Json]:
    """Values of *kind* as JSON has them."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return of_type(next(each for each in inner if each is not type(None)), owner, field)
    if origin is list:
        return st.lists(of_type(inner[0], owner, field), max_size=3)
    if origin is dict:
        keys = st.sampled_from(KEYS.get(field, ("",))) | texts
        return st.dictionaries(keys, of_type(inner[1], owner, field), max_size=3)
    if kind is bool:
        return st.booleans()
    if kind is int:
        return numbers
    if kind is str:
        return strings(owner, field)
    return st.deferred(lambda: structures(kind))


def structures(kind: type[msgspec.Struct]) -> st.SearchStrategy[Json]:
    """Objects of *kind* with some of its fields."""
    fields = msgspec.structs.fields(kind)
    required = {each.encode_name: of_type(each.type, kind.__name__, each.encode_name) for each in fields if each.required}
    optional = {each.encode_name: of_type(each.type, kind.__name__, each.encode_name) for each in fields if not each.required}
    return st.fixed_dictionaries(required, optional=optional)


def targets(kind: Any, place: Place = (), owner: str = "", field: str = "") -> list[tuple[Place, Any, str, str]]:
    """Every place of a document below *kind*, with what belongs there."""
    found = [(place, kind, owner, field)] if place else []
    inner = [each for each in typing.get_args(kind) if each is not type(None)]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = inner[0]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for each in msgspec.structs.fields(kind):
            found += targets(each.type, (*place, each.encode_name), kind.__name__, each.encode_name)
    return found


TARGETS = targets(schema.Spec)
#: What may be replaced by a value of any type: nothing in here is a path of the node's.
_ORDERS = {("root", "path"), ("root",), ("mounts",), ("linux", "namespaces"), ("hooks",), ("linux",), ()}


def skeleton() -> Json:
    """The valid document that all begins with."""
    document = msgspec.to_builtins(ordinary(["/bin/true"]))
    document["process"]["cwd"] = "/"
    document["linux"]["cgroupsPath"] = "fuzz"
    return document


@st.composite
def mutations(draw: st.DrawFn) -> tuple[Place, Json]:
    """One place, and what is put there; Ellipsis takes it out."""
    place, kind, owner, field = draw(st.sampled_from(TARGETS))
    choice = draw(st.integers(0, 9))
    if choice == 0:
        return place, ...
    if choice == 1 and place not in _ORDERS:
        return place, draw(anything)
    return place, draw(of_type(kind, owner, field))


@st.composite
def documents(draw: st.DrawFn, most: int = 4) -> tuple[Json, list[tuple[Place, Json]]]:
    """A document, and what was done to it."""
    document, done = skeleton(), []
    for place, value in draw(st.lists(mutations(), min_size=1, max_size=most)):
        if put(document, place, value):
            done.append((place, value))
    return keep_the_node(document), done


def put(document: Json, place: Place, value: Json) -> bool:
    """Put *value* to *place* of *document*; lists keep what they have in front."""
    here = document
    for name in place[:-1]:
        if not isinstance(here, dict):
            return False
        here = here.setdefault(name, {})
    if not isinstance(here, dict):
        return False
    if value is ...:
        here.pop(place[-1], None)
    elif place in (("mounts",), ("linux", "devices"), ("linux", "namespaces")) and isinstance(value, list):
        here[place[-1]] = [*here.get(place[-1], []), *value]
    else:
        here[place[-1]] = copy.deepcopy(value)
    return True


def keep_the_node(document: Json) -> Json:
    """Without a namespace of its own in which to mount, a root, or the cgroup: that is the node's own that is meant."""
    linux = document.get("linux")
    if isinstance(linux, dict) and isinstance(linux.get("namespaces"), list):
        kept = [each for each in linux["namespaces"] if not (isinstance(each, dict) and each.get("type") == "mount")]
        linux["namespaces"] = [{"type": "mount"}, *kept]
    elif "linux" in document:
        document["linux"] = {"namespaces": [{"type": "mount"}, {"type": "pid"}], **(linux if isinstance(linux, dict) else {})}
    return document


def broken(text: bytes) -> st.SearchStrategy[bytes]:
    """*text* with bytes changed, taken out or put in."""
    places = st.integers(0, len(text) - 1)

    def edit(change: tuple[int, int, bytes]) -> bytes:
        return text[: change[0]] + change[2] + text[change[0] + change[1] :]

    return st.builds(edit, st.tuples(places, st.integers(0, 60), st.binary(max_size=8)))
