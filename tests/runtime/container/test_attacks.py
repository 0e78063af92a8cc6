"""What an image can try: each attack is made on a real container, and is refused or harmless.

The numbers are those of the CVEs that other runtimes had for the same idea.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import InvalidArgument, InvalidSpec, KerneletError, StartFailed
from runtime.image.layerwriter import LayerWriter
from runtime.image.pull import load
from runtime.node import Node
from runtime.spec import schema
from tests.support import wishes
from tests.support.image import busybox_packer
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")

NULL = os.makedev(1, 3)


@pytest.fixture
def pod(node: Node) -> str:
    return node.run_sandbox(wishes.sandbox())


@pytest.fixture
def evil(node: Node) -> Callable[[Callable[[LayerWriter], None]], str]:
    """Makes the image "evil": busybox with one more layer, which the test fills."""

    def make(fill: Callable[[LayerWriter], None]) -> str:
        packer, layer = busybox_packer("none"), LayerWriter("none")
        fill(layer)
        packer.add_layer(layer)
        package = packer.pack()
        return load(node.images, package, "docker.io/library/evil:latest", package.root.digest).id

    return make


Evil = Callable[[Callable[[LayerWriter], None]], str]


def output(node: Node, pod: str, log: Path, script: str, **more: object) -> list[str]:
    """What a container says that runs *script*."""
    config = wishes.container(["sh", "-c", script], log=log, **more)  # type: ignore[arg-type]
    wishes.finish(node, wishes.run(node, pod, config))
    return wishes.lines(log)


def refused(node: Node, pod: str, kind: type[BaseException], match: str, **more: object) -> None:
    """The container cannot be created, and nothing of it is left."""
    with pytest.raises(kind, match=match):
        node.create_container(pod, wishes.container(["true"], **more))  # type: ignore[arg-type]
    assert node.containers() == []
    assert os.listdir(node.paths.run_containers) == []
    assert os.listdir(node.paths.containers) == []


def bind(source: Path, destination: str, *options: str) -> schema.Mount:
    return schema.Mount(destination=destination, type="bind", source=str(source), options=["rbind", "rprivate", *options])


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_or_sys_that_is_a_symlink_is_refused(node: Node, pod: str, evil: Evil, name: str) -> None:
    """CVE-2023-27561, CVE-2019-19921: the masks would land where the link leads."""

    def fill(layer: LayerWriter) -> None:
        layer.directory("tmp/fake")
        layer.symlink(name, "/tmp/fake")

    refused(node, pod, InvalidSpec, f"mount /{name}: .* must be mounted on ordinary directory", image=evil(fill))


def test_proc_that_is_a_file_is_refused(node: Node, pod: str, evil: Evil) -> None:
    image = evil(lambda layer: layer.file("proc", b"x"))
    refused(node, pod, InvalidSpec, "mount /proc: .* must be mounted on ordinary directory", image=image)


@pytest.mark.parametrize("target", ["/", "../../../..", "/../../etc", "/proc/1/root", "/proc/self/root/tmp"])
def test_a_mount_through_a_symlink_stays_inside(node: Node, pod: str, evil: Evil, tmp_path: Path, target: str) -> None:
    """CVE-2019-18837, CVE-2021-30465, CVE-2024-45310: neither mounted nor made on the host."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/proof").write_text("here\n")
    name = f"outside-{os.getpid()}"
    image = evil(lambda layer: layer.symlink("link", target))
    config = wishes.container(["sh", "-c", f"cat /link/{name}/proof /{name}/proof /etc/{name}/proof"], log=tmp_path / "log")
    config.image = image
    config.spec.mounts.append(bind(tmp_path / "volume", f"/link/{name}"))
    try:
        wishes.finish(node, wishes.run(node, pod, config))
        assert "here" in wishes.lines(tmp_path / "log", "stdout")
    except (KerneletError, OSError) as error:
        assert "proc" in target, error
    for place in ("/", "/etc", "/tmp", str(node.paths.run_dir), str(node.paths.attach_point)):
        assert not Path(place, name).exists()


