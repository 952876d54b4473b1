"""The contract of balancers over the catalogue, and what the product's own owe beyond it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any

import pytest

from balancers.base import Balancer
from proxy.catalog import BALANCERS, load
from proxy.testing.balancers import FairBalancerContract, Make, built, change, keys
from proxy.testing.nodes import Instance, Traffic, instances


def test_a_ring_after_changes_is_the_one_that_is_built_anew() -> None:
    rng = Random(3)
    nodes = instances([1, 2, 3, 1, 1])
    kind = load(BALANCERS, "consistent_hash")

    def make(nodes: Sequence[Instance]) -> Balancer:
        return built(kind, nodes)

    balancer = make(nodes)
    for _ in range(80):
        balancer = change(balancer, make, nodes, rng) if nodes else make(instances([1]))
        anew = make(nodes)
        assert [balancer.pick(key, ()) for key in keys(99)[1:]] == [
            anew.pick(key, ()) for key in keys(99)[1:]
        ]
        if not nodes:
            break


class Touched(Instance):
    """Counts how often a balancer looks at any of its kind."""

    touches = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("key", "id", "weight", "usable", "load"):
            Touched.touches += 1
        return super().__getattribute__(name)


def touches(do: Callable[..., object], *arguments: object) -> int:
    Touched.touches = 0
    do(*arguments)
    return Touched.touches


class TestBalancers(FairBalancerContract):
    @pytest.fixture(autouse=True, params=[*BALANCERS, "consistent_hash with a bound"])
    def chosen(self, request: pytest.FixtureRequest) -> None:
        name, _, bound = request.param.partition(" ")
        self.balancer = load(BALANCERS, name)
        self.given = {"bounded_load": 1.25} if bound else {}

    @pytest.mark.parametrize("weights", [1, 50])
    def test_picks_and_flaps_look_at_few_nodes(self, make: Make, weights: int) -> None:
        rng = Random(1)
        nodes = [Touched(f"n{number}", 1 + number % weights) for number in range(2000)]
        balancer = make(nodes)
        balancer.pick(1, ())
        for _ in range(50):
            tried = rng.sample(nodes, 2)
            key = rng.getrandbits(64)
            assert touches(balancer.pick, key, ()) < 50
            assert touches(balancer.pick, key, tried) < 50
            nodes[7].usable = not nodes[7].usable
            assert touches(balancer.changed, [nodes[7]], ()) < 50


class AtPick(Balancer):
    """Two choices by load, as somebody might write it who has not read of `reads_load`."""

    def __init__(self, nodes: Sequence[Any], rng: Random) -> None:
        self.nodes, self.rng = nodes, rng

    def pick(self, key: int, tried: Collection[Any]) -> Any:
        return min(self.rng.choices(self.nodes, k=2), key=lambda node: node.load)


class AtStart(AtPick):
    def __init__(self, nodes: Sequence[Any], rng: Random) -> None:
        super().__init__(sorted(nodes, key=lambda node: node.load), rng)

    def pick(self, key: int, tried: Collection[Any]) -> Any:
        return self.nodes[0]


class AtNotice(AtStart):
    def __init__(self, nodes: Sequence[Any], rng: Random) -> None:
        self.nodes = nodes

    def load_changed(self, node: Any) -> None:
        self.nodes = sorted(self.nodes, key=lambda node: node.load)


@pytest.mark.parametrize("kind", [AtPick, AtStart, AtNotice])
def test_a_balancer_that_reads_load_has_to_say_so(kind: type[Balancer]) -> None:
    def serve(kind: type[Balancer]) -> None:
        Traffic(built(kind, instances([1, 1]))).begin()

    with pytest.raises(AssertionError, match=f"{kind.__name__} reads load, but reads_load is not"):
        serve(kind)
    serve(type(kind.__name__, (kind,), {"reads_load": True}))


def test_balancers_that_hear_of_load_are_found_out() -> None:
    assert [kind.follows_load for kind in (AtPick, AtStart, AtNotice)] == [False, False, True]
    assert type("Child", (AtNotice,), {}).follows_load
