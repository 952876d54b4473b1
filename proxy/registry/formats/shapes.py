"""Values as registrars write them → the fields of our record, one function a shape. Pure.

A shape makes no judgement of address and port: `records.py` has one for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from proxy.registry.formats.endpoints import endpoint, is_http, readable, shown
from proxy.registry.records import MAX_NAME, Unreadable, is_ip

Fields = dict[str, Any]
Shape = Callable[[Any, str], tuple[Fields, str]]
"""The value, decoded, and the last part of the key → fields of a record, and what was odd."""

_HOSTS: Final = ("host", "Host", "ip", "IP", "addr", "hostname", "address", "Address", "endpoint")
_PORTS: Final = ("port", "Port", "PublicPort")
_WEIGHTED: Final = re.compile(r"((?:\[[^\]]*\]|[^:]+):[0-9]{1,5}):([0-9]{1,5})\Z")


def fairlead(value: Any, last: str) -> tuple[Fields, str]:
    """`{"address": "10.0.0.5", "port": 8080, …}`."""
    return _object(value, "fairlead"), ""


def text(value: Any, last: str) -> tuple[Fields, str]:
    """`10.0.0.5:8080` or `http://10.0.0.5:8080`: registrator, go-zero, and most of what is made by
    hand. Beside a port alone the key's last part is the address; beside nothing it is `host:port`,
    or `host:port:weight`."""
    if not isinstance(value, str):
        raise Unreadable("the value is an object, and the format text has host:port or a URL")
    value = value.strip()
    if value.isdecimal() and is_ip(last.strip("[]")):
        return {"address": last, "port": value}, ""
    if not value and (weighted := _WEIGHTED.match(last)):
        return {**endpoint(weighted[1]), "metadata": {"weight": weighted[2]}}, ""
    if not value and not readable(last):
        raise Unreadable(f"the value is empty, and the key's end {shown(last)} is not host:port")
    return endpoint(value or last), ""


def grpc(value: Any, last: str) -> tuple[Fields, str]:
    """`{"Op": 0, "Addr": "10.0.0.5:8080", "Metadata": …}`: etcd's own naming for gRPC."""
    record = _object(value, "grpc")
    given = record.get("Metadata")
    metadata = given if isinstance(given, dict) else {}
    odd = "" if given is None or metadata or given == {} else "Metadata is no object: ignored"
    fields = endpoint(_text_at(record, "Addr"))
    return _with({"protocol": "grpc", **metadata}, fields), odd


def kratos(value: Any, last: str) -> tuple[Fields, str]:
    """`{"id", "name", "version", "metadata", "endpoints": ["http://10.0.0.5:8000", "grpc://…"]}`.
    An instance has one endpoint here: that of HTTP, if there is one, or the first that is read."""
    record = _object(value, "kratos")
    endpoints = [one for one in _list_at(record, "endpoints") if isinstance(one, str)]
    if not endpoints:
        raise Unreadable("endpoints in the value holds no URL")
    spoken = [one for one in endpoints if readable(one)] or endpoints
    chosen = next(filter(is_http, spoken), spoken[0])
    rest = [one for one in endpoints if one != chosen]
    odd = f"of several endpoints {shown(chosen)} is used" if rest else ""
    return _with(_metadata(record), endpoint(chosen), record.get("version")), odd


def go_micro(value: Any, last: str) -> tuple[Fields, str]:
    """`{"name", "version", "metadata", "nodes": [{"id", "address": "10.0.0.5:8080", "metadata"}]}`
    with one node: see `instances_in`."""
    record = _object(value, "go-micro")
    node = _object(_list_at(record, "nodes")[0], "go-micro")
    address = _text_at(node, "address")
    fields = endpoint(address) if "port" not in node else {**_pair(node), "metadata": {}}
    metadata = {**_metadata(record), **_metadata(node)}
    if metadata.get("protocol") == "mucp" and metadata.get("transport", "http") == "http":
        # Its own calls, as its servers take them unless told otherwise, are requests of HTTP/1.1.
        del metadata["protocol"]
    return _with(metadata, fields, record.get("version")), ""


def nerve(value: Any, last: str) -> tuple[Fields, str]:
    """`{"host": "10.0.0.5", "port": 8080, "name", …}`, and with it whatever names a host or an
    address and, in there or beside it, a port."""
    record = _object(value, "nerve")
    fields = _pair(record)
    metadata = {**_metadata(record), **_weight(record)}
    return _with(metadata, fields, record.get("version"), record.get("health")), ""


def registrator(value: Any, last: str) -> tuple[Fields, str]:
    """`10.0.0.5:8080` in etcd and Consul; `{"Name", "IP", "PublicPort", …}` in ZooKeeper."""
    return (nerve if isinstance(value, dict) else text)(value, last)


