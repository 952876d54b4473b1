"""Live nodes behind frozen snapshots, the board they are counted on, and the counters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest
from msgspec.structs import replace

from balancers.base import hash_key
from proxy.catalog import BALANCERS
from proxy.control.pool import change_between
from proxy.control.slots import Rows
from proxy.control.statistics import Reported
from proxy.engine.load import SLOTS, Board, OtherRows
from proxy.engine.node import Node
from proxy.engine.pool import Pool
from proxy.engine.reports import Reports
from proxy.engine.telemetry import KINDS, ServiceCounters, WorkerCounters
from proxy.engine.worker import Worker
from proxy.http.properties import source_of
from proxy.messages import (
    DURATION_BOUNDS,
    KEPT_SERVICES,
    PoolNode,
    PoolSnapshot,
    Status,
    WorkerStats,
)
from proxy.settings.balancer import BalancerSpec
from proxy.settings.service import ServiceSettings
from tests.support.loop_and_network import SteppedLoop

HASH_OF_USER_1 = 0x9AAC5A8621EAE188


def spec(name: str, slot: int = 0, status: Status = "ready", weight: int = 1) -> PoolNode:
    return PoolNode(f"{name}@10.0.0.1:80", name, "10.0.0.1", 80, weight, status, slot)


class Side:
    """Two workers' view of one board; the first is the one under test."""

    def __init__(self) -> None:
        self.board = Board.create(2)
        self.loop = loop = SteppedLoop()
        self.worker = Worker(loop, 0, self.board, None, Random(3), loop.time)
        self.other = self.board.row(1)
        self.pools = self.worker.pools
        self.now = 0.0

    def apply(self, *nodes: PoolNode, service: str = "s", panic: bool = False) -> list[Node]:
        pool = self.pools.get(service)
        generation = 0 if pool is None else pool.generation + 1
        return self.pools.apply(PoolSnapshot(service, generation, nodes, panic))

    def pool(self, service: str = "s") -> Pool:
        pool = self.pools.get(service)
        assert pool is not None
        return pool

    def node(self, name: str, service: str = "s") -> Node:
        return self.pool(service).nodes[f"{name}@10.0.0.1:80"]

    def look(self) -> None:
        self.now += 1
        self.pools.others.refresh(self.now)


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side()
    yield made
    os.close(made.board.fd)


class Twin(Side):
    """A side that is told the same as another, by changes."""

    def __init__(self) -> None:
        super().__init__()
        self.told = PoolSnapshot("s", 0, ())
        self.pools.apply(self.told)
        self.changes = 0

    def follow(self, snapshot: PoolSnapshot) -> None:
        change = change_between(self.told, snapshot)
        self.told = snapshot
        if change is None:
            self.pools.apply(snapshot)
        else:
            self.changes += 1
            self.pools.change(change)


@pytest.mark.parametrize("balancer", BALANCERS)
@pytest.mark.parametrize("seed", range(4))
def test_changes_lead_where_whole_snapshots_do(balancer: str, seed: int) -> None:
    rng = Random(seed)
    whole, twin = Side(), Twin()
    settings = ServiceSettings(balancer=BalancerSpec(type=balancer))
    for side in (whole, twin):
        side.pools.configure(settings, {"s": settings})
    known = {f"n{number}": spec(f"n{number}", 1 + number) for number in range(20)}
    for generation in range(1, 80):
        name = f"n{rng.randrange(30)}"
        if rng.random() < 0.2:
            known.pop(name, None)
        else:
            status = rng.choice(("ready", "ready", "unhealthy", "ejected", "draining"))
            known[name] = spec(name, 1 + rng.randrange(60), status, rng.choice((0, 1, 1, 3)))
        if rng.random() < 0.05:
            known = {name: replace(node, status="unhealthy") for name, node in known.items()}
        snapshot = PoolSnapshot("s", generation, tuple(known.values()), rng.random() < 0.1)
        unreachable = {each for each in known if rng.random() < 0.1}
        whole.apply(*snapshot.nodes, panic=snapshot.panic)
        twin.follow(snapshot)
        seen = []
        for side in (whole, twin):
            pool = side.pool()
            for node in pool.nodes.values():
                if node.unreachable != (node.id in unreachable):
                    node.unreachable = node.id in unreachable
                    node.reassess()
                    pool.reach_changed(node)
            side.loop.advance(1.0)
            picked: set[str] = set()
            while node := pool.pick(rng.getrandbits(64), [pool.nodes[k] for k in picked]):
                picked.add(node.key)
            states = {
                key: (node.status, node.weight, node.slot, node.admitted, node.usable)
                for key, node in pool.nodes.items()
            }
            seen.append((states, picked, {node.key for node in pool.on_probation}))
        assert seen[0] == seen[1]
    assert twin.changes > 40
    for side in (whole, twin):
        os.close(side.board.fd)


