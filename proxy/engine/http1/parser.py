"""From bytes to heads. Sole importer of the C parser (llhttp, through httptools).

The listener and the upstream connection find the end of a head themselves (`find_head_end`)
and hand over whole heads, so the result cannot depend on how the bytes were cut. Start lines
are split here: llhttp knows a closed list of methods and tolerates runs of spaces. Field lines
are llhttp's. It gets them behind the start line of a 304 response, which by definition has
no body (RFC 9110 §15.4.5): whatever Content-Length or Transfer-Encoding say, the parser is
ready for the next head, one parser serves a whole worker, and framing is decided in one place,
below, for both directions.
"""

from __future__ import annotations

import re

import httptools

from proxy.engine.http1.messages import COLON, CRLF, RequestHead, ResponseHead
from proxy.errors import (
    BAD_ANSWER,
    BAD_REQUEST,
    UNSUPPORTED_CODING,
    UNSUPPORTED_VERSION,
    Fault,
    Refused,
)

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHODS = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT")
)
_TARGET_BYTES = bytes(range(0x21, 0x7F)).replace(b"#", b"")
"""Visible ASCII without the fragment mark. RFC 9112 §3.2 wants less; what is left out here
(quotes, brackets, …) is sent by real browsers and is unambiguous."""
_VERSION = re.compile(rb"HTTP/(\d)\.(\d)")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")
_LENGTH = re.compile(rb"\d{1,18}")
"""18 digits stay below 2**63; a longer length is an attack or a mistake."""

# What a field means to a proxy. Everything else is PLAIN.
(
    PLAIN, DROP, HOST, LENGTH, CODING, CONNECTION, UPGRADE, EXPECT, VIA, TRAILER, TE,
    REQUEST_ID, X_FOR, X_PROTO, X_HOST, X_PORT, FORWARDED, REAL_IP, MAX_FORWARDS, KEEP_ALIVE,
) = range(20)  # fmt: skip

_REQUEST_KINDS = {
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
    b"x-forwarded-for": X_FOR,
    b"x-forwarded-proto": X_PROTO,
    b"x-forwarded-host": X_HOST,
    b"x-forwarded-port": X_PORT,
    b"forwarded": FORWARDED,
    b"x-real-ip": REAL_IP,
    b"max-forwards": MAX_FORWARDS,
    # Hop-by-hop by RFC 9110 §7.6.1 or by long custom.
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"http2-settings": DROP,
}
_RESPONSE_KINDS = {
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"via": VIA,
    b"trailer": TRAILER,
    b"keep-alive": KEEP_ALIVE,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"te": DROP,
}

_MEMO_BOUND = 4096
"""Spellings remembered per direction: real traffic has a few hundred; a client that invents
names must not grow a worker."""


