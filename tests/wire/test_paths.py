"""Paths as instances get them, and paths that nobody gets."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import ServiceSettings
from tests.support.wire import forwarded, request
from tests.wire.scenes import answered, reached

PREFIX = RouteSpec(path_prefix="/api", service="s")
BY_VERSION = RouteSpec(path_regex="^/v(?P<v>[^/]+)/", rewrite="/api/{v}/", service="s")
EXACT = RouteSpec(paths=("/old", "/older"), rewrite="/new", service="s")
RECEIVED = RouteSpec(path_prefix="/api", forward_path="received", service="s")
MERGING = ListenerSettings(merge_slashes=True)
REFUSING = ListenerSettings(encoded_slashes="refuse")


@pytest.mark.parametrize(
    ("route", "listener", "line", "sent"),
    [
        (PREFIX, None, "/api/v4/group%2Fproject?a=%2f", "/api/v4/group%2Fproject?a=%2f"),
        (PREFIX, None, "/api/queues/%2F/q1", "/api/queues/%2F/q1"),
        (PREFIX, None, "/api/npm/@scope%2fname", "/api/npm/@scope%2fname"),
        (PREFIX, None, "/api/win%5Cpath", "/api/win%5Cpath"),
        (PREFIX, None, "/api//a;b/c", "/api//a;b/c"),
        (PREFIX, MERGING, "//api///a//b", "/api/a/b"),
        (BY_VERSION, None, "/v2/x%2Fy?z", "/api/2/x%2Fy?z"),
        (BY_VERSION, None, "/v{v}/x", "/api/{v}/x"),
        (EXACT, None, "/older?a=b", "/new?a=b"),
        (RECEIVED, None, "/api/%41%7e%2fb?x=%41", "/api/%41%7e%2fb?x=%41"),
        (RECEIVED, None, "http://h/%61pi/x", "/%61pi/x"),
        (RECEIVED, None, "/api//x", "/api//x"),
    ],
)  # fmt: skip
def test_paths_as_the_instance_gets_them(
    make: Any, route: RouteSpec, listener: ListenerSettings | None, line: str, sent: str
) -> None:
    wire = make(routes=(route,), listener=listener)
    client, a = reached(wire, request(f"GET {line}"))
    a.expect(forwarded(f"GET {sent}"))
    answered(client, a)


@pytest.mark.parametrize(
    ("routes", "listener", "line"),
    [
        ((PREFIX,), REFUSING, "/api/a%2fb"),
        ((RouteSpec(path_prefix="/api", encoded_slashes="refuse", service="s"),), None, "/api/%5c"),
        ((RECEIVED,), None, "/api/a/../b"),
        ((RECEIVED,), MERGING, "/api//b"),
        ((PREFIX, RouteSpec(path_prefix="/", service="t")), None, "//api"),
        ((PREFIX, RouteSpec(path_prefix="/", service="t")), None, "/x/..%2fapi"),
        ((PREFIX,), None, "/api%2f..%2f.."),
    ],
)
def test_a_refused_path_leaves_the_connection_usable(
    make: Any, routes: tuple[RouteSpec, ...], listener: ListenerSettings | None, line: str
) -> None:
    services = {name: ServiceSettings() for name in "st"}
    wire = make(routes=routes, listener=listener, services=services)
    client = wire.client()
    client.send(request(f"GET {line}"))
    head = client.expect_problem(400, "http_request_error")
    assert b"details=bad_request" in head or b"bad_request" in head
    wire.expect_no_dial()
    client.send(request("GET /api/x"))
    a = wire.accepted()
    a.expect(forwarded("GET /api/x"))
    answered(client, a)


def test_services_are_found_by_hosts_without_case(make: Any) -> None:
    wire = make(routes=(RouteSpec(host="{service}.svc.local"), RouteSpec(path_prefix="/{service}")))
    wire.serve("b", service="UserService")
    client = wire.client()
    for host, path in (
        ("UserService.svc.local", "/"),
        ("userservice.svc.local", "/"),
        ("h", "/USERSERVICE/x"),
    ):
        client.send(request(f"GET {path}", host=host))
        b = wire.connected()
        b.expect(forwarded(f"GET {path}", host=host))
        answered(client, b)
        b.eof()
    wire.serve("b", service="userService")
    client.send(request("GET /", host="userservice.svc.local"))
    client.expect_problem(404, "destination_not_found")
    wire.serve(service="UserService")
    wire.serve(service="userService")
