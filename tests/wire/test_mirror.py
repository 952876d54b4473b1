"""Copies of requests, which nobody waits for."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.mirror import MirrorSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import RetrySettings, ServiceSettings, Timeouts
from tests.support.filters import spec
from tests.support.wire import OK, OK_RELAYED, Peer, Wire, forwarded, request
from tests.wire.scenes import REFUSED

ROUTES = (RouteSpec(path_prefix="/svc", strip_prefix=True, set_host="inner", service="s"),)


SERVICES = {"s": ServiceSettings(mirror=MirrorSettings(service="m")), "m": ServiceSettings()}


def wired(make: Any, share: float = 1.0, **shadow: Any) -> Wire:
    settings = ServiceSettings(mirror=MirrorSettings(service="m", share=share))
    services = {"s": settings, "m": ServiceSettings(retry=RetrySettings(max_retries=0), **shadow)}
    wire: Wire = make("a", services=services, routes=ROUTES, tls=False)
    wire.serve("b", service="m")
    return wire


def both(wire: Wire, *data: bytes) -> tuple[Peer, Peer, Peer]:
    """A client, its instance, and the one of the copy."""
    client = wire.client()
    client.send(*data)
    return client, wire.accepted("a"), wire.accepted("b")


def sent(line: str, *fields: str, body: bytes = b"") -> bytes:
    after = ("X-Forwarded-Prefix: /svc",)
    return forwarded(line, *fields, host="inner", asked="h", body=body, after=after)


def faults(wire: Wire) -> dict[str, int]:
    pool = wire.worker.pools.get("m")
    assert pool is not None
    assert pool.copies == 0
    return {**pool.counters.faults, **pool.counters.limited}


def mirrored(wire: Wire) -> dict[str, int]:
    pool = wire.worker.pools.get("m")
    assert pool is not None
    return pool.counters.mirrored


def test_a_copy_gets_what_the_instance_gets_and_its_answer_goes_nowhere(make: Any) -> None:
    wire = wired(make)
    client, instance, shadow = both(wire, request("GET /svc/x"))
    instance.expect(sent("GET /x"))
    shadow.expect(sent("GET /x"))
    shadow.send(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno")
    client.expect_nothing()
    instance.send(OK)
    client.expect(OK_RELAYED)
    instance.eof()
    shadow.eof()
    assert faults(wire) == {}
    assert mirrored(wire) == {"sent": 1}


def test_a_body_is_copied_as_it_comes(make: Any) -> None:
    wire = wired(make)
    length = "Content-Length: 9"
    client, instance, shadow = both(wire, request("POST /svc/x", length, body=b"abc"))
    client.send(b"def")
    client.send(b"ghi")
    for peer in (instance, shadow):
        peer.expect(sent("POST /x", length, body=b"abcdefghi"))
        peer.send(OK)
        peer.eof()
    client.expect(OK_RELAYED)


def test_a_whole_body_is_copied(make: Any) -> None:
    wire = wired(make)
    client, instance, shadow = both(wire, request("PUT /svc/x", "Content-Length: 3", body=b"abc"))
    for peer in (instance, shadow):
        peer.expect(sent("PUT /x", "Content-Length: 3", body=b"abc"))
        peer.send(OK)
        peer.eof()
    client.expect(OK_RELAYED)


def test_a_copy_that_cannot_be_made_changes_nothing(make: Any) -> None:
    wire = wired(make)
    wire.network.refuse(wire.address("b"), REFUSED)
    client = wire.client()
    client.send(request("GET /svc/x"))
    instance = wire.accepted("a")
    instance.expect(sent("GET /x"))
    instance.send(OK)
    client.expect(OK_RELAYED)
    instance.eof()
    assert faults(wire) == {"connect_refused": 1}
    assert mirrored(wire) == {"sent": 1, "failed": 1}
    wire.serve(service="m")


def test_a_copy_that_does_not_keep_up_is_given_up(make: Any) -> None:
    wire = wired(make, timeouts=Timeouts(connect=1000.0))
    wire.network.hang(wire.address("b"))
    client = wire.client()
    client.send(request("POST /svc/x", "Content-Length: 200000", body=b"x" * 100_000))
    instance = wire.accepted("a")
    client.send(b"y" * 99_999)
    assert faults(wire) == {"mirror": 1}
    assert mirrored(wire) == {"sent": 1, "dropped": 1}
    client.send(b"z")
    assert instance.take().endswith(b"yyz")
    instance.send(OK)
    client.expect(OK_RELAYED)
    instance.eof()
    wire.network.answer(wire.address("b"))
    wire.settle()
    wire.accepted("b").eof()


def test_a_client_that_leaves_in_the_middle_of_its_body_ends_the_copy(make: Any) -> None:
    wire = wired(make)
    client, instance, shadow = both(wire, request("POST /svc/x", "Content-Length: 9", body=b"abc"))
    instance.take()
    shadow.take()
    client.reset()
    assert shadow.closed
    assert faults(wire) == {"mirror": 1}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_share_of_the_requests_is_copied(make: Any, share: float) -> None:
    wire = wired(make, share)
    for _ in range(20):
        client = wire.client()
        client.send(request("GET /svc/x"))
        instance = wire.accepted("a")
        instance.take()
        instance.send(OK)
        client.expect(OK_RELAYED)
        instance.eof()
    pool = wire.worker.pools.get("m")
    assert pool is not None
    assert pool.copies == pool.requests
    assert (pool.copies > 0) == (share > 0)
    assert pool.copies < 20
    for _ in range(pool.copies):
        shadow = wire.accepted("b")
        shadow.take()
        shadow.send(OK)
        shadow.eof()
    assert pool.copies == 0


def test_a_request_that_a_filter_refuses_is_not_copied(make: Any) -> None:
    wire = wired(make)
    denied = spec("deny", networks=("0.0.0.0/0", "::/0"))
    route = RouteSpec(path_prefix="/", service="s", filters=(denied,))
    wire.configure((route,), SERVICES)
    client = wire.client()
    client.send(request("GET /x"))
    assert client.take().startswith(b"HTTP/1.1 403 ")
    wire.expect_no_dial("b")


def test_a_copy_is_what_filters_have_made_of_the_request(make: Any) -> None:
    wire = wired(make)
    removes = spec("headers", request={"remove": ["Authorization"]})
    route = RouteSpec(path_prefix="/", service="s", filters=(removes,))
    wire.configure((route,), SERVICES)
    client, instance, shadow = both(wire, request("GET /x", "Authorization: secret"))
    for one in (instance, shadow):
        assert b"secret" not in one.take()
    shadow.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    instance.send(OK)
    client.expect(OK_RELAYED)
