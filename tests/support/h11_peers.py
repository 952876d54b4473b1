"""Whole conversations through a wire, read by h11 on both ends: what was meant, not how it was
cut. Used where the same bytes arrive in different pieces and must mean the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import h11

from tests.support.wire import Peer, Wire, request

REQUESTS = (
    request("GET /1?x", "Accept: */*"),
    request("POST /2", "Content-Length: 5", body=b"abcde"),
    b"\r\n"
    + request("PUT /3", "Transfer-Encoding: chunked",
              body=b"3;e=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
    request("HEAD /4"),
    request("DELETE /5", "Content-Length: 0"),
    request("GET /6", "Connection: close"),
)  # fmt: skip
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhi\r\n0\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhi\r\n1;x\r\n!\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 500 \r\nContent-Length: 0\r\nX-Empty:\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)  # fmt: skip
SENT = ((b"GET", b"/1?x", b""), (b"POST", b"/2", b"abcde"), (b"PUT", b"/3", b"abcde"),
        (b"HEAD", b"/4", b""), (b"DELETE", b"/5", b""), (b"GET", b"/6", b""))  # fmt: skip
RECEIVED = (
    (200, b"hi\r\n0\r\n"), (100, b""), (103, b""), (201, b"hi!"), (204, b""), (200, b""),
    (500, b""), (200, b""),
)  # fmt: skip


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """The stream in pieces, cut at these places."""
    places = sorted({place for place in places if 0 < place < len(stream)})
    edges = [0, *places, len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


class Instance:
    """Reads requests with h11 and answers each when it is complete, with given pieces."""

    def __init__(self, peer: Peer, answers: Sequence[Sequence[bytes]]) -> None:
        self.peer = peer
        self.answers = answers
        self.seen: list[tuple[bytes, bytes, bytes]] = []
        self._conn = h11.Connection(h11.SERVER)
        self._head: Any = None
        self._body = b""

    def serve(self) -> bool:
        data = self.peer.take()
        if data:
            self._conn.receive_data(data)
        moved = bool(data)
        while True:
            event = self._conn.next_event()
            if isinstance(event, h11.Request):
                self._head, self._body = event, b""
            elif isinstance(event, h11.Data):
                self._body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.seen.append((self._head.method, self._head.target, self._body))
                # h11 is told of an answer so that it goes on to the next request.
                self._conn.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                self._conn.send(h11.EndOfMessage())
                self._conn.start_next_cycle()
                self.peer.send(*self.answers[len(self.seen) - 1])
                self.peer.wire.settle()
            else:
                return moved


def understood(output: bytes, methods: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Status and body of each answer in what a client got."""
    answers: list[tuple[int, bytes]] = []
    conn = h11.Connection(h11.CLIENT)
    for method in methods:
        conn.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        conn.send(h11.EndOfMessage())
        if output:
            conn.receive_data(output)
            output = b""
        body = b""
        while not isinstance(event := conn.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA, answers
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.InformationalResponse):
                answers.append((event.status_code, b""))
            else:
                status = event.status_code
        answers.append((status, body))
        if conn.our_state is h11.DONE and conn.their_state is h11.DONE:
            conn.start_next_cycle()
    return answers


def converse(
    wire: Wire, requests: Sequence[bytes], answers: Sequence[Sequence[bytes]]
) -> tuple[list[tuple[bytes, bytes, bytes]], list[tuple[int, bytes]]]:
    """One client sends the pieces `requests`, an instance answers with the pieces `answers`.
    Returns what the instance and the client understood."""
    client = wire.client()
    instance: Instance | None = None
    for piece in requests:
        client.send(piece)
        if instance is None and wire.network.accepted.get(wire.address("a")):
            instance = Instance(wire.accepted(), answers)
        while instance is not None and instance.serve():
            pass
    assert instance is not None
    return instance.seen, understood(client.take(), [sent[0] for sent in instance.seen])
