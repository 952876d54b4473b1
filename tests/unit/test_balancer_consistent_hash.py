from __future__ import annotations

import subprocess
import sys
from collections import Counter
from random import Random
from typing import Any

import pytest

from balancers.base import NO_KEY
from balancers.consistent_hash import MAX_POINTS, ConsistentHash, _Ring
from proxy.testing.nodes import Instance, Traffic, instances

KEYS = [Random(seed).getrandbits(64) for seed in range(4000)]


def owners(balancer: ConsistentHash, keys: list[int] = KEYS) -> list[Any]:
    return [balancer.pick(key, ()) for key in keys]


def moved(before: list[Any], after: list[Any]) -> int:
    return sum(a is not b for a, b in zip(before, after, strict=True))


def make(nodes: list[Instance], previous: ConsistentHash | None = None, **params: Any) -> Any:
    balancer = ConsistentHash(nodes, Random(1), **params)
    if previous is not None:
        balancer.inherit(previous)
    return balancer


def test_a_key_stays_with_its_node() -> None:
    balancer = make(instances([1] * 5))
    assert owners(balancer) == owners(balancer)


def test_the_ring_does_not_depend_on_order_seed_or_history() -> None:
    nodes = instances([1, 2, 3, 1, 1, 2])
    fresh = owners(ConsistentHash(nodes, Random(1)))
    assert owners(ConsistentHash(nodes[::-1], Random(99))) == fresh
    step = make(nodes[:3])
    owners(step)
    assert owners(make(nodes, step)) == fresh


def test_the_ring_is_the_same_in_every_process() -> None:
    """Known answers: they change only if the ring does, and then users' caches run cold."""
    balancer = make(instances([1, 1, 2]))
    here = [node.id for node in owners(balancer, list(range(12)))]
    assert " ".join(here) == "n2 n2 n2 n2 n0 n0 n0 n1 n2 n1 n0 n2"
    program = (
        "from random import Random; from balancers.consistent_hash import ConsistentHash;"
        "from proxy.testing.nodes import instances;"
        "b = ConsistentHash(instances([1, 1, 2]), Random());"
        "print(*(b.pick(key, ()).id for key in range(12)))"
    )
    for seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert there.stdout.split() == here


def test_an_id_on_a_new_endpoint_keeps_its_keys() -> None:
    nodes = instances([1] * 5)
    before = owners(make(nodes))
    redeployed = [*nodes[:4], Instance("n4", port=8081)]
    after = owners(make(redeployed))
    assert [node.id for node in before] == [node.id for node in after]


def test_removing_one_of_ten_moves_only_its_keys() -> None:
    nodes = instances([1] * 10)
    first = make(nodes)
    before = owners(first)
    after = owners(make(nodes[:9], first))
    for old, new in zip(before, after, strict=True):
        assert new is old or old is nodes[9]
    assert moved(before, after) / len(KEYS) == pytest.approx(0.1, abs=0.03)


def test_a_newcomer_takes_keys_only_for_itself() -> None:
    nodes = instances([1] * 10)
    first = make(nodes[:9])
    before = owners(first)
    after = owners(make(nodes, first))
    for old, new in zip(before, after, strict=True):
        assert new is old or new is nodes[9]


def test_a_flap_moves_no_other_key_and_all_come_back() -> None:
    nodes = instances([1] * 6)
    up = make(nodes)
    before = owners(up)
    nodes[2].usable = False
    down = make(nodes, up)
    during = owners(down)
    assert nodes[2] not in during
    for old, new in zip(before, during, strict=True):
        assert new is old or old is nodes[2]
    # Its keys go to several nodes, not all to one neighbour.
    heirs = Counter(new for old, new in zip(before, during, strict=True) if old is nodes[2])
    assert len(heirs) == 5
    nodes[2].usable = True
    assert owners(make(nodes, down)) == before


def test_health_alone_does_not_touch_the_ring() -> None:
    nodes = instances([1] * 6)
    up = make(nodes)
    up.pick(1, ())
    nodes[3].usable = False
    assert make(nodes[::-1], up)._ring is up._ring


def test_a_retry_goes_on_along_the_ring_and_always_to_the_same_node() -> None:
    nodes = instances([1] * 6)
    balancer = make(nodes)
    for key in KEYS[:50]:
        first = balancer.pick(key, ())
        second = balancer.pick(key, (first,))
        assert second is not first
        assert second is make([node for node in nodes if node is not first]).pick(key, ())


def test_a_request_without_a_key_goes_anywhere() -> None:
    nodes = instances([2, 1, 1])
    balancer = make(nodes)
    counts = Counter(balancer.pick(NO_KEY, ()) for _ in range(8000))
    assert counts[nodes[0]] / 8000 == pytest.approx(0.5, abs=0.03)
    assert counts[nodes[1]] / 8000 == pytest.approx(0.25, abs=0.03)


