"""Each case of the bench runs, and says how we stand to each peer.  What it says is nobody's matter here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.bench import burst, cold, created, cri, execution, first_instruction, measure, memory, start_exit
from tests.bench.__main__ import CASES
from tests.support.isolation import Run
from tests.support.requires import requires

pytestmark = requires("root", "cgroup2", "busybox", "crun", "runc", "containerd", "ctr", "cni-plugins", "iptables")

#: With two rounds, and small.
SMALL = {
    "first-instruction": partial(first_instruction.measured, count=2),
    "first-instruction-join": partial(first_instruction.measured_join, count=2),
    "first-instruction-seccomp": partial(first_instruction.measured_seccomp, count=2),
    "start-created": partial(created.measured, count=2),
    "exec": partial(execution.measured, count=2),
    "burst-100": partial(burst.measured, count=2, containers=4),
    "cold-oci-run": partial(cold.measured, count=2),
    "start-exit": partial(start_exit.measured, count=2),
    "memory": memory.measured,
    "cri": partial(cri.measured, count=1),
    "cri-list-200": partial(cri.measured_list, count=2, containers=3),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_case_measures_us_beside_others(name: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(memory, "CONTAINERS", 3)
    monkeypatch.setattr(memory, "CREATED", 2)
    figures = SMALL[name](tmp_path, run)
    assert name in CASES
    assert len(figures) >= (1 if name == "cri-list-200" else 2)  # that one has a single peer
    assert all(figure.case.startswith(name.removesuffix("-100")) and figure.ours > 0 and figure.peer for figure in figures)
