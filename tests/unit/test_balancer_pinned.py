from __future__ import annotations

from random import Random

from balancers.base import NO_KEY, hash_key
from balancers.pinned import Pinned
from balancers.round_robin import RoundRobin
from proxy.testing.nodes import Instance, instances


def number(id: str) -> int:
    return hash_key(id.encode())


def pinned(nodes: list[Instance]) -> Pinned:
    return Pinned(RoundRobin(nodes, Random(1)), nodes, number)


def test_a_pinned_key_stays_and_others_go_round() -> None:
    nodes = instances([1, 1, 1])
    balancer = pinned(nodes)
    assert {balancer.pick(number("n1"), ()) for _ in range(9)} == {nodes[1]}
    for key in (NO_KEY, number("gone")):
        assert {balancer.pick(key, ()) for _ in range(9)} == set(nodes)
        assert not balancer.holds(key)
    assert balancer.pick(number("n1"), (nodes[1],)) in (nodes[0], nodes[2])


def test_a_pin_is_lost_with_its_instance_and_comes_back_with_it() -> None:
    nodes = instances([1, 1])
    balancer = pinned(nodes)
    for usable in (False, True):
        nodes[1].usable = usable
        if not balancer.changed([nodes[1]], []):
            heir = pinned(nodes)
            heir.inherit(balancer)
            balancer = heir
        assert balancer.holds(number("n1")) == usable
        assert balancer.pick(number("n1"), ()) is nodes[usable]
