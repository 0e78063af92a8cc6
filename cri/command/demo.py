"""kernelet demo: from nothing to a running pod on this machine, shown step by step; ``make run`` ends here.

An image is packed out of this machine's busybox with our own packer: no internet, no registry.  Then
everything goes over the CRI, as a kubelet does it.  ^C takes all of it away again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc

from cri import config, config_files
from cri.api import api_pb2 as api
from cri.client import Client, container_status
from kernel import process
from runtime import history
from runtime.errors import KerneletError, NotFound, WrongState
from runtime.image.layerwriter import LayerWriter
from runtime.image.pack import Package, Packer
from runtime.image.pull import load
from runtime.image.store import ImageStore
from runtime.journal import Journal
from runtime.paths import Paths
from runtime.store import Store

T = TypeVar("T")

IMAGE = "localhost/kernelet-demo:latest"
BUSYBOX = Path("/bin/busybox")
APPLETS = """
    sh ash ls cat echo sleep ps id hostname ip ping wget nc mount top date env grep uname vi true false pwd df du find
    head tail wc kill touch mkdir rm tr cut
""".split()
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var")
SCRIPT = """
echo "hello from $(hostname), where I am process $$ of $(ls -d /proc/[0-9]* | wc -l)"
echo "my user: $(id)"
echo "my address: $(ip -4 -o addr show dev eth0 | tr -s ' ' | cut -d ' ' -f 4)"
echo "my capabilities and filter: $(grep -E 'CapEff|Seccomp:' /proc/self/status | tr -s '\\n\\t' '  ')"
n=0; while sleep 10; do n=$((n+10)); echo "still here after $n s"; done
"""
#: What a kubelet writes too, and crictl reads.
LABELS = {"io.kubernetes.pod.name": "demo", "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "demo"}
LINES_SHOWN = 4
START_SECONDS = 20


def add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="the daemon's configuration")
    parser.add_argument("--once", action="store_true", help="show it and clean up, without waiting for ^C")


def run_demo(options: argparse.Namespace) -> int:
    chosen = config.load(options.config)
    if os.geteuid() != 0:
        raise KerneletError("the demo makes namespaces and mounts: run it as root")
    with cleaned(chosen), served(chosen, options.config or own_configuration(chosen)) as client:
        pod, container = show(client, chosen)
        try:
            if not options.once:
                say_what_next(chosen.socket, container)
                wait_for_interrupt()
        finally:
            remove(client, pod)
    return 0


def own_configuration(chosen: config.Config) -> Path | None:
    """For a machine without a configuration, one with the built-in network: what CNI plugins make (podman's, say) stays."""
    if config_files.files(config_files.DEFAULT_PATH):
        return None
    file = chosen.run_dir / "demo.toml"
    file.write_text('[network]\nkind = "built-in"\n')
    return file


@contextlib.contextmanager
def cleaned(chosen: config.Config) -> Iterator[None]:
    """At the end, remove the directories that were not there before."""
    new = [directory for directory in (chosen.root_dir, chosen.run_dir) if not directory.exists()]
    step("pack an image out of /bin/busybox", lambda: store_image(chosen.paths))
    try:
        yield
    finally:
        for directory in new:
            shutil.rmtree(directory, ignore_errors=True)
        print("everything is gone again" if new else "the pod and the image are gone; the directories were there before")


@contextlib.contextmanager
def served(chosen: config.Config, file: Path | None) -> Iterator[Client]:
    """A daemon of the demo's own, in its own session: ^C is for us, who then stop it in order."""
    log = chosen.run_dir / "daemon.log"
    command = [sys.executable, "-m", "cri", "serve", *(["--config", str(file)] if file else [])]
    pid = process.start_session(command, log)
    try:
        step("start the daemon", lambda: wait_for_socket(pid, chosen.socket, log))
        with Client(chosen.socket) as client:
            yield client
    finally:
        if not process.has_ended(pid):
            os.kill(pid, signal.SIGTERM)
            process.reap(pid)


def store_image(paths: Paths) -> None:
    """Put the demo's image into the store under IMAGE.  Raises WrongState when a daemon is using the store."""
    from runtime import lock

    paths.prepare()
    with lock.take(paths.lock):
        store = Store(paths.database)
        try:
            package = pack()
            load(ImageStore(paths, store, Journal(store)), package, IMAGE, package.root.digest)
        finally:
            store.close()


def pack() -> Package:
    """A small image: busybox under its many names, and a user."""
    if not BUSYBOX.exists():
        raise NotFound(f"{BUSYBOX}: no such file: the demo's image is made of it; install Debian's busybox-static")
    layer = LayerWriter()
    for name in DIRECTORIES:
        layer.directory(name, 0o1777 if name == "tmp" else 0o755)
    layer.file("bin/busybox", BUSYBOX, 0o755)
    for name in APPLETS:
        layer.hard_link(f"bin/{name}", "bin/busybox", 0o755)
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    layer.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    packer = Packer()
    packer.env, packer.cmd = ("PATH=/bin",), ("sh",)
    packer.add_layer(layer)
    return packer.pack()


def show(client: Client, chosen: config.Config) -> tuple[str, str]:
    """Run one pod with one container, print what came of it; their ids."""
    logs = chosen.run_dir / "demo-logs"
    sandbox = api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name="demo", namespace="default", uid="demo"),
        hostname="demo",
        labels=LABELS,
        log_directory=str(logs),
        linux=api.LinuxPodSandboxConfig(
            security_context=api.LinuxSandboxSecurityContext(namespace_options=api.NamespaceOption(pid=api.CONTAINER))
        ),
    )
    wish = api.ContainerConfig(
        metadata=api.ContainerMetadata(name="hello"),
        image=api.ImageSpec(image=IMAGE),
        command=["sh", "-c", SCRIPT],
        log_path="hello/0.log",
        labels={**LABELS, "io.kubernetes.container.name": "hello"},
        linux=api.LinuxContainerConfig(
            security_context=api.LinuxContainerSecurityContext(
                namespace_options=api.NamespaceOption(pid=api.CONTAINER), seccomp=api.SecurityProfile()
            )
        ),
    )
    pod = step(
        "RunPodSandbox", lambda: client.call(api.RunPodSandboxRequest(config=sandbox), api.RunPodSandboxResponse).pod_sandbox_id
    )
    create = api.CreateContainerRequest(pod_sandbox_id=pod, config=wish, sandbox_config=sandbox)
    container = step("CreateContainer", lambda: client.call(create, api.CreateContainerResponse).container_id)
    step("StartContainer", lambda: client.call(api.StartContainerRequest(container_id=container), api.StartContainerResponse))
    verbose = api.ContainerStatusRequest(container_id=container, verbose=True)
    print("\nthe container's log:")
    stream_log(Path(container_status(client, container).log_path))
    status = client.call(api.PodSandboxStatusRequest(pod_sandbox_id=pod), api.PodSandboxStatusResponse).status
    print(f"\nthe pod's address: {status.network.ip}")
    pid = json.loads(client.call(verbose, api.ContainerStatusResponse).info["info"])["pid"]
    show_node(chosen, pod, container, pid)
    show_steps(chosen.paths, container)
    return pod, container


