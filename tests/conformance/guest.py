"""critest in a virtual machine: the specs that a machine without memory controller or AppArmor skips."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path

from tests.conformance import images
from tests.conformance.__main__ import BUILD, WORK
from tests.support.isolation import isolated
from tests.support.registry import EXECUTABLE, docker_registry
from tests.vm import image
from tests.vm.guest import PYTHON, Guests

OUTPUT = BUILD / "conformance-guest.json"
#: Of a spec's full name, what runs in a guest by itself; the rest is the same anywhere.
FOCUS = "OOM|AppArmor|stats|metrics"
KERNEL = "6.1"
TIMEOUT_SECONDS = 3600.0
#: critest loads profiles as whoever may, by sudo; in a guest all is done as root.
SUDO = '#!/bin/sh\nexec "$@"\n'
PREPARE = """
[ -d /sys/kernel/security/apparmor ] || mount -t securityfs securityfs /sys/kernel/security
mv build/docker-registry /usr/bin
chmod +x build/sudo
export PATH=/src/build:$PATH KERNELET_VM=1
"""


def in_a_guest(focus: str | None) -> int:
    """Run it, print the table, keep the report; the exit code."""
    found = image.build()
    with tempfile.TemporaryDirectory(prefix="kernelet-conformance-") as name:
        work = Path(name)
        store, sudo, disks = work / "store", work / "sudo", work / "disks"
        store.mkdir()
        disks.mkdir()
        sudo.write_text(SUDO)
        images.fetch(WORK)
        with isolated(), docker_registry(store=store) as address:
            images.push_all(address, WORK)
        command = shlex.join([PYTHON, "-m", "tests.conformance", "--store", "/src/store", "--focus", focus or FOCUS])
        done = Guests(found, disks).run(
            f"{PREPARE}{command}; code=$?; cp build/conformance.json build/conformance/*.log /results; exit $code",
            kernel=KERNEL,
            memory_mib=2048,
            timeout_seconds=TIMEOUT_SECONDS,
            files={
                "build/critest": BUILD / "critest",
                "build/docker-registry": Path(shutil.which(EXECUTABLE) or EXECUTABLE),
                "build/sudo": sudo,
                "store": store,
            },
        )
    print(done.stdout, done.stderr, f"in a guest with Linux {KERNEL}: {done.seconds:.0f} s", sep="\n")
    for output, content in done.files.items():
        (OUTPUT if output.endswith(".json") else WORK / f"guest-{os.path.basename(output)}").write_bytes(content)
    return done.code
