"""State that a successor takes over, part by part."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from proxy.control.ejections import Ejection
from proxy.control.handover import PARTS, State, Successor, read
from proxy.membership import Instance, Membership
from proxy.settings.fleet import SharedText
from tests.support.processes import eventually

GOOD = {
    "membership": Membership(
        services={"s": (Instance(service="s", id="a", address="10.0.0.1", port=80),)}, revision=7
    ),
    "drained": [("s", "a")],
    "weights": [(Instance(service="s", id="a", address="10.0.0.1", port=80), 3)],
    "ejections": [Ejection("s", "a@10.0.0.1:80", 2, 9.0, 1.0, True, 0.0, "2 × 503")],
    "unhealthy": {"s": {"a@10.0.0.1:80": "no"}},
    "tripped": ["s"],
    "ticket_secret": (b"secret", 1.5),
    "rate_limits": b"table",
    "shared_config": SharedText("routes: []", "etcd:/key", 7),
    "claims": [("users", "", "/users")],
}


def test_parts_come_as_they_went() -> None:
    assert GOOD.keys() == PARTS.keys()
    assert read(State({name: msgspec.msgpack.encode(part) for name, part in GOOD.items()})) == GOOD


@pytest.mark.parametrize("name", [*PARTS, "of another version"])
def test_a_part_of_another_version_is_left_out_and_named(name: str) -> None:
    parts = {one: msgspec.msgpack.encode(part) for one, part in GOOD.items()}
    with capture_logs() as logs:
        found = read(State({**parts, name: msgspec.msgpack.encode({"x": 1.5})}))
    assert found == {one: part for one, part in GOOD.items() if one != name}
    assert [line["part"] for line in logs] == [name]


async def test_a_successor_that_is_there_has_the_turn_until_it_is_gone_or_serves() -> None:
    supervisor: Any = SimpleNamespace(turn=asyncio.Lock())
    successor = Successor(supervisor)
    for serves in (False, True):
        ours, theirs = socket.socketpair()
        successor.meet(ours)
        await eventually(supervisor.turn.locked)
        if serves:
            successor.taken_over()
        else:
            theirs.close()
        async with asyncio.timeout(10), supervisor.turn:
            pass
        theirs.close()
        await successor.close()
