"""Connections of the admin server that do not do what they should, on stepped time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from aiohttp import web

from proxy.control.admin_connections import (
    BODY,
    HEAD,
    HEAD_BYTES,
    IDLE,
    LINGER,
    PATIENCE,
    REQUEST,
    Connection,
    Door,
    read_body,
)
from proxy.control.registrations import Refusal
from tests.support.loop_and_network import FakeTransport, SteppedLoop

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MOST = 4

T = TypeVar("T")


class Scene:
    """The server's door and its peers, in memory."""

    def __init__(self) -> None:
        self.loop = SteppedLoop()
        self.peers: list[FakeTransport] = []
        self.answer = b"ok"
        self.served = 0
        self.late = self.loop.create_future()
        """What answers of `/late` wait for."""
        self.door = self.run(lambda: Door(self._serve, MOST, clock=self.loop.time))

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        with connection.serving(request):
            self.served += 1
            if request.path == "/stream":
                connection.stream()
                await self.loop.create_future()
            if request.path == "/late":
                await self.late
            response = web.Response(body=self.answer)
            if request.method == "PUT":
                try:
                    response = web.Response(body=await read_body(request, 100))
                except Refusal as refusal:
                    response = web.Response(status=refusal.status)
            await response.prepare(request)
            await response.write_eof()
        return response

    def run(self, what: Callable[[], T]) -> T:
        """The result of a call from within the loop, when all that follows from it is done."""
        results: list[T] = []
        self.loop.call_soon(lambda: results.append(what()))
        self.settle()
        return results[0]

    def settle(self) -> None:
        while self.loop.run_ready() or any(
            peer.deliver() or peer.deliver_lost() for peer in self.peers
        ):
            pass

    def connect(self, address: str = "10.0.0.1") -> FakeTransport:
        peer = self.run(
            lambda: FakeTransport(self.loop, self.door(), peer=(address, 1), own=("10.0.0.9", 2))
        )
        self.peers.append(peer)
        self.settle()
        return peer

    def send(self, peer: FakeTransport, *pieces: bytes) -> bytes:
        """What the peer has got when it sent these, and nothing more is to be done."""
        self.run(lambda: peer.feed(*pieces))
        taken = bytes(peer.taken)
        peer.taken.clear()
        return taken

    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds, self.settle)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    assert not scene.loop.failures
    for peer in scene.peers:
        scene.run(peer.abort)
    assert not scene.door.guests


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1]) if answer else 0


def closed(scene: Scene) -> dict[str, int]:
    """Why connections were closed early, and how many."""
    return {reason: times for reason, times in scene.door.closed.items() if times}


def detail(answer: bytes) -> str:
    assert b"application/problem+json" in answer
    text: str = json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
    return text


def test_a_half_head_is_answered_and_closed_in_time(scene: Scene) -> None:
    peer = scene.connect()
    scene.wait(HEAD - 1)
    assert scene.send(peer, b"GET /heal") == b""
    scene.wait(0.9)
    assert not peer.lost
    scene.wait(0.2)
    assert status(peer.taken) == 408
    assert f"{HEAD:g} s" in detail(peer.taken)
    assert peer.lost


def test_a_silent_peer_is_closed_without_a_word(scene: Scene) -> None:
    peer = scene.connect()
    scene.wait(HEAD)
    assert peer.lost
    assert peer.taken == b""
    assert closed(scene) == {}


def test_a_peer_that_drips_gets_no_more_time(scene: Scene) -> None:
    peer = scene.connect()
    for byte in b"GET / HTTP"[: int(HEAD)]:
        scene.send(peer, bytes([byte]))
        scene.wait(1.0)
    assert peer.lost
    assert closed(scene) == {"slow_head": 1}


def test_a_kept_connection_has_a_minute_for_the_next_request_and_a_moment_for_its_head(
    scene: Scene,
) -> None:
    peer = scene.connect()
    assert status(scene.send(peer, GET)) == 200
    scene.wait(IDLE - 1)
    assert status(scene.send(peer, GET)) == 200
    scene.wait(IDLE - 1)
    scene.send(peer, GET[:9])
    scene.wait(HEAD - 0.1)
    assert not peer.lost
    scene.wait(0.2)
    assert peer.lost
    other = scene.connect()
    assert status(scene.send(other, GET)) == 200
    scene.wait(IDLE)
    assert other.lost


