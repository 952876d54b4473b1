"""Routes that answer by themselves, and those that lead to one of several services."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RedirectSpec, RespondSpec, RouteSpec, SplitSpec
from proxy.settings.service import ServiceSettings
from tests.support.h2_peer import HTTP2, H2Peer, head
from tests.support.wire import Peer, request
from tests.wire.scenes import answered

ELSE = RouteSpec(service="s")


def routed(**spec: Any) -> tuple[RouteSpec, ...]:
    return (RouteSpec(**spec), ELSE)


def answer(client: Peer) -> tuple[bytes, bytes]:
    """Head and content of what the client got."""
    told, _, content = client.take().partition(b"\r\n\r\n")
    return told + b"\r\n", content


@pytest.mark.parametrize(
    ("to", "status", "line", "location"),
    [
        ("https://new.example{path}", 302, "/a/b?c=d", "https://new.example/a/b?c=d"),
        ("https://{host}:8443{path}#top", 308, "/a?b", "https://h:8443/a?b#top"),
        ("https://new.example/?all=1", 301, "/a?b=c", "https://new.example/?all=1"),
        ("{path}", 307, "/x/..//evil.example/%2e", "/evil.example/"),
        ("/login", 302, "/a?b", "/login?b"),
    ],
)
def test_a_redirect(make: Any, to: str, status: int, line: str, location: str) -> None:
    wire = make(routes=routed(path_prefix="/", redirect=RedirectSpec(to=to, status=status)))
    client = wire.client()
    client.send(request(f"GET {line}"))
    told, content = answer(client)
    assert told.startswith(b"HTTP/1.1 %d " % status)
    assert f"\r\nLocation: {location}\r\n".encode() in told
    assert b"\r\nContent-Length: 0\r\n" in told
    assert content == b""
    wire.expect_no_dial()


@pytest.mark.parametrize("ask", [b"GET /a HTTP/1.0\r\n\r\n", b"GET /a HTTP/1.1\r\nHost:\r\n\r\n"])
def test_a_redirect_to_the_host_of_a_request_that_names_none_is_refused(
    make: Any, ask: bytes
) -> None:
    wire = make(routes=routed(path="/a", redirect=RedirectSpec(to="https://{host}{path}")))
    client = wire.client()
    client.send(ask)
    assert client.take().startswith(b"HTTP/1.1 400 ")


def test_an_answer_of_a_route(make: Any) -> None:
    respond = RespondSpec(status=503, body="Back at noon", headers={"Retry-After": "3600"})
    wire = make(routes=routed(path="/down", respond=respond))
    client = wire.client()
    for method, expected in (("GET", b"Back at noon"), ("HEAD", b"")):
        client.send(request(f"{method} /down"))
        told, content = answer(client)
        assert told.startswith(b"HTTP/1.1 503 ")
        for line in (
            b"Retry-After: 3600",
            b"Content-Type: text/plain; charset=utf-8",
            b"Content-Length: 12",
        ):
            assert b"\r\n" + line + b"\r\n" in told
        assert content == expected
    wire.expect_no_dial()
    client.send(request("GET /down/x"))
    a = wire.accepted()
    a.take()
    answered(client, a)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_content_says_no_length(make: Any, status: int) -> None:
    wire = make(routes=routed(path="/no", respond=RespondSpec(status=status)), listener=HTTP2)
    client = wire.client()
    client.send(request("GET /no"))
    assert b"Content-Length" not in answer(client)[0]
    other = H2Peer(wire)
    other.send(head(1, path="/no"))
    assert "content-length" not in other.answer()[0]


def test_the_body_of_a_request_that_a_route_answers_harms_no_other(make: Any) -> None:
    wire = make(routes=routed(path="/no", respond=RespondSpec(status=403)))
    client = wire.client()
    client.send(request("POST /no", "Content-Length: 4") + b"abcd")
    assert answer(client)[0].startswith(b"HTTP/1.1 403 ")
    client.send(request("GET /x"))
    a = wire.accepted()
    a.take()
    answered(client, a)


def test_a_split_by_weight(make: Any) -> None:
    split = tuple(SplitSpec(service=name, weight=w) for name, w in (("s", 9), ("t", 1), ("u", 0)))
    wire = make(
        routes=(RouteSpec(split=split),), services={name: ServiceSettings() for name in "stu"}
    )
    client = wire.client()
    reached = 0
    for _ in range(400):
        client.send(request("GET /x"))
        if client.transport.taken:
            client.expect_problem(503, "no_instance")  # Of `t`: a share stays with its service.
        else:
            reached += 1
            a = wire.connected()
            a.take()
            answered(client, a)
            a.eof()
    assert 330 <= reached <= 385


def test_a_route_of_another_listener_is_not_there(make: Any) -> None:
    own = ListenerSettings()
    wire = make(
        routes=(
            RouteSpec(listeners=("another",), respond=RespondSpec(status=401)),
            RouteSpec(listeners=("another", own.name), respond=RespondSpec(status=402)),
            ELSE,
        ),
        listener=own,
    )
    client = wire.client()
    client.send(request("GET /"))
    assert answer(client)[0].startswith(b"HTTP/1.1 402 ")
