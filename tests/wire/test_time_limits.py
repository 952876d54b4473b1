"""Each time limit of the data plane fires when it says: in [t, 1.1 t], for short ones as well."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from proxy.engine.connections import LAST_CALL
from proxy.engine.exchange import Exchange
from proxy.engine.tunnel import FLUSH
from proxy.engine.upstream.connector import ROOM_LIMIT
from proxy.engine.upstream.unreachable import AGAIN
from proxy.settings.listener import ListenerSettings, ListenerTimeouts
from proxy.settings.service import (
    DrainSettings,
    Keepalive,
    QueueSettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.wire import OK, Peer, Wire, request
from tests.wire.scenes import GET, SWITCH, UPGRADE, answered, asked, reached

SECONDS = [0.1, 0.3, 1.0, 7.0, 75.0]
PHASE = 0.0137
"""Seconds by which every limit begins off the wheel's ticks."""
STEPS = 500
"""Looks at the wire in each `t`: what a measured time may be late by."""
PARTIAL = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"

Fired = Callable[[], bool]
"""Whether the limit has fired."""
Begin = Callable[[Any, float], tuple[Wire, Fired]]
"""Of `make` and `t`: a wire on which the limit, of `t` seconds, has just begun to run."""


def patient(**timeouts: float) -> ListenerSettings:
    """Only the limit that is named can be what fires."""
    never: dict[str, float] = dict.fromkeys(("head", "body", "idle", "linger"), 1e6)
    return ListenerSettings(timeouts=ListenerTimeouts(**{**never, **timeouts}))


def service(**fields: Any) -> ServiceSettings:
    timeouts: dict[str, float] = dict.fromkeys(
        ("connect", "first_byte", "idle", "tunnel_idle", "queue"), 1e6
    )
    if "patience" in fields:
        timeouts["queue"] = fields.pop("patience")
    named = ("connect", "first_byte", "idle", "total", "tunnel_idle")
    timeouts |= {name: fields.pop(name) for name in named if name in fields}
    return ServiceSettings(
        timeouts=Timeouts(**timeouts), **{"keepalive": Keepalive(idle=1e6), **fields}
    )


def wired(
    make: Any, *names: str, listener: ListenerSettings | None = None, **settings: Any
) -> Wire:
    wire: Wire = make(*names, listener=listener or patient(), settings=service(**settings))
    wire.advance(PHASE)
    return wire


def told(peer: Peer) -> Fired:
    return lambda: bool(peer.transport.taken)


def closed(peer: Peer) -> Fired:
    return lambda: peer.closed


def asking(wire: Wire, *fields: str) -> tuple[Peer, Peer]:
    """A client whose request is at the instance."""
    return asked(wire, request("GET /", *fields))


def tunnel(wire: Wire) -> tuple[Peer, Peer]:
    client, instance = asking(wire, *UPGRADE)
    instance.send(SWITCH)
    client.take()
    return client, instance


# -- of a listener


def first_word(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, listener=patient(head=t))
    return wire, closed(wire.client())


def head(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, listener=patient(head=t))
    client = wire.client()
    wire.advance(0.7 * t)
    client.send(b"GET / HT")
    return wire, told(client)


def body_gap(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, listener=patient(body=t))
    client = wire.client()
    client.send(request("POST /", "Content-Length: 9", body=b"abc"))
    wire.advance(0.7 * t)
    client.send(b"def")
    return wire, told(client)


def client_idle(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, listener=patient(idle=t))
    client, instance = asking(wire)
    wire.advance(2.3 * t)  # Nothing is idle while an answer is waited for.
    instance.send(OK)
    client.take()
    return wire, closed(client)


def client_that_does_not_read(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, listener=patient(idle=t))
    client, instance = asking(wire)
    client.stall()
    instance.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 100_000)
    return wire, closed(client)


def lingering_close(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, listener=patient(linger=t))
    client = wire.client()
    client.send(b"nonsense\r\n\r\n")
    client.take()
    return wire, closed(client)


# -- of a service


def connect(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, connect=t)
    wire.network.hang(wire.address("a"))
    client = wire.client()
    client.send(request("GET /"))
    return wire, told(client)


def first_byte(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, first_byte=t)
    client, _ = asking(wire)
    return wire, told(client)


def first_byte_on_a_kept_connection(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, first_byte=t)
    client, instance = asking(wire)
    instance.send(OK)
    client.take()
    wire.advance(0.3 * t)
    client.send(request("GET /"))
    instance.take()
    return wire, told(client)


def first_byte_after_an_upload(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, first_byte=t)
    client, instance = reached(wire, request("POST /", "Content-Length: 6", body=b"abc"))
    wire.advance(0.7 * t)
    client.send(b"def")
    instance.take()
    return wire, told(client)


def answer_gap(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, idle=t)
    client, instance = asking(wire)
    instance.send(PARTIAL)
    wire.advance(0.7 * t)
    instance.send(b"def")
    client.take()
    return wire, closed(client)


def total(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, total=t)
    client, _ = asking(wire)
    return wire, told(client)


def total_in_mid_answer(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, total=t)
    client, instance = asking(wire)
    instance.send(PARTIAL)
    client.take()
    return wire, closed(client)


def tunnel_idle(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, tunnel_idle=t)
    client, instance = tunnel(wire)
    wire.advance(0.7 * t)
    client.send(b"ping")
    instance.take()
    return wire, closed(client)


def queue(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, patience=t, max_inflight=1, queue=QueueSettings(size=1))
    asking(wire)
    second = wire.client()
    second.send(request("GET /"))
    return wire, told(second)


