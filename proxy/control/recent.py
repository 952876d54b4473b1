"""Counts of the last half to whole minute: how they stood before, and what has come since. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from proxy import latency
from proxy.messages import NO_ERRORS, NodeStats, ServiceStats

PERIOD = 30.0
"""Seconds. What is shown is of one period that is over and of the one that runs: enough answers
for a percentile, and not so old that nobody would see an instance become slow."""

Key = TypeVar("Key")
Counts = TypeVar("Counts")


class Window(Generic[Key, Counts]):
    """Owns how counts stood when this period and the one before began, of those that have changed
    since: the messages themselves, of which there is one copy."""

    def __init__(self) -> None:
        self._before: dict[Key, Counts | None] = {}
        self._now: dict[Key, Counts | None] = {}

    def turn(self) -> None:
        """A period is over."""
        self._before, self._now = self._now, {}

    def change(self, key: Key, before: Counts | None) -> None:
        """Counts are about to change; `before`: as they stand, None = there are none."""
        self._now.setdefault(key, before)

    def forget(self, key: Key) -> None:
        """Drop counts that nobody asks for any more."""
        self._before.pop(key, None)
        self._now.pop(key, None)

    def changed(self) -> Iterable[Key]:
        """Keys of counts that have changed in the window."""
        return self._before | self._now

    def begin(self, key: Key, now: Counts | None) -> Counts | None:
        """Counts as they stood when the window began; `now`: as they stand."""
        if key in self._before:
            return self._before[key]
        return self._now.get(key, now)


@dataclass(slots=True)
class Recent:
    """Sum over workers of what was counted of late."""

    rate: float = 0.0
    """Per second: attempts of an instance, requests of a service."""
    error_rate: float = 0.0
    """Of these, per second: attempts that brought no answer, or one that speaks against the
    instance; requests that were answered 5xx."""
    latency: list[int] = field(default_factory=latency.no_answers)
    """Answers by place of `proxy/latency.py`."""

    def add_node(self, before: NodeStats | None, now: NodeStats, seconds: float) -> None:
        """Add what one worker counted of an instance in so many seconds."""
        was = NodeStats(now.service, now.key, 0, {}) if before is None else before
        self.rate += (now.picks - was.picks) / seconds
        self.error_rate += (errors_of(now.outcomes) - errors_of(was.outcomes)) / seconds
        add_latency(self.latency, was, now)

    def add_service(self, before: ServiceStats | None, now: ServiceStats, seconds: float) -> None:
        """Add what one worker counted of a service in so many seconds."""
        was: Mapping[str, int] = {} if before is None else before.requests
        for what, count in now.requests.items():
            new = (count - was.get(what, 0)) / seconds
            self.rate += new
            if what.rpartition(" ")[2] >= "500":
                self.error_rate += new

    def quantiles(self) -> list[float | None]:
        """Seconds, for each of `latency.QUANTILES`."""
        return latency.quantiles(self.latency)


def add_latency(into: list[int], before: NodeStats | None, now: NodeStats) -> None:
    """Add what one worker counted of how long answers took, by place of `proxy/latency.py`."""
    latency.add_between(into, {} if before is None else before.latency, now.latency)


def errors_of(outcomes: Mapping[str, int]) -> int:
    """Attempts that brought no answer, or one that speaks against the instance."""
    return sum(outcomes.values()) - sum(outcomes.get(one, 0) for one in NO_ERRORS)