@pytest.mark.parametrize("below", ["tmpfs", "bind"])
def test_a_mount_behind_an_ordinary_link_is_where_it_should_be(
    node: Node, pod: str, evil: Evil, tmp_path: Path, below: str
) -> None:
    """No attack: in most images /var/run is a link to /run, which may have a volume on it."""
    for name in ("volume", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "secret/token").write_text("here\n")
    config = wishes.container(["cat", "/run/secrets/token", "/var/run/secrets/token"], log=tmp_path / "log")
    config.image = evil(lambda layer: layer.symlink("var/run", "/run"))
    fresh = schema.Mount(destination="/run", type="tmpfs", source="tmpfs")
    config.spec.mounts += [fresh if below == "tmpfs" else bind(tmp_path / "volume", "/run")]
    config.spec.mounts.append(bind(tmp_path / "secret", "/var/run/secrets"))
    wishes.finish(node, wishes.run(node, pod, config))
    assert wishes.lines(tmp_path / "log") == ["here", "here"]


def test_a_mount_over_the_root_is_refused(node: Node, pod: str, tmp_path: Path) -> None:
    config = wishes.container(["true"])
    config.spec.mounts.append(bind(tmp_path, "//"))
    with pytest.raises(InvalidSpec, match="mount at /"):
        node.create_container(pod, config)


def test_a_mount_with_dots_stays_inside(node: Node, pod: str, tmp_path: Path) -> None:
    (tmp_path / "proof").write_text("here\n")
    name = f"{tmp_path.name}-{os.getpid()}"
    config = wishes.container(["cat", f"/{name}/proof"], log=tmp_path / "log")
    config.spec.mounts.append(bind(tmp_path, f"/tmp/../../../../{name}"))
    wishes.finish(node, wishes.run(node, pod, config))
    assert wishes.lines(tmp_path / "log") == ["here"]
    assert not Path("/", name).exists()


@pytest.mark.parametrize("target", ["/tmp", "/", "../../../../dev"])
def test_dev_that_is_a_symlink_makes_no_node_outside(node: Node, pod: str, evil: Evil, tmp_path: Path, target: str) -> None:
    """CVE-2026-41579: device nodes and links were made on the host before the pivot."""
    before = sorted(os.listdir("/")), sorted(os.listdir("/dev"))
    image = evil(lambda layer: layer.symlink("dev", target))
    try:
        lines = output(node, pod, tmp_path / "log", "[ -c /dev/null ] && echo device", image=image)
        assert lines == ["device"]
    except (KerneletError, OSError) as error:
        assert target != "/tmp", error
    assert (sorted(os.listdir("/")), sorted(os.listdir("/dev"))) == before
    assert not any(os.path.lexists(f"/tmp/{name}") for name in ("null", "ptmx", "fd", "pts"))


def test_dev_that_is_a_file_is_refused(node: Node, pod: str, evil: Evil) -> None:
    refused(node, pod, InvalidSpec, "/dev: there is no place", image=evil(lambda layer: layer.file("dev", b"")))


def test_a_null_device_that_is_a_symlink_hides_nothing_else(node: Node, pod: str, evil: Evil, tmp_path: Path) -> None:
    """CVE-2025-31133: what covers a masked file is the host's null device, and nothing of the image's."""
    (tmp_path / "secret").write_text("secret\n")

    def fill(layer: LayerWriter) -> None:
        layer.symlink("dev/null", "/etc/passwd")
        layer.file("etc/masked", b"to hide\n")

    config = wishes.container(
        ["sh", "-c", "cat /etc/masked; echo overwritten > /etc/masked; stat -c '%t:%T' /etc/masked; head -n 1 /etc/passwd"],
        log=tmp_path / "log",
        image=evil(fill),
    )
    config.spec.mounts = [mount for mount in config.spec.mounts if not mount.destination.startswith("/dev")]
    config.spec.linux.masked_paths.append("/etc/masked")
    with pytest.raises(InvalidSpec, match=r"linux\.devices /dev/null: something else stands there, not the device c 1:3"):
        node.create_container(pod, config)
    config.spec.linux.devices = []
    wishes.finish(node, wishes.run(node, pod, config))
    assert wishes.lines(tmp_path / "log") == ["1:3", "root:x:0:0:root:/root:/bin/sh"]


