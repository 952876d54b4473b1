"""`registry:`, where instances are looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path as FilePath
from typing import Annotated, ClassVar, Final, Self, TypeVar

import msgspec

from proxy import files
from proxy.catalog import PROVIDERS, REGISTRATION_BACKENDS, PlugInError, registry_options
from proxy.settings.addresses import CIDR, ENDPOINT, NAME
from proxy.settings.complaints import Report, dotted
from proxy.settings.declare import Distinct, Given, Inline, Off
from proxy.settings.plugged import PlugIn
from proxy.settings.process import readable_pem, writable
from proxy.settings.read import POSITIVE, SECRET, SHARE, TEXT
from proxy.settings.tree import Path

R = TypeVar("R", bound="Registry")


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


Tls = Annotated[
    RegistryTls | None, Off(), "Settings for `https://` endpoints. Host names are always checked."
]
TokenFile = Annotated[str | None, TEXT, "File with that token, read again when it changes."]


_ACCESS: Final = (
    *("username", "password", "password_file", "token", "token_file", "tls", "interval"),
)
"""How one gets to a registry, which is the same one whoever asks it."""


class RegistryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one type of registry: what its provider and its registration backend get."""

    type: ClassVar[str] = "static"
    """Value of `registry.type` that chooses these keys; the base, without keys, has the default."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the registry is reached, for people."""
        return ()

    @property
    def identity(self) -> tuple[object, ...]:
        """The same for two entries that mean the same registry."""
        values = (getattr(self, name) for name in self.__struct_fields__ if name not in _ACCESS)
        return (self.type, *(frozenset(v) if isinstance(v, tuple) else v for v in values))

    def checked(self, given: Given, directory: FilePath, report: Report) -> Self:
        """Options with the names of their files resolved, after complaints of keys that
        contradict each other. `given`: the section that holds them."""
        found: dict[str, object] = {}
        for field in self.__struct_fields__:
            key = field.removesuffix("_file")
            if key != field and key in self.__struct_fields__ and getattr(self, field) is not None:
                found[field] = _readable_secret(key, self, given, directory, report)
        tls = getattr(self, "tls", None)
        if isinstance(tls, RegistryTls):
            found["tls"] = _checked_tls(tls, given.at("tls"), directory, report)
        return msgspec.structs.replace(self, **found)


class RemoteOptions(RegistryOptions, frozen=True, kw_only=True):
    """The keys of registries that are reached at endpoints."""

    form: ClassVar[str] = "http://host:port"
    """Of an endpoint, for people."""
    root: ClassVar[str] = "/"
    """The beginning of all prefixes."""
    in_path: ClassVar[bool] = False
    """Whether endpoints have a path."""

    endpoints: Annotated[
        tuple[str, ...],
        ENDPOINT,
        Distinct(),
        "`http://host:port` or `https://host:port` of each member. Required.",
    ] = ()
    username: Annotated[str, TEXT, "User name for the registry."] = ""
    password: Annotated[str, SECRET, "Password of that user."] = ""
    password_file: Annotated[
        str | None, TEXT, "File with that password, read again when it changes."
    ] = None
    tls: Tls = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """See `RegistryOptions`."""
        return self.endpoints

    def checked(self, given: Given, directory: FilePath, report: Report) -> Self:
        """See `RegistryOptions`."""
        if not self.endpoints and report.sound(given.at("endpoints"), given.at("type")):
            missing = "is empty" if report.exists(given.at("endpoints")) else "is missing"
            report.complain(
                given.at("endpoints"),
                f"{missing}; allowed for type {self.type}: at least one {self.form}",
            )
        for key in ("password", "password_file"):
            if getattr(self, key) and not self.username and report.sound(given.at("username")):
                report.complain(given.at(key), "has no username; allowed: both of them, or neither")
        return super().checked(given, directory, report)


class _Options(dict[str, type[RegistryOptions]]):
    """Type of a registry → the struct of its keys: holds those of the product, and finds those of
    plug-ins."""

    def __missing__(self, name: str) -> type[RegistryOptions]:
        return plugged_options(name)


@cache
def plugged_options(name: str) -> type[RegistryOptions]:
    """The struct of the keys of somebody's own registry. Raises as `plug_in`."""
    kind = registry_options(name)
    if not issubclass(kind, RegistryOptions):
        raise PlugInError("has a class Options that does not extend RegistryOptions")
    # The same provider may go by several names, and is found again by the one that is used.
    own = {"type": name, "__module__": kind.__module__}
    named: type[RegistryOptions] = type(kind)(kind.__name__, (kind,), own, frozen=True)
    return named


@cache
def options_by_type() -> Mapping[str, type[RegistryOptions]]:
    """Type of a registry → the struct of its keys."""
    return _Options((name, registry_options(name)) for name in PROVIDERS)


class RegistryChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One registry: its type, and the keys which that has."""

    type: Annotated[
        str,
        PlugIn("registries", "a registry type", plugged_options),
        f"{', '.join(f'`{name}`' for name in PROVIDERS)}; `static` is for a proxy whose services"
        " are all listed in this file.",
    ] = "static"
    options: Annotated[RegistryOptions, Inline("type", options_by_type)] = RegistryOptions()


class MassLossSettings(msgspec.Struct, frozen=True, kw_only=True):
    """When registrations that run out all at once are not believed."""

    share: Annotated[float, SHARE, "Share of a pool whose loss is suspicious."] = 0.5
    window: Annotated[float, POSITIVE, "Time in which that share must be lost."] = 30.0
    hold: Annotated[float, POSITIVE, "How long the lost instances are retained."] = 600.0


class Registry(RegistryChoice, frozen=True, kw_only=True):
    """`registry:` as a whole: the first registry, and what is done when it is down."""

    allow: Annotated[
        tuple[str, ...],
        CIDR,
        "Networks that the address of a registered instance may lie in although that is"
        " [refused otherwise](limits.md#where-instances-may-not-lead): this machine on the admin"
        " listener's port, link-local and metadata services.",
    ] = ()

    backups: Annotated[
        tuple[RegistryChoice, ...],
        "Registries that are used, in this order, while the ones before are down; mappings with"
        " `type` and the keys that are only for that type.",
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

    @property
    def registering(self) -> RegistryOptions:
        """The registry in which services can be registered; any, if they cannot in any of them."""
        parts = self.options.parts if isinstance(self.options, MergedOptions) else ()
        takers = (part.options for part in parts if part.type in REGISTRATION_BACKENDS)
        return next(takers, self.options)


class NamedRegistry(Registry, frozen=True, kw_only=True):
    """An entry of `registries:`."""

    name: Annotated[
        str, NAME, "Name of the registry, in `origin` of its instances; else its type."
    ] = ""


class MergedOptions(RegistryOptions, frozen=True, kw_only=True):
    """Registries of `registries:`, together."""

    type: ClassVar[str] = "merged"

    parts: tuple[NamedRegistry, ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """See `RegistryOptions`."""
        return tuple(address for part in self.parts for address in part.options.addresses)


def check_registries(
    one: Given | None,
    registry: Registry,
    several: Sequence[Given] | None,
    parts: Sequence[NamedRegistry],
    directory: FilePath,
    report: Report,
) -> Registry:
    """The section `registry`, or all of `registries` as one; as `check_registry`."""
    if not several:
        return check_registry(one, registry, directory, report)
    if one is not None:
        report.complain(one.path, "stands beside registries; allowed: one of them")
    checked: dict[str, NamedRegistry] = {}
    seen: dict[tuple[object, ...], str] = {}
    for given, part in zip(several, parts, strict=True):
        name = part.name or part.type
        if part.type == "static" and report.sound(given.at("type")):
            report.complain(
                given.at("type"), '"static" is no registry; allowed: services.*.instances'
            )
        if name in checked:
            place = given.at("name") if part.name else given.path
            report.complain(place, f'another registry is called "{name}"; allowed: other names')
        same = {"registry": part.options.identity, "snapshot": (part.snapshot,)}
        for what, key in same.items():
            first = seen.setdefault((what, *key), dotted(given.path))
            if first != dotted(given.path) and key != (None,) and report.sound(given.at("type")):
                report.complain(given.path, f"has the same {what} as {first}; allowed: another one")
        done = check_registry(given, part, directory, report)
        checked[name] = msgspec.structs.replace(done, name=name)
    allow = tuple(dict.fromkeys(network for part in checked.values() for network in part.allow))
    options = MergedOptions(parts=tuple(checked.values()))
    return Registry(type=options.type, options=options, allow=allow)


def check_registry(given: Given | None, registry: R, directory: FilePath, report: Report) -> R:
    """The registry with the names of its files resolved. Complains of keys that contradict each
    other, and of files that cannot be read."""
    if given is None:
        return registry
    snapshot = registry.snapshot
    if snapshot is not None:
        snapshot = writable(given.at("snapshot"), directory / snapshot, report)
    if registry.type == "static":
        for key in ("allow", "backups", "snapshot", "mass_loss_guard"):
            if getattr(registry, key) and report.sound(given.at(key), given.at("type")):
                report.complain(
                    given.at(key),
                    "has no meaning for type static; allowed: leave it out, or another type",
                )
    options = registry.options.checked(given, directory, report)
    backups = []
    seen = {registry.options.identity: "registry"}
    for place, backup in zip(given.get("backups") or (), registry.backups, strict=True):
        if report.sound(place.at("type")) and backup.type == "static":
            report.complain(
                place.at("type"),
                '"static" is no registry that could be up when another one is down; allowed:'
                " another type",
            )
            continue
        first = seen.setdefault(backup.options.identity, dotted(place.path))
        if first != dotted(place.path):
            report.complain(place.path, f"is the same as {first}; allowed: another one")
        checked = backup.options.checked(place, directory, report)
        backups.append(msgspec.structs.replace(backup, options=checked))
    return msgspec.structs.replace(
        registry, options=options, snapshot=snapshot, backups=tuple(backups)
    )


def _readable_secret(
    key: str, options: RegistryOptions, given: Given, directory: FilePath, report: Report
) -> str:
    """The resolved name of the file in `KEY_file`, after complaints of one that cannot be read or
    that stands beside `KEY`."""
    name = getattr(options, f"{key}_file")
    place = given.at(f"{key}_file")
    if getattr(options, key) and report.sound(given.at(key)):
        report.complain(place, f"stands beside {key}; allowed: one of them")
    path = str(directory / name)
    try:
        files.read(path, 1)
    except OSError as error:
        words = f'"{name}" cannot be read ({error.strerror}); allowed: a readable file'
        report.complain(place, words)
    return path


def _checked_tls(tls: RegistryTls, place: Path, directory: FilePath, report: Report) -> RegistryTls:
    """TLS settings with the resolved names of their files, after complaints of those."""
    for one, other in (("cert", "key"), ("key", "cert")):
        if getattr(tls, one) and not getattr(tls, other) and report.sound((*place, other)):
            report.complain(
                (*place, one), f"needs {other} beside it; allowed: both of them, or neither"
            )
    absolute = {
        key: readable_pem((*place, key), directory / name, report)
        for key in ("ca", "cert", "key")
        if (name := getattr(tls, key)) is not None
    }
    return msgspec.structs.replace(tls, **absolute)
