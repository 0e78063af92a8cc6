"""A bundle to attack with: busybox and an ordinary container's spec, both to be changed by the test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from runtime.spec import defaults, schema
from tests.support.image import BUSYBOX, DIRECTORIES, GROUP, PASSWD, PATH, applets

NAMESPACES = ("pid", "network", "ipc", "uts", "mount", "cgroup")


class Bundle:
    """*directory* with ``rootfs`` and ``config.json`` in it; *spec* is what the document will say."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rootfs = directory / "rootfs"
        self.spec = ordinary(["true"])
        make_rootfs(self.rootfs)

    @property
    def process(self) -> schema.Process:
        assert self.spec.process is not None
        return self.spec.process

    def script(self, text: str) -> None:
        """Let the container run *text* in its shell."""
        self.process.args = ["sh", "-c", text]

    def remove(self, *names: str) -> None:
        """Take *names* out of the root file system, whatever they are."""
        for name in names:
            place = self.rootfs / name
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)
            else:
                place.unlink()

    def link(self, name: str, target: str) -> None:
        """Put a symlink in the place of *name*."""
        place = self.rootfs / name
        if place.is_symlink() or place.exists():
            self.remove(name)
        place.symlink_to(target)

    def mount(self, source: Path | str, destination: str, *options: str) -> None:
        """Bind *source* of the host to *destination*."""
        wish = schema.Mount(destination=destination, type="bind", source=str(source), options=["rbind", "rprivate", *options])
        self.spec.mounts.append(wish)

    def without(self, *destinations: str) -> None:
        """Leave out the mounts at and below *destinations*."""
        prefixes = tuple(f"{destination}/" for destination in destinations)
        self.spec.mounts = [each for each in self.spec.mounts if not f"{each.destination}/".startswith(prefixes)]

    def write(self) -> Path:
        """Write config.json, as it is now; returns its place."""
        place = self.directory / "config.json"
        place.write_bytes(msgspec.json.encode(self.spec))
        return place


def ordinary(arguments: list[str]) -> schema.Spec:
    """The spec of an ordinary container that has namespaces of its own, and no network but lo."""
    capabilities = list(defaults.CAPABILITIES)
    return schema.Spec(
        oci_version="1.2.0",
        root=schema.Root(path="rootfs"),
        process=schema.Process(
            args=arguments,
            env=[PATH],
            capabilities=schema.Capabilities(bounding=capabilities, effective=capabilities, permitted=capabilities),
            rlimits=[schema.Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=1024)],
        ),
        mounts=defaults.mounts(),
        linux=schema.Linux(
            namespaces=[schema.Namespace(type=kind) for kind in NAMESPACES],
            masked_paths=list(defaults.MASKED_PATHS),
            readonly_paths=list(defaults.READONLY_PATHS),
            devices=defaults.devices(),
        ),
    )


def make_rootfs(directory: Path) -> None:
    """A small Linux in *directory*: Debian's static busybox under all its names."""
    directory.mkdir(parents=True)
    for name in DIRECTORIES:
        (directory / name).mkdir(mode=0o755, exist_ok=True)
    (directory / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for name in applets():
        place = directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(directory / "bin/busybox", place)
    (directory / "etc/passwd").write_text(PASSWD)
    (directory / "etc/group").write_text(GROUP)