# -- the board


def test_rows_are_separate_and_totals_are_sums() -> None:
    board = Board.create(3)
    try:
        for worker in range(3):
            board.row(worker)[5] = worker + 1
        assert board.total(5) == 6
        assert board.total(4) == 0
        assert board.idle(4)
        assert not board.idle(5)
        board.clear_row(1)
        assert board.total(5) == 4
        assert list(board.row(0)[4:7]) == [0, 1, 0]
        board.row(2)[SLOTS - 1] = 7
        assert board.total(SLOTS - 1) == 7
    finally:
        os.close(board.fd)


def test_changes_of_others_are_reported_once_and_exactly() -> None:
    board = Board.create(3)
    heard: list[tuple[int, int]] = []
    others = OtherRows(board, 1, lambda slot, delta: heard.append((slot, delta)))
    others.used = 4000 * 4
    rng = Random(5)
    truth = [0] * 4000
    now = 0.0
    try:
        for _ in range(50):
            for _ in range(rng.randrange(20)):
                row, slot = rng.choice((0, 2)), rng.randrange(1, 4000)
                change = rng.choice((1, 1, -1))
                board.row(row)[slot] += change
                truth[slot] += change
            board.row(1)[rng.randrange(4000)] += 1  # Our own row is not news.
            before = [others.known(slot) for slot in range(4000)]
            heard.clear()
            now += 1
            others.refresh(now)
            sums = [0] * 4000
            for slot, delta in heard:
                assert delta != 0
                sums[slot] += delta
            assert [a + b for a, b in zip(before, sums, strict=True)] == truth
            assert [others.known(slot) for slot in range(4000)] == truth
    finally:
        os.close(board.fd)


def test_rows_that_come_are_counted_and_what_rows_had_that_go_is_over() -> None:
    board = Board.create(4)
    board.alive = (1, 2)
    heard: list[tuple[int, int]] = []
    others = OtherRows(board, 1, lambda slot, delta: heard.append((slot, delta)))
    others.used = 400
    try:
        for row in range(4):
            board.row(row)[7] = 1
        others.refresh(1.0)
        assert heard == [(7, 1)]
        assert board.total(7) == 2
        others.follow((1, 2, 3))
        others.refresh(2.0)
        assert heard == [(7, 1)] * 2
        others.follow((1, 3))
        assert heard == [(7, 1)] * 2 + [(7, -1)]
        assert others.known(7) == 1
        assert board.total(7) == 2
    finally:
        os.close(board.fd)


def test_rows_are_taken_by_one_process_each_and_cleared_when_it_is_gone() -> None:
    board = Board.create(2)
    told: list[tuple[int, ...]] = []
    rows = Rows(board, lambda: told.append(tuple(board.alive)))
    try:
        assert [rows.take(), rows.take()] == [0, 1]
        with pytest.raises(OSError, match="2 workers"):
            rows.take()
        board.row(0)[3] = board.row(1)[3] = 5
        rows.free(0)
        assert board.total(3) == 5
        assert rows.take() == 0
        assert board.row(0)[3] == 0
        assert told == [(0,), (0, 1), (1,), (1, 0)]
    finally:
        os.close(board.fd)


