"""A client that leaves takes its request along, wherever that is and whether it is read or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy.engine.http1.server import READ_AHEAD
from proxy.errors import CLIENT_GONE
from proxy.settings.listener import ListenerSettings
from proxy.settings.service import QueueSettings, RetrySettings, ServiceSettings, Timeouts
from tests.support.wire import OK, Peer, Wire, forwarded, request
from tests.wire.scenes import HALF_CLOSE, answered

GET = request("GET /")
POST = request("POST /", "Content-Length: 200000")
"""Nothing of the body is here."""
PIPELINED = request("GET /next", "X: " + "x" * 8000) * (READ_AHEAD // 8000 + 1)
QUEUE = ServiceSettings(max_inflight=1, queue=QueueSettings(size=9))
RESERVE = ServiceSettings(retry=RetrySettings(on=("503",)))


class Scene:
    """One client whose request waits for something, and where it stands then."""

    def __init__(self, make: Any, *instances: str, **options: Any) -> None:
        self.wire: Wire = make(*instances, **options)
        self.client = self.wire.client()
        self.instances: list[Peer] = []
        """Those that have got some of the request."""

    def send(self, data: bytes) -> None:
        self.client.send(data)
        while self.wire.network.accepted.get(self.wire.address("a")):
            self.instances.append(self.wire.accepted("a"))
            self.instances[-1].take()


def first_byte(make: Any, **options: Any) -> Scene:
    scene = Scene(make, **options)
    scene.send(GET)
    return scene


def rest_of_its_body(make: Any, **options: Any) -> Scene:
    scene = Scene(make, **options)
    scene.send(POST + b"x" * 10)
    return scene


def rest_of_the_answer(make: Any, **options: Any) -> Scene:
    scene = first_byte(make, **options)
    scene.instances[0].send(OK[:-1])
    scene.client.take()
    return scene


def rest_of_a_chunked_answer(make: Any, **options: Any) -> Scene:
    scene = first_byte(make, **options)
    scene.instances[0].send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    scene.client.take()
    return scene


def a_connection(make: Any, **options: Any) -> Scene:
    scene = Scene(make, **options)
    scene.wire.network.hang(scene.wire.address("a"))
    scene.send(GET)
    return scene


def a_connection_with_its_body_held(make: Any, **options: Any) -> Scene:
    scene = Scene(make, **options)
    scene.wire.network.hang(scene.wire.address("a"))
    scene.send(POST)
    scene.send(b"x")
    assert not scene.client.read
    return scene


def an_instance_that_does_not_read(make: Any, **options: Any) -> Scene:
    scene = Scene(make, **options)
    scene.send(POST)
    scene.instances[0].stall()
    scene.send(b"x" * 100_000)
    assert not scene.client.read
    scene.client.transport.feed(b"x")  # Unread, and so is what comes behind it.
    return scene


def a_place_in_the_queue(make: Any, **options: Any) -> Scene:
    return _queued(make, GET, **options)


def a_place_in_the_queue_with_its_body_held(make: Any, **options: Any) -> Scene:
    scene = _queued(make, POST, **options)
    assert not scene.client.read
    return scene


def _queued(make: Any, data: bytes, **options: Any) -> Scene:
    scene = Scene(make, settings=QUEUE, **options)
    busy = scene.wire.client()
    busy.send(GET)
    scene.wire.accepted("a").take()
    scene.send(data)
    assert len(scene.wire.pool.policies.queue) == 1
    return scene


def its_turn_behind_others(make: Any, **options: Any) -> Scene:
    scene = first_byte(make, **options)
    scene.send(PIPELINED)
    assert not scene.client.read
    scene.client.transport.feed(PIPELINED)
    return scene


def a_better_answer(make: Any, **options: Any) -> Scene:
    scene = Scene(make, "a", "b", settings=RESERVE, **options)
    scene.client.send(GET)
    bad = scene.wire.connected()
    bad.take()
    bad.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbu")
    better = scene.wire.connected()
    better.take()
    scene.instances = [bad, better]
    return scene


READ: tuple[Callable[..., Scene], ...] = (
    first_byte, rest_of_its_body, rest_of_the_answer, rest_of_a_chunked_answer, a_connection,
    a_place_in_the_queue, a_better_answer,
)  # fmt: skip
NOT_READ: tuple[Callable[..., Scene], ...] = (
    a_connection_with_its_body_held, an_instance_that_does_not_read,
    a_place_in_the_queue_with_its_body_held, its_turn_behind_others,
)  # fmt: skip


def left(scene: Scene) -> None:
    """Nobody works for this client any more, and no instance is blamed."""
    wire = scene.wire
    assert scene.client.closed
    scene.client.expect_nothing()
    assert all(peer.closed for peer in scene.instances)
    assert len(wire.pool.policies.queue) == 0
    assert wire.in_flight == len(wire.worker.connections.clients)
    for node in wire.pool.nodes.values():
        assert set(node.outcomes) <= {CLIENT_GONE.code, "503"}, node
    [request] = wire.pool.counters.snapshot().requests
    assert request.endswith((" 499", " 200"))  # What it had got of the answer, if anything.


def tidy(scene: Scene) -> None:
    """What is no concern of these tests."""
    wire = scene.wire
    if wire.address("a") in wire.network.hanging:
        wire.network.answer(wire.address("a"))
        wire.settle()
        wire.accepted("a").expect_nothing()  # It is kept for the next request.
    for peer in wire.peers:
        peer.take()


def name(wait: Callable[..., Scene]) -> str:
    return wait.__name__


@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize("wait", [*READ, *NOT_READ], ids=name)
def test_a_client_that_leaves_while_it_waits_for(
    make: Any, wait: Callable[..., Scene], how: str
) -> None:
    scene = wait(make)
    getattr(scene.client, how)()
    left(scene)
    tidy(scene)


@pytest.mark.parametrize("listener", [ListenerSettings(), HALF_CLOSE], ids=["abort", "half_close"])
@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize("stage", ["connected", "half a head", "answered"])
def test_a_client_that_leaves_with_nothing_to_wait_for(
    make: Any, stage: str, how: str, listener: ListenerSettings
) -> None:
    wire = make(listener=listener)
    client = wire.client()
    if stage == "half a head":
        client.send(GET[:-5])
    elif stage == "answered":
        client.send(GET)
        instance = wire.accepted()
        instance.take()
        answered(client, instance)
    getattr(client, how)()
    assert client.closed
    client.expect_nothing()
    assert [*wire.pool.counters.snapshot().requests] == ["GET 200"] * (stage == "answered")


@pytest.mark.parametrize("wait", [*READ, *NOT_READ], ids=name)
def test_with_half_close_a_client_that_only_sends_no_more_waits_on_for(
    make: Any, wait: Callable[..., Scene]
) -> None:
    scene = wait(make, listener=HALF_CLOSE)
    scene.client.eof()
    if wait is rest_of_its_body:
        scene.client.expect_problem(400, "http_request_error", closing=True)
    else:
        assert not scene.client.closed
        scene.client.reset()  # Not so one that is gone.
        left(scene)
    tidy(scene)


def test_an_end_that_is_known_before_what_was_sent_is_read(make: Any) -> None:
    """The kernel tells of it once, and what is still unread of a client fills the read-ahead only
    then."""
    scene = its_turn_behind_others(make)
    client, instance = scene.client, scene.instances[0]
    while not client.read:
        instance.take()
        instance.send(OK)
    client.transport.end_unread()
    scene.wire.settle()
    assert not client.closed
    client.take()
    client.send(PIPELINED)
    assert client.closed
    assert instance.closed
    instance.take()
    client.expect_nothing()


def test_the_first_of_several_requests_is_served_with_half_close_only(make: Any) -> None:
    for listener, answers in ((ListenerSettings(), 1), (HALF_CLOSE, 3)):
        wire = make(listener=listener, routes=())
        client = wire.client()
        client.transport.feed(request("GET /none") * 3)
        client.eof()
        assert client.take().count(b"HTTP/1.1 404 ") == answers
        assert client.saw_end


def test_clients_that_come_and_go_do_not_pile_up_connections(make: Any) -> None:
    """One to each instance shows whether it can be reached; the others are given up."""
    wire = make("a", "b", settings=ServiceSettings(timeouts=Timeouts(connect=2.0)))
    for instance in ("a", "b"):
        wire.network.hang(wire.address(instance))
    for _ in range(20):
        client = wire.client()
        client.send(GET)
        client.eof()
    assert len(wire.network.dialled) == 20
    assert wire.worker.services.connector.dialling == 2
    wire.advance(2.1)
    assert all(wire.node(instance).unreachable for instance in ("a", "b"))
    assert wire.in_flight == 0


def test_a_connection_that_nobody_waited_for_any_more_is_used(make: Any) -> None:
    wire = make()
    wire.network.hang(wire.address("a"))
    gone = wire.client()
    gone.send(GET)
    gone.eof()
    wire.network.answer(wire.address("a"))
    wire.settle()
    client = wire.client()
    client.send(request("GET /2"))
    [instance] = wire.network.accepted[wire.address("a")]
    peer = wire.accepted("a")
    assert peer.raw is instance
    peer.expect(forwarded("GET /2"))
    answered(client, peer)


def test_an_answer_from_before_the_end_is_delivered(make: Any) -> None:
    """The answer is complete: a client that reads slowly may end its side meanwhile."""
    scene = first_byte(make)
    client = scene.client
    client.stall()
    scene.instances[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + b"x" * 60_000)
    scene.instances[0].send(b"x" * 30_000)
    client.eof()
    assert not client.closed
    client.read_on()
    assert client.take().endswith(b"x" * 90_000)
    assert client.saw_end
    assert [*scene.wire.pool.counters.snapshot().requests] == ["GET 200"]
