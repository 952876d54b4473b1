"""What client-side balancing owes its user, with every balancer of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from proxy.catalog import BALANCERS
from proxy.discovery.pool import Node, Pool, builder
from proxy.membership import Instance
from tests.support.manual_provider import instance


@pytest.fixture(params=sorted(BALANCERS))
def pool(request: pytest.FixtureRequest) -> Pool:
    return Pool(builder(request.param, {}), Random(7))


def members(ids: Iterable[str], **fields: object) -> tuple[Instance, ...]:
    return tuple(instance(id_, **fields) for id_ in ids)


def pick(pool: Pool, number: int, *tried: Node) -> Node:
    node = pool.pick(b"%d" % number, tried)
    assert node is not None
    return node


def test_an_empty_pool_has_nobody(pool: Pool) -> None:
    assert pool.pick(None, ()) is None
    pool.follow(())
    assert pool.pick(b"key", ()) is None


def test_each_instance_gets_some(pool: Pool) -> None:
    pool.follow(members("abc"))
    assert {pick(pool, number).id for number in range(200)} == set("abc")
    assert {node.id for _ in range(200) if (node := pool.pick(None, ())) is not None} == set("abc")


def test_another_try_goes_elsewhere_until_nobody_is_left(pool: Pool) -> None:
    pool.follow(members("abc"))
    tried: list[Node] = []
    for _ in range(3):
        tried.append(pick(pool, 1, *tried))
    assert {node.id for node in tried} == set("abc")
    assert pool.pick(b"1", tried) is None


def test_only_the_ready_are_picked(pool: Pool) -> None:
    sick, leaving = instance("s", health="unhealthy"), instance("l", health="draining")
    pool.follow((*members("a"), sick, leaving, instance("z", weight=0)))
    assert {pick(pool, number).id for number in range(50)} == {"a"}


def test_health_is_ignored_when_nobody_is_ready(pool: Pool) -> None:
    sick, leaving = instance("s", health="unhealthy"), instance("l", health="draining")
    pool.follow((sick, leaving, instance("z", weight=0)))
    assert {pick(pool, number).id for number in range(50)} == {"s"}
    pool.follow((leaving,))
    assert pool.pick(b"1", ()) is None


def test_requests_in_flight_survive_every_change(pool: Pool) -> None:
    pool.follow(members("ab"))
    node = pick(pool, 1)
    pool.take(node)
    pool.follow(members("abc"))
    assert {one.id: one.load for one in pool.nodes}[node.id] == 1
    pool.follow(members("c"))  # It left,
    pool.follow(members("abc", version="2"))  # and came back.
    assert {one.id: one.load for one in pool.nodes}[node.id] == 1
    pool.follow(members("c"))
    pool.release(node)
    pool.follow(members("abc"))
    assert [one.load for one in pool.nodes] == [0, 0, 0]


def test_the_same_id_on_another_endpoint_starts_from_nothing(pool: Pool) -> None:
    pool.follow(members("a"))
    node = pick(pool, 1)
    pool.take(node)
    pool.follow(members("a", port=81))
    assert [(one.key, one.load) for one in pool.nodes] == [("a@127.0.0.1:81", 0)]
    pool.release(node)
    assert pick(pool, 1).load == 0