class _FieldReader:
    """Owns one llhttp parser and what it says of the head at hand. One per direction."""

    _START = b"HTTP/1.1 304 _\r\n"

    def __init__(self, kinds: dict[bytes, int], drop_underscores: bool) -> None:
        self._kinds = kinds
        self._drop_underscores = drop_underscores
        self._memo: dict[bytes, int] = {}
        self._parser = httptools.HttpResponseParser(self)
        self.plain: list[bytes] = []
        self.special: list[tuple[int, bytes]] = []

    def read(self, fields: bytes) -> None:
        """Parse a block of field lines with its final empty line into `plain` and `special`."""
        self.plain = []
        self.special = []
        try:
            self._parser.feed_data(self._START + fields)
        except httptools.HttpParserError as error:
            self._parser = httptools.HttpResponseParser(self)
            raise ValueError(str(error)) from None

    def renew(self) -> None:
        """After a head that said `Connection: close`, llhttp takes no further one."""
        self._parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by llhttp for each field line, in order."""
        kind = self._memo.get(name)
        if kind is None:
            kind = self._classify(name)
        if kind == PLAIN:
            self.plain += (name, COLON, value, CRLF)
        else:
            self.special.append((kind, value))

    def _classify(self, name: bytes) -> int:
        # X_Forwarded_For reaches CGI-like instances as the same variable as X-Forwarded-For,
        # so a name with an underscore is a way around every rule below.
        lower = name.lower()
        dropped = self._drop_underscores and b"_" in lower
        kind = DROP if dropped else self._kinds.get(lower, PLAIN)
        if len(self._memo) < _MEMO_BOUND:
            self._memo[name] = kind
        return kind


_request_fields = _FieldReader(_REQUEST_KINDS, drop_underscores=True)
_response_fields = _FieldReader(_RESPONSE_KINDS, drop_underscores=False)
_status_lines: dict[bytes, tuple[int, int, bytes]] = {}


def find_head_end(data: bytes) -> int:
    """Where the head that begins at 0 ends (behind its empty line), or -1 if it is cut off."""
    at = data.find(b"\r\n\r\n")
    return -1 if at < 0 else at + 4


def parse_request(head: bytes, max_fields: int) -> RequestHead:
    """A whole request head, up to and including its empty line. Raises `Refused`."""
    line_end = head.index(CRLF)
    method, target, minor = _split_request_line(head[:line_end])
    reader = _request_fields
    try:
        reader.read(head[line_end + 2 :])
    except ValueError as error:
        raise Refused(BAD_REQUEST, str(error)) from None
    plain = reader.plain
    if len(plain) // 4 + len(reader.special) > max_fields:
        raise TooManyFields
    request = RequestHead(method, target, minor, plain)
    hosts = 0
    for kind, value in reader.special:
        if kind == HOST:
            hosts += 1
            request.host = value.strip(b" \t")
        elif kind == CONNECTION:
            request.connection += _tokens(value)
        elif kind == X_FOR:
            request.forwarded_for = _joined(request.forwarded_for, value)
        elif kind == LENGTH:
            request.length = _length(request.length, value, BAD_REQUEST)
        elif kind == CODING:
            _chunked(request.chunked, value, BAD_REQUEST)
            request.chunked = True
        elif kind == REQUEST_ID:
            request.request_id = value
        elif kind == VIA:
            request.via += (value,)
        elif kind == UPGRADE:
            request.upgrade = _joined(request.upgrade, value)
        elif kind == EXPECT:
            request.expect = _joined(request.expect, value)
        elif kind == X_PROTO:
            request.forwarded_proto = value
        elif kind == X_HOST:
            request.forwarded_host = value
        elif kind == X_PORT:
            request.forwarded_port = value
        elif kind == FORWARDED:
            request.forwarded = _joined(request.forwarded, value)
        elif kind == REAL_IP:
            request.real_ip = value
        elif kind == TE:
            request.te_trailers = request.te_trailers or b"trailers" in _tokens(value)
        elif kind == TRAILER:
            request.trailer = _joined(request.trailer, value)
        elif kind == MAX_FORWARDS:
            request.max_forwards = value
    if b"close" in request.connection:
        reader.renew()
    if hosts != 1 and (minor == 1 or hosts > 1):
        # RFC 9112 §3.2: a server MUST answer 400 to a 1.1 request without exactly one Host.
        raise Refused(BAD_REQUEST, "no Host field" if hosts == 0 else "several Host fields")
    if request.chunked:
        if request.length is not None:
            # RFC 9112 §6.1: the classic of request smuggling.
            raise Refused(BAD_REQUEST, "Content-Length together with Transfer-Encoding")
        if minor == 0:
            raise Refused(BAD_REQUEST, "Transfer-Encoding in an HTTP/1.0 request")
    return request


def parse_response(head: bytes) -> ResponseHead:
    """A whole response head, up to and including its empty line. Raises `Refused`."""
    line_end = head.index(CRLF)
    line = head[:line_end]
    known = _status_lines.get(line)
    if known is None:
        known = _split_status_line(line)
    status, minor, status_line = known
    reader = _response_fields
    try:
        reader.read(head[line_end + 2 :])
    except ValueError as error:
        raise Refused(BAD_ANSWER, str(error)) from None
    response = ResponseHead(status, status_line, minor, reader.plain)
    for kind, value in reader.special:
        if kind == LENGTH:
            response.length = _length(response.length, value, BAD_ANSWER)
        elif kind == CONNECTION:
            response.connection += _tokens(value)
        elif kind == CODING:
            _chunked(response.chunked, value, BAD_ANSWER)
            response.chunked = True
        elif kind == KEEP_ALIVE:
            response.keep_alive = value
        elif kind == UPGRADE:
            response.upgrade = _joined(response.upgrade, value)
        elif kind == VIA:
            response.via += (value,)
        elif kind == TRAILER:
            response.trailer = _joined(response.trailer, value)
    if b"close" in response.connection:
        reader.renew()
    if response.chunked:
        if response.length is not None:
            raise Refused(BAD_ANSWER, "Content-Length together with Transfer-Encoding")
        if minor == 0:
            raise Refused(BAD_ANSWER, "Transfer-Encoding in an HTTP/1.0 response")
    return response


class TooManyFields(Exception):
    """More field lines than the listener allows; the caller knows the limit."""


def _split_request_line(line: bytes) -> tuple[bytes, bytes, int]:
    """Method, target and minor version. Exactly one space between them (RFC 9112 §3)."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Refused(BAD_REQUEST, "the request line is not METHOD SP TARGET SP VERSION")
    method, target, version = parts
    if method not in _METHODS and not _TOKEN.fullmatch(method):
        raise Refused(BAD_REQUEST, "the method is not a token")
    if version == b"HTTP/1.1":
        minor = 1
    elif version == b"HTTP/1.0":
        minor = 0
    else:
        match = _VERSION.fullmatch(version)
        if match is None:
            raise Refused(BAD_REQUEST, "the version is not HTTP/DIGIT.DIGIT")
        if match[1] != b"1":
            raise Refused(UNSUPPORTED_VERSION, f"{version.decode()} is not spoken here")
        minor = 1  # RFC 9110 §2.5: a higher minor version is handled as the highest we know.
    if not target or target.translate(None, _TARGET_BYTES):
        raise Refused(BAD_REQUEST, "the target is empty or holds bytes that no URI has")
    return method, target, minor