def kept_connection(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make, keepalive=Keepalive(idle=t))
    client, instance = asking(wire)
    instance.send(OK)
    client.take()
    return wire, closed(instance)


# -- of a worker that stops


def grace(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make)
    client, _ = asking(wire)
    wire.worker.drain(t)
    return wire, closed(client)


def grace_of_a_tunnel(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make)
    client, _ = tunnel(wire)
    wire.worker.drain(t)
    return wire, closed(client)


def grace_after_a_delay(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make)
    client, _ = asking(wire)
    wire.worker.drain(t, 0.4)
    wire.advance(0.4)
    return wire, closed(client)


LIMITS: tuple[Begin, ...] = (
    first_word, head, body_gap, client_idle, client_that_does_not_read, lingering_close,
    connect, first_byte, first_byte_on_a_kept_connection, first_byte_after_an_upload, answer_gap,
    total, total_in_mid_answer, tunnel_idle, queue, kept_connection,
    grace, grace_of_a_tunnel, grace_after_a_delay,
)  # fmt: skip


def seconds_until(wire: Wire, fired: Fired, t: float) -> float:
    """How long it takes until it fires; 2 t when it has not by then."""
    began = wire.loop.time()
    while not fired() and wire.loop.time() < began + 2 * t:
        wire.advance(t / STEPS)
    took = wire.loop.time() - began
    # What was said besides is other tests' business.
    for waiting in wire.network.accepted.values():
        while waiting:
            wire.adopt(waiting.popleft(), "instance")
    for peer in wire.peers:
        peer.take()
        peer.read_on()
        peer.take()
    return took


@pytest.mark.parametrize("t", SECONDS)
@pytest.mark.parametrize("begin", LIMITS, ids=lambda begin: begin.__name__)
def test_each_limit_fires_in_time(make: Any, begin: Begin, t: float) -> None:
    wire, fired = begin(make, t)
    assert not fired()
    took = seconds_until(wire, fired, t)
    assert t - 1e-6 <= took <= (1.1 + 2 / STEPS) * t


# -- those that are not set, but fixed


def last_call(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make)
    client, instance = asking(wire)
    instance.send(OK)
    client.take()
    wire.worker.drain(1e6)
    wire.settle()
    return wire, closed(client)


def flush(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make)
    client, instance = tunnel(wire)
    client.stall()
    instance.send(b"x" * 10)
    instance.eof()
    client.eof()
    return wire, closed(client)


def unreachable(make: Any, t: float) -> tuple[Wire, Fired]:
    """An instance that refused a connection is tried again."""
    wire = wired(make, "a", "b")
    wire.network.refuse(wire.address("a"))
    clients = [wire.client(), wire.client()]
    for client in clients:
        client.send(request("GET /"))  # In turn: one of them goes to the one that refuses.
    wire.network.errors.clear()
    node = wire.node("a")
    assert node.unreachable
    return wire, lambda: not node.unreachable


def no_descriptor(make: Any, t: float) -> tuple[Wire, Fired]:
    wire = wired(make)
    wire.network.refuse(wire.address("a"), OSError(24, "Too many open files"))
    client = wire.client()
    client.send(request("GET /"))
    return wire, told(client)


def promised_idle(make: Any, t: float) -> tuple[Wire, Fired]:
    """A second before `Keep-Alive: timeout=N`."""
    wire = wired(make)
    client, instance = asking(wire)
    instance.send(OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=%d\r\n\r\n" % (t + 1), 1))
    client.take()
    return wire, closed(instance)


@pytest.mark.parametrize(
    ("begin", "t"),
    [
        (last_call, LAST_CALL),
        (flush, FLUSH),
        (unreachable, AGAIN),
        (no_descriptor, ROOM_LIMIT),
        (promised_idle, 3.0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fixed_one_fires_in_time(make: Any, begin: Begin, t: float) -> None:
    wire, fired = begin(make, t)
    assert not fired()
    took = seconds_until(wire, fired, t)
    assert t - 1e-6 <= took <= (1.1 + 2 / STEPS) * t


@pytest.mark.parametrize("t", [1.0, 10.0, 300.0])
def test_tunnels_of_an_instance_that_leaves_end_spread(make: Any, t: float) -> None:
    """`drain.close_after`, give or take half of it."""
    ends = []
    wire = wired(make, "a", "b", drain=DrainSettings(tunnels="close", close_after=t))
    clients = [client for client, instance in (tunnel(wire) for _ in range(60))]
    left = {client for client in clients if not client.closed}
    wire.serve("a", "b", a="draining", b="draining")
    began = wire.loop.time()
    while left and wire.loop.time() < began + 2 * t:
        wire.advance(t / STEPS)
        for client in [client for client in left if client.closed]:
            left.discard(client)
            ends.append((wire.loop.time() - began) / t)
    assert not left
    assert 0.5 <= min(ends) < 0.6
    assert 1.4 < max(ends) <= 1.5 + 0.05


@pytest.mark.parametrize("end", ["answer", "leave", "limit"])
def test_a_request_with_a_total_limit_leaves_nothing_to_the_collector(make: Any, end: str) -> None:
    wire = make(settings=ServiceSettings(timeouts=Timeouts(total=5.0)))
    client, a = asked(wire)
    answered(client, a)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        client.send(GET)
        assert a.take()
        if end == "answer":
            answered(client, a)
        elif end == "leave":
            client.reset()
        else:
            wire.advance(6.0)
            client.take()
        gc.collect()
        assert not [item for item in gc.garbage if isinstance(item, Exchange)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
