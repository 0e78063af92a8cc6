"""The streams that a container is given: whose they are stays who they belong to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest

from runtime.spec import schema
from tests.safety.bundle import Bundle
from tests.safety.engine import Core, Engine
from tests.safety.oci import Oci
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox")


@pytest.fixture(autouse=True)
def _the_null_device_is_as_it_was() -> Iterator[None]:
    before = os.stat("/dev/null")
    yield
    after = os.stat("/dev/null")
    changed = (after.st_uid, after.st_gid, after.st_mode) != (before.st_uid, before.st_gid, before.st_mode)
    if changed:  # it is the node's: put right, whatever else comes
        os.chown("/dev/null", before.st_uid, before.st_gid)
        os.chmod("/dev/null", stat.S_IMODE(before.st_mode))
    assert not changed


CHANGE = "chmod 600 /dev/stdin; chown 7:7 /dev/stdin; chmod 600 /proc/self/fd/0; true"


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_nodes_null_device_is_not_the_containers(engine: Engine, bundle: Bundle, uid: int) -> None:
    """CVE-2025-31133: most callers' stdin is /dev/null, and a container owns what it is given: not the node's, though."""
    bundle.process.user = schema.User(uid=uid, gid=uid)
    bundle.script(CHANGE)
    assert engine.run(bundle).code == 0


@pytest.mark.parametrize("uid", [0, 1000])
def test_nor_is_it_an_execs(core: Core, oci: Oci, bundle: Bundle, uid: int) -> None:
    """CVE-2025-31133: the same for a process that is exec'd."""
    bundle.script("exec sleep 100")
    with core.create(bundle) as container:
        container.start()
        container.execute("sh", "-c", CHANGE, user=schema.User(uid=uid, gid=uid))
    with oci.create(bundle) as other:
        other.start()
        other.execute("sh", "-c", CHANGE, flags=("--user", f"{uid}:{uid}"))


def test_a_user_can_open_its_streams_again(engine: Engine, bundle: Bundle) -> None:
    """CVE-2025-31133: what the container's own streams are is given to its user, which is why the others are looked at."""
    bundle.process.user = schema.User(uid=1000, gid=1000)
    bundle.script("echo again > /dev/stdout && cat < /dev/stdin && echo over > /dev/stderr")
    assert engine.run(bundle).code == 0
