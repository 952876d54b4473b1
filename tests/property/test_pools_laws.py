"""Whatever came before, the pools are those of the last membership."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.control.pools import PoolRegistry
from proxy.control.slots import Slots
from proxy.membership import Instance, Membership

instances = st.builds(
    Instance,
    service=st.just("s"),
    id=st.sampled_from("abcd"),
    address=st.just("10.0.0.1"),
    port=st.integers(1, 3),
    weight=st.integers(0, 2),
    health=st.sampled_from(["healthy", "draining", "unhealthy"]),
)
tuples = st.lists(instances, max_size=4, unique_by=lambda one: one.id).map(tuple)
memberships = st.dictionaries(st.sampled_from(["users", "orders", "pay"]), tuples).map(
    lambda services: Membership(services=services)
)
histories = st.lists(memberships, min_size=1, max_size=8)


def book(busy: frozenset[int] = frozenset(), capacity: int = 6) -> PoolRegistry:
    return PoolRegistry({}, Slots(capacity, lambda slot: slot not in busy), 0.0)


def shown(pools: PoolRegistry) -> dict[str, Any]:
    """What a worker would do with it: everything but numbers that depend on the way."""
    return {
        name: (
            pool.snapshot.panic,
            [(node.key, node.weight, node.status) for node in pool.snapshot.nodes],
        )
        for name, pool in pools.by_service.items()
        if pool.members
    }


@given(histories)
def test_any_history_ends_in_the_pools_of_its_last_membership(history: list[Membership]) -> None:
    walked, direct = book(), book()
    for at, membership in enumerate(history):
        walked.apply(membership, float(at))
    direct.apply(history[-1], 0.0)
    assert shown(walked) == shown(direct)


@given(histories)
def test_applying_the_same_again_changes_nothing(history: list[Membership]) -> None:
    pools = book()
    for membership in history:
        pools.apply(membership, 0.0)
    before = dict(shown(pools))
    assert not pools.apply(history[-1], 1.0)
    assert shown(pools) == before


@given(histories, st.frozensets(st.integers(1, 5)), st.integers(1, 20))
def test_live_columns_are_unique_and_within_the_board(
    history: list[Membership], busy: frozenset[int], step: int
) -> None:
    pools = book(busy)
    for at, membership in enumerate(history):
        pools.apply(membership, float(at * step))
        live = [
            node.slot
            for pool in pools.by_service.values()
            for node in pool.snapshot.nodes
            if node.slot != 0
        ]
        assert len(live) == len(set(live))
        assert all(0 < slot < 6 for slot in live)


@given(histories)
def test_changes_name_exactly_the_snapshots_that_differ(history: list[Membership]) -> None:
    pools = book()
    for at, membership in enumerate(history):
        before = {name: pool.snapshot for name, pool in pools.by_service.items()}
        changes = pools.apply(membership, float(at))
        differing = {
            name for name, pool in pools.by_service.items() if before.get(name) is not pool.snapshot
        }
        assert set(changes.pools) == differing
        for name in differing & before.keys():
            assert pools.by_service[name].snapshot.generation > before[name].generation


@given(histories)
def test_the_tally_adds_up_to_who_is_there(history: list[Membership]) -> None:
    pools = book()
    for at, membership in enumerate(history):
        pools.apply(membership, float(at))
    for pool in pools.by_service.values():
        assert pool.tally.registered - pool.tally.deregistered == len(pool.members)
