"""Records → the values that registrars of other formats write. Pure; the other way is in
`shapes.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

Record = Mapping[str, Any]


def _pair(record: Record) -> str:
    address = str(record["address"]).strip("[]")
    return f"[{address}]:{record['port']}" if ":" in address else f"{address}:{record['port']}"


def _text(record: Record) -> bytes:
    return _pair(record).encode()


def _grpc(record: Record) -> bytes:
    metadata = record.get("metadata") or None
    return msgspec.json.encode({"Op": 0, "Addr": _pair(record), "Metadata": metadata})


def _kratos(record: Record) -> bytes:
    metadata = record.get("metadata") or {}
    scheme = "grpc" if metadata.get("protocol") == "grpc" else "http"
    secure = "true" if metadata.get("scheme") == "https" else "false"
    return msgspec.json.encode(
        {
            **{name: record.get(name, "") for name in ("id", "name", "version")},
            "metadata": metadata,
            "endpoints": [f"{scheme}://{_pair(record)}?isSecure={secure}"],
        }
    )


def _go_micro(record: Record) -> bytes:
    metadata = record.get("metadata") or {}
    node = {"id": record.get("id", ""), "address": _pair(record), "metadata": metadata}
    return msgspec.json.encode(
        {
            **{name: record.get(name, "") for name in ("name", "version")},
            "metadata": {},
            "endpoints": [],
            "nodes": [node],
        }
    )


def _nerve(record: Record) -> bytes:
    host = str(record["address"]).strip("[]")
    fields = {"host": host, "port": record["port"], "name": record.get("id", "")}
    return msgspec.json.encode({**fields, "metadata": record.get("metadata") or {}})


WRITTEN: Final[Mapping[str, Callable[[Record], bytes]]] = {
    "text": _text,
    "grpc": _grpc,
    "kratos": _kratos,
    "go-micro": _go_micro,
    "go-zero": _text,
    "registrator": _text,
    "nerve": _nerve,
}
"""The formats beside ours."""


def written(form: str, value: bytes) -> bytes | None:
    """The value in a format of `WRITTEN` for one of ours. None for an instance that is not healthy:
    these formats have no word for it, and who reads them goes by what is there."""
    record = msgspec.json.decode(value)
    if (record.get("health") or {}).get("status", "healthy") != "healthy":
        return None
    return WRITTEN[form](record)
