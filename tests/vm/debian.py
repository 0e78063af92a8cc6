"""The part of an image that changes with Debian: a root file system and kernels, all out of its packages."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.vm.disk import contents, digest, make_disk, run

GUEST = Path(__file__).with_name("guest")
SUITE = "bookworm"

#: Of the root file system; no udev: waiting for its devices cost 13 s a boot under TCG.
PACKAGES = (
    "systemd-sysv dbus kmod python3 iproute2 nftables iptables procps uidmap "
    "busybox-static libcap2 libseccomp2 e2fsprogs apparmor"
).split()
MODULES = "overlay fuse loop tun veth bridge br_netfilter nf_tables nft_chain_nat".split()

#: What ``vm.run(kernel=...)`` may name, and Debian's package of it.
UML = "uml"
KERNELS = {UML: "user-mode-linux", "6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}


def identify() -> str:
    """A digest of the packages, each by apt's own hash of its file, and of the scripts put beside them."""
    lines = [line.split(" ", 1)[1] for line in _package_files((*PACKAGES, *map(_real_package, KERNELS.values())))]
    recipe = [Path(__file__).read_bytes(), *contents(GUEST)]
    return digest([*recipe, *(line.encode() for line in sorted(lines))])


def build(made: Path, work: Path) -> None:
    """root.ext4, and for each kernel its vmlinuz and, under QEMU, an initramfs."""
    root = work / "root"
    _bootstrap(root)
    for name, package in KERNELS.items():
        _add_kernel(name, _real_package(package), root, made / name, work)
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


def _add_kernel(name: str, package: str, root: Path, made: Path, work: Path) -> None:
    unpacked = work / f"kernel-{name}"
    unpacked.mkdir()
    made.mkdir()
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=unpacked)
    run("dpkg-deb", "-x", next(unpacked.glob("*.deb")), unpacked)
    modules = unpacked / ("usr/lib/uml/modules" if name == UML else "lib/modules")
    (version,) = os.listdir(modules)
    (modules / version).rename(root / "usr/lib/modules" / version)
    run("chroot", root, "depmod", version)
    vmlinuz = unpacked / ("usr/bin/linux.uml" if name == UML else f"boot/vmlinuz-{version}")
    vmlinuz.rename(made / "vmlinuz")
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
        shutil.copy(root / file.lstrip("/"), tree / "modules")
    (tree / "order").write_text("".join(f"{Path(file).name}\n" for file in files))
    shutil.copy(root / "bin/busybox", tree / "busybox")
    shutil.copy(GUEST / "initramfs", tree / "init")
    os.chmod(tree / "init", 0o755)
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    archive = subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"], cwd=tree, input=names.encode(), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, check=True,
    ).stdout
    target.write_bytes(gzip.compress(archive, 1))


def _real_package(name: str) -> str:
    """The package that a name stands for: "linux-image-cloud-amd64" depends on the newest."""
    if not name.startswith("linux-image"):
        return name
    depends = [line.split()[1] for line in run("apt-cache", "depends", name).splitlines() if "Depends:" in line]
    return depends[0] if depends else name


def _package_files(names: Sequence[str]) -> list[str]:
    """A line for each package: address, file, size, hash.  LookupError when apt does not know one."""
    try:
        return run("apt-get", "-qq", "download", "--print-uris", *names).splitlines()
    except subprocess.CalledProcessError as error:
        wanted = " ".join(names)
        raise LookupError(f"ask apt for the guests' packages: it does not know all of {wanted}: run apt-get update") from error


