"""What a machine has: the probes agree with what is known of this one, and tell a lack from not knowing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel.cgroup import Cgroup, find_tree
from runtime import facilities
from runtime.errors import Unsupported
from runtime.paths import Paths
from tests.support.requires import requires


def found(paths: Paths) -> dict[str, facilities.Facility]:
    return {facility.name: facility for facility in facilities.look(paths)}


@requires("root", "cgroup2", "filesystem overlay", "kernel 5.14")
def test_this_machine_has_what_the_tests_use(paths: Paths) -> None:
    here = found(paths)
    for name in ("root's rights", "cgroup v2", "overlay", "seccomp filters", "device rules by BPF", "cgroup.kill (Linux 5.14)"):
        assert here[name].has, here[name]
    assert len(here) == len(facilities.look(paths))
    there = Cgroup(find_tree()).controllers()
    for name in ("cpu", "memory", "pids", "hugetlb"):
        assert here[f"controller {name}"].has == (name in there)


def test_every_lack_has_a_cost(paths: Paths) -> None:
    assert all(facility.cost for facility in facilities.look(paths))
    assert facilities.lacking(paths) == [facility for facility in facilities.look(paths) if facility.has is False]


def test_a_machine_without_the_v2_tree(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(facilities, "find_tree", find_none)
    here = found(paths)
    assert here["cgroup v2"].has is False and here["cgroup v2"].is_needed
    assert "controller cpu" not in here


def test_an_old_kernel(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((real[0], real[1], "5.10.0-30-amd64", real[3], real[4])))
    here = found(paths)
    assert here["id-mapped tmpfs (Linux 6.3)"].has is False
    assert here["layers handed over one by one (Linux 6.7)"].found == "5.10.0-30-amd64"


def test_a_daemon_says_what_is_lacking_and_does_not_start_without_what_it_needs(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lacks = [facilities.Facility("AppArmor", False, "", "pods that ask for a profile are refused")]
    monkeypatch.setattr(facilities, "look", lambda paths: lacks)
    facilities.check(paths)
    assert caplog.messages == ["this node lacks AppArmor: pods that ask for a profile are refused"]
    lacks.append(facilities.Facility("cgroup v2", False, "not mounted", "the daemon does not start", is_needed=True))
    with pytest.raises(Unsupported, match=r"Linux .* lacks what Kernelet cannot do without: cgroup v2: the daemon does not"):
        facilities.check(paths)


def test_modules_are_read_from_the_kernels_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facilities._modules.cache_clear()
    directory = Path("/lib/modules") / "kernelet-test"
    assert not directory.exists()
    assert facilities._modules("kernelet-test") is None
    facilities._modules.cache_clear()
    monkeypatch.setattr(
        facilities, "Path", lambda *parts: tmp_path.joinpath(*parts[2:]) if parts[0] == "/lib/modules" else Path(*parts)
    )
    (tmp_path / "modules.builtin").write_text("kernel/net/bridge/bridge.ko\n")
    (tmp_path / "modules.dep").write_text("kernel/drivers/net/veth.ko.xz:\nkernel/net/nft-masq.ko: kernel/net/nf_tables.ko\n")
    assert facilities._modules("any") == {"bridge", "veth", "nft_masq"}
    facilities._modules.cache_clear()


def test_a_file_system_that_cannot_hold_layers_is_told(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    monkeypatch.setattr(facilities, "_UNFIT", (*facilities._UNFIT, "proc"))
    here = found(Paths(root_dir=Path("/proc/self/x"), run_dir=paths.run_dir))
    assert here["a file system for layers"].has is False
    assert here["a file system for layers"].found.endswith(": proc")


def test_logs_that_are_somewhere_else_are_told(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    monkeypatch.setattr(facilities, "_LOGS", Path("/proc/self/x"))
    assert found(paths)["a local disk for logs"].has
    monkeypatch.setattr(facilities, "_REMOTE", ("proc",))
    assert found(paths)["a local disk for logs"].has is False
