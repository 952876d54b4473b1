"""Trace contexts, and spans as a collector gets them."""

from __future__ import annotations

import pytest

from proxy.control.tracing import document
from proxy.http.trace_context import Parent, parent_of
from proxy.messages import Span

TRACE, SPAN = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "parent"),
    [
        (None, None),
        (b"00-%b-%b-01" % (TRACE, SPAN), Parent(TRACE, SPAN, True)),
        (b"00-%b-%b-00" % (TRACE, SPAN), Parent(TRACE, SPAN, False)),
        (b"01-%b-%b-03-more" % (TRACE, SPAN), Parent(TRACE, SPAN, True)),
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
