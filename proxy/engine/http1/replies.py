"""Answers the proxy makes itself: problem+json (RFC 9457) with Proxy-Status (RFC 9209)."""

from __future__ import annotations

from email.utils import formatdate

import msgspec

from proxy.engine.http1.rewrite import VIA_CLIENT
from proxy.errors import CONNECT_METHOD, Fault

RETRY_AFTER = b"Retry-After: 1\r\n"
"""One second: the time in which a registration becomes visible at the latest."""


def problem(
    fault: Fault,
    detail: str,
    *,
    request_id: str,
    head_only: bool,
    client_minor: int,
    keep_alive: bool,
) -> bytes:
    """A complete response, head and body (no body for HEAD)."""
    body = msgspec.json.encode(
        {
            "type": "about:blank",
            "title": fault.title,
            "status": fault.status,
            "detail": detail,
            "error": fault.error,
            "request_id": request_id,
        }
    )
    extra = b""
    if fault.status == 503:
        extra += RETRY_AFTER
    if fault is CONNECT_METHOD:
        extra += b"Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH, TRACE\r\n"
    if not keep_alive:
        extra += b"Connection: close\r\n"
    elif client_minor == 0:
        extra += b"Connection: keep-alive\r\n"
    head = (
        b"HTTP/1.1 %d %b\r\nDate: %b\r\nContent-Type: application/problem+json\r\n"
        b"Content-Length: %d\r\nProxy-Status: fairlead; error=%b\r\nCache-Control: no-store\r\n"
        b"%b%b\r\n"
        % (
            fault.status,
            fault.phrase.encode() if fault.status != 499 else b"Client Closed Request",
            formatdate(usegmt=True).encode(),
            len(body),
            fault.error.encode(),
            extra,
            VIA_CLIENT,
        )
    )
    return head if head_only else head + body
