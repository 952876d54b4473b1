"""From field blocks to heads (RFC 9113 §8), the same values that HTTP/1 is parsed to.

A gateway from HTTP/2 to HTTP/1 writes what it has read as lines. So whatever could make another
line, field or body of it is malformed here, before anything is forwarded (§8.2.1, §10.3). What is
wrong with a field is found out once for as long as the field is in the table.

Clients repeat themselves, and then a block is often the same to the byte. What it means depends on
the table as well: so heads are remembered for each connection, by their blocks, until its table
changes, and only those whose own block did not change it.
"""

from __future__ import annotations

from typing import Final

from proxy.errors import BAD_ANSWER, BAD_REQUEST, HEAD_TOO_LARGE, MISDIRECTED, Fault, Refused
from proxy.http.fields import (
    CLAIM,
    CODING,
    CONNECTION,
    DROP,
    HOST,
    LENGTH,
    PLAIN,
    REQUEST_KINDS,
    RESPONSE_KINDS,
    TE,
    UNDERSCORE,
    UPGRADE,
    VALUE_BYTES,
    Kinds,
    Special,
    request_fields,
    response_fields,
)
from proxy.http.forwarding import TOKEN_BYTES
from proxy.http.memo import ENTRY, Memo
from proxy.http.messages import CRLF, RequestHead, ResponseHead, phrase_of
from proxy.http.request_id import IdField
from proxy.http.target import LONGEST_METHOD, TARGET_BYTES, TOKEN
from proxy.http.trailers import passed_trailer
from proxy.http2.errors import COMPRESSION_ERROR, GoAway, Malformed
from proxy.http2.hpack import BlockError, Decoder, Field, static_fields

# Kinds of fields that only HTTP/2 has, beyond those of `proxy.http.fields`.
_COOKIE: Final = 32
"""A crumb of a request's cookies (§8.2.3)."""
_BAD: Final = 33
"""Malformed. In place of its line it has what is wrong."""
_PSEUDO: Final = 40
"""Kinds from here on are those of pseudo-fields (§8.3)."""
_METHOD: Final = 40
_SCHEME: Final = 41
_PATH: Final = 42
_AUTHORITY: Final = 43
_PROTOCOL: Final = 44
_STATUS: Final = 45

_OF_REQUESTS: Final = {
    b":method": _METHOD, b":scheme": _SCHEME, b":path": _PATH, b":authority": _AUTHORITY,
    b":protocol": _PROTOCOL,
}  # fmt: skip
_OF_RESPONSES: Final = {b":status": _STATUS}

_NAME_BYTES: Final = bytes(byte for byte in TOKEN_BYTES if not 0x41 <= byte <= 0x5A)
"""§8.2.1: names are in lower case."""
CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
     b"http2-settings")
)  # fmt: skip
"""§8.2.2: HTTP/2 says in frames what these say in HTTP/1."""
_BLANKS: Final = (0x20, 0x09)
_ROOM: Final = 32 * 1024
"""Bytes of the heads that a connection remembers: half a dozen of a browser's."""
_SENDS: Final = frozenset((b"POST", b"PUT", b"PATCH"))
"""Methods whose requests have a length where they have no body (RFC 9110 §8.6): some servers ask
for one."""
_NO_NAMES: Final[frozenset[bytes]] = frozenset()


