"""The unit under systemd, in User Mode Linux: notify, reload, watchdog, and containers that outlive their daemon."""

from __future__ import annotations

import pytest

from tests.support.requires import TREE
from tests.vm.guest import Guests

pytestmark = pytest.mark.timeout(1000)

#: The guest's own installation of our wheel makes way.
COMMAND = "exec 2>&1; umount /opt/kernelet; tests/vm/inside/service.sh kernelet.deb"


def test_the_unit(vm: Guests) -> None:
    made = sorted((TREE / "build").glob("kernelet_*.deb"), key=lambda path: path.stat().st_mtime)
    if not made:
        pytest.fail("there is no build/kernelet_*.deb: run make deb", pytrace=False)
    done = vm.run(COMMAND, init="systemd", files={"kernelet.deb": made[-1]}, timeout_seconds=900).check()
    assert done.stdout.endswith("done\n")
