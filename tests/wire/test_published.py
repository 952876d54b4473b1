"""Template routes that lead only to services whose instances say that they may be reached."""

from __future__ import annotations

from typing import Any

from proxy.settings.route import RouteSpec
from tests.support.wire import forwarded, request
from tests.wire.scenes import answered, asked


def test_a_service_that_is_not_among_those_of_the_route_is_unknown(make: Any) -> None:
    wire = make(routes=(RouteSpec(host="{service}.*", services=("users",)),))
    client = wire.client()
    for host in ("s.mesh.local", "S", "s:15001"):
        client.send(request("GET /x", host=host))
        client.expect_problem(404, "unknown_service")
    wire.expect_no_dial()
    wire.configure((RouteSpec(host="{service}.*", services=("s",)),), {"s": wire.pool.settings})
    client.send(request("GET /x", host="S.mesh.local"))
    instance = wire.accepted("a")
    instance.expect(forwarded("GET /x", host="S.mesh.local"))
    answered(client, instance)


ROUTE = RouteSpec(path_prefix="/{service}", where={"public": "true"})


def test_a_service_that_is_not_published_is_unknown(make: Any) -> None:
    wire = make(routes=(ROUTE,))
    client = wire.client()
    for path in ("/s/x", "/S/x", "/%73/x"):
        client.send(request(f"GET {path}"))
        answer = client.take()
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"unknown_service" in answer
    wire.expect_no_dial()
    wire.serve("a", published=("public=true", "zone=a"))
    client, instance = asked(wire, request("GET /S/x"))
    answered(client, instance)
