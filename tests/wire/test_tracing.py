"""Traces of requests: which there are, what instances are told, which spans they leave."""

from __future__ import annotations

import re
from typing import Any

import pytest

from proxy.engine.filtered_exchange import FilteredExchange
from proxy.engine.tracing import WAITING
from proxy.messages import Span, Spans
from proxy.settings.process import TracingSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import RetrySettings, ServiceSettings
from tests.support.filters import spec
from tests.support.wire import OK, Peer, Wire, forwarded, request

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"TraceParent: 00-{TRACE}-{SPAN}-0"


def traced(make: Any, *names: str, sample: float = 1.0, **more: Any) -> Wire:
    wire: Wire = make(*names, **more)
    wire.worker._tracer.use(TracingSettings(sample=sample), wire.worker.services, FilteredExchange)
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
