from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ImagePullFailed
from runtime.image.config import ImageConfig, check_platform, parse_config
from runtime.image.manifest import Platform

DIGEST = "sha256:" + "a" * 64


def config(run: dict[str, Any] | None = None, **more: Any) -> ImageConfig:
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, "config": run, **more}
    return parse_config(json.dumps(document).encode())


def test_what_the_author_wants_run() -> None:
    found = config(
        {
            "User": "1000:50000",
            "Env": ["A=b"],
            "Entrypoint": ["/init"],
            "Cmd": ["-x"],
            "WorkingDir": "/srv",
            "StopSignal": "SIGQUIT",
            "Labels": {"k": "v"},
            "Volumes": {"/data": {}},
            "ExposedPorts": {"80/tcp": {}},
            "Unknown": 1,
        }
    )
    assert (found.user, found.uid, found.username) == ("1000:50000", 1000, "")
    assert (found.env, found.entrypoint, found.cmd, found.working_dir) == (("A=b",), ("/init",), ("-x",), "/srv")
    assert (found.stop_signal, found.labels, found.volumes, found.exposed_ports) == (
        "SIGQUIT",
        {"k": "v"},
        ("/data",),
        ("80/tcp",),
    )
    assert found.diff_ids == (DIGEST,)


def test_null_and_absent_are_empty() -> None:
    found = config({"Env": None, "Cmd": None, "Labels": None, "Volumes": None, "User": None})
    assert found == config(None)
    assert (found.uid, found.username, found.env, found.labels) == (None, "", (), {})


def test_a_user_by_name() -> None:
    found = config({"User": "www-data:1004"})
    assert (found.uid, found.username) == (None, "www-data")


@pytest.mark.parametrize(
    "user", ["2147483648", "4294967296", "0:4294967295", "1" * 30, "0" * 30 + "9" * 30, "-1", "a\nb", "0:-5"]
)
def test_a_user_that_would_wrap_around_is_refused(user: str) -> None:
    with pytest.raises(ImagePullFailed, match="user"):
        config({"User": user})


def test_the_largest_id_is_allowed() -> None:
    assert config({"User": "2147483647"}).uid == 2147483647


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"rootfs": {"type": "other", "diff_ids": []}}, "rootfs.type"),
        ({"rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}}, "diff id"),
        ({"rootfs": {"type": "layers", "diff_ids": [DIGEST] * 501}}, "501 layers"),
        ({"rootfs": None}, "rootfs"),
        ({"architecture": 3}, "architecture"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ImagePullFailed, match=why):
        config(None, **more)


def test_an_image_for_another_machine_is_refused_early() -> None:
    host = Platform(os="linux", architecture="amd64", variant="v2")
    check_platform(config(), host)
    with pytest.raises(ImagePullFailed, match="the image is for linux/arm64/v8, this node is linux/amd64/v2"):
        check_platform(config(architecture="arm64", variant="v8"), host)


@given(st.text(max_size=40))
def test_any_user_is_a_number_a_name_or_refused(user: str) -> None:
    try:
        found = config({"User": user})
    except ImagePullFailed:
        return
    assert found.uid is None or 0 <= found.uid < 1 << 31
    assert not (found.uid is not None and found.username)
