"""Words of gRPC on HTTP/2 (its PROTOCOL-HTTP2): whose requests they are, how long they may take,
and how one is told what became of it. Pure.

A call is a POST whose answer is 200, whatever comes of it: that is for `grpc-status` to say, in
trailers, or in the head of an answer that has nothing else ("trailers-only").
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import CONNECT_TIMEOUT, LOOP, NO_GRPC, Fault
from proxy.http.messages import OwnAnswer

UNKNOWN: Final = 2
DEADLINE_EXCEEDED: Final = 4
UNAVAILABLE: Final = 14
_LAST: Final = 16
SERVER_ERRORS: Final = (UNKNOWN, DEADLINE_EXCEEDED, 12, 13, UNAVAILABLE, 15)
"""Statuses that are a server's errors, as OpenTelemetry's conventions for RPC have it."""

_NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_OF_STATUSES: Final = {  # ≤ 4 KiB
    400: 13, 401: 16, 403: 7, 404: 12, 405: 12, 408: 4, 413: 8, 414: 13, 417: 12, 429: 14, 431: 13,
    499: 1, 500: 13, 501: 12, 502: 14, 503: 14, 504: 4, 505: 12,
}  # fmt: skip
"""Status of an answer of our own → gRPC's; by its table for clients that see no gRPC status, but
where we know better: who hears 14 calls again, and what took too long may have been done."""
_OF_FAULTS: Final = {CONNECT_TIMEOUT.code: UNAVAILABLE, LOOP.code: 13, NO_GRPC.code: 13}
"""Where the status does not say enough: nothing reached an instance; nothing will."""
_SAID: Final = re.compile(rb"^grpc-status:[ \t]*(\d+)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_PUSHBACK: Final = re.compile(rb"^grpc-retry-pushback-ms:", re.IGNORECASE | re.MULTILINE)
_TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_SHORTEST: Final = 1e-9


def is_grpc(content_type: bytes) -> bool:
    """Whether a request of this content type is a call: `application/grpc`, also with a coding of
    its messages (`+proto`) or a parameter, and nothing else that begins so (`-web`)."""
    return content_type.startswith(b"application/grpc") and content_type[16:17] in (b"", b"+", b";")


def timeout_of(value: bytes | None) -> float:
    """Seconds of a `grpc-timeout`, the shortest where several are said; 0 = there is none, or none
    that can be read, which is for the instance to complain of. One that is over already is the
    shortest that there is."""
    members = [] if value is None else value.split(b",")
    read = [match for member in members if (match := _TIMEOUT.fullmatch(member.strip(b" \t")))]
    return min([max(int(match[1]) * _UNITS[match[2]], _SHORTEST) for match in read], default=0.0)


def status_of(fault: Fault) -> int:
    """The gRPC status for a fault."""
    return _OF_FAULTS.get(fault.code) or status_for(fault.status)


def status_for(status: int) -> int:
    """The gRPC status that an answer without one stands for, by its status in HTTP."""
    return _OF_STATUSES.get(status, UNKNOWN)


def status_name(status: int) -> str:
    """How gRPC calls a status; "" = there is none."""
    return "" if status < 0 else _NAMES[status]


def hundreds_of(status: int) -> int:
    """The hundreds of a status of HTTP that say as much of the outcome as one of gRPC does."""
    return 200 if not status else 500 if status in SERVER_ERRORS else 400


def status_in(lines: bytes) -> int:
    """The gRPC status that field lines say; below 0 = none. Numbers that gRPC does not have are
    UNKNOWN, as to its clients."""
    match = _SAID.search(lines)
    if match is None:
        return -1
    return int(match[1]) if len(match[1]) <= 2 and int(match[1]) <= _LAST else UNKNOWN


def pushes_back(lines: bytes) -> bool:
    """Whether an instance says when a call may come again, or that it may not (gRFC A6)."""
    return _PUSHBACK.search(lines) is not None


def message_of(text: str) -> bytes:
    """A text as the value of `grpc-message`: UTF-8, and by percent what is not plain ASCII."""
    data = text.encode("utf-8", "replace")
    return b"".join(b"%c" % n if 0x20 <= n <= 0x7E and n != 0x25 else b"%%%02X" % n for n in data)


def status_lines(fault: Fault, detail: str) -> bytes:
    """Trailers that say what became of a call."""
    return b"grpc-status: %d\r\ngrpc-message: %b\r\n" % (status_of(fault), message_of(detail))


def trailers_only(
    fault: Fault, detail: str, content_type: bytes, retry_after: float = 1.0
) -> OwnAnswer:
    """The answer of the proxy to a call, for a fault. `retry_after`: see `own_answers.problem`."""
    answer = answer_in_head(status_of(fault), detail, content_type)
    said = b'fairlead; error=%b; details="%b"' % (fault.error.encode(), fault.code.encode())
    fields = (*answer.fields, (b"Proxy-Status", said))
    if fault.status in (429, 503):
        fields += ((b"grpc-retry-pushback-ms", b"%d" % max(1, int(retry_after * 1000))),)
    return answer._replace(fields=fields)


def answer_in_head(status: int, message: str, content_type: bytes) -> OwnAnswer:
    """An answer to a call that has nothing but a status of gRPC and a message."""
    fields = (
        (b"Content-Type", content_type),
        (b"grpc-status", b"%d" % status),
        (b"grpc-message", message_of(message)),
    )
    return OwnAnswer(200, "OK", fields, b"")
