"""From bytes to heads.

The listener and the upstream connection find the end of a head themselves (`HEAD_END`)
and hand over whole heads, so the result cannot depend on how the bytes were cut. A field block
is its lines and nothing else: a line that continues the one before (RFC 9112 §5.2) is refused. So
lines are read one by one, framing is decided in one place for both directions, and no state is
kept between two heads.

Clients and instances repeat themselves: the field block of a request is often the same to the
byte as that of an earlier one, or differs from it in a line or two (a trace id, a date), and
parsing is a pure function of the bytes. A `Memo` remembers blocks, and others lines, with their
results: in each worker twelve megabytes at most, all of them together.
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
    CLAIM,
    PLAIN,
    REQUEST_KINDS,
    RESPONSE_KINDS,
    UNDERSCORE,
    USUAL_IDS,
    VALUE_BYTES,
    Kinds,
    Special,
    request_fields,
    response_fields,
)
from proxy.http.forwarding import TOKEN_BYTES, passed_fields
from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import (
    CRLF,
    RequestFields,
    RequestHead,
    ResponseFields,
    ResponseHead,
)
from proxy.http.request_id import IdField

HEAD_END: Final = b"\r\n\r\n"
"""A head ends behind the first of these."""


class _FieldReader:
    """Owns the memory of the lines it has read, and of their names. One per direction."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._names: Memo[bytes, int] = Memo(_KIB * 256, _KIB)  # ≤ _KIB * 256
        """Spellings of names, and what they mean. Real traffic has a few hundred."""
        self._plain: Memo[bytes, bytes] = Memo(_KIB * 1024, _KIB * 2)  # ≤ _KIB * 1024
        """Lines without meaning to a proxy, and how they are serialised."""
        self._special: Memo[bytes, Special] = Memo(_KIB * 1024, _KIB * 2)  # ≤ _KIB * 1024

    def forget(self) -> None:
        """Forget all lines: some mean something else from now on."""
        self._names.clear()
        self._plain.clear()
        self._special.clear()

    def read(self, block: bytes, most: int) -> tuple[list[bytes], list[Special]]:
        """Field lines with their final empty line: the plain ones as they are serialised, and the
        others. ValueError when they are malformed, `TooManyFields` when there are more than
        `most`."""
        plain: list[bytes] = []
        special: list[Special] = []
        known = self._plain.young
        lines = block.split(CRLF)
        del lines[-2:]  # The empty line, and what is behind it: nothing.
        if len(lines) > most:
            raise TooManyFields
        for line in lines:  # ≤ 256
            serialised = known.get(line)
            if serialised is not None:
                plain.append(serialised)
                continue
            field = self._special.young.get(line)
            if field is not None:
                special.append(field)
            else:
                self._read_line(line, plain, special)
        return plain, special

    def _read_line(self, line: bytes, plain: list[bytes], special: list[Special]) -> None:
        """Read a line that is not among the young ones."""
        size = ENTRY + 2 * len(line)
        serialised = self._plain.old.get(line)
        if serialised is None:
            field = self._special.old.get(line)
            if field is not None:
                special.append(field)
                self._special.put(line, field, size)
                return
            name, colon, value = line.partition(b":")
            kind = self._names.young.get(name)
            if kind is None:
                kind = self._kind_of(name)
            if not colon or value.translate(None, VALUE_BYTES):
                raise ValueError("a field line without a colon, or with bytes no value has")
            value = value.strip(b" \t")
            if kind != PLAIN:
                if kind == CLAIM:
                    value = b"%b: %b" % (name, value)
                elif kind == UNDERSCORE:
                    value = name
                field = kind, value
                special.append(field)
                self._special.put(line, field, size)
                return
            serialised = b"%b: %b" % (name, value)
        plain.append(serialised)
        self._plain.put(line, serialised, size)

    def _kind_of(self, name: bytes) -> int:
        """For a name that is not among the young ones."""
        kind = self._names.old.get(name)
        if kind is None:
            if not name or name.translate(None, TOKEN_BYTES):
                raise ValueError("a field name is empty, or holds bytes that no name has")
            kind = self._kinds.of(name.lower())
        self._names.put(name, kind, ENTRY + len(name))
        return kind


LONGEST_BLOCK: Final = 2048
"""Bytes of a block that is looked up before the end of its head is looked for."""
ANSWER_FIELDS: Final = 256
"""Fields of an answer, twice as many as a request may have by default. HAProxy and Envoy take some
hundred, real answers have thirty; without a bound 64 KiB would hold 16,000."""

_KIB: Final = 1024
_request_reader: Final = _FieldReader(REQUEST_KINDS)
_response_reader: Final = _FieldReader(RESPONSE_KINDS)
_request_memo: Final[Memo[bytes, RequestFields]] = Memo(_KIB * 3072, _KIB * 16)  # ≤ _KIB * 3072
_response_memo: Final[Memo[bytes, ResponseFields]] = Memo(_KIB * 3072, _KIB * 16)  # ≤ _KIB * 3072
_status_lines: Final[Memo[bytes, StatusLine]] = Memo(_KIB * 64, _KIB)  # ≤ _KIB * 64
"""Real instances have a dozen."""


