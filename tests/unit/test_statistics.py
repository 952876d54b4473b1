"""Counts of workers, on their way into the sums that operators see."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.control.statistics import Reported, Retired, ServiceTotal, Totals
from proxy.messages import ServiceStats, WorkerStats


def counters(stats: type[msgspec.Struct]) -> list[str]:
    """The fields of a message that are single counts: whole numbers that begin at 0."""
    fields = msgspec.structs.fields(stats)
    return [one.name for one in fields if one.type is int and one.default == 0]


def test_counters_are_found() -> None:
    assert "underscored" in counters(WorkerStats)
    assert "tunnels_closed" in counters(ServiceStats)


@pytest.mark.parametrize("name", counters(WorkerStats))
def test_a_count_of_a_worker_outlives_the_worker(name: str) -> None:
    count: dict[str, Any] = {name: 2}
    dead = Reported()
    dead.take(WorkerStats(1, 0, 0, {}, [], **count))
    live = Reported()
    live.take(WorkerStats(1, 0, 0, {}, [], **count))
    assert getattr(Totals(Retired().plus(dead, ()), [live]), name) == 4


@pytest.mark.parametrize("name", ["handshakes", "http2_closed"])
def test_counts_of_listeners_outlive_the_worker(name: str) -> None:
    dead, live = Reported(), Reported()
    dead.take(WorkerStats(1, 0, 0, {}, [], **{name: {"a": {"x": 1}, "b": {"y": 1}}}))
    live.take(WorkerStats(1, 0, 0, {}, [], **{name: {"a": {"x": 2, "z": 1}}}))
    totals = Totals(Retired().plus(dead, ()), [live])
    assert getattr(totals, name) == {"a": {"x": 3, "z": 1}, "b": {"y": 1}}


@pytest.mark.parametrize("name", counters(ServiceStats))
def test_a_count_of_a_service_is_summed_over_workers(name: str) -> None:
    count: dict[str, Any] = {name: 2}
    total = ServiceTotal()
    for _ in range(2):
        total.add(ServiceStats({}, [], 0.0, {}, {}, **count))
    assert getattr(total, name) == 4
