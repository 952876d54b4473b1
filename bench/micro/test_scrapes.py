"""What a page of metrics costs the control process with 20,000 busy instances: each asked by both
workers, with two outcomes and some twenty places in its histogram, and forty answers more in each
worker since the window began. Processor time, not that of the clock."""

from __future__ import annotations

import os
from collections.abc import Mapping
from random import Random
from time import process_time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.control.metrics import Page
from proxy.control.pools import PoolRegistry
from proxy.control.recent import PERIOD
from proxy.control.scrape import Scrape
from proxy.control.slots import Slots
from proxy.control.statistics import Reported, Retired, Totals
from proxy.engine.load import Board
from proxy.membership import Instance, Membership
from proxy.messages import NodeStats, WorkerStats
from proxy.statuses import RegistryStatus

SERVICES, EACH, WORKERS = 2000, 10, 2
ANSWERS = 20
"""Of each instance, in each worker and period."""


def instances() -> dict[str, tuple[Instance, ...]]:
    return {
        f"service-{number}": tuple(
            Instance(
                service=f"service-{number}",
                id=f"service-{number}-{one}",
                address=f"10.{number // 250}.{number % 250}.{one + 1}",
                port=8080,
            )
            for one in range(EACH)
        )
        for number in range(SERVICES)
    }


def after(random: Random, before: Mapping[int, int]) -> dict[int, int]:
    """A histogram with more answers, most of them within an octave."""
    latency = dict(before)
    for _ in range(ANSWERS):
        place = min(144, max(0, round(random.gauss(60, 6))))
        latency[place] = latency.get(place, 0) + 1
    return latency


def worker(random: Random, pools: Mapping[str, tuple[Instance, ...]]) -> Reported:
    reported = Reported()
    latencies: dict[tuple[str, str], dict[int, int]] = {}
    for period in range(1, 4):
        nodes = []
        for service, pool in pools.items():
            for one in pool:
                of = service, one.key
                latencies[of] = after(random, latencies.get(of, {}))
                answers = ANSWERS * period
                outcomes = {"ok": answers, "connect_refused": period}
                nodes.append(
                    NodeStats(service, one.key, answers + period, outcomes,
                              latency=latencies[of], seconds=random.random() * period)
                )  # fmt: skip
        reported.take(WorkerStats(period, 1, 0, {}, nodes), period * (PERIOD + 1.0))
    return reported


@pytest.mark.benchmark(timer=process_time, min_rounds=7, warmup=False)
@pytest.mark.parametrize("each", [True, False], ids=["all samples", "?instances=off"])
def test_a_scrape(benchmark: BenchmarkFixture, each: bool) -> None:
    random = Random(1)
    services = instances()
    board = Board.create(WORKERS)
    pools = PoolRegistry({}, Slots(SERVICES * EACH + 1, lambda slot: True), 0.0)
    pools.apply(Membership(services=services), 0.0)
    workers = [worker(random, services) for _ in range(WORKERS)]

    def scrape() -> bytes:
        page = Page(
            Scrape(
                pools=pools.by_service,
                totals=Totals(Retired(), workers),
                registry=RegistryStatus(provider="etcd", connected=True),
                balancer_of=lambda service: "round_robin",
                inflight=board.total,
                client_connections=1,
                tunnels=0,
                workers=WORKERS,
                instances=each,
            )
        )
        for _ in page.steps():
            pass
        return page.text()

    benchmark.group = "a scrape of 20,000 busy instances"
    text = benchmark(scrape)
    os.close(board.fd)
    count = SERVICES * EACH if each else 0
    assert text.count(b"\nfairlead_upstream_latency_seconds_count{") == count
    assert text.count(b'quantile="0.99"') == count
