"""Messages of Nacos over gRPC: a kind, headers, and JSON (`nacos_grpc_service.proto`). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from proxy.protobuf import field

# message Payload { Metadata metadata = 2; google.protobuf.Any body = 3; }
_METADATA: Final = 2
_BODY: Final = 3
# message Metadata { string type = 3; map<string, string> headers = 7; }
_TYPE: Final = 3
_HEADERS: Final = 7
# message Any { bytes value = 2; }, and of an entry of a map
_KEY: Final = 1
_VALUE: Final = 2

_BYTES: Final = 2
"""Wire type of texts, bytes and messages."""
_FIXED: Final = {1: 8, 5: 4}
"""Bytes of the wire types that have always as many."""


def payload(kind: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> bytes:
    """A message of a kind, such as `ServiceListRequest`."""
    metadata = field(_TYPE, kind.encode())
    for name, value in headers.items():
        pair = field(_KEY, name.encode()) + field(_VALUE, value.encode())
        metadata += field(_HEADERS, pair)
    content = field(_VALUE, msgspec.json.encode(body))
    return field(_METADATA, metadata) + field(_BODY, content)


def read(message: bytes) -> tuple[str, bytes]:
    """The kind of a message and its JSON. ValueError for one that is none."""
    parts = dict(_fields(message))
    kind = dict(_fields(parts.get(_METADATA, b""))).get(_TYPE, b"")
    return kind.decode(), dict(_fields(parts.get(_BODY, b""))).get(_VALUE, b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and values of the fields that are texts, bytes or messages."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == 0:
            _, at = _read_varint(message, at)
            continue
        if kind == _BYTES:
            size, at = _read_varint(message, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"a field of wire type {kind}")
        if at + size > len(message):
            raise ValueError("a message that breaks off")
        if kind == _BYTES:
            yield tag >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("a message that breaks off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
