"""Template routes that lead only to services whose instances say that they may be reached."""

from __future__ import annotations

from typing import Any

from proxy.settings.route import RouteSpec
from tests.support.wire import request
from tests.wire.scenes import answered, asked

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