def test_keys_that_follow_each_other_spread() -> None:
    nodes = instances([1] * 4)
    balancer = make(nodes)
    counts = Counter(balancer.pick(key, ()) for key in range(4000))
    for node in nodes:
        assert counts[node] / 4000 == pytest.approx(0.25, abs=0.08)


def test_more_virtual_nodes_spread_better() -> None:
    def spread(virtual_nodes: int) -> float:
        counts = Counter(owners(make(instances([1] * 8), virtual_nodes=virtual_nodes)))
        return max(counts.values()) / min(counts.values())

    assert spread(1000) < 1.4 < spread(2)


def test_a_change_of_weight_moves_keys_only_to_or_from_that_node() -> None:
    nodes = instances([2, 2, 2, 2])
    first = make(nodes)
    before = owners(first)
    nodes[0].weight = 4
    more = make(nodes, first)
    heavier = owners(more)
    for old, new in zip(before, heavier, strict=True):
        assert new is old or new is nodes[0]
    assert heavier == owners(make(nodes))
    nodes[0].weight = 2
    assert owners(make(nodes, more)) == before


def test_huge_weights_do_not_make_a_huge_ring() -> None:
    nodes = instances([1_000_000, 500_000, 1])
    balancer = make(nodes)
    counts = Counter(owners(balancer))
    assert balancer._ring.size <= MAX_POINTS + len(nodes)
    assert counts[nodes[0]] / len(KEYS) == pytest.approx(2 / 3, abs=0.03)


def test_points_of_a_heavy_instance_are_made_once_and_not_in_each_step() -> None:
    ring = _Ring()
    ring.move("a", 1000, 256)
    points = ring._moving[1]
    assert len(points) == 1000
    ring.move("a", 1000, 256)
    assert ring._moving[1] is points
    ring.move("a", 1000, 1000)
    assert ring.counts == {"a": 1000}
    assert not ring._moving[1]  # A quarter of a million of them would be 2 MiB.


def test_a_ring_at_its_bound_keeps_keys_in_place_too() -> None:
    nodes = instances([1_000_000] * 5)
    first = make(nodes)
    before = owners(first)
    after = owners(make(nodes[:4], first))
    assert all(new is old or old is nodes[4] for old, new in zip(before, after, strict=True))


def test_numbers_of_those_that_left_are_used_again() -> None:
    nodes = instances([1] * 40)
    balancer = make(nodes)
    balancer.pick(1, ())
    for turn in range(200):
        nodes = [*nodes[1:], Instance(f"later-{turn}")]
        balancer = make(nodes, balancer)
    assert len(balancer._ring.ids) <= 41
    assert owners(balancer) == owners(make(nodes))


@pytest.mark.parametrize("params", [{"virtual_nodes": 0}, {"bounded_load": 0.5}])
def test_impossible_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        make([], **params)


# -- bounded load


def test_without_a_bound_loads_are_not_asked_for() -> None:
    free, bounded = make(instances([1])), make(instances([1]), bounded_load=1.25)
    assert (free.reads_load, free.follows_load) == (False, False)
    assert (bounded.reads_load, bounded.follows_load) == (True, True)


def test_one_hot_key_spills_over_to_its_neighbours() -> None:
    nodes = instances([1] * 10)
    balancer = make(nodes, bounded_load=1.25)
    home = balancer.pick(7, ())
    for in_flight in range(1, 201):
        node = balancer.pick(7, ())
        node.load += 1
        balancer.load_changed(node)
        limit = 1.25 * in_flight / len(nodes)
        assert node.load <= limit or node.load - limit < 1
    assert home.load == 25
    for node in nodes:
        node.load = 0
        balancer.load_changed(node)
    assert balancer.pick(7, ()) is home


@pytest.mark.parametrize("bound", [1.0, 1.25, 2.0])
def test_the_bound_follows_the_weights(bound: float) -> None:
    nodes = instances([6, 3, 1])
    balancer = make(nodes, bounded_load=bound)
    for _ in range(100):
        node = balancer.pick(7, ())
        node.load += 1
        balancer.load_changed(node)
    for node in nodes:
        assert node.load <= bound * 100 * node.weight / 10 + 1


def test_the_bound_yields_before_a_retry_fails() -> None:
    nodes = instances([1, 1])
    nodes[0].load = 50
    balancer = make(nodes, bounded_load=1.0)
    assert balancer.pick(7, ()) is nodes[1]
    assert balancer.pick(7, (nodes[1],)) is nodes[0]
    assert balancer.pick(7, nodes) is None


def test_requests_without_a_key_heed_the_bound_too() -> None:
    nodes = instances([1] * 5)
    traffic = Traffic(make(nodes, bounded_load=1.0))
    for _ in range(50):
        node = traffic.balancer.pick(NO_KEY, ())
        assert node is not None
        traffic.set_load(node, node.load + 1)
    assert [node.load for node in nodes] == [10] * 5
