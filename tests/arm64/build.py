"""What an arm64 Python is made of, below build/arm64: Debian's files, QEMU's emulator, wheels; and our wheel, cross-compiled.

Everything is unpacked, nothing installed: apt has lists of its own, pip is told the platform.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.support.requires import TREE
from tests.vm import apt
from tests.vm.code_disk import SOURCES
from tests.vm.disk import BUILT, digest

CACHE = TREE / "build/arm64"
SUITE = "bookworm"
#: Debian 12's own knows neither openat2 nor what came later.
EMULATOR_SUITE, EMULATOR = "trixie", "usr/bin/qemu-aarch64"
COMPILER = "aarch64-linux-gnu-gcc"
#: An interpreter with all its modules, and what our C files and python-prctl's are compiled and linked with.
PACKAGES = (
    "python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libexpat1 zlib1g libssl3 libffi8 libcap2 libbz2-1.0 "
    "liblzma5 libsqlite3-0 libuuid1 libtinfo6 libncursesw6 libreadline8 libcrypt1 libgcc-s1 libstdc++6 libseccomp2 "
    "libpython3.11-dev libcap-dev libcrypt-dev"
).split()
#: The one of our dependencies that has no wheels.
COMPILED = "python-prctl"
TEST_PACKAGES = (
    "hypothesis iniconfig packaging pluggy pygments pytest pytest-timeout pyseccomp sortedcontainers coverage typing-extensions"
).split()
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64", "manylinux_2_34_aarch64")


def make_base() -> Path:
    """The directory with "root", "emulator" and "wheels"; built if need be, with the network."""
    base = CACHE / f"base-{digest([Path(__file__).read_bytes(), (TREE / 'requirements.lock').read_bytes()])}"
    if base.is_dir():
        return base
    print(f"set-up: build {base.relative_to(TREE)}", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-") as work:
        os.chmod(work, 0o755)
        made = Path(work, "made")
        _unpack(PACKAGES, SUITE, "arm64", made / "root", Path(work))
        _unpack(["qemu-user"], EMULATOR_SUITE, "amd64", made / "emulator", Path(work))
        _download_wheels(made / "wheels", Path(work))
        _cross_compile(made / "root", made / "wheels", f"{COMPILED}=={_version(COMPILED)}")
        for old in CACHE.glob("base-*"):
            shutil.rmtree(old)
        made.rename(base)
    return base


def make_site(base: Path, work: Path) -> Path:
    """A directory for PYTHONPATH with our wheel, of this very source, and all others."""
    source, site = work / "source", work / "site"
    source.mkdir()
    for name in SOURCES:  # a copy: a build writes into its source, which is in use
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, source / name, ignore=BUILT)
        else:
            shutil.copy(TREE / name, source / name)
    _cross_compile(base / "root", work / "wheels", source)
    for wheel in [*(base / "wheels").glob("*.whl"), *(work / "wheels").glob("*.whl")]:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    (site / "kernel/runner").chmod(0o755)  # which zipfile forgets
    return site


def _unpack(packages: list[str], suite: str, architecture: str, target: Path, work: Path) -> None:
    """Put the files of Debian's *packages* into *target*."""
    place = work / f"apt-{suite}-{architecture}"
    for name in ("lists/partial", "cache/archives/partial", "files"):
        (place / name).mkdir(parents=True)
    (place / "status").touch()
    (place / "sources.list").write_text(f"deb [signed-by={apt.KEYRING}] {apt._mirror()}/debian {suite} main\n")
    (place / "apt.conf").write_text(
        f'APT::Architecture "{architecture}"; APT::Architectures {{ "{architecture}"; }}; APT::Sandbox::User "root";\n'
        f'Dir::Etc::SourceList "{place}/sources.list"; Dir::Etc::SourceParts "/dev/null"; Acquire::Languages "none";\n'
        f'Dir::State::Lists "{place}/lists"; Dir::State::Status "{place}/status"; Dir::Cache "{place}/cache";\n'
    )
    environment = os.environ | {"APT_CONFIG": str(place / "apt.conf")}
    for words in (["update"], ["download", *packages]):
        subprocess.run(["apt-get", "-qq", *words], cwd=place / "files", env=environment, check=True)
    target.mkdir(parents=True)
    for archive in (place / "files").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, target], check=True)


def _download_wheels(target: Path, work: Path) -> None:
    wanted = [block for block in _locked() if _name(block) != COMPILED]
    (work / "wheels.lock").write_text("".join(wanted))
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    _pip(
        "download", "--no-deps", "--only-binary=:all:", *platforms, "--implementation", "cp", "--abi", "cp311", "--abi", "abi3",
        "--python-version", "3.11", "--require-hashes", "--dest", target, "-r", work / "wheels.lock",
    )  # fmt: skip


def _cross_compile(root: Path, target: Path, source: str | Path) -> None:
    """A wheel of *source* for arm64, in *target*: this machine's Python builds, with the other one's settings."""
    libraries = [root / "usr/lib/aarch64-linux-gnu", root / "lib/aarch64-linux-gnu"]
    with tempfile.TemporaryDirectory() as settings:
        shutil.copy(root / "usr/lib/python3.11/_sysconfigdata__aarch64-linux-gnu.py", settings)
        environment = os.environ | {
            "CC": COMPILER,
            "LDSHARED": f"{COMPILER} -shared",
            "CFLAGS": f"-I{root}/usr/include/python3.11 -I{root}/usr/include",
            "LDFLAGS": " ".join(f"-L{path}" for path in libraries),
            "PYTHONPATH": settings,
            "_PYTHON_HOST_PLATFORM": "linux-aarch64",
            "_PYTHON_SYSCONFIGDATA_NAME": "_sysconfigdata__aarch64-linux-gnu",
        }
        _pip(
            "wheel", "--no-deps", "--no-build-isolation", "--use-pep517", "--wheel-dir", target, source, environment=environment,
        )  # fmt: skip


def _locked() -> list[str]:
    """What requirements.lock says of the packages that are needed there: to run, to test, and cffi's own module."""
    found: dict[str, list[str]] = {}
    section, name = "", ""
    for line in (TREE / "requirements.lock").read_text().splitlines(keepends=True):
        if line.startswith("# "):
            section = line[2:].strip()
        elif re.match(r"[A-Za-z]", line):
            name = _name(line)
        wanted = section == "run" or name in ("cffi", *TEST_PACKAGES)
        if wanted and name and not line.startswith("#"):
            found.setdefault(name, []).append(line)
    return ["".join(lines) for lines in found.values()]


def _name(block: str) -> str:
    return re.split(r"[=\s;]", block, maxsplit=1)[0]


def _version(name: str) -> str:
    return next(re.split(r"[=\s]+", block)[1] for block in _locked() if _name(block) == name)


def _pip(*words: str | Path, environment: dict[str, str] | None = None) -> None:
    common = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
    subprocess.run([*common, *words], env=environment, check=True)
