"""Keys of `registry:` for the DNS."""

from __future__ import annotations

import re
from pathlib import Path as FilePath
from typing import Annotated, ClassVar, Final, Self

import msgspec

from proxy.settings.addresses import parse_host_name, parse_port
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct, Given
from proxy.settings.read import POSITIVE, Read
from proxy.settings.registry import RegistryOptions


def _parse_server(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in text and text.endswith("]")):
        return f"{parse_host_name(text)}:53"
    if ":" in host and not host.startswith("["):
        raise ValueError("holds an IPv6 address without brackets")
    return f"{parse_host_name(host)}:{parse_port(port, 1)}"


def _parse_target(text: str) -> str:
    """`_users._tcp.svc.local` or `web.internal:8080`."""
    if re.match(r"_[^.]+\._[^.]+\.", text):
        return parse_host_name(text.rstrip("."))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("has no port, and is no SRV name (_service._proto.domain)")
    return f"{parse_host_name(host)}:{parse_port(port, 1)}"


_SERVER: Final = Read(_parse_server, "address", "host, host:port or [IPv6]:port")
_TARGET: Final = Read(_parse_target, "name", "_service._proto.domain, or name:port")


class Options(RegistryOptions, frozen=True, kw_only=True):
    """Names that are services, and the servers to ask for them."""

    type: ClassVar[str] = "dns"

    servers: Annotated[
        tuple[str, ...],
        _SERVER,
        Distinct(),
        "Name servers, `host` or `host:port`, which are asked over TCP; none = those of"
        " `/etc/resolv.conf`.",
    ] = ()
    services: Annotated[
        dict[str, str],
        _TARGET,
        "Service → its name in the DNS: `_users._tcp.svc.local` for SRV records, or"
        " `web.internal:8080` for the addresses of a name and a port. Required.",
    ] = msgspec.field(default_factory=dict)
    interval: Annotated[
        float,
        POSITIVE,
        "Longest time between two questions for a name; it is asked for again when its records have"
        " run out (TTL), but no sooner than after a second.",
    ] = 5.0

    @property
    def addresses(self) -> tuple[str, ...]:
        """See `RegistryOptions`."""
        return self.servers or ("/etc/resolv.conf",)

    @property
    def identity(self) -> tuple[object, ...]:
        """See `RegistryOptions`."""
        return (self.type, frozenset(self.servers), frozenset(self.services.items()))

    def checked(self, given: Given, directory: FilePath, report: Report) -> Self:
        """See `RegistryOptions`."""
        if not self.services and report.sound(given.at("services"), given.at("type")):
            report.complain(given.at("services"), "is missing; allowed: service: name in the DNS")
        return self
