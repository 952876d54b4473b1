"""Nodes of ZooKeeper, in the forms that registrars give them → ids and records of ours. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from proxy.registry.records import Unreadable

Format = Callable[[str, bytes], tuple[str, bytes]]
"""Name of an instance's node and its data → id and record; Unreadable."""


def fairlead(node: str, value: bytes) -> tuple[str, bytes]:
    """The record itself."""
    return node, value


def curator(node: str, value: bytes) -> tuple[str, bytes]:
    """`ServiceInstance` of Curator's discovery, with the payload that Spring Cloud puts in it."""
    known = _object(value)
    payload = known.get("payload")
    metadata = payload.get("metadata") if isinstance(payload, dict) else None
    metadata = dict(metadata) if isinstance(metadata, dict) else {}
    port = known.get("port")
    if port is None and known.get("sslPort") is not None:
        port = known["sslPort"]
        metadata.setdefault("scheme", "https")
    health = "draining" if known.get("enabled") is False else "healthy"
    return node, _record(known.get("address"), port, metadata, health)


def serverset(node: str, value: bytes) -> tuple[str, bytes]:
    """A member of Finagle's. Nodes are numbered anew at each registration, so the id is what it
    leads to."""
    known = _object(value)
    endpoint = known.get("serviceEndpoint")
    if not isinstance(endpoint, dict):
        raise Unreadable("the value has no serviceEndpoint with host and port")
    status = known.get("status", "ALIVE")
    metadata = {"shard": known["shard"]} if isinstance(known.get("shard"), int) else {}
    host, port = endpoint.get("host"), endpoint.get("port")
    health = "healthy" if status == "ALIVE" else status
    return f"{host}:{port}", _record(host, port, metadata, health)


FORMATS: Final[Mapping[str, Format]] = {
    "fairlead": fairlead,
    "curator": curator,
    "serverset": serverset,
}


def _object(value: bytes) -> dict[str, Any]:
    try:
        known = msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise Unreadable(f"the value is not a JSON object: {value[:60]!r}")
    return known


def _record(address: object, port: object, metadata: Mapping[str, Any], health: object) -> bytes:
    return msgspec.json.encode(
        {"address": address, "port": port, "metadata": metadata, "health": health}
    )
