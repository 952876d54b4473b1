"""The top of proxy.yaml, and what becomes of it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from proxy.membership import Instance
from proxy.settings.access_log import AccessLogSettings
from proxy.settings.acme import AcmeSettings
from proxy.settings.declare import Distinct, MayBeEmpty, Off, Short
from proxy.settings.filters import FilterSpec
from proxy.settings.fleet import ConfigSettings, FleetSettings
from proxy.settings.instance_routes import InstanceRoutes
from proxy.settings.listener import ListenerSettings
from proxy.settings.plugged import IMPORTED
from proxy.settings.process import (
    WORKERS,
    AdminSettings,
    LogSettings,
    ShutdownSettings,
    TracingSettings,
)
from proxy.settings.read import SWITCH, TEXT
from proxy.settings.registry import NamedRegistry, Registry
from proxy.settings.relay import RelaySettings
from proxy.settings.route import RouteSpec
from proxy.settings.secrets import named
from proxy.settings.service import PoolSettings, Service
from proxy.settings.user import USER


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The sections that say who is served, and how: of proxy.yaml, or shared by a fleet."""

    defaults: Annotated[PoolSettings, MayBeEmpty(), "What every service inherits, key by key."] = (
        PoolSettings()
    )
    services: Annotated[
        dict[str, Service],
        MayBeEmpty(),
        Short("url"),
        "Settings of single services. A URL is short for a service of one instance.",
    ] = {}
    filters: Annotated[
        dict[str, FilterSpec],
        MayBeEmpty(),
        "[Filters](filters.md) by name: each a mapping of its kind to its settings.",
    ] = {}
    routes: Annotated[
        tuple[RouteSpec, ...],
        "In what order they are asked is said below. At least one, unless all listeners have"
        " `mode_tcp`.",
    ] = ()


class File(Served, frozen=True, kw_only=True):
    """The top of proxy.yaml."""

    listeners: Annotated[
        tuple[ListenerSettings, ...],
        "Where clients connect. Each entry is a mapping with the keys below.",
    ] = (ListenerSettings(),)
    admin: Annotated[AdminSettings, "The admin server."] = AdminSettings()
    workers: Annotated[
        int | None,
        WORKERS,
        "Processes that share the listeners: `auto`, or 1 to 256. `auto` is the number of CPUs this"
        " process may use (its affinity), at most the CPU quota of its cgroup and of all around it,"
        " rounded up.",
    ] = None
    user: Annotated[
        str,
        USER,
        "As whom the proxy runs, all of it, once its sockets are bound, if it is started as root"
        " ([operations](operations.md#giving-up-root)): `user` or `user:group`. A change needs a"
        " restart.",
    ] = ""
    watch: Annotated[
        bool,
        SWITCH,
        "Reload when this file changes on disk, two seconds later at most"
        " ([operations](operations.md#changing-the-configuration)).",
    ] = False
    log: Annotated[LogSettings, "The log."] = LogSettings()
    access_log: Annotated[
        AccessLogSettings | None,
        Off(),
        "One line for each request ([access-log.md](access-log.md)).",
    ] = None
    tracing: Annotated[
        TracingSettings | None,
        Off(),
        "Spans of requests for OpenTelemetry ([operations](operations.md#traces)).",
    ] = None
    acme: Annotated[
        AcmeSettings | None,
        Off(),
        "Obtain certificates from a server that speaks ACME ([tls.md](tls.md#acme)).",
    ] = None
    registry: Annotated[Registry, "Where instances are looked up."] = Registry()
    registries: Annotated[
        tuple[NamedRegistry, ...],
        "Several registries at once, [merged](registries.md#several-at-once), instead of"
        " `registry`: mappings with a `name` and the keys of `registry`.",
    ] = ()
    routes_from_instances: Annotated[
        InstanceRoutes | None,
        Off(),
        "Let instances [bring routes](forwarding.md#routes-from-instances), within these bounds;"
        " asked when no route of `routes` fits.",
    ] = None
    shutdown: Annotated[ShutdownSettings, "How the proxy stops."] = ShutdownSettings()
    config: Annotated[
        ConfigSettings | None,
        Off(),
        "Take `services`, `defaults`, `routes` and `filters` from a key that all proxies of a"
        " [fleet](fleet.md) follow. What stands under `filters` here is the machine's own, for"
        " `listeners` and for routes there.",
    ] = None
    include: Annotated[
        tuple[str, ...],
        TEXT,
        "Further files, `*` and the like allowed, relative to this one: their `services`,"
        " `filters` and `routes` are added, in the order of their names. They are read at the start"
        " and at each reload; `watch` does not follow them.",
    ] = ()
    fleet: Annotated[
        FleetSettings | None, Off(), MayBeEmpty(), "This proxy among others ([fleet.md](fleet.md))."
    ] = None
    relay: Annotated[
        RelaySettings | None,
        Off(),
        MayBeEmpty(),
        "Tell other proxies what the registry says, so that they need not ask it"
        " ([fleet.md](fleet.md#relays)).",
    ] = None
    plugins: Annotated[
        tuple[str, ...],
        IMPORTED,
        Distinct(),
        "Python modules to import, beside what installed packages bring: `package.module`, whose"
        " classes a shared configuration may use, or `package.module:Class`, that one alone.",
    ] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `proxy.yaml`, checked, with defaults filled in and services inherited."""

    listeners: tuple[ListenerSettings, ...] = (ListenerSettings(),)
    admin: AdminSettings = AdminSettings()
    workers: int = 1
    """Resolved: `auto` is the number of CPUs this process may use."""
    user: str = ""
    watch: bool = False
    log: LogSettings = LogSettings()
    access_log: AccessLogSettings | None = None
    tracing: TracingSettings | None = None
    acme: AcmeSettings | None = None
    registry: Registry = Registry()
    shutdown: ShutdownSettings = ShutdownSettings()
    routes: tuple[RouteSpec, ...] = ()
    routes_from_instances: InstanceRoutes | None = None
    defaults: PoolSettings = PoolSettings()
    services: dict[str, PoolSettings] = {}
    config: ConfigSettings | None = None
    shared_known: bool = True
    """False: what `config` leads to is not known yet. Nobody is served until then."""
    fleet: FleetSettings | None = None
    relay: RelaySettings | None = None
    plugins: tuple[str, ...] = ()
    static: dict[str, tuple[Instance, ...]] = {}
    """Services whose instances stand in the file: never looked up in the registry."""
    derived: dict[str, str] = {}
    """Service → another one that has the same instances."""

    @property
    def secret_files(self) -> set[str]:
        """Names of the files whose secrets are in force."""
        pools = (self.defaults, *self.services.values())
        sections = (self.admin, self.relay, self.acme and self.acme.eab)
        holders = (*sections, *(one.sticky for one in pools))
        return {name for one in holders if one is not None for _, name in named(one)}
