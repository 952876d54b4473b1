"""HTTP/1.1 as the strictest reader there could be: what an instance or a client must be able to
rely on. Anything that two parsers might read differently is a `Violation`, also where the RFC
would let a recipient be lenient (bare LF, folds, spaces, list-valued lengths)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[\x21\x22\x24-\x7e]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_LENGTH = re.compile(rb"0|[1-9][0-9]*")
_CHUNK = re.compile(rb"0|[1-9a-f][0-9a-f]*")


class Violation(Exception):
    """Not strict HTTP/1.1."""


@dataclass(frozen=True)
class Message:
    """A complete request or answer."""

    start: tuple[bytes, ...]
    """Method and target; or the status."""
    fields: tuple[tuple[bytes, bytes], ...]
    """Names in lower case, in order."""
    body: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()

    def all(self, name: bytes) -> list[bytes]:
        """The values of a field."""
        return [value for known, value in self.fields if known == name]


def read_requests(data: bytes) -> tuple[list[Message], bytes]:
    """The complete requests, and the beginning of the next. Stops behind an upgrade."""
    messages = []
    while data:
        head = _head(data)
        if head is None:
            break
        line, fields, at = head
        parts = line.split(b" ")
        if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
            raise Violation(f"request line {line!r}")
        if parts[2] != b"HTTP/1.1":
            raise Violation(f"version {parts[2]!r}")
        if len([name for name, _ in fields if name == b"host"]) != 1:
            raise Violation("not exactly one Host")
        body = _body(data, at, fields)
        if body is None:
            break
        payload, trailers, at = body
        messages.append(Message((parts[0], parts[1]), fields, payload, trailers))
        data = data[at:]
        if any(name == b"upgrade" for name, _ in fields):
            break
    return messages, data


def read_answers(
    data: bytes, methods: Iterable[bytes] = (), *, ended: bool = False
) -> tuple[list[Message], bytes]:
    """The complete answers, 1xx among them, and the rest: the beginning of another, or a tunnel.
    `methods`: what was asked, in order; a GET where it does not say. `ended`: the connection is
    closed, which completes an answer without a length."""
    messages: list[Message] = []
    asked = iter(methods)
    while data:
        head = _head(data)
        if head is None:
            break
        line, fields, at = head
        match = _STATUS.fullmatch(line)
        if match is None:
            raise Violation(f"status line {line!r}")
        status = match[1]
        if status == b"101":
            return [*messages, Message((status,), fields)], data[at:]
        if status.startswith(b"1"):
            _no_framing(fields, b"transfer-encoding", b"content-length")
            messages.append(Message((status,), fields))
            data = data[at:]
            continue
        method = next(asked, b"GET")
        if status == b"204":
            _no_framing(fields, b"transfer-encoding", b"content-length")
        if method == b"HEAD" or status in (b"204", b"304"):
            _no_framing(fields, b"transfer-encoding")
            payload, trailers = b"", _NO_FIELDS
        else:
            names = [name for name, _ in fields]
            if b"content-length" not in names and b"transfer-encoding" not in names:
                if not ended:
                    break
                return [*messages, Message((status,), fields, data[at:])], b""
            body = _body(data, at, fields)
            if body is None:
                break
            payload, trailers, at = body
        messages.append(Message((status,), fields, payload, trailers))
        data = data[at:]
    return messages, data


_Fields = tuple[tuple[bytes, bytes], ...]
_NO_FIELDS: _Fields = ()


def _no_framing(fields: _Fields, *names: bytes) -> None:
    for name, value in fields:
        if name in names:
            raise Violation(f"{name!r}: {value!r} in a message without a body")


def _head(data: bytes) -> tuple[bytes, _Fields, int] | None:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        if b"\n" in data.replace(b"\r\n", b"") or b"\x00" in data:
            raise Violation("a bare LF or NUL in a head")
        return None
    line, _, block = data[:end].partition(b"\r\n")
    return line, _fields(block), end + 4


def _fields(block: bytes) -> _Fields:
    fields = []
    for line in block.split(b"\r\n") if block else ():
        name, colon, value = line.partition(b": ")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Violation(f"field line {line!r}")
        fields.append((name.lower(), value))
    return tuple(fields)


def _body(data: bytes, at: int, fields: _Fields) -> tuple[bytes, _Fields, int] | None:
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise Violation(f"framed twice: {lengths} {codings}")
    if codings:
        if codings != [b"chunked"]:
            raise Violation(f"Transfer-Encoding {codings}")
        return _chunks(data, at)
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise Violation(f"Content-Length {lengths}")
    end = at + (int(lengths[0]) if lengths else 0)
    return (data[at:end], (), end) if end <= len(data) else None


def _chunks(data: bytes, at: int) -> tuple[bytes, _Fields, int] | None:
    payload = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        if not _CHUNK.fullmatch(data[at:end]):
            raise Violation(f"chunk size {data[at:end]!r}")
        size = int(data[at:end], 16)
        at = end + 2
        if size == 0:
            break
        if len(data) < at + size + 2:
            return None
        payload.append(data[at : at + size])
        at += size
        if data[at : at + 2] != b"\r\n":
            raise Violation("a chunk is longer than its size says")
        at += 2
    if data[at : at + 2] == b"\r\n":
        return b"".join(payload), (), at + 2
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    return b"".join(payload), _fields(data[at:end]), end + 4
