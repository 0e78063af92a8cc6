"""events: figures as runc tells them, until the container ends."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.container.statistics import (
    Amount,
    CpuUse,
    DeviceUse,
    HugepageUse,
    IoUse,
    MemoryUse,
    PidsUse,
    Pressure,
    Pressures,
    Statistics,
)
from runtime.errors import InvalidArgument
from runtime.oci.events import UNLIMITED, as_runc, parse_duration
from tests.support.oci import CommandLine
from tests.support.requires import requires


def test_figures_are_told_once_or_again_and_again_until_the_end(oci: CommandLine) -> None:
    oci.call("run", "--detach", "web")
    line = oci.call("events", "--stats", "web").stdout
    assert line.startswith('{"type":"stats","id":"web","data":{"cpu":')
    with oci.start("events", "--interval", "50ms", "web") as following:
        assert following.stdout is not None
        told = [json.loads(following.stdout.readline()) for _ in range(2)]
        assert [(each["type"], each["id"]) for each in told] == [("stats", "web")] * 2
        assert told[0]["data"]["cpu"]["usage"]["total"] > 0
        oci.call("delete", "--force", "web")
        following.stdout.read()
        assert following.wait(10) == 0


@requires("controllers hugetlb")
def test_what_is_counted_is_there_though_nothing_was_limited(oci: CommandLine) -> None:
    oci.call("run", "--detach", "web")
    data = json.loads(oci.call("events", "--stats", "web").stdout)["data"]
    assert data["hugetlb"]["2MB"] == {"failcnt": 0}


@requires("controllers memory")
def test_that_memory_ran_out_is_told_at_once(oci: CommandLine) -> None:
    limits = {"memory": {"limit": 32 << 20}, "unified": {"memory.swap.max": "0"}}
    oci.configure("sleep", "1000", change=lambda config: config["linux"]["resources"].update(limits))
    oci.call("run", "--detach", "web")
    with oci.start("events", "--interval", "100s", "web") as following:
        assert following.stdout is not None
        # Again and again: the first may come before anybody listens.
        hog = ("exec", "web", "sh", "-c", "while true; do dd if=/dev/zero of=/dev/null bs=64M count=1; done")
        with oci.start(*hog) as working:
            assert following.stdout.readline() == '{"type":"oom","id":"web"}\n'
            oci.call("delete", "--force", "web")
            working.wait(10)
        following.stdout.read()
        assert following.wait(10) == 0


def test_of_a_container_that_has_stopped_there_is_nothing_to_tell(oci: CommandLine) -> None:
    oci.configure("true")
    oci.call("run", "--keep", "web")
    assert "container with id web is not running" in oci.refusal("events", "--stats", "web")
    assert "duration interval must be greater than 0" in oci.refusal("events", "--interval", "0s", "web")


PRESSURE = Pressures(Pressure(1.5, 0, 0.25, 7), None)


def test_every_figure_has_runcs_name() -> None:
    use = Statistics(
        cpu=CpuUse(5000, 3000, 2000, 9, 2, 4000, PRESSURE),
        memory=MemoryUse(
            Amount(100, 200, 150), Amount(5, 50, None), {"file": 40, "inactive_file": 30}, {"max": 3, "oom_kill": 1}, PRESSURE
        ),
        pids=PidsUse(4, 10),
        io=IoUse((DeviceUse(8, 0, {"rbytes": 1, "wbytes": 2, "dbytes": 0, "rios": 3, "wios": 4, "dios": 0}),), None),
        hugepages={"2MB": HugepageUse(4096, None, 2)},
    )
    psi = {
        "some": {"avg10": 1.5, "avg60": 0, "avg300": 0.25, "total": 7},
        "full": dict.fromkeys(("avg10", "avg60", "avg300", "total"), 0),
    }
    told = as_runc(use)
    assert told["cpu"] == {
        "usage": {"total": 5000, "kernel": 2000, "user": 3000},
        "throttling": {"periods": 9, "throttledPeriods": 2, "throttledTime": 4000},
        "psi": psi,
    }
    assert told["memory"] == {
        "cache": 40,
        "usage": {"limit": 200, "usage": 100, "max": 150, "failcnt": 3},
        "swap": {"limit": 250, "usage": 105, "failcnt": 0},
        "raw": {"file": 40, "inactive_file": 30},
        "psi": psi,
    }
    assert told["pids"] == {"current": 4, "limit": 10}
    assert told["blkio"]["ioServiceBytesRecursive"] == [
        {"major": 8, "op": "Read", "value": 1},
        {"major": 8, "op": "Write", "value": 2},
        {"major": 8, "op": "Discard"},
    ]
    assert told["blkio"]["ioServicedRecursive"][1] == {"major": 8, "op": "Write", "value": 4}
    assert told["hugetlb"] == {"2MB": {"usage": 4096, "failcnt": 2}}
    assert (told["intel_rdt"], told["network_interfaces"]) == ({}, None)


def test_no_limit_is_the_largest_number_and_what_is_not_counted_is_left_out() -> None:
    memory = MemoryUse(Amount(1, None, None), Amount(0, None, None), {}, {}, None)
    told = as_runc(Statistics(cpu=None, memory=memory, pids=None, io=None, hugepages={}))
    assert told["memory"]["usage"]["limit"] == told["memory"]["swap"]["limit"] == UNLIMITED
    assert (told["cpu"], told["pids"], told["blkio"], told["hugetlb"]) == ({}, {}, {}, {})


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("100ms", 0.1), ("1m30s", 90), ("1.5h", 5400), ("+2s", 2), (".5s", 0.5), ("3us", 3e-6)]
)
def test_a_duration_is_as_go_writes_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "5s!", "5 s", "0", "0s", "1d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="interval"):
        parse_duration(text)


@given(st.text(alphabet="0123456789.smhnuµ+- ", max_size=12))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        assert parse_duration(text) > 0
