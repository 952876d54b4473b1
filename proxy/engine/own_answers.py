"""Answers the proxy makes itself: problem+json (RFC 9457) with Proxy-Status (RFC 9209)."""

from __future__ import annotations

from math import ceil
from typing import Final

import msgspec

from proxy.errors import METHOD_NOT_ALLOWED, Fault
from proxy.http.messages import CRLF, VERSIONS, OwnAnswer, RequestHead

_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH, TRACE"
_SECRETS: Final = (b"authorization", b"cookie", b"proxy-authorization")


def problem(
    fault: Fault, detail: str, request_id: str, retry_after: float = 1.0, trace_id: bytes = b""
) -> OwnAnswer:
    """The answer of the proxy for a fault. `retry_after`: seconds, for 429 and 503; by default the
    one in which a registration becomes visible at the latest. `trace_id`: of a request that is
    traced."""
    told = {
        "type": "about:blank",
        "title": fault.title,
        "status": fault.status,
        "detail": detail,
        "error": fault.error,
        "code": fault.code,
        "request_id": request_id,
    }
    if trace_id:
        told["trace_id"] = trace_id.decode("ascii")
    content = msgspec.json.encode(told)
    status = b'fairlead; error=%b; details="%b"' % (fault.error.encode(), fault.code.encode())
    fields = [
        (b"Content-Type", b"application/problem+json"),
        (b"Proxy-Status", status),
        (b"Cache-Control", b"no-store"),
    ]
    if fault.status in (429, 503):
        fields.append((b"Retry-After", b"%d" % max(1, ceil(retry_after))))
    if fault is METHOD_NOT_ALLOWED:
        fields.append((b"Allow", _METHODS))
    return OwnAnswer(fault.status, fault.phrase, tuple(fields), content)


def answer_for_us(request: RequestHead) -> OwnAnswer | None:
    """OPTIONS and TRACE that go no further answer who they have reached (RFC 9110 §7.6.2)."""
    if request.fields.max_forwards != b"0":
        return None
    if request.method == b"OPTIONS":
        return OwnAnswer(200, "OK", ((b"Allow", _METHODS),), b"")
    if request.method == b"TRACE":
        return OwnAnswer(200, "OK", ((b"Content-Type", b"message/http"),), _echo(request))
    return None


def _echo(request: RequestHead) -> bytes:
    """The request itself (RFC 9110 §9.3.8), without what a script that made somebody else's
    browser send it should not read."""
    lines = [b"%b %b HTTP/%b" % (request.method, request.target, VERSIONS[request.minor])]
    lines += [b"Host: " + request.fields.host] if request.fields.host else []
    lines += [b"%b: %b" % p for p in request.fields.pairs if p[0].lower() not in _SECRETS]
    return CRLF.join((*lines, b"", b""))
