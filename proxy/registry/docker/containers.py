"""Containers as Docker lists them → records, and events of them. Pure."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

import msgspec

from proxy.membership import Instance
from proxy.registry import base
from proxy.registry.docker.options import Options
from proxy.registry.records import Unreadable, read_below

decode = partial(base.decode, "Docker")

LABEL: Final = "fairlead.service"
"""Label that makes a container an instance, and names the service."""
_META: Final = "fairlead.meta."
_HEALTH: Final = re.compile(r"\((?:health: )?(\w+)\)\Z")
"""At the end of a status such as `Up 3 minutes (healthy)`."""

ENDS: Final = frozenset({"die", "destroy"})
"""Events after which a container serves no more."""


class Network(msgspec.Struct, frozen=True, rename="pascal"):
    ip_address: str = msgspec.field(default="", name="IPAddress")
    global_ipv6_address: str = msgspec.field(default="", name="GlobalIPv6Address")


class Networks(msgspec.Struct, frozen=True, rename="pascal"):
    networks: dict[str, Network | None] | None = None


class Port(msgspec.Struct, frozen=True, rename="pascal"):
    private_port: int
    type: str = "tcp"


class Container(msgspec.Struct, frozen=True, rename="pascal"):
    """A container, as `/containers/json` has it."""

    id: str
    names: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    state: str = "running"
    status: str = ""
    ports: tuple[Port, ...] | None = None
    network_settings: Networks | None = None

    @property
    def name(self) -> str:
        """Name, without the slash that the API puts in front of it."""
        return self.names[0].lstrip("/") if self.names else self.id[:12]


class Actor(msgspec.Struct, frozen=True, rename="pascal"):
    attributes: dict[str, str] = {}


class Event(msgspec.Struct, frozen=True, rename="pascal"):
    """A line of `/events`."""

    action: str = ""
    actor: Actor = Actor()

    @property
    def changes(self) -> bool:
        """Whether there may be another list after it. Commands in a container change nothing, and
        each health check is one, of which three events tell."""
        return not self.action.startswith("exec_")


def key(one: Container) -> bytes:
    """Service and name. A name is unique in a daemon, and that of a container made anew."""
    return f"{(one.labels or {})[LABEL]}/{one.name}".encode()


def read(key: bytes, value: bytes) -> tuple[Instance, str]:
    """The instance of a record, and what was odd about it; Unreadable."""
    service, _, _ = key.decode().rpartition("/")
    if not service or "/" in service:
        raise Unreadable(f"label {LABEL} {service[:60]!r} is no name of a service")
    return read_below(key, value)


def record(one: Container, options: Options) -> bytes:
    """Record of a container, in our form."""
    labels = one.labels or {}
    metadata = {
        name.removeprefix(_META): text for name, text in labels.items() if name.startswith(_META)
    }
    return msgspec.json.encode(
        {
            "address": _address(one, labels.get("fairlead.network") or options.network),
            "port": labels.get("fairlead.port") or _port(one),
            "version": labels.get("fairlead.version", ""),
            "metadata": metadata,
            "health": _health(one),
        }
    )


def _port(one: Container) -> int | str:
    """The only port of TCP, or words that say what is missing."""
    ports = sorted({port.private_port for port in one.ports or () if port.type == "tcp"})
    if len(ports) == 1:
        return ports[0]
    return f"fairlead.port, of {', '.join(map(str, ports)) or 'none'},"


def _address(one: Container, network: str) -> str:
    """Address in the network with this name, or in the only one."""
    known = (one.network_settings and one.network_settings.networks) or {}
    if set(known) == {"host"}:
        return "127.0.0.1"
    chosen = known.get(network) or (next(iter(known.values())) if len(known) == 1 else None)
    if chosen is None:
        return f"fairlead.network, of {', '.join(sorted(known)) or 'none'}"
    return chosen.ip_address or chosen.global_ipv6_address


def _health(one: Container) -> str:
    """Docker's word: that of its check, if it has one."""
    if one.state != "running":
        return one.state
    match = _HEALTH.search(one.status)
    return match[1] if match else "healthy"
