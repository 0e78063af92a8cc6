"""The images that critest names, made on the spot and pushed to a registry on the loopback.

Public names keep their paths: the daemon's mirrors lead their hosts here.  busybox is Debian's dynamic
package: the static one runs its own applets however the files are masked, so MaskedPaths could not be seen.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

from runtime.image.layerwriter import Compression, Layer, LayerWriter
from runtime.image.pack import Package, Packer, pack_index
from runtime.image.push import push
from runtime.image.registry import Registry
from tests.support.image import DIRECTORIES, GROUP, PASSWD, PATH

E2E = "e2e-test-images"
STAGING = "k8s-staging-cri-tools"
#: Go's name of this machine, which a name among the images ends with.
GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]

#: Of Debian's packages, unpacked and not installed.
PACKAGES = ("busybox", "nginx")
SYSTEM = "system"

PGREP = """#!/bin/sh
found=1
for comm in /proc/[0-9]*/comm; do
    { read -r name < "$comm"; } 2>/dev/null || continue
    case $name in
    *"$1"*) pid=${comm%/comm}; echo "${pid#/proc/}"; found=0 ;;
    esac
done
exit $found
"""
IPCS = "#!/bin/sh\nexec cat /proc/sysvipc/shm\n"

NGINX = """user nobody nogroup;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr;
events {{ worker_connections 64; }}
http {{
    access_log off;
    server {{ listen {port}; root /www; }}
}}
"""

PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
#: Its file is root's with the setuid bit, which no_new_privs makes void.
NONEWPRIVS = """#include <stdio.h>
#include <unistd.h>
int main(void) { return printf("Effective uid: %d\\n", (int)geteuid()) < 0; }
"""

IN_GROUP = {
    "etc/passwd": f"{PASSWD.replace('user:x:1000:1000:user', 'default-user:x:1000:1000:user')}",
    "etc/group": f"{GROUP}group-defined-in-image:x:50000:default-user\n",
}


def fetch(build: Path) -> None:
    """Download Debian's packages and unpack them below *build*, unless they are there."""
    if (build / SYSTEM).exists():
        return
    # As its own user apt could not write where only root may.
    subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *PACKAGES], cwd=build, check=True)
    unpacked = build / f"{SYSTEM}.part"
    for archive in build.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, unpacked], check=True)
        archive.unlink()
    unpacked.rename(build / SYSTEM)


def push_all(address: str, build: Path) -> None:
    """Make every image, out of what ``fetch`` put into *build*, and push it to the registry at *address*."""
    registry = Registry()
    for name, package in packages(build):
        push(registry, package, f"{address}/{name}")


def packages(build: Path) -> Iterator[tuple[str, Package]]:
    """Each image under its path; the public hosts are left out, for no two of them have the same path."""
    system = build / SYSTEM
    layers: dict[Compression, Layer] = {kind: _busybox(system, kind) for kind in ("gzip", "zstd")}
    base = layers["gzip"]

    native, foreign = _image(base, marker="native"), _image(base, marker="foreign", architecture="riscv64")
    yield f"{E2E}/busybox:1.29-2", pack_index([foreign.pack(), native.pack()])
    yield f"{E2E}/nginx:1.14-2", _nginx(base, system, 80)
    yield f"{STAGING}/hostnet-nginx-{GOARCH}:latest", _nginx(base, system, 12003)
    httpd = _image(base, files={"www/index.html": "conformance\n"})
    httpd.cmd = ("sh", "-c", "echo httpd serves; exec httpd -f -p 80 -h /www")
    yield f"{E2E}/httpd:2.4.39-4", httpd.pack()
    yield f"{E2E}/nonewprivs:1.3", _program(build, "nonewprivs", NONEWPRIVS, 0o4755)
    yield "pause:3.9", _program(build, "pause", PAUSE, 0o755)

    yield f"{STAGING}/test-image-latest:latest", _image(base, marker="latest").pack()
    for tag in ("test", "all"):
        yield f"{STAGING}/test-image-tag:{tag}", _image(base, marker=tag).pack()
    yield f"{STAGING}/test-image-1:latest", _image(base, marker="1").pack()
    yield f"{STAGING}/test-image-2:latest", _image(base, marker="2", docker=True).pack()
    yield f"{STAGING}/test-image-3:latest", _image(layers["zstd"], marker="3").pack()
    for tag in ("1", "2", "3"):
        yield f"{STAGING}/test-image-tags:{tag}", _image(base, marker="tags").pack()
    yield from _with_users(base)


