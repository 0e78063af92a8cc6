"""What a guest is booted from, built once: kernels, a Debian root, and a disk with our wheel and those it needs.

Two parts, each in a directory named for the digest of all that goes into it: ``debian-...`` changes with Debian, ``code-...``
with our source.  Building needs the network, which a test run does not have: ``python -m tests.vm`` builds, tests only look.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.requires import TREE

CACHE = TREE / "build/vm"
SUITE = "bookworm"
GUEST = Path(__file__).with_name("guest")

#: Of the root file system; no udev: waiting for its devices cost 13 s a boot under TCG.
PACKAGES = (
    "systemd-sysv dbus kmod python3 iproute2 nftables iptables procps uidmap "
    "busybox-static libcap2 libseccomp2 e2fsprogs apparmor"
).split()
MODULES = "overlay fuse loop tun veth bridge br_netfilter nf_tables nft_chain_nat".split()

#: What ``vm.run(kernel=...)`` may name, and Debian's package of it.
UML = "uml"
KERNELS = {UML: "user-mode-linux", "6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}

#: What the wheel is built from, and what the tests in a guest need besides.
SOURCES = ("kernel", "runtime", "cri", "scripts", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
BUILT = shutil.ignore_patterns("__pycache__", "*.so", "_linux.c", "runner", "runner-aarch64")
TEST_PACKAGES = ("pytest", "pytest-timeout", "hypothesis")
PREFIX = "/opt/kernelet"


@dataclass(frozen=True, slots=True)
class Image:
    """The two directories that a guest is booted from."""

    debian: Path
    code: Path

    @property
    def root_disk(self) -> Path:
        return self.debian / "root.ext4"

    @property
    def code_disk(self) -> Path:
        return self.code / "code.ext4"

    def kernel(self, name: str) -> Path:
        return self.debian / name / "vmlinuz"

    def initramfs(self, name: str) -> Path:
        return self.debian / name / "initramfs"


def find() -> Image:
    """The image of this very source and of the newest Debian packages that apt knows; LookupError when it is not built."""
    image = _named()
    for part in (image.debian, image.code):
        if not part.is_dir():
            raise LookupError(f"open the guests' image: {part} is not built: run make test-vm, or python -m tests.vm")
    return image


def build() -> Image:
    """The same, built if need be; older ones are removed."""
    image = _named()
    CACHE.mkdir(parents=True, exist_ok=True)
    _build_once(image.debian, _build_debian)
    _build_once(image.code, _build_code)
    return image


def _named() -> Image:
    return Image(CACHE / f"debian-{debian_digest()}", CACHE / f"code-{code_digest()}")


def debian_digest() -> str:
    """Of the packages, each by apt's own hash of its file, and of the scripts put beside them."""
    lines = [line.split(" ", 1)[1] for line in _package_files((*PACKAGES, *map(_real_package, KERNELS.values())))]
    return _digest([SUITE.encode(), " ".join(MODULES).encode(), *(line.encode() for line in sorted(lines)), *_contents(GUEST)])


def code_digest() -> str:
    """Of everything the wheel is built from, and of the lock file that names the others."""
    return _digest([" ".join(TEST_PACKAGES).encode(), *(part for name in SOURCES for part in _contents(TREE / name))])


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256(Path(__file__).read_bytes())
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]


def _contents(top: Path) -> list[bytes]:
    """Name and bytes of *top*, or of each source file below it."""
    if top.is_file():
        return [top.name.encode(), top.read_bytes()]
    found: list[bytes] = []
    for directory, below, names in os.walk(top):
        below.sort()
        kept = sorted(set(names) - BUILT(directory, names))
        below[:] = [name for name in below if name not in BUILT(directory, below)]
        for name in kept:
            path = Path(directory, name)
            found += [str(path.relative_to(top)).encode(), path.read_bytes()]
    return found


