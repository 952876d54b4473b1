"""Traces of requests: which there are, what instances are told, which spans they leave."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import msgspec
import pytest

from proxy.engine.filtered_exchange import FilteredExchange
from proxy.engine.tracing import WAITING
from proxy.messages import Spans
from proxy.settings.hedge import HedgeSettings
from proxy.settings.process import TracingSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import RetrySettings, ServiceSettings
from proxy.spans import Span, spans_of
from tests.support.filters import spec
from tests.support.wire import OK, Peer, Wire, forwarded, request

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"TraceParent: 00-{TRACE}-{SPAN}-0"


def traced(
    make: Any, *names: str, sample: float = 1.0, propagation: Any = ("w3c",), **more: Any
) -> Wire:
    wire: Wire = make(*names, **more)
    settings = TracingSettings(sample=sample, propagation=propagation)
    wire.worker._tracer.use(settings, wire.worker.services, FilteredExchange)
    return wire


def told(wire: Wire) -> list[Span]:
    sent: list[Spans] = []
    tracer = wire.worker._tracer
    tracer._send = sent.append
    tracer.tell(wire.loop.time())
    wire.settle()
    return [
        span
        for message in sent
        for traced in message.traced
        for span in spans_of(traced, message.offset)
    ]


def parent_at(instance: Peer) -> tuple[str, str]:
    """Trace and parent that an instance is told of, once."""
    found: list[tuple[str, str]] = re.findall(
        r"(?im)^traceparent: 00-(\w{32})-(\w{16})-0[13]\r$", instance.take().decode()
    )
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("lines", "flags"),
    [
        ((), "03"),
        (("b3: 1",), "03"),
        ((PARENT + "1",), "01"),
        ((PARENT + "3",), "03"),
        ((f"b3: {TRACE}-{SPAN}-1",), "01"),
    ],
)
def test_the_id_of_a_trace_is_called_drawn_by_who_knows(
    make: Any, lines: tuple[str, ...], flags: str
) -> None:
    wire = traced(make, propagation=("w3c", "b3"))
    wire.client().send(request("GET /x", *lines))
    sent = wire.accepted().take().decode()
    assert re.findall(r"(?im)^traceparent: 00-\w{32}-\w{16}-(..)\r$", sent) == [flags]


def test_a_trace_that_a_client_has_begun_is_continued(make: Any) -> None:
    wire = traced(make, sample=0.0)
    client = wire.client()
    client.send(request("GET /x", PARENT + "1", "tracestate: a=b"))
    a = wire.accepted()
    trace, parent = parent_at(a)
    wire.advance(0.5)
    a.send(OK)
    client.take()
    server, attempt = told(wire)
    assert (server.trace_id, server.parent, attempt.parent) == (TRACE, SPAN, server.span_id)
    assert (trace, parent) == (TRACE, attempt.span_id)
    assert (server.kind, attempt.kind, server.error, attempt.error) == (2, 3, "", "")
    assert server.attributes["url.path"] == "/x"
    assert server.attributes["http.response.status_code"] == 200
    assert attempt.attributes["fairlead.instance"] == "a"
    assert attempt.ended - attempt.began == pytest.approx(5e8, rel=1e-3)


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ((PARENT + "1",), True),
        ((f"traceparent: cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",), True),
        ((), False),
        ((f"traceparent: ff-{TRACE}-{SPAN}-01",), False),
        ((f"traceparent: 00-{TRACE}-{SPAN}-01-what",), False),
        ((f"traceparent: 00-{TRACE.upper()}-{SPAN}-01",), False),
        ((f"traceparent: 00-{'0' * 32}-{SPAN}-01",), False),
        ((PARENT + "1", PARENT + "1"), False),
        ((f"b3: {TRACE}-{SPAN}-1",), False),
        ((f"b3: {TRACE}-{SPAN}-1", f"traceparent: 00-{TRACE}-{SPAN[::-1]}-01"), True),
    ],
)
def test_tracestate_goes_where_the_traceparent_beside_it_is_not_continued(
    make: Any, lines: tuple[str, ...], kept: bool
) -> None:
    wire = traced(make, sample=1.0, propagation=("b3", "w3c"))
    client, a = wire.client(), None
    for _ in range(2):  # What is remembered of a head changes nothing.
        client.send(request("GET /x", *lines, "TraceState: a=b", "tracestate: c=d", "Baggage: e=f"))
        a = a or wire.accepted()
        sent = a.take().decode()
        a.send(OK)
        client.take()
        assert re.findall("(?im)^tracestate: (.*)\r$", sent) == (["a=b", "c=d"] if kept else [])
        assert re.findall("(?im)^baggage: (.*)\r$", sent) == ["e=f"]
        assert len(re.findall("(?im)^traceparent: ", sent)) == 1


@pytest.mark.parametrize(
    ("route", "pattern"),
    [
        (RouteSpec(path="/x/7", service="s"), "/x/7"),
        (RouteSpec(path_prefixes=("/x", "/x/7", "/y"), service="s"), "/x/7"),
        (RouteSpec(path_regex="^/x/[0-9]+$", service="s"), "^/x/[0-9]+$"),
        (RouteSpec(path_prefix="/{service}"), "/{service}"),
        (RouteSpec(host="h", service="s"), None),
    ],
)
def test_a_span_is_called_after_the_pattern_of_its_route(
    make: Any, route: RouteSpec, pattern: str | None
) -> None:
    wire = traced(make, sample=1.0, routes=(route,))
    client = wire.client()
    client.send(request("GET /s/7" if pattern == "/{service}" else "GET /x/7"))
    a = wire.accepted()
    told_instance = a.take().decode()
    a.send(OK)
    client.take()
    server, attempt = told(wire)
    assert server.name == ("GET" if pattern is None else f"GET {pattern}")
    assert server.attributes.get("http.route") == pattern
    assert f"X-Forwarded-Proto: {server.attributes['url.scheme']}\r\n" in told_instance
    assert attempt.name == "GET"


@pytest.mark.parametrize("sample", [0.0, 1.0])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_filters_look_at_requests_with_a_trace_as_at_others(
    make: Any, method: str, sample: float
) -> None:
    denied = spec("deny", networks=("0.0.0.0/0", "::/0"))
    route = RouteSpec(path_prefix="/", service="s", filters=(denied,))
    wire = traced(make, sample=sample, routes=(route,))
    client = wire.client()
    client.send(request(f"{method} /x", "Content-Length: 0"))
    assert client.take().startswith(b"HTTP/1.1 403 ")


def test_a_trace_that_is_not_sampled_is_passed_on_as_it_is(make: Any) -> None:
    wire = traced(make)
    client = wire.client()
    client.send(request("GET /x", PARENT + "0"))
    a = wire.accepted()
    a.expect(forwarded("GET /x", PARENT + "0"))
    a.send(OK)
    client.take()
    assert told(wire) == []


@pytest.mark.parametrize(("sample", "spans"), [(1.0, 2), (0.0, 0)])
def test_a_trace_is_begun_by_chance(make: Any, sample: float, spans: int) -> None:
    wire = traced(make, sample=sample)
    client = wire.client()
    client.send(request("GET /x"))
    a = wire.accepted()
    if spans:
        parent_at(a)
    else:
        a.expect(forwarded("GET /x"))
    a.send(OK)
    client.take()
    assert len(told(wire)) == spans


def test_requests_with_the_same_head_are_sampled_as_often_as_others(make: Any) -> None:
    wire = traced(make, sample=0.5)
    client = wire.client()
    client.send(request("GET /x"))
    a = wire.accepted()
    for number in range(200):
        if number:
            client.send(request("GET /x"))
        a.take()
        a.send(OK)
        client.take()
    # Six times the standard deviation.
    assert abs(len(told(wire)) // 2 - 100) < 6 * 50**0.5


def test_each_attempt_has_a_span_and_is_told_its_own(make: Any) -> None:
    settings = ServiceSettings(retry=RetrySettings(on=("503",)))
    wire = traced(make, "a", "b", settings=settings)
    client = wire.client()
    client.send(request("GET /x"))
    a = wire.accepted("a")
    _, first = parent_at(a)
    a.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    b = wire.accepted("b")
    _, second = parent_at(b)
    b.send(OK)
    client.take()
    server, one, two = told(wire)
    assert [one.span_id, two.span_id] == [first, second]
    assert (one.error, two.error, server.error) == ("503", "", "")
    assert two.attributes["http.request.resend_count"] == 1


def test_a_trace_of_an_attempt_without_a_connection_has_the_fault(make: Any) -> None:
    wire = traced(make)
    wire.network.refuse(wire.address("a"))
    client = wire.client()
    client.send(request("GET /x"))
    wire.settle()
    client.take()
    server, attempt, *_ = told(wire)
    assert (server.error, attempt.error) == ("connect_refused", "connect_refused")


def test_traces_that_nobody_takes_are_bounded_and_counted(make: Any) -> None:
    wire = traced(make)
    tracer = wire.worker._tracer
    client = wire.client()
    client.send(request("GET /x"))
    a = wire.accepted()
    parent_at(a)
    a.send(OK)
    client.take()
    tracer._waiting.extend([tracer._waiting[0]] * (WAITING - 3))
    for _ in range(4):
        client.send(request("GET /x"))
        a.take()
        a.send(OK)
        client.take()
    assert (len(tracer._waiting), tracer.dropped) == (WAITING, 2)
    told(wire)
    assert (len(tracer._waiting), tracer.dropped) == (0, 0)


def test_a_trace_that_waits_is_small_however_long_its_head(make: Any) -> None:
    wire = traced(make, sample=0.0)
    client = wire.client()
    long = "h" * 8000
    client.send(
        f"GET /{long} HTTP/1.1\r\nHost: {long}\r\nX-Long: {long}\r\n{PARENT}1\r\n\r\n".encode()
    )
    a = wire.accepted()
    a.take()
    a.send(OK)
    client.take()
    (waiting,) = wire.worker._tracer._waiting
    assert waiting.host == long[:255]
    assert len(msgspec.msgpack.encode(waiting)) < 4096


@pytest.mark.parametrize(
    ("propagation", "wanted"),
    [
        (("b3",), {"b3": f"{TRACE}-{{}}-1"}),
        (("b3multi",), {"X-B3-TraceId": TRACE, "X-B3-SpanId": "{}", "X-B3-Sampled": "1"}),
        (
            ("b3", "w3c"),
            {"b3": f"{TRACE}-{{}}-1", "traceparent": f"00-{TRACE}-{{}}-01"},
        ),
    ],
)
def test_a_trace_in_b3_is_continued_and_told_in_all_ways_that_are_set(
    make: Any, propagation: tuple[str, ...], wanted: dict[str, str]
) -> None:
    wire = traced(make, sample=0.0, propagation=propagation)
    client = wire.client()
    client.send(request("GET /x", f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {SPAN}",
                        f"X-B3-ParentSpanId: {SPAN}", "X-B3-Sampled: 1"))  # fmt: skip
    a = wire.accepted()
    sent = dict(re.findall(r"(?im)^(b3|x-b3-\w+|traceparent): (.*)\r$", a.take().decode()))
    a.send(OK)
    client.take()
    server, attempt = told(wire)
    assert (server.trace_id, server.parent) == (TRACE, SPAN)
    assert sent == {name: value.format(attempt.span_id) for name, value in wanted.items()}


def test_a_caller_that_leaves_the_decision_has_its_trace_continued_by_chance(make: Any) -> None:
    for sample, spans in ((1.0, 2), (0.0, 0)):
        wire = traced(make, sample=sample, propagation=("b3",))
        client = wire.client()
        client.send(request("GET /x", f"b3: {TRACE}-{SPAN}"))
        a = wire.accepted()
        a.take()
        a.send(OK)
        client.take()
        found = told(wire)
        assert [span.trace_id for span in found] == [TRACE] * spans


def test_an_answer_of_the_proxy_names_its_trace(make: Any) -> None:
    wire = traced(make, sample=0.0)
    wire.network.refuse(wire.address("a"))
    client = wire.client()
    client.send(request("GET /x", PARENT + "1"), request("GET /x", PARENT + "0"))
    wire.settle()
    sent = client.take().decode()
    assert sent.count(f'"trace_id":"{TRACE}"') == 1
    assert sent.count('"code":"connect_refused"') == 2


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [(0, "OK", ""), (5, "NOT_FOUND", ""), (13, "INTERNAL", "INTERNAL")],
)
def test_a_call_is_named_by_the_conventions_of_rpc(
    make: Any, status: int, said: str, error: str
) -> None:
    wire = traced(make)
    client = wire.client()
    client.send(request("POST /pack.Users/Find", "Content-Type: application/grpc"))
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\nGrpc-Status: %d\r\nContent-Length: 0\r\n\r\n" % status)
    client.take()
    call = {
        "rpc.system.name": "grpc",
        "rpc.method": "pack.Users/Find",
        "rpc.response.status_code": said,
    }
    spans = told(wire)
    assert {span.name for span in spans} == {"pack.Users/Find"}
    for span in spans:
        assert {name: span.attributes[name] for name in call} == call
    # To who calls, each status but OK is an error.
    assert [span.error for span in spans] == [error, "" if said == "OK" else said]


@pytest.mark.parametrize(
    ("asked", "route", "path"),
    [
        ("GET /x/7?key=secret", {}, "/x/7"),
        ("GET /x/7", {"path_prefix": "/x", "strip_prefix": True}, "/7"),
        ("OPTIONS *", {}, ""),
    ],
)
def test_an_attempt_names_what_its_instance_is_asked_for(
    make: Any, asked: str, route: dict[str, Any], path: str
) -> None:
    wire = traced(make, routes=(RouteSpec(service="s", **route),))
    client = wire.client()
    client.send(request(asked))
    a = wire.accepted()
    a.take()
    a.send(OK)
    client.take()
    server, attempt = told(wire)
    scheme = server.attributes["url.scheme"]  # With TLS here, instances have it as well.
    address, port = (attempt.attributes[f"server.{one}"] for one in ("address", "port"))
    assert attempt.attributes["url.full"] == f"{scheme}://{address}:{port}{path}"


@pytest.mark.parametrize("kind", ["GET /x", "POST /pack.Users/Find"])
def test_attributes_are_those_of_the_conventions_and_none_that_is_required_lacks(
    make: Any, kind: str
) -> None:
    """By OpenTelemetry's own package: those of HTTP are stable there; those of RPC, which it still
    has elsewhere, are not the deprecated ones."""
    conventions = "opentelemetry.semconv"
    pytest.importorskip(conventions, reason="opentelemetry-semantic-conventions is not installed")
    wire = traced(make)
    client = wire.client()
    call = kind.startswith("POST")
    client.send(request(kind, *(["Content-Type: application/grpc"] if call else [])))
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 503 Busy\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n")
    client.take()
    names: set[str] = set()
    for where, group in [
        *(("", one) for one in ("client", "error", "http", "network", "server", "url")),
        *([("_incubating.", "rpc")] if call else []),
    ]:
        module = importlib.import_module(f"{conventions}.{where}attributes.{group}_attributes")
        text = inspect.getsource(module)
        for name, about in re.findall(r'^[A-Z_]+: Final = "([\w.]+)"\n"""\n(.*)', text, re.M):
            if not about.startswith("Deprecated"):
                names.add(name)
    server, attempt = told(wire)
    for span in (server, attempt):
        assert {one for one in span.attributes if not one.startswith("fairlead.")} <= names
    assert {"http.request.method", "url.path", "url.scheme"} <= server.attributes.keys()
    required = {"http.request.method", "server.address", "server.port", "url.full"}
    assert required <= attempt.attributes.keys()
    if call:
        required = {"rpc.system.name", "rpc.method", "rpc.response.status_code"}
        assert required <= server.attributes.keys() & attempt.attributes.keys()


@pytest.mark.parametrize(
    ("winner", "first_ends", "error"),
    [("second", False, ""), ("first", False, ""), ("second", True, "closed_early")],
)
def test_a_second_attempt_beside_the_first_has_a_span_and_is_told_its_own(
    make: Any, winner: str, first_ends: bool, error: str
) -> None:
    hedge = HedgeSettings(after="50ms", max_share=1.0)
    settings = ServiceSettings(hedge=hedge, retry=RetrySettings(budget=1.0))
    wire = traced(make, "a", "b", settings=settings)
    client = wire.client()
    client.send(request("GET /x"))
    first = wire.connected()
    trace, one = parent_at(first)
    wire.advance(0.07)
    second = wire.connected()
    same, other = parent_at(second)
    assert (same, other != one) == (trace, True)
    if first_ends:
        first.reset()
    wire.advance(0.1)
    (second if winner == "second" else first).send(OK)
    assert client.take()
    _, *attempts = told(wire)
    assert [span.span_id for span in attempts] == [one, other]
    assert attempts[0].error == error
    lasted = [(span.ended - span.began) / 1e9 for span in attempts]
    assert lasted == pytest.approx([0.07 if first_ends else 0.17, 0.11], rel=1e-3)
