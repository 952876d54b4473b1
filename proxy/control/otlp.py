"""Requests of OTLP (`ExportTraceServiceRequest`) in either of its encodings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

import proxy
from proxy.protobuf import field, fixed64, whole
from proxy.spans import Span

ERROR = 2
"""`Status.code` of a span that failed."""

_RECEIVERS = {"json": "application/json", "protobuf": "application/x-protobuf"}


def request(spans: Iterable[Span], service_name: str, encoding: str) -> tuple[str, bytes]:
    """Type and body of a request with these spans; `encoding`: `json | protobuf`."""
    make = message if encoding == "protobuf" else _text
    return _RECEIVERS[encoding], make(spans, service_name)


def _text(spans: Iterable[Span], service_name: str) -> bytes:
    return msgspec.json.encode(document(spans, service_name))


def _resource(service_name: str) -> dict[str, str | int]:
    return {"service.name": service_name, "service.version": proxy.__version__}


def _about(span: Span) -> dict[str, str | int]:
    error = {"error.type": span.error} if span.error else {}
    return {**span.attributes, **error}


# ------------------------------------------------------------------------------------------ JSON


def document(spans: Iterable[Span], service_name: str) -> dict[str, Any]:
    """The request as JSON has it."""
    scope = {"name": "fairlead", "version": proxy.__version__}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(_resource(service_name))},
                "scopeSpans": [{"scope": scope, "spans": [_span(one) for one in spans]}],
            }
        ]
    }


def _span(one: Span) -> dict[str, Any]:
    told: dict[str, Any] = {
        "traceId": one.trace_id,
        "spanId": one.span_id,
        "parentSpanId": one.parent,
        "name": one.name,
        "kind": one.kind,
        "startTimeUnixNano": str(one.began),
        "endTimeUnixNano": str(one.ended),
        "attributes": _attributes(_about(one)),
    }
    if one.error:
        told["status"] = {"code": ERROR}
    return told


def _attributes(values: Mapping[str, str | int]) -> list[dict[str, Any]]:
    return [
        {
            "key": name,
            # A whole number of 64 bits is a text in the JSON of Protocol Buffers.
            "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
        }
        for name, value in values.items()
    ]


# ------------------------------------------------------------------------------ Protocol Buffers
# Numbers of fields are those of opentelemetry/proto/{trace,resource,common}/v1.


def message(spans: Iterable[Span], service_name: str) -> bytes:
    """The request as Protocol Buffers have it."""
    scope = field(1, b"fairlead") + field(2, proxy.__version__.encode())
    resource = b"".join(field(1, pair) for pair in _pairs(_resource(service_name)))
    of_scope = field(1, scope) + b"".join(field(2, _packed(one)) for one in spans)
    return field(1, field(1, resource) + field(2, of_scope))


def _packed(one: Span) -> bytes:
    return b"".join(
        (
            field(1, bytes.fromhex(one.trace_id)),
            field(2, bytes.fromhex(one.span_id)),
            field(4, bytes.fromhex(one.parent)),
            field(5, one.name.encode()),
            whole(6, one.kind),
            fixed64(7, one.began),
            fixed64(8, one.ended),
            *(field(9, pair) for pair in _pairs(_about(one))),
            field(15, whole(3, ERROR)) if one.error else b"",
        )
    )


def _pairs(values: Mapping[str, str | int]) -> Iterable[bytes]:
    for name, value in values.items():
        any_ = whole(3, value) if isinstance(value, int) else field(1, value.encode())
        yield field(1, name.encode()) + field(2, any_)
