"""EndpointSlices of Kubernetes → records, and frames of a watch of them. Pure.

A service may have several slices, and while endpoints move between them one may be in two; the
newer of the two counts (`Roster.membership`). A record has the form of ours (`records.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from proxy.registry import base
from proxy.registry.kubernetes.options import Options

decode = partial(base.decode, "Kubernetes")

_SERVICE: Final = "kubernetes.io/service-name"
"""Label of a slice with the service it is of."""

_PROTOCOLS: Final[Mapping[str, Mapping[str, str]]] = {
    "https": {"scheme": "https"},
    "kubernetes.io/h2c": {"protocol": "h2c"},
    "grpc": {"protocol": "grpc"},
}
"""`appProtocol` of a port → metadata of its instances."""


class Meta(msgspec.Struct, frozen=True, rename="camel"):
    """`metadata` of an object or a list."""

    name: str = ""
    labels: dict[str, str] | None = None
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Conditions(msgspec.Struct, frozen=True):
    """Conditions of an endpoint; None = nothing is said."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Target(msgspec.Struct, frozen=True):
    name: str = ""


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    addresses: tuple[str, ...] = ()
    conditions: Conditions | None = None
    target_ref: Target | None = None
    zone: str | None = None
    node_name: str | None = None


class Port(msgspec.Struct, frozen=True, rename="camel"):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class Slice(msgspec.Struct, frozen=True, rename="camel"):
    """A slice of a service's endpoints."""

    metadata: Meta = Meta()
    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[Port, ...] | None = None

    @property
    def service(self) -> str:
        """Name of the service; "" = it is of none."""
        return (self.metadata.labels or {}).get(_SERVICE, "")

    @property
    def prefix(self) -> bytes:
        """Beginning of the keys of its records."""
        return f"{self.service}/{self.metadata.name}/".encode()


class Page(msgspec.Struct, frozen=True):
    """Part of a list."""

    metadata: Meta = Meta()
    items: tuple[Slice, ...] | None = None


class Frame(msgspec.Struct, frozen=True):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct, frozen=True):
    """The object of an error."""

    code: int = 0
    message: str = ""


def version(metadata: Meta) -> int:
    """Resource version as a number, which it is of every API server with etcd behind it; 0 = it is
    none, and says nothing about older and newer."""
    known = metadata.resource_version
    return int(known) if known.isascii() and known.isdigit() and len(known) < 20 else 0


def records(one: Slice, options: Options) -> Iterator[tuple[bytes, bytes]]:
    """Keys and records of a slice's endpoints; none if it is not of a service, or has addresses of
    another kind."""
    if not one.service or one.address_type != options.address_type:
        return
    port = _port(one.ports or (), options.port)
    number = port.port if port else f"{options.port}, of {_names(one.ports or ())},"
    known = _PROTOCOLS.get(port.app_protocol or "", {}) if port else {}
    for endpoint in one.endpoints or ():
        if not endpoint.addresses:
            continue
        # All of them lead to the same pod, and there is no further one in practice.
        address = endpoint.addresses[0]
        id_ = (endpoint.target_ref and endpoint.target_ref.name) or address
        metadata = dict(known)
        metadata |= {"zone": endpoint.zone} if endpoint.zone else {}
        metadata |= {"node": endpoint.node_name} if endpoint.node_name else {}
        record = {
            "address": address,
            "port": number,
            "metadata": metadata,
            "health": _health(endpoint.conditions or Conditions()),
        }
        yield one.prefix + id_.encode(), msgspec.json.encode(record)


def _port(ports: Sequence[Port], name: str) -> Port | None:
    """The port with this name, or the only one of TCP."""
    ports = [port for port in ports if port.protocol in (None, "TCP")]
    named = [port for port in ports if port.name == name]
    return named[0] if named else ports[0] if len(ports) == 1 else None


def _names(ports: Sequence[Port]) -> str:
    return ", ".join(port.name or str(port.port) for port in ports) or "none"


def _health(found: Conditions) -> str:
    """Status of an endpoint. Nothing said is ready, by the API's own rule; one that terminates and
    still serves finishes what it has."""
    if found.terminating:
        serving = found.ready if found.serving is None else found.serving
        return "draining" if serving is not False else "terminating"
    return "not ready" if found.ready is False else "healthy"