def call_a_claim(name: bytes) -> None:
    """From now on the field `name`, in lower case, is for trusted proxies to set, on all
    listeners: somewhere it says who the client is."""
    if REQUEST_KINDS.call_a_claim(name):
        _request_reader.forget()
        _request_memo.clear()


def parse_request(head: bytes, max_fields: int) -> RequestHead:
    """A whole request head, up to and including its empty line. Raises `Refused`, or
    `TooManyFields`."""
    line, _, block = head.partition(CRLF)
    return request_of(line, block, max_fields, USUAL_IDS)


def is_known(block: bytes) -> bool:
    """Whether this is a whole field block, with its empty line and nothing behind it, that was
    read a short while ago. False says nothing."""
    return block in _request_memo.young


def request_of(line: bytes, block: bytes, max_fields: int, ids: IdField) -> RequestHead:
    """The same for a head that is cut behind its first CRLF already. `ids`: how requests are
    named where it came in."""
    fields = _request_memo.young.get(block)
    if fields is None:
        fields = _request_memo.old.get(block) or _read_request_fields(block, USUAL_IDS, max_fields)
        _request_memo.put(block, fields, fields.memory)
    if not ids.usual:
        if fields.elsewhere is None:
            _request_memo.put(block, fields, fields.memory)  # Both are remembered together.
            fields.memory *= 2
        if fields.elsewhere is None or fields.elsewhere[0] is not ids:
            fields.elsewhere = ids, _read_request_fields(block, ids, max_fields)
        fields = fields.elsewhere[1]
    if fields.count > max_fields:
        raise TooManyFields
    method, target, minor = split_request_line(line)
    if fields.hosts != 1 and (minor == 1 or fields.hosts > 1):
        # RFC 9112 §3.2: a server MUST answer 400 to a 1.1 request without exactly one Host.
        raise Refused(BAD_REQUEST, "several Host fields" if fields.hosts else "no Host field")
    if not minor:
        if fields.chunked:
            raise Refused(BAD_REQUEST, "Transfer-Encoding in an HTTP/1.0 request")
        if fields.expect is not None:
            # RFC 9110 §10.1.1: a 1.0 client's Expect MUST be ignored. Not in the block that is
            # remembered: 1.1 requests share it.
            fields = _read_request_fields(block, ids, max_fields)
            fields.expect = None
            fields.passed = passed_fields(fields)
    return RequestHead(method, target, minor, fields)


def parse_response(head: bytes, ids: IdField = USUAL_IDS) -> ResponseHead:
    """A whole response head, up to and including its empty line, for a client of a listener that
    names requests by `ids`. Raises `Refused`."""
    line, _, block = head.partition(CRLF)
    known = _status_lines.young.get(line)
    if known is None:
        known = _status_lines.old.get(line) or split_status_line(line)
        _status_lines.put(line, known, ENTRY + 2 * len(line))
    status, minor, status_line = known
    fields = _response_memo.young.get(block)
    if fields is None:
        fields = _response_memo.old.get(block) or _read_response_fields(block, USUAL_IDS)
        _response_memo.put(block, fields, fields.memory)
    if not ids.usual:
        if fields.elsewhere is None:
            _response_memo.put(block, fields, fields.memory)
            fields.memory *= 2
        if fields.elsewhere is None or fields.elsewhere[0] is not ids:
            fields.elsewhere = ids, _read_response_fields(block, ids)
        fields = fields.elsewhere[1]
    if fields.chunked and minor == 0:
        raise Refused(BAD_ANSWER, "Transfer-Encoding in an HTTP/1.0 response")
    return ResponseHead(status, status_line, minor, fields)


def _read_request_fields(block: bytes, ids: IdField, max_fields: int) -> RequestFields:
    try:
        plain, special = _request_reader.read(block, max_fields)
    except ValueError as error:
        raise Refused(BAD_REQUEST, str(error)) from None
    return request_fields(plain, special, len(block), ids)


def _read_response_fields(block: bytes, ids: IdField) -> ResponseFields:
    try:
        plain, special = _response_reader.read(block, ANSWER_FIELDS)
    except ValueError as error:
        raise Refused(BAD_ANSWER, str(error)) from None
    except TooManyFields:
        raise Refused(BAD_ANSWER, f"more than {ANSWER_FIELDS} fields") from None
    fields = response_fields(plain, special, len(block), ids)
    if fields.usual:
        fields.relayed = relayed_fields(fields, BY_LENGTH, 1, True)
    return fields


class TooManyFields(Exception):
    """More field lines than the listener allows; the caller knows the limit."""
