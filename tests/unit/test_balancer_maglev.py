"""The laws of the table: even shares, and few keys that move."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from balancers.base import hash_key
from balancers.maglev import STEP, Maglev, _tables
from proxy.testing.nodes import Instance, instances

KEYS = [hash_key(b"%d" % number) for number in range(4000)]


def owners(balancer: Maglev) -> list[str | None]:
    return [node and node.id for node in (balancer.pick(key, ()) for key in KEYS)]


def owner_of_places(balancer: Maglev) -> list[str]:
    settled(balancer).pick(1, ())
    return [balancer._ids[number] for number in balancer._table]


def built(nodes: list[Instance], size: int = 5003) -> Maglev:
    return Maglev(nodes, Random(1), table_size=size)


def settled(balancer: Maglev) -> Maglev:
    while balancer.settle():
        pass
    return balancer


@pytest.mark.parametrize(("size", "weights"), [(5003, [1] * 7), (5000, [3, 1, 2]), (101, [1, 1])])
def test_places_follow_the_weights_to_one(size: int, weights: list[int]) -> None:
    balancer = built(instances(weights), size)
    places = Counter(owner_of_places(balancer))
    for number, weight in enumerate(weights):
        share = size * weight / sum(weights)
        assert abs(places[f"n{number}"] - share) <= max(weights) / min(weights)


@pytest.mark.parametrize("count", [2, 5, 20, 50])
def test_a_change_moves_few_keys(count: int) -> None:
    nodes = instances([1] * count)
    before = owners(built(nodes))
    left = owners(built(nodes[1:]))
    moved = sum(a != b for a, b in zip(before, left, strict=True))
    assert moved / len(KEYS) <= 2 / count
    assert sum(a == "n0" for a in before) <= moved


@pytest.mark.parametrize(("count", "most"), [(100, 2), (150, 2), (300, 4)])
def test_a_removal_moves_few_places_of_a_table_of_the_usual_size(count: int, most: int) -> None:
    nodes = instances([1] * count)
    before, left = (owner_of_places(built(some, 65_537)) for some in (nodes, nodes[1:]))
    moved = sum(a != b for a, b in zip(before, left, strict=True))
    assert before.count("n0") <= moved <= 65_537 * most / count


def test_a_flap_moves_only_the_keys_of_its_own_instance() -> None:
    nodes = instances([1] * 6)
    balancer = built(nodes)
    before = owners(balancer)
    nodes[2].usable = False
    assert balancer.changed([nodes[2]], [])
    during = owners(balancer)
    assert all(a == b for a, b in zip(before, during, strict=True) if a != "n2")
    taken = Counter(b for a, b in zip(before, during, strict=True) if a == "n2")
    assert len(taken) == 5
    nodes[2].usable = True
    assert balancer.changed([nodes[2]], [])
    assert owners(balancer) == before


def test_the_table_before_serves_until_the_next_is_whole() -> None:
    nodes = instances([1] * 5)
    old = built(nodes, 65_537)
    before = owners(old)
    heir = built([*nodes, Instance("n9")], 65_537)
    heir.inherit(old)
    assert heir.settle()
    assert [node and node.id for node in (heir.pick(key, ()) for key in KEYS[:50])] == before[:50]
    steps = 1
    while heir.settle():
        steps += 1
    assert 100 < steps < 700
    assert owners(heir) == owners(built([*nodes, Instance("n9")], 65_537))
    again = built(nodes, 65_537)
    again.inherit(heir)
    later = built(nodes, 65_537)
    later.inherit(again)
    assert later._building is again._building
    assert owners(settled(later)) == before


def test_the_table_is_the_same_whatever_the_order_of_the_nodes() -> None:
    nodes = instances([1, 2, 3])
    assert owners(built(nodes)) == owners(built(nodes[::-1]))


def test_a_pool_that_is_new_as_a_whole_is_served_at_once() -> None:
    old = built(instances([1, 1]))
    owners(old)
    heir = built([Instance("x"), Instance("y", usable=False)])
    heir.inherit(old)
    assert set(owners(heir)) == {"x"}


def test_keys_have_instances_before_there_is_a_table() -> None:
    nodes = instances([1] * 5)
    nodes[3].usable = False
    balancer = built(nodes, 65_537)
    assert balancer.settle()
    assert not balancer._table
    assert {node and node.id for node in (balancer.pick(key, ()) for key in KEYS)} == {
        "n0", "n1", "n2", "n4",
    }  # fmt: skip
    assert balancer.pick(0, nodes[:3]) is nodes[4]
    assert owners(settled(balancer)) == owners(built(nodes, 65_537))


def test_a_step_is_short_however_heavy_one_instance_is() -> None:
    looks = 0

    class Weights(dict[str, int]):
        def __getitem__(self, id: str) -> int:
            nonlocal looks
            looks += 1
            return super().__getitem__(id)

    steps, longest, total = 0, 0, 0
    for _ in _tables(Weights({f"n{number}": 1 for number in range(100)} | {"n0": 65_535}), 5003):
        steps, longest, total, looks = steps + 1, max(longest, looks), total + looks, 0
    assert longest <= 2 * STEP
    assert total <= 2 * 5003
