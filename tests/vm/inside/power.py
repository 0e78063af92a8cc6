"""What runs in a guest whose power is cut: ``python -m tests.vm.inside.power DEVICE``, boot after boot on the same disk.

Each boot looks first at what the one before has left: images are whole, which is read by containers made from them, no pod
is said to be ready, and what is left is removed without a trace.  Then it says "busy", and pulls, makes, starts and removes
until it ends.  With "check" it only looks, and ends in order.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import grpc

from cri.api import api_pb2 as api
from runtime.paths import Paths
from tests.e2e.kubelet import Kubelet, kept
from tests.support import wait
from tests.support.daemon import Daemon
from tests.support.isolation import Run
from tests.support.registry import docker_registry

KEPT = Path("/kept")
#: The registry's store, which has ``IMAGES`` (tests/vm/test_power_cut.py).
STORE = Path("/src/store")
IMAGES = ("one", "two", "three")
#: Of an image's layers, every file by its sum; a container says whether all are as they were packed.
VERIFY = ["sh", "-c", "cd / && sha256sum -c sums >/dev/null && wc -l <sums"]


def main() -> None:
    device, *words = sys.argv[1:]
    KEPT.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", device, KEPT], check=True)
    paths = Paths(root_dir=KEPT / "kernelet", run_dir=Path("/run/power/run"))
    paths.prepare()
    run = Run(Path("/run/power"), "power0", IPv4Network("10.77.0.0/16"), is_isolated=True)
    with docker_registry(store=STORE) as registry:
        daemon = Daemon(paths, run)
        daemon.start()
        with daemon.client() as call:
            call.wait_until_ready()
            kubelet = Kubelet(call, Path("/run/power/logs"), f"{registry}/one:latest")
            check(kubelet, paths)
            if "check" not in words:
                busy(kubelet, registry)
        assert daemon.stop() == 0
    subprocess.run(["umount", KEPT], check=True)


def check(kubelet: Kubelet, paths: Paths) -> None:
    """Look at what is there after the boot; AssertionError that says what is not as it must be."""
    pods = kubelet.call(api.ListPodSandboxRequest()).items
    ghosts = [pod.id for pod in pods if pod.state == api.SANDBOX_READY]
    assert not ghosts, f"pods of before are said to be ready: {ghosts}"
    containers = kubelet.call(api.ListContainersRequest()).containers
    alive = [each.id for each in containers if each.state in (api.CONTAINER_RUNNING, api.CONTAINER_CREATED)]
    assert not alive, f"containers of before are said to live: {alive}"
    images = [image.repo_tags[0] for image in kubelet.call(api.ListImagesRequest()).images if image.repo_tags]
    for pod in pods:
        kubelet.remove_pod(pod.id)
    left = kept(paths)
    remains = {place: names for place, names in left.items() if names and place not in (paths.layers.name, paths.blobs.name)}
    assert not remains, f"left behind by pods that are removed: {remains}"
    for image in images:
        assert verified(kubelet, image) > 0
    if not images:
        kubelet.pull()
        assert verified(kubelet, kubelet.image) > 0
    print(f"found {len(pods)} pods, {len(containers)} containers and {len(images)} whole images", flush=True)


def verified(kubelet: Kubelet, image: str) -> int:
    """How many files of *image* a new container has read and found to be right."""
    kubelet.image = image
    pod = kubelet.run_pod()
    container = kubelet.create(pod, kubelet.container_config(VERIFY))
    kubelet.start(container)
    assert kubelet.finish(container, 60) == 0, f"image {image} is not whole: {kubelet.lines(container)}"
    (count,) = kubelet.lines(container, "stdout")
    kubelet.remove_pod(pod)
    return int(count)


def busy(kubelet: Kubelet, registry: str) -> None:
    """Pull, and make and remove pods, side by side, until the power is cut; an error of any ends it."""
    failed: list[BaseException] = []

    def endlessly(act: Callable[[str], None]) -> None:
        try:
            for name in itertools.cycle(IMAGES):
                act(f"{registry}/{name}:latest")
        except BaseException as error:
            failed.append(error)

    def pull(image: str) -> None:
        kubelet.pull(image)
        kubelet.call(api.RemoveImageRequest(image=api.ImageSpec(image=image)))

    def live(image: str) -> None:
        pod = kubelet.run_pod()
        try:
            kubelet.pull(image)
            config = kubelet.container_config(["sleep", "1000"], image=api.ImageSpec(image=image))
            kubelet.start(kubelet.create(pod, config))
        except grpc.RpcError as error:  # the other side has just removed the image
            if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                raise
        if int(pod[:2], 16) % 2:
            kubelet.remove_pod(pod)

    threads = [threading.Thread(target=endlessly, args=(act,), daemon=True) for act in (pull, pull, live, live)]
    for thread in threads:
        thread.start()
    print("busy", flush=True)
    wait.until(lambda: failed, 600, "the power to be cut")
    os.sync()
    raise failed[0]


if __name__ == "__main__":
    main()
