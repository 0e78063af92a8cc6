"""The daemon's account of itself, as Prometheus reads it (text format 0.0.4): calls and how long they took, what there
is, the monitor, the process.  No name of a pod is in it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate

from cri.node import Node
from cri.status import RUNTIME_VERSION
from runtime.container.state import ContainerState
from runtime.errors import MonitorLost
from runtime.sandbox.state import SandboxState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Seconds: what is answered from memory, what works on the node, what waits for a registry or a process.
BUCKETS = (0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 120.0)

Sample = tuple[str, dict[str, str], float]


class Telemetry:
    """Used from the event loop alone.  ``observe`` is told of every call, ``render`` is what there is to read."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._calls: Counter[tuple[str, str]] = Counter()
        self._durations: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()

    def observe(self, rpc: str, code: str, seconds: float) -> None:
        """Count a call that ended after *seconds* with status *code*."""
        self._calls[rpc, code] += 1
        # The last is for all that took longer.
        self._durations.setdefault(rpc, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[rpc] += seconds  # type: ignore[assignment]

    def render(self) -> str:
        """Everything, in the text format."""
        families = (
            ("kernelet_build_info", "gauge", "The version that runs", [("", {"version": RUNTIME_VERSION}, 1.0)]),
            ("kernelet_rpc_calls_total", "counter", "Calls that ended, by RPC and status code", self._counted()),
            ("kernelet_rpc_duration_seconds", "histogram", "How long calls took, by RPC", self._histograms()),
            *self._of_node(),
            *self._of_process(),
        )
        return "".join(line for family in families for line in _family(*family))

    def _counted(self) -> Iterator[Sample]:
        for (rpc, code), count in sorted(self._calls.items()):
            yield "", {"rpc": rpc, "code": code}, count

    def _histograms(self) -> Iterator[Sample]:
        for rpc, counts in sorted(self._durations.items()):
            sums = list(accumulate(counts))
            for bucket, count in zip((*map(_number, BUCKETS), "+Inf"), sums, strict=True):
                yield "_bucket", {"rpc": rpc, "le": bucket}, count
            yield "_sum", {"rpc": rpc}, self._seconds[rpc]
            yield "_count", {"rpc": rpc}, sums[-1]

    def _of_node(self) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
        node = self._node
        for what, states, records in (
            ("sandboxes", SandboxState, node.sandboxes()),
            ("containers", ContainerState, node.containers()),
        ):
            found = Counter(record.state for record in records)
            samples: list[Sample] = [("", {"state": state.value.replace(" ", "_")}, found[state]) for state in states]
            yield f"kernelet_{what}", "gauge", f"{what.capitalize()} that there are, by state", samples
        images = node.images.usage()
        yield _single("kernelet_images", "gauge", "Images on this node", len(node.images.list()))
        yield _single("kernelet_images_bytes", "gauge", "What images take on disk", images.bytes)
        yield _single("kernelet_monitor_up", "gauge", "Whether there is a monitor", _has_monitor(node))
        yield _single("kernelet_monitor_losses_total", "counter", "How often the monitor ended", node.monitor_losses)

    def _of_process(self) -> Iterator[tuple[str, str, str, Iterable[Sample]]]:
        own = self._node.own_use()
        yield _single("process_resident_memory_bytes", "gauge", "Resident memory", own.resident_bytes)
        yield _single("process_cpu_seconds_total", "counter", "Cpu time used, user and system", own.cpu_seconds)
        yield _single("process_open_fds", "gauge", "Open file descriptors", own.descriptors)
        yield _single("process_max_fds", "gauge", "Most file descriptors that there may be", own.descriptors_limit)
        yield _single("process_threads", "gauge", "Threads", own.threads)
        yield _single("process_start_time_seconds", "gauge", "Start of the process since the epoch", own.started_at)


def _has_monitor(node: Node) -> bool:
    try:
        return node.monitor_pid > 0
    except MonitorLost:  # between two of them
        return False


def _single(name: str, kind: str, text: str, value: float) -> tuple[str, str, str, Iterable[Sample]]:
    return name, kind, text, [("", {}, value)]


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for suffix, labels, value in samples:
        shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"{name}{suffix}{{{shown}}} {_number(value)}\n" if shown else f"{name}{suffix} {_number(value)}\n"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
