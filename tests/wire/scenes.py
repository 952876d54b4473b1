"""Where many of these tests begin: what both sides say, and requests that are under way."""

from __future__ import annotations

import errno
from random import Random

from proxy.settings.listener import ListenerSettings
from tests.support.balancer_nodes import Faulty
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, request

GET = request("GET /x")
CHUNKED = "Transfer-Encoding: chunked"
UPGRADE = ("Connection: Upgrade", "Upgrade: x")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
BAD = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
BAD_RELAYED = (
    b"HTTP/1.1 503 Busy\r\nX-Request-ID: r1\r\nContent-Length: 4\r\nVia: 1.1 fairlead\r\n\r\nbusy"
)
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
HALF_CLOSE = ListenerSettings(client_close="half_close")
TRUSTING = ListenerSettings(trusted_proxies=("192.0.2.0/24",))
"""The proxies that it trusts, among them every client of a wire."""


def faulty(wire: Wire, *raising: str, service: str = "s") -> Faulty:
    """The pool gets a balancer of somebody else's that raises where it is told to."""
    pool = wire.worker.pools.get(service)
    assert pool is not None
    balancer = Faulty(list(pool.nodes.values()), Random(1))
    balancer.raising = raising
    pool._install(balancer)
    return balancer


def reached(wire: Wire, *data: bytes, at: str | None = None) -> tuple[Peer, Peer]:
    """A new client that sends this, a GET if nothing else, and the instance that it reaches over a
    new connection: that one, if it is named."""
    client = wire.client()
    client.send(*(data or (GET,)))
    return client, wire.connected() if at is None else wire.accepted(at)


def asked(wire: Wire, *data: bytes, at: str | None = None) -> tuple[Peer, Peer]:
    """As `reached`, where it does not matter what the instance got."""
    client, instance = reached(wire, *data, at=at)
    assert instance.take()
    return client, instance


def answered(client: Peer, instance: Peer) -> None:
    """The instance answers, and the client gets it."""
    instance.send(OK)
    client.expect(OK_RELAYED)


def served(wire: Wire, at: str | None = None) -> Peer:
    """The instance of a new client's request that is over; the connection to it is kept."""
    client, instance = asked(wire, at=at)
    answered(client, instance)
    return instance
