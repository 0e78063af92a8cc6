"""A case's figures, and how they are written down."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass


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


def alternate(actions: Mapping[str, Callable[[int], int | None]], runs: int, warm_up: int = 5) -> dict[str, list[float]]:
    """Milliseconds of each action, one after the other in turn, *runs* times after *warm_up* that are not counted.

    An action that returns nanoseconds has taken the time itself.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(-warm_up, runs):
        for name, action in actions.items():
            begun = time.perf_counter_ns()
            taken = action(number + warm_up)
            if number >= 0:
                times[name].append((time.perf_counter_ns() - begun if taken is None else taken) / 1e6)
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
