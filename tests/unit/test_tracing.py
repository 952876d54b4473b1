"""Trace contexts, and spans as a collector gets them."""

from __future__ import annotations

import base64
import json

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from proxy.control.otlp import document, message, request
from proxy.control.scrape import Exemplar
from proxy.control.tracing import EXEMPLARS, Exporter
from proxy.engine.http1.parser import parse_request
from proxy.http.messages import RequestFields
from proxy.http.trace_context import Parent, Propagation, parent_of, parent_of_b3
from proxy.messages import Spans
from proxy.spans import Attempted, Span, Traced

ATTEMPT = Attempted(b"b1", "a", "10.0.0.1", 80, False, 0.0, 1.0, 200, "")
TRACE, SPAN = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "parent"),
    [
        (None, None),
        (b"00-%b-%b-01" % (TRACE, SPAN), Parent(TRACE, SPAN, True)),
        (b"00-%b-%b-00" % (TRACE, SPAN), Parent(TRACE, SPAN, False)),
        (b"01-%b-%b-03-more" % (TRACE, SPAN), Parent(TRACE, SPAN, True, True)),
        (b"00-%b-%b-01-more" % (TRACE, SPAN), None),
        (b"ff-%b-%b-01" % (TRACE, SPAN), None),
        (b"00-%b-%b-01" % (TRACE.upper(), SPAN), None),
        (b"00-%b-%b-01" % (b"0" * 32, SPAN), None),
        (b"00-%b-%b-01" % (TRACE, b"0" * 16), None),
        (b"00-%b-%b-01, 00-%b-%b-01" % (TRACE, SPAN, TRACE, SPAN), None),
        (b"", None),
    ],
)
def test_a_parent_is_read_as_the_specification_says(
    value: bytes | None, parent: Parent | None
) -> None:
    assert parent_of(value) == parent


def asked(*lines: str) -> RequestFields:
    head = "GET / HTTP/1.1\r\nHost: h\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return parse_request(head.encode(), 100).fields


T, S = TRACE.decode(), SPAN.decode()


@pytest.mark.parametrize(
    ("lines", "parent"),
    [
        ((), None),
        ((f"b3: {T}-{S}-1",), Parent(TRACE, SPAN, True)),
        ((f"b3: {T}-{S}-d-{S}",), Parent(TRACE, SPAN, True)),
        ((f"B3: {T}-{S}-0",), Parent(TRACE, SPAN, False)),
        ((f"b3: {T}-{S}",), Parent(TRACE, SPAN, None)),
        ((f"b3: {S}-{S}-1",), Parent(b"0" * 16 + SPAN, SPAN, True)),
        (("b3: 0",), Parent(b"", b"", False)),
        (("b3: 1",), Parent(b"", b"", True)),
        ((f"b3: {T}-{S}-2",), None),
        ((f"b3: {T.upper()}-{S}-1",), None),
        ((f"b3: {'0' * 32}-{S}-1",), None),
        (
            (f"X-B3-TraceId: {T}", f"X-B3-SpanId: {S}", "X-B3-Sampled: 1"),
            Parent(TRACE, SPAN, True),
        ),
        (
            (f"x-b3-traceid: {T}", f"x-b3-spanid: {S}", "x-b3-sampled: false"),
            Parent(TRACE, SPAN, False),
        ),
        (
            (f"X-B3-TraceId: {T}", f"X-B3-SpanId: {S}", "X-B3-Flags: 1"),
            Parent(TRACE, SPAN, True),
        ),
        ((f"X-B3-TraceId: {T}", f"X-B3-SpanId: {S}"), Parent(TRACE, SPAN, None)),
        (("X-B3-Sampled: 0",), Parent(b"", b"", False)),
        ((f"X-B3-TraceId: {T}", f"X-B3-SpanId: {T}"), None),
        ((f"b3: {T}-{S}-0", f"X-B3-TraceId: {S}", "X-B3-Sampled: 1"), Parent(TRACE, SPAN, False)),
    ],
)
def test_a_parent_is_read_as_b3_says(lines: tuple[str, ...], parent: Parent | None) -> None:
    assert parent_of_b3(asked(*lines)) == parent


