"""Traces of requests: which there are, what instances are told, which spans they leave."""

from __future__ import annotations

import re
from typing import Any

import pytest

from proxy.engine.filtered_exchange import FilteredExchange
from proxy.engine.tracing import WAITING
from proxy.messages import Span, Spans
from proxy.settings.hedge import HedgeSettings
from proxy.settings.process import TracingSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import RetrySettings, ServiceSettings
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
    return [span for message in sent for span in message.spans]


def parent_at(instance: Peer) -> tuple[str, str]:
    """Trace and parent that an instance is told of, once."""
    found: list[tuple[str, str]] = re.findall(
        r"(?im)^traceparent: 00-(\w{32})-(\w{16})-01\r$", instance.take().decode()
    )
    assert len(found) == 1
    return found[0]


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
    trace = tracer._waiting[0]
    assert trace.state is not None
    for _ in range(WAITING + 5):
        tracer.finish(trace, trace.state, "ok", 1.0)
    assert (len(tracer._waiting), tracer.dropped) == (WAITING, 6)
    told(wire)
    assert (len(tracer._waiting), tracer.dropped) == (0, 0)


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


@pytest.mark.parametrize(("status", "error"), [(0, ""), (5, ""), (13, "13")])
def test_a_call_is_named_by_the_conventions_of_rpc(make: Any, status: int, error: str) -> None:
    wire = traced(make)
    client = wire.client()
    client.send(request("POST /pack.Users/Find", "Content-Type: application/grpc"))
    a = wire.accepted()
    a.take()
    a.send(b"HTTP/1.1 200 OK\r\nGrpc-Status: %d\r\nContent-Length: 0\r\n\r\n" % status)
    client.take()
    call = {"rpc.system": "grpc", "rpc.service": "pack.Users", "rpc.method": "Find"}
    spans = told(wire)
    assert {span.name for span in spans} == {"pack.Users/Find"}
    for span in spans:
        assert {name: span.attributes[name] for name in call} == call
    assert spans[0].attributes["rpc.grpc.status_code"] == status
    assert spans[0].error == error


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
