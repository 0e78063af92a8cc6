"""The ground of a start: what is opened, what is made, what is seen; on real mounts in a namespace of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from kernel import mount
from kernel.fd import Fd, open_path
from runtime.container import ground
from runtime.container.ground import prepare
from runtime.container.ground_binds import open_bind, open_null_device, require_shared
from runtime.errors import HostPathNotFound, InvalidSpec, Unsupported
from runtime.spec import schema
from tests.support import child
from tests.support.requires import requires

pytestmark = requires("root")

T = TypeVar("T")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An image's root and a volume beside it."""
    for name in ("root/etc", "root/proc", "root/dev", "root/tmp", "volume/inner", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "volume/file").write_text("in the volume\n")
    return tmp_path


def apart(function: Callable[[], T]) -> T:
    return child.run(function, namespaces=["mount"])


def bind(source: Path, destination: str = "/data", *options: str) -> schema.Mount:
    return schema.Mount(destination=destination, type="bind", source=str(source), options=["rbind", *options])


def spec_of(*mounts: schema.Mount, cwd: str = "/", masked: tuple[str, ...] = (), readonly: bool = False) -> schema.Spec:
    return schema.Spec(
        root=schema.Root(path="r", readonly=readonly),
        process=schema.Process(args=["x"], cwd=cwd),
        mounts=list(mounts),
        linux=schema.Linux(masked_paths=list(masked)),
    )


def laid(tree: Path, spec: schema.Spec, **more: Any) -> ground.Ground:
    root = mount.clone_tree(tree / "root")
    return prepare(spec, root, attach_point=tree / "outside", in_cgroup=True, **more)


def is_writable(directory: Fd) -> bool:
    try:
        os.mkdir("probe", dir_fd=directory.fileno())
    except OSError as error:
        assert error.errno == errno.EROFS
        return False
    os.rmdir("probe", dir_fd=directory.fileno())
    return True


def test_a_host_path_that_is_not_there_is_named(tree: Path) -> None:
    with pytest.raises(HostPathNotFound, match=r"mount /data: host path .*/none: no such file or directory"):
        open_bind(bind(tree / "none"))


def test_an_option_that_a_bind_mount_does_not_have_is_named(tree: Path) -> None:
    with pytest.raises(InvalidSpec, match="mount /data: unknown option 'rro0' for a bind mount"):
        open_bind(bind(tree / "volume", "/data", "rro0"))
    open_bind(bind(tree / "volume", "/data", "size=1")).close()  # mount(2) passes it over, and documents count on that


def test_read_only_is_of_the_topmost_mount_and_rro_of_all_below(tree: Path) -> None:
    def look() -> list[bool]:
        with mount.new_filesystem("tmpfs") as inner:
            mount.attach(inner, tree / "volume/inner")
        found = []
        for options in (["rw"], ["ro"], ["rro"]):
            with open_bind(bind(tree / "volume", "/data", *options)) as opened:
                mount.attach(opened, tree / "outside")
            for place in ("outside", "outside/inner"):
                with open_path(tree / place, os.O_DIRECTORY) as directory:
                    found.append(is_writable(directory))
            mount.unmount(tree / "outside")
        return found

    assert apart(look) == [True, True, False, True, False, False]


def test_bind_shows_no_mount_below_and_rbind_does(tree: Path) -> None:
    def look() -> list[list[str]]:
        with mount.new_filesystem("tmpfs") as inner:
            mount.attach(inner, tree / "volume/inner")
        (tree / "volume/inner/seen").touch()
        found = []
        for kind in ("bind", "rbind"):
            wish = schema.Mount(destination="/data", type="bind", source=str(tree / "volume"), options=[kind])
            with open_bind(wish) as opened:
                mount.attach(opened, tree / "outside")
            found.append(os.listdir(tree / "outside/inner"))
            mount.unmount(tree / "outside")
        return found

    assert apart(look) == [[], ["seen"]]


def test_rshared_needs_a_shared_mount_and_gets_its_group(tree: Path) -> None:
    def refuse() -> None:
        require_shared(bind(tree / "volume", "/data", "rslave"))
        require_shared(bind(tree / "volume", "/data", "rshared"))

    with pytest.raises(InvalidSpec, match="is not on a shared mount, which rshared needs"):
        apart(refuse)

    def look() -> list[tuple[bool, bool]]:
        mount.bind(tree / "volume", tree / "volume")
        mount.set_propagation(tree / "volume", "shared")
        found = []
        for kind in ("rprivate", "rslave", "rshared"):
            with open_bind(bind(tree / "volume", "/data", kind)) as opened:
                mount.attach(opened, tree / "outside")
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            [line] = [line for line in lines if f" {tree}/outside " in line]
            found.append((" shared:" in line, " master:" in line))
            mount.unmount(tree / "outside")
        return found

    assert apart(look) == [(False, False), (False, True), (True, False)]