def test_a_masked_path_that_is_a_symlink_hides_what_it_leads_to_inside(node: Node, pod: str, evil: Evil, tmp_path: Path) -> None:
    host = Path("/etc/hostname").read_bytes() if Path("/etc/hostname").exists() else None

    def fill(layer: LayerWriter) -> None:
        layer.file("etc/secret", b"hidden\n")
        layer.symlink("masked", "../../../../etc/secret")
        layer.symlink("nowhere", "/not/there")

    config = wishes.container(["sh", "-c", "cat /masked /etc/secret; echo end"], log=tmp_path / "log", image=evil(fill))
    config.spec.linux.masked_paths += ["/masked", "/nowhere"]
    wishes.finish(node, wishes.run(node, pod, config))
    assert wishes.lines(tmp_path / "log") == ["end"]
    assert (Path("/etc/hostname").read_bytes() if Path("/etc/hostname").exists() else None) == host


def test_a_working_directory_behind_a_descriptor_is_refused(node: Node, pod: str) -> None:
    """CVE-2024-21626: no descriptor of the host's is open, and such a link is not followed."""
    told = "cwd = openat2.*(no such file|too many levels of symbolic links|not a directory)"
    for number in (*range(3, 15), 20, 21, 96):
        refused(node, pod, StartFailed, told, cwd=f"/proc/self/fd/{number}")
    for directory in ("/proc/1/fd/9", "/proc/thread-self/fd/9/.."):
        refused(node, pod, StartFailed, told, cwd=directory)


def test_a_working_directory_in_another_process_root_is_refused(node: Node) -> None:
    """With the host's processes in sight /proc/1/root is the host's root; the lookup has all our rights."""
    pod = node.run_sandbox(wishes.sandbox(pid="node"))
    ours = f"/proc/{os.getpid()}"
    for directory in (f"{ours}/root", f"{ours}/cwd", "/proc/self/root", f"{ours}/root/etc"):
        refused(node, pod, StartFailed, "too many levels of symbolic links", cwd=directory, pid="node")
    refused(node, pod, StartFailed, "too many levels of symbolic links|permission denied", cwd="/proc/1/root", pid="node")


def test_a_working_directory_that_is_a_symlink_stays_inside(node: Node, pod: str, evil: Evil, tmp_path: Path) -> None:
    def fill(layer: LayerWriter) -> None:
        layer.symlink("work", "../../../../home/user")
        layer.symlink("root-link", "/proc/1/root")

    image = evil(fill)
    assert output(node, pod, tmp_path / "log", "pwd -P", image=image, cwd="/work") == ["/home/user"]
    with pytest.raises(KerneletError):
        wishes.run(node, pod, wishes.container(["true"], image=image, cwd="/root-link/tmp"))


def test_a_huge_passwd_is_refused(node: Node, pod: str, evil: Evil) -> None:
    """CVE-2026-47262."""
    image = evil(lambda layer: layer.file("etc/passwd", b"x:x:1:1::/:\n" * 100_000))
    refused(node, pod, InvalidArgument, "/etc/passwd: more than 1048576 bytes", image=image, run_as_username="x")


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link to /dev/zero", "link to host"])
def test_a_passwd_that_is_no_file_is_refused_and_not_opened(node: Node, pod: str, evil: Evil, kind: str) -> None:
    """An opened watchdog reboots the host; a FIFO would wait for ever; /dev/zero has no end."""

    def fill(layer: LayerWriter) -> None:
        match kind:
            case "fifo":
                layer.fifo("etc/passwd")
            case "device":
                layer.device("etc/passwd", "c", 10, 130)
            case "directory":
                layer.whiteout("etc/passwd")
                layer.directory("etc/passwd")
            case "link to /dev/zero":
                layer.device("zero", "c", 1, 5, 0o666)
                layer.symlink("etc/passwd", "/zero")
            case _:
                layer.symlink("etc/passwd", "../../../../../proc/self/environ")

    match = "not in the image's" if kind == "link to host" else "not a regular file"
    refused(node, pod, InvalidArgument, match, image=evil(fill), run_as_username="nobody-else")