def test_counts_beyond_the_used_mark_are_seen_when_the_mark_is_raised() -> None:
    board = Board.create(2)
    heard: list[tuple[int, int]] = []
    others = OtherRows(board, 0, lambda slot, delta: heard.append((slot, delta)))
    try:
        others.used = 8
        board.row(1)[1] = 2
        board.row(1)[9] = 3
        others.refresh(1.0)
        assert heard == [(1, 2)]
        assert others.known(9) == 0
        others.used = 40
        others.refresh(2.0)
        assert heard == [(1, 2), (9, 3)]
    finally:
        os.close(board.fd)


# -- pools


def test_nodes_keep_their_identity_and_numbers_over_snapshots(side: Side) -> None:
    side.apply(spec("a", 1), spec("b", 2))
    a = side.node("a")
    side.pool().take(a)
    assert side.apply(spec("b", 2), spec("a", 1, weight=5), spec("c", 3)) == []
    assert side.node("a") is a
    assert (a.weight, a.in_flight, a.load) == (5, 1, 1)
    side.pool().release(a, "ok")
    assert a.outcomes == {"ok": 1}
    assert side.board.total(1) == 0


@pytest.mark.parametrize(
    ("status", "panic", "usable"),
    [
        ("ready", False, True), ("ready", True, True), ("unhealthy", False, False),
        ("unhealthy", True, True), ("ejected", False, False), ("ejected", True, True),
        ("draining", False, False), ("draining", True, False),
    ],
)  # fmt: skip
def test_status_and_panic_say_whether_a_node_is_usable(
    side: Side, status: Status, panic: bool, usable: bool
) -> None:
    side.apply(spec("a", status=status), panic=panic)
    assert side.node("a").usable is usable
    assert (side.pool().pick(0, ()) is not None) is usable


def test_a_departed_node_finishes_and_is_gone(side: Side) -> None:
    side.apply(spec("a", 1), spec("b", 2))
    a = side.node("a")
    pool = side.pool()
    pool.take(a)
    assert side.apply(spec("b", 2)) == [a]
    assert not a.usable
    assert pool.pick(0, ()) is side.node("b")
    assert {node.key for node in pool.changed_nodes()} == {a.key, "b@10.0.0.1:80"}
    assert side.board.total(1) == 1
    pool.release(a, "ok")
    assert side.board.total(1) == 0
    assert {node.key for node in pool.changed_nodes()} == {"b@10.0.0.1:80"}


def test_a_departed_node_that_returns_is_the_same(side: Side) -> None:
    side.apply(spec("a", 1))
    a = side.node("a")
    side.pool().take(a)
    side.apply()
    side.apply(spec("a", 4))
    assert side.node("a") is a
    assert a.in_flight == 1
    assert (side.board.total(1), side.board.total(4)) == (0, 1)


def test_a_new_endpoint_of_an_id_is_a_new_node(side: Side) -> None:
    side.apply(spec("a", 1))
    a = side.node("a")
    moved = PoolNode("a@10.0.0.2:80", "a", "10.0.0.2", 80, 1, "ready", 2)
    assert side.apply(moved) == [a]
    assert side.pool().nodes["a@10.0.0.2:80"] is not a


def test_a_node_keeps_the_last_failure_that_speaks_against_it(side: Side) -> None:
    side.apply(spec("a"))
    pool, node = side.pool(), side.node("a")
    for at, outcome in enumerate(("503", "connect_refused", "client_gone", "ok"), 1):
        side.loop.advance(1.0)
        pool.take(node)
        pool.release(node, outcome)
        if at == 2:
            failed_at = side.loop.time()
    told = pool.stats_of(node)
    assert (told.failure, told.failed_at) == ("connect_refused", failed_at)


