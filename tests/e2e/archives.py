"""Images for other engines, as the archives that they load: busybox, and nginx with this machine's libraries."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime.image.layerwriter import LayerWriter
from runtime.image.layout import write_layout
from runtime.image.pack import Package
from tests.support.image import busybox_package, busybox_packer

BUSYBOX = "docker.io/library/busybox:latest"
NGINX = "docker.io/library/nginx:latest"
NGINX_PROGRAM = Path("/usr/sbin/nginx")
PAGE = "served from a container\n"
NGINX_CONFIG = """user nobody nogroup;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
    access_log off;
    server { listen 8080; root /www; }
}
"""


def write_archives(directory: Path) -> dict[str, Path]:
    """The images as OCI archives in *directory*, by name."""
    packages = {BUSYBOX: busybox_package(), NGINX: _nginx()}
    return {name: _write(package, name, directory / f"{index}") for index, (name, package) in enumerate(packages.items())}


def _write(package: Package, name: str, directory: Path) -> Path:
    directory.mkdir()
    write_layout(package, directory, name)
    archive = directory.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for entry in sorted(directory.iterdir()):
            tar.add(entry, entry.name)
    shutil.rmtree(directory)
    return archive


def _nginx() -> Package:
    packer = busybox_packer()
    packer.cmd = ("nginx", "-g", "daemon off;")
    layer = LayerWriter()
    for name in ("lib64", "var/lib", "var/lib/nginx", "var/log", "var/log/nginx", "www", "etc/nginx"):
        layer.directory(name)
    layer.file("www/index.html", PAGE.encode())
    layer.file("etc/nginx/nginx.conf", NGINX_CONFIG.encode())
    layer.file("usr/sbin/nginx", NGINX_PROGRAM, 0o755)
    listed = subprocess.run(["ldd", NGINX_PROGRAM], capture_output=True, check=True, text=True).stdout
    for path in sorted(word for line in listed.splitlines() for word in line.split() if word.startswith("/")):
        layer.file(path.lstrip("/"), Path(path), 0o755)
    packer.add_layer(layer)
    return packer.pack()


def run_in_terminal(
    command: Sequence[str], given: bytes = b"", *, environment: Mapping[str, str] | None = None, seconds: float = 30
) -> tuple[str, int]:
    """What *command* writes to a terminal of 30 lines and 100 columns on which *given* is typed; its exit code."""
    master, slave = pty.openpty()
    with open(master, "r+b", buffering=0) as screen:
        subprocess.run(["stty", "rows", "30", "cols", "100"], stdin=slave, check=True)
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
        os.close(slave)
        os.write(master, given)
        seen, deadline = bytearray(), time.monotonic() + seconds
        while select.select([screen], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                seen += os.read(master, 65536)
            except OSError:  # nobody has the other end any more
                break
        else:
            process.kill()
            raise AssertionError(f"{command}: not done after {seconds:g} s: {seen.decode(errors='replace')}")
        return seen.decode(errors="replace"), process.wait(10)
