"""Namespaces that another user namespace owns, with settings that its root has written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kernel import foreign_namespace, namespace
from kernel.fd import Fd
from runtime.container import userns
from runtime.spec.schema import IdMapping
from tests.support.requires import requires

pytestmark = requires("root")

PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def users() -> Fd:
    ids = [IdMapping(container_id=0, host_id=300_000, size=1000)]
    return userns.make(ids, ids)


def test_they_are_the_other_roots_and_hold_what_was_set() -> None:
    with users() as root:
        made = foreign_namespace.new_namespaces(root, ("net", "ipc", "uts"), {PORTS: "99", "/proc/sys/kernel/shmmni": "7"})
        assert list(made) == ["net", "ipc", "uts"]
        for kind, file in made.items():
            assert namespace.kind_of(file) == kind
            owner = namespace.owner_of(file)
            assert owner is not None and namespace.identity(owner) == namespace.identity(root)
            owner.close()
        assert namespace.in_namespace(made["net"], "net", Path(PORTS).read_text).strip() == "99"
        assert namespace.in_namespace(made["ipc"], "ipc", Path("/proc/sys/kernel/shmmni").read_text).strip() == "7"
        for file in made.values():
            file.close()
    assert Path(PORTS).read_text().strip() != "99"


def test_a_setting_that_is_refused_is_named_and_no_descriptor_is_left() -> None:
    held = len(os.listdir("/proc/self/fd"))
    for path, value, reason in (
        (PORTS, "many", "Invalid argument"),
        ("/proc/sys/net/none", "1", "No such file"),
        ("/proc/sys/kernel/panic", "1", "Permission denied"),  # the node's
    ):
        with users() as root, pytest.raises(OSError, match=reason) as caught:
            foreign_namespace.new_namespaces(root, ("net",), {path: value})
        assert caught.value.filename == path
        del caught
    assert len(os.listdir("/proc/self/fd")) == held
