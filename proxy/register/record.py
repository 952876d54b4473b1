"""The record that a service writes: from words to key and value. Pure.

The reading side is `registry/records.py`; what that would not accept is refused here, before
it is written, with every reason at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from proxy.register.errors import InvalidRecord
from proxy.registry import records
from proxy.registry.records import MAX_NAME, MAX_VALUE
from proxy.settings.protocol import stated_protocol

Name = tuple[str, str]
"""(service, instance id)."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An instance of a service, as it wants to be known.

    `address` "" is the one this machine uses towards the registry, `id` "" is
    `<host name>-<port>`; the registrar fills both in. `weight` and `protocol` go into `metadata`,
    unless that has them; weight 0 = drained, protocol "" = what the proxy has for the service.
    `status` is where health starts: `healthy` is served, anything else is
    not.
    """

    service: str
    port: int
    address: str = ""
    id: str = ""
    version: str = ""
    weight: int = 1
    protocol: str = ""
    metadata: Mapping[str, str] = {}
    status: str = "healthy"
    message: str = ""

    @property
    def name(self) -> Name:
        return self.service, self.id

    def value(self, now: datetime) -> bytes:
        """The record as JSON, registered and last checked at `now`."""
        metadata = dict(self.metadata)
        if self.weight != 1:
            metadata.setdefault("weight", str(self.weight))
        if self.protocol:
            metadata.setdefault("protocol", self.protocol)
        return msgspec.json.encode(
            {
                "id": self.id,
                "name": self.service,
                "version": self.version,
                "address": self.address,
                "port": self.port,
                "metadata": metadata,
                "health": Health(self.status, self.message, now).document(),
                "register_time": timestamp(now),
            }
        )


class Health(msgspec.Struct, frozen=True):
    """A statement about an instance's health. `status` None: as before, but seen at `at`."""

    status: str | None
    message: str
    at: datetime

    def document(self) -> dict[str, str]:
        status = {} if self.status is None else {"status": self.status}
        return {**status, "last_check": timestamp(self.at), "message": self.message}


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def complaints(record: Record) -> Iterator[str]:
    """All faults of a record whose address and id are filled in."""
    for name, text in (("service", record.service), ("id", record.id)):
        if not text:
            yield f"{name}: is empty"
        elif "/" in text:
            yield f"{name}: {text[:80]!r} has a '/', which separates the parts of the key"
        elif not text.isprintable():
            yield f"{name}: {text[:80]!r} has control characters"
        elif len(text.encode(errors="replace")) > MAX_NAME:
            yield f"{name}: is longer than {MAX_NAME} bytes"
    if not _is_int(record.port) or not 1 <= record.port <= 65535:
        yield f"port: {record.port!r} is not a number from 1 to 65535"
    if not _is_int(record.weight) or not 0 <= record.weight <= records.MAX_WEIGHT:
        yield f"weight: {record.weight!r} is not a number from 0 to {records.MAX_WEIGHT}"
    try:
        stated_protocol({"protocol": record.protocol, **record.metadata})
    except ValueError as error:
        yield f"protocol: {error}"
    for label, text in record.metadata.items():
        if not _is_text(label) or not _is_text(text):
            yield f"metadata: {label!r}: {text!r} is not text; names and values are strings"
    if not record.status or not record.status.isprintable():
        yield f"status: {record.status!r} is empty or has control characters"
    try:
        value = record.value(datetime.now(UTC))
        if len(value) > MAX_VALUE:
            yield f"metadata: the record has {len(value)} bytes; at most {MAX_VALUE} are allowed"
        # Only for its opinion of the address: the rest was judged above, with better words.
        records.read("x", "x", msgspec.json.encode({"address": record.address, "port": 1}))
    except records.Unreadable as unreadable:
        yield f"address: {unreadable}"
    except (TypeError, ValueError, UnicodeError) as error:
        yield f"record: cannot be written as JSON: {error}"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def checked(record: Record) -> Record:
    """The record itself. InvalidRecord with every complaint, named by the instance."""
    reasons = list(complaints(record))
    if reasons:
        raise InvalidRecord([f"{record.service}/{record.id}: {reason}" for reason in reasons])
    return record


def with_health(value: bytes, health: Health) -> bytes | None:
    """`value` with its `health` replaced and everything else kept, unknown fields included, so
    that what others wrote into the record is not lost. None when `value` is no JSON object."""
    document = _object(value)
    if document is None:
        return None
    before = document.get("health")
    if health.status is None and isinstance(before, dict):
        document["health"] = before | {"last_check": timestamp(health.at)}
    else:
        document["health"] = health.document()
    return msgspec.json.encode(document)


def is_readable(value: bytes) -> bool:
    """Whether a value is a JSON object at all."""
    return _object(value) is not None


def _object(value: bytes) -> dict[str, Any] | None:
    try:
        document = msgspec.json.decode(value)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
