"""Addresses to which registered instances may not lead: refused at each dial."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.route import RouteSpec
from proxy.settings.service import ServiceSettings
from tests.support.wire import OK, Wire, forwarded, request
from tests.wire.scenes import GET, answered

ADMIN = 9900
ROUTES = (RouteSpec(path_prefix="/", service="s"),)


def guarded(make: Any, *addresses: str, port: int = ADMIN, **options: Any) -> Wire:
    wire: Wire = make()
    local = options.pop("local", False)
    wire.configure(ROUTES, {"s": ServiceSettings()}, admin_port=ADMIN, **options)
    wire.serve_at(*addresses, port=port, local=local)
    return wire


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("127.0.0.1", ADMIN),
        ("127.8.9.1", ADMIN),
        ("0.0.0.0", ADMIN),
        ("::", ADMIN),
        ("::1", ADMIN),
        ("0:0:0:0:0:0:0:1", ADMIN),
        ("::ffff:127.0.0.1", ADMIN),
        ("::ffff:7f00:1", ADMIN),
        ("64:ff9b::7f00:1", ADMIN),
        ("169.254.169.254", 80),
        ("::ffff:169.254.169.254", 80),
        ("64:ff9b::a9fe:a9fe", 80),
        ("fe80::1", 80),
        ("fe80::1%eth0", 80),
        ("fd00:ec2::254", 80),
    ],
)
@pytest.mark.parametrize("by_name", [False, True])
def test_a_denied_address_is_not_dialled(make: Any, address: str, port: int, by_name: bool) -> None:
    wire = guarded(make, "web.test" if by_name else address, port=port)
    wire.resolver.says("web.test", address)
    client = wire.client()
    client.send(GET)
    head = client.expect_problem(502, "destination_denied")
    assert b"destination_ip_prohibited" in head
    assert wire.network.dialled == []


@pytest.mark.parametrize("text", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "127.0.0.1."])
def test_other_spellings_of_numbers_are_no_addresses(make: Any, text: str) -> None:
    wire = guarded(make, text)
    client = wire.client()
    client.send(GET)
    client.expect_problem(502, "dns_failed")
    assert wire.network.dialled == []


@pytest.mark.parametrize("name", ["localhost", "localhost.", "LOCALHOST", "app.localhost"])
def test_a_name_of_this_machine_is_looked_at_once_it_is_resolved(make: Any, name: str) -> None:
    wire = guarded(make, name)
    wire.resolver.says(name.removesuffix("."), "::1", "127.0.0.1")
    client = wire.client()
    client.send(GET)
    client.expect_problem(502, "destination_denied")
    assert wire.network.dialled == []


def test_each_dial_looks_anew(make: Any) -> None:
    """A name may lead somewhere else the second time (DNS rebinding)."""
    wire = guarded(make, "web.test", port=80)
    wire.resolver.says("web.test", "10.0.0.9", ttl=1.0)
    client = wire.client()
    client.send(request("GET /x", "Connection: close"))
    instance = wire.accepted_at("10.0.0.9")
    instance.take()
    instance.send(OK)
    client.take()
    wire.resolver.says("web.test", "169.254.169.254")
    wire.advance(10.0)
    client = wire.client()
    client.send(GET)
    client.expect_problem(502, "destination_denied")


def test_the_other_addresses_of_the_name_are_used(make: Any) -> None:
    wire = guarded(make, "web.test", port=80)
    wire.resolver.says("web.test", "169.254.169.254", "10.0.0.9")
    client = wire.client()
    client.send(GET)
    instance = wire.accepted_at("10.0.0.9")
    instance.expect(forwarded("GET /x"))
    answered(client, instance)
    assert wire.network.dialled == [("10.0.0.9", 80)]


def test_another_instance_is_tried_and_then_preferred(make: Any) -> None:
    wire = guarded(make, "169.254.169.254", "10.0.0.9", port=80)
    client = wire.client()
    client.send(GET)
    instance = wire.accepted_at("10.0.0.9")
    for _ in range(6):
        instance.expect(forwarded("GET /x"))
        answered(client, instance)
        client.send(GET)
    instance.take()
    answered(client, instance)
    wire.advance(10.0)
    assert {address for address, _ in wire.network.dialled} == {"10.0.0.9"}


@pytest.mark.parametrize(
    ("options", "address", "port"),
    [
        ({"local": True}, "127.0.0.1", ADMIN),
        ({"local": True}, "169.254.169.254", 80),
        ({"allow": ("169.254.0.0/16",)}, "169.254.169.254", 80),
        ({"allow": ("127.0.0.0/8",)}, "127.0.0.1", ADMIN),
        ({}, "127.0.0.1", 80),
        ({}, "10.0.0.9", ADMIN),
    ],
)
def test_an_allowed_address_is_connected_to(
    make: Any, options: dict[str, Any], address: str, port: int
) -> None:
    wire = guarded(make, address, port=port, **options)
    client = wire.client()
    client.send(GET)
    instance = wire.accepted_at(address, port)
    instance.expect(forwarded("GET /x"))
    answered(client, instance)
