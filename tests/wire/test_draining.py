"""The worker stops: what is under way is finished, what is idle is closed."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.connections import LAST_CALL, UNHURRIED
from proxy.messages import Drain
from tests.support.wire import OK, OK_RELAYED, OK_RELAYED_CLOSE, forwarded, request
from tests.wire.conftest import MakeWire
from tests.wire.scenes import SWITCH, answered, asked


def test_idle_clients_are_closed_and_the_worker_is_done(make: MakeWire) -> None:
    wire = make()
    client, a = asked(wire)
    answered(client, a)
    wire.worker.on_message(Drain(30.0))
    wire.advance(LAST_CALL / 2)
    assert not client.closed
    wire.advance(LAST_CALL)
    assert client.closed
    assert not client.cut
    assert wire.worker.stopped.is_set()


def test_idle_clients_stay_longer_where_others_serve_already(make: MakeWire) -> None:
    wire = make()
    client, a = asked(wire)
    answered(client, a)
    wire.worker.on_message(Drain(30.0, shared=True))
    wire.advance(UNHURRIED - 0.1)
    assert not client.closed
    wire.advance(0.2)
    assert client.closed
    assert wire.worker.stopped.is_set()


@pytest.mark.parametrize("used", [False, True])
def test_a_request_that_was_on_its_way_is_answered(make: Any, used: bool) -> None:
    wire = make()
    client = wire.client()
    a = None
    if used:
        client.send(request("GET /"))
        a = wire.accepted()
        a.take()
        answered(client, a)
    wire.worker.on_message(Drain(30.0))
    wire.advance(LAST_CALL / 2)
    client.send(request("GET /"))
    a = a or wire.accepted()
    a.take()
    a.send(OK)
    client.expect(OK_RELAYED_CLOSE)
    client.eof()
    assert wire.worker.stopped.is_set()


def test_until_the_delay_is_over_connections_are_accepted(make: Any) -> None:
    wire = make()
    wire.worker.on_message(Drain(30.0, 2.0))
    wire.advance(1.9)
    assert not wire.worker.stopped.is_set()
    client, a = asked(wire)
    a.send(OK)
    client.expect(OK_RELAYED_CLOSE)
    client.eof()
    wire.advance(0.2)
    assert wire.worker.stopped.is_set()


@pytest.mark.parametrize("streaming", [False, True])
def test_requests_under_way_are_finished(make: Any, streaming: bool) -> None:
    wire = make()
    client, a = asked(wire)
    if streaming:
        a.send(OK[:-1])
    wire.worker.on_message(Drain(30.0))
    wire.advance(20)
    assert not client.closed
    assert not wire.worker.stopped.is_set()
    a.send(OK[-1:] if streaming else OK)
    client.expect(OK_RELAYED if streaming else OK_RELAYED_CLOSE)
    assert client.saw_end
    client.eof()
    assert client.closed
    assert wire.worker.stopped.is_set()


def test_requests_that_were_taken_are_answered(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("GET /1") + request("GET /2"))
    a.send(OK[:-1])
    wire.worker.on_message(Drain(30.0))
    wire.settle()
    a.send(OK[-1:])
    a.expect(forwarded("GET /2"))
    a.send(OK)
    client.expect(OK_RELAYED + OK_RELAYED_CLOSE)
    assert client.saw_end
    client.eof()


def test_a_head_under_way_is_waited_for(make: Any) -> None:
    wire = make()
    client = wire.client()
    head = request("GET /")
    client.send(head[:20])
    wire.worker.on_message(Drain(30.0))
    wire.settle()
    assert not client.closed
    client.send(head[20:])
    a = wire.accepted()
    a.take()
    a.send(OK)
    client.expect(OK_RELAYED_CLOSE)
    client.eof()
    assert wire.worker.stopped.is_set()


def test_patience_ends(make: Any) -> None:
    wire = make()
    client, a = asked(wire)
    wire.worker.on_message(Drain(5.0))
    wire.advance(4.9)
    assert not client.closed
    wire.advance(0.2)
    assert client.cut
    assert a.cut
    assert wire.worker.stopped.is_set()


def test_a_proxy_answer_says_close_too(make: Any) -> None:
    wire = make()
    client = wire.client()
    client.send(b"GET /")
    wire.worker.on_message(Drain(5.0))
    wire.serve()
    client.send(request("/")[1:])
    client.expect_problem(503, "destination_unavailable", closing=True)
    client.eof()
    assert wire.worker.stopped.is_set()


def test_a_switch_while_draining_does_not_look_quiet(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("GET /", "Connection: Upgrade", "Upgrade: x"))
    wire.worker.on_message(Drain(30.0))
    wire.settle()
    a.send(SWITCH)
    assert client.take().startswith(b"HTTP/1.1 101 ")
    assert not wire.worker.stopped.is_set()
    client.send(b"still here")
    a.expect(b"still here")
    client.eof()
    a.eof()
    assert wire.worker.stopped.is_set()


def test_tunnels_are_closed_after_the_grace(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("GET /", "Connection: Upgrade", "Upgrade: x"))
    a.send(SWITCH)
    client.take()
    wire.worker.on_message(Drain(5.0))
    for _ in range(10):
        wire.advance(0.4)
        client.send(b"x")  # Being busy does not prolong it.
    assert a.take() == b"x" * 10
    wire.advance(1.2)
    assert client.closed
    assert a.closed
    wire.settle()
    assert wire.worker.stopped.is_set()


def test_a_client_accepted_at_the_last_moment(make: Any) -> None:
    wire = make()
    busy, a = asked(wire)
    wire.worker.on_message(Drain(30.0))
    wire.settle()
    late = wire.client()
    wire.advance(2)
    assert late.closed
    a.send(OK)
    busy.expect(OK_RELAYED_CLOSE)
    busy.eof()
