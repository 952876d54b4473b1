"""`instances:` and `fallback_instances:`, instances that stand in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec

from proxy.membership import Instance
from proxy.settings.addresses import ADDRESS, NAME, NAMES, PORT, parse_name
from proxy.settings.complaints import Report, dotted
from proxy.settings.declare import Given
from proxy.settings.protocol import PROTOCOL
from proxy.settings.read import TEXT, integer
from proxy.settings.tree import Path, Scalar

WEIGHT: Final = integer(0, 65_535, "0 = drained")
"""The same ceiling as for instances from the registry: hash rings grow with weights."""


class InstanceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as it stands in the file."""

    id: Annotated[
        str | None,
        NAME,
        "Different for each instance of the service; without it `address:port`.",
    ] = None
    address: Annotated[str, ADDRESS, "IP address or host name."]
    port: Annotated[int, PORT, "1 to 65535."]
    weight: Annotated[
        int,
        WEIGHT,
        "Share of the requests, 0 to 65535; 0 = drained. May be written as `metadata.weight`"
        " instead.",
    ] = 1
    version: Annotated[str, TEXT, "Shown by the admin API."] = ""
    metadata: Annotated[dict[str, str], TEXT, "Shown by the admin API; as in the registry."] = {}


def static_instances(given: Mapping[str, Given], report: Report) -> dict[str, tuple[Instance, ...]]:
    """Service → its instances, of those that have them in the file. Complains of names that no
    registry key can hold."""
    static: dict[str, tuple[Instance, ...]] = {}
    for name, service in given.items():
        try:
            parse_name(name)
        except ValueError as error:
            report.complain(service.path, f"{error}; allowed: {NAMES}, as in a registry key")
        entries = service.get("instances")
        if url := service.get("url"):
            static[name] = (_instance_at(url, name),)
        if entries is None:
            continue
        if not entries and report.sound(service.at("instances")):
            report.complain(
                service.at("instances"),
                "is empty; allowed: at least one instance, or leave it out to look the service up"
                " in the registry",
            )
        static[name] = instances_of(entries, name, report)
    return static


def derived_services(given: Mapping[str, Given], report: Report) -> dict[str, str]:
    """Service → the one that it has its instances from."""
    derived = {name: source for name, one in given.items() if (source := one.get("from"))}
    for name, source in derived.items():
        place = given[name].at("from")
        if source in derived:
            report.complain(
                place, f"{source} has its own from {derived[source]}; allowed: a service with some"
            )
    for service in given.values():
        several = [key for key in ("instances", "url", "from") if key in service]
        for key in several[1:]:
            report.complain(service.at(key), f"stands beside {several[0]}; allowed: one of the two")
    return derived


def renamed(instances: Sequence[Instance], service: str) -> tuple[Instance, ...]:
    """The same instances of a service of another name."""
    return tuple(msgspec.structs.replace(one, service=service) for one in instances)


def _instance_at(url: str, service: str) -> Instance:
    """`https://` is TLS with the name in the URL."""
    parts = urlsplit(url)
    host, https = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if https else 80)
    metadata = {"scheme": "https", "server_name": host} if https else {}
    return Instance(
        service=service,
        id=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        address=host,
        port=port,
        metadata=metadata,
    )


def instances_of(entries: Sequence[Given], service: str, report: Report) -> tuple[Instance, ...]:
    """Entries of the file as instances of a service."""
    seen: dict[str, Path] = {}
    instances: list[Instance] = []
    for entry in entries:
        values: dict[str, Any] = entry.values
        address, port = values["address"], values["port"]
        host = f"[{address}]" if ":" in address else address
        id = values.get("id") or f"{host}:{port}"
        if seen.setdefault(id, entry.path) != entry.path and report.sound(entry.at("id")):
            report.complain(
                entry.at("id") if "id" in entry else entry.path,
                f'"{id}" is already the id of {dotted(seen[id])}; allowed: a different id for each'
                " instance",
            )
        instances.append(
            Instance(
                service=service,
                id=id,
                address=address,
                port=port,
                weight=_weight(entry, report),
                version=values.get("version", ""),
                metadata=dict(values.get("metadata", {})),
            )
        )
        if stated := values.get("metadata", {}).get("protocol"):
            try:
                PROTOCOL(Scalar(stated))
            except ValueError as error:
                report.complain(entry.at("metadata", "protocol"), str(error))
    return tuple(instances)


def _weight(entry: Given, report: Report) -> int:
    weight: int = entry.values.get("weight", 1)
    text = entry.values.get("metadata", {}).get("weight")
    if text is None:
        return weight
    place = entry.at("metadata", "weight")
    if "weight" in entry:
        report.complain(place, "says the same as weight; allowed: one of the two")
        return weight
    try:
        return WEIGHT(Scalar(text))
    except ValueError as error:
        report.complain(place, str(error))
        return weight
