"""Answers the proxy makes itself: problem+json (RFC 9457) with Proxy-Status (RFC 9209)."""

from __future__ import annotations

from math import ceil

import msgspec

from proxy.engine.http1.dates import http_date
from proxy.engine.http1.messages import CRLF, RequestHead
from proxy.engine.http1.rewrite import VIA_CLIENT
from proxy.errors import METHOD_NOT_ALLOWED, Fault


def problem(
    fault: Fault,
    detail: str,
    *,
    request_id: str,
    id_line: bytes,
    head_only: bool,
    client_minor: int,
    keep_alive: bool,
    retry_after: float = 1.0,
) -> bytes:
    """A complete response, head and body (no body for HEAD). `id_line`: the field that names the
    request, or empty; `retry_after`: seconds, for 429 and 503; by default the one in which a
    registration becomes visible at the latest."""
    body = msgspec.json.encode(
        {
            "type": "about:blank",
            "title": fault.title,
            "status": fault.status,
            "detail": detail,
            "error": fault.error,
            "code": fault.code,
            "request_id": request_id,
        }
    )
    extra = b""
    if fault.status in (429, 503):
        extra += b"Retry-After: %d\r\n" % max(1, ceil(retry_after))
    if fault is METHOD_NOT_ALLOWED:
        extra += b"Allow: %b\r\n" % _METHODS
    if not keep_alive:
        extra += b"Connection: close\r\n"
    elif client_minor == 0:
        extra += b"Connection: keep-alive\r\n"
    head = (
        b"HTTP/1.1 %d %b\r\n%bDate: %b\r\nContent-Type: application/problem+json\r\n"
        b'Content-Length: %d\r\nProxy-Status: fairlead; error=%b; details="%b"\r\n'
        b"Cache-Control: no-store\r\n%b%b\r\n"
        % (
            fault.status,
            fault.phrase.encode(),
            id_line,
            http_date(),
            len(body),
            fault.error.encode(),
            fault.code.encode(),
            extra,
            VIA_CLIENT,
        )
    )
    return head if head_only else head + body


_METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH, TRACE"
_SECRETS = (b"authorization", b"cookie", b"proxy-authorization")


def options_answer(request: RequestHead, id_line: bytes, keep_alive: bool) -> bytes:
    """What an OPTIONS that ends here learns of the proxy."""
    return _own(request, b"%bAllow: %b\r\n" % (id_line, _METHODS), b"", keep_alive)


def trace_answer(request: RequestHead, id_line: bytes, keep_alive: bool) -> bytes:
    """A TRACE that ends here gets itself back (RFC 9110 §9.3.8), without what a script that made
    somebody else's browser send it should not read."""
    lines = [b"%b %b HTTP/1.%d" % (request.method, request.target, request.minor)]
    lines += [b"Host: " + request.fields.host] if request.fields.host else []
    lines += [b"%b: %b" % p for p in request.fields.pairs if p[0].lower() not in _SECRETS]
    echo = CRLF.join((*lines, b"", b""))
    return _own(request, id_line + b"Content-Type: message/http\r\n", echo, keep_alive)


def _own(request: RequestHead, fields: bytes, body: bytes, keep_alive: bool) -> bytes:
    if not keep_alive:
        fields += b"Connection: close\r\n"
    elif request.minor == 0:
        fields += b"Connection: keep-alive\r\n"
    date = http_date()
    head = b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: %d\r\n" % (date, len(body))
    return b"".join((head, fields, VIA_CLIENT, CRLF, body))
