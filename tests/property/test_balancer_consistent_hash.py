"""Laws of the ring, whatever the pools."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from balancers.consistent_hash import PIECE, ConsistentHash
from proxy.testing.nodes import Instance

KEYS = [Random(seed).getrandbits(64) for seed in range(200)]
WEIGHTS = st.integers(0, 4)


def make(nodes: list[Instance], virtual_nodes: int = 20) -> ConsistentHash:
    return ConsistentHash(nodes, Random(1), virtual_nodes=virtual_nodes)


def points(balancer: ConsistentHash) -> list[int]:
    """Of the whole ring."""
    balancer.pick(0, ())  # which makes it have one
    return [point for points, _ in balancer._ring.buckets for point in points]


def owners(balancer: ConsistentHash) -> list[Any]:
    return [balancer.pick(key, ()) for key in KEYS]


@given(st.data())
def test_a_ring_that_was_changed_is_the_ring_that_is_built(data: st.DataObject) -> None:
    everyone = [Instance(f"n{number}") for number in range(12)]
    # With many points there are stretches.
    virtual_nodes = data.draw(st.sampled_from((20, 300)))
    balancer = make([], virtual_nodes)
    for _ in range(data.draw(st.integers(1, 6))):
        pool = data.draw(st.lists(st.sampled_from(everyone), unique=True))
        for node in pool:
            node.weight = data.draw(WEIGHTS)
            node.usable = data.draw(st.booleans())
        heir = make(pool, virtual_nodes)
        heir.inherit(balancer)
        fresh = make(data.draw(st.permutations(pool)), virtual_nodes)
        some = data.draw(st.lists(st.sampled_from(KEYS), max_size=5))
        assert [heir.pick(key, ()) for key in some] == [fresh.pick(key, ()) for key in some]
        if data.draw(st.booleans()):
            assert owners(heir) == owners(fresh)
            assert points(heir) == points(fresh)
        balancer = heir
    assert points(balancer) == points(fresh)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=10), st.data())
def test_only_the_keys_of_a_node_that_goes_move(weights: list[int], data: st.DataObject) -> None:
    nodes = [Instance(f"n{number}", weight) for number, weight in enumerate(weights)]
    full = make(nodes)
    before = owners(full)
    gone = data.draw(st.sampled_from(nodes))
    if data.draw(st.booleans()):
        remaining = [node for node in nodes if node is not gone]
    else:
        gone.usable = False
        remaining = nodes
    after = make(remaining)
    after.inherit(full)
    for old, new in zip(before, owners(after), strict=True):
        assert new is not gone
        assert new is old or old is gone


@given(st.data())
def test_a_ring_that_is_being_laid_out_gives_every_key_an_instance(data: st.DataObject) -> None:
    pools = st.lists(st.integers(0, 11), unique=True, max_size=12)
    everyone = [Instance(f"n{number}", 1 + number % 3) for number in range(12)]
    old = make([everyone[number] for number in data.draw(pools)], 300)
    if data.draw(st.booleans()):
        old.pick(0, ())
    pool = [everyone[number] for number in data.draw(pools)]
    for node in pool:
        node.usable = data.draw(st.booleans())
    balancer = make(pool, 300)
    if data.draw(st.booleans()):
        balancer.inherit(old)
    more = True
    while more:
        size = balancer._ring.size
        more = balancer.settle()
        assert abs(balancer._ring.size - size) <= PIECE
        found = owners(balancer)[:20]
        assert all(node.usable and node in pool for node in found if node is not None)
        assert (None in found) == (not any(node.usable for node in pool))
    fresh = make(pool, 300)
    assert owners(balancer) == owners(fresh)
    assert points(balancer) == points(fresh)
