"""HTTP/2 from clients, to instances of HTTP/1.1: each stream is a request like any other."""

from __future__ import annotations

from typing import Any

from tests.support.h2_peer import HTTP2, H2Peer, data, head
from tests.support.wire import OK, forwarded

TOLD = {":status": "200", "x-request-id": "r1", "content-length": "2", "via": "1.1 fairlead"}


def begun(make: Any, **options: Any) -> tuple[Any, H2Peer]:
    options.setdefault("listener", HTTP2)
    wire = make(**options)
    return wire, H2Peer(wire)


def test_a_request_reaches_an_instance_and_its_answer_the_client(make: Any) -> None:
    wire, client = begun(make)
    client.send(head(1))
    instance = wire.accepted()
    instance.expect(forwarded("GET /x"))
    instance.send(OK)
    assert client.answer() == (TOLD, b"hi")


def test_a_body_reaches_the_instance(make: Any) -> None:
    wire, client = begun(make)
    client.send(head(1, method="POST", end=False), data(1, b"abc"))
    instance = wire.accepted()
    instance.expect(forwarded("POST /x", "Transfer-Encoding: chunked", body=b"3\r\nabc\r\n"))
    client.send(data(1, b"de", end=True))
    instance.expect(b"2\r\nde\r\n0\r\n\r\n")
    instance.send(OK)
    assert client.answer() == (TOLD, b"hi")
