"""Answers the proxy makes itself: problem+json (RFC 9457) with Proxy-Status (RFC 9209)."""

from __future__ import annotations

from email.utils import formatdate
from math import ceil

import msgspec

from proxy.engine.http1.rewrite import VIA_CLIENT
from proxy.errors import CONNECT_METHOD, Fault


def problem(
    fault: Fault,
    detail: str,
    *,
    request_id: str,
    head_only: bool,
    client_minor: int,
    keep_alive: bool,
    retry_after: float = 1.0,
) -> bytes:
    """A complete response, head and body (no body for HEAD). `retry_after`: seconds, for 429
    and 503; by default the one in which a registration becomes visible at the latest."""
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
    if fault.status in (429, 503):
        extra += b"Retry-After: %d\r\n" % max(1, ceil(retry_after))
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
