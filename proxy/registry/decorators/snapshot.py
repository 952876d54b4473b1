"""The last known pools as the content of a file. Pure.

{"format": 1, "saved_at": 1795344000.0, "checksum": "sha256 of the bytes of `services`",
 "services": {"users": [{...}]}}
"""

from __future__ import annotations

import hashlib

import msgspec

from proxy.membership import Instance, Membership

FORMAT = 1


class SnapshotError(Exception):
    """The file cannot be used, or not be written. The text says why."""


class _File(msgspec.Struct, frozen=True):
    format: int
    saved_at: float
    checksum: str
    services: msgspec.Raw


class Snapshot(msgspec.Struct, frozen=True):
    """The content of a file."""

    saved_at: float
    """Seconds since 1970."""
    membership: Membership


def encode(membership: Membership, saved_at: float) -> bytes:
    services = msgspec.json.encode(membership.services)
    return msgspec.json.encode(
        _File(FORMAT, saved_at, hashlib.sha256(services).hexdigest(), msgspec.Raw(services))
    )


def decode(content: bytes) -> Snapshot:
    """SnapshotError for anything that was not written by `encode`, whole."""
    try:
        file = msgspec.json.decode(content, type=_File)
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"is not a snapshot: {error}") from None
    if file.format != FORMAT:
        raise SnapshotError(f"has format {file.format}; this version reads {FORMAT}")
    if hashlib.sha256(file.services).hexdigest() != file.checksum:
        raise SnapshotError("is damaged: its checksum does not fit")
    try:
        services = msgspec.json.decode(file.services, type=dict[str, tuple[Instance, ...]])
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"holds something else than instances: {error}") from None
    return Snapshot(file.saved_at, Membership(services=services))
