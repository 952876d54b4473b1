"""Counts of workers, on their way into the sums that operators see."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.control.statistics import Reported, Retired, ServiceTotal, Totals
from proxy.engine.telemetry import CALLERS, ServiceCounters
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
    assert getattr(Totals(Retired().plus(dead, ()), [live]).sums, name) == 4


@pytest.mark.parametrize("name", ["handshakes", "http2_closed", "filters"])
def test_counts_of_listeners_outlive_the_worker(name: str) -> None:
    dead, live = Reported(), Reported()
    dead.take(WorkerStats(1, 0, 0, {}, [], **{name: {"a": {"x": 1}, "b": {"y": 1}}}))
    live.take(WorkerStats(1, 0, 0, {}, [], **{name: {"a": {"x": 2, "z": 1}}}))
    totals = Totals(Retired().plus(dead, ()), [live])
    assert getattr(totals.sums, name) == {"a": {"x": 3, "z": 1}, "b": {"y": 1}}


@pytest.mark.parametrize("name", counters(ServiceStats))
def test_a_count_of_a_service_is_summed_over_workers(name: str) -> None:
    count: dict[str, Any] = {name: 2}
    total = ServiceTotal()
    for _ in range(2):
        total.add(ServiceStats({}, [], 0.0, {}, {}, **count))
    assert getattr(total, name) == 4


def test_requests_of_callers_are_counted_and_summed() -> None:
    counters = ServiceCounters()
    for caller, status in (("web", 200), ("web", 204), ("web", 503), ("orders", 403)):
        counters.called_by(caller, status, 0.25)
    total = ServiceTotal()
    for _ in range(2):
        total.add(counters.snapshot())
    assert total.callers == {"web 200": 4, "web 500": 2, "orders 400": 2}
    assert total.caller_seconds == {"web": 1.5, "orders": 0.5}


def test_callers_beyond_those_that_are_kept_are_counted_together() -> None:
    counters = ServiceCounters()
    for number in range(CALLERS + 2):
        counters.called_by(f"s{number}", 200, 1.0)
    told = counters.snapshot()
    assert len(told.caller_seconds) == CALLERS + 1
    assert (told.callers["other 200"], told.caller_seconds["other"]) == (2, 2.0)
