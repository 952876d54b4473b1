"""A pick of each balancer of the catalogue, and the change of a pool."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.nodes import Instance
from proxy.catalog import BALANCERS, load

SIZES = (3, 10, 100, 1000)
TURNS = 100
"""Picks in one measured call, so that the call itself does not count; the figure is divided by
it in the name of the group."""

WEIGHTS: dict[str, Callable[[int], int]] = {
    "equal": lambda number: 1,
    "1-5": lambda number: 1 + number % 5,
    "distinct": lambda number: 1 + number,
}


def variants() -> list[tuple[str, str, dict[str, float]]]:
    found: list[tuple[str, str, dict[str, float]]] = []
    for name in BALANCERS:
        found += [(name, "equal", {}), (name, "1-5", {})]
        if name == "weighted_round_robin":
            found.append((name, "distinct", {}))
        if "bounded_load" in inspect.signature(load(BALANCERS, name)).parameters:
            found.append((name, "equal", {"bounded_load": 1.25}))
    return found


def test_calibration(benchmark: BenchmarkFixture) -> None:
    """What the other figures are to be divided by to compare machines."""
    benchmark.group = "calibration"
    benchmark(lambda: sum(range(100)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "weights", "params"),
    variants(),
    ids=lambda value: "bounded" if value else "" if isinstance(value, dict) else value,
)
def test_picks(
    benchmark: BenchmarkFixture, name: str, weights: str, params: dict[str, float], size: int
) -> None:
    nodes = [Instance(number, WEIGHTS[weights](number)) for number in range(size)]
    balancer = load(BALANCERS, name)(nodes, Random(2), **params)
    rng = Random(1)
    keys = [rng.getrandbits(64) for _ in range(TURNS)]
    for key in range(0, 1 << 64, 1 << 55):
        balancer.pick(key * 3, ())  # so that a hash ring is laid out

    def picks() -> None:
        pick = balancer.pick
        for key in keys:
            pick(key, ())

    benchmark.group = f"{TURNS} picks of {size} instances"
    benchmark(picks)


@pytest.mark.parametrize("size", SIZES)
def test_requests_by_load(benchmark: BenchmarkFixture, size: int) -> None:
    """A request's whole life with a balancer that looks at the load: the pick and two changes."""
    nodes = [Instance(number) for number in range(size)]
    balancer = load(BALANCERS, "least_connections")(nodes, Random(2))
    in_flight: list[Any] = []

    def changed(node: Any, by: int) -> None:
        node.load += by
        balancer.load_changed(node)

    for _ in range(2 * size):
        in_flight.append(balancer.pick(0, ()))
        changed(in_flight[-1], 1)

    def requests() -> None:
        for turn in range(TURNS):
            node = balancer.pick(0, ())
            changed(node, 1)
            place = turn * 7919 % len(in_flight)
            changed(in_flight[place], -1)
            in_flight[place] = node

    benchmark.group = f"{TURNS} requests by load, {size} instances"
    benchmark(requests)


@pytest.mark.parametrize("change", ["built", "flip", "join", "leave"])
@pytest.mark.parametrize("name", BALANCERS)
def test_changes_of_1000(benchmark: BenchmarkFixture, name: str, change: str) -> None:
    """What a worker does when a pool of 1,000 changes, and the first pick after it."""
    make = load(BALANCERS, name)
    nodes = [Instance(number) for number in range(1000)]
    old = make([] if change == "built" else nodes, Random(2))
    old.inherit(make([], Random(2)))
    if change == "flip":
        nodes = [Instance(number) for number in range(1000)]
        nodes[500].usable = False
    elif change == "join":
        nodes = [*nodes, Instance(1000)]
    elif change == "leave":
        nodes = nodes[:500] + nodes[501:]
    for key in range(0, 1 << 64, 1 << 55):
        old.pick(key * 3, ())

    def replace() -> None:
        new = make(nodes, Random(2))
        new.inherit(old)
        new.pick(1, ())

    benchmark.group = f"1,000 instances: {change}"
    benchmark(replace)
