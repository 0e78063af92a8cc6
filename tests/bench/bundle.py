"""One OCI bundle for everybody: the mounts, devices, masks and capabilities of an ordinary container."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from runtime.spec import defaults, schema

BUSYBOX = "/bin/busybox"
NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")
STAMP = "/stamp"
"""A program that says when it ran its first instruction (``stamp.c``)."""


def spec(arguments: list[str]) -> schema.Spec:
    """An ordinary container's config.json."""
    capabilities = list(defaults.CAPABILITIES)
    shm = schema.Mount(
        destination="/dev/shm", type="tmpfs", source="shm", options=["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
    )
    return schema.Spec(
        oci_version="1.0.2",
        root=schema.Root(path="rootfs"),
        hostname="bench",
        process=schema.Process(
            args=arguments,
            env=["PATH=/bin"],
            no_new_privileges=True,
            capabilities=schema.Capabilities(bounding=capabilities, effective=capabilities, permitted=capabilities),
            rlimits=[schema.Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=1024)],
        ),
        mounts=[*defaults.mounts(), shm],
        linux=schema.Linux(
            namespaces=[schema.Namespace(type=kind) for kind in NAMESPACES],
            masked_paths=list(defaults.MASKED_PATHS),
            readonly_paths=list(defaults.READONLY_PATHS),
            devices=defaults.devices(),
        ),
    )


def write(directory: Path, wanted: schema.Spec) -> Path:
    """Make a bundle in *directory*, with busybox and the stamp in its root."""
    binaries = directory / "rootfs" / "bin"
    binaries.mkdir(parents=True)
    shutil.copy(BUSYBOX, binaries / "busybox")
    for name in ("sh", "true", "sleep", "cat"):
        os.link(binaries / "busybox", binaries / name)
    compile_stamp(directory / "rootfs" / STAMP.strip("/"))
    document = msgspec.to_builtins(wanted)
    # Peers make the six default devices themselves and want their order of fields to be complete.
    document["linux"].pop("devices", None)
    document["process"].setdefault("user", {"uid": 0, "gid": 0})
    document["process"].setdefault("cwd", "/")
    (directory / "config.json").write_text(json.dumps(document))
    return directory


def compile_stamp(output: Path) -> None:
    """A static executable of some 700 bytes."""
    flags = (
        "-std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-stack-protector -fno-pic -no-pie -static "
        "-nostdlib -fno-asynchronous-unwind-tables -Wl,--build-id=none -Wl,-z,noseparate-code -s"
    )
    source = Path(__file__).with_name("stamp.c")
    subprocess.run([os.environ.get("CC", "gcc"), *flags.split(), "-o", str(output), str(source)], check=True)


def with_shared(wanted: schema.Spec, pinned: dict[str, Path]) -> schema.Spec:
    """*wanted* in namespaces that a pod has: by type, the path of each."""
    for namespace in wanted.linux.namespaces:
        namespace.path = str(pinned.get(namespace.type, ""))
    if "uts" in pinned:
        wanted.hostname = ""
    return wanted
