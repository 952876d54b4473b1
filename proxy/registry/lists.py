"""A list of instances in one document, of a file or an HTTP server → records. Pure.

Two forms: ours, a mapping of services to lists of records (or of `host:port`), and that of
Prometheus' file and HTTP service discovery, a list of groups with `targets` and `labels`, of which
one names the service. A record that cannot be read harms no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from proxy.membership import Instance
from proxy.registry.formats.endpoints import endpoint
from proxy.registry.records import Unreadable, parsed, read_below

_COMPLAINT = b"!"
"""Begins a value that is the reason why there is no record."""


class NoList(ValueError):
    """A document that is no list of instances; `str()` says why."""


def records(document: object, label: str = "service", place: str = "") -> dict[bytes, bytes]:
    """Key and value of each record, as `read_record` takes them. `label`: of a group's labels the
    one that names the service; `place`: begins the names of places in complaints."""
    found: dict[bytes, bytes] = {}
    if isinstance(document, dict):
        items = _of_mapping(document)
    elif isinstance(document, list):
        items = _of_groups(document, label)
    else:
        raise NoList(
            "is neither a mapping of services to lists of instances nor a list of groups with"
            " targets and labels"
        )
    for at, service, item, labels in items:
        try:
            if not service:
                raise Unreadable(f"there is no label {label!r}, which names the service")
            id_, record = _record(item, labels)
            key = f"{service}/{id_}".encode()
            if key in found:
                raise Unreadable(f"{service} has another {id_}")
            found[key] = msgspec.json.encode(record)
        except Unreadable as error:
            found[(place + at).encode()] = complaint(str(error))
    return found


def decoded(body: bytes) -> object:
    """The document of a body in JSON; ValueError, RecursionError."""
    return parsed(body.decode("utf-8-sig"))


def complaint(reason: str) -> bytes:
    """The value of a key that holds no record, for this reason."""
    return _COMPLAINT + reason.encode()


def read_record(key: bytes, value: bytes) -> tuple[Instance, str]:
    """The instance of a record, and what was odd about it; Unreadable."""
    if value.startswith(_COMPLAINT):
        raise Unreadable(value.removeprefix(_COMPLAINT).decode())
    return read_below(key, value)


class _Item(NamedTuple):
    at: str
    service: str
    """"" = no label names it."""
    item: object
    """A record, or `host:port`."""
    labels: Mapping[str, object] = {}


def _of_mapping(document: Mapping[Any, object]) -> Iterator[_Item]:
    for service, items in document.items():
        if items is None:
            continue  # Every line under it is commented out.
        if not isinstance(items, list):
            raise NoList(f"has no list under {str(service)[:60]!r}")
        for number, item in enumerate(items):
            yield _Item(f"{service}[{number}]", str(service), item)


def _of_groups(document: list[object], label: str) -> Iterator[_Item]:
    for number, group in enumerate(document):
        targets = group.get("targets", 0) if isinstance(group, dict) else 0
        if targets is None:
            continue  # So Go writes a list that was never made.
        if not isinstance(group, dict) or not isinstance(targets, list):
            raise NoList(f"has no list of targets in [{number}]")
        labels = group.get("labels")
        labels = dict(labels) if isinstance(labels, dict) else {}
        service = str(labels.pop(label, None) or "")
        for place, target in enumerate(targets):
            yield _Item(f"[{number}].targets[{place}]", service, target, labels)


def _record(item: object, labels: Mapping[str, object]) -> tuple[str, dict[str, Any]]:
    """Id and record of an item; Unreadable."""
    record = endpoint(item) if isinstance(item, str) else item
    if not isinstance(record, dict):
        raise Unreadable(f"{str(item)[:60]!r} is neither a record nor host:port")
    if labels:
        given = record.get("metadata")
        metadata = {**labels, **(given if isinstance(given, dict) else {})}
        record = {"version": labels.get("version"), **record, "metadata": metadata}
    return str(record.get("id") or f"{record.get('address')}:{record.get('port')}"), record