def _build_once(wanted: Path, make: Callable[[Path, Path], None]) -> None:
    """Have *make* fill *wanted*, in one step: a build that was broken off leaves nothing that looks whole."""
    if wanted.is_dir():
        return
    print(f"set-up: build {wanted.relative_to(TREE)}", flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-") as work:
        os.chmod(work, 0o755)
        made = Path(work, "made")
        made.mkdir()
        make(made, Path(work))
        made.rename(wanted)
    kind = wanted.name.split("-")[0]
    for old in CACHE.glob(f"{kind}-*"):
        if old != wanted:
            shutil.rmtree(old)


def _build_debian(made: Path, work: Path) -> None:
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
    _make_disk(root, made / "root.ext4", "4G")


def _bootstrap(root: Path) -> None:
    """Debian in the new directory *root*, without what nobody reads in a guest."""
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    include = f"--include={','.join(PACKAGES)}"
    # A mount namespace of its own: what a build that was killed had mounted for the chroot goes with it.
    _run("unshare", "-m", "mmdebstrap", "--quiet", "--variant=minbase", include, *left_out, SUITE, root)
    for name in ("src", "results", "opt/kernelet", "usr/lib/modules"):
        (root / name).mkdir(parents=True, exist_ok=True)


def _add_kernel(name: str, package: str, root: Path, made: Path, work: Path) -> None:
    unpacked = work / f"kernel-{name}"
    unpacked.mkdir()
    made.mkdir()
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=unpacked)
    _run("dpkg-deb", "-x", next(unpacked.glob("*.deb")), unpacked)
    modules = unpacked / ("usr/lib/uml/modules" if name == UML else "lib/modules")
    (version,) = os.listdir(modules)
    (modules / version).rename(root / "usr/lib/modules" / version)
    _run("chroot", root, "depmod", version)
    vmlinuz = unpacked / ("usr/bin/linux.uml" if name == UML else f"boot/vmlinuz-{version}")
    vmlinuz.rename(made / "vmlinuz")
    if name != UML:
        _make_initramfs(root, version, made / "initramfs", work / f"initramfs-{name}")


def _make_initramfs(root: Path, version: str, target: Path, tree: Path) -> None:
    """busybox, the virtio modules in the order in which they depend, and an init of ten lines: 1 MB."""
    for name in ("modules", "root"):
        (tree / name).mkdir(parents=True)
    wanted = ("virtio_pci", "virtio_blk", "virtio_console")
    lines = _run("chroot", root, "modprobe", "-S", version, "-D", "-a", *wanted).splitlines()
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


def _build_code(made: Path, work: Path) -> None:
    """code.ext4: a virtual environment for /opt/kernelet, out of wheels alone."""
    wheels, venv = work / "wheels", work / "venv"
    _make_wheels(wheels, work)
    _run(sys.executable, "-m", "venv", "--without-pip", venv)
    _pip("--python", venv / "bin/python", "install", "--no-index", "--find-links", wheels, "kernelet", *TEST_PACKAGES)
    for script in (venv / "bin").iterdir():  # pip wrote down where the interpreter is now
        if not script.is_symlink():
            script.write_bytes(script.read_bytes().replace(os.fsencode(venv), os.fsencode(PREFIX)))
    _make_disk(venv, made / "code.ext4", "256M")


def _make_wheels(target: Path, work: Path) -> None:
    """Ours, and those that requirements.lock names, by its hashes."""
    source = work / "source"
    source.mkdir()
    for name in SOURCES:  # a copy: a build writes into its source, which is in use
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, source / name, ignore=BUILT)
        else:
            shutil.copy(TREE / name, source / name)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    for section in ("build", "run", "test"):
        lock = work / f"{section}.lock"
        lock.write_text(_locked(section))
        _pip("wheel", "--no-deps", "--no-build-isolation", "--use-pep517", "--require-hashes", "--wheel-dir", target, "-r", lock)


def _locked(section: str) -> str:
    """One section of the lock file."""
    lines = (TREE / "requirements.lock").read_text().splitlines(keepends=True)
    start = lines.index(f"# {section}\n") + 1
    end = next((number for number in range(start, len(lines)) if lines[number].startswith("# ")), len(lines))
    return "".join(lines[start:end])


def _make_disk(tree: Path, disk: Path, size: str) -> None:
    """A sparse ext4 of *size* that holds *tree*; nothing is mounted for it."""
    _run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d", tree, disk, size)


def _real_package(name: str) -> str:
    """The package that a name stands for: "linux-image-cloud-amd64" depends on the newest."""
    if not name.startswith("linux-image"):
        return name
    depends = [line.split()[1] for line in _run("apt-cache", "depends", name).splitlines() if "Depends:" in line]
    return depends[0] if depends else name


def _package_files(names: Sequence[str]) -> list[str]:
    """A line for each package: address, file, size, hash.  LookupError when apt does not know one."""
    try:
        return _run("apt-get", "-qq", "download", "--print-uris", *names).splitlines()
    except subprocess.CalledProcessError as error:
        wanted = " ".join(names)
        raise LookupError(f"ask apt for the guests' packages: it does not know all of {wanted}: run apt-get update") from error


def _pip(*words: str | Path) -> None:
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *words)


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    """What a command says; its complaints go to ours.  CalledProcessError when it fails."""
    environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        words, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
