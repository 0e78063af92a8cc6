"""``python -m tests.vm.vagrant``: the commands in the header of vagrant/Vagrantfile, one after the other, on this machine.

Vagrant, libvirt and QEMU lie in a Debian of their own (build/vm/tools-...), are started by ``private-libvirt`` in namespaces
of their own, and write to memory: nothing is installed on the machine, no link, rule, mount or process stays.
``python -m tests.vm.vagrant box`` only makes the box and prints its path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.support.requires import TREE
from tests.vm import apt, box
from tests.vm.disk import digest
from tests.vm.guest import OWN_PIDS
from tests.vm.image import CACHE, _build_once

#: Besides Vagrant what it and libvirt only recommend and nevertheless need.
PACKAGES = (
    "vagrant vagrant-libvirt libvirt-daemon-system libvirt-clients dnsmasq-base qemu-system-x86 qemu-utils "
    "rsync openssh-client iptables iproute2 procps"
).split()
PRIVATE_LIBVIRT = Path(__file__).with_name("private-libvirt")
TIMEOUT_SECONDS = 1800


def make_box() -> Path:
    """The path of the box, built if need be."""
    CACHE.mkdir(parents=True, exist_ok=True)
    tools = make_tools()
    place = CACHE / f"box-{box.identify()}"
    _build_once(place, lambda made, work: box.build(made, work, tools))
    return next(place.glob("*.box"))


def make_tools() -> Path:
    """A Debian with Vagrant, libvirt and QEMU, built if need be: the root directory of what is run in it."""
    lines = sorted(line.split(" ", 1)[1] for line in apt.files_of(PACKAGES))
    place = CACHE / f"tools-{digest([' '.join(PACKAGES).encode(), *(line.encode() for line in lines)])}"
    _build_once(place, lambda made, _: box.bootstrap(made / "root", PACKAGES))
    return place / "root"


def commands() -> list[str]:
    """What the header of the Vagrantfile says to type."""
    lines = (TREE / "vagrant/Vagrantfile").read_text().partition("\n\n")[0].splitlines()
    return [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]


def main() -> int:
    """Run them; the exit status is that of the first that failed, and the machine is destroyed in any case."""
    made = make_box()
    if sys.argv[1:] == ["box"]:
        print(made.relative_to(TREE))
        return 0
    return run_privately(make_tools(), commands(), os.environ | {"CRI_BOX": str(made)})


def run_privately(tools: Path, wanted: list[str], environment: Mapping[str, str]) -> int:
    """Run the *wanted* commands in *tools* with a libvirtd of their own, and show what they say; the exit status."""
    namespaces = ("unshare", "--mount", "--net", "--ipc", "--uts", "--")
    words: list[str | Path] = [*OWN_PIDS, *namespaces, PRIVATE_LIBVIRT, tools, TREE, *wanted]
    process = subprocess.Popen(
        words, cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    timer = threading.Timer(TIMEOUT_SECONDS, process.kill)  # and with it all that is in its namespaces
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line.replace("\x1b[K", "").rstrip("\n").rpartition("\r")[2], flush=True)  # a progress bar's last state
        return process.wait()
    finally:
        timer.cancel()
        process.kill()


if __name__ == "__main__":
    sys.exit(main())
