"""The files that the containers of a pod share: hosts, hostname and resolv.conf, and the memory behind /dev/shm.

Written beside their place and renamed, so that nobody reads half a file.  The kubelet brings its own
/etc/hosts for most containers; ours is what the others see.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kernel import mount
from kernel.program import Flags
from runtime.errors import InvalidArgument
from runtime.paths import Paths
from runtime.sandbox.namespaces import remove_run_directory

NAMES = ("hosts", "hostname", "resolv.conf")

#: What containerd and CRI-O give a pod too.
SHM_SIZE_BYTES = 64 * 1024 * 1024

#: As the kubelet writes them.
LOCAL_HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


@dataclass(frozen=True, slots=True)
class Dns:
    """The three kinds of lines in resolv.conf(5)."""

    servers: Sequence[str] = ()
    searches: Sequence[str] = ()
    options: Sequence[str] = ()


def write(
    paths: Paths,
    sandbox_id: str,
    *,
    hostname: str,
    addresses: Sequence[str],
    dns: Dns | None,
    owner: tuple[int, int] = (0, 0),
) -> None:
    """Write the three files, for *owner*: who is root of the pod, on the host.

    Without *addresses* the pod uses the node's network, and /etc/hosts is the node's; without *dns*,
    resolv.conf is.  Raises InvalidArgument for a word that would not stay one word of its line.
    """
    resolver = _host_file("/etc/resolv.conf") if dns is None else resolv_conf(dns).encode()
    hosts = hosts_file(hostname, addresses).encode() if addresses else _host_file("/etc/hosts")
    name = f"{_word('host name', hostname)}\n".encode()
    directory = paths.sandbox(sandbox_id)
    directory.mkdir(mode=0o700, exist_ok=True)
    for file, content in zip(NAMES, (hosts, name, resolver), strict=True):
        _replace(directory / file, content, owner)


def resolv_conf(dns: Dns) -> str:
    """The text of resolv.conf for *dns*: a line for each server, one for all searches, one for all options."""
    servers = "".join(f"nameserver {word}\n" for word in _words("dns server", dns.servers))
    return servers + _line("search", "dns search domain", dns.searches) + _line("options", "dns option", dns.options)


def hosts_file(hostname: str, addresses: Iterable[str]) -> str:
    """The text of /etc/hosts for a pod that is *hostname* at each of *addresses*."""
    name = _word("host name", hostname)
    return LOCAL_HOSTS + "".join(f"{word}\t{name}\n" for word in _words("address", addresses))


def shm_directory(paths: Paths, sandbox_id: str) -> Path:
    """Where the pod's shared memory is mounted."""
    return paths.run_sandbox(sandbox_id) / "shm"


def mount_shm(paths: Paths, sandbox_id: str, owner: tuple[int, int] = (0, 0)) -> Path:
    """Mount the pod's shared memory, once, and return where: a tmpfs of 64 MiB for everybody in the pod."""
    target = shm_directory(paths, sandbox_id)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not target.is_mount():
        attributes = Flags(("MOUNT_ATTR_NOSUID", "MOUNT_ATTR_NODEV", "MOUNT_ATTR_NOEXEC")).value()
        uid, gid = owner
        options = [("source", "shm"), ("size", str(SHM_SIZE_BYTES)), ("mode", "1777"), ("uid", str(uid)), ("gid", str(gid))]
        with mount.new_filesystem("tmpfs", options, attributes=attributes) as shm:
            mount.attach(shm, target)
    return target


def remove(paths: Paths, sandbox_id: str) -> None:
    """Remove the files and the shared memory; what is gone already is no error."""
    remove_shm(paths, sandbox_id)
    directory = paths.sandbox(sandbox_id)
    for name in NAMES:
        (directory / name).unlink(missing_ok=True)
        _beside(directory / name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()


def remove_shm(paths: Paths, sandbox_id: str) -> None:
    """Unmount the shared memory; containers that still have it mounted keep it until they end."""
    target = shm_directory(paths, sandbox_id)
    with contextlib.suppress(FileNotFoundError):
        while target.is_mount():
            mount.unmount(target)
        target.rmdir()
    remove_run_directory(paths, sandbox_id)


def _replace(path: Path, content: bytes, owner: tuple[int, int]) -> None:
    """Put *content* at *path* in one step, readable to any user of a container whatever our umask."""
    draft = _beside(path)
    with open(draft, "wb") as file:
        os.fchmod(file.fileno(), 0o644)
        os.fchown(file.fileno(), *owner)
        file.write(content)
    draft.rename(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}")


def _host_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return b""


def _line(keyword: str, what: str, words: Iterable[str]) -> str:
    checked = _words(what, words)
    return f"{keyword} {' '.join(checked)}\n" if checked else ""


def _words(what: str, words: Iterable[str]) -> list[str]:
    return [_word(what, word) for word in words]


def _word(what: str, word: str) -> str:
    """*word*, unless it would be none, several, or lines of its own in the file it goes to."""
    if not word or not word.isprintable() or " " in word:
        raise InvalidArgument(f"{what} {word!r}: must be one word without spaces or control characters")
    return word
