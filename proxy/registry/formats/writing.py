"""Records → the keys and values that registrars of other formats write. Pure; the other way is in
`layout.py` and `shapes.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import sha256
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


def _curator(record: Record) -> bytes:
    metadata = record.get("metadata") or {}
    named = {name: record.get(name, "") for name in ("name", "id")}
    of_spring = "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance"
    secure = metadata.get("scheme") == "https"
    registered = record.get("register_time")
    return msgspec.json.encode(
        {
            **named,
            "address": str(record["address"]).strip("[]"),
            "port": None if secure else record["port"],
            "sslPort": record["port"] if secure else None,
            # Clients without a payload of their own cannot read one.
            "payload": {"@class": of_spring, **named, "metadata": metadata} if metadata else None,
            "registrationTimeUTC": int(datetime.fromisoformat(registered).timestamp() * 1000)
            if registered
            else 0,
            "serviceType": "DYNAMIC",
            "uriSpec": None,
            "enabled": True,
        }
    )


def _serverset(record: Record) -> bytes:
    metadata = record.get("metadata") or {}
    shard = str(metadata.get("shard", ""))
    return msgspec.json.encode(
        {
            "serviceEndpoint": {
                "host": str(record["address"]).strip("[]"),
                "port": record["port"],
            },
            "additionalEndpoints": {},
            "status": "ALIVE",
            **({"shard": int(shard)} if re.fullmatch("[0-9]{1,9}", shard) else {}),
            "metadata": metadata,
        }
    )


def _registrator_in_zookeeper(record: Record) -> bytes:
    fields = {"Name": record.get("name", ""), "IP": str(record["address"]).strip("[]")}
    port = record["port"]
    more = {"PublicPort": port, "PrivatePort": port, "ContainerID": "", "Tags": [], "Attrs": {}}
    return msgspec.json.encode({**fields, **more})


WRITTEN: Final[Mapping[str, Mapping[str, Callable[[Record], bytes]]]] = {
    "consul-kv": {"text": _text, "registrator": _text},
    "etcd": {
        "text": _text,
        "grpc": _grpc,
        "kratos": _kratos,
        "go-micro": _go_micro,
        "go-zero": _text,
        "registrator": _text,
        "nerve": _nerve,
    },
    "zookeeper": {
        "text": _text,
        "curator": _curator,
        "serverset": _serverset,
        "kratos": _kratos,
        "go-micro": _go_micro,
        "registrator": _registrator_in_zookeeper,
        "nerve": _nerve,
    },
}
"""Registry → the formats beside ours in which others write there."""

PREFIXES: Final[Mapping[tuple[str, str], str]] = {
    ("etcd", "grpc"): "",
    ("etcd", "go-zero"): "",
    ("etcd", "kratos"): "/microservices/",
    ("etcd", "go-micro"): "/micro/registry/",
    ("zookeeper", "kratos"): "/microservices",
    ("zookeeper", "go-micro"): "/micro-registry",
}
"""Registry and format → where its readers look unless they are told otherwise."""


def key_end(form: str, id_: str) -> str:
    """The end of the key of an instance, which is its id but where readers ask for a number."""
    return f"member_{_number(id_)}" if form == "serverset" else id_


def id_in(registry: str, form: str, host: str, address: str, port: int) -> str:
    """The id that a registrar of the format gives to an instance on the machine `host`."""
    pair = _pair({"address": address, "port": port})
    own = f"{host}-{port}"
    if form in ("grpc", "serverset") or (form, registry) == ("registrator", "zookeeper"):
        return pair
    if form == "registrator":
        return f"{host}:{own}:{port}"
    if form == "go-zero":  # The number of a lease, or one of one's own.
        return _number(own)
    return own


def _number(text: str) -> str:
    """63 bits of a text, always the same ones."""
    return str(int.from_bytes(sha256(text.encode()).digest()[:8]) >> 1)


def written(registry: str, form: str, value: bytes) -> bytes | None:
    """The value in a format of `WRITTEN` for one of ours. None for an instance that is not healthy:
    these formats have no word for it, and who reads them goes by what is there."""
    record = msgspec.json.decode(value)
    if (record.get("health") or {}).get("status", "healthy") != "healthy":
        return None
    return WRITTEN[registry][form](record)
