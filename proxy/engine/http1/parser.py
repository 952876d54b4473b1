"""From bytes to heads.

The listener and the upstream connection find the end of a head themselves (`find_end`)
and hand over whole heads, so the result cannot depend on how the bytes were cut. A field block
is its lines and nothing else: a line that continues the one before (RFC 9112 §5.2) is refused. So
lines are read one by one (`scanner`), framing is decided in one place for both directions, and no
state is kept between two heads.

A connection repeats itself: its first line, its field block, or both, are often the same to the
byte as the ones before, and parsing is a pure function of the bytes. So each connection keeps its
latest head, with what was read of it, and nothing else is kept of what people send.
"""

from __future__ import annotations

from typing import Final

from proxy.engine.http1.heads import BY_LENGTH, relayed_fields
from proxy.engine.http1.start_lines import StatusLine, split_request_line, split_status_line
from proxy.errors import (
    BAD_ANSWER,
    BAD_REQUEST,
    Refused,
)
from proxy.http.fields import (
    REQUEST_KINDS,
    RESPONSE_KINDS,
    USUAL_IDS,
    request_fields,
    response_fields,
)
from proxy.http.forwarding import passed_fields
from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import (
    CRLF,
    RequestFields,
    RequestHead,
    ResponseFields,
    ResponseHead,
)
from proxy.http.request_id import IdField
from proxy.http.scanner import FieldScanner, TooManyFields

HEAD_END: Final = b"\r\n\r\n"
"""A head ends behind the first of these."""
LONGEST_BLOCK: Final = 2048
"""Bytes of a block that its connection keeps."""
ANSWER_FIELDS: Final = 256
"""Fields of an answer, twice as many as a request may have by default. HAProxy and Envoy take some
hundred, real answers have thirty; without a bound 64 KiB would hold 16,000."""

_KIB: Final = 1024
_requests: Final = FieldScanner(REQUEST_KINDS)
_scan_request: Final = _requests.scan
find_end: Final = _requests.find_end
_scan_response: Final = FieldScanner(RESPONSE_KINDS).scan
_status_lines: Final[Memo[bytes, StatusLine]] = Memo(_KIB * 64, _KIB)  # ≤ _KIB * 64
"""Real instances have a dozen."""


def call_a_claim(name: bytes) -> None:
    """From now on the field `name`, in lower case, is for trusted proxies to set, on all
    listeners: somewhere it says who the client is."""
    if REQUEST_KINDS.call_a_claim(name):
        _requests.forget()


def parse_request(head: bytes, max_fields: int) -> RequestHead:
    """A whole request head, up to and including its empty line. Raises `Refused`, or
    `TooManyFields`."""
    line, _, block = head.partition(CRLF)
    fields = read_request_fields(block, USUAL_IDS, max_fields)
    return request_of(line, block, fields, max_fields, USUAL_IDS)


def read_request_fields(block: bytes, ids: IdField, max_fields: int) -> RequestFields:
    """The fields of a request, from their lines with the empty one behind them. `ids`: how requests
    are named where it came in. Raises `Refused`, or `TooManyFields`."""
    try:
        plain, special, count = _scan_request(block, max_fields)
    except ValueError as error:
        raise Refused(BAD_REQUEST, str(error)) from None
    return request_fields(plain, special, count, len(block), ids)


def request_of(
    line: bytes,
    block: bytes,
    fields: RequestFields,
    max_fields: int,
    ids: IdField,
    like: RequestHead | None = None,
) -> RequestHead:
    """A request head of its first line and its block, of which `fields` were read. `like`: an
    earlier one that had the same first line."""
    if fields.count > max_fields:
        raise TooManyFields
    if like is None:
        method, target, minor = split_request_line(line)
    else:
        method, target, minor = like.method, like.target, like.minor
    if fields.hosts != 1 and (minor == 1 or fields.hosts > 1):
        # RFC 9112 §3.2: a server MUST answer 400 to a 1.1 request without exactly one Host.
        raise Refused(BAD_REQUEST, "several Host fields" if fields.hosts else "no Host field")
    if not minor:
        if fields.chunked:
            raise Refused(BAD_REQUEST, "Transfer-Encoding in an HTTP/1.0 request")
        if fields.expect is not None:
            # RFC 9110 §10.1.1: a 1.0 client's Expect MUST be ignored. Not in the fields that are
            # kept: 1.1 requests share them.
            fields = read_request_fields(block, ids, max_fields)
            fields.expect = None
            fields.passed = passed_fields(fields)
    head = RequestHead(method, target, minor, fields)
    if like is not None and like.fields.host == fields.host:
        head.resolved = like.resolved
    return head


def parse_response(head: bytes, ids: IdField = USUAL_IDS) -> ResponseHead:
    """A whole response head, up to and including its empty line, for a client of a listener that
    names requests by `ids`. Raises `Refused`."""
    line, _, block = head.partition(CRLF)
    return response_of(line, read_response_fields(block, ids))


def read_response_fields(block: bytes, ids: IdField) -> ResponseFields:
    """The fields of an answer, from their lines with the empty one behind them. Raises
    `Refused`."""
    try:
        plain, special, count = _scan_response(block, ANSWER_FIELDS)
    except ValueError as error:
        raise Refused(BAD_ANSWER, str(error)) from None
    except TooManyFields:
        raise Refused(BAD_ANSWER, f"more than {ANSWER_FIELDS} fields") from None
    fields = response_fields(plain, special, count, len(block), ids)
    if fields.usual:
        fields.relayed = relayed_fields(fields, BY_LENGTH, 1, True)
    return fields


def response_of(line: bytes, fields: ResponseFields) -> ResponseHead:
    """A response head of its first line and its fields."""
    known = _status_lines.young.get(line)
    if known is None:
        known = _status_lines.old.get(line) or split_status_line(line)
        _status_lines.put(line, known, ENTRY + 2 * len(line))
    status, minor, status_line = known
    if fields.chunked and minor == 0:
        raise Refused(BAD_ANSWER, "Transfer-Encoding in an HTTP/1.0 response")
    return ResponseHead(status, status_line, minor, fields)