def test_the_first_way_in_which_a_parent_is_named_counts() -> None:
    fields = asked(f"b3: {S}-{S}-1", f"traceparent: 00-{T}-{S}-00")
    for kinds, found in (
        (("w3c", "b3"), Parent(TRACE, SPAN, False)),
        (("b3", "w3c"), Parent(b"0" * 16 + SPAN, SPAN, True)),
        (("b3multi",), Parent(b"0" * 16 + SPAN, SPAN, True)),
    ):
        propagation = Propagation(kinds)
        assert propagation.parent(fields) == found
        assert propagation.parent(fields) == found  # From memory.


def test_a_document_is_what_opentelemetry_calls_an_export_request() -> None:
    """Read by its own package. It writes ids in base64, where OTLP has hexadecimal digits."""
    span = Span(T, S, S, "GET", 2, 1, 2, {"server.port": 80, "url.path": "/x"}, "503")
    sent = json.loads(json.dumps(document([span], "edge")))
    for one in sent["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for key in ("traceId", "spanId", "parentSpanId"):
            one[key] = base64.b64encode(bytes.fromhex(one[key])).decode()
    read = json_format.ParseDict(sent, ExportTraceServiceRequest())
    (resource,) = read.resource_spans
    (scope,) = resource.scope_spans
    (found,) = scope.spans
    assert (found.trace_id.hex(), found.span_id.hex(), found.parent_span_id.hex()) == (T, S, S)
    assert (found.name, found.kind) == ("GET", found.SPAN_KIND_SERVER)
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (1, 2)
    assert found.status.code == found.status.STATUS_CODE_ERROR
    attributes = {one.key: one.value for one in found.attributes}
    assert attributes["server.port"].int_value == 80
    assert attributes["url.path"].string_value == "/x"
    assert {one.key for one in resource.resource.attributes} == {"service.name", "service.version"}


def test_encodings_of_spans_say_the_same() -> None:
    spans = [
        Span(T, S, S, "GET", 2, 1, 2, {"server.port": 80, "url.path": "/ü"}, "503"),
        Span(T, S, "", "x" * 200, 3, 10**18, 10**18 + 1, {"below": -1, "zero": 0, "empty": ""}),
    ]
    sent = json.loads(json.dumps(document(spans, "edge")))
    for one in sent["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for key in ("traceId", "spanId", "parentSpanId"):
            one[key] = base64.b64encode(bytes.fromhex(one[key])).decode()
    read = ExportTraceServiceRequest()
    read.ParseFromString(message(spans, "edge"))
    assert read == json_format.ParseDict(sent, ExportTraceServiceRequest())
    assert request(spans, "edge", "protobuf") == ("application/x-protobuf", message(spans, "edge"))
    assert request(spans, "edge", "json")[0] == "application/json"


async def test_exemplars_are_the_latest_of_a_bucket_and_bounded() -> None:
    exporter = Exporter(lambda: None)

    def take(service: str, trace: str, seconds: float) -> None:
        traced = Traced(
            trace.encode(), b"b0", b"", 0.0, seconds, b"GET", b"/", 200, b"http", "h", b"192.0.2.1",
            1, b"i", service, "", "", False, "", b"/", [ATTEMPT],
        )  # fmt: skip
        exporter.take(Spans([traced]))

    take("s", "a1", 0.003)
    take("s", "a2", 0.004)
    take("s", "a3", 999.0)
    assert exporter.exemplars == {
        ("s", "0.005"): Exemplar("a2", 0.004, 0.004),
        ("s", "+Inf"): Exemplar("a3", 999.0, 999.0),
    }
    for number in range(EXEMPLARS):
        take(str(number), "a4", 0.003)
    assert len(exporter.exemplars) == EXEMPLARS
    assert ("s", "0.005") not in exporter.exemplars


def test_a_span_is_written_as_otlp_has_it() -> None:
    span = Span("aa", "bb", "", "GET", 3, 1, 2, {"server.port": 80, "url.path": "/x"}, "503")
    told = document([span], "edge")["resourceSpans"][0]
    name = {"key": "service.name", "value": {"stringValue": "edge"}}
    assert name in told["resource"]["attributes"]
    assert told["scopeSpans"][0]["spans"] == [
        {
            "traceId": "aa",
            "spanId": "bb",
            "parentSpanId": "",
            "name": "GET",
            "kind": 3,
            "startTimeUnixNano": "1",
            "endTimeUnixNano": "2",
            "attributes": [
                {"key": "server.port", "value": {"intValue": "80"}},
                {"key": "url.path", "value": {"stringValue": "/x"}},
                {"key": "error.type", "value": {"stringValue": "503"}},
            ],
            "status": {"code": 2},
        }
    ]