@pytest.mark.parametrize("target", ["../../../../outside", "{}/outside", "/", "tmp"])
def test_places_are_made_inside_the_root_whatever_links_say(tree: Path, target: str) -> None:
    (tree / "root/link").symlink_to(target.format(tree))
    before = sorted(path for path in tree.rglob("*") if not path.is_relative_to(tree / "root"))
    try:
        laid(tree, spec_of(bind(tree / "volume", "/link/made"), bind(tree / "volume/file", "/link/file/made"))).close()
    except InvalidSpec:
        assert "outside" in target  # it leads nowhere inside: refused
    assert sorted(path for path in tree.rglob("*") if not path.is_relative_to(tree / "root")) == before


def test_a_place_is_a_file_for_a_file_and_a_directory_for_a_directory(tree: Path) -> None:
    prepared = laid(tree, spec_of(bind(tree / "volume", "/a/b"), bind(tree / "volume/file", "/c/d"), cwd="/work/here"))
    prepared.close()
    assert (tree / "root/a/b").is_dir()
    assert (tree / "root/c/d").is_file()
    assert (tree / "root/work/here").is_dir()
    assert [opened.is_directory for _, opened in prepared.facts.opened] == [True, False]


def test_a_place_in_a_volume_is_made_there_and_one_in_a_tmpfs_by_init(tree: Path) -> None:
    tmpfs = schema.Mount(destination="/tmp", type="tmpfs")
    inner, fresh = bind(tree / "outside", "/data/x/y"), bind(tree / "outside", "/tmp/a/b")
    prepared = laid(tree, spec_of(bind(tree / "volume"), inner, tmpfs, fresh, cwd="/tmp/w"))
    prepared.close()
    assert (tree / "volume/x/y").is_dir()
    assert not (tree / "root/data/x").exists()
    assert dict(prepared.facts.missing) == {3: ("/tmp/a", "/tmp/a/b"), 4: ("/tmp/w",)}


def test_a_place_behind_a_link_is_made_on_the_mount_that_is_there(tree: Path) -> None:
    """/var/run is /run in most images; volumes are mounted on the one, secrets under the other."""
    (tree / "root/run").mkdir()
    (tree / "root/var").mkdir()
    (tree / "root/var/run").symlink_to("../run")
    volume, secret = bind(tree / "volume", "/run"), bind(tree / "outside", "/var/run/secrets/token")
    laid(tree, spec_of(volume, secret)).close()
    assert (tree / "volume/secrets/token").is_dir()
    laid(tree, spec_of(bind(tree / "volume", "/var/run"), bind(tree / "outside", "/run/other"), cwd="/var/run/work")).close()
    assert (tree / "volume/other").is_dir()
    assert (tree / "volume/work").is_dir()
    fresh = laid(tree, spec_of(schema.Mount(destination="/run", type="tmpfs"), secret))
    fresh.close()
    assert dict(fresh.facts.missing) == {1: ("/run/secrets", "/run/secrets/token")}


def test_a_place_that_cannot_be_made_in_a_read_only_volume_is_told(tree: Path) -> None:
    with pytest.raises(InvalidSpec, match="mount at /data/x: nothing stands there, and what is below is read-only"):
        laid(tree, spec_of(bind(tree / "volume", "/data", "ro"), bind(tree / "outside", "/data/x")))


@pytest.mark.parametrize(
    ("destination", "match"),
    [("/", "the root is the image's"), ("//", "the root"), ("/a/../..", "the root"), ("/tmp/up", "leads to /"), ("", "is empty")],
)
def test_a_destination_that_cannot_be_is_refused(tree: Path, destination: str, match: str) -> None:
    (tree / "root/tmp/up").symlink_to("..")
    with pytest.raises(InvalidSpec, match=match):
        laid(tree, spec_of(bind(tree / "volume", destination)))


@pytest.mark.parametrize("destination", ["data/x", "/data/../data//x/", "./data/x", "{root}/data/x"])
def test_a_destination_is_written_as_it_is_meant(tree: Path, destination: str) -> None:
    """As runc takes them: a relative one is below /, one that begins with the root's own path is inside it."""
    spec = spec_of(bind(tree / "volume", destination.format(root=tree / "root")))
    laid(tree, spec, rootfs=tree / "root").close()
    assert spec.mounts[0].destination == "/data/x"
    assert (tree / "root/data/x").is_dir()


def test_a_source_that_is_relative_is_in_the_bundle(tree: Path) -> None:
    spec = spec_of(schema.Mount(destination="/data", source="volume", options=["bind"]))
    laid(tree, spec, bundle=tree).close()
    assert spec.mounts[0].source == f"{tree}/volume"