def test_the_others_loads_are_part_of_a_nodes_load(side: Side) -> None:
    side.apply(spec("a", 1), spec("b", 2))
    side.other[1] = 3
    side.look()
    assert (side.node("a").load, side.node("b").load) == (3, 0)
    side.pool().take(side.node("a"))
    side.other[1] = 1
    side.look()
    assert (side.node("a").load, side.node("a").in_flight) == (2, 1)


def test_a_new_node_starts_from_what_is_known(side: Side) -> None:
    side.apply(spec("z", 9))
    side.other[5] = 4
    side.look()
    side.apply(spec("z", 9), spec("a", 5))
    assert side.node("a").load == 4


def test_a_node_that_changes_its_column_takes_its_count_along(side: Side) -> None:
    side.apply(spec("a", 1), spec("b", 2))
    a, b = side.node("a"), side.node("b")
    for _ in range(3):
        side.pool().take(a)
    side.pool().take(b)
    side.other[1], side.other[2] = 10, 20
    side.look()
    side.apply(spec("a", 2), spec("b", 1))  # They change places.
    assert (side.worker.pools.get("s"), side.board.row(0)[2], side.board.row(0)[1]) == (
        side.pool(), 3, 1,
    )  # fmt: skip
    assert (a.load, b.load) == (23, 11)
    side.apply(spec("a", 7), spec("b", 1))
    assert a.load == 3
    side.other[2] = 0  # Nobody's column any more: its news are nobody's.
    side.look()
    assert (a.load, b.load) == (3, 11)


def test_a_column_may_pass_to_another_service_before_the_first_has_let_go(side: Side) -> None:
    side.apply(spec("a", 1), service="old")
    side.apply(spec("b", 1), service="new")
    side.apply(service="old")
    side.other[1] = 6
    side.look()
    assert side.node("b", "new").load == 6


def test_instances_without_a_column_are_counted_within_one_worker(side: Side) -> None:
    side.apply(spec("a"), spec("b"))
    side.pool().take(side.node("a"))
    side.other[0] = 50
    side.look()
    assert (side.node("a").load, side.node("b").load) == (1, 0)


def test_settings_change_and_nothing_measured_is_lost(side: Side) -> None:
    side.apply(spec("a", 1), spec("b", 2))
    pool, a = side.pool(), side.node("a")
    pool.take(a)
    new = ServiceSettings(balancer=BalancerSpec(type="least_connections"))
    side.pools.configure(ServiceSettings(), {"s": new})
    assert side.pool() is pool
    assert side.node("a") is a
    assert pool.reads_load
    assert pool.pick(0, ()) is side.node("b")
    keyed = ServiceSettings(balancer=BalancerSpec(type="consistent_hash", key="header:X-User"))
    side.pools.configure(ServiceSettings(), {"s": keyed})
    assert pool.uses_key
    assert pool.key_source == ("header", "x-user")
    pool.release(a, "ok")
    assert a.in_flight == 0


def test_a_service_that_goes_leaves_only_its_name_if_the_file_has_it(side: Side) -> None:
    side.pools.configure(ServiceSettings(), {"kept": ServiceSettings()})
    side.apply(spec("a", 1), service="kept")
    side.apply(spec("a", 2), service="gone")
    a = side.node("a", "gone")
    pool = side.pool("gone")
    pool.take(a)
    assert side.pools.remove("gone") == [a]
    assert side.pools.get("gone") is None
    assert [node.id for node in side.pools.remove("kept")] == ["a"]
    assert side.pool("kept").pick(0, ()) is None
    assert side.pools.remove("never") == []
    pool.release(a, "ok")
    assert side.board.total(2) == 0


