"""Sums of what the workers count.

Workers report whole counters since their own start, so the sum over the live ones and over
those that died ("retired") never goes back when one is replaced.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from proxy.model import APPLY_BOUNDS, DURATION_BOUNDS, WorkerStats


@dataclass(slots=True)
class ServiceTotal:
    """One service over several workers; the fields are those of `model.ServiceStats`."""

    requests: dict[str, int] = field(default_factory=dict)
    duration_buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS) + 1))
    duration_sum: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class NodeTotal:
    """One instance over several workers."""

    picks: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    @property
    def failures(self) -> int:
        """Attempts that did not bring an answer."""
        return sum(count for outcome, count in self.outcomes.items() if outcome != "ok")


@dataclass(slots=True)
class Totals:
    """Owns sums by service and by (service, node key)."""

    services: dict[str, ServiceTotal] = field(default_factory=dict)
    nodes: dict[tuple[str, str], NodeTotal] = field(default_factory=dict)
    access_log_dropped: int = 0

    def add(self, stats: WorkerStats | Totals) -> None:
        """Add one worker's counters, or another sum."""
        for name, service in stats.services.items():
            into = self.services.setdefault(name, ServiceTotal())
            _add(into.requests, service.requests)
            for position, count in enumerate(service.duration_buckets):
                into.duration_buckets[position] += count
            into.duration_sum += service.duration_sum
            _add(into.errors, service.errors)
            _add(into.retries, service.retries)
        self.access_log_dropped += stats.access_log_dropped
        if isinstance(stats, Totals):
            for (of, key), node in stats.nodes.items():
                self._add_node(of, key, node.picks, node.outcomes)
        else:
            for counted in stats.nodes:
                self._add_node(counted.service, counted.key, counted.picks, counted.outcomes)

    def _add_node(self, service: str, key: str, picks: int, outcomes: Mapping[str, int]) -> None:
        into = self.nodes.setdefault((service, key), NodeTotal())
        into.picks += picks
        _add(into.outcomes, outcomes)

    def keep(self, known: Container[tuple[str, str]]) -> None:
        """Drop the instances that are not in `known`, (service, node key): nobody shows them."""
        for name in [name for name in self.nodes if name not in known]:
            del self.nodes[name]


@dataclass(slots=True)
class Applies:
    """Owns how long changes of the pools held the loop of one worker, over its incarnations."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(APPLY_BOUNDS) + 1))
    """One count per bound of `APPLY_BOUNDS`, then +Inf; not cumulative."""
    seconds: float = 0.0
    """Sum."""
    worst: float = 0.0

    def add(self, seconds: float) -> None:
        """One message was applied."""
        self.buckets[bisect_left(APPLY_BOUNDS, seconds)] += 1
        self.seconds += seconds
        self.worst = max(self.worst, seconds)


def total(retired: Totals, live: Iterable[WorkerStats]) -> Totals:
    """A new sum over dead and live workers."""
    result = Totals()
    result.add(retired)
    for stats in live:
        result.add(stats)
    return result


def _add(into: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        into[name] = into.get(name, 0) + count
