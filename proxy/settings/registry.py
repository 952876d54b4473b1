"""`registry:`, where instances are looked up."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Final, TypeVar

import msgspec

from proxy import files
from proxy.catalog import PROVIDERS
from proxy.settings.addresses import CIDR, ENDPOINT
from proxy.settings.complaints import Report, dotted
from proxy.settings.declare import Distinct, Given, Off
from proxy.settings.process import writable
from proxy.settings.read import POSITIVE, SECRET, SHARE, TEXT, Read, choice, parse_text
from proxy.settings.tree import Path

R = TypeVar("R", bound="RegistrySettings")

_LARGEST_PEM: Final = 1024 * 1024
"""Bytes that are looked at for a PEM block: more than any bundle of authorities has."""


def _parse_prefix(text: str) -> str:
    if not text.startswith("/") or not text.endswith("/"):
        raise ValueError("does not begin and end with /")
    return parse_text(text)


_PREFIX: Final = Read(_parse_prefix, "key prefix", "a key prefix such as /services/")


class RegistryTls(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files for the connection to the registry; host names are always checked."""

    ca: Annotated[
        str | None,
        TEXT,
        "PEM file with the authority that signed the registry's certificate; else the system's"
        " trust store.",
    ] = None
    cert: Annotated[str | None, TEXT, "PEM file with a client certificate; needs `key`."] = None
    key: Annotated[str | None, TEXT, "PEM file with its private key; needs `cert`."] = None


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """One registry. What a provider's constructor takes."""

    type: Annotated[
        str,
        choice(tuple(PROVIDERS), "a registry type"),
        "`etcd`, or `static` for a proxy whose services are all listed in this file.",
    ] = "static"
    endpoints: Annotated[
        tuple[str, ...],
        ENDPOINT,
        Distinct(),
        "`http://host:port` or `https://host:port` of each member. Required for `etcd`, meaningless"
        " for `static`.",
    ] = ()
    prefix: Annotated[
        str, _PREFIX, "What registered keys begin with; begins and ends with `/`."
    ] = "/services/"
    username: Annotated[str, TEXT, "User name for the registry."] = ""
    password: Annotated[str, SECRET, "Password of that user."] = ""
    tls: Annotated[
        RegistryTls | None,
        Off(),
        "Settings for `https://` endpoints. Host names are always checked.",
    ] = None


class MassLossSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When registrations that run out all at once are not believed."""

    share: Annotated[float, SHARE, "Share of a pool whose loss is suspicious."] = 0.5
    window: Annotated[float, POSITIVE, "Time in which that share must be lost."] = 30.0
    hold: Annotated[float, POSITIVE, "How long the lost instances are retained."] = 600.0


class Registry(RegistrySettings, frozen=True, kw_only=True):
    """`registry:` as a whole: the first registry, and what is done when it is down."""

    allow: Annotated[
        tuple[str, ...],
        CIDR,
        "Networks that the address of a registered instance may lie in although that is refused"
        " otherwise: this machine on the admin listener's port, link-local and metadata services."
        " See [where instances may not lead](behaviour.md#where-instances-may-not-lead).",
    ] = ()

    backups: Annotated[
        tuple[RegistrySettings, ...],
        "Registries that are used, in this order, while the ones before are down; mappings with the"
        " keys `type` to `tls` of this section.",
    ] = ()
    check_interval: Annotated[
        float,
        POSITIVE,
        "Time in which a registry that stops answering is left for the next one, if there are"
        " backups.",
    ] = 10.0
    check_timeout: Annotated[
        float, POSITIVE, "How long a check of it may take; half of `check_interval` at most."
    ] = 5.0
    snapshot: Annotated[
        str | None,
        TEXT,
        Off(),
        "File with the last known instances, for a start while no registry answers. Its directory"
        " must exist. Opened as carefully as the access log; one proxy writes it.",
    ] = None
    mass_loss_guard: Annotated[
        MassLossSettings | None,
        Off(),
        "Holds on to instances when suddenly many leases expire.",
    ] = None


def check_registry(
    given: Given | None, registry: Registry, directory: FilePath, report: Report
) -> Registry:
    """The registry with the names of its files resolved. Complains of keys that contradict each
    other, and of files that cannot be read."""
    if given is None:
        return registry
    snapshot = registry.snapshot
    if snapshot is not None:
        snapshot = writable(given.at("snapshot"), directory / snapshot, report)
    resolved = _check_one(given, registry, directory, report)
    backups = []
    seen = {_identity(registry): "registry"}
    for place, backup in zip(given.get("backups") or (), registry.backups, strict=True):
        if report.sound(place.at("type")) and backup.type == "static":
            report.complain(
                place.at("type"),
                '"static" is no registry that could be up when another one is down; allowed:'
                " another type",
            )
            continue
        first = seen.setdefault(_identity(backup), dotted(place.path))
        if first != dotted(place.path):
            report.complain(place.path, f"is the same as {first}; allowed: another one")
        backups.append(_check_one(place, backup, directory, report))
    return msgspec.structs.replace(resolved, snapshot=snapshot, backups=tuple(backups))


def _identity(registry: RegistrySettings) -> tuple[object, ...]:
    """What makes two registries the same one."""
    return (registry.type, frozenset(registry.endpoints), registry.prefix)


def _check_one(given: Given, registry: R, directory: FilePath, report: Report) -> R:
    if registry.type == "static":
        for key in ("endpoints", "username", "password", "tls", "allow", "backups", "snapshot",
                    "mass_loss_guard"):  # fmt: skip
            if getattr(registry, key, None) and report.sound(given.at(key), given.at("type")):
                report.complain(
                    given.at(key),
                    "has no meaning for type static, which looks nothing up; allowed: leave it"
                    " out, or another type",
                )
    elif not registry.endpoints and report.sound(given.at("endpoints"), given.at("type")):
        missing = "is empty" if report.exists(given.at("endpoints")) else "is missing"
        report.complain(
            given.at("endpoints"),
            f"{missing}; allowed for type {registry.type}: at least one http://host:port",
        )
    if registry.password and not registry.username and report.sound(given.at("username")):
        report.complain(given.at("password"), "has no username; allowed: both of them, or neither")
    tls = registry.tls
    if tls is None:
        return registry
    place = given.at("tls")
    for one, other in (("cert", "key"), ("key", "cert")):
        if getattr(tls, one) and not getattr(tls, other) and report.sound((*place, other)):
            report.complain(
                (*place, one), f"needs {other} beside it; allowed: both of them, or neither"
            )
    absolute = {
        key: _pem((*place, key), directory / name, report)
        for key in ("ca", "cert", "key")
        if (name := getattr(tls, key)) is not None
    }
    return msgspec.structs.replace(registry, tls=msgspec.structs.replace(tls, **absolute))


def _pem(path: Path, file: FilePath, report: Report) -> str:
    problem = ""
    try:
        if b"-----BEGIN " not in files.read(str(file), _LARGEST_PEM):
            problem = "holds no PEM block"
    except files.Refused as error:
        problem = str(error.strerror)
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem:
        report.complain(path, f'"{file}" {problem}; allowed: a readable PEM file')
    return str(file)