def _split_status_line(line: bytes) -> tuple[int, int, bytes]:
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise Refused(BAD_ANSWER, "the status line is not HTTP/1.x SP CODE SP REASON")
    reason = match[3] or b""
    known = int(match[2]), int(match[1]), b"HTTP/1.1 %b %b\r\n" % (match[2], reason)
    if len(_status_lines) < _MEMO_BOUND:
        _status_lines[line] = known
    return known


_COMMON_TOKENS = {
    b"keep-alive": (b"keep-alive",),
    b"Keep-Alive": (b"keep-alive",),
    b"close": (b"close",),
    b"Upgrade": (b"upgrade",),
    b"upgrade": (b"upgrade",),
}


def _tokens(value: bytes) -> tuple[bytes, ...]:
    """The members of a comma-separated list, lower-case (RFC 9110 §5.6.1)."""
    common = _COMMON_TOKENS.get(value)
    if common is not None:
        return common
    return tuple(t for t in (part.strip(b" \t").lower() for part in value.split(b",")) if t)


def _joined(before: bytes | None, value: bytes) -> bytes:
    return value if before is None else before + b", " + value


def _length(before: int | None, value: bytes, fault: Fault) -> int:
    if before is not None or not _LENGTH.fullmatch(value):
        # RFC 9112 §6.3: repeated or malformed lengths are unrecoverable.
        raise Refused(fault, "Content-Length is repeated or not a plain number")
    return int(value)


def _chunked(before: bool, value: bytes, fault: Fault) -> None:
    if before:
        raise Refused(fault, "Transfer-Encoding is repeated")
    if value.lower() != b"chunked":
        if fault is BAD_REQUEST and _tokens(value)[-1:] == (b"chunked",):
            # RFC 9112 §6.1: a coding that is not understood is answered 501.
            raise Refused(UNSUPPORTED_CODING, "the only transfer coding understood is chunked")
        raise Refused(fault, "Transfer-Encoding is not exactly chunked")