def stream_log(path: Path) -> None:
    """Print the first lines of the log at *path* as they come."""
    deadline = time.monotonic() + START_SECONDS
    shown = 0
    while shown < LINES_SHOWN:
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines[shown:LINES_SHOWN]:
            print(f"  {line}", flush=True)
        shown = max(shown, min(len(lines), LINES_SHOWN))
        if time.monotonic() > deadline:
            raise KerneletError(f"the container wrote {shown} lines to {path} in {START_SECONDS} s; {LINES_SHOWN} were expected")
        time.sleep(0.02)


def show_node(chosen: config.Config, pod: str, container: str, pid: int) -> None:
    """Print what the pod and its container are on this node."""
    paths, network = chosen.paths, chosen.network
    print(f"\nwhat was created on this node for pod {pod[:12]} and container {container[:12]}:")
    pins = paths.run_sandbox(pod)
    kinds = sorted(kind.name for kind in pins.iterdir() if kind.name != "shm")
    link = f"kl{pod[:11]}"
    built_in = [
        (f"link {link}", f"the node's end of the pod's eth0, on bridge {network.bridge} ({network.subnet})"),
        (f"nftables table kernelet-{network.bridge}", "masquerades what leaves the bridge"),
    ]
    shown = [
        (f"{pins}/{{{','.join(kinds)}}}", "the pod's namespaces, kept by bind mounts; no pause container"),
        (f"{pins}/shm", "the pod's shared memory"),
        *(built_in if Path(f"/sys/class/net/{link}").exists() else [("its network", "made by the node's CNI plugins")]),
        (f"{paths.container(container)}", "the writable layer; the root is in no mount table of the node's"),
        (f"process {pid}", "the container's first"),
        (f"process {parent_of(pid)}", "its reaper: 24 KB that keep its output and its exit status"),
    ]
    for path in sorted(Path("/sys/fs/cgroup").rglob(container)):
        shown.append((f"{path}", "the container's cgroup"))
    for what, why in shown:
        print(f"  {what}\n      {why}")