def test_numbers_that_are_no_ids_are_refused(node: Node, pod: str, evil: Evil) -> None:
    """CVE-2024-40635: 2^32 is not root.  CVE-2026-46680: a number is no name, though the image has one."""
    image = evil(lambda layer: layer.file("etc/passwd", b"4294967296:x:0:0::/:/bin/sh\nbig:x:4294967295:0::/:\n"))
    for number in (1 << 31, 1 << 32, -1):
        refused(node, pod, InvalidArgument, "must be between 0 and 2147483647", image=image, run_as_user=number)
    refused(node, pod, InvalidArgument, "must be between 0 and", image=image, run_as_username="big")


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_a_program_that_is_no_file_fails_the_start(node: Node, pod: str, evil: Evil, kind: str) -> None:
    def fill(layer: LayerWriter) -> None:
        match kind:
            case "fifo":
                layer.fifo("program", 0o755)
            case "device":
                layer.device("program", "c", 1, 5, 0o777)
            case _:
                layer.directory("program")

    container = node.create_container(pod, wishes.container(["/program"], image=evil(fill)))
    with pytest.raises(StartFailed, match="cannot execute '/program': permission denied"):
        node.start_container(container)


def test_a_device_of_the_image_cannot_be_opened(node: Node, pod: str, evil: Evil, tmp_path: Path) -> None:
    def fill(layer: LayerWriter) -> None:
        layer.device("memory", "c", 1, 1, 0o666)
        layer.device("zero", "c", 1, 5, 0o666)

    script = "head -c 1 /zero | wc -c; head -c 1 /memory; mknod /m c 1 1; cat /m"
    lines = output(node, pod, tmp_path / "log", script, image=evil(fill))
    assert lines == ["1", "head: /memory: Operation not permitted", "cat: can't open '/m': Operation not permitted"]
    container = wishes.run(node, pod, wishes.container(["sleep", "100"]))
    result = node.exec_sync(container, ["sh", "-c", "mknod /m c 1 1; cat /m"], 10)
    assert (result.exit_code, result.stderr) == (1, b"cat: can't open '/m': Operation not permitted\n")


def test_a_bound_null_device_is_not_the_containers_to_change(node: Node, pod: str, tmp_path: Path) -> None:
    """stdin is the host's null device, and a masked file is covered by it; our own fchown must not reach it either."""
    before = os.stat("/dev/null")
    config = wishes.container(
        ["sh", "-c", "chmod 600 /dev/stdin; chown 1:1 /dev/stdin; chmod 600 /etc/hosts; echo x > /etc/hosts && echo written"],
        log=tmp_path / "log",
    )
    config.spec.linux.masked_paths.append("/etc/hosts")
    wishes.finish(node, wishes.run(node, pod, config))
    assert wishes.lines(tmp_path / "log", "stdout") == ["written"]
    assert len(wishes.lines(tmp_path / "log", "stderr")) == 3
    output(node, pod, tmp_path / "user", "id -u", run_as_user=12345)
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_rdev) == (before.st_mode, before.st_uid, before.st_gid, NULL)
    assert stat.S_ISCHR(after.st_mode)


@pytest.mark.parametrize("field", ["args", "env", "cwd", "destination"])
def test_a_string_with_a_nul_in_it_is_refused(node: Node, pod: str, tmp_path: Path, field: str) -> None:
    """The kernel would see a shorter one than was checked: /etc\\0 is not below a volume."""
    config = wishes.container(["sh", "-c", "true"])
    process = config.spec.process
    assert process is not None
    match field:
        case "args":
            process.args.append("x\0y")
        case "env":
            process.env.append("HOME=/root\0secret")
        case "cwd":
            process.cwd = "/\0tmp"
        case _:
            config.spec.mounts.append(bind(tmp_path, "/etc\0/x"))
    with pytest.raises(InvalidSpec) as refusal:
        node.create_container(pod, config)
    assert "secret" not in str(refusal.value)


def test_a_newline_in_home_stays_in_home(node: Node, pod: str, tmp_path: Path) -> None:
    """CVE-2022-4318: nothing is written to the image's files, so nothing can be smuggled into them."""
    home = "HOME=/root\nevil:x:0:0::/:/bin/sh"
    lines = output(node, pod, tmp_path / "log", 'grep -c evil /etc/passwd; echo "$HOME" | wc -l', env=[home], run_as_user=4242)
    assert lines == ["0", "2"]
