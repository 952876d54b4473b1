"""Second attempts for clients of HTTP/2: each stream by itself; calls of gRPC have none."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.hedge import HedgeSettings
from proxy.settings.service import RetrySettings, ServiceSettings
from tests.support.h2_peer import HTTP2, H2Peer, data, head, reset
from tests.support.wire import OK, Peer, Wire
from tests.wire.test_grpc import GRPC, MESSAGE

LATE = 0.07


def hedged(make: Any, **options: Any) -> tuple[Wire, H2Peer]:
    settings = ServiceSettings(
        hedge=HedgeSettings(after="50ms", max_share=1.0), retry=RetrySettings(budget=1.0)
    )
    wire = make("a", "b", listener=HTTP2, settings=settings, **options)
    return wire, H2Peer(wire)


def attempts(wire: Wire, client: H2Peer) -> tuple[Peer, Peer]:
    """The instance that is slow, and the one that is asked beside it."""
    client.send(head(1))
    first = wire.accepted()
    wire.advance(LATE)
    second = wire.connected()
    assert second.name != first.name
    assert b"GET /x HTTP/1.1" in first.take()
    assert b"GET /x HTTP/1.1" in second.take()
    return first, second


@pytest.mark.parametrize("wins", ["first", "second"])
def test_a_stream_has_one_answer(make: Any, wins: str) -> None:
    wire, client = hedged(make)
    first, second = attempts(wire, client)
    quick, slow = (first, second) if wins == "first" else (second, first)
    quick.send(OK)
    told, content = client.answer()
    assert (told[":status"], content) == ("200", b"hi")
    assert slow.cut
    assert wire.in_flight == 0
    assert wire.pool.counters.hedges == {"lost" if wins == "first" else "won": 1}


def test_a_hedge_of_one_stream_leaves_others_alone(make: Any) -> None:
    wire, client = hedged(make)
    _, second = attempts(wire, client)
    client.send(head(3))
    second.send(OK)
    assert client.answer()[0][":status"] == "200"
    third = wire.connected()
    assert b"GET /x HTTP/1.1" in third.take()
    third.send(OK)
    assert client.answer(3)[0][":status"] == "200"
    assert wire.in_flight == 0


def test_a_stream_that_is_reset_gives_both_up(make: Any) -> None:
    wire, client = hedged(make)
    first, second = attempts(wire, client)
    client.send(reset(1))
    assert first.cut
    assert second.cut
    assert wire.in_flight == 0
    assert not client.closed


def test_a_call_of_grpc_has_no_second_attempt(make: Any) -> None:
    wire, client = hedged(make)
    client.send(head(1, GRPC, method="POST", end=False) + data(1, MESSAGE, end=True))
    instance = wire.accepted()
    wire.advance(1.0)
    assert b"POST /x HTTP/1.1" in instance.take()
    assert len(wire.network.dialled) == 1
