"""Streams and sessions of instances that end before they should: docs/http2.md has the table."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.http2.client import CALM
from proxy.settings.balancer import BalancerSpec
from proxy.settings.service import EjectionSettings, RetrySettings, ServiceSettings
from tests.support.frame_cases import frame
from tests.support.h2_peer import HTTP2, H2Instance, H2Peer, answer, data, head, number, reset
from tests.support.wire import Peer, request
from tests.wire.test_http2_instances import HI, RELAYED, asked, hi

NO_ERROR, PROTOCOL, INTERNAL, REFUSED, CANCEL, CALM_CODE, HTTP1 = 0, 1, 2, 7, 8, 11, 13
POST = request("POST /x", "Content-Length: 3", body=b"abc")
ONCE = ServiceSettings(retry=RetrySettings(max_retries=0))


def goaway(last: int, code: int = NO_ERROR, said: bytes = b"") -> bytes:
    return frame(7, 0, 0, number(last) + number(code) + said)


def crowd(make: Any, count: int, *instances: str, raw: bytes = POST, **options: Any) -> Any:
    """So many clients that ask, and the instance that they all share; there may be others."""
    wire = make(*instances, http2=True, **options)
    clients: list[Peer] = []
    instance: H2Instance | None = None
    for _ in range(count):
        clients.append(wire.client())
        clients[-1].send(raw)
        if instance is None:
            name = next(n for n in wire.names if wire.network.accepted.get(wire.address(n)))
            instance = H2Instance(wire, name)
    assert instance is not None
    instance.take()
    return wire, clients, instance


def answered(instance: H2Instance, stream: int, client: Peer) -> None:
    assert instance.take()
    instance.send(hi(stream))
    client.expect(RELAYED)


def outcomes(wire: Any, name: str = "a") -> dict[str, int]:
    return dict(wire.node(name).outcomes)


# -- GOAWAY


def test_streams_that_goaway_does_not_name_are_made_again_whatever_their_method(make: Any) -> None:
    wire, (first, second), instance = crowd(make, 2)
    instance.send(goaway(1))
    again = H2Instance(wire)
    assert again.take()[1:] == [("data", 1, b"abc", True)]
    again.send(hi(1))
    second.expect(RELAYED)
    instance.send(hi(1))
    first.expect(RELAYED)
    assert wire.node().failing == 0
    assert instance.closed
    assert instance.take() == [("goaway", 0, 0, b"")]
    assert wire.in_flight == 0


def test_a_first_goaway_ends_nothing(make: Any) -> None:
    wire, (client,), instance = crowd(make, 1)
    instance.send(goaway(0x7FFFFFFF))
    other = wire.client()
    other.send(POST)
    answered(H2Instance(wire), 1, other)
    answered_late = hi(1)
    instance.send(answered_late)
    client.expect(RELAYED)
    assert instance.take()


def test_a_body_that_was_too_large_to_keep_is_not_made_again(make: Any) -> None:
    wire, (client,), instance = crowd(
        make, 1, raw=request("POST /x", "Content-Length: 70000", body=bytes(70000))
    )
    instance.send(goaway(0))
    client.expect_problem(502, "closed_early")
    assert instance.take() == [("goaway", 0, 0, b"")]
    assert wire.in_flight == 0


def test_an_instance_that_asks_for_calm_gets_no_session_for_a_second(make: Any) -> None:
    wire, (first, second, third), instance = crowd(make, 3, "a", raw=POST)
    instance.send(goaway(1, CALM_CODE, b"too_many_pings"))
    second.expect_problem(503, "stream_refused")
    third.expect_problem(503, "stream_refused")
    instance.send(hi(1))
    first.expect(RELAYED)
    assert instance.take()
    wire.advance(CALM + 0.2)
    tried = H2Instance(wire)
    first.send(POST)
    answered(tried, 1, first)


def test_a_restart_with_streams_is_one_failure(make: Any) -> None:
    ejecting = ServiceSettings(ejection=EjectionSettings(consecutive_failures=2))
    wire, clients, instance = crowd(make, 8, "a", "b", raw=request("GET /x"), settings=ejecting)
    name = instance.peer.name
    other = "b" if name == "a" else "a"
    # Round robin: half of them went to the other one.
    served = H2Instance(wire, other)
    instance.peer.reset()
    streams = served.requests()
    assert len(streams) == 8
    served.send(*(hi(stream) for stream in streams))
    for client in clients:
        client.expect(RELAYED)
    assert wire.node(name).failing == 1
    assert wire.suspects() == []


def test_a_crowd_that_is_sent_away_is_served_by_the_next_session(make: Any) -> None:
    """In several turns of the loop."""
    wire, clients, instance = crowd(make, 100)
    instance.send(goaway(0))
    again = H2Instance(wire)
    streams = [one[1] for one in again.take() if one[0] == "head"]
    assert len(streams) == 100
    again.send(*(hi(stream) for stream in streams))
    for client in clients:
        client.expect(RELAYED)
    assert instance.take() == [("goaway", 0, 0, b"")]
    assert wire.in_flight == 0


def test_a_crowd_whose_session_is_lost_hears_of_it_once_each(make: Any) -> None:
    wire, clients, instance = crowd(make, 100, settings=ONCE)
    clients[50].reset()
    assert instance.take() == [("reset", 101, CANCEL)]
    instance.peer.reset()
    for client in clients[:50] + clients[51:]:
        client.expect_problem(502, "closed_early")
    assert wire.node().failing == 1
    assert outcomes(wire) == {"closed_early": 99, "client_gone": 1}
    assert wire.in_flight == 0


# -- RST_STREAM


def test_a_refused_stream_is_made_again_elsewhere(make: Any) -> None:
    wire, (client,), instance = crowd(make, 1, "a", "b")
    instance.send(reset(1, REFUSED))
    other = H2Instance(wire, "b" if instance.peer.name == "a" else "a")
    assert other.take()[1:] == [("data", 1, b"abc", True)]
    other.send(hi(1))
    client.expect(RELAYED)
    assert wire.node(instance.peer.name).failing == 0
    assert outcomes(wire, instance.peer.name) == {"stream_refused": 1}


def test_a_refused_stream_of_the_only_instance_is_made_again_there(make: Any) -> None:
    wire, (first, second), instance = crowd(make, 2)
    instance.send(reset(3, REFUSED))
    again = H2Instance(wire)  # The other session has no room for a second one.
    assert again.take()
    again.send(hi(1))
    second.expect(RELAYED)
    instance.send(hi(1))
    first.expect(RELAYED)
    first.send(POST)
    answered(instance, 5, first)


@pytest.mark.parametrize(
    ("code", "status", "fault"),
    [
        (NO_ERROR, 502, "closed_early"),
        (INTERNAL, 502, "closed_early"),
        (CANCEL, 502, "closed_early"),
        (PROTOCOL, 502, "bad_answer"),
        (CALM_CODE, 502, "bad_answer"),
        (99, 502, "bad_answer"),
    ],
)
def test_a_stream_that_is_reset_before_its_answer(
    make: Any, code: int, status: int, fault: str
) -> None:
    wire, (client,), instance = crowd(make, 1)
    instance.send(reset(1, code))
    client.expect_problem(status, fault)
    assert wire.node().failing == 1
    client.send(POST)
    answered(instance, 3, client)


def test_a_get_whose_stream_is_reset_is_made_again_on_another(make: Any) -> None:
    wire, (client,), instance = crowd(make, 1, "a", "b", raw=request("GET /x"))
    instance.send(reset(1, INTERNAL))
    other = H2Instance(wire, "b" if instance.peer.name == "a" else "a")
    answered(other, 1, client)


def test_an_instance_that_wants_http1_is_told_of(make: Any) -> None:
    _, (client,), instance = crowd(make, 1)
    instance.send(reset(1, HTTP1))
    answer_ = client.take()
    assert b'"code":"bad_answer"' in answer_
    assert b"set `protocol: h1` for it" in answer_


def test_a_stream_that_is_reset_in_its_answer_cuts_the_client(make: Any) -> None:
    _, (client, other), instance = crowd(make, 2)
    instance.send(answer(1) + data(1, b"abc"))
    instance.send(reset(1, INTERNAL))
    assert client.take().endswith(b"3\r\nabc\r\n")
    assert client.closed
    instance.send(hi(3))
    other.expect(RELAYED)


def test_a_cut_answer_resets_the_stream_of_a_client_of_http2(make: Any) -> None:
    wire = make(http2=True, listener=HTTP2)
    client = H2Peer(wire)
    client.send(head(1))
    instance = H2Instance(wire)
    assert instance.take()
    instance.send(answer(1) + data(1, b"abc"), reset(1, CANCEL))
    assert client.take()[-1] == ("reset", 1, INTERNAL)


def test_the_rest_of_a_request_stays_away_behind_a_whole_answer(make: Any) -> None:
    raw = request("POST /x", "Content-Length: 100000", body=bytes(70000))
    wire, (client,), instance = crowd(make, 1, raw=raw)
    instance.send(hi(1) + reset(1, NO_ERROR))
    assert client.take().endswith(b"\r\n\r\nhi")
    assert instance.take() == []
    other = wire.client()
    other.send(raw)
    assert instance.take()
    instance.send(hi(3))
    assert other.take().endswith(b"\r\n\r\nhi")
    assert instance.take() == [("reset", 3, CANCEL)]
    assert outcomes(wire) == {"ok": 2}


def test_a_client_that_leaves_resets_its_stream(make: Any) -> None:
    wire, (client, other), instance = crowd(make, 2)
    client.reset()
    assert instance.take() == [("reset", 1, CANCEL)]
    instance.send(hi(1))  # On its way by then.
    instance.send(hi(3))
    other.expect(RELAYED)
    assert wire.in_flight == 0


# -- lost sessions


def test_a_session_that_is_lost_in_answers_cuts_them(make: Any) -> None:
    _, (client,), instance = crowd(make, 1)
    instance.send(answer(1, HI) + data(1, b"h"))
    instance.peer.eof()
    assert client.take().endswith(b"\r\n\r\nh")
    assert client.closed


def test_a_first_request_whose_session_is_lost_is_not_stale(make: Any) -> None:
    _, client, instance = asked(make, settings=ONCE)
    instance.peer.reset()
    client.expect_problem(502, "closed_early")


def test_a_crowd_that_waits_for_a_session_hears_that_there_is_none(make: Any) -> None:
    wire = make(http2=True, settings=ONCE)
    clients = [wire.client() for _ in range(40)]
    for client in clients:
        client.send(POST)
    instance = H2Instance(wire, begin=b"")
    assert [one[1] for one in instance.take()] == [1, 1]
    instance.peer.reset()
    for client in clients:
        assert b'"code":"closed_early"' in client.take()
    assert wire.in_flight == 0


def test_least_connections_count_streams(make: Any) -> None:
    least = ServiceSettings(balancer=BalancerSpec(type="least_connections"))
    wire = make("a", "b", http2=True, settings=least)
    clients = [wire.client() for _ in range(26)]
    instances: dict[str, H2Instance] = {}
    for client in clients[:20]:
        client.send(request("GET /x"))
        for name in "ab":
            if wire.network.accepted.get(wire.address(name)):
                instances[name] = H2Instance(wire, name)
    assert [wire.node(name).in_flight for name in "ab"] == [10, 10]
    streams = {name: instance.requests() for name, instance in instances.items()}
    done = [streams["a"].pop() for _ in range(6)]
    instances["a"].send(*(hi(stream) for stream in done))
    assert [wire.node(name).load for name in "ab"] == [4, 10]
    for client in clients[20:]:
        client.send(request("GET /x"))
    assert [wire.node(name).in_flight for name in "ab"] == [10, 10]
    for name, instance in instances.items():
        instance.send(*(hi(stream) for stream in streams[name] + instance.requests()))
    for client in clients:
        client.expect(RELAYED)


# -- what no instance may say

HUGE = b"\x40\x01x\x7f\x80\x80\x04" + 65536 * b"a"
"""A field that is longer than what a head may have."""


@pytest.mark.parametrize(
    ("raw", "ends"),
    [
        (frame(1, 0, 1, b"\x88") + 9 * frame(9, 0, 1, b""), 11),
        (b"".join(frame(4) for _ in range(1100)), 11),
        (b"".join(frame(6, 0, 0, bytes(8)) for _ in range(1100)), 11),
        (b"".join(frame(8, 0, 1, number(1)) for _ in range(200)), 11),
        (frame(8, 0, 0, number(0x7FFFFFFF)), 3),
        (frame(5, 4, 1, number(2) + b"\x88"), 1),
        (answer(3), 1),
        (data(3, b"x"), 1),
        (reset(3), 1),
        (frame(8, 0, 5, number(1)), 1),
        (frame(1, 5, 1, b"\x80"), 9),
        (frame(1, 5, 2, b"\x88"), 1),
        (frame(0, 0, 1, bytes(16385)), 6),
    ],
    ids=[
        "endless CONTINUATION", "SETTINGS", "PING", "WINDOW_UPDATE", "window of the connection",
        "PUSH_PROMISE", "answer of no request", "content of no request", "reset of no request",
        "window of no request", "broken block", "stream of servers", "frame that is too long",
    ],
)  # fmt: skip
def test_a_session_that_breaks_the_protocol_ends(make: Any, raw: bytes, ends: int) -> None:
    wire, client, instance = asked(make, settings=ONCE)
    instance.send(raw)
    client.expect_problem(502, "bad_answer")
    ended = [one for one in instance.take() if one[0] == "goaway"]
    assert [one[2] for one in ended] == [ends]
    assert instance.closed
    assert wire.node().failing == 1
    assert wire.in_flight == 0


@pytest.mark.parametrize(
    "raw",
    [
        data(1, b"x"),
        answer(1, ("content-length", "5"), end=True),
        answer(1, HI) + data(1, b"abc"),
        answer(1, HI) + data(1, b"h", True),
        answer(1, ("X-Upper", "1")),
        answer(1, ("connection", "close")),
        answer(1, status=101),
        answer(1, status=103, end=True),
        answer(1, ("content-length", "2"), ("content-length", "3")),
        frame(8, 0, 1, number(0x7FFFFFFF)),
        frame(8, 0, 1, number(0)),
        b"".join(answer(1, status=103) for _ in range(1001)),
        frame(1, 4, 1, b"\x88" + 1001 * b"\x92"),
    ],
    ids=[
        "content without a head", "length and no content", "more than the length", "too little",
        "capitals", "connection", "101", "interim answer that ends", "two lengths",
        "window of a stream", "window by 0", "interim answers", "fields",
    ],
)  # fmt: skip
def test_a_stream_that_breaks_the_protocol_ends_alone(make: Any, raw: bytes) -> None:
    wire, (client, other), instance = crowd(make, 2, settings=ONCE)
    instance.send(raw)
    said = client.take()
    assert b'"code":"bad_answer"' in said or client.closed
    assert ("reset", 1, PROTOCOL) in instance.take()
    instance.send(hi(3))
    other.expect(RELAYED)
    assert wire.node().failing == 0
    assert wire.in_flight == 0


def test_more_content_than_the_window_ends_its_stream(make: Any) -> None:
    _, client, instance = asked(make, settings=ONCE)
    client.stall()
    instance.send(answer(1), *[data(1, bytes(16384)) for _ in range(40)])
    assert ("reset", 1, PROTOCOL) in instance.take()
    assert client.closed


def test_content_of_streams_that_are_over_is_read_up_to_their_windows(make: Any) -> None:
    _, (client, other), instance = crowd(make, 2)
    client.reset()
    assert instance.take() == [("reset", 1, CANCEL)]
    for _ in range(16):
        instance.send(data(1, bytes(16384)))
    assert not instance.closed
    instance.send(data(1, b"x"))
    other.expect_problem(502, "bad_answer")
    assert instance.take()[-1][2] == 3  # FLOW_CONTROL_ERROR
