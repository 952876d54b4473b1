"""HPACK, the compression of fields (RFC 7541).

Reading: each connection has a table of fields that its peer fills. A field is read once and stays
the same object as long as it is in the table, so whatever was found out about it stays with it.

Writing: without a table. A block is then a function of its fields alone: a head is written once and
kept, whichever connection it goes to, and nobody has to keep blocks and table in step. It takes a
hundred bytes more than with a table, in front of an answer of thousands; nginx does the same. Nor
is anything Huffman coded, which would save a quarter of these and costs more than to send them. And
every field is one that nobody is to keep in a table ("never indexed", RFC 7541 §6.2.3): a field
that its sender marked so must stay so on its way, and this way nobody has to remember which.
"""

from __future__ import annotations

from typing import Final

from proxy.http2.huffman import decode as decode_huffman

TABLE_SIZE: Final = 4096
"""Of the table for reading, as RFC 7541 §4.1 counts: what a peer may assume before SETTINGS."""
OVERHEAD: Final = 32
"""Bytes that each field counts for besides its name and value (RFC 7541 §4.1)."""
NO_TABLE: Final = b"\x20"
"""Beginning of the first block to a peer: the table of our fields has the size 0 from then on, so
that no SETTINGS can reduce it any further (RFC 7541 §4.2, RFC 9113 §4.3.1)."""

_STATIC: Final = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"),
    (b":path", b"/index.html"), (b":scheme", b"http"), (b":scheme", b"https"),
    (b":status", b"200"), (b":status", b"204"), (b":status", b"206"), (b":status", b"304"),
    (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""),
    (b"accept", b""), (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""),
    (b"authorization", b""), (b"cache-control", b""), (b"content-disposition", b""),
    (b"content-encoding", b""), (b"content-language", b""), (b"content-length", b""),
    (b"content-location", b""), (b"content-range", b""), (b"content-type", b""), (b"cookie", b""),
    (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""),
    (b"host", b""), (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""),
    (b"if-range", b""), (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""),
    (b"location", b""), (b"max-forwards", b""), (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""),
    (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""),
    (b"strict-transport-security", b""), (b"transfer-encoding", b""), (b"user-agent", b""),
    (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
)  # fmt: skip
"""RFC 7541 appendix A, from index 1 on."""
_LAST_STATIC: Final = len(_STATIC)
_LONGEST_INTEGER: Final = 4
"""Bytes behind the first one of a number: up to 2**28, more than anything may be long here."""


class BlockError(Exception):
    """A field block that cannot be used."""

    def __init__(self, detail: str, too_large: bool = False) -> None:
        super().__init__(detail)
        self.too_large = too_large
        """The block was read to its end, and only has more fields than are allowed: the connection
        may go on. Else it is a connection error of type COMPRESSION_ERROR (RFC 9113 §4.3)."""


