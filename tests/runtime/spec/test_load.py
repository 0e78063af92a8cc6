"""config.json: every fault has the name of its field, and nothing but InvalidSpec comes out."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidSpec
from runtime.spec import schema
from runtime.spec.linux_checks import PROPAGATIONS
from runtime.spec.load import SIZE_LIMIT_BYTES, load, validate

DOCUMENT: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": True},
    "process": {
        "user": {"uid": 1000, "gid": 1000, "additionalGids": [5]},
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin", "EMPTY="],
        "cwd": "/",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096}],
        "oomScoreAdj": 999,
    },
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
    "linux": {
        "namespaces": [{"type": "mount"}, {"type": "network", "path": "/run/netns/a"}, {"type": "user"}, {"type": "time"}],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}],
        "maskedPaths": ["/proc/kcore"],
        "resources": {"memory": {"limit": 1 << 30}, "unified": {"memory.oom.group": "1"}},
    },
    "annotations": {"a": "b"},
    "unknownProperty": {"is": "ignored"},
}


def changed(path: str, value: object) -> bytes:
    """DOCUMENT with one value changed; *path* is dotted, numbers are list indices."""
    document = copy.deepcopy(DOCUMENT)
    *parents, last = path.split(".")
    here: Any = document
    for name in parents:
        here = here[int(name) if isinstance(here, list) else name]
    here[int(last) if isinstance(here, list) else last] = value
    return json.dumps(document).encode()


def test_a_whole_document_is_read() -> None:
    spec = load(json.dumps(DOCUMENT).encode())
    assert spec.process is not None
    assert spec.process.user.additional_gids == [5]
    assert spec.linux.uid_mappings[0].host_id == 100000
    assert spec.linux.resources == schema.Resources(memory=schema.Memory(limit=1 << 30), unified={"memory.oom.group": "1"})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("process.user.uid", "x", "process.user.uid: expected int, got str"),
        ("process.user.uid", -1, "process.user.uid: -1 is not between 0 and 4294967294"),
        ("process.user.gid", 2**32 - 1, "process.user.gid: 4294967295 is not between 0 and 4294967294"),
        ("process.user.additionalGids.0", -5, "process.user.additionalGids[0]: -5 is not between 0 and 4294967294"),
        ("process.user", {"umask": 0o1000}, "process.user.umask: 512 is not between 0 and 511"),
        ("process.env.1", None, "process.env[1]: expected str, got null"),
        ("process.env.1", "A=\0", "process.env[1]: holds a NUL byte"),
        ("process.args", [], "process.args: empty, there is nothing to run"),
        ("process.cwd", "tmp", "process.cwd: 'tmp' is not an absolute path"),
        ("process.oomScoreAdj", 1001, "process.oomScoreAdj: 1001 is not between -1000 and 1000"),
        ("process.rlimits.0.type", "RLIMIT_X", "process.rlimits[0].type: Linux has no 'RLIMIT_X'"),
        ("process.rlimits.0.soft", 4097, "process.rlimits[0].soft: 4097 is not between 0 and 4096"),
        (
            "process.rlimits",
            [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2,
            "process.rlimits[1].type: 'RLIMIT_CORE' is given twice",
        ),
        ("root", {}, "root: object missing required field path"),
        ("root", {"path": ""}, "root.path: empty"),
        ("mounts.0.destination", "", "mounts[0].destination: empty"),
        ("mounts.0.destination", "/a\0b", "mounts[0].destination: holds a NUL byte"),
        ("linux.namespaces.1.type", "mount", "linux.namespaces[1].type: 'mount' is given twice"),
        ("linux.namespaces.1.type", "moon", "linux.namespaces[1].type: Linux has no 'moon' namespace"),
        ("linux.namespaces.1.path", "x", "linux.namespaces[1].path: 'x' is not an absolute path"),
        ("linux.uidMappings.0.size", 0, "linux.uidMappings[0].size: 0 is not between 1 and 4294867295"),
        ("linux.devices.0.type", "x", "linux.devices[0].type: 'x' is none of c, b, u, p"),
        ("linux.devices.0.major", -1, "linux.devices[0].major: -1 is not between 0 and 4294967295"),
        ("linux.maskedPaths.0", "proc", "linux.maskedPaths[0]: 'proc' is not an absolute path"),
        ("annotations", {"a\0": "b"}, "annotations: the key 'a\\x00': holds a NUL byte"),
        ("annotations", {"a": 1}, "annotations[...]: expected str, got int"),
        ("hooks", {"prestart": [{"path": "x"}]}, "hooks.prestart[0].path: 'x' is not an absolute path"),
        (
            "hooks",
            {"createRuntime": [{"path": "/x", "timeout": 1}, {"path": "/x", "timeout": 0}]},
            "hooks.createRuntime[1].timeout: 0 is not a number of seconds greater than zero",
        ),
        ("hooks", {"poststop": [{}]}, "hooks.poststop[0]: object missing required field path"),
        ("process.consoleSize", {"height": 70000, "width": 80}, "process.consoleSize.height: 70000 is not between 0 and 65535"),
        ("process.user.umask", 0o1000, "process.user.umask: 512 is not between 0 and 511"),
        ("process.scheduler", {"nice": 1}, "process.scheduler: object missing required field policy"),
        (
            "process.scheduler",
            {"policy": "SCHED_BEST"},
            "process.scheduler.policy: 'SCHED_BEST' is none of SCHED_BATCH, SCHED_DEADLINE, SCHED_FIFO, SCHED_IDLE, SCHED_ISO, "
            "SCHED_OTHER, SCHED_RR",
        ),
        ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 20}, "process.scheduler.nice: 20 is not between -20 and 19"),
        ("process.scheduler", {"policy": "SCHED_FIFO"}, "process.scheduler.priority: 0 is not between 1 and 99"),
        (
            "process.scheduler",
            {"policy": "SCHED_IDLE", "priority": 3},
            "process.scheduler.priority: SCHED_IDLE has none, it is for SCHED_FIFO and SCHED_RR",
        ),
        (
            "process.scheduler",
            {"policy": "SCHED_RR", "priority": 3, "period": 5},
            "process.scheduler.period: SCHED_RR has none, it is for SCHED_DEADLINE",
        ),
        *(
            ("process.scheduler", {"policy": "SCHED_DEADLINE", **times}, f"process.scheduler.{message}")
            for times, message in (
                (
                    {"deadline": 5},
                    "runtime: sched_setattr: `SCHED_DEADLINE` requires `runtime`; "
                    "sched_setattr: `SCHED_DEADLINE` runtime must be greater than 0",
                ),
                ({"runtime": 5000}, "deadline: sched_setattr: `SCHED_DEADLINE` requires `deadline`"),
                (
                    {"runtime": 1023, "deadline": 5000},
                    f"runtime: sched_setattr: `SCHED_DEADLINE` runtime 1023 must be between 1024 and {2**63 - 1}",
                ),
                (
                    {"runtime": 5001, "deadline": 5000},
                    "runtime: sched_setattr: `SCHED_DEADLINE` runtime 5001 must be <= deadline 5000",
                ),
                (
                    {"runtime": 5000, "deadline": 7000, "period": 6999},
                    "deadline: sched_setattr: `SCHED_DEADLINE` deadline 7000 must be <= period 6999",
                ),
            )
        ),
        (
            "process.ioPriority",
            {"class": "IOPRIO_CLASS_NONE", "priority": 1},
            "process.ioPriority.class: 'IOPRIO_CLASS_NONE' is none of IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE, IOPRIO_CLASS_RT",
        ),
        (
            "process.ioPriority",
            {"class": "IOPRIO_CLASS_BE", "priority": 8},
            "process.ioPriority.priority: 8 is not between 0 and 7",
        ),
        (
            "process.execCPUAffinity",
            {"final": "1,x"},
            "process.execCPUAffinity.final: '1,x' is not a list of numbers and ranges such as 0-3,7",
        ),
        (
            "process.execCPUAffinity",
            {"initial": "3-1"},
            "process.execCPUAffinity.initial: '3-1' does not run upwards, to 8191 at most",
        ),
        ("linux.namespaces.0", {"type": "time"}, "linux.namespaces[3].type: 'time' is given twice"),
        ("linux.namespaces.1", {"type": "net"}, "linux.namespaces[1].type: Linux has no 'net' namespace"),
        ("linux.namespaces.1.path", "netns", "linux.namespaces[1].path: 'netns' is not an absolute path"),
        ("linux.gidMappings", [], "linux.gidMappings: the new user namespace of linux.namespaces needs them"),
        (
            "linux.namespaces.2",
            {"type": "pid"},
            "linux.uidMappings: the container has no user namespace for them in linux.namespaces",
        ),
        (
            "linux.uidMappings",
            [{"containerID": 0, "hostID": 5, "size": 10}, {"containerID": 10, "hostID": 14, "size": 2}],
            "linux.uidMappings[1].hostID: the 2 ids from 14 overlap those of an earlier range",
        ),
        (
            "linux.uidMappings",
            [{"containerID": 5, "hostID": 5, "size": 10}, {"containerID": 0, "hostID": 50, "size": 6}],
            "linux.uidMappings[1].containerID: the 6 ids from 0 overlap those of an earlier range",
        ),
        (
            "linux.uidMappings",
            [{"containerID": 0, "hostID": 4294967290, "size": 6}],
            "linux.uidMappings[0].size: 6 is not between 1 and 5",
        ),
        (
            "mounts.0.uidMappings",
            [{"containerID": 0, "hostID": 5, "size": 10}],
            "mounts[0].gidMappings: missing, and the other one is there",
        ),
        ("linux.timeOffsets", {"realtime": {"secs": 1}}, "linux.timeOffsets: 'realtime' is none of boottime, monotonic"),
        (
            "linux.timeOffsets",
            {"boottime": {"nanosecs": 1000000000}},
            "linux.timeOffsets.boottime.nanosecs: 1000000000 is not between 0 and 999999999",
        ),
        ("linux.rootfsPropagation", "loose", f"linux.rootfsPropagation: 'loose' is none of {', '.join(sorted(PROPAGATIONS))}"),
        ("linux.personality", {"domain": "BSD"}, "linux.personality.domain: 'BSD' is none of LINUX, LINUX32"),
        (
            "linux.personality",
            {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]},
            "linux.personality.flags: 'ADDR_NO_RANDOMIZE', and no flag is known",
        ),
        (
            "linux.memoryPolicy",
            {"mode": "MPOL_BIND"},
            "linux.memoryPolicy.nodes: MPOL_BIND mode requires at least 1 node but got 0",
        ),
        (
            "linux.memoryPolicy",
            {"mode": "MPOL_LOCAL", "nodes": "0"},
            "linux.memoryPolicy.nodes: MPOL_LOCAL mode requires 0 nodes but got 1",
        ),
        (
            "linux.memoryPolicy",
            {"mode": "MPOL_PREFERRED", "nodes": "a"},
            "linux.memoryPolicy.nodes: invalid memory policy nodes: 'a' is not a list of numbers and ranges such as 0-3,7",
        ),
        (
            "linux.memoryPolicy",
            {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]},
            "linux.memoryPolicy.flags: MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES exclude each other",
        ),
        ("linux.intelRdt", {"closID": "a/b"}, "linux.intelRdt.closID: 'a/b' is not the name of a directory"),
        ("linux.intelRdt", {"schemata": ["L3:0=f", "a\nb"]}, "linux.intelRdt.schemata[1]: more than one line"),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FAST"]},
            "linux.seccomp.flags[0]: 'SECCOMP_FILTER_FLAG_FAST' is none of SECCOMP_FILTER_FLAG_LOG, "
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW, SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"},
            "linux.seccomp.listenerMetadata: there is no listenerPath to send it to",
        ),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]},
            "linux.seccomp.syscalls[0].names: empty, the rule is for no call",
        ),
        ("linux.netDevices", {"..": {}}, "linux.netDevices: '..' is not the name of a network interface"),
        (
            "linux.netDevices",
            {"eth0": {"name": "a name"}},
            "linux.netDevices.eth0.name: 'a name' is not the name of a network interface",
        ),
        ("linux.netDevices", {"eth0": {"name": "x"}, "x": {}}, "linux.netDevices.x.name: 'x' is given twice"),
        ("hostname", "h" * 65, "hostname: longer than the 64 bytes that the kernel keeps"),
        ("annotations", {"": "x"}, "annotations: the empty string is no key"),
        ("ociVersion", "2.0.0", "ociVersion: '2.0.0' is not a version 1 of the specification"),
        ("ociVersion", "10.0", "ociVersion: '10.0' is not a version 1 of the specification"),
    ],
)
def test_the_wrong_field_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        load(changed(path, value))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "not a JSON document: input data was truncated"),
        (b"[]", "expected object, got array"),
        (b"{}", "object missing required field ociVersion"),
        (b'{"ociVersion": "1.0.0", "hostname": "\xff"}', "not a JSON document: 'utf-8' codec can't decode byte 0xff"),
        (b'{"ociVersion": "1.0.0", "hooks": ' + b"[" * 100_000, "not a JSON document: maximum recursion depth"),
        (b" " * (SIZE_LIMIT_BYTES + 1), f"the document has {SIZE_LIMIT_BYTES + 1} bytes"),
    ],
)
def test_what_is_no_document_is_refused(document: bytes, message: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        load(document)
    assert str(caught.value).startswith(message)


def test_a_spec_that_was_made_is_held_to_the_same() -> None:
    validate(schema.Spec(process=schema.Process(args=["a"])))
    with pytest.raises(InvalidSpec, match=r"process\.cwd"):
        validate(schema.Spec(process=schema.Process(args=["a"], cwd="")))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PLACES = [
    "ociVersion", "root", "root.path", "process", "process.user", "process.user.uid", "process.args", "process.args.0",
    "process.rlimits", "process.rlimits.0", "process.rlimits.0.hard", "process.oomScoreAdj", "mounts", "mounts.0",
    "mounts.0.options", "linux", "linux.namespaces", "linux.namespaces.0", "linux.devices.0.fileMode", "annotations",
    "linux.resources", "linux.resources.memory.limit", "linux.uidMappings.0.containerID", "unknownProperty",
]  # fmt: skip


@given(st.sampled_from(PLACES), JSON)
def test_any_value_anywhere_is_read_or_refused(place: str, value: object) -> None:
    try:
        spec = load(changed(place, value))
    except InvalidSpec as error:
        assert str(error)
    else:
        validate(spec)


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(document: bytes) -> None:
    try:
        load(document)
    except InvalidSpec as error:
        assert str(error)


def test_null_is_as_good_as_nothing_where_a_property_may_be_absent() -> None:
    document = copy.deepcopy(DOCUMENT)
    document["process"] |= {"env": None, "noNewPrivileges": None, "rlimits": None, "capabilities": {"bounding": None}}
    document["hooks"] = {"prestart": None}
    spec = load(json.dumps(document).encode())
    assert spec.process is not None
    assert (spec.process.env, spec.process.no_new_privileges, spec.process.rlimits) == ([], False, [])
    with pytest.raises(InvalidSpec, match=r"process.args\[1\]: expected str, got null"):
        load(changed("process.args.1", None))
    with pytest.raises(InvalidSpec, match=r"root: object missing required field path"):
        load(changed("root.path", None))


def test_a_user_namespace_without_maps_has_every_id_as_it_is() -> None:
    new, joined = '{"type": "user"}', '{"type": "user", "path": "/pins/user"}'
    for namespace, maps in ((new, [schema.IdMapping(container_id=0, host_id=0, size=2**32 - 1)]), (joined, [])):
        linux = load(f'{{"ociVersion": "1.0.2", "linux": {{"namespaces": [{namespace}]}}}}'.encode()).linux
        assert (linux.uid_mappings, linux.gid_mappings) == (maps, maps)
