"""apt, asked about suites that this machine does not use: lists of their own in build/vm/apt; the machine's stay as they are."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from tests.support.requires import TREE
from tests.vm.disk import run

LISTS = TREE / "build/vm/apt"
#: Where this machine's own mirror is not to be found out.
MIRROR = "http://deb.debian.org"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
#: A kernel that came out yesterday is new enough.
MAX_AGE_SECONDS = 86_400.0


def options(suite: str) -> list[str]:
    """What makes apt look at *suite* alone; at what the machine is set up for, if it is empty."""
    common = ["-o", "APT::Sandbox::User=root"]
    if not suite:
        return common
    place = LISTS / suite
    settings = {
        "Dir::Etc::SourceList": f"{place}/sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": f"{place}/lists",
        "Dir::State::Status": f"{place}/status",
        "Dir::Cache": f"{place}/cache",
        "Dir::Cache::pkgcache": "pkgcache.bin",  # some images of Debian's switch these off: then each question takes 2 s
        "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
        "Acquire::Languages": "none",
    }
    return [*common, *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]


def update(suite: str) -> None:
    """Fetch what there is in *suite*, unless that was done within a day; older lists stay where the mirror does not answer."""
    place = LISTS / suite
    done = place / "updated"
    if done.exists() and time.time() - done.stat().st_mtime < MAX_AGE_SECONDS:
        return
    for name in ("lists/partial", "cache/archives/partial"):
        (place / name).mkdir(parents=True, exist_ok=True)
    (place / "status").touch()
    archive = "debian-security" if suite.endswith("-security") else "debian"
    (place / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()}/{archive} {suite} main\n")
    try:
        run("apt-get", *options(suite), "-qq", "-o", "APT::Update::Error-Mode=any", "update")
    except subprocess.CalledProcessError:
        if not done.exists():
            raise
        print(f"set-up: WARNING: Debian's {suite} cannot be asked: going on with what it had {time.ctime(done.stat().st_mtime)}")
        return
    done.touch()


def files_of(names: Sequence[str], suite: str = "") -> list[str]:
    """A line for each package: address, file, size, hash.  LookupError when apt does not know one."""
    try:
        return run("apt-get", *options(suite), "-qq", "download", "--print-uris", *names).splitlines()
    except subprocess.CalledProcessError as error:
        wanted, whose = " ".join(names), f" of {suite}" if suite else ""
        raise LookupError(
            f"ask apt for the guests' packages{whose}: it does not know all of {wanted}: run apt-get update and make test-vm"
        ) from error


def _mirror() -> str:
    """The address of the mirror that this machine gets Debian from."""
    lines = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").splitlines()
    found = (line.rstrip("/").removesuffix("/debian") for line in lines if line.rstrip("/").endswith("/debian"))
    return next(found, MIRROR)
