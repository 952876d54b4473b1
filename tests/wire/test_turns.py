"""What a peer can make one turn of the loop do: a share, and the rest when others had theirs."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.engine.exchange import Exchange
from proxy.engine.http1.body import CHUNKS
from proxy.engine.http1.client import MAX_INTERIM
from proxy.settings.service import Keepalive, ServiceSettings, Timeouts
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, forwarded, request
from tests.wire.scenes import CHUNKED, answered, asked, reached, served

TINY = b"1\r\nx\r\n"
END = b"0\r\n\r\n"
MANY = 10 * CHUNKS
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def in_turns(wire: Wire, peer: Peer, most: int, what: bytes) -> int:
    """Turns of the loop until nothing more comes; in none does `peer` get more than `most` of
    `what`."""
    turns, before = 0, peer.transport.taken.count(what)
    while True:
        wire.loop.run_turn()
        now = peer.transport.taken.count(what)
        assert now - before <= most
        if now == before:
            return turns
        turns, before = turns + 1, now


def uploading(wire: Wire) -> tuple[Peer, Peer]:
    client, a = reached(wire, request("POST /", CHUNKED))
    a.expect(forwarded("POST /", CHUNKED))
    return client, a


def test_tiny_chunks_of_a_client_go_on_turn_by_turn(make: Any) -> None:
    wire = make()
    client, a = uploading(wire)
    client.transport.feed(TINY * MANY + END)
    assert not client.read
    assert in_turns(wire, a, CHUNKS, b"x") == MANY // CHUNKS - 1  # The first ones came at once.
    assert client.read
    wire.settle()
    assert a.take().count(b"x") == MANY
    answered(client, a)


def test_other_clients_are_served_in_between(make: Any) -> None:
    wire = make()
    client, a = uploading(wire)
    b = served(wire)
    other = wire.client()
    client.transport.feed(TINY * MANY)
    client.transport.feed(TINY * MANY)  # Not read before the first ones are passed on.
    other.transport.feed(request("GET /other"))
    for _ in range(3):
        wire.loop.run_turn()
    b.expect(forwarded("GET /other"))
    b.transport.feed(OK)
    other.expect(OK_RELAYED)
    assert a.take().count(b"x") < 2 * MANY
    wire.settle()
    client.send(END)
    a.take()
    answered(client, a)


def test_tiny_chunks_wait_for_an_instance_that_does_not_read(make: Any) -> None:
    wire = make()
    client, a = uploading(wire)
    a.stall()
    for _ in range(6):
        client.transport.feed(b"400\r\n" + b"y" * 0x400 + b"\r\n" + TINY * MANY)
    client.transport.feed(END)
    wire.settle()
    held = len(a.transport._unsent)
    assert held > a.transport.HIGH or client.read
    a.read_on()
    assert a.take().count(b"x") == 6 * MANY
    answered(client, a)


def test_an_instance_is_not_blamed_while_a_client_owes_the_rest(make: Any) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(first_byte=5.0)))
    client, a = uploading(wire)
    client.send(TINY * MANY)
    wire.advance(20.0)  # Below the limit for a gap in the body.
    client.send(END)
    a.take()
    answered(client, a)


@pytest.mark.parametrize("how", ["reset", "refusal", "answer"])
def test_an_upload_that_ends_in_the_middle(make: Any, how: str) -> None:
    wire = make()
    client, a = uploading(wire)
    client.transport.feed(TINY * MANY + b"no hex\r\n" * (how == "refusal"))
    if how == "reset":
        client.reset()
        assert a.closed
    elif how == "answer":
        a.send(OK)
        client.expect(OK_RELAYED.replace(b"Via", b"Connection: close\r\nVia"))
    else:
        wire.settle()
        client.expect_problem(400, "http_request_error", closing=True)
    a.take()


def downloading(wire: Wire, answer: bytes) -> tuple[Peer, Peer]:
    client, a = asked(wire)
    a.transport.feed(answer)
    return client, a


CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_tiny_chunks_of_an_instance_go_on_turn_by_turn(make: Any) -> None:
    wire = make()
    client, a = downloading(wire, CHUNKED_OK + TINY * MANY + END)
    assert not a.read
    assert in_turns(wire, client, CHUNKS, b"x") == MANY // CHUNKS - 1
    wire.settle()
    assert client.take().count(b"x") == MANY
    assert a.read
    client.send(request("GET /2"))  # The connection is as good as before.
    a.expect(forwarded("GET /2"))
    answered(client, a)


def test_tiny_chunks_wait_for_a_client_that_does_not_read(make: Any) -> None:
    wire = make()
    large = b"10000\r\n" + b"y" * 0x10000 + b"\r\n"
    client, a = asked(wire)
    client.stall()
    a.transport.feed(CHUNKED_OK + large + large + TINY * MANY, TINY * MANY + END)
    wire.settle()
    assert not a.read
    assert client.transport._unsent.count(b"x") < MANY
    client.read_on()
    assert client.take().count(b"x") == 2 * MANY
    assert a.read


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("stalled", [True, False])
def test_bytes_of_an_instance_before_its_reset_are_passed_on(
    make: Any, whole: bool, stalled: bool
) -> None:
    wire = make()
    client, a = asked(wire)
    if stalled:
        client.stall()
    large = b"10000\r\n" + b"y" * 0x10000 + b"\r\n"
    a.transport.feed(CHUNKED_OK + large + large + TINY * MANY + END * whole)
    a.reset()
    if stalled:
        client.read_on()
    assert client.take().count(b"x") == MANY
    assert client.closed == (not whole)


def test_interim_answers_have_a_turn_each(make: Any) -> None:
    wire = make()
    client, _ = downloading(wire, HINT * 100 + OK)
    assert in_turns(wire, client, 1, b"103 Early") == 99
    wire.settle()
    client.expect(HINT * 100 + OK_RELAYED)


def test_interim_answers_without_end_are_no_answer(make: Any) -> None:
    wire = make()
    client, a = downloading(wire, HINT * MAX_INTERIM + OK)
    wire.settle()
    client.expect(HINT * MAX_INTERIM + OK_RELAYED)
    client.send(request("GET /"))
    a.take()
    a.send(HINT * (MAX_INTERIM + 1) + OK)
    relayed = client.take()
    assert relayed.count(b"103 Early") == MAX_INTERIM
    assert b"HTTP/1.1 502 " in relayed
    assert a.closed


def test_a_switch_behind_interim_answers(make: Any) -> None:
    wire = make()
    client, a = asked(wire, request("GET /", "Connection: Upgrade", "Upgrade: echo"))
    switching = b"HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    a.send(HINT * 3 + switching + b"early")
    assert client.take().endswith(b"\r\n\r\nearly")
    assert a.read
    a.send(b"late")
    client.expect(b"late")


def test_a_head_that_comes_byte_by_byte_behind_an_interim_answer(make: Any) -> None:
    wire = make()
    client, a = downloading(wire, HINT)
    a.send(*(bytes((byte,)) for byte in HINT + OK))
    client.expect(HINT * 2 + OK_RELAYED)


def test_a_body_that_comes_byte_by_byte_is_kept_in_one_piece(make: Any) -> None:
    wire = make("a", "b", settings=ServiceSettings(keepalive=Keepalive(max_idle=1)))
    client, a = asked(wire, request("PUT /", "Content-Length: 5000"))
    exchange = next(iter(wire.worker.connections.clients)).exchange
    assert isinstance(exchange, Exchange)
    for _ in range(4999):
        client.send(b"x")
        assert exchange.body is not None
        assert len(exchange.body.pieces) <= 65
    a.reset()
    b = wire.connected()
    client.send(b"y")
    assert b.take().endswith(b"x" * 4999 + b"y")
    answered(client, b)
    a.take()


def test_empty_lines_are_skipped_whole_and_half(make: Any) -> None:
    wire = make()
    client, a = reached(wire, b"\r\n" * 8_000, b"\r\n" * 8_000 + b"\r", b"\n" + request("GET /"))
    a.expect(forwarded("GET /"))
    answered(client, a)
    client.send(b"\r\n" * 8_000, b"\r\n" * 8_000 + request("GET /"))
    a.expect(forwarded("GET /"))
    answered(client, a)
    client.send(b"\r\n" * 1000 + b"\n\r\n" + request("GET /"))
    client.expect_problem(400, "bad_request", closing=True)


@pytest.mark.parametrize("cut", [1, 2, 3, 32_768, 250_000])
def test_empty_lines_in_front_of_a_request_have_the_limit_of_a_head(make: Any, cut: int) -> None:
    wire = make()
    client = wire.client()
    lines = b"\r\n" * (16 * 1024 + 1)
    for at in range(0, len(lines), cut):
        client.send(lines[at : at + cut])
    client.expect_problem(400, "bad_request", closing=True)
