"""Debian's containerd with runc, serving the CRI in this node beside ours: with directories, images and a network of its own.

What this machine cannot do is switched off as little as it may be: cgroup limits, where the v2 tree has no cpu controller
(runc makes its cgroups all the same), and a lower oom_score_adj, which takes CAP_SYS_RESOURCE.  All of that is less work
for it, not more.  Its pause container is busybox's sleep.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel import mount
from runtime.image.layout import write_layout
from tests.support import requires, wait
from tests.support.client import Client
from tests.support.image import busybox_package, busybox_packer
from tests.support.requires import program

PAUSE, BUSYBOX = "docker.io/library/pause:latest", "docker.io/library/busybox:latest"
CONFIG = """version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{directory}/socket"
[ttrpc]
  address = "{directory}/socket.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{network}"
"""
#: The sockets of its shims, whatever the configuration says.
SHIMS = Path("/run/containerd")


@contextmanager
def containerd(directory: Path, network: Path) -> Iterator[Client]:
    """A connection to one that has busybox; CNI configurations are read from *network*."""
    directory.mkdir()
    config = directory / "config.toml"
    plugins = requires.cni_directory()
    config.write_text(CONFIG.format(directory=directory, pause=PAUSE, plugins=plugins, network=network))
    made = not SHIMS.exists()
    SHIMS.mkdir(exist_ok=True)
    (directory / "shims").mkdir()
    mount.bind(directory / "shims", SHIMS)
    with open(directory / "log", "wb") as log:
        command = [program("containerd"), "--config", str(config)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        wait.until((directory / "socket").exists, 20, "containerd to listen")
        _import_images(directory)
        with Client(directory / "socket") as client:
            client.wait_until_ready()
            yield client
    finally:
        process.terminate()
        process.wait(20)
        mount.unmount(SHIMS)
        if made:
            SHIMS.rmdir()


def _import_images(directory: Path) -> None:
    pause = busybox_packer()
    pause.cmd = ("sleep", "1000000000")
    for name, package in ((PAUSE, pause.pack()), (BUSYBOX, busybox_package())):
        layout = directory / "layout"
        layout.mkdir()
        write_layout(package, layout, name)
        archive = directory / "archive.tar"
        subprocess.run(["tar", "-C", layout, "-cf", archive, "."], check=True)
        subprocess.run(["rm", "-r", layout], check=True)
        ctr = [program("ctr"), "--address", directory / "socket", "--namespace", "k8s.io"]
        subprocess.run([*ctr, "image", "import", "--snapshotter", "overlayfs", archive], check=True, stdout=subprocess.DEVNULL)