class Field:
    """A field as it was read. Frozen once made, but for what readers of heads note on it."""

    __slots__ = ("kind", "line", "name", "size", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name = name
        self.value = value
        self.size = len(name) + len(value) + OVERHEAD
        """As RFC 7541 §4.1 and RFC 9113 §6.5.2 count."""
        self.kind = -1
        """Meaning of the field; negative = nobody has looked yet."""
        self.line = b""  # ≤ size
        """How it is passed on, once somebody has looked."""


def static_fields() -> list[Field]:
    """The static table, new: whoever reads heads of one direction has one, for what it notes."""
    return [Field(name, value) for name, value in _STATIC]


class Decoder:
    """Reads the field blocks of one peer. Owns the dynamic table."""

    __slots__ = ("_capacity", "_dynamic", "_left", "_static", "changes", "max_fields", "max_size")

    def __init__(self, static: list[Field], max_size: int, max_fields: int) -> None:
        """`max_size`, `max_fields`: of the fields of one block, as `Field.size` counts."""
        self._static = static  # ≤ 16 KiB
        self._dynamic: list[Field] = []  # ≤ 48 KiB
        """The latest field last: of 4 KiB as RFC 7541 counts there may be 128, and each is an
        object with three texts."""
        self._capacity = TABLE_SIZE
        self._left = TABLE_SIZE
        self.max_size = max_size
        self.max_fields = max_fields
        self.changes = 0
        """How many times the table has changed: a block that was read without a change means the
        same until there is one."""

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a whole block, in order. Raises `BlockError`."""
        try:
            return self._decode(block)
        except IndexError:
            raise BlockError("a field block breaks off, or names a field that is not there") from (
                None
            )

    def forget_kinds(self) -> None:
        """Forget what was noted on the fields of the dynamic table."""
        for field in self._dynamic:  # ≤ 128
            field.kind = -1

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        static = self._static
        room = self.max_size
        most = self.max_fields
        updates_over = False
        at = 0
        end = len(block)
        while at < end:  # ≤ 256 KiB
            first = block[at]
            at += 1
            if first >= 0x80:  # §6.1: an indexed field.
                index = first & 0x7F
                if index == 0x7F:
                    index, at = _integer(block, at, 0x7F)
                field = static[index - 1] if 0 < index <= _LAST_STATIC else self._indexed(index)
            elif first >= 0x40:  # §6.2.1: a literal that goes into the table.
                field, at = self._literal(block, at, first & 0x3F, 0x3F)
                self._add(field)
            elif first < 0x20:  # §6.2.2, §6.2.3: a literal that does not.
                field, at = self._literal(block, at, first & 0x0F, 0x0F)
            else:  # §6.3: another size of the table, only in front of all fields (§4.2).
                size = first & 0x1F
                if size == 0x1F:
                    size, at = _integer(block, at, 0x1F)
                if updates_over or size > TABLE_SIZE:
                    raise BlockError("a size of the table that is too large, or behind a field")
                self._resize(size)
                continue
            updates_over = True
            room -= field.size
            # Read on all the same: the table must be what the peer believes it is.
            if room >= 0 and most > 0:
                fields.append(field)
            most -= 1
        if room < 0:
            raise BlockError(f"the fields are longer than {self.max_size} bytes", too_large=True)
        if most < 0:
            raise BlockError(f"there are more than {self.max_fields} fields", too_large=True)
        return fields

    def _indexed(self, index: int) -> Field:
        """The field at an index that is not of the static table."""
        at = len(self._dynamic) + _LAST_STATIC - index
        if index == 0 or at < 0:
            raise BlockError(f"no field has the index {index}")
        return self._dynamic[at]

    def _literal(self, block: bytes, at: int, index: int, mask: int) -> tuple[Field, int]:
        """A field whose value, or all of it, is written out; and where the next begins."""
        if index == mask:
            index, at = _integer(block, at, mask)
        if index == 0:
            name, at = _text(block, at)
        elif index <= _LAST_STATIC:
            name = self._static[index - 1].name
        else:
            name = self._indexed(index).name
        value, at = _text(block, at)
        return Field(name, value), at

    def _add(self, field: Field) -> None:
        """§4.4: others are evicted until it fits; one that never fits empties the table."""
        self.changes += 1
        self._left -= field.size
        if self._left < 0:
            self._evict()
        if self._left >= 0:
            self._dynamic.append(field)
        else:
            self._left = self._capacity

    def _resize(self, size: int) -> None:
        """§4.3."""
        if size != self._capacity:
            self.changes += 1
            self._left += size - self._capacity
            self._capacity = size
            self._evict()

    def _evict(self) -> None:
        """Take the oldest fields out, until the rest fits or there is none."""
        dynamic = self._dynamic
        gone = 0
        while self._left < 0 and gone < len(dynamic):  # ≤ 128
            self._left += dynamic[gone].size
            gone += 1
        del dynamic[:gone]


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """The rest of a number whose first bits, `prefix`, are all set (§5.1); and what is behind."""
    value = prefix
    for shift in range(0, 7 * _LONGEST_INTEGER, 7):  # ≤ 4
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BlockError("a number is too large")


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    """A text (§5.2), and what is behind."""
    first = block[at]
    at += 1
    length = first & 0x7F
    if length == 0x7F:
        length, at = _integer(block, at, 0x7F)
    stop = at + length
    if stop > len(block):
        raise IndexError
    text = block[at:stop]
    if first >= 0x80:
        try:
            text = decode_huffman(text)
        except ValueError as error:
            raise BlockError(f"a Huffman text is malformed: {error}") from None
    return text, stop


# -- writing

_NEVER_INDEXED: Final = 0x10
_BYTES: Final = [bytes((byte,)) for byte in range(256)]


def _number(first: int, prefix: int, value: int) -> bytes:
    """A number behind the bits `first`; `prefix`: the most that fits beside them (§5.1)."""
    if value < prefix:
        return _BYTES[first | value]
    coded = [first | prefix]
    value -= prefix
    while value >= 0x80:  # ≤ 4
        coded.append(value & 0x7F | 0x80)
        value >>= 7
    coded.append(value)
    return bytes(coded)


_NAMES: Final = {
    name: _number(_NEVER_INDEXED, 0x0F, _LAST_STATIC - before)
    for before, (name, _) in enumerate(reversed(_STATIC))
}
"""Names of the static table → how a literal with one of them begins; of several places the
first."""
_WHOLE: Final = {
    field: _number(0x80, 0x7F, index) for index, field in enumerate(_STATIC, 1) if field[1]
}
"""Fields of the static table that have a value."""


def name_bytes(name: bytes) -> bytes:
    """How a field begins whose name, in lower case, this is."""
    known = _NAMES.get(name)
    if known is None:
        known = b"%c%b%b" % (_NEVER_INDEXED, _number(0, 0x7F, len(name)), name)
    return known


def value_bytes(value: bytes) -> bytes:
    """How a field ends."""
    return _number(0, 0x7F, len(value)) + value


def encode(name: bytes, value: bytes) -> bytes:
    """One field; `name` in lower case."""
    whole = _WHOLE.get((name, value))
    return name_bytes(name) + value_bytes(value) if whole is None else whole
