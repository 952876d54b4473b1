"""Prints the cost of a pick for each balancer of the catalogue, of a change of the pool, and
of a route lookup.

Each figure is the best of several repeats, in µs, and in parentheses its ratio to a loop that
does not change, `sum(range(100))`, timed on the same machine in the same run: raw figures
compare only within one machine, ratios roughly between machines too.
"""

from __future__ import annotations

import argparse
import inspect
import timeit
from collections.abc import Callable
from random import Random
from time import process_time
from typing import Any

from balancers.base import Node
from proxy.catalog import BALANCERS, load
from proxy.engine.routing import RouteTable
from proxy.model import RouteSpec

SIZES = (3, 10, 100, 1000)


class Instance:
    """A node with nothing behind it."""

    __slots__ = ("id", "key", "load", "usable", "weight")

    def __init__(self, number: int, weight: int = 1) -> None:
        self.id = f"instance-{number}"
        self.key = f"{self.id}@10.0.{number >> 8}.{number & 255}:8080"
        self.weight = weight
        self.usable = True
        self.load = 0


def best(function: Callable[[], object], seconds: float = 0.005, repeats: int = 25) -> float:
    """Shortest processor time of one call in µs: short batches, many of them, so that some fall
    between what else the machine does."""
    timer = timeit.Timer(function, timer=process_time)
    number = 1
    while (taken := timer.timeit(number)) < seconds / 4:
        number *= 4
    number = max(1, int(number * seconds / max(taken, 1e-9)))
    return min(timer.repeat(repeats, number)) / number * 1e6


def requests(balancer: Any, in_flight: int) -> Callable[[], None]:
    """A request's whole life with a balancer: the pick and, if it wants to know, both changes
    of the load. Requests end in another order than they began, `in_flight` of them
    at a time."""
    rng = Random(1)
    keys = [rng.getrandbits(64) for _ in range(1009)]
    slots: list[Any] = [None] * in_flight
    turn = 0
    pick, load_changed, uses_load = balancer.pick, balancer.load_changed, balancer.uses_load

    def request() -> None:
        nonlocal turn
        turn += 1
        node = pick(keys[turn % 1009], ())
        if uses_load:
            node.load += 1
            load_changed(node)
            place = turn * 7919 % in_flight
            finished = slots[place]
            slots[place] = node
            if finished is not None:
                finished.load -= 1
                load_changed(finished)

    return request


def picks(balancer: Any) -> Callable[[], None]:
    """Picks alone, with varying keys."""
    rng = Random(1)
    keys = [rng.getrandbits(64) for _ in range(1009)]
    pick = balancer.pick
    turn = 0

    def one() -> None:
        nonlocal turn
        turn += 1
        pick(keys[turn % 1009], ())

    return one


def overhead() -> float:
    """What the measuring loop itself costs."""

    class Nothing:
        def pick(self, key: int, tried: tuple[Node, ...]) -> None:
            pass

    return best(picks(Nothing()))


def measure_balancers(show: Callable[[float], str]) -> None:
    empty_loop = overhead()
    print(f"\npick, µs{'':<29}" + "".join(f"{f'{size} nodes':>16}" for size in SIZES))
    variants: list[tuple[str, dict[str, float], Callable[[int], int]]] = []
    for name in BALANCERS:
        variants.append((name, {}, lambda number: 1))
        variants.append((f"{name}, weights 1-5", {}, lambda number: 1 + number % 5))
        if name == "weighted_round_robin":
            variants.append((f"{name}, weights all differ", {}, lambda number: 1 + number))
        if "bounded_load" in inspect.signature(load(BALANCERS, name)).parameters:
            variants.append((f"{name}, bounded 1.25", {"bounded_load": 1.25}, lambda number: 1))
    for label, params, weight in variants:
        name = label.partition(",")[0]
        cells: list[str] = []
        whole: list[str] = []
        for size in SIZES:
            nodes = [Instance(number, weight(number)) for number in range(size)]
            balancer = load(BALANCERS, name)(nodes, Random(2), **params)
            if balancer.uses_load:
                request = requests(balancer, 4 * size)
                for _ in range(8 * size):
                    request()
                whole.append(show(best(request) - empty_loop))
            cells.append(show(best(picks(balancer)) - empty_loop))
        print(f"{label:<37}" + "".join(f"{cell:>16}" for cell in cells))
        if whole:
            print(
                f"{'  the request with both load changes':<37}" + "".join(f"{c:>16}" for c in whole)
            )


