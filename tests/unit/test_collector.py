"""When a worker's connections are frozen, and when what it leaves behind is collected."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterator
from weakref import ref

import pytest

from proxy.engine.collector import Collector


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


class Knot:
    """An object that only the collector frees."""

    def __init__(self, size: int = 0) -> None:
        self.knot = self
        self.ballast = [object() for _ in range(size)]


def left_behind(size: int = 0) -> ref[Knot]:
    """What lived long enough to be no young object any more, and was left then."""
    knot = Knot(size)
    gc.collect(0)
    gc.collect(1)
    return ref(knot)


def looks_until_gone(collector: Collector, knot: ref[Knot], connections: int) -> int:
    """So many looks, with so many connections, until it is collected."""
    for count in range(1, 10_000):
        collector.look(connections)
        if knot() is None:
            return count
    raise AssertionError("never")


def frozen(collector: Collector, *connections: int) -> list[bool]:
    """Whether each of these numbers has something frozen."""
    found = []
    for number in connections:
        gc.unfreeze()
        gc.collect()
        before = gc.get_freeze_count()  # CPython 3.12 freezes what is immortal.
        collector.look(number)
        found.append(gc.get_freeze_count() > before + 1000)
    return found


def test_collector_is_spared_when_connections_have_doubled() -> None:
    counts = (0, 999, 1000, 1999, 2000, 3999, 10_000, 10_000)
    assert frozen(Collector(), *counts) == [
        False, False, True, False, True, False, True, False,
    ]  # fmt: skip


def test_collector_is_spared_again_after_most_have_gone() -> None:
    assert frozen(Collector(), 8000, 7000, 8000, 1000, 2000) == [True, False, False, False, True]


def test_everything_is_collected_once_in_so_many_looks() -> None:
    collector = Collector()
    collector.spare(collect=True)
    assert looks_until_gone(collector, left_behind(), 10) == 60
    assert looks_until_gone(collector, left_behind(), 999) == 60
    collector.look(10_000)
    assert looks_until_gone(collector, left_behind(), 10_000) == 599


def test_everything_is_collected_when_memory_has_doubled() -> None:
    collector = Collector()
    collector.spare(collect=True)
    collector.look(10_000)
    collector.look(10_000)
    knot = left_behind(2 * sys.getallocatedblocks())
    assert looks_until_gone(collector, knot, 10_000) == 1


def test_frozen_knots_are_collected_when_most_connections_have_gone() -> None:
    collector = Collector()
    collector.spare(collect=True)
    knot = left_behind()
    collector.look(1000)
    collector.look(1000)
    assert gc.get_freeze_count()
    assert knot() is not None
    assert looks_until_gone(collector, knot, 200) <= 60
    assert gc.get_freeze_count()


def test_few_objects_are_young_while_there_are_many_connections() -> None:
    """As many objects go as come, as in a worker whose requests end as others begin."""
    Collector().spare(collect=False)
    line: deque[list[list[int]]] = deque([[], []] for _ in range(5000))
    young = 0
    for _ in range(100):
        for _ in range(64):
            line.popleft()
        line.extend([[], []] for _ in range(64))
        young = max(young, len(gc.get_objects(generation=0)))
    assert young < 1000


def test_collector_of_another_program_is_left_alone() -> None:
    collector = Collector(own=False)
    thresholds = gc.get_threshold()
    assert frozen(collector, 999, 1000, 10_000) == [False] * 3
    gc.unfreeze()
    collector.spare(collect=True)
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == thresholds
