"""`instances:` and `fallback_instances:`, instances that stand in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

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
