"""Bad answers that are asked again elsewhere: what is set aside must not leak, nor be mixed up."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.service import QueueSettings, RetrySettings, ServiceSettings, Timeouts
from tests.support.wire import OK, OK_RELAYED, Wire, forwarded, request
from tests.wire.scenes import BAD, BAD_RELAYED, answered, asked, reached

AGAIN = ServiceSettings(retry=RetrySettings(on=("connect", "503"), budget=1.0))


def test_a_bad_answer_is_asked_again_elsewhere(make: Any) -> None:
    wire = make("a", "b", settings=AGAIN)
    client, first = reached(wire, request("GET /"))
    first.expect(forwarded("GET /"))
    first.send(BAD)
    second = wire.connected()
    assert second.name != first.name
    second.expect(forwarded("GET /"))
    client.expect_nothing()
    assert wire.in_flight == 1
    answered(client, second)
    assert wire.node(first.name).outcomes == {"503": 1}
    assert wire.node(second.name).outcomes == {"ok": 1}
    assert len(wire.node(first.name).idle) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_the_last_real_answer_is_given_when_no_better_one_comes(make: Any, whole: bool) -> None:
    wire = make("a", "b", settings=AGAIN)
    client, first = asked(wire)
    first.send(BAD if whole else BAD[:-1])
    second = wire.connected()
    second.take()
    second.eof()
    if not whole:
        first.send(BAD[-1:])
    client.expect(BAD_RELAYED)
    assert not client.closed


@pytest.mark.parametrize("whole", [True, False])
def test_the_client_goes_while_another_instance_is_dialled(make: Any, whole: bool) -> None:
    wire = make("a", "b", settings=AGAIN)
    client, first = asked(wire)
    other = "b" if first.name == "a" else "a"
    wire.network.hang(wire.address(other))
    first.send(BAD if whole else BAD[:-1])
    client.reset()
    wire.network.answer(wire.address(other))
    wire.settle()
    wire.accepted(other)
    for node in wire.pool.nodes.values():
        assert all(not connection.closed for connection in node.idle)
    # Whatever was kept serves the next client.
    for _ in range(2):
        client = wire.client()
        client.send(request("GET /next"))
        busy = [peer for peer in wire.peers if peer.name != "client" and peer.transport.taken]
        peer = busy[0] if busy else wire.connected()
        peer.expect(forwarded("GET /next"))
        answered(client, peer)


def test_the_instance_goes_while_its_answer_is_set_aside(make: Any) -> None:
    wire = make("a", "b", settings=AGAIN)
    client, first = asked(wire)
    first.send(BAD[:-1])
    second = wire.connected()
    second.take()
    first.reset()
    answered(client, second)


def test_a_bad_answer_before_the_body_is_there_is_the_answer(make: Any) -> None:
    wire = make("a", "b", settings=AGAIN)
    client, first = asked(wire, request("PUT /", "Content-Length: 4", body=b"ab"))
    first.send(BAD)
    assert client.take().startswith(b"HTTP/1.1 503 Busy\r\n")
    assert first.closed  # It still expects the rest.
    assert len(wire.network.dialled) == 1


def test_a_post_is_not_asked_again(make: Any) -> None:
    wire = make("a", "b", settings=AGAIN)
    client, first = asked(wire, request("POST /", "Content-Length: 2", body=b"ab"))
    first.send(BAD)
    client.expect(BAD_RELAYED)
    assert len(wire.network.dialled) == 1


def queueing(make: Any) -> Wire:
    wire: Wire = make(
        settings=ServiceSettings(
            max_inflight=1, queue=QueueSettings(size=2), timeouts=Timeouts(queue=3.0)
        )
    )
    return wire


def test_a_queue_in_front_of_a_busy_instance(make: Any) -> None:
    wire = queueing(make)
    clients = [wire.client() for _ in range(4)]
    for number, client in enumerate(clients):
        client.send(request(f"POST /{number}", "Content-Length: 2", body=b"h"))
    clients[3].expect_problem(503, "queue_full", closing=True)
    a = wire.accepted()
    for number, client in enumerate(clients[:3]):
        a.expect(forwarded(f"POST /{number}", "Content-Length: 2", body=b"h"))
        client.send(b"i")
        a.expect(b"i")
        answered(client, a)
        wire.advance(0.1)


def test_clients_that_leave_the_queue_leave_nothing(make: Any) -> None:
    wire = queueing(make)
    clients = [wire.client() for _ in range(3)]
    for client in clients:
        client.send(request("GET /"))
    clients[1].reset()
    wire.advance(3.1)
    clients[2].expect_problem(503, "queue_timeout")
    a = wire.accepted()
    a.take()
    a.send(OK)
    clients[0].expect(OK_RELAYED)
    assert wire.in_flight == 0