def test_a_head_has_a_bound_in_bytes(scene: Scene) -> None:
    peer = scene.connect()
    line = b"X-A: " + b"x" * 7000 + b"\r\n"
    answer = scene.send(peer, b"GET / HTTP/1.1\r\nHost: a\r\n")
    for _ in range(HEAD_BYTES // len(line) + 1):
        answer += scene.send(peer, line)
    assert status(answer) == 431
    assert scene.served == 0
    assert peer.lost


@pytest.mark.parametrize(
    ("bytes_", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
    ],
    ids=["field", "target", "no request", "tls", "length"],
)
def test_a_broken_request_is_refused_in_json(scene: Scene, bytes_: bytes, expected: int) -> None:
    peer = scene.connect()
    answer = scene.send(peer, bytes_)
    assert status(answer) == expected
    assert detail(answer)
    assert peer.lost


def test_a_request_behind_another_waits_in_the_kernel(scene: Scene) -> None:
    scene.answer = b"x" * (FakeTransport.HIGH + 1)
    peer = scene.connect()
    peer.stall()
    scene.send(peer, GET)
    scene.send(peer, *([GET] * 100))
    assert scene.served == 1
    assert not peer.is_reading()
    peer.read_on()
    scene.settle()
    assert scene.served == 101


PUT = b"PUT / HTTP/1.1\r\nHost: a\r\n"


def test_a_body_that_does_not_come_is_waited_for_a_while(scene: Scene) -> None:
    peer = scene.connect()
    assert scene.send(peer, PUT + b"Content-Length: 9\r\n\r\nhalf") == b""
    for _ in range(4):
        scene.wait(BODY / 4 - 0.1)
        scene.send(peer, b".")
    scene.wait(0.5)
    assert status(peer.taken) == 408
    scene.wait(LINGER)
    assert peer.lost


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b"Content-Length: 4\r\n\r\nbody", 200),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", 200),
        (b"Content-Length: 101\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101, 413),
        (b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
        (b"Content-Length: 4\r\nContent-Encoding: gzip\r\n\r\nbody", 415),
    ],
    ids=["length", "chunks", "too long", "too long in chunks", "no chunk", "packed"],
)
def test_a_body_has_a_bound_however_it_is_framed(scene: Scene, rest: bytes, expected: int) -> None:
    assert status(scene.send(scene.connect(), PUT + rest)) == expected


def test_a_body_that_waits_to_be_asked_for_is_asked_for(scene: Scene) -> None:
    peer = scene.connect()
    head = PUT + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    assert scene.send(peer, head) == b"HTTP/1.1 100 Continue\r\n\r\n"
    answer = scene.send(peer, b"body")
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\nbody")


def test_a_peer_that_does_not_read_its_answer_is_cut_off(scene: Scene) -> None:
    scene.answer = b"x" * (FakeTransport.HIGH + 1)
    peer = scene.connect()
    peer.stall()
    scene.send(peer, GET)
    scene.wait(REQUEST - 0.1)
    assert not peer.lost
    scene.wait(0.1)
    assert peer.aborted
    assert closed(scene) == {"slow_request": 1}


def test_a_peer_that_does_not_read_its_last_answer_is_cut_off(scene: Scene) -> None:
    peer = scene.connect()
    peer.stall()
    scene.send(peer, b"GET /hea")
    scene.wait(HEAD)
    assert not peer.lost
    scene.wait(LINGER)
    assert peer.aborted
    closing = scene.connect()
    closing.stall()
    scene.send(closing, GET.replace(b"Host", b"Connection: close\r\nHost"))
    scene.wait(IDLE)
    assert closing.aborted


def test_one_connection_too_many_makes_the_oldest_half_head_go(scene: Scene) -> None:
    halves = []
    for _ in range(MOST):
        halves.append(scene.connect())
        scene.send(halves[-1], b"GET")
        scene.wait(0.1)
    honest = scene.connect()
    assert [peer.lost for peer in halves] == [True, False, False, False]
    assert status(scene.send(honest, GET)) == 200
    assert len(scene.door.guests) == MOST


def test_a_flood_from_one_address_leaves_others_alone(scene: Scene) -> None:
    scraper = scene.connect("10.0.0.2")
    assert status(scene.send(scraper, GET)) == 200
    scene.wait(1.0)
    for _ in range(50):
        scene.send(scene.connect("10.0.0.66"), b"GET")
    assert status(scene.send(scraper, GET)) == 200
    assert len(scene.door.guests) == MOST


def test_where_everybody_has_a_request_a_new_connection_is_closed(scene: Scene) -> None:
    scene.answer = b"x" * (FakeTransport.HIGH + 1)
    stuck = [scene.connect() for _ in range(MOST)]
    for peer in stuck:
        peer.stall()
        scene.send(peer, GET)
    late = scene.connect()
    assert late.aborted
    assert closed(scene) == {"no_room": 1}
    # A moment later they are known not to read.
    scene.wait(PATIENCE + 0.1)
    honest = scene.connect()
    assert not honest.lost
    assert sum(peer.aborted for peer in stuck) == 1


def test_a_stream_lasts_and_its_end_is_noticed(scene: Scene) -> None:
    peer = scene.connect()
    scene.send(peer, GET.replace(b"/", b"/stream", 1))
    scene.wait(10 * IDLE)
    assert not peer.lost
    assert peer.is_reading()
    scene.run(peer.feed_eof)
    assert peer.lost
    assert not scene.door.guests


@pytest.mark.parametrize("after", [0.5, 1.0, None])
def test_an_end_gives_answers_some_time_and_leaves_nobody(
    scene: Scene, after: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Also to one that is ready in the very turn of the loop in which its time is over."""
    peer = scene.connect()
    idle = scene.connect()
    scene.send(peer, GET.replace(b"/ ", b"/late "))
    if after is not None:
        scene.run(lambda: scene.loop.call_later(after, scene.late.set_result, None))
    ending = scene.run(lambda: scene.loop.create_task(scene.door.shutdown(1.0)))
    assert not ending.done()
    scene.loop.advance(1.0, lambda: None)
    scene.settle()
    assert ending.done()
    assert (status(peer.taken) == 200) == (after is not None)
    assert peer.lost
    assert idle.lost
    assert not scene.door.answering
    assert not caplog.records