def replacing(make: Any, old: Any, nodes: list[Instance]) -> Callable[[], None]:
    """What a worker does when a pool changes, and the first pick after it."""

    def replace() -> None:
        new = make(nodes, Random(2))
        if old is not None:
            new.inherit(old)
        new.pick(1, ())

    return replace


def measure_changes(show: Callable[[float], str]) -> None:
    columns = ("built", "health flip", "one joins", "one leaves")
    print(f"\nnew pool of 1,000 nodes, µs{'':<10}" + "".join(f"{c:>20}" for c in columns))
    for name in BALANCERS:
        make = load(BALANCERS, name)
        nodes = [Instance(number) for number in range(1000)]
        old = make(nodes, Random(2))
        old.pick(1, ())
        flipped = [Instance(number) for number in range(1000)]
        flipped[500].usable = False
        changes = [
            replacing(make, None, nodes),
            replacing(make, old, flipped),
            replacing(make, old, [*nodes, Instance(1000)]),
            replacing(make, old, nodes[:500] + nodes[501:]),
        ]
        print(f"{name:<37}" + "".join(f"{show(best(change)):>20}" for change in changes))


def measure_routes(show: Callable[[float], str]) -> None:
    def field(name: str) -> str | None:
        return None

    print("\nroute lookup, µs")
    for count in (10, 1000):
        hosts = [
            RouteSpec(host=f"s{number}.example.com", service=f"s{number}")
            for number in range(count)
        ]
        prefixes = [
            RouteSpec(path_prefix=f"/api/v1/s{number}", strip_prefix=True, service=f"s{number}")
            for number in range(count)
        ]
        mixed = [
            *hosts[: count // 2],
            RouteSpec(host="*.example.com", path_prefix="/orders", service="orders"),
            RouteSpec(host="{service}.svc.local"),
            *prefixes[: count // 2],
            RouteSpec(path_prefix="/svc/{service}", strip_prefix=True),
        ]
        last = count // 2 - 1
        for label, routes, host, path in (
            ("exact host", hosts, f"s{count - 1}.example.com", "/users/17"),
            ("prefix", prefixes, "example.com", f"/api/v1/s{count - 1}/users/17"),
            ("no route", prefixes, "example.com", "/api/v2/users/17"),
            ("mixed, prefix of any host", mixed, "a.b.other.org", f"/api/v1/s{last}/x"),
            ("mixed, host template", mixed, "users.svc.local", "/users/17"),
            ("mixed, path template", mixed, "a.other.org", "/svc/users/17"),
        ):
            table = RouteTable(routes)

            def look_up(table: Any = table, host: str = host, path: str = path) -> None:
                table.match(host, path, "GET", field)

            print(f"{f'{count} routes, {label}':<44}{show(best(look_up)):>16}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("what", nargs="*", default=["picks", "changes", "routes"])
    arguments = parser.parse_args()
    unit = best(lambda: sum(range(100)))
    print(f"calibration: sum(range(100)) = {unit:.2f} µs")

    def show(cost: float) -> str:
        return f"{cost:.2f} ({cost / unit:.1f})"

    parts = {"picks": measure_balancers, "changes": measure_changes, "routes": measure_routes}
    for what in arguments.what:
        parts[what](show)


if __name__ == "__main__":
    main()
