"""What a message with changed pools does to a worker that holds 5,000 instances."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import cycle
from random import Random

import msgspec
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.nodes import pool_node
from proxy.engine.load import Board
from proxy.engine.worker import Worker
from proxy.messages import PoolNode, Pools, PoolSnapshot, ToWorker
from tests.support.loop_and_network import SteppedLoop

SERVICES, EACH = 500, 10


@pytest.fixture
def worker() -> Iterator[Worker]:
    board = Board.create(2)
    loop = SteppedLoop()
    yield Worker(loop, 0, board, None, Random(1), loop.time)
    os.close(board.fd)


def message(turn: int, services: int, each: int) -> bytes:
    """With another weight in each service each turn."""

    def nodes(service: int) -> Iterator[PoolNode]:
        for number in range(each):
            yield pool_node(1 + service * each + number, 1 + (number == 0) * (turn % 2))

    snapshots = (
        PoolSnapshot(f"service-{number}", turn, tuple(nodes(number))) for number in range(services)
    )
    return msgspec.msgpack.encode(Pools(seq=turn, snapshots=tuple(snapshots)))


@pytest.mark.parametrize(
    ("services", "each"),
    [(1, EACH), (15, EACH), (SERVICES, EACH), (1, 1000)],
    ids=["one service", "one whole message", "all services", "one of 1000 instances"],
)
def test_apply(benchmark: BenchmarkFixture, worker: Worker, services: int, each: int) -> None:
    """Decoding included. The control process sends some 15 services of ten at a time."""
    decoder = msgspec.msgpack.Decoder(ToWorker)
    worker.on_message(decoder.decode(message(0, SERVICES, EACH)))
    turns = cycle([message(turn, services, each) for turn in (1, 2)])
    benchmark.group = "snapshots applied beside 5,000 instances"
    benchmark(lambda: worker.on_message(decoder.decode(next(turns))))


def test_all_new(benchmark: BenchmarkFixture) -> None:
    """The first full set, which a worker gets in some 30 messages."""
    decoder = msgspec.msgpack.Decoder(ToWorker)
    whole = message(0, SERVICES, EACH)
    boards: list[Board] = []

    def fresh() -> tuple[tuple[Worker], dict[str, object]]:
        boards.append(Board.create(2))
        loop = SteppedLoop()
        return (Worker(loop, 0, boards[-1], None, Random(1), loop.time),), {}

    benchmark.group = "snapshots applied beside 5,000 instances"
    benchmark.pedantic(
        lambda worker: worker.on_message(decoder.decode(whole)), setup=fresh, rounds=10
    )
    for board in boards:
        os.close(board.fd)
