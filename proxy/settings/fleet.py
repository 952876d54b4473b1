"""`config:` and `fleet:`, what a proxy has in common with others."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Final

import msgspec

from proxy.settings.acme import AcmeSettings
from proxy.settings.addresses import NAME
from proxy.settings.complaints import Report
from proxy.settings.declare import Distinct
from proxy.settings.process import checked_key, readable_pem
from proxy.settings.read import TEXT, Read, choice, parse_text
from proxy.settings.registry import MergedOptions, Registry

TRUST: Final = ("exec", "python", "files")
"""Ways in which the writer of a shared configuration may be trusted beyond requests."""


MAX_TEXT: Final = 512 * 1024
"""Bytes: etcd takes 1.5 MiB in one request, and a push writes the text twice, to the key and to its
history, there as JSON."""


class SharedText(msgspec.Struct, frozen=True):
    """The text that a key held, and at which revision."""

    text: str
    place: str
    """`etcd:/fairlead/config/main`: what complaints name in place of a file."""
    revision: int = 0


def _parse_key(text: str) -> str:
    if not text.startswith("/") or text.endswith("/") or len(text) > 512:
        raise ValueError("is not a key")
    return parse_text(text)


_KEY: Final = Read(_parse_key, "key", "a key such as /fairlead/config/main")


class ConfigSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`config:`."""

    source: Annotated[str, choice(("etcd",), "a source"), "Where it is kept: `etcd`."] = "etcd"
    registry: Annotated[
        str,
        NAME,
        "Which of `registries`, by its name; without it the first of type `etcd`, or `registry`.",
    ] = ""
    key: Annotated[
        str,
        _KEY,
        "The key that holds it. Beside it are its canary (`KEY.canary`) and its history"
        " (`KEY.history/…`).",
    ] = "/fairlead/config/main"
    allow: Annotated[
        tuple[str, ...],
        choice(TRUST, "a way to trust its writer"),
        Distinct(),
        "What it may hold although its writer could do anything on this machine by it: `exec`,"
        " checks that run commands; `python`, Python names that are not in `plugins`; `files`,"
        " names of files.",
    ] = ()


class FleetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`fleet:`."""

    id: Annotated[
        str,
        NAME,
        "Name of this proxy among those of its fleet, the same over restarts; without it the host's"
        " name and the port of `admin.bind`: `web-1-9900`.",
    ] = ""
    key_file: Annotated[
        str,
        TEXT,
        "File with the key, 32 bytes at least and the same at all proxies, by which they sign what"
        " they ask each other ([fleet.md](fleet.md#proxies-ask-each-other)).",
    ] = ""
    ca: Annotated[
        str,
        TEXT,
        "PEM file with the authority of the other proxies' admin servers; else the system's trust"
        " store.",
    ] = ""


def check_fleet(
    fleet: FleetSettings | None, directory: FilePath, report: Report
) -> FleetSettings | None:
    """The section with the names of its files resolved, after complaints of those."""
    if fleet is None:
        return None
    ca, key_file = fleet.ca, fleet.key_file
    if ca:
        ca = readable_pem(("fleet", "ca"), directory / ca, report)
    key_file = checked_key(("fleet", "key_file"), key_file, directory, report)
    return msgspec.structs.replace(fleet, ca=ca, key_file=key_file)


def etcd_of(registry: Registry, name: str = "") -> Registry | None:
    """The registry of type etcd with a name, or the first; None if there is none."""
    if not isinstance(registry.options, MergedOptions):
        return registry if registry.type == "etcd" and not name else None
    return next(
        (
            part
            for part in registry.options.parts
            if part.type == "etcd" and name in ("", part.name)
        ),
        None,
    )


def check_acme_storage(acme: AcmeSettings | None, registry: Registry, report: Report) -> None:
    """Complain of a storage for a fleet that has no etcd, or a registry without a key."""
    if acme is None:
        return
    storage = acme.storage
    place = ("acme", "storage", "registry" if storage.registry else "key_file")
    if storage.registry and not storage.key_file:
        report.complain(place, "has no key_file beside it; allowed: both of them, or neither")
    elif storage.key_file and etcd_of(registry, storage.registry) is None:
        report.complain(place, "finds no registry of type etcd; allowed: one, by its name")
