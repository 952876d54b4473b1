"""Marks: which instances all proxies of a fleet drain."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from proxy.control.pools import PoolRegistry
from proxy.control.slots import Slots
from proxy.fleet.marks import FORGET_AFTER, Absences, Mark, key_of, read
from proxy.membership import Instance, Membership
from proxy.registry.etcd.wire import KeyValue

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
USERS = ("users", "a")


@pytest.mark.parametrize(
    ("value", "by"),
    [
        (b'{"by": "ann"}', "ann"),
        (b'{"by": "ann", "until": "2026-11-22T11:00:00Z"}', "ann"),
        (b'{"by": "ann", "until": "2026-11-22T09:00:00+00:00"}', None),
        (b'{"by": "ann", "until": "2026-11-22T09:00:00"}', "ann"),
        (b"drain it", ""),
        (b"", ""),
    ],
)
def test_a_mark_holds_until_its_time_and_one_that_cannot_be_read_holds(
    value: bytes, by: str | None
) -> None:
    key = key_of(*USERS)
    marks = read({key: KeyValue(key=key, value=value, mod_revision=7)}, NOW)
    assert {whom: (one.by, one.revision) for whom, one in marks.items()} == (
        {} if by is None else {USERS: (by, 7)}
    )


def test_a_mark_goes_when_its_instance_has_been_away_for_an_hour() -> None:
    absences, marks = Absences(), {USERS: Mark()}
    there = False

    def due(now: float) -> list[tuple[str, str]]:
        return absences.due(marks, lambda service, id_: there, now)

    assert due(0.0) == []
    assert due(FORGET_AFTER - 1) == []
    there = True
    assert due(FORGET_AFTER) == []
    there = False
    assert due(FORGET_AFTER + 1) == []
    assert due(2 * FORGET_AFTER + 1) == [USERS]


def test_a_mark_and_the_operators_drain_are_undone_each_for_itself() -> None:
    pools = PoolRegistry({}, Slots(100, lambda slot: True), 0.0)
    pools.drain(*USERS, everywhere="ann")
    one = Instance(service="users", id="a", address="10.0.0.1", port=80)
    pools.apply(Membership(services={"users": (one,)}), 0.0)
    member = pools.named(*USERS)
    assert member is not None
    assert (member.status, member.reason) == ("draining", "drained everywhere: ann")
    pools.drain(*USERS)
    statuses = []
    for everywhere in (True, False):
        pools.undrain(*USERS, everywhere=everywhere)
        pools.settle(1.0)
        statuses.append(pools.named(*USERS).status)  # type: ignore[union-attr]
    assert statuses == ["draining", "ready"]