def test_counts_of_services_that_come_and_go_for_ever_do_not_add_up(side: Side) -> None:
    told = Reported()
    reports: list[WorkerStats] = []
    worker = side.worker
    tell = Reports(
        worker.counters,
        side.pools,
        reports.append,
        lambda call: call(),
        lambda: 0,
        lambda: 0,
        worker.names,
    )
    for number in range(3 * KEPT_SERVICES):
        name = f"branch-{number}"
        side.apply(spec("a", 1), service=name)
        side.pool(name).counters.answered(b"GET", 200, 0.0)
        side.pools.remove(name)
        if number % 100 == 0:
            tell.report(0)
    tell.report(0)
    for message in reports:
        told.take(message)
    told.forget((), ())
    assert len(worker.counters.services) == len(told.services) == KEPT_SERVICES
    # Who was away for a while counts on; who was away for long begins anew, and is told.
    for name, answers in ((f"branch-{3 * KEPT_SERVICES - 1}", 2), ("branch-0", 1)):
        side.apply(spec("a", 1), service=name)
        side.pool(name).counters.answered(b"GET", 200, 0.0)
        reports.clear()
        tell.report(0)
        assert reports[-1].services[name].requests == {"GET 200": answers}


def test_keys_are_the_same_everywhere() -> None:
    assert hash_key(b"user-1") == HASH_OF_USER_1  # Also in the next version: keys must not move.
    assert 0 <= hash_key(b"") < 2**64
    assert len({hash_key(b"%d" % number) for number in range(1000)}) == 1000
    assert source_of("cookie:SID") == ("cookie", "SID")
    assert source_of("client_ip") == ("client_ip", "")


# -- telemetry


def test_counters_make_a_message() -> None:
    counters = ServiceCounters()
    counters.answered(b"GET", 200, 0.0005)
    counters.answered(b"GET", 200, DURATION_BOUNDS[0])  # A bound belongs to its own bucket.
    counters.answered(b"GET", 404, 61.0)
    counters.answered(b"BREW", 418, 0.003)
    counters.answered(b"STEAL", 418, 0.003)
    counters.failed("dns_failed")
    counters.retried("dns_failed")
    stats = counters.snapshot()
    assert stats.requests == {"GET 200": 2, "GET 404": 1, "OTHER 418": 2}
    assert sum(stats.duration_buckets) == 5
    assert stats.duration_buckets[0] == 2
    assert stats.duration_buckets[-1] == 1
    assert stats.duration_sum == pytest.approx(61.0075)
    assert (stats.faults, stats.retries) == ({"dns_failed": 1}, {"dns_failed": 1})
    counters.answered(b"GET", 200, 1)
    counters.failed("dns_failed")
    assert stats.requests["GET 200"] == 2  # A message does not change behind its reader.
    assert stats.faults == {"dns_failed": 1}


def test_methods_and_statuses_that_somebody_invents_make_no_series() -> None:
    counters = ServiceCounters()
    for number in range(1000):
        counters.answered(b"M%d" % number, 200, 0.0)
    for status in range(100, 1000):
        for method in (b"GET", b"POST"):
            counters.answered(method, status, 0.0)
    counters.answered(b"GET", 100, 0.0)
    requests = counters.snapshot().requests
    assert len(requests) <= KINDS + 9
    assert sum(requests.values()) == 1000 + 1800 + 1
    assert (requests["OTHER 200"], requests["GET 100"], requests["OTHER 900"]) == (1145, 2, 200)


def test_counters_of_a_service_are_one_object() -> None:
    counters = WorkerCounters()
    assert counters.service("a") is counters.service("a")
    assert counters.service("a") is not counters.service("b")


def test_a_tier_takes_over_when_the_one_before_cannot_be_connected_to(side: Side) -> None:
    settings = ServiceSettings(priority_key="priority")
    side.pools.configure(settings, {"s": settings})
    nodes = (spec("a"), spec("b"), replace(spec("z"), tier=1))
    side.apply(*nodes)
    pool = side.pool()
    assert {node and node.id for node in (pool.pick(1, ()) for _ in range(20))} == {"a", "b"}
    for name in "ab":
        side.node(name).unreachable = True
        side.node(name).reassess()
        pool.reach_changed(side.node(name))
    pool._rebuild()
    assert {node and node.id for node in (pool.pick(1, ()) for _ in range(20))} == {"z"}
    side.pools.configure(ServiceSettings(), {"s": ServiceSettings()})
    assert {node.weight for node in pool.nodes.values()} == {1}
