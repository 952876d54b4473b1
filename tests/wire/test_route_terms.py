"""Limits and further attempts of a route, over those of its service."""

from __future__ import annotations

from typing import Any

from proxy.settings.route import RouteSpec
from proxy.settings.route_terms import RouteRetry, RouteTimeouts
from proxy.settings.service import RetrySettings, ServiceSettings, Timeouts
from tests.support.wire import request
from tests.wire.scenes import BAD, BAD_RELAYED, answered, asked

SETTINGS = ServiceSettings(
    timeouts=Timeouts(first_byte=60.0),
    retry=RetrySettings(on=("connect", "503"), budget=1.0),
)
ELSE = RouteSpec(service="s")


def test_a_route_has_a_shorter_limit_than_its_service(make: Any) -> None:
    hasty = RouteSpec(path_prefix="/hasty", timeouts=RouteTimeouts(first_byte=5.0), service="s")
    wire = make(routes=(hasty, ELSE), settings=SETTINGS)
    quick, _ = asked(wire, request("GET /hasty"))
    slow, instance = asked(wire, request("GET /else"))
    wire.advance(6.0)
    assert quick.take().startswith(b"HTTP/1.1 504 ")
    slow.expect_nothing()
    answered(slow, instance)


def test_a_limit_of_a_route_follows_other_settings_of_its_service(make: Any) -> None:
    route = RouteSpec(timeouts=RouteTimeouts(total=9.0), service="s")
    wire = make(routes=(route,), settings=SETTINGS)
    asked(wire)[0].reset()
    wire.configure((route,), {"s": ServiceSettings(timeouts=Timeouts(first_byte=2.0))})
    client, _ = asked(wire)
    wire.advance(3.0)
    assert client.take().startswith(b"HTTP/1.1 504 ")


def test_a_route_without_further_attempts(make: Any) -> None:
    once = RouteSpec(path_prefix="/once", retry=RouteRetry(max_retries=0), service="s")
    wire = make("a", "b", routes=(once, ELSE), settings=SETTINGS)
    client, instance = asked(wire, request("GET /once"))
    instance.send(BAD)
    client.expect(BAD_RELAYED)


def test_a_route_repeats_for_other_reasons(make: Any) -> None:
    again = RouteSpec(retry=RouteRetry(on=("connect", "504")), service="s")
    wire = make("a", "b", routes=(again,), settings=SETTINGS)
    client, instance = asked(wire)
    instance.send(BAD)
    client.expect(BAD_RELAYED)
