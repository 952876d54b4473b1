"""Clients that stay with one instance by a cookie."""

from __future__ import annotations

import re
from typing import Any

import pytest

from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RouteSpec, SplitSpec
from proxy.settings.service import ServiceSettings
from proxy.settings.sticky import StickySettings
from tests.support.wire import OK, Peer, Wire, request

STICKY = ServiceSettings(sticky=StickySettings(secret="0123456789abcdef", ttl=60.0))
COOKIE = re.compile(rb"\r\nSet-Cookie: (fl=[0-9a-f]{32}); ([^\r]*)\r\n")


def asked(wire: Wire, cookie: bytes = b"") -> tuple[str, bytes]:
    """The instance that a request reaches, and the head of the answer."""
    client = wire.client()
    fields = (f"Cookie: a=b; {cookie.decode()}",) if cookie else ()
    client.send(request("GET /", *fields))
    instance: Peer = wire.connected()
    assert instance.take()
    instance.send(OK)
    head = client.take()
    instance.eof()
    return instance.name, head


def pinned(wire: Wire) -> tuple[str, bytes, bytes]:
    name, head = asked(wire)
    found = COOKIE.search(head)
    assert found is not None
    return name, found[1], found[2]


def test_a_client_stays_with_its_instance(make: Any) -> None:
    wire = make("a", "b", "c", settings=STICKY)
    name, cookie, rest = pinned(wire)
    secure = b"; Secure" if wire.tls else b""
    assert rest == b"Path=/; Max-Age=60; HttpOnly; SameSite=Lax" + secure
    for _ in range(4):
        again, head = asked(wire, cookie)
        assert again == name
        assert b"Set-Cookie" not in head


@pytest.mark.parametrize(("said", "secure"), [("https", True), ("http", False), ("wss", False)])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_trusted_proxy_says_what_the_client_speaks(
    make: Any, said: str, secure: bool, trusted: bool
) -> None:
    listener = ListenerSettings(trusted_proxies=("0.0.0.0/0",) if trusted else ())
    wire = make("a", settings=STICKY, listener=listener, tls=False)
    client = wire.client()
    client.send(request("GET /", f"X-Forwarded-Proto: {said}"))
    instance = wire.connected()
    instance.take()
    instance.send(OK)
    found = COOKIE.search(client.take())
    assert found is not None
    assert found[2].endswith(b"; Secure") == (secure and trusted)


def test_a_client_gets_another_instance_when_its_own_is_lost(make: Any) -> None:
    wire = make("a", "b", settings=STICKY)
    name, cookie, _ = pinned(wire)
    wire.serve("a", "b", **{name: "draining"})
    other, head = asked(wire, cookie)
    assert other != name
    found = COOKIE.search(head)
    assert found is not None
    assert found[1] != cookie
    wire.serve("a", "b")
    assert asked(wire, found[1])[0] == other


def test_a_cookie_is_good_in_another_worker_and_a_forged_one_nowhere(make: Any) -> None:
    name, cookie, _ = pinned(make("a", "b", "c", settings=STICKY))
    assert [asked(make("a", "b", "c", settings=STICKY), cookie)[0] for _ in range(3)] == [name] * 3
    other = ServiceSettings(sticky=StickySettings(secret="fedcba9876543210"))
    head = asked(make("a", "b", "c", settings=other), cookie)[1]
    assert COOKIE.search(head)


def test_a_client_of_a_split_stays_with_its_service(make: Any) -> None:
    shares = (SplitSpec(service="s", weight=1), SplitSpec(service="t", weight=1))
    wire = make("a", routes=(RouteSpec(split=shares),), services={"s": STICKY, "t": STICKY})
    wire.serve("b", service="t")
    for _ in range(3):
        name, cookie, _ = pinned(wire)
        assert {asked(wire, cookie)[0] for _ in range(6)} == {name}
