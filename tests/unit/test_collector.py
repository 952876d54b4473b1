"""When a worker's connections are frozen."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from proxy.engine.collector import Collector


@pytest.fixture(autouse=True)
def nothing_stays_frozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def frozen(collector: Collector, *connections: int) -> list[bool]:
    """Whether each of these numbers has something frozen."""
    found = []
    for number in connections:
        gc.unfreeze()
        collector.look(number)
        found.append(gc.get_freeze_count() > 0)
    return found


def test_collector_is_spared_when_connections_have_doubled() -> None:
    counts = (0, 999, 1000, 1999, 2000, 3999, 10_000, 10_000)
    assert frozen(Collector(), *counts) == [
        False, False, True, False, True, False, True, False,
    ]  # fmt: skip


def test_collector_is_spared_again_after_most_have_gone() -> None:
    assert frozen(Collector(), 8000, 7000, 8000, 1000, 2000) == [True, False, False, False, True]


def test_collector_of_another_program_is_left_alone() -> None:
    collector = Collector(own=False)
    assert frozen(collector, 999, 1000, 10_000) == [False] * 3
    gc.unfreeze()
    collector.spare(collect=True)
    assert gc.get_freeze_count() == 0
