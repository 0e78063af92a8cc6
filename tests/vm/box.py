"""The Vagrant box: Debian 12 for libvirt, made of Debian's packages alone, for machines without internet or without KVM.

A box is a tar of a disk, what Vagrant has to know of it, and settings that a Vagrantfile may say otherwise.  This one has no
boot loader: kernel and initramfs, those of the tests' guests, lie beside the disk.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.requires import TREE
from tests.vm import apt, debian
from tests.vm.disk import contents, digest, make_disk, run

HERE = TREE / "vagrant/box"
KERNEL = "6.1"
#: What a public box has that matters here, and what Kernelet's package depends on and provision.sh calls.
PACKAGES = (
    "systemd-sysv udev dbus libpam-systemd kmod openssh-server sudo rsync "
    "python3 libcap2 libcap2-bin iproute2 nftables iptables procps mount busybox-static ca-certificates"
).split()
#: The file that Vagrant's documentation calls the insecure key; at "vagrant up" it is replaced, unless told otherwise.
KEY = "usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub"
VAGRANT_UID = 1000


def identify() -> str:
    """A digest of the packages and of what is put beside them."""
    lines = [line.split(" ", 1)[1] for line in apt.files_of(PACKAGES)]
    kernel = [line.split(" ", 1)[1] for line in apt.files_of([debian.KERNELS[KERNEL].package])]
    recipe = [Path(__file__).read_bytes(), *contents(HERE), Path(debian.__file__).read_bytes()]
    return digest([*recipe, *(line.encode() for line in sorted([*lines, *kernel]))])


def bootstrap(root: Path, packages: Sequence[str]) -> None:
    """Debian with *packages* in the new directory *root*, without what nobody reads."""
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    options = ("--quiet", "--variant=minbase", '--aptopt=Apt::Install-Recommends "false"', *left_out)
    # A mount namespace of its own: what a build that was killed had mounted for the chroot goes with it.
    run("unshare", "-m", "mmdebstrap", *options, f"--include={','.join(packages)}", debian.SUITE, root)


def build(made: Path, work: Path, tools: Path) -> None:
    """kernelet-DIGEST.box; *tools* is a Debian with Vagrant and qemu-img."""
    root, box = work / "root", work / "box"
    box.mkdir()
    bootstrap(root, PACKAGES)
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    debian._add_kernel(KERNEL, debian.KERNELS[KERNEL], root, work / KERNEL, work)
    _add_files(root)
    _add_user(root, next(tools.glob(KEY)).read_text())
    run("chroot", root, "systemctl", "-q", "enable", "systemd-networkd", "ssh")
    run("chroot", root, "systemctl", "-q", "mask", "systemd-networkd-wait-online.service", "systemd-timesyncd.service")
    make_disk(root, work / "root.ext4", "8G")
    _convert(tools, work / "root.ext4", box / "box.img")
    for name in ("vmlinuz", "initramfs"):
        shutil.copy(work / KERNEL / name, box)
    for name in ("metadata.json", "Vagrantfile"):
        shutil.copy(HERE / name, box)
    with tarfile.open(made / f"kernelet-{identify()}.box", "w:gz", compresslevel=1) as archive:
        for path in sorted(box.iterdir()):
            archive.add(path, path.name)


def _add_files(root: Path) -> None:
    for name, text in {
        "etc/hostname": "kernelet\n",
        "etc/hosts": "127.0.0.1 localhost kernelet\n",
        "etc/machine-id": "",
        "etc/ssh/sshd_config.d/vagrant.conf": "UseDNS no\n",
        # The address that libvirt's dnsmasq leads to the machine by is that of its MAC.
        "etc/systemd/network/dhcp.network": "[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\n[DHCPv4]\nClientIdentifier=mac\n",
        "etc/sudoers.d/vagrant": "vagrant ALL=(ALL) NOPASSWD:ALL\n",
    }.items():
        (root / name).write_text(text)


def _add_user(root: Path, key: str) -> None:
    """The user that Vagrant logs in as."""
    run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "--uid", str(VAGRANT_UID), "vagrant")
    place = root / "home/vagrant/.ssh"
    place.mkdir(mode=0o700)
    (place / "authorized_keys").write_text(key)
    (place / "authorized_keys").chmod(0o600)
    for path in (place, place / "authorized_keys"):
        os.chown(path, VAGRANT_UID, VAGRANT_UID)


def _convert(tools: Path, disk: Path, target: Path) -> None:
    """qcow2, compressed, by the qemu-img of *tools*, which sees only the directories it needs."""
    script = 'mount --bind "$1" "$0/mnt" && exec chroot "$0" qemu-img convert -O qcow2 -c "/mnt/$2" "/mnt/$3"'
    run("unshare", "-m", "sh", "-c", script, tools, disk.parent, disk.name, target.relative_to(disk.parent))
