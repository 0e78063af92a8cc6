"""Small images made on the spot: Debian's static busybox, a passwd, a group; its applets are hard links.

Not symlinks: a masked /bin/ls would mask busybox itself.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from runtime.image.layerwriter import Compression, LayerWriter
from runtime.image.pack import Package, Packer
from runtime.image.pull import load
from runtime.image.records import Image
from runtime.image.store import ImageStore

BUSYBOX = Path("/bin/busybox")

PASSWD = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/sh
user:x:1000:1000:user:/home/user:/bin/sh
"""
GROUP = "root:x:0:\nnogroup:x:65534:\nwww-data:x:33:user\nuser:x:1000:\nextra:x:50000:user\n"
DIRECTORIES = (
    "bin",
    "dev",
    "etc",
    "home",
    "lib",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "usr/bin",
    "usr/sbin",
    "var",
)
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@cache
def applets() -> tuple[str, ...]:
    """The names under which busybox can be called, as "bin/ls"."""
    listed = subprocess.run([BUSYBOX, "--list-full"], capture_output=True, check=True, text=True).stdout.split()
    return tuple(sorted(name for name in set(listed) if name != "bin/busybox"))


def busybox_layer(compression: Compression = "gzip") -> LayerWriter:
    """The root file system of a small Linux, not finished."""
    layer = LayerWriter(compression)
    for name in DIRECTORIES:
        layer.directory(name, 0o1777 if name == "tmp" else 0o755)
    layer.directory("home/user", 0o750, uid=1000, gid=1000)
    layer.file("bin/busybox", BUSYBOX, 0o755)
    for name in applets():
        layer.hard_link(name, "bin/busybox", 0o755)
    layer.file("etc/passwd", PASSWD.encode())
    layer.file("etc/group", GROUP.encode())
    layer.file("etc/hosts", b"127.0.0.1 localhost\n")
    return layer


def busybox_package(marker: str = "", *, docker: bool = False, compression: Compression = "gzip") -> Package:
    """busybox as an image; *marker* makes its id differ from that of others."""
    packer = busybox_packer(compression, docker=docker)
    if marker:
        extra = LayerWriter(compression)
        extra.file("marker", marker.encode())
        packer.add_layer(extra)
    return packer.pack()


def busybox_packer(compression: Compression = "gzip", *, docker: bool = False) -> Packer:
    """The same, to be changed before it is packed."""
    packer = Packer(docker=docker)
    packer.env = (PATH,)
    packer.cmd = ("sh",)
    packer.add_layer(busybox_layer(compression))
    return packer


def store_busybox(images: ImageStore, name: str = "docker.io/library/busybox:latest", *, marker: str = "") -> Image:
    """busybox in *images* under *name*, without a registry."""
    package = busybox_package(marker)
    return load(images, package, name, package.root.digest)
