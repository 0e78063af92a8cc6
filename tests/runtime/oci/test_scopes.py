"""linux.cgroupsPath for systemd; what a scope does is seen in a guest that has systemd (tests/vm/inside/test_oci_systemd.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import InvalidSpec, Unsupported
from runtime.oci import scopes
from tests.support.oci import CommandLine, make_bundle
from tests.support.requires import requires


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", ("system.slice", "kernelet-web.scope")),
        ("::", ("system.slice", "kernelet-web.scope")),
        ("user-7.slice:cri:box", ("user-7.slice", "cri-box.scope")),
        ("-.slice:libpod:box", ("-.slice", "libpod-box.scope")),
        (":cri:", ("system.slice", "cri-web.scope")),
    ],
)
def test_slice_prefix_and_name(asked: str, found: tuple[str, str]) -> None:
    assert scopes.parse(asked, "web", user=False) == found


def test_a_user_s_container_goes_into_the_user_s_slice() -> None:
    assert scopes.parse("", "web", user=True) == ("user.slice", "kernelet-web.scope")


@pytest.mark.parametrize("asked", ["/a/b", "a:b", "a:b:c", "a--b.slice:x:y", "a.slice:x/y:z", "a.slice::" + "n" * 300, "a:b:c:d"])
def test_what_is_none_is_refused(asked: str) -> None:
    with pytest.raises(InvalidSpec, match=r"linux\.cgroupsPath"):
        scopes.parse(asked, "web", user=False)


def test_a_slice_is_no_place_for_a_process() -> None:
    with pytest.raises(Unsupported, match=r"leave \.slice away"):
        scopes.parse("a.slice:b:c.slice", "web", user=False)


@requires("root", "cgroup2", "busybox")
def test_where_there_is_no_systemd_nothing_is_left(tmp_path: Path) -> None:
    assert not Path("/run/systemd/private").exists(), "this machine's systemd would make a scope"
    make_bundle(tmp_path / "bundle")
    command_line = CommandLine(tmp_path / "state", tmp_path / "bundle")
    command_line.configure("true")
    assert "no systemd manages cgroups here" in command_line.refusal("--systemd-cgroup", "run", "web")
    assert os.listdir(tmp_path / "state") == []
