"""The power of a node is cut while it pulls, makes and starts: QEMU is killed, its disk kept, and it boots again.

Twice in an ordinary run; ``KERNELET_POWER_CUTS`` says how often.  The moment is random: its seed is in what a failure shows.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Package, Packer
from runtime.image.push import push
from runtime.image.registry import Registry
from tests.support.image import PATH, busybox_layer
from tests.support.registry import EXECUTABLE, docker_registry
from tests.support.requires import requires
from tests.vm.disk import run as command
from tests.vm.guest import PYTHON, Guests
from tests.vm.inside.power import IMAGES

CUTS = int(os.environ.get("KERNELET_POWER_CUTS", "2"))
KERNEL = "6.1"
#: How long it goes on after it has begun.
LONGEST_SECONDS = 15.0
START = "mv docker-registry /usr/bin; mkdir -p /run/power"
LAYERS, FILES, SIZE = 4, 8, 40_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry's store with images whose layers have something to be broken."""
    directory = tmp_path_factory.mktemp("store")
    with docker_registry(store=directory) as address:
        for name in IMAGES:
            push(Registry(), package(name), f"{address}/{name}:latest")
    yield directory
    shutil.rmtree(directory)


def package(name: str) -> Package:
    """busybox, layers of noise, and the sum of every file of it."""
    source, packer, sums = random.Random(name), Packer(), list[str]()
    packer.env, packer.cmd = (PATH,), ("sh",)
    packer.add_layer(busybox_layer())
    for number in range(LAYERS):
        layer = LayerWriter()
        for index in range(FILES):
            content, path = source.randbytes(SIZE), f"noise-{number}-{index}"
            layer.file(path, content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {path}\n")
        packer.add_layer(layer)
    last = LayerWriter()
    last.file("sums", "".join(sums).encode())
    packer.add_layer(last)
    return packer.pack()


@pytest.mark.timeout(180 + 150 * CUTS)
@requires("docker-registry", "busybox")
def test_a_node_whose_power_is_cut_comes_back_whole(vm: Guests, store: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    command("mke2fs", "-q", "-t", "ext4", disk, "512M")
    files = {"store": store, "docker-registry": Path(EXECUTABLE)}
    seed = random.SystemRandom().randrange(1 << 32)
    source = random.Random(seed)
    work = f"{PYTHON} -m tests.vm.inside.power /dev/vdd"
    for number in range(CUTS):
        seconds = source.uniform(0, LONGEST_SECONDS)
        said = vm.cut(f"{START}; {work}", kernel=KERNEL, files=files, disk=disk, after="busy\n", seconds=seconds)
        print(f"seed {seed}: cut {number + 1} after {seconds:.2f} s: {said.splitlines()[0]}")
    done = vm.run(f"{START}; {work} check", kernel=KERNEL, files=files, disk=disk)
    assert done.check().stdout.startswith("found "), f"seed {seed}"
    print(f"seed {seed}: at last: {done.stdout}")
