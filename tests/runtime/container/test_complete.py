"""What only the node knows is filled in, and the request stays as it was."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kernel.fd import Fd, open_path
from runtime.container.complete import complete_spec, with_home
from runtime.container.config import ContainerConfig
from runtime.container.state import Container
from runtime.errors import InvalidArgument, InvalidSpec
from runtime.paths import Paths
from runtime.sandbox.config import Mode
from runtime.sandbox.state import Sandbox
from runtime.spec import schema
from tests.support import wishes

PATHS = Paths(Path("/root-dir"), Path("/run-dir"))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Fd]:
    """An image with one user."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("web:x:1000:2000::/srv/web:\n")
    with open_path(tmp_path) as opened:
        yield opened


def container(config: ContainerConfig | None = None, **more: object) -> Container:
    return Container(
        id="c" * 64, sandbox_id="s" * 64, image_id="i", cgroup="/pods/c", config=config or wishes.container(["true"], **more)  # type: ignore[arg-type]
    )


def sandbox(**modes: Mode) -> Sandbox:
    return Sandbox(id="s" * 64, config=wishes.sandbox(**modes))  # type: ignore[arg-type]


def namespaces(spec: schema.Spec) -> dict[str, str]:
    return {each.type: each.path for each in spec.linux.namespaces}


def test_a_container_joins_its_pods_namespaces_and_makes_its_own(root: Fd) -> None:
    spec = complete_spec(PATHS, sandbox(), container(), root, None)
    pins = f"/run-dir/sandboxes/{'s' * 64}"
    made = {"mount": "", "cgroup": "", "pid": ""}
    assert namespaces(spec) == made | {"uts": f"{pins}/uts", "network": f"{pins}/net", "ipc": f"{pins}/ipc"}


@pytest.mark.parametrize(
    ("mode", "target", "path"),
    [("pod", None, f"/run-dir/sandboxes/{'s' * 64}/pid"), ("container", None, ""), ("target", 4711, "/proc/4711/ns/pid")],
)
def test_its_processes_are_where_it_was_asked_for(root: Fd, mode: Mode, target: int | None, path: str) -> None:
    spec = complete_spec(PATHS, sandbox(), container(pid=mode), root, target)
    assert namespaces(spec)["pid"] == path


def test_a_namespace_of_the_nodes_is_neither_made_nor_joined(root: Fd) -> None:
    spec = complete_spec(PATHS, sandbox(network="node", ipc="node"), container(pid="node"), root, None)
    assert set(namespaces(spec)) == {"mount", "cgroup", "uts"}
    assert next(mount.source for mount in spec.mounts if mount.destination == "/dev/shm") == "/dev/shm"


def test_the_pods_files_are_offered_and_the_requests_own_are_kept(root: Fd) -> None:
    config = wishes.container(["true"])
    config.spec.mounts.append(schema.Mount(destination="/etc/hosts/", type="bind", source="/the/kubelets", options=["rbind"]))
    spec = complete_spec(PATHS, sandbox(), container(config), root, None)
    sources = {mount.destination: mount.source for mount in spec.mounts if mount.type == "bind"}
    kept = f"/root-dir/sandboxes/{'s' * 64}"
    assert sources == {
        "/etc/hosts/": "/the/kubelets",
        "/etc/hostname": f"{kept}/hostname",
        "/etc/resolv.conf": f"{kept}/resolv.conf",
        "/dev/shm": f"/run-dir/sandboxes/{'s' * 64}/shm",
    }


def test_parents_are_mounted_before_children_and_equals_in_their_order(root: Fd) -> None:
    config = wishes.container(["true"])
    for destination in ("/a/b/c", "/a", "/z", "/a/b"):
        config.spec.mounts.insert(0, schema.Mount(destination=destination, type="tmpfs"))
    destinations = [mount.destination for mount in complete_spec(PATHS, sandbox(), container(config), root, None).mounts]
    depth = [len(Path(destination).parts) for destination in destinations]
    assert depth == sorted(depth)
    assert destinations[:2] == ["/z", "/a"]


def test_the_user_is_found_and_written_down(root: Fd) -> None:
    record = container(run_as_username="web")
    spec = complete_spec(PATHS, sandbox(), record, root, None)
    assert spec.process is not None
    assert (spec.process.user.uid, spec.process.user.gid) == (1000, 2000)
    assert (record.user, record.home) == (spec.process.user, "/srv/web")
    assert spec.process.env[-1] == "HOME=/srv/web"
    with pytest.raises(InvalidArgument):
        complete_spec(PATHS, sandbox(), container(run_as_username="nobody"), root, None)


def test_the_rest_comes_from_the_record(root: Fd) -> None:
    record = container(tty=True)
    record.config.spec.hostname = "asked-for"
    spec = complete_spec(PATHS, sandbox(), record, root, None)
    assert spec.process is not None
    assert (spec.process.terminal, spec.linux.cgroups_path, spec.hostname) == (True, "/pods/c", "")


def test_the_request_is_not_changed(root: Fd) -> None:
    """CVE-2021-21334: what one container gets must not be in another's."""
    config = wishes.container(["true"], env=["A=\udcff"], run_as_username="web")
    before = msgspec.to_builtins(config)
    spec = complete_spec(PATHS, sandbox(), container(config), root, None)
    assert spec.process is not None
    spec.process.env.append("ANOTHER=1")
    spec.mounts.clear()
    spec.linux.masked_paths.clear()
    assert msgspec.to_builtins(config) == before


def test_the_limit_of_descriptors_is_the_daemons_where_none_is_asked_for(root: Fd) -> None:
    spec = complete_spec(PATHS, sandbox(), container(), root, None)
    assert spec.process is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert spec.process.rlimits == [schema.Rlimit(type="RLIMIT_NOFILE", soft=soft, hard=hard)]
    config = wishes.container(["true"])
    assert config.spec.process is not None
    config.spec.process.rlimits = [schema.Rlimit(type="RLIMIT_NOFILE", soft=1, hard=2)]
    spec = complete_spec(PATHS, sandbox(), container(config), root, None)
    assert spec.process is not None
    assert spec.process.rlimits == config.spec.process.rlimits


def test_without_a_process_there_is_nothing_to_complete(root: Fd) -> None:
    config = wishes.container(["true"])
    config.spec.process = None
    with pytest.raises(InvalidSpec, match="needs a process"):
        complete_spec(PATHS, sandbox(), container(config), root, None)


@pytest.mark.parametrize(
    ("env", "expected"),
    [([], ["HOME=/x"]), (["HOME="], ["HOME="]), (["HOME=/y"], ["HOME=/y"]), (["HOMES=/y"], ["HOMES=/y", "HOME=/x"])],
)
def test_home_is_given_to_who_has_none(env: list[str], expected: list[str]) -> None:
    given = list(env)
    assert with_home(given, "/x") == expected
    assert given == env
    assert os.environ.get("HOME") != "/x"


def test_the_pods_files_are_no_more_writable_than_the_root(root: Fd) -> None:
    fixed = container()
    assert fixed.config.spec.root is not None
    fixed.config.spec.root.readonly = True
    for each, expected in ((container(), "rw"), (fixed, "ro")):
        spec = complete_spec(PATHS, sandbox(), each, root, None)
        access = {mount.destination: mount.options[-1] for mount in spec.mounts}
        assert [access[f"/etc/{name}"] for name in ("hosts", "hostname", "resolv.conf")] == [expected] * 3
        assert access["/dev/shm"] == "rw"
