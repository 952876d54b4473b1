"""Filters of requests of HTTP/2 and gRPC, and beside other attempts, tunnels and the access log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.settings.filters import FilterSpec
from proxy.settings.listener import ListenerSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import (
    GrpcSettings,
    QueueSettings,
    RetrySettings,
    ServiceSettings,
    Timeouts,
)
from tests.support.filters import HEARD, spec
from tests.support.h2_peer import (
    HTTP2,
    H2Instance,
    H2Peer,
    data,
    head,
    reset,
)
from tests.support.h2_peer import answer as of_instance
from tests.support.wire import OK, Wire, forwarded, request
from tests.wire.scenes import BAD, CHUNKED, GET, answered, asked, faulty
from tests.wire.test_access_log import Logged, pick
from tests.wire.test_filters import filtered, scripted
from tests.wire.test_grpc import GRPC, MESSAGE, told
from tests.wire.test_tunnels import SWITCH, UPGRADE

UNARY = head(1, GRPC, method="POST", end=False) + data(1, MESSAGE, end=True)
DENY = spec("deny", networks=["0.0.0.0/0"])


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[str]]:
    HEARD.clear()
    yield HEARD
    HEARD.clear()


def begun(make: Any, *filters: FilterSpec, **options: Any) -> tuple[Wire, H2Peer]:
    wire = filtered(make, *filters, listener=HTTP2, **options)
    return wire, H2Peer(wire)


@pytest.mark.parametrize("hook", ["request", "response"])
@pytest.mark.parametrize(
    ("does", "status", "fault", "grpc"),
    [
        ("raise", 500, "filter_failed", "13"),
        ("fail", 500, "filter_failed", "13"),
        ("hang", 504, "filter_timeout", "4"),
        ("refuse", 403, "denied", "7"),
    ],
)
@pytest.mark.parametrize("calls", [False, True])
def test_a_hook_that_fails_or_hangs(
    make: Any, hook: str, does: str, status: int, fault: str, grpc: str, calls: bool
) -> None:
    wire, client = begun(make, scripted("f", hook, does))
    client.send(UNARY if calls else head(1))
    if hook == "response":
        a = wire.accepted()
        a.take()
        a.send(OK)
    wire.advance(3)
    if calls:
        assert told(client)["grpc-status"] == grpc
    else:
        client.expect_problem(status, fault)
    assert wire.in_flight == 0


def test_an_answer_of_a_filter_to_a_call_is_a_status_of_grpc(make: Any) -> None:
    wire, client = begun(make, scripted("f", "request", "answer"))
    client.send(UNARY)
    assert told(client)["grpc-status"] == "2"  # 299 means nothing to it.
    assert wire.pool.counters.calls == {"2": 1}
    wire, client = begun(make, spec("basic_auth", users=[]))
    client.send(UNARY)
    fields = told(client)
    assert (fields["grpc-status"], fields["www-authenticate"][:5]) == ("16", "Basic")


@pytest.mark.parametrize("waits", [False, True])
def test_a_call_goes_through_filters(make: Any, waits: bool) -> None:
    stamp = spec("headers", request={"set": {"X-A": "1"}}, response={"set": {"X-B": "2"}})
    wait = [scripted("w", hook, "wait") for hook in ("request", "response")] if waits else []
    settings = ServiceSettings(protocol="h2c")
    wire = filtered(make, *wait, stamp, listener=HTTP2, settings=settings, http2=True)
    client = H2Peer(wire)
    client.send(UNARY)
    wire.advance(1)
    a = H2Instance(wire)
    [(_, _, got, _), (_, _, body, ended)] = a.take()
    assert (got["x-a"], body, ended) == ("1", MESSAGE, True)
    fields = ("content-type", "application/grpc"), ("grpc-status", "0")
    a.send(of_instance(1, *fields, end=True))
    wire.advance(1)
    fields_of_answer = told(client)
    assert (fields_of_answer["x-b"], fields_of_answer["grpc-status"]) == ("2", "0")
    assert wire.pool.counters.calls == {"0": 1}


def test_a_deadline_of_a_call_holds_for_its_filters(make: Any) -> None:
    wire, client = begun(make, scripted("f", "request", "wait"))
    client.send(head(1, GRPC, ("grpc-timeout", "500m"), method="POST", end=False))
    client.send(data(1, MESSAGE, end=True))
    wire.advance(0.6)
    assert told(client)["grpc-status"] == "4"


def test_a_page_may_read_what_a_call_of_grpc_web_is_told(make: Any) -> None:
    web = spec("cors", origins=["https://a.b"], expose=["grpc-status"])
    wire = filtered(make, web, DENY, settings=ServiceSettings(grpc=GrpcSettings(web=True)))
    client = wire.client()
    fields = ("Content-Type: application/grpc-web", "Origin: https://a.b", "Content-Length: 7")
    client.send(request("POST /x", *fields, body=MESSAGE))
    got = client.take()
    assert b"\r\ngrpc-status: 7\r\n" in got
    assert b"\r\nAccess-Control-Allow-Origin: https://a.b\r\n" in got


def test_a_call_of_grpc_web_is_translated_between_filters_of_listener_and_service(
    make: Any,
) -> None:
    def stamp(name: str) -> FilterSpec:
        return spec("headers", name, request={"set": {name: "1"}})

    listener = ListenerSettings(filters=(stamp("X-A"),))
    settings = ServiceSettings(grpc=GrpcSettings(web=True))
    wire = filtered(make, stamp("X-B"), settings=settings, listener=listener, http2=True)
    client = wire.client()
    fields = ("Content-Type: application/grpc-web", "Content-Length: 7")
    client.send(request("POST /x", *fields, body=MESSAGE))
    a = H2Instance(wire)
    [(_, _, got, _), (_, _, body, ended)] = a.take()
    assert (got["content-type"], got["x-a"], got["x-b"]) == ("application/grpc", "1", "1")
    assert (body, ended) == (MESSAGE, True)
    a.send(of_instance(1, ("content-type", "application/grpc"), ("grpc-status", "0"), end=True))
    assert b"application/grpc-web" in client.take()


def test_streams_wait_for_filters_each_for_itself(make: Any, heard: list[str]) -> None:
    waits = RouteSpec(path_prefix="/w", service="s", filters=(scripted("f", "request", "wait"),))
    wire = make(routes=(waits, RouteSpec(service="s")), listener=HTTP2)
    client = H2Peer(wire)
    client.send(head(1, path="/w"), head(3), head(5, path="/w"))
    a = wire.accepted()
    a.take()
    a.send(OK)
    assert client.answer(3)[1] == b"hi"
    client.send(reset(5))
    assert heard.count("f.request cancelled") == 1
    wire.advance(1)
    assert a.take().startswith(b"GET /w ")
    a.send(OK)
    assert client.answer(1)[1] == b"hi"


@pytest.mark.parametrize("parts", [1, 2])
def test_a_body_that_comes_while_a_filter_waits_is_kept_back(make: Any, parts: int) -> None:
    wire, client = begun(make, scripted("f", "request", "wait"))
    client.send(head(1, ("content-length", "6"), method="POST", end=False))
    client.send(data(1, b"abc"))
    client.send(data(1, b"def", end=True)) if parts == 1 else None
    wire.advance(1)
    client.send(data(1, b"def", end=True)) if parts == 2 else None
    a = wire.accepted()
    assert a.take().endswith(b"\r\n\r\nabcdef")
    a.send(OK)
    assert client.answer()[1] == b"hi"


def test_an_instance_that_is_lost_while_a_filter_looks_at_its_answer(make: Any) -> None:
    wire = filtered(make, scripted("f", "response", "wait"), http2=True)
    client = wire.client()
    client.send(GET)
    a = H2Instance(wire)
    a.take()
    a.send(of_instance(1, ("content-length", "9")))
    a.send(reset(1, 2))
    client.expect_problem(502, "cut_short")
    wire.advance(1)


def test_an_answer_in_reserve_is_shown_once_it_is_relayed(make: Any, heard: list[str]) -> None:
    retry = ServiceSettings(retry=RetrySettings(on=("connect", "503")))
    wire = filtered(make, scripted("f", "response", "wait"), settings=retry)
    wire.serve("a", "b")
    client, first = asked(wire)
    first.send(BAD)
    second = wire.connected()
    assert second.take()
    assert heard == ["f.request"]
    second.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nbusi")
    assert heard == ["f.request", "f.response"]
    wire.advance(1)
    second.send(b"r")
    assert client.take().endswith(b"busir")


@pytest.mark.parametrize("waits", [False, True])
def test_a_request_is_made_again_with_what_filters_made_of_it(make: Any, waits: bool) -> None:
    wait = [scripted("w", "request", "wait")] if waits else []
    wire = filtered(make, *wait, spec("Rewriting", shout=True), settings=ServiceSettings())
    wire.serve("a", "b")
    client = wire.client()
    client.send(request("PUT /x", "Content-Length: 2", body=b"hi"))
    wire.advance(1)
    wanted = forwarded("PUT /x", CHUNKED, body=b"3\r\nHI!\r\n0\r\n\r\n")
    first = wire.connected()
    first.expect(wanted)
    first.eof()
    second = wire.connected()
    second.expect(wanted)
    second.send(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 204 ")


def test_a_tunnel_passes_filters_on_its_way_in_and_at_its_end(make: Any, heard: list[str]) -> None:
    wire = filtered(make, scripted("f"))
    client = wire.client()
    client.send(request("GET /chat", *UPGRADE))
    a = wire.connected()
    a.take()
    a.send(SWITCH)
    client.take()
    client.send(b"ping")
    a.expect(b"ping")
    client.reset()
    assert heard == ["f.request", "f.outcome ok", "f.end"]


def test_a_total_limit_ends_a_hook(make: Any, heard: list[str]) -> None:
    settings = ServiceSettings(timeouts=Timeouts(total=0.5))
    wire = filtered(make, scripted("f", "request", "hang"), settings=settings)
    client = wire.client()
    client.send(GET)
    wire.advance(0.6)
    client.expect_problem(504, "total_timeout")
    assert "f.request cancelled" in heard


def test_the_access_log_has_the_request_as_it_came(tmp_path: Path) -> None:
    route = RouteSpec(service="s", filters=(spec("Rewriting", path="/other", method="PUT"),))
    logged = Logged(tmp_path, routes=(route,))
    client, a = asked(logged.wire)
    answered(client, a)
    pick(logged.line(), method="GET", target="/x", status=200)


@pytest.mark.parametrize("waits", [False, True])
def test_the_access_log_counts_content_as_it_was_sent(tmp_path: Path, waits: bool) -> None:
    wait = (scripted("w", "response", "wait"),) if waits else ()
    shout = spec("Rewriting", shout=True)
    logged = Logged(tmp_path, routes=(RouteSpec(service="s", filters=(*wait, shout)),))
    client, a = asked(logged.wire)
    a.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    logged.wire.advance(1)
    a.send(b"cd")
    assert client.take().endswith(b"\r\n2\r\nAB\r\n3\r\nCD?\r\n0\r\n\r\n")
    pick(logged.line(), bytes_sent=5)


def test_pipelined_requests_are_answered_in_order_however_long_filters_take(make: Any) -> None:
    waits = RouteSpec(path_prefix="/w", service="s", filters=(scripted("f", "request", "wait"),))
    wire = make(routes=(waits, RouteSpec(service="s")))
    client = wire.client()
    client.send(request("GET /w") + request("GET /x"))
    wire.expect_no_dial()
    wire.advance(1)
    a = wire.connected()
    a.expect(forwarded("GET /w"))
    answered(client, a)
    a.expect(forwarded("GET /x"))
    answered(client, a)


def test_a_connection_that_comes_too_late_gets_no_request(make: Any) -> None:
    settings = ServiceSettings(timeouts=Timeouts(total=0.5))
    wire = filtered(make, scripted("f", "response", "wait"), settings=settings)
    wire.network.hang(wire.address("a"))
    client = wire.client()
    client.send(GET)
    wire.advance(0.6)
    client.expect_nothing()
    wire.network.answer(wire.address("a"))
    wire.settle()
    wire.connected().expect_nothing()
    wire.advance(1)
    client.expect_problem(504, "total_timeout")


def test_a_request_whose_refusal_waits_gets_no_turn_in_the_queue(make: Any) -> None:
    settings = ServiceSettings(
        max_inflight=1, queue=QueueSettings(size=2), timeouts=Timeouts(queue=1.0)
    )
    wire = filtered(make, scripted("f", "response", "wait"), settings=settings)
    first, a = asked(wire)
    second = wire.client()
    second.send(GET)
    wire.advance(1.1)
    a.send(OK)
    wire.settle()
    a.expect_nothing()
    wire.advance(1)
    second.expect_problem(503, "queue_timeout")
    assert first.take()


def test_an_error_inside_is_answered_at_once(make: Any) -> None:
    wire = filtered(make, scripted("f", "response", "wait"))
    faulty(wire, "pick")
    client = wire.client()
    client.send(GET)
    client.expect_problem(500, "internal", closing=True)
