"""The part of an image that changes with Debian: a root file system and kernels, all out of its packages.

The root is bookworm's; the kernels are of several suites, each asked of apt with lists of its own (``apt.py``).
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.vm import apt
from tests.vm.disk import contents, digest, make_disk, run

GUEST = Path(__file__).with_name("guest")
SUITE = "bookworm"

#: Of the root file system; no udev: waiting for its devices cost 13 s a boot under TCG.  The last line: what tests compare with.
PACKAGES = (
    "systemd-sysv dbus kmod python3 iproute2 nftables iptables procps uidmap "
    "busybox-static libcap2 libseccomp2 e2fsprogs apparmor secilc "
    "crun runc strace linux-libc-dev"
).split()
MODULES = "overlay fuse loop tun veth bridge br_netfilter nf_tables nft_chain_nat bfq".split()


class Kernel(NamedTuple):
    """Debian's package of a kernel, and the suite it is of: "" for what this machine's own apt knows."""

    package: str
    suite: str = ""


UML = "uml"
#: The newest that Debian has today, and the oldest that its mirrors still have, on which nothing of ours starts.
NEWEST, TOO_OLD = "newest", "5.10"
#: What ``vm.run(kernel=...)`` may name.
KERNELS = {
    UML: Kernel("user-mode-linux"),
    "6.1": Kernel("linux-image-cloud-amd64"),
    "6.12": Kernel("linux-image-6.12-cloud-amd64"),
    NEWEST: Kernel("linux-image-cloud-amd64", "sid"),
    TOO_OLD: Kernel("linux-image-cloud-amd64", "bullseye-security"),
}


def identify_recipe() -> str:
    """A digest of how it is made: this file, and the scripts put into it."""
    return digest([Path(__file__).read_bytes(), *contents(GUEST)])


def identify_packages() -> str:
    """A digest of what it is made of: the packages, each by apt's own hash of its file.  Apt is asked, which takes seconds."""
    lines = [line.split(" ", 1)[1] for line in apt.files_of(PACKAGES)]
    for kernel in KERNELS.values():
        lines += [line.split(" ", 1)[1] for line in apt.files_of(_packages(kernel), kernel.suite)]
    return digest([line.encode() for line in sorted(lines)])


def build(made: Path, work: Path) -> None:
    """root.ext4, and for each kernel its vmlinuz and, under QEMU, an initramfs."""
    root = work / "root"
    _bootstrap(root)
    for name, kernel in KERNELS.items():
        _add_kernel(name, kernel, root, made / name, work)
    for script, place in (
        ("init", "usr/local/sbin/kernelet-vm-init"),
        ("run", "usr/local/sbin/kernelet-vm-run"),
        ("kernelet-vm.service", "etc/systemd/system/kernelet-vm.service"),
        ("kernelet-vm.target", "etc/systemd/system/kernelet-vm.target"),
    ):
        shutil.copy(GUEST / script, root / place)
        os.chmod(root / place, 0o755 if "sbin" in place else 0o644)
    (root / "etc/hostname").write_text("kernelet-vm\n")
    (root / "etc/machine-id").write_text("")
    (root / "etc/modules-load.d/kernelet.conf").write_text("".join(f"{name}\n" for name in MODULES))
    make_disk(root, made / "root.ext4", "4G")


def _bootstrap(root: Path) -> None:
    """Debian in the new directory *root*, without what nobody reads in a guest."""
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    include = f"--include={','.join(PACKAGES)}"
    # A mount namespace of its own: what a build that was killed had mounted for the chroot goes with it.
    run("unshare", "-m", "mmdebstrap", "--quiet", "--variant=minbase", include, *left_out, SUITE, root)
    for name in ("src", "results", "opt/kernelet", "usr/lib/modules"):
        (root / name).mkdir(parents=True, exist_ok=True)


def _add_kernel(name: str, kernel: Kernel, root: Path, made: Path, work: Path) -> None:
    unpacked = work / f"kernel-{name}"
    unpacked.mkdir()
    made.mkdir()
    run("apt-get", *apt.options(kernel.suite), "-qq", "download", *_packages(kernel), cwd=unpacked)
    for archive in unpacked.glob("*.deb"):
        run("dpkg-deb", "-x", archive, unpacked)
    places = ("usr/lib/uml/modules", "usr/lib/modules", "lib/modules")  # without the first "usr" until trixie
    modules = next(unpacked / place for place in places if (unpacked / place).is_dir())
    (version,) = os.listdir(modules)
    images = ("usr/bin/linux.uml", f"boot/vmlinuz-{version}", f"usr/lib/modules/{version}/vmlinuz")
    vmlinuz = next(unpacked / place for place in images if (unpacked / place).exists())
    vmlinuz.rename(made / "vmlinuz")
    (modules / version).rename(root / "usr/lib/modules" / version)
    run("chroot", root, "depmod", version)
    if name != UML:
        _make_initramfs(root, version, made / "initramfs", work / f"initramfs-{name}")


def _make_initramfs(root: Path, version: str, target: Path, tree: Path) -> None:
    """busybox, the virtio modules in the order in which they depend, and an init of ten lines: 1 MB."""
    for name in ("modules", "root"):
        (tree / name).mkdir(parents=True)
    wanted = ("virtio_pci", "virtio_blk", "virtio_console")
    lines = run("chroot", root, "modprobe", "-S", version, "-D", "-a", *wanted).splitlines()
    files = dict.fromkeys(line.split()[1] for line in lines if line.startswith("insmod"))
    for file in files:
        content = (root / file.lstrip("/")).read_bytes()
        (tree / "modules" / Path(file).name.removesuffix(".xz")).write_bytes(
            lzma.decompress(content) if file.endswith(".xz") else content
        )
    (tree / "order").write_text("".join(f"{Path(file).name.removesuffix('.xz')}\n" for file in files))
    shutil.copy(root / "bin/busybox", tree / "busybox")
    shutil.copy(GUEST / "initramfs", tree / "init")
    os.chmod(tree / "init", 0o755)
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    archive = subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"], cwd=tree, input=names.encode(), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, check=True,
    ).stdout
    target.write_bytes(gzip.compress(archive, 1))


@cache
def _packages(kernel: Kernel) -> list[str]:
    """What *kernel* is made of: its package stands for the newest image, and since 2026 that for a base, a binary and modules."""
    if not kernel.package.startswith("linux-image"):
        return [kernel.package]
    (image,) = _depends(kernel.package, kernel.suite, "linux-image-") or [kernel.package]
    return [image, *_depends(image, kernel.suite, "linux-base-", "linux-binary-", "linux-modules-")]


def _depends(package: str, suite: str, *prefixes: str) -> list[str]:
    """Of what *package* needs, what begins with one of *prefixes*."""
    lines = run("apt-cache", *apt.options(suite), "depends", package).splitlines()
    names = [line.split()[1] for line in lines if line.startswith("  Depends: ")]
    return [name for name in names if name.startswith(prefixes)]
