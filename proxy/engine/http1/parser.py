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

import re
from typing import Final

from proxy.engine.http1.heads import BY_LENGTH, relayed_fields
from proxy.engine.http1.start_lines import StatusLine, split_request_line, split_status_line
from proxy.errors import (
    BAD_ANSWER,
    BAD_REQUEST,
    CODING_NOT_SUPPORTED,
    Fault,
    Refused,
)
from proxy.http.claims import add_claim, hyphened, is_claim
from proxy.http.forwarding import TOKEN_BYTES, passed_fields, strip_named, take_claims
from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import (
    CRLF,
    Fields,
    RequestFields,
    RequestHead,
    ResponseFields,
    ResponseHead,
)
from proxy.http.request_id import IdField, acceptable

_AUTHORITY: Final = re.compile(
    rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::(\d{0,5}))?"
)  # RFC 3986 §3.2.2
_VALUE_BYTES: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""RFC 9110 §5.5: field-vchar, obs-text, space and tab."""
_LENGTH: Final = re.compile(rb"\d{1,18}")
"""18 digits stay below 2**63; a longer length is an attack or a mistake."""

# What a field means to a proxy. Everything else is PLAIN.
PLAIN: Final = 0
DROP: Final = 1
HOST: Final = 2
LENGTH: Final = 3
CODING: Final = 4
CONNECTION: Final = 5
UPGRADE: Final = 6
EXPECT: Final = 7
VIA: Final = 8
TRAILER: Final = 9
TE: Final = 10
REQUEST_ID: Final = 11
MAX_FORWARDS: Final = 12
KEEP_ALIVE: Final = 13
CLAIM: Final = 14
"""Only a trusted proxy may say it. In place of its value the whole line is kept."""
UNDERSCORE: Final = 15
"""Dropped, since programs may take it for another. In place of its value its name is kept."""

_REQUEST_KINDS: Final = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"via": VIA,
    b"trailer": TRAILER,
    b"te": TE,
    b"x-request-id": REQUEST_ID,
    b"max-forwards": MAX_FORWARDS,
    # CGI programs get it as HTTP_PROXY, from which they and what they start take their own proxy
    # ("httpoxy"). No client has a use for it.
    b"proxy": DROP,
    # Hop-by-hop by RFC 9110 §7.6.1 or by long custom.
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"http2-settings": DROP,
}
_RESPONSE_KINDS: Final = {
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"via": VIA,
    b"trailer": TRAILER,
    b"keep-alive": KEEP_ALIVE,
    b"x-request-id": REQUEST_ID,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"te": DROP,
}

HEAD_END: Final = b"\r\n\r\n"
"""A head ends behind the first of these."""

Special = tuple[int, bytes]
"""A field that means something to a proxy: its kind and its value."""


class _FieldReader:
    """Owns the memory of the lines it has read, and of their names. One per direction."""

    def __init__(self, kinds: dict[bytes, int], of_requests: bool) -> None:
        self._kinds = dict(kinds)  # ≤ 8 KiB + 256 B per listener
        self._of_requests = of_requests
        self._names: Memo[bytes, int] = Memo(_KIB * 256, _KIB)  # ≤ _KIB * 256
        """Spellings of names, and what they mean. Real traffic has a few hundred."""
        self._plain: Memo[bytes, bytes] = Memo(_KIB * 1024, _KIB * 2)  # ≤ _KIB * 1024
        """Lines without meaning to a proxy, and how they are serialised."""
        self._special: Memo[bytes, Special] = Memo(_KIB * 1024, _KIB * 2)  # ≤ _KIB * 1024

    def call_a_claim(self, name: bytes) -> bool:
        """Whether fields of this name, in lower case, were something else until now."""
        if self._kinds.get(name, PLAIN) != PLAIN or not add_claim(name):
            return False
        self._names.clear()
        self._plain.clear()
        self._special.clear()
        return True

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
            if not colon or value.translate(None, _VALUE_BYTES):
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
            kind = self._classify(name.lower())
        self._names.put(name, kind, ENTRY + len(name))
        return kind

    def _classify(self, lower: bytes) -> int:
        # X_Forwarded_For reaches CGI-like instances as the same variable as X-Forwarded-For,
        # so a name with an underscore is a way around every rule below.
        if self._of_requests and lower.find(b"_") >= 0:
            return UNDERSCORE
        kind = self._kinds.get(lower, PLAIN)
        if self._of_requests and kind == PLAIN:
            if is_claim(lower):
                return CLAIM
            means = hyphened(lower)  # Other punctuation, only where it stands for such a rule.
            if means != lower and (means in self._kinds or is_claim(means)):
                return UNDERSCORE
        return kind


LONGEST_BLOCK: Final = 2048
"""Bytes of a block that is looked up before the end of its head is looked for."""
ANSWER_FIELDS: Final = 256
"""Fields of an answer, twice as many as a request may have by default. HAProxy and Envoy take some
hundred, real answers have thirty; without a bound 64 KiB would hold 16,000."""

_KIB: Final = 1024
_request_reader: Final = _FieldReader(_REQUEST_KINDS, of_requests=True)
_response_reader: Final = _FieldReader(_RESPONSE_KINDS, of_requests=False)
_request_memo: Final[Memo[bytes, RequestFields]] = Memo(_KIB * 3072, _KIB * 16)  # ≤ _KIB * 3072
_response_memo: Final[Memo[bytes, ResponseFields]] = Memo(_KIB * 3072, _KIB * 16)  # ≤ _KIB * 3072
_hosts: Final[Memo[bytes, str]] = Memo(_KIB * 256, _KIB)  # ≤ _KIB * 256
_status_lines: Final[Memo[bytes, StatusLine]] = Memo(_KIB * 64, _KIB)  # ≤ _KIB * 64
"""Real instances have a dozen."""


def call_a_claim(name: bytes) -> None:
    """From now on the field `name`, in lower case, is for trusted proxies to set, on all
    listeners: somewhere it says who the client is."""
    if _request_reader.call_a_claim(name):
        _request_memo.clear()


_USUAL: Final = IdField("X-Request-ID", bytes, bytes)


def parse_request(head: bytes, max_fields: int) -> RequestHead:
    """A whole request head, up to and including its empty line. Raises `Refused`, or
    `TooManyFields`."""
    line, _, block = head.partition(CRLF)
    return request_of(line, block, max_fields, _USUAL)


def is_known(block: bytes) -> bool:
    """Whether this is a whole field block, with its empty line and nothing behind it, that was
    read a short while ago. False says nothing."""
    return block in _request_memo.young


def request_of(line: bytes, block: bytes, max_fields: int, ids: IdField) -> RequestHead:
    """The same for a head that is cut behind its first CRLF already. `ids`: how requests are
    named where it came in."""
    fields = _request_memo.young.get(block)
    if fields is None:
        fields = _request_memo.old.get(block) or _read_request_fields(block, _USUAL, max_fields)
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


def parse_response(head: bytes, ids: IdField = _USUAL) -> ResponseHead:
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
        fields = _response_memo.old.get(block) or _read_response_fields(block, _USUAL)
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


def _named_by(
    ids: IdField, plain: list[bytes], special: list[Special]
) -> tuple[list[bytes], list[Special]]:
    """The same field lines for a listener that names requests by another field, or by none: then
    the usual one is like any other."""
    kept: list[bytes] = []
    others: list[Special] = []
    for kind, line in [*((PLAIN, line) for line in plain), *special]:  # ≤ 256
        name, _, value = line.partition(b": ")
        if kind in (PLAIN, CLAIM) and name.lower() == ids.lower:
            others.append((REQUEST_ID, value))
        elif kind == PLAIN:
            kept.append(line)
        elif kind == REQUEST_ID:
            kept.append(b"X-Request-ID: " + line)
        else:
            others.append((kind, line))
    return kept, others


def _read_request_fields(block: bytes, ids: IdField, max_fields: int) -> RequestFields:
    try:
        plain, special = _request_reader.read(block, max_fields)
    except ValueError as error:
        raise Refused(BAD_REQUEST, str(error)) from None
    if not ids.usual:
        plain, special = _named_by(ids, plain, special)
    fields = RequestFields(plain, len(plain) + len(special), len(block))
    connection: bytes | None = None
    given: list[bytes] = []
    claims: list[bytes] = []
    underscored: list[bytes] = []
    for kind, value in special:  # ≤ 256
        if kind == HOST:
            fields.hosts += 1
            fields.host = value
        elif kind == CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif kind == REQUEST_ID:
            given.append(value)
        elif kind == EXPECT:
            fields.expect = _joined(fields.expect, value)
        elif kind == CLAIM:
            claims.append(value)
        elif kind == UNDERSCORE:
            underscored.append(value)
        elif kind == TE:
            fields.te_trailers = fields.te_trailers or b"trailers" in _members(value)
        elif kind == MAX_FORWARDS:
            fields.max_forwards = value
        else:
            _common_field(fields, kind, value, BAD_REQUEST)
    fields.host_name = _hosts.young.get(fields.host) or _host_name(fields.host)
    named: frozenset[bytes] = _NO_NAMES
    if connection is not None:
        fields.set_connection(_members(connection))
        named = strip_named(fields)
    if claims:
        take_claims(fields, claims, named)
    if given and ids.lower not in named:
        fields.request_id = acceptable(given)
    if not ids.usual:
        fields.id_name = ids.lower
    fields.underscored = tuple(underscored)
    fields.unusual = (
        fields.via != ()
        or fields.expect is not None
        or fields.upgrade is not None
        or fields.max_forwards is not None
        or underscored != []
        or b"x-forwarded-prefix" in fields.claims
    )
    fields.passed = passed_fields(fields)
    return fields


def _read_response_fields(block: bytes, ids: IdField) -> ResponseFields:
    try:
        plain, special = _response_reader.read(block, ANSWER_FIELDS)
    except ValueError as error:
        raise Refused(BAD_ANSWER, str(error)) from None
    except TooManyFields:
        raise Refused(BAD_ANSWER, f"more than {ANSWER_FIELDS} fields") from None
    if not ids.usual:
        plain, special = _named_by(ids, plain, special)
    fields = ResponseFields(plain, len(plain) + len(special), len(block))
    connection: bytes | None = None
    for kind, value in special:  # ≤ 256
        if kind == KEEP_ALIVE:
            fields.keep_alive = value
        elif kind == CONNECTION:
            connection = value if connection is None else connection + b"," + value
        elif kind != REQUEST_ID:  # The instance's own gives way to ours.
            _common_field(fields, kind, value, BAD_ANSWER)
    if connection is not None:
        fields.set_connection(_members(connection))
        strip_named(fields)
    if b"\r\nDate: " not in fields.plain:  # As most servers write it, and seldom first.
        fields.dated = b"\ndate: " in b"\n" + fields.plain.lower()
    if fields.dated and fields.upgrade is None:
        fields.relayed = relayed_fields(fields, BY_LENGTH, 1, True)
    else:
        fields.usual = False
    return fields


def _common_field(fields: Fields, kind: int, value: bytes, fault: Fault) -> None:
    if kind == LENGTH:
        if fields.length is not None or not _LENGTH.fullmatch(value):
            # RFC 9112 §6.3: repeated or malformed lengths are unrecoverable.
            raise Refused(fault, "Content-Length is repeated or not a plain number")
        fields.length = int(value)
    elif kind == CODING:
        _check_coding(fields, value, fault)
        fields.chunked = True
    elif kind == VIA:
        fields.via += (value,)
    elif kind == UPGRADE:
        fields.upgrade = _joined(fields.upgrade, value)
    elif kind == TRAILER:
        fields.trailer = _joined(fields.trailer, value)
    if fields.chunked and fields.length is not None:
        # RFC 9112 §6.1: the classic of request smuggling.
        raise Refused(fault, "Content-Length together with Transfer-Encoding")


def _check_coding(fields: Fields, value: bytes, fault: Fault) -> None:
    if fields.chunked:
        raise Refused(fault, "Transfer-Encoding is repeated")
    if value.lower() != b"chunked":
        last = value.lower().rstrip(b", \t").rpartition(b",")[2].strip(b" \t")
        if fault is BAD_REQUEST and last == b"chunked":
            # RFC 9112 §6.1: a coding that is not understood is answered 501.
            raise Refused(CODING_NOT_SUPPORTED, "the only transfer coding understood is chunked")
        raise Refused(fault, "Transfer-Encoding is not exactly chunked")


class TooManyFields(Exception):
    """More field lines than the listener allows; the caller knows the limit."""


_NO_NAMES: Final[frozenset[bytes]] = frozenset()
_COMMON_MEMBERS: Final = {
    value: frozenset((value.lower(),))
    for value in (b"keep-alive", b"Keep-Alive", b"close", b"Upgrade", b"upgrade")
}


def _members(value: bytes) -> frozenset[bytes]:
    """The members of a comma-separated list, lower-case (RFC 9110 §5.6.1). A head may hold
    thousands: no line of Python looks at each."""
    common = _COMMON_MEMBERS.get(value)
    if common is not None:
        return common
    return frozenset(filter(None, map(bytes.strip, value.lower().split(b","))))


def _joined(before: bytes | None, value: bytes) -> bytes:
    return value if before is None else before + b", " + value


def _host_name(authority: bytes) -> str:
    """The host of `HOST[:PORT]`, lower-case, without port. Raises `Refused`."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise Refused(BAD_REQUEST, "the Host is not HOST or HOST:PORT")
    if int(match[2] or b"0") > 65535:
        raise Refused(BAD_REQUEST, "the port in Host is above 65535")
    name = match[1].decode("ascii").lower().rstrip(".")
    _hosts.put(authority, name, ENTRY + 2 * len(authority))
    return name
