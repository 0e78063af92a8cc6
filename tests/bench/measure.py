"""A case's figures, and how they are written down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: Nanoseconds, under the action's own name; or several values, each under its name; or nothing: take the time yourself.
Taken = int | dict[str, int] | None
Action = Callable[[int], Taken]

#: Alternating runs of each case.
RUNS = 60
QUIET_LOOKS = 4
QUIET_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of build/bench.json: our median beside a peer's, and their quotient (lower is better for us)."""

    case: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str
    ratio: float | None
    runs: int

    def document(self) -> dict[str, object]:
        return asdict(self)


def wait_for_quiet() -> bool:
    """Wait until nothing but this thread wants to run; False when that has not come in ``QUIET_SECONDS``.

    What was ended before is still being taken apart (network namespaces, in a kernel thread), and others use the
    machine too: a shot beside them would measure them.
    """
    deadline, looks = time.monotonic() + QUIET_SECONDS, 0
    while looks < QUIET_LOOKS:
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
        looks = looks + 1 if running <= 1 else 0
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def alternate(actions: Mapping[str, Action], runs: int, warm_up: int = 5) -> dict[str, list[float]]:
    """Milliseconds of each action, one after the other in turn, *runs* times after *warm_up* that are not counted.

    Each shot waits for a quiet machine; how many did not get it is printed.
    """
    times: dict[str, list[float]] = {}
    disturbed = 0
    for number in range(-warm_up, runs):
        for name, action in actions.items():
            disturbed += not wait_for_quiet() and number >= 0
            begun = time.perf_counter_ns()
            taken = action(number + warm_up)
            if taken is None:
                taken = time.perf_counter_ns() - begun
            for part, nanoseconds in (taken if isinstance(taken, dict) else {name: taken}).items():
                if number >= 0:
                    times.setdefault(part, []).append(nanoseconds / 1e6)
    if disturbed:
        print(f"\nthe machine was not quiet for {disturbed} of {runs * len(actions)} shots")
    return times


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that *share* of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]


def table(case: str, times: Mapping[str, Sequence[float]], ours: Sequence[str], peers: Sequence[str]) -> list[Figure]:
    """Print one line for each name with its ratio to the first peer, and return a figure for each of *ours* and *peers*.

    The first of *ours* is the case itself, others are told apart by what comes behind "ours".
    """
    medians = {name: statistics.median(values) for name, values in times.items()}
    present = [name for name in peers if name in times]
    print(f"\n{case} (ms)\n{'':16}{'min':>9}{'median':>9}{'p99':>9}" + "".join(f"{'/ ' + name:>9}" for name in present))
    for name, values in times.items():
        ratios = "".join(f"{medians[name] / medians[peer]:9.3f}" for peer in present)
        print(f"{name:16}{min(values):9.3f}{medians[name]:9.3f}{percentile(values, 0.99):9.3f}{ratios}")
    return [
        Figure(
            case + mine.removeprefix("ours").replace(" ", "-"),
            "ms",
            medians[mine],
            medians[peer],
            peer,
            medians[mine] / medians[peer],
            len(times[mine]),
        )
        for mine in ours
        for peer in present
    ]
