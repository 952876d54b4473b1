"""W3C Trace Context and B3: where a request stands in a trace, how an instance is told. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from proxy.http.messages import RequestFields, RequestHead

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_B3: Final = re.compile(
    rb"([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?"
)
_ID: Final = re.compile(rb"[0-9a-f]{16}|[0-9a-f]{32}")
_SAMPLED: Final = {b"0": False, b"1": True, b"d": True, b"false": False, b"true": True}
_LINES: Final = {
    "w3c": rb"traceparent",
    "b3": rb"b3|x-b3-[a-z]+",
    "b3multi": rb"b3|x-b3-[a-z]+",
}
_UNREMEMBERED: Final = 1 << 30
"""Bytes that a block claims to take, so that no connection remembers it: the next one differs."""


class Parent(NamedTuple):
    """The span that a request comes from."""

    trace_id: bytes
    """32 hexadecimal digits; empty = the caller only says whether to sample."""
    span_id: bytes
    """16 of them."""
    sampled: bool | None
    """None: the caller leaves that to us."""
    random: bool = False
    """Whether who began the trace says that its id was drawn (Trace Context Level 2 §3.2.2.5)."""


def parent_of(value: bytes | None) -> Parent | None:
    """The parent that `traceparent` names; None if it names none, or in no way that is known."""
    match = None if value is None else _PARENT.fullmatch(value)
    if match is None or match[1] == b"ff" or (match[1] == b"00" and match[5] is not None):
        return None
    if not match[2].strip(b"0") or not match[3].strip(b"0"):
        return None
    flags = int(match[4], 16)
    return Parent(match[2], match[3], bool(flags & 1), bool(flags & 2))


def parent_of_b3(fields: RequestFields) -> Parent | None:
    """The parent that B3 names, in one field (`b3`) or several (`X-B3-TraceId` …), of which the one
    counts before the others."""
    value = fields.get(b"b3")
    if value is None:
        sampled = _SAMPLED.get(fields.get(b"x-b3-sampled") or b"")
        if fields.get(b"x-b3-flags") == b"1":
            sampled = True  # "Debug", which takes the place of the other.
        trace_id, span_id = fields.get(b"x-b3-traceid") or b"", fields.get(b"x-b3-spanid") or b""
        known = _ID.fullmatch(trace_id) is not None and len(span_id) == 16
        if not known or _ID.fullmatch(span_id) is None:
            return None if sampled is None else Parent(b"", b"", sampled)
    else:
        if value in _SAMPLED:
            return Parent(b"", b"", _SAMPLED[value])
        match = _B3.fullmatch(value)
        if match is None:
            return None
        trace_id, span_id, sampled = match[1], match[2], _SAMPLED.get(match[3] or b"")
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return Parent(trace_id.rjust(32, b"0"), span_id, sampled)


class Propagation:
    """How traces are told from one to the next."""

    def __init__(self, kinds: Sequence[str]) -> None:
        """`kinds`: of `w3c`, `b3` and `b3multi`; who names a parent in several is believed in the
        first."""
        self.kinds = tuple(kinds)
        names = b"|".join(_LINES[kind] for kind in kinds)
        more = names + rb"|tracestate" if "w3c" in kinds else names
        line, flags = rb"^(?:%b):[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE
        self._lines = re.compile(line % names, flags)
        self._begun = re.compile(line % more, flags)

    def parent(self, fields: RequestFields) -> Parent | None:
        """The parent that a request names. A block that has no line about one is remembered as
        such; those that do differ each time."""
        for kind in self.kinds:  # ≤ 3
            w3c = kind == "w3c"
            found = parent_of(fields.get(b"traceparent")) if w3c else parent_of_b3(fields)
            if found is not None:
                return found
        if self._begun.search(fields.passed) is None:
            fields.orphan = self
        return None

    def with_parent(
        self, request: RequestHead, trace_id: bytes, span_id: bytes, random: bool
    ) -> RequestHead:
        """The head as an instance gets it in a trace that is recorded: its parent is this span.
        What `tracestate` says is about the `traceparent` beside it: where that is not continued, it
        is deleted (Trace Context §4.3)."""
        was = request.fields
        fields = RequestFields(b"", was.count)
        fields.memory = _UNREMEMBERED
        fields.host, fields.host_name, fields.hosts = was.host, was.host_name, was.hosts
        fields.claims, fields.claims_named = was.claims, was.claims_named
        fields.claim_lines, fields.chunked, fields.length = was.claim_lines, was.chunked, was.length
        fields.te_trailers, fields.grpc = was.te_trailers, was.grpc
        passed = was.passed
        if was.orphan is not self:
            beside = parent_of(was.get(b"traceparent"))
            continued = beside is not None and beside.trace_id == trace_id
            passed = (self._lines if continued else self._begun).sub(b"", passed)
        lines = [passed]
        for kind in self.kinds:  # ≤ 3
            if kind == "w3c":
                flags = b"03" if random else b"01"
                lines.append(b"traceparent: 00-%b-%b-%b\r\n" % (trace_id, span_id, flags))
            elif kind == "b3":
                lines.append(b"b3: %b-%b-1\r\n" % (trace_id, span_id))
            else:
                lines.append(
                    b"X-B3-TraceId: %b\r\nX-B3-SpanId: %b\r\nX-B3-Sampled: 1\r\n"
                    % (trace_id, span_id)
                )
        fields.passed = b"".join(lines)
        return RequestHead(request.method, request.target, request.minor, fields)
