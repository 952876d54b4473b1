"""From heads to field blocks: the lines that HTTP/1 would write, as HPACK.

Blocks are made without a table (`hpack`), so what fields make of themselves is remembered for all
connections; instances and clients repeat themselves.
"""

from __future__ import annotations

from typing import Final

from proxy.http.dates import http_date
from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import CRLF, OwnAnswer, ResponseFields, ResponseHead
from proxy.http2.heads import CONNECTION_FIELDS
from proxy.http2.hpack import encode, name_bytes, value_bytes

_KIB: Final = 1024
_blocks: Final[Memo[bytes, bytes]] = Memo(_KIB * 1024, _KIB * 16)  # ≤ _KIB * 1024
"""Field lines, and the block that they make."""
_tails: Final[Memo[bytes, bytes]] = Memo(_KIB * 1024, _KIB * 16)  # ≤ _KIB * 1024
"""Lines of requests, `Host` first, and the end of the block that they make."""
_names: Final[Memo[bytes, bytes]] = Memo(_KIB * 64, _KIB)  # ≤ _KIB * 64
"""Spellings of names, and how their fields begin; empty for fields of connections."""
_statuses: Final[dict[int, bytes]] = {}  # ≤ 128 KiB
"""Of three digits."""
_HOST: Final = b"Host: "


def fields_block(lines: bytes) -> bytes:
    """Field lines, each `Name: value` CR LF, as a field block: names in lower case, and without
    those that only a connection of HTTP/1 has (RFC 9113 §8.2.2)."""
    block = _blocks.young.get(lines)
    if block is None:
        block = _blocks.old.get(lines) or _block(lines)
        _blocks.put(lines, block, ENTRY + len(lines) + len(block))
    return block


def request_block(method: bytes, scheme: bytes, target: bytes, tail: bytes, extra: bytes) -> bytes:
    """The head of a request to an instance. `tail`: lines that go to it, `Host` first, as
    `ClientFacts.tail` has them; `extra`: lines of this request alone."""
    rest = _tails.young.get(tail)
    if rest is None:
        rest = _tails.old.get(tail) or _tail(tail)
        _tails.put(tail, rest, ENTRY + len(tail) + len(rest))
    return b"%b%b%b%b%b" % (
        encode(b":method", method),
        encode(b":scheme", scheme),
        encode(b":path", target),
        rest,
        _block(extra),
    )


def _tail(tail: bytes) -> bytes:
    host, _, rest = tail.partition(CRLF)
    authority = host[len(_HOST) :]
    return (encode(b":authority", authority) if authority else b"") + _block(rest)


def answer_block(response: ResponseHead, id_line: bytes, via: bytes) -> bytes:
    """The head of an answer to a client. `id_line`: names the request; `via`: our own `Via` line,
    the same for all answers; empty for one that is interim."""
    status, fields = response.status, response.fields
    usual = status >= 200 and status != 204
    rest = fields.block
    if not rest or not usual:
        rest = _answer(status, fields, via)
        if usual and fields.dated:
            fields.block = rest
    return b"%b%b%b" % (_status(status), _block(id_line), rest)


def _answer(status: int, fields: ResponseFields, via: bytes) -> bytes:
    """The block of an answer's fields, and of those that we add."""
    parts = [fields_block(fields.plain)]
    if fields.length is not None and status >= 200 and status != 204:
        # RFC 9110 §8.6; also for HEAD and 304, where it is about content that is not sent.
        parts.append(encode(b"content-length", b"%d" % fields.length))
    if not fields.dated and status >= 200:
        parts.append(encode(b"date", http_date()))  # RFC 9110 §6.6.1
    if fields.trailer is not None:
        parts.append(encode(b"trailer", fields.trailer))
    for value in fields.via:  # ≤ 256
        parts.append(encode(b"via", value))
    parts.append(fields_block(via))
    return b"".join(parts)


def own_block(answer: OwnAnswer, id_line: bytes, via: bytes) -> bytes:
    """The head of an answer that no instance gave."""
    lines = b"".join([b"%b: %b\r\n" % pair for pair in answer.fields])
    length = b""
    if answer.status not in (204, 304):  # RFC 9110 §8.6
        length = encode(b"content-length", b"%d" % len(answer.content))
    return b"".join(
        (
            _status(answer.status),
            _block(id_line),
            encode(b"date", http_date()),
            fields_block(lines),
            length,
            fields_block(via),
        )
    )


def _status(status: int) -> bytes:
    block = _statuses.get(status)
    if block is None:
        block = _statuses[status] = encode(b":status", b"%d" % status)
    return block


def _block(lines: bytes) -> bytes:
    parts: list[bytes] = []
    for line in lines[:-2].split(CRLF):  # ≤ 10000
        name, _, value = line.partition(b": ")
        start = _names.young.get(name)
        if start is None:
            start = _start(name)
        if start:
            parts += (start, value_bytes(value))
    return b"".join(parts)


def _start(name: bytes) -> bytes:
    """The beginning of the field of a name that is not among the young ones."""
    start = _names.old.get(name)
    if start is None:
        lower = name.lower()
        start = b"" if not lower or lower in CONNECTION_FIELDS else name_bytes(lower)
    _names.put(name, start, ENTRY + len(name) + len(start))
    return start
