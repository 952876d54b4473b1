"""What a balancer sees of the other workers' requests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import Any

import pytest

from balancers.base import Balancer
from balancers.peak_ewma import PeakEwma
from proxy.latency import UNITS, place_of
from proxy.settings.balancer import BalancerSpec
from proxy.settings.service import ServiceSettings
from tests.support.wire import OK, OK_RELAYED, Wire, forwarded, request
from tests.wire.scenes import answered, asked

BUSY = 50
"""Requests of the other worker on one instance; less than those sent here to the other one."""


class TwoChoices(Balancer):
    """By requests in flight; wants no notice of changes."""

    reads_load = True

    def __init__(self, nodes: Sequence[Any], rng: Random) -> None:
        self.nodes, self.rng = nodes, rng

    def pick(self, key: int, tried: Collection[Any]) -> Any:
        return min(self.rng.sample(self.nodes, k=2), key=lambda node: node.load)


def picks(wire: Wire, count: int) -> dict[str, int]:
    """How many of so many requests, all in flight at once, go to each instance."""
    wire.board.row(1)[wire.node("a").slot] = BUSY
    clients = [wire.client() for _ in range(count)]
    for client in clients:
        client.send(request("GET /x"))
    found = {name: wire.node(name).in_flight for name in "ab"}
    for name in "ab":
        for _ in range(found[name]):
            instance = wire.accepted(name)
            instance.expect(forwarded("GET /x"))
            instance.send(OK)
    for client in clients:
        client.expect(OK_RELAYED)
    wire.board.row(1)[wire.node("a").slot] = 0
    wire.advance(1)
    wire.worker.pools.others.refresh(wire.loop.time())
    return found


def test_a_balancer_that_only_reads_load_sees_the_requests_of_all_workers(make: Any) -> None:
    wire = make("a", "b")
    wire.pool._install(TwoChoices(list(wire.pool.nodes.values()), Random(1)))
    assert picks(wire, 40) == {"a": 0, "b": 40}


def test_a_balancer_that_hears_of_each_change_sees_the_requests_of_all_workers(make: Any) -> None:
    balancer = BalancerSpec(type="least_connections")
    wire = make("a", "b", settings=ServiceSettings(balancer=balancer))
    assert picks(wire, 40) == {"a": 0, "b": 40}


def test_a_bound_on_load_counts_the_requests_of_all_workers(make: Any) -> None:
    balancer = BalancerSpec(type="consistent_hash", key="path", params={"bounded_load": 1.0})
    wire = make("a", "b", settings=ServiceSettings(balancer=balancer))
    # Of 92 each may have 46: what is more than that on `a` is not ours.
    assert picks(wire, 42) == {"a": 0, "b": 42}


def test_a_balancer_that_follows_answers_hears_how_long_they_took(make: Any) -> None:
    settings = ServiceSettings(balancer=BalancerSpec(type="peak_ewma"))
    wire = make(settings=settings)
    client, a = asked(wire)
    wire.advance(0.5)
    answered(client, a)
    balancer = wire.pool.balancer
    assert isinstance(balancer, PeakEwma)
    assert balancer._averages[wire.node().key][0] == pytest.approx(0.5)


def test_an_instance_is_counted_with_how_long_its_answer_took(make: Any) -> None:
    wire = make()
    client, a = asked(wire)
    wire.advance(0.5)
    answered(client, a)
    told = wire.pool.stats_of(wire.node())
    assert told.latency == {place_of(int(0.5 * UNITS)): 1}
    assert told.seconds == pytest.approx(0.5)
