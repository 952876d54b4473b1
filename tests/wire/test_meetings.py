"""Where mechanisms meet: what one of them does must not be counted, timed or forgotten by another."""

from __future__ import annotations

from typing import Any

from proxy.model import (
    BreakerSettings,
    Drain,
    RouteSpec,
    ServiceSettings,
    Suspect,
)
from tests.wiring import OK, OK_RELAYED_CLOSE, Peer, Wire, request

GET = request("GET /x")
BAD = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
BAD_RELAYED = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nVia: 1.1 fairlead\r\n\r\nbusy"
UPGRADE = request("GET /x", "Connection: Upgrade", "Upgrade: x")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
BREAKER = BreakerSettings(failure_ratio=0.5, min_requests=2, window=10.0, open=5.0)
ROUTES = (RouteSpec(path_prefix="/", service="s"),)


def settings(**changes: Any) -> ServiceSettings:
    return ServiceSettings(**changes)


def asked(wire: Wire, name: str = "", data: bytes = GET) -> tuple[Peer, Peer]:
    """A client whose request is at an instance, over a new connection."""
    client = wire.client()
    client.send(data)
    instance = wire.accepted(name) if name else wire.connected()
    assert instance.take()
    return client, instance


def reported(wire: Wire) -> list[Suspect]:
    suspects: list[Suspect] = []
    wire.pool.report_to(suspects.append)
    return suspects


class TestStopping:
    def test_a_pause_without_clients_before_it_stops_accepting(self, make: Any) -> None:
        wire = make()
        client = wire.client()
        wire.worker.on_message(Drain(30.0, 2.0))
        wire.advance(0.5)
        client.eof()
        assert not wire.worker.clients
        late, instance = asked(wire)
        wire.advance(5.0)
        assert not late.closed
        instance.send(OK)
        late.expect(OK_RELAYED_CLOSE)
        late.eof()
        assert wire.worker.stopped.is_set()