class _Direction:
    """Owns what all readers of requests, or of answers, share."""

    def __init__(self, kinds: Kinds, pseudo: dict[bytes, int], fault: Fault) -> None:
        """`pseudo`: pseudo-fields of a head; `fault`: what too large a head is."""
        self.kinds = kinds
        self.pseudo = pseudo  # ≤ 1 KiB
        self.fault = fault
        self.static = static_fields()  # ≤ 32 KiB
        self._names: Memo[bytes, int] = Memo(_ROOM, _ROOM // 16)  # ≤ _ROOM
        """Names and their kinds. Real traffic has some dozens."""
        self._meanings = 0

    def renew(self) -> None:
        """Forget what was noted on the static fields, if names have got another meaning."""
        if self._meanings != self.kinds.changes:
            self._meanings = self.kinds.changes
            self._names.clear()
            for field in self.static:  # ≤ 61
                field.kind = -1

    def kind_of(self, name: bytes) -> int:
        """The kind of a field by its name."""
        kind = self._names.young.get(name)
        if kind is None:
            kind = self._names.old.get(name)
            if kind is None:
                kind = self._classify(name)
            self._names.put(name, kind, ENTRY + len(name))
        return kind

    def _classify(self, name: bytes) -> int:
        if name[:1] == b":":
            return self.pseudo.get(name, _BAD)
        if not name or name.translate(None, _NAME_BYTES) or name in CONNECTION_FIELDS:
            return _BAD
        kind = self.kinds.of(name)
        if self.kinds is REQUEST_KINDS:
            return _COOKIE if name == b"cookie" else kind
        return _BAD if name == b"te" else kind  # §8.2.2: it may be in requests.


_REQUESTS: Final = _Direction(REQUEST_KINDS, _OF_REQUESTS, HEAD_TOO_LARGE)
_ANSWERS: Final = _Direction(RESPONSE_KINDS, _OF_RESPONSES, BAD_ANSWER)


class HeadReader:
    """Reads the heads of one peer. Owns its table."""

    def __init__(self, direction: _Direction, max_size: int, max_fields: int) -> None:
        """`max_size`: of a head, as `hpack.Field.size` counts; `max_fields`: besides
        pseudo-fields."""
        direction.renew()
        self._direction = direction
        self._kinds = direction.kinds
        self._decoder = Decoder(direction.static, max_size, max_fields + len(direction.pseudo))
        self._meanings = self._kinds.changes
        self.cost = 0
        """Work of all heads that were read, and not remembered, in frames (`FrameReader.spend`)."""
        self._changes = 0
        """Of the table, when the memory was empty last."""

    def trailers(self, block: bytes, end: bool, kept_back: frozenset[bytes] = _NO_NAMES) -> bytes:
        """Trailers as field lines, without those that end here (`passed_trailer`). `end`: the
        stream ends with them, as it must (§8.1). Raises as `read` does."""
        lines = []
        for field in self._decode(block):  # ≤ 10000
            kind = field.kind
            if kind >= _PSEUDO:
                raise Malformed("a pseudo-field in trailers")
            if kind == _BAD:
                raise Malformed(field.line.decode("latin-1"))
            lines.append(passed_trailer(field.name, field.value, kept_back))
        if not end:
            raise Malformed("trailers that do not end their stream")
        return b"".join(lines)

    def _has_changed(self) -> bool:
        """Whether a block may mean something else than it did the last time."""
        if self._meanings != self._kinds.changes:
            self._meanings = self._kinds.changes
            self._direction.renew()
            self._decoder.forget_kinds()
        elif self._changes == self._decoder.changes:
            return False
        self._changes = self._decoder.changes
        return True

    def _decode(self, block: bytes) -> list[Field]:
        """Fields whose meaning is noted."""
        try:
            fields = self._decoder.decode(block)
        except BlockError as error:
            if error.too_large:
                raise Refused(self._direction.fault, str(error)) from None
            raise GoAway(COMPRESSION_ERROR, str(error)) from None
        self.cost += len(fields) // 2
        for field in fields:  # ≤ 10000
            if field.kind < 0:
                self.cost += 2
                self._note(field)
        return fields

    def _note(self, field: Field) -> None:
        """Find out what a field means."""
        name, value = field.name, field.value
        kind = self._direction.kind_of(name)
        if kind in (PLAIN, CLAIM, _COOKIE):
            field.line = b"%b: %b" % (name, value)
        else:
            field.line = name if kind == UNDERSCORE else value
        if kind == _BAD:
            field.line = b"a name that a head must not have: %b" % name[:64]
        elif not _is_value(kind, value):
            kind = _BAD
            field.line = b"a value that this field cannot have: %b" % name[:64]
        field.kind = kind


def _is_value(kind: int, value: bytes) -> bool:
    """Whether a field may have this value (§8.2.1), a pseudo-field (§8.3), or `te` (§8.2.2)."""
    if kind < _PSEUDO:
        if kind == TE:
            return value.lower() == b"trailers"  # As all names of codings (RFC 9110 §10.1.4).
        return not value or not (
            value[0] in _BLANKS or value[-1] in _BLANKS or value.translate(None, VALUE_BYTES)
        )
    if kind in (_METHOD, _PROTOCOL):
        return len(value) <= LONGEST_METHOD and TOKEN.fullmatch(value) is not None
    if kind == _SCHEME:
        return value in (b"http", b"https")
    if kind == _PATH:
        return (value[:1] == b"/" or value == b"*") and not value.translate(None, TARGET_BYTES)
    if kind == _AUTHORITY:
        return value.find(b"@") < 0 and value != b"" and not value.translate(None, TARGET_BYTES)
    return len(value) == 3 and value.isdigit() and value >= b"100" and value != b"101"  # §8.6


class RequestReader(HeadReader):
    """Reads the requests of a client."""

    def __init__(
        self, ids: IdField, max_size: int, max_fields: int, extended_connect: bool = False
    ) -> None:
        """`ids`: how requests are named where they come in; `extended_connect`: we have said that
        we serve it (RFC 8441)."""
        super().__init__(_REQUESTS, max_size, max_fields)
        self._ids = ids
        self._extended = extended_connect
        self.takes_https = True
        """Requests may say that they are for `https`: the connection is secured, or whoever speaks
        on it is believed that the client's was."""
        self._memo: Memo[bytes, tuple[bool, RequestHead]] = Memo(_ROOM, _ROOM // 2)  # ≤ _ROOM
        """Block → whether there was no body, and the head."""

    def knows(self, block: bytes) -> bool:
        """Whether the head of this block is remembered."""
        memo = self._memo
        return self._changes == self._decoder.changes and (block in memo.young or block in memo.old)

    def read(self, block: bytes, end: bool) -> RequestHead:
        """The head of a request; `end`: there is no body. Raises `GoAway` where the table is lost,
        `Malformed` where the stream must end, `Refused` where the client can be told why."""
        memo = self._memo
        if self._has_changed():
            memo.clear()
        known = memo.young.get(block)
        if known is not None and known[0] == end:
            return known[1]
        known = memo.old.get(block)
        if known is None or known[0] != end:
            known = end, self._read(self._decode(block), end)
        if self._changes == self._decoder.changes:
            memo.put(block, known, ENTRY + len(block) + known[1].fields.memory)
        return known[1]

    def _read(self, fields: list[Field], end: bool) -> RequestHead:
        method = scheme = path = authority = protocol = length = b""
        host: bytes | None = None
        plain: list[bytes] = []
        special: list[Special] = []
        crumbs: list[bytes] = []
        cookies = size = pseudo = 0
        for seen, field in enumerate(fields):  # ≤ 10000
            kind = field.kind
            size += field.size
            if kind == PLAIN:
                plain.append(field.line)
            elif kind == _COOKIE:
                if not crumbs:
                    cookies = len(plain)
                    plain.append(field.line)
                crumbs.append(field.value)
            elif kind >= _PSEUDO:
                if seen != pseudo:
                    raise Malformed("a pseudo-field behind a field, or a second time")  # §8.3
                pseudo += 1
                value = field.value
                if kind == _METHOD and not method:
                    method = value
                elif kind == _PATH and not path:
                    path = value
                elif kind == _SCHEME and not scheme:
                    scheme = value
                elif kind == _AUTHORITY and not authority:
                    authority = value
                elif kind == _PROTOCOL and not protocol and self._extended:
                    protocol = value
                else:
                    raise Malformed("a pseudo-field a second time, or one that was not offered")
            elif kind == HOST:
                if host is not None:
                    raise Refused(BAD_REQUEST, "several Host fields")
                host = field.value
            elif kind == LENGTH:
                if length:
                    raise Malformed("several content-length fields")
                length = field.value
                special.append((kind, length))
            elif kind == _BAD:
                raise Malformed(field.line.decode("latin-1"))
            elif kind != DROP:
                special.append((kind, field.line))
        if len(crumbs) > 1:
            # An empty one adds nothing, and at the end would leave white space there.
            plain[cookies] = b"cookie: " + b"; ".join([crumb for crumb in crumbs if crumb])
        if not authority:
            authority = host or b""
        elif host is not None and host.lower() != authority.lower():
            # RFC 9113 §8.3.1 lets the authority win; as in HTTP/1 both must say the same.
            raise Refused(BAD_REQUEST, "the Host is not the authority")
        special.append((HOST, authority))
        target = _target(method, scheme, path, authority, protocol)
        if protocol:
            # RFC 8441 §4: means what an HTTP/1 client asks for with Upgrade.
            method = b"GET"
            special += ((CONNECTION, b"upgrade"), (UPGRADE, protocol))
        elif not end and not length and method != b"CONNECT":
            special.append((CODING, b"chunked"))
        elif end and length.strip(b"0"):
            raise Malformed("a content-length, and no content")  # §8.1.1
        elif end and not length and method in _SENDS:
            special.append((LENGTH, b"0"))
        if scheme == b"https" and not self.takes_https:
            raise Refused(MISDIRECTED, "a request for https over clear text")  # RFC 9110 §7.4
        return RequestHead(
            method,
            target,
            2,
            request_fields(_lines(plain), special, len(plain) + len(special), size, self._ids),
        )


def _lines(plain: list[bytes]) -> bytes:
    return CRLF.join(plain) + CRLF if plain else b""


def _target(method: bytes, scheme: bytes, path: bytes, authority: bytes, protocol: bytes) -> bytes:
    """The target of a request whose pseudo-fields these are (§8.3.1, §8.5)."""
    if not method or not authority:
        raise Malformed("a request without method, or without authority and Host")
    if method == b"CONNECT" and not protocol:
        if scheme or path:
            raise Malformed("CONNECT with a scheme or a path")
        return authority
    if protocol and method != b"CONNECT":
        raise Malformed("a protocol, and the method is not CONNECT")
    if not scheme or not path:
        raise Malformed("a request without scheme or path")
    if path == b"*" and method != b"OPTIONS":
        raise Malformed("the path * is for OPTIONS only")
    return path


class AnswerReader(HeadReader):
    """Reads the answers of an instance."""

    def __init__(self, max_size: int, max_fields: int) -> None:
        super().__init__(_ANSWERS, max_size, max_fields)
        self._memo: Memo[bytes, ResponseHead] = Memo(_ROOM, _ROOM // 2)  # ≤ _ROOM
        self._ids: IdField | None = None
        """Of the heads that are remembered."""

    def knows(self, block: bytes) -> bool:
        """Whether the head of this block is remembered."""
        memo = self._memo
        return self._changes == self._decoder.changes and (block in memo.young or block in memo.old)

    def read(self, block: bytes, end: bool, ids: IdField) -> ResponseHead:
        """The head of an answer, interim ones too, for a client of a listener that names requests
        by `ids`; `end`: there is no body. Raises as `RequestReader.read` does."""
        memo = self._memo
        if self._has_changed() or ids is not self._ids:
            memo.clear()
            self._ids = ids
        head = memo.young.get(block)
        if head is None:
            head = memo.old.get(block) or self._read(self._decode(block), ids)
            if self._changes == self._decoder.changes:
                memo.put(block, head, ENTRY + len(block) + head.fields.memory)
        if end and head.status < 200:
            raise Malformed("an interim answer that ends its stream")  # §8.1
        return head

    def _read(self, fields: list[Field], ids: IdField) -> ResponseHead:
        status = b""
        plain: list[bytes] = []
        special: list[Special] = []
        size = 0
        has_length = False
        for field in fields:  # ≤ 10000
            kind = field.kind
            size += field.size
            if kind == PLAIN:
                plain.append(field.line)
            elif kind == _STATUS:
                if size != field.size:
                    raise Malformed("the status behind a field, or a second time")  # §8.3
                status = field.value
            elif kind == _BAD:
                raise Malformed(field.line.decode("latin-1"))
            elif kind != DROP:
                if kind == LENGTH:
                    if has_length:
                        raise Malformed("several content-length fields")
                    has_length = True
                special.append((kind, field.line))
        if not status:
            raise Malformed("an answer without status")  # §8.3.2
        read = response_fields(_lines(plain), special, len(plain) + len(special), size, ids)
        read.usual = False  # What HTTP/1 is told is not prepared.
        return ResponseHead(int(status), _status_line(status), 1, read)


def _status_line(status: bytes) -> bytes:
    """The status line for a client of HTTP/1."""
    return b"HTTP/1.1 %b %b\r\n" % (status, phrase_of(int(status)).encode("ascii"))
