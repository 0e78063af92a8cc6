"""``memory``: PSS of daemon, monitor and reapers with one container and with a hundred, each in a pod of its own.

Then what one that is created and not started holds: its init, which waits in the runner, and its reaper.  PSS
(smaps_rollup) counts a page that several processes share by its share, so the sum is what the node gives.  Peers as
others measured them: conmon 365 KB a container, containerd's shim 2.8 MB; crun's waiting init 844, runc's 8,646.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from cri.api import api_pb2 as api
from kernel import process
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.monitor.adopt import find_reapers
from runtime.paths import Paths
from runtime.store import Store
from tests.bench.measure import Figure
from tests.support.client import Client
from tests.support.daemon import Daemon
from tests.support.image import store_busybox
from tests.support.isolation import Run

CONTAINERS = 100
CREATED = 20
CONMON_KB = 365.0
CRUN_INIT_KB = 844.0


def pss_kb(pid: int) -> float:
    """Proportional set size of *pid* in KB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return float(found[1])


def reapers(run_dir: Path) -> list[int]:
    """The reapers that serve a container below *run_dir*."""
    return [found.pid for found in find_reapers(run_dir).values()]


def add_container(client: Client, number: int, *, start: bool = True) -> None:
    """One more pod with one more container."""
    metadata = api.PodSandboxMetadata(name=f"pod{number}", namespace="bench", uid=f"uid{number}")
    options = api.NamespaceOption(pid=api.CONTAINER)
    sandbox = api.PodSandboxConfig(
        metadata=metadata,
        log_directory="/tmp/kernelet-bench-logs",
        linux=api.LinuxPodSandboxConfig(security_context=api.LinuxSandboxSecurityContext(namespace_options=options)),
    )
    wish = api.ContainerConfig(
        metadata=api.ContainerMetadata(name="c"),
        image=api.ImageSpec(image="busybox"),
        command=["sleep", "1000"],
        log_path=f"{number}.log",
        linux=api.LinuxContainerConfig(security_context=api.LinuxContainerSecurityContext(namespace_options=options)),
    )
    pod = client(api.RunPodSandboxRequest(config=sandbox)).pod_sandbox_id
    container = client(api.CreateContainerRequest(pod_sandbox_id=pod, config=wish, sandbox_config=sandbox)).container_id
    if start:
        client(api.StartContainerRequest(container_id=container))


def remove_pods(client: Client) -> None:
    for item in client(api.ListPodSandboxRequest()).items:
        client(api.RemovePodSandboxRequest(pod_sandbox_id=item.id))


def census(daemon: Daemon) -> dict[str, float]:
    time.sleep(1)
    found = reapers(daemon.paths.run_dir)
    return {
        "daemon": pss_kb(daemon.pid),
        "monitor": pss_kb(daemon.monitor_pid()),
        "reapers": sum(map(pss_kb, found)),
        "count": float(len(found)),
    }


def measured(directory: Path, run: Run) -> list[Figure]:
    paths = Paths(directory / "root", directory / "run")
    paths.prepare()
    store = Store(paths.database)
    store_busybox(ImageStore(paths, store, Journal(store)))
    store.close()
    daemon = Daemon(paths, run)
    daemon.start()
    with daemon.client() as client:
        add_container(client, 0)
        one = census(daemon)
        for number in range(1, CONTAINERS):
            add_container(client, number)
        many = census(daemon)
        remove_pods(client)
        waiting = created(client, daemon)
        remove_pods(client)
    daemon.stop()
    return report(one, many, waiting)


def created(client: Client, daemon: Daemon) -> list[float]:
    """PSS in KB of each of ``CREATED`` containers that are not started."""
    for number in range(CREATED):
        add_container(client, number, start=False)
    time.sleep(1)
    held = reapers(daemon.paths.run_dir)
    inits = [pid for pid in process.all_pids() if process.parent_of(pid) in held]
    assert len(inits) == len(held) == CREATED
    return [pss_kb(init) + pss_kb(process.parent_of(init)) for init in inits]


def report(one: dict[str, float], many: dict[str, float], waiting: list[float]) -> list[Figure]:
    """Print both, what each container added, and what one holds that waits for its start."""
    print(f"\nmemory (PSS, KB)\n{'':14}{'1':>9}{CONTAINERS:>9}{'per added':>11}")
    added = 0.0
    for name in ("daemon", "monitor", "reapers"):
        each = (many[name] - one[name]) / (CONTAINERS - 1)
        added += each
        print(f"{name:14}{one[name]:9.0f}{many[name]:9.0f}{each:11.1f}")
    print(f"{'in all':34}{added:9.1f}   ({many['count']:.0f} reapers)")
    each = sum(waiting) / len(waiting)
    print(f"{'created, not started':34}{each:9.1f}   (init and reaper, {len(waiting)} of them)")
    mine = Figure("memory", "KB per container", added, CONMON_KB, "conmon (others' measurement)", added / CONMON_KB, CONTAINERS)
    idle = Figure("memory-created", "KB", each, CRUN_INIT_KB, "crun (an earlier measurement)", each / CRUN_INIT_KB, CREATED)
    return [mine, idle]