def curator(value: Any, last: str) -> tuple[Fields, str]:
    """`ServiceInstance` of Apache Curator's discovery, with the payload that Spring Cloud puts in
    it. A `sslPort` alone means TLS."""
    record = _object(value, "curator")
    payload = record.get("payload")
    metadata = dict(_metadata(payload)) if isinstance(payload, dict) else {}
    port = record.get("port")
    if port is None and record.get("sslPort") is not None:
        port = record["sslPort"]
        metadata.setdefault("scheme", "https")
    address = _text_at(record, "address")
    if port is None:
        raise _lacks("port", record)
    # Spring Cloud says in there what Curator has no word for, and asks for `UP` as well.
    health = "draining" if record.get("enabled") is False else metadata.get("instance_status")
    return {"address": address, "port": port, "metadata": metadata, "health": health}, ""


def serverset(value: Any, last: str) -> tuple[Fields, str]:
    """`{"serviceEndpoint": {"host", "port"}, "status", "shard"}`: a member of Finagle's."""
    record = _object(value, "serverset")
    found = record.get("serviceEndpoint")
    if not isinstance(found, dict):
        raise _lacks("serviceEndpoint", record)
    shard = {"shard": record["shard"]} if isinstance(record.get("shard"), int) else {}
    status = record.get("status", "ALIVE")
    metadata = {**_metadata(record), **shard}
    return _with(metadata, _pair(found), health=None if status == "ALIVE" else status), ""


SHAPES: Final[Mapping[str, Shape]] = {
    "fairlead": fairlead,
    "text": text,
    "grpc": grpc,
    "kratos": kratos,
    "go-micro": go_micro,
    "go-zero": text,
    "registrator": registrator,
    "nerve": nerve,
    "curator": curator,
    "serverset": serverset,
}
"""Values of `format`, beside `auto`."""


def shape_of(value: Any) -> str:
    """The shape that a value has by the look of it: `auto`."""
    if not isinstance(value, dict):
        return "text"
    if "serviceEndpoint" in value:
        return "serverset"
    if "serviceType" in value and "address" in value:
        return "curator"
    if "address" in value and value.get("port") is not None:
        return "fairlead"
    if "Addr" in value:
        return "grpc"
    if isinstance(value.get("nodes"), list):
        return "go-micro"
    endpoints = value.get("endpoints")
    if isinstance(endpoints, list) and any(isinstance(one, str) for one in endpoints):
        return "kratos"
    return "nerve" if any(name in value for name in _HOSTS) else "fairlead"


def instances_in(value: Any, shape: str, id_: str) -> list[tuple[str, str, Any]]:
    """The instances in a record, whose key gives it the id `id_`: what begins a complaint about
    each, its own id ("" = it has none), and the record as if it were the only one. A `go-micro`
    record has a node for each, and their ids, which its keys are made of, are theirs whatever the
    key is, so that no node is another one because of those beside it."""
    nodes = value.get("nodes") if shape == "go-micro" and isinstance(value, dict) else None
    if not isinstance(nodes, list):
        return [("", id_, value)]
    return [
        (f"nodes[{number}]: ", _id_of(node), {**value, "nodes": [node]})
        for number, node in enumerate(nodes)
    ]


def _id_of(node: Any) -> str:
    """The id of a node as in its key, "" for one that cannot be an id."""
    id_ = node.get("id") if isinstance(node, dict) else None
    if not isinstance(id_, str) or not id_.isprintable() or len(id_.encode()) > MAX_NAME:
        return ""
    return id_.replace("/", "-")


def _pair(record: Fields) -> Fields:
    """Address and port, under whichever names."""
    named = (record.get(name) for name in _HOSTS)
    host = next((one for one in named if isinstance(one, str) and one.strip()), None)
    port = next((record[name] for name in _PORTS if record.get(name) is not None), None)
    if host is None or (port is None and ":" not in host):
        raise _lacks("host" if host is None else "port", record)
    return endpoint(host) if port is None else {"address": host, "port": port}


def _with(
    metadata: Mapping[str, Any], fields: Fields, version: Any = None, health: Any = None
) -> Fields:
    """Fields with what stands beside them; what an address says of itself wins."""
    labels = {**metadata, **fields.get("metadata", {})}
    return {**fields, "metadata": labels, "version": version, "health": health}


def _metadata(record: Fields) -> Fields:
    given = record.get("metadata")
    return given if isinstance(given, dict) else {}


def _weight(record: Fields) -> Fields:
    return {"weight": record["weight"]} if "weight" in record else {}


def _object(value: Any, name: str) -> Fields:
    if not isinstance(value, dict):
        raise Unreadable(f"the value is {shown(str(value))}, and the format {name} has an object")
    return value


def _text_at(record: Fields, name: str) -> str:
    if not isinstance(found := record.get(name), str):
        raise _lacks(name, record)
    return found


def _list_at(record: Fields, name: str) -> list[Any]:
    if not isinstance(found := record.get(name), list):
        raise _lacks(f"list {name}", record)
    return found


def _lacks(what: str, record: Fields) -> Unreadable:
    has = ", ".join(name[:40] for name in list(record)[:12]) or "nothing"
    return Unreadable(f"no {what} in the value, which has: {has}")
