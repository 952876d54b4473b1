"""Heads with other fields than those that came: a block may be shared by many messages, so that it
is never changed, but made anew."""

from __future__ import annotations

from typing import Final

from proxy.http.claims import hyphened
from proxy.http.forwarding import passed_fields
from proxy.http.memo import Memo
from proxy.http.messages import CRLF, RequestFields, ResponseFields

_FOLDED: Final = bytes(
    byte if byte in b"0123456789abcdefghijklmnopqrstuvwxyz: \r\n" else 0x2D
    for byte in bytes(range(256)).lower()
)
"""Lines with their names as `hyphened` writes them."""
_ROOM: Final = 256 * 1024
_NOBODY: Final[frozenset[bytes]] = frozenset()
RESPONSES: Final[Memo[ResponseFields, ResponseFields]] = Memo(_ROOM, _ROOM // 8)  # ≤ _ROOM
"""Fields of answers, which many connections share, and what was made of them last: messages repeat
themselves, and so do their edits. Those of requests, each a connection's own, know it."""


def without(plain: bytes, means: bytes) -> bytes:
    """Plain lines without those of a name in all spellings that programs take for it; `means`: the
    name as `hyphened` writes it."""
    mark = CRLF + means + b": "
    folded = CRLF + plain.translate(_FOLDED)
    at = folded.find(mark)
    if at < 0:
        return plain
    end = folded.find(CRLF, at + 2)
    if folded.find(mark, end) < 0:
        return plain[:at] + plain[end:]
    names = folded.split(CRLF)[1:-1]
    lines = zip(names, plain.split(CRLF), strict=False)
    return _block([line for name, line in lines if not name.startswith(mark[2:])])


def request_edited(was: RequestFields, plain: bytes, taken: frozenset[bytes]) -> RequestFields:
    """As `request_with`, for who does not change what is returned."""
    made = was.edited
    if made is None or made.plain != plain or made.taken != taken:
        made = request_with(was, plain, taken)
        made.taken = taken
        was.edited = made
    return made


def request_with(
    was: RequestFields, plain: bytes, taken: frozenset[bytes] = _NOBODY
) -> RequestFields:
    """The same fields, with these plain lines in place of its own. `taken`: names of claims that
    are left out, as `hyphened` writes them."""
    fields = RequestFields(plain, was.count, len(plain))
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


def response_edited(was: ResponseFields, plain: bytes) -> ResponseFields:
    """As `response_with`, for who does not change what is returned."""
    made = RESPONSES.young.get(was)
    if made is None or made.plain != plain:
        made = response_with(was, plain)
        if was.usual:
            made.usual, made.relayed = True, plain + was.relayed[len(was.plain) :]
        RESPONSES.put(was, made, was.memory + made.memory)
    return made


def response_with(was: ResponseFields, plain: bytes) -> ResponseFields:
    """The same fields, with these plain lines in place of its own."""
    fields = ResponseFields(plain, was.count, len(plain))
    fields.connection, fields.keeps_alive = was.connection, was.keeps_alive
    fields.length, fields.chunked, fields.trailer = was.length, was.chunked, was.trailer
    fields.upgrade, fields.via = was.upgrade, was.via
    fields.keep_alive, fields.dated, fields.usual = was.keep_alive, was.dated, False
    return fields


def _block(lines: list[bytes]) -> bytes:
    return CRLF.join(lines) + CRLF if lines else b""