def _with_users(base: Layer) -> Iterator[tuple[str, Package]]:
    users = {"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"}
    for name, user in users.items():
        packer = _image(base, marker=name)
        packer.user = user
        yield f"{STAGING}/test-image-user-{name}:latest", packer.pack()
    packer = _image(base, files=IN_GROUP)
    packer.user = "1000"
    yield f"{STAGING}/test-image-predefined-group:latest", packer.pack()


def _image(
    base: Layer, *, marker: str = "", files: dict[str, str] | None = None, architecture: str | None = None, docker: bool = False
) -> Packer:
    """busybox with *files* in it; *marker* makes its id another."""
    packer = Packer(architecture=architecture, docker=docker)
    packer.env, packer.cmd = (PATH,), ("sh",)
    packer.add_layer(base)
    above = LayerWriter()
    for path, content in {"marker": marker, **(files or {})}.items():
        above.file(path, content.encode())
    packer.add_layer(above)
    return packer


def _busybox(system: Path, compression: Compression) -> Layer:
    layer = LayerWriter(compression)
    for name in (*DIRECTORIES, "lib64"):
        layer.directory(name, 0o1777 if name == "tmp" else 0o755)
    executable = system / "bin/busybox"
    layer.file("bin/busybox", executable, 0o755)
    listed = subprocess.run([executable, "--list-full"], capture_output=True, check=True, text=True).stdout.split()
    for name in sorted(set(listed) - {"bin/busybox"}):
        layer.hard_link(name, "bin/busybox", 0o755)
    _add_libraries(layer, executable)
    layer.file("usr/bin/pgrep", PGREP.encode(), 0o755)
    layer.file("usr/bin/ipcs", IPCS.encode(), 0o755)
    layer.file("etc/passwd", PASSWD.encode())
    layer.file("etc/group", GROUP.encode())
    return layer.finish()


def _nginx(base: Layer, system: Path, port: int) -> Package:
    packer = _image(base, files={"www/index.html": "conformance\n", "etc/nginx/nginx.conf": NGINX.format(port=port)})
    packer.cmd = ("nginx", "-g", "daemon off;")
    layer = LayerWriter()
    layer.file("usr/sbin/nginx", system / "usr/sbin/nginx", 0o755)
    _add_libraries(layer, system / "usr/sbin/nginx")
    for name in ("var/lib", "var/lib/nginx", "var/log", "var/log/nginx"):
        layer.directory(name)
    layer.symlink("var/run", "/run")
    packer.add_layer(layer)
    return packer.pack()


def _program(build: Path, name: str, source: str, mode: int) -> Package:
    """A static program and nothing else."""
    executable = build / name
    command = ["gcc", "-static", "-Os", "-s", "-o", str(executable), "-x", "c", "-"]
    subprocess.run(command, input=source, check=True, text=True)
    layer = LayerWriter()
    layer.file(name, executable, mode)
    packer = Packer()
    packer.entrypoint = (f"/{name}",)
    packer.add_layer(layer)
    return packer.pack()


def _add_libraries(layer: LayerWriter, executable: Path) -> None:
    """The shared libraries of *executable*, which are this machine's, where its loader looks for them."""
    listed = subprocess.run(["ldd", executable], capture_output=True, check=True, text=True).stdout
    for path in sorted(word for line in listed.splitlines() for word in line.split() if word.startswith("/")):
        layer.file(path.lstrip("/"), Path(path), 0o755)
