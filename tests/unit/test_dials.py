"""Who waits to connect to an instance: the order, the bounds, the time, and those who leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest

from proxy.engine.deadlines import Deadlines
from proxy.engine.http1.client import UpstreamConnection
from proxy.engine.http1.keepalive import KeptConnection
from proxy.engine.node import Node
from proxy.engine.streams import UpstreamStream
from proxy.engine.tls.handshakes import Handshakes
from proxy.engine.upstream.connector import Connector, Dial
from proxy.engine.upstream.raw import RawConnection
from proxy.engine.upstream.turns import BEGUN, DIALS, SERVED
from proxy.errors import CONNECT_TIMEOUT, DNS_FAILED, Fault
from proxy.messages import PoolNode
from proxy.names.cache import Names
from proxy.proxy_header import Ends
from proxy.settings.service import Keepalive, ServiceSettings, Timeouts
from tests.support.loop_and_network import Network, SteppedLoop, ToldResolver

SETTINGS = ServiceSettings(timeouts=Timeouts(connect=2.0), keepalive=Keepalive(idle=30.0))
ADDRESS = ("10.0.0.1", 80)


class Scene:
    """A connector on stepped time, one instance, and what waiters have heard, in order."""

    def __init__(self, address: str = ADDRESS[0]) -> None:
        self.network = Network()
        self.loop = SteppedLoop(self.network)
        self.wheel = Deadlines(self.loop, self.loop.time)
        self.connector = Connector(
            self.loop,
            self.wheel,
            lambda: None,
            Names(self.loop, ToldResolver(self.loop)),
            Handshakes(self.loop.call_soon),
        )
        self.node = Node(PoolNode("a", "a", address, 80, 1, "ready", 0, local=True))
        self.node.admitted = True
        self.heard: list[Waiter] = []

    @property
    def tasks(self) -> int:
        return len(asyncio.all_tasks(self.loop))

    def dial(
        self,
        make: type[KeptConnection] = UpstreamConnection,
        then: Callable[[UpstreamStream], object] | None = None,
    ) -> Waiter:
        waiter = Waiter(self, then)
        waiter.dial = self.connector.dial(self.node, SETTINGS, waiter, make=make)
        return waiter

    def connection(self) -> KeptConnection:
        """A connection in use."""
        waiter = self.dial()
        self.loop.run_ready()
        self.heard.clear()
        connection = cast(KeptConnection, waiter.connection)
        connection._uses = 7
        return connection

    def full(self) -> list[Waiter]:
        """As many connections are being made as may, and will not come about for now."""
        self.network.hang(ADDRESS)
        waiters = [self.dial() for _ in range(DIALS)]
        self.loop.run_ready()
        assert self.tasks == self.connector.dialling == DIALS
        return waiters

    def end(self) -> None:
        """Nothing is left behind."""
        if ADDRESS in self.network.hanging:
            self.network.answer(ADDRESS)
        self.loop.run_ready()
        assert self.tasks == self.connector.dialling == 0
        assert not self.node.turns or not self.node.turns.under_way
        assert not self.loop.failures


class Waiter:
    """Writes down what it hears, then does what the test wants with its connection."""

    def __init__(self, scene: Scene, then: Callable[[UpstreamStream], object] | None) -> None:
        self.scene = scene
        self.then = then
        self.dial: Dial | None = None
        self.connection: UpstreamStream | None = None
        self.fault: Fault | None = None
        self.detail = ""

    def ends(self) -> Ends | None:
        return None

    def on_connected(self, node: Node, connection: UpstreamStream) -> None:
        self.scene.heard.append(self)
        self.connection = connection
        if self.then is not None:
            self.then(connection)

    def on_connect_failed(self, node: Node, fault: Fault, detail: str) -> None:
        self.scene.heard.append(self)
        self.fault, self.detail = fault, detail

    def on_dial_raised(self, node: Node, error: Exception) -> None:
        raise error


def leave(waiter: Waiter) -> None:
    assert waiter.dial is not None
    waiter.scene.connector.leave(waiter.dial)


def test_thousands_who_wait_have_no_task_and_their_turns_in_order() -> None:
    scene = Scene()
    waiters = scene.full() + [scene.dial() for _ in range(1000)]
    scene.loop.run_ready()
    assert scene.tasks == scene.connector.dialling == DIALS
    scene.network.answer(ADDRESS)
    scene.loop.run_ready()
    assert scene.heard == waiters
    assert len(scene.wheel) == 0
    scene.end()


def test_few_connections_are_begun_in_a_turn_of_the_loop() -> None:
    scene = Scene()
    scene.network.hang(ADDRESS)
    waiters = [scene.dial() for _ in range(3 * BEGUN + 1)]
    begun = []
    while not begun or len(scene.network.dialled) > begun[-1]:
        begun.append(len(scene.network.dialled))
        waiters.append(scene.dial())  # Whoever comes in between goes behind.
        scene.loop.run_turn()
    assert max(after - before for before, after in pairwise(begun)) == BEGUN
    scene.network.answer(ADDRESS)
    scene.loop.run_ready()
    assert scene.heard == waiters
    scene.end()


def test_connections_left_behind_go_to_those_who_have_waited_longest_some_a_turn() -> None:
    scene = Scene()
    left = [scene.connection() for _ in range(SERVED + 2)]
    scene.full()
    waiters = [scene.dial() for _ in range(SERVED + 1)]
    for connection in left:
        connection.park(scene.loop.time())
    assert not scene.heard
    assert not scene.node.idle  # Else whoever comes now would be first.
    scene.loop.run_turn()
    assert scene.heard == waiters[:SERVED]
    scene.loop.run_turn()
    assert scene.heard == waiters
    assert [waiter.connection for waiter in waiters] == left[:-1]
    assert scene.node.idle == left[-1:]
    scene.end()


def test_no_connection_is_begun_while_there_are_some_to_give() -> None:
    scene = Scene()
    left = [scene.connection() for _ in range(SERVED + 2)]
    first, second = scene.full()[:2]
    waiters = [scene.dial() for _ in range(SERVED + 3)]
    own = scene.dial(make=RawConnection)
    leave(first)
    leave(second)
    scene.loop.run_turn()
    for connection in left:
        connection.park(scene.loop.time())
    dialled = len(scene.network.dialled)
    scene.loop.run_turn()
    assert scene.heard == waiters[:SERVED]
    scene.loop.run_turn()
    assert own.dial is not None
    assert own.dial.task is not None
    assert scene.connector.dialling == DIALS
    scene.loop.run_ready()
    assert scene.heard == waiters[: SERVED + 2]
    assert len(scene.network.dialled) == dialled + 1
    scene.end()


def test_newcomers_get_what_those_who_waited_did_not_need() -> None:
    scene = Scene()
    left = [scene.connection() for _ in range(3 * SERVED)]
    made = scene.full()
    waiters = [scene.dial() for _ in range(SERVED)]
    for connection in left:
        connection.park(scene.loop.time())
    for waiter in made[:-1]:
        leave(waiter)
    scene.loop.run_turn()
    scene.loop.run_turn()
    assert scene.heard == waiters
    assert len(scene.node.idle) == SERVED
    dialled = len(scene.network.dialled)
    late, own = [scene.dial() for _ in range(SERVED)], scene.dial(make=RawConnection)
    scene.loop.run_ready()
    assert scene.heard == waiters + late
    assert own.dial is not None
    assert own.dial.task is not None
    assert len(scene.network.dialled) == dialled + 1
    assert len(scene.node.idle) == SERVED
    scene.end()


def test_a_waiter_for_a_connection_of_its_own_lets_none_pass_those_behind() -> None:
    scene = Scene()
    left = scene.connection()
    first = scene.full()[0]
    own = scene.dial(make=RawConnection)
    behind, last = scene.dial(), scene.dial()
    left.park(scene.loop.time())
    assert not scene.node.idle
    scene.loop.run_ready()
    assert scene.heard == [behind]
    leave(first)
    scene.network.answer(ADDRESS)
    scene.loop.run_ready()
    assert scene.heard[-2:] == [own, last]
    scene.end()


@pytest.mark.parametrize("after", [0.0, 5.0])
def test_a_connection_passed_on_keeps_its_uses_and_its_time(after: float) -> None:
    scene = Scene()
    left = scene.connection()
    scene.full()
    scene.dial(then=lambda connection: connection.park(scene.loop.time()))
    left.park(scene.loop.time(), 9.0)
    scene.loop.stand_still(after)
    scene.loop.run_ready()
    assert scene.node.idle == [left]
    assert left._uses == 7
    assert left.deadline == scene.loop.time() + 9.0 - after
    scene.loop.advance(10.0)
    assert left.closed
    scene.end()


def test_a_connection_whose_waiters_have_all_left_is_idle() -> None:
    scene = Scene()
    left = scene.connection()
    scene.full()
    waiter = scene.dial()
    left.park(scene.loop.time(), 9.0)
    leave(waiter)
    scene.loop.run_ready()
    assert not scene.heard
    assert scene.node.idle == [left]
    assert left.deadline == scene.loop.time() + 9.0
    scene.end()


def test_a_connection_that_closes_before_its_waiter_has_it_is_given_to_nobody() -> None:
    scene = Scene()
    gone, left = cast(Any, scene.connection()), scene.connection()
    scene.full()
    waiter = scene.dial()
    gone.park(scene.loop.time())
    gone.transport.reset()
    gone.transport.deliver_lost()
    scene.loop.run_ready()
    assert not scene.heard
    left.park(scene.loop.time())
    scene.loop.run_ready()
    assert scene.heard == [waiter]
    assert waiter.connection is left
    scene.end()


@pytest.mark.parametrize("set_aside", [False, True])
def test_a_connection_to_whom_the_instance_was_before_is_given_to_nobody(set_aside: bool) -> None:
    scene = Scene()
    left = scene.connection()
    if set_aside:
        scene.full()
        scene.dial()
        left.park(scene.loop.time())
    scene.node.server_name = "a.example"  # From now on it is spoken to under TLS.
    if not set_aside:
        left.park(scene.loop.time())
    scene.loop.run_ready()
    assert not scene.heard
    assert not scene.node.idle
    assert left.closed
    scene.node.server_name = None
    scene.end()


def test_a_session_with_whom_the_instance_was_before_is_not_begun() -> None:
    scene = Scene()
    scene.node.http2 = True
    scene.network.hang(ADDRESS)
    waiter = scene.dial()
    scene.loop.run_ready()
    scene.node.server_name = "a.example"  # From now on it is spoken to under TLS.
    scene.network.answer(ADDRESS)
    scene.loop.run_ready()
    before, _ = scene.network.accepted[ADDRESS]
    assert before.is_closing()
    assert not scene.heard
    assert not scene.node.shared
    scene.loop.advance(2.0)
    assert scene.heard == [waiter]
    scene.end()


def test_a_waiter_that_fails_takes_nobody_elses_turn() -> None:
    scene = Scene()
    left = [scene.connection() for _ in range(2)]
    scene.full()
    scene.dial(then=lambda connection: cast(None, 1 / 0))
    waiter = scene.dial()
    for connection in left:
        connection.park(scene.loop.time())
    scene.loop.run_ready()
    assert scene.heard[-1] is waiter
    assert isinstance(scene.loop.failures.pop()["exception"], ZeroDivisionError)
    scene.end()


def test_a_waiter_waits_for_the_time_to_connect() -> None:
    scene = Scene()
    made = scene.full()
    scene.loop.advance(1.0)
    waiter, patient = scene.dial(), Waiter(scene, None)
    scene.connector.dial(scene.node, SETTINGS, patient, 0.5)
    scene.loop.advance(0.6)
    assert scene.heard == [patient]
    assert patient.fault is CONNECT_TIMEOUT
    assert patient.detail == "a: no connection within 0.5 s"
    scene.loop.advance(0.5)
    assert scene.heard[1:] == made
    assert scene.tasks == 1  # Its turn has come, and its time goes on.
    scene.loop.advance(0.89)
    assert waiter.fault is None
    scene.loop.advance(0.05)
    assert waiter.fault is CONNECT_TIMEOUT
    assert waiter.detail == "a: no connection within 2 s"
    assert len(scene.wheel) == 0
    scene.end()


def test_a_waiter_hears_that_others_wait_for_an_address() -> None:
    scene = Scene("a.example")
    waiters = [scene.dial() for _ in range(DIALS + 1)]
    scene.loop.advance(2.1)
    assert sorted(map(id, scene.heard)) == sorted(map(id, waiters))
    assert {(waiter.fault, waiter.detail) for waiter in waiters} == {
        (DNS_FAILED, "a: no name server has answered within 2 s")
    }
    scene.end()


def test_a_waiter_that_leaves_hears_nothing_and_takes_no_turn() -> None:
    scene = Scene()
    made = scene.full()
    waiters = [scene.dial() for _ in range(5000)]
    for waiter in waiters[:-1]:
        leave(waiter)
    assert len(scene.wheel) == 1
    scene.loop.run_ready()
    assert scene.connector.dialling == scene.tasks == DIALS
    for waiter in made:
        leave(waiter)
    scene.loop.run_ready()
    assert scene.tasks == 2  # One of those being made goes on, whoever has left.
    scene.network.answer(ADDRESS)
    scene.loop.run_ready()
    assert scene.heard == [made[0], waiters[-1]]
    scene.end()


def test_at_the_end_nobody_hears_anything() -> None:
    scene = Scene()
    scene.full()
    scene.dial()
    task = scene.loop.create_task(scene.connector.close())
    scene.loop.run_ready()
    assert task.done()
    assert not scene.heard
    assert len(scene.wheel) == 0
    assert len(scene.network.dialled) == DIALS
    scene.end()


@pytest.mark.parametrize("make", [RawConnection, UpstreamConnection])
@pytest.mark.parametrize("end", ["close", "abort", "disown"])
def test_a_connection_is_counted_until_it_ends_and_no_longer(
    make: type[KeptConnection], end: str
) -> None:
    scene = Scene()
    waiter = scene.dial(make=make)
    scene.loop.run_ready()
    connection = cast(Any, waiter.connection)
    assert scene.connector.open == 1
    getattr(connection, end)()
    connection.transport.close()
    connection.transport.deliver_lost()
    assert scene.connector.open == 0
    scene.end()
