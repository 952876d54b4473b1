"""W3C Trace Context: where a request stands in a trace, and how an instance is told. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from proxy.http.messages import RequestFields, RequestHead

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LINE: Final = re.compile(rb"^traceparent:[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)
_UNREMEMBERED: Final = 1 << 30
"""Bytes that a block claims to take, so that no connection remembers it: the next one differs."""


class Parent(NamedTuple):
    """The span that a request comes from."""

    trace_id: bytes
    """32 hexadecimal digits."""
    span_id: bytes
    """16 of them."""
    sampled: bool


def parent_of(value: bytes | None) -> Parent | None:
    """The parent that `traceparent` names; None if it names none, or in no way that is known."""
    match = None if value is None else _PARENT.fullmatch(value)
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5] is not None):
        return None
    if not match[2].strip(b"0") or not match[3].strip(b"0"):
        return None
    return Parent(match[2], match[3], bool(int(match[4], 16) & 1))


def with_parent(request: RequestHead, trace_id: bytes, span_id: bytes) -> RequestHead:
    """The head as an instance gets it in a trace that is recorded: its parent is this span."""
    was = request.fields
    fields = RequestFields(b"", was.count)
    fields.memory = _UNREMEMBERED
    fields.host, fields.host_name, fields.hosts = was.host, was.host_name, was.hosts
    fields.claims, fields.claims_named = was.claims, was.claims_named
    fields.claim_lines, fields.chunked, fields.length = was.claim_lines, was.chunked, was.length
    fields.te_trailers, fields.grpc = was.te_trailers, was.grpc
    line = b"traceparent: 00-%b-%b-01\r\n" % (trace_id, span_id)
    fields.passed = _LINE.sub(b"", was.passed) + line
    return RequestHead(request.method, request.target, request.minor, fields)
