"""Work that balancers put off: who goes on with it, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest

from balancers.round_robin import RoundRobin
from proxy.engine.load import Board
from proxy.engine.settling import Settling
from proxy.engine.worker import Worker
from proxy.messages import PoolNode, PoolSnapshot
from proxy.messages import Pools as PoolsMessage
from proxy.settings.balancer import BalancerSpec
from proxy.settings.service import ServiceSettings
from tests.support.loop_and_network import SteppedLoop


class Slow(RoundRobin):
    """Has so much to do; raises where there is a negative number of it."""

    left = 0

    def settle(self) -> bool:
        if self.left < 0:
            raise ValueError("no more")
        self.left -= self.left > 0
        return self.left > 0


def slow(left: int) -> Slow:
    balancer = Slow([], Random(1))
    balancer.left = left
    return balancer


def test_settling_goes_on_in_later_turns_until_it_is_done() -> None:
    loop, raised = SteppedLoop(), list[Exception]()
    settling = Settling(loop.call_later, raised.append)
    first, second = slow(9), slow(4)
    settling.begin(first)
    assert first.left == 5
    loop.advance(0.0015)
    assert first.left == 4
    settling.begin(second)
    loop.advance(1.0)
    assert (first.left, second.left) == (4, 0)
    settling.begin(few := slow(3))
    assert few.left == 0
    settling.begin(third := slow(9))
    settling.finish()
    assert third.left == 0
    assert raised == []


def test_settling_that_raises_is_told_of_and_ends() -> None:
    loop, raised = SteppedLoop(), list[Exception]()
    settling = Settling(loop.call_later, raised.append)
    settling.begin(slow(-1))
    loop.advance(1.0)
    assert [str(error) for error in raised] == ["no more"]


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(1)
    yield board
    os.close(board.fd)


@pytest.mark.parametrize("kind", ["consistent_hash", "maglev"])
def test_settling_of_a_first_set_is_finished_before_anybody_is_served(
    board: Board, kind: str
) -> None:
    loop = SteppedLoop()
    worker = Worker(loop, 0, board, None, Random(5), loop.time)
    worker.pools.configure(ServiceSettings(balancer=BalancerSpec(type=kind)), {})
    nodes = tuple(PoolNode(f"n{i}", f"n{i}", "::1", i, 1, "ready", i) for i in range(1, 100))
    worker.on_message(PoolsMessage(seq=1, snapshots=(PoolSnapshot("s", 1, nodes),)))
    pool = worker.pools.get("s")
    assert pool is not None
    assert pool.balancer.settle()
    worker.on_message(PoolsMessage(seq=2, complete=True))
    assert not pool.balancer.settle()
    loop.advance(0.1)