def test_masked_paths_are_looked_up_where_they_will_be(tree: Path) -> None:
    (tree / "root/etc/secret").touch()
    (tree / "root/link").symlink_to("etc")
    proc = schema.Mount(destination="/proc", type="proc")
    in_root, in_proc = ("/etc/secret", "/etc", "/link", "/none"), ("/proc/keys", "/proc/sys", "/proc/none")
    masked = (*in_root, *in_proc, "/data/file", "/data/inner", "/data/none", "//proc//keys/")
    prepared = laid(tree, spec_of(proc, bind(tree / "volume"), masked=masked))
    prepared.close()
    assert prepared.facts.masked == (
        *(("/etc/secret", False), ("/etc", True), ("/proc/keys", False), ("/proc/sys", True)),
        *(("/data/file", False), ("/data/inner", True)),
    )
    assert prepared.facts.null_device is not None


def test_without_a_file_to_hide_no_device_is_opened(tree: Path) -> None:
    prepared = laid(tree, spec_of(masked=("/etc", "/none")))
    prepared.close()
    assert prepared.facts.null_device is None


def test_what_hides_a_file_is_a_null_device_that_nobody_can_change() -> None:
    with open_null_device() as opened:
        status = os.fstat(opened.fileno())
        assert status.st_rdev == os.makedev(1, 3)
        with pytest.raises(OSError, match="Read-only file system"):
            os.chmod(f"/proc/self/fd/{opened.fileno()}", 0o666)
        with open(f"/proc/self/fd/{opened.fileno()}", "r+b", buffering=0) as device:
            assert device.write(b"x") == 1
            assert device.read(1) == b""


def test_another_device_in_the_place_of_null_is_refused() -> None:
    """CVE-2025-31133, on the host's side."""

    def attempt() -> None:
        mount.bind("/dev/zero", "/dev/null")
        open_null_device().close()

    with pytest.raises(OSError, match="not the null device"):
        apart(attempt)


def test_a_read_only_root_is_left_to_init(tree: Path) -> None:
    """Hooks of the image's kind write to it first: a linker cache for the node's driver libraries."""
    prepared = laid(tree, spec_of(bind(tree / "volume", "/made"), readonly=True))
    assert prepared.facts.readonly_root
    prepared.close()
    assert (tree / "root/made").is_dir()


def test_a_terminal_is_opened_by_descriptor_from_the_containers_own_devpts(tree: Path) -> None:
    devpts = schema.Mount(destination="/dev/pts", type="devpts", options=["newinstance", "ptmxmode=0666", "nosuid"])
    spec = spec_of(devpts)
    assert spec.process is not None
    spec.process.terminal = True
    prepared = laid(tree, spec)
    assert prepared.terminal is not None
    assert prepared.terminal.name == "0"
    assert os.isatty(prepared.terminal.slave.fileno())
    assert prepared.facts.console is not None
    assert dict(prepared.facts.opened)[0].is_directory
    prepared.close()


def test_when_it_fails_nothing_stays_open(tree: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    proc = schema.Namespace(type="uts", path="/proc/self/ns/uts")
    spec = spec_of(bind(tree / "volume"), bind(tree / "none", "/x"))
    spec.linux.namespaces = [proc]
    root = mount.clone_tree(tree / "root")
    with pytest.raises(HostPathNotFound):
        prepare(spec, root, attach_point=tree, in_cgroup=True)
    assert not root.is_open
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_namespace_that_there_is_not_is_refused(tree: Path) -> None:
    spec = spec_of()
    spec.linux.namespaces = [schema.Namespace(type="mood", path="/proc/self/ns/uts")]
    with pytest.raises(InvalidSpec, match="mood"):
        laid(tree, spec)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hooks": schema.Hooks(poststart=[schema.Hook(path="/bin/true")])}, "hooks.poststart"),
        ({"hooks": schema.Hooks(create_container=[schema.Hook(path="/bin/true")])}, "hooks.createContainer"),
        ({"linux": schema.Linux(net_devices={"eth1": schema.NetDevice()})}, "linux.netDevices"),
    ],
)
def test_what_the_caller_would_have_to_do_is_refused_by_name_if_it_cannot(change: dict[str, object], named: str) -> None:
    spec = schema.Spec(**change)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match=named):
        ground.refuse_unsupported(spec, can_pause=False)
    assert ground.refuse_unsupported(spec, can_pause=True) == ("poststart" not in named)
    assert not ground.refuse_unsupported(schema.Spec(hooks=schema.Hooks(prestart=[])), can_pause=False)


@pytest.mark.parametrize(("release", "is_refused"), [("6.1.0-44", True), ("6.14.9", True), ("6.15.0", False), ("7.2", False)])
def test_without_a_mount_namespace_a_container_is_refused_before_6_15(
    monkeypatch: pytest.MonkeyPatch, release: str, is_refused: bool
) -> None:
    """On an older kernel its mounts would be the node's."""
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((real[0], real[1], release, real[3], real[4])))
    spec = schema.Spec(linux=schema.Linux(namespaces=[schema.Namespace(type="pid")]))
    if is_refused:
        with pytest.raises(Unsupported, match=r"linux\.namespaces: without a mount namespace .* needs Linux 6\.15 or newer"):
            ground.refuse_shared_mounts(spec)
    else:
        ground.refuse_shared_mounts(spec)
