"""Answers behind a route that changes path or host name places as the client knows them."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import RateLimitSettings, ServiceSettings
from tests.support.wire import request
from tests.wire.scenes import asked

STRIP = RouteSpec(path_prefix="/svc", strip_prefix=True, rewrite_responses=True, service="s")
SWAP = RouteSpec(path_prefix="/svc", rewrite_prefix="/new/", rewrite_responses=True, service="s")
ROOT = RouteSpec(path_prefix="/", rewrite_prefix="/new", rewrite_responses=True, service="s")
HOST = RouteSpec(set_host="inner:81", rewrite_responses=True, service="s")
PLAIN = RouteSpec(set_host="inner", rewrite_responses=True, service="s")


@pytest.mark.parametrize(
    ("route", "field", "relayed"),
    [
        (STRIP, "Location: /a?b#c", "Location: /svc/a?b#c"),
        (STRIP, "Location: /", "Location: /svc/"),
        (STRIP, "Location: http://h/a", "Location: http://h/svc/a"),
        (STRIP, "Location: https://h/a", "Location: https://h/svc/a"),
        (STRIP, "Location: https://h", "Location: https://h"),
        (STRIP, "Location: http://else/a", "Location: http://else/a"),
        (STRIP, "Location: http://h:80/a", "Location: http://h/svc/a"),
        (STRIP, "Location: https://H:443", "Location: https://h"),
        (STRIP, "Location: http://h:443/a", "Location: http://h:443/a"),
        (STRIP, "Location: //h/a", "Location: //h/svc/a"),
        (STRIP, "Location: //h:80/a", "Location: //h:80/a"),
        (STRIP, "Location: //else/a", "Location: //else/a"),
        (STRIP, "Location: a/b", "Location: a/b"),
        (STRIP, "content-location: /a", "content-location: /svc/a"),
        (STRIP, "Set-Cookie: a=b; Path=/; Secure", "Set-Cookie: a=b; Path=/svc; Secure"),
        (STRIP, "Set-Cookie: a=b;path=/x", "Set-Cookie: a=b;path=/svc/x"),
        (STRIP, "Set-Cookie: a=/x; Domain=h", "Set-Cookie: a=/x; Domain=h"),
        (STRIP, "X-Other: /a", "X-Other: /a"),
        (SWAP, "Location: /new", "Location: /svc"),
        (SWAP, "Location: /new/a", "Location: /svc/a"),
        (SWAP, "Location: /new?a", "Location: /svc?a"),
        (SWAP, "Location: /newer/a", "Location: /newer/a"),
        (SWAP, "Set-Cookie: a=b; Path=/new/", "Set-Cookie: a=b; Path=/svc"),
        (ROOT, "Location: /new", "Location: /"),
        (ROOT, "Location: /new?a", "Location: /?a"),
        (ROOT, "Location: /new/a", "Location: /a"),
        (ROOT, "Set-Cookie: a=b; Path=/new", "Set-Cookie: a=b; Path=/"),
        (ROOT, "Set-Cookie: a=b; Path=/new/x", "Set-Cookie: a=b; Path=/x"),
        (HOST, "Location: https://INNER:81/a", "Location: http://h/a"),
        (HOST, "Location: http://inner/a", "Location: http://inner/a"),
        (HOST, "Location: //inner:81/a", "Location: //h/a"),
        (HOST, "Location: http://h/a", "Location: http://h/a"),
        (PLAIN, "Location: http://inner:80/a", "Location: http://h/a"),
        (HOST, "Location: /a", "Location: /a"),
    ],
)  # fmt: skip
def test_places_in_an_answer(route: RouteSpec, field: str, relayed: str, make: Any) -> None:
    wire = make(routes=(route,), tls=False)
    client, instance = asked(wire, request("GET /svc/x"))
    instance.send(f"HTTP/1.1 201 OK\r\n{field}\r\nContent-Length: 2\r\n\r\nhi".encode())
    head, _, content = client.take().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert relayed.encode() in lines
    assert b"Content-Length: 2" in lines
    assert content == b"hi"


@pytest.mark.parametrize(("trusted", "scheme"), [("0.0.0.0/0", b"https"), ("10.9.9.9/32", b"http")])
def test_a_trusted_proxy_says_what_the_client_speaks(
    make: Any, trusted: str, scheme: bytes
) -> None:
    listener = ListenerSettings(trusted_proxies=(trusted,))
    wire = make(routes=(HOST,), listener=listener, tls=False)
    client, instance = asked(wire, request("GET /", "X-Forwarded-Proto: https"))
    instance.send(b"HTTP/1.1 302 Found\r\nLocation: http://inner:81/a\r\nContent-Length: 0\r\n\r\n")
    assert b"\r\nLocation: %b://h/a\r\n" % scheme in client.take()


def test_places_in_an_answer_behind_a_rate_limit(make: Any) -> None:
    limited = ServiceSettings(rate_limit=RateLimitSettings(requests=100, per=1.0, burst=0))
    wire = make(routes=(STRIP,), settings=limited)
    client, instance = asked(wire, request("GET /svc/x"))
    instance.send(b"HTTP/1.1 201 OK\r\nLocation: /a\r\nContent-Length: 2\r\n\r\nhi")
    assert b"\r\nLocation: /svc/a\r\n" in client.take()
