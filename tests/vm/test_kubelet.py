"""A real kubelet on Kernelet, in a guest: built with Go from the module beside (``kubelet/``), by make test-vm."""

from __future__ import annotations

import shlex

import pytest

from tests.support.requires import TREE, requires
from tests.vm.guest import PYTHON, Guests

KUBELET = TREE / "build/vagrant/kubelet"
FILES = ("tests/vm/inside/test_kubelet.py", "tests/vm/inside/test_kubelet_streams.py")


@requires("go")
@pytest.mark.timeout(600)
def test_a_kubelet_runs_pods(vm: Guests) -> None:
    assert KUBELET.exists(), f"{KUBELET} is not built: run make test-vm"
    command = shlex.join([PYTHON, "-m", "pytest", "-q", "-rA", *FILES])
    files = {"kubelet": KUBELET}
    result = vm.run(f"KERNELET_VM=1 CI=true {command}", memory_mib=3000, timeout_seconds=500, files=files).check()
    assert "6 passed" in result.stdout, result.stdout
