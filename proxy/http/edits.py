"""Heads with other fields than those that came: a block may be shared by many messages, so that it
is never changed, but made anew."""

from __future__ import annotations

from proxy.http.claims import hyphened
from proxy.http.forwarding import passed_fields
from proxy.http.messages import CRLF, RequestFields, ResponseFields


def request_with(
    was: RequestFields, lines: list[bytes], taken: frozenset[bytes] = frozenset()
) -> RequestFields:
    """The same fields, with these plain lines in place of its own. `taken`: names of claims that
    are left out, as `hyphened` writes them."""
    fields = RequestFields(_block(lines), was.count, sum(map(len, lines)))
    fields.connection, fields.keeps_alive = was.connection, was.keeps_alive
    fields.length, fields.chunked, fields.trailer = was.length, was.chunked, was.trailer
    fields.host, fields.host_name, fields.hosts = was.host, was.host_name, was.hosts
    fields.expect, fields.upgrade, fields.via = was.expect, was.upgrade, was.via
    fields.te_trailers, fields.max_forwards = was.te_trailers, was.max_forwards
    fields.request_id, fields.id_name = was.request_id, was.id_name
    fields.unusual, fields.underscored = was.unusual, was.underscored
    fields.claims, fields.claims_named = was.claims, was.claims_named
    fields.claim_lines = was.claim_lines
    if taken:
        fields.claims = {n: v for n, v in was.claims.items() if hyphened(n) not in taken}
        kept = [
            line
            for line in was.claim_lines.splitlines(keepends=True)
            if hyphened(line.partition(b":")[0].lower()) not in taken
        ]
        fields.claim_lines = b"".join(kept)
    fields.passed = passed_fields(fields)
    return fields


def response_with(was: ResponseFields, lines: list[bytes]) -> ResponseFields:
    """The same fields, with these plain lines in place of its own."""
    fields = ResponseFields(_block(lines), was.count, sum(map(len, lines)))
    fields.connection, fields.keeps_alive = was.connection, was.keeps_alive
    fields.length, fields.chunked, fields.trailer = was.length, was.chunked, was.trailer
    fields.upgrade, fields.via = was.upgrade, was.via
    fields.keep_alive, fields.dated, fields.usual = was.keep_alive, was.dated, False
    return fields


def _block(lines: list[bytes]) -> bytes:
    return CRLF.join(lines) + CRLF if lines else b""


def lines_of(plain: bytes) -> list[bytes]:
    """The lines of a block without their ends."""
    return plain.split(CRLF)[:-1]
