"""The record of a registrar of ours in a registry that has records of its own. Pure.

Address, port, health and metadata stand where the clients of that registry look for them. What it
has no place for stands in one more pair of the metadata, beside who wrote it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Final

import msgspec

PAIR: Final = "fairlead"
"""Name of the pair that is ours, and no metadata."""
_THEIRS: Final = ("preserved.", "@class")
"""Beginnings of the names of pairs that are a registry's, and no metadata."""


class Own(msgspec.Struct, frozen=True):
    """The contents of the pair."""

    record: dict[str, Any]
    """Fields of the record that stand nowhere else."""
    lease: int = 0
    """Lease of the one who wrote."""
    write: int = 0
    """Another number each time."""


def packed(record: Mapping[str, Any], lease: int) -> dict[str, str]:
    """The metadata of a record."""
    rest = {name: record[name] for name in record.keys() - {"address", "port", "metadata"}}
    own = Own(rest, lease, random.getrandbits(62))
    given = record.get("metadata") or {}
    metadata = {name: str(value) for name, value in given.items()}
    return {**metadata, PAIR: msgspec.json.encode(own).decode()}


def own_of(metadata: object) -> Own | None:
    """The contents of the pair; None = somebody else wrote this."""
    if not isinstance(metadata, dict):
        return None
    try:
        return msgspec.json.decode(metadata.get(PAIR, ""), type=Own)
    except (TypeError, ValueError, RecursionError):
        return None


def metadata_of(metadata: object) -> dict[str, Any]:
    """The metadata as they were stated; what is no object is none."""
    if not isinstance(metadata, dict):
        return {}
    return {
        name: value
        for name, value in metadata.items()
        if name != PAIR and not name.startswith(_THEIRS)
    }


def word_of(record: Mapping[str, Any]) -> str:
    """The status that a record states."""
    health = record.get("health")
    return str(health.get("status", "healthy")) if isinstance(health, dict) else "healthy"


def decoded(value: bytes) -> dict[str, Any]:
    """The record as it is written; registrars write objects only."""
    record = json.loads(value)
    assert isinstance(record, dict)
    return record