def parent_of(pid: int) -> int:
    """The parent of process *pid*, as /proc says."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def show_steps(paths: Paths, container: str) -> None:
    """Print the system calls that made the container, the slowest with their times."""
    steps = [record for record in history.load_from_outside(paths.run_container(container)) if record.at_us is not None]
    if not steps:
        return
    ends = [record.at_us or 0 for record in steps]
    took = [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]
    print(f"\nthe container was made by {len(steps)} system calls in {ends[-1] / 1000:.2f} ms; the slowest of them:")
    for index in sorted(sorted(range(len(steps)), key=lambda i: -took[i])[:8]):
        print(f"  {index + 1:4} {took[index]:8.0f} µs  {steps[index].call[:90]}\n                    {steps[index].why}")


def say_what_next(socket: Path, container: str) -> None:
    print(
        f"\nThe daemon serves on {socket}.  In another terminal, try:\n"
        f"  .venv/bin/kernelet ps\n"
        f"  .venv/bin/kernelet logs -f {container[:12]}\n"
        f"  .venv/bin/kernelet exec {container[:12]} ps\n"
        f"  .venv/bin/kernelet explain {container[:12]}\n"
        f"  crictl --runtime-endpoint unix://{socket} pods\n"
        "Ctrl-C here removes the pod, stops the daemon and leaves nothing behind.",
        flush=True,
    )


def wait_for_interrupt() -> None:
    """Return on SIGINT or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    print("\nstopping")


def remove(client: Client, pod: str) -> None:
    client.call(api.StopPodSandboxRequest(pod_sandbox_id=pod), api.StopPodSandboxResponse)
    client.call(api.RemovePodSandboxRequest(pod_sandbox_id=pod), api.RemovePodSandboxResponse)
    client.call(api.RemoveImageRequest(image=api.ImageSpec(image=IMAGE)), api.RemoveImageResponse)


def wait_for_socket(pid: int, socket: Path, log: Path) -> None:
    """Return once the daemon *pid* answers.  Raises WrongState, with its last words, when it ends instead."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.has_ended(pid):
            raise WrongState(f"the daemon did not start: {log.read_text()[-500:]}")
        with contextlib.suppress(grpc.RpcError), Client(socket) as client:
            client.call(api.VersionRequest(), api.VersionResponse, timeout_seconds=1)
            return
        time.sleep(0.01)
    raise KerneletError(f"the daemon does not answer on {socket} after {START_SECONDS} s")


def step(what: str, action: Callable[[], T]) -> T:
    """Do *action* and print how long it took."""
    begun = time.perf_counter()
    result = action()
    print(f"{what:45} {(time.perf_counter() - begun) * 1000:8.1f} ms", flush=True)
    return result
