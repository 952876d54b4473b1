"""Calls of gRPC to instances that speak HTTP/2, from clients that do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.frame_cases import frame
from tests.support.h2_peer import (
    HTTP2,
    H2Instance,
    H2Peer,
    answer,
    data,
    head,
    number,
    reset,
    trailers,
)
from tests.support.wire import Wire
from tests.wire.test_grpc import GRPC, MESSAGE, told

TE = ("te", "trailers")
UNARY = head(1, GRPC, TE, ("grpc-timeout", "9S"), method="POST", end=False) + data(1, MESSAGE, True)
ANSWER = answer(1, GRPC) + data(1, MESSAGE) + trailers(1, ("grpc-status", "0"))


def called(make: Any, *frames: bytes, **options: Any) -> tuple[Wire, H2Peer, H2Instance, list[Any]]:
    wire = make(listener=HTTP2, http2=True, **options)
    client = H2Peer(wire)
    client.send(*(frames or (UNARY,)))
    instance = H2Instance(wire)
    return wire, client, instance, instance.take()


def test_a_call_passes_as_it_is(make: Any) -> None:
    wire, client, instance, got = called(make)
    assert got[0][2]["te"] == "trailers"
    assert got[0][2]["grpc-timeout"] == "9S"
    assert got[1] == ("data", 1, MESSAGE, True)
    instance.send(ANSWER)
    heads = client.take()
    assert heads[0][2]["content-type"] == "application/grpc"
    assert heads[1:] == [("data", 1, MESSAGE, False), ("head", 1, {"grpc-status": "0"}, True)]
    assert wire.pool.counters.calls == {"0": 1}


def test_trailers_alone_stay_one_frame(make: Any) -> None:
    _, client, instance, _ = called(make)
    instance.send(answer(1, GRPC, ("grpc-status", "5"), end=True))
    assert told(client)["grpc-status"] == "5"


@pytest.mark.parametrize(
    ("code", "seconds", "status"),
    [(2, 8.9, "14"), (8, 8.9, "14"), (2, 9.0, "4"), (7, 9.0, "4"), (8, 9.0, "4")],
)
def test_a_call_whose_time_is_over_has_failed_for_that(
    make: Any, code: int, seconds: float, status: str
) -> None:
    """Its instance may say so before the proxy's own clock is looked at."""
    wire, client, instance, _ = called(make)
    wire.advance(seconds)
    instance.send(reset(1, code))
    assert told(client)["grpc-status"] == status


@pytest.mark.parametrize(
    "how", [reset(1, 7), frame(7, 0, 0, number(0) + number(0))], ids=["refused", "goaway"]
)
def test_a_call_that_an_instance_has_not_begun_is_made_again(make: Any, how: bytes) -> None:
    _, client, instance, _ = called(make)
    instance.send(how)
    wire = client.wire
    if wire.network.accepted.get(wire.address("a")):
        assert instance.take() == [("goaway", 0, 0, b"")]
        instance = H2Instance(wire)
    got = instance.take()
    assert next(one for one in got if one[0] == "data")[2] == MESSAGE
    stream = next(one[1] for one in got if one[0] == "head")
    instance.send(answer(stream, GRPC, ("grpc-status", "0"), end=True))
    assert told(client)["grpc-status"] == "0"


def test_a_call_that_is_lost_is_not(make: Any) -> None:
    _, client, instance, _ = called(make)
    instance.send(reset(1, 2))
    assert told(client)["grpc-status"] == "14"


def test_a_stream_that_breaks_resets_its_client(make: Any) -> None:
    _, client, instance, _ = called(make)
    instance.send(answer(1, GRPC) + data(1, MESSAGE), reset(1, 2))
    assert client.take()[-1] == ("reset", 1, 2)


def test_a_deadline_cancels_the_instance(make: Any) -> None:
    wire, client, instance, _ = called(make)
    wire.advance(9.1)
    assert told(client)["grpc-status"] == "4"
    assert instance.take() == [("reset", 1, 8)]


def test_a_stream_may_be_silent(make: Any) -> None:
    frames = head(1, GRPC, TE, method="POST", end=False), data(1, MESSAGE)
    wire, client, instance, _ = called(make, *frames)
    for _ in range(54):
        wire.advance(5.0)
        for one in instance.take():
            assert one[0] == "ping"
            instance.send(frame(6, 1, 0, one[1]))
    client.send(data(1, MESSAGE))
    assert ("data", 1, MESSAGE, False) in instance.take()
