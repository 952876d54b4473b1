"""Instances with room, of pools with `max_inflight`: who is found, and how many are looked at."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.engine.load import Board, OtherRows
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.pool_context import PoolContext
from proxy.engine.resilience.limits import BucketTable
from proxy.engine.selection import first_choice, next_choice
from proxy.engine.telemetry import WorkerCounters
from proxy.messages import PoolNode, PoolSnapshot
from proxy.settings.balancer import BalancerSpec
from proxy.settings.service import QueueSettings, ServiceSettings


class Scene:
    """A pool of one of two workers, and the other worker's row of the board."""

    def __init__(self, nodes: int, limit: int, balancer: str = "round_robin") -> None:
        self.board = Board.create(2)
        self.theirs = self.board.row(1)
        self.touched = 0
        """Times that somebody asked the board for an instance."""
        self.others = OtherRows(self.board, 0, self._moved)
        self.others.used = (nodes + 1) * 4
        self.time = 0.0
        shared = PoolContext(
            self.board.row(0),
            Random(7),
            BucketTable(self.board.buckets),
            lambda suspect: None,
            self._total,
            self._look,
            lambda seconds, call: None,
            lambda service, state: None,
            self._raised,
            lambda: 0.0,
        )
        settings = ServiceSettings(
            max_inflight=limit,
            queue=QueueSettings(size=10),
            balancer=BalancerSpec(type=balancer),
        )
        self.pool = Pool("s", settings, WorkerCounters().service("s"), shared)
        specs = (PoolNode(f"n{i}", f"n{i}", "::1", i, 1, "ready", i) for i in range(1, nodes + 1))
        self.pool.apply(PoolSnapshot("s", 1, tuple(specs)))
        self.by_slot = {node.slot: node for node in self.pool.nodes.values()}

    def _total(self, slot: int) -> int:
        self.touched += 1
        return self.board.total(slot)

    def _look(self) -> int:
        self.others.refresh(self.time)
        return self.others.looks

    def _moved(self, slot: int, delta: int) -> None:
        self.pool.others_moved(self.by_slot[slot], delta)

    def _raised(self, error: Exception, service: str) -> None:
        raise error

    def first(self) -> Node | None:
        """The instance of a first attempt."""
        picked = self.pool.pick(3, ())
        assert picked is not None
        return first_choice(self.pool, picked, 3, self.time)

    def with_room(self) -> set[Node]:
        """Who has room, by looking at all of them."""
        limit = self.pool.policies.max_inflight
        return {n for n in self.pool.nodes.values() if self.board.total(n.slot) < limit}


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["take", "give", "they", "back", "tick"]), st.integers(1, 12))
)


@given(OPERATIONS, st.integers(1, 3), st.sampled_from(["round_robin", "consistent_hash", "random"]))
def test_room_is_found_by_whoever_looks(
    operations: list[tuple[str, int]], limit: int, balancer: str
) -> None:
    scene = Scene(12, limit, balancer)
    for what, slot in operations:
        node = scene.by_slot[slot]
        if what == "take":
            found = scene.first()
            if found is not None:
                assert found in scene.with_room()
                scene.pool.take(found)
        elif what == "give" and node.in_flight:
            scene.pool.release(node, "ok")
        elif what == "they":
            scene.theirs[slot] += 1
        elif what == "back" and scene.theirs[slot]:
            scene.theirs[slot] -= 1
        elif what == "tick":
            scene.time += 1.0
    scene.time += 1.0
    assert scene.pool.room.any() == bool(scene.with_room())
    found = scene.first()
    assert (found is None) == (not scene.with_room())
    further = (
        next_choice(scene.pool, 3, (node,), 0.0, stale=None, answered=False) if operations else None
    )
    assert further is None or further in scene.with_room() - {node}


def test_room_of_requests_that_came_and_went_unseen_is_believed_again() -> None:
    """The other worker fills the only gap between two looks, and leaves it again."""
    scene = Scene(1, 1)
    scene.theirs[1] = 1
    assert not scene.pool.room.any()
    scene.theirs[1] = 0
    scene.time += 1.0
    assert scene.pool.room.any()


@pytest.mark.parametrize(
    "balancer",
    ["round_robin", "weighted_round_robin", "random", "least_connections", "consistent_hash"],
)
@pytest.mark.parametrize("free", [0, 1])
def test_room_in_an_overload_costs_a_look_at_few_instances(balancer: str, free: int) -> None:
    scene = Scene(3000, 1, balancer)
    for node in list(scene.pool.nodes.values())[free:]:
        scene.pool.take(node)
    for _ in range(20):
        scene.touched = 0
        found = scene.first()
        assert (found is not None) == bool(free)
        assert scene.pool.room.any() == bool(free)
        assert scene.touched <= 16
