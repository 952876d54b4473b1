"""The record of a service of ours in the meta of Consul's. Pure.

Consul keeps pairs of texts, of 512 bytes at most, so a record stands there in pieces, beside who
wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from proxy.registry.base import Refused

OWN: Final = "fairlead-"
"""Beginning of the names of pairs that are ours, and no metadata."""
ID: Final = f"{OWN}id"
LEASE: Final = f"{OWN}lease"
_WRITE: Final = f"{OWN}write"
_PIECE: Final = 512
_PIECES: Final = 48
"""Pieces of a record: Consul takes 64 pairs."""


def packed(id_: str, value: bytes, lease: int, write: int) -> dict[str, str]:
    """Pairs for a record; `write` is another number each time. Refused for a record that is too
    long."""
    text = json.dumps(json.loads(value), separators=(",", ":"))  # ASCII, so bytes are characters
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    if len(pieces) > _PIECES:
        raise Refused(f"a record of {len(text)} bytes; Consul holds {_PIECE * _PIECES} at most")
    numbered = {f"{OWN}record-{number}": piece for number, piece in enumerate(pieces)}
    return {ID: id_, LEASE: str(lease), _WRITE: str(write), **numbered}


def unpacked(meta: Mapping[str, str]) -> dict[str, Any] | None:
    """The record in the pairs; None = there is none, or it is cut."""
    if f"{OWN}record-0" not in meta:
        return None
    text = "".join(meta.get(f"{OWN}record-{number}", "") for number in range(_PIECES))
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def lease_of(meta: Mapping[str, str]) -> int:
    """Lease of the one who wrote; 0 = somebody else did."""
    text = meta.get(LEASE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
