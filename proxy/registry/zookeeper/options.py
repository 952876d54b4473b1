"""Keys of `registry:` for ZooKeeper."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final

from proxy.registry.formats.layout import AUTO, FORMATS
from proxy.settings.addresses import parse_host_name, parse_port
from proxy.settings.declare import Distinct, Off
from proxy.settings.read import Read, choice, duration
from proxy.settings.registry import RegistryTls, RemoteOptions

PORT: Final = 2181


def _parse_server(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or re.search(r"\]$", text):
        host, port = text, str(PORT)
    return f"{parse_host_name(host)}:{parse_port(port, 1)}"


def _parse_path(text: str) -> str:
    """As ZooKeeper has it, without a slash at the end."""
    path = text.rstrip("/")
    if not re.fullmatch(r"(/[^/]+)+", path) or not path.isprintable():
        raise ValueError("is not the path of a node below the root")
    if any(part in (".", "..") for part in path.split("/")):
        raise ValueError("has a . or .. in it, which ZooKeeper refuses")
    return path


_SERVER: Final = Read(_parse_server, "server", "host:port")
_PATH: Final = Read(_parse_path, "path", "the path of a node such as /services")


class Options(RemoteOptions, frozen=True, kw_only=True):
    """One ensemble of ZooKeeper, and where in it the instances are."""

    type: ClassVar[str] = "zookeeper"
    form: ClassVar[str] = "host:port"

    endpoints: Annotated[
        tuple[str, ...], _SERVER, Distinct(), "`host:port` of each server. Required."
    ] = ()
    tls: Annotated[
        RegistryTls | None,
        Off(),
        "TLS to the servers, whose names are always checked; a mapping without keys is enough for"
        " authorities that the system trusts.",
    ] = None
    prefix: Annotated[
        str,
        _PATH,
        "Node below which there is one for each service, and below that its instances; in some"
        " formats a service is one instance, or they are deeper.",
    ] = "/services"
    format: Annotated[
        str,
        choice(FORMATS, "a format"),
        "How [nodes are written](registries.md#formats), as for `etcd`.",
    ] = AUTO
    session_timeout: Annotated[
        float,
        duration(4.0),
        "Asked for as the timeout of the session; nothing hangs on it but how soon a dead"
        " connection is noticed.",
    ] = 10.0
