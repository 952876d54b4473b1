"""proxy.yaml → `Settings`, or every complaint about the file at once.

    text ─ yaml_lines ─▶ tree ─ declare ─▶ what is given ─ rules of the sections ─▶ Settings

A complaint about one place must not hide those about others: what cannot be read is left out, and
the rules that relate several settings run over everything that is sound. Only the control process
and the commands read files; workers get their part ready-made over the channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any

import msgspec

from proxy import cpus, files
from proxy.settings.access_log import resolve_access_log
from proxy.settings.acme import check_acme
from proxy.settings.callers import CallersSettings
from proxy.settings.complaints import Complaint, ConfigError, Report
from proxy.settings.dashboard import with_dashboard, with_token_anew
from proxy.settings.declare import Given, build, read_section
from proxy.settings.file import File, Served, Settings
from proxy.settings.filters import FilterReader
from proxy.settings.fleet import SharedText, check_acme_storage, check_fleet
from proxy.settings.include import MAX_FILE, read_with_included
from proxy.settings.instance_routes import check_instance_routes
from proxy.settings.instances import derived_services, renamed, static_instances
from proxy.settings.listener import check_listeners
from proxy.settings.process import resolve_tls
from proxy.settings.read import shown
from proxy.settings.registry import check_registries
from proxy.settings.relay import check_relay
from proxy.settings.route import check_routes
from proxy.settings.secrets import named, secret_in, with_secrets
from proxy.settings.service import PoolSettings, finished, inherit
from proxy.settings.shared import check_config, read_shared
from proxy.settings.sticky import with_secret
from proxy.settings.tree import Path, Scalar

Remarks = Iterable[tuple[Path, str]]
"""Places and what is to be said of them."""


def load(path: FilePath, environ: Mapping[str, str]) -> Settings:
    """Read and check a file. Raises `ConfigError`, for an unreadable file too."""
    return parse(read_text(path), str(path), environ)


def read_text(path: FilePath) -> str:
    """The text of a file. Raises `ConfigError` if it cannot be had."""
    name = str(path)
    try:
        content = files.read(name, MAX_FILE)
    except FileNotFoundError:
        raise _whole_file(name, "there is no such file; allowed: a YAML file") from None
    except files.Refused as error:
        raise _whole_file(name, f"{error.strerror}; allowed: a YAML file") from None
    except OSError as error:
        raise _whole_file(
            name, f"cannot be read ({error.strerror}); allowed: a YAML file"
        ) from None
    if len(content) > MAX_FILE:
        raise _whole_file(name, f"is too large; allowed: {MAX_FILE} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not text: the byte 0x{content[error.start]:02x} is not UTF-8; allowed: UTF-8"
        raise ConfigError([Complaint(name, line, "", message)]) from None


def located(path: FilePath, environ: Mapping[str, str], remarks: Remarks) -> tuple[Complaint, ...]:
    """Remarks about places of a file that was loaded, each with its line."""
    text = files.read(str(path), MAX_FILE).decode("utf-8-sig")
    document = read_with_included(text, path, environ)
    report = Report(str(path), document)
    for place, message in remarks:
        report.complain(place, message)
    return report.error().complaints


def parse(
    text: str, file_name: str, environ: Mapping[str, str], shared: SharedText | None = None
) -> Settings:
    """Check the text of a file. `file_name` appears in complaints, and names of other files
    are relative to its directory. `shared`: what the key of `config` holds, if the file has one and
    that is known; without it nobody is served. Raises `ConfigError`."""
    document = read_with_included(text, FilePath(file_name), environ)
    report = Report(file_name, document)
    if document.root is None or (isinstance(document.root, Scalar) and document.root.empty):
        if not report.complaints:
            raise _whole_file(file_name, "is empty; allowed: at least one route under routes:")
        raise report.error()
    if not isinstance(document.root, dict):
        report.complain((), f"is {shown(document.root)} at the top; allowed: a mapping")
        raise report.error()
    given = read_section(File, document.root, (), report)
    assert given is not None  # It is a mapping, and no key of it is required.
    return _settings(given, FilePath(file_name).parent, report, shared)


def with_secrets_anew(settings: Settings, path: FilePath) -> Settings:
    """Settings of the file `path`, with the secrets that their files hold now. Raises
    `ConfigError`."""
    complaints: list[Complaint] = []

    def anew(place: str, one: Any) -> Any:
        found = {}
        for key, name in () if one is None else named(one):
            try:
                found[key] = secret_in(type(one), key, path.parent / name)
            except ValueError as error:
                complaints.append(Complaint(str(path), None, f"{place}.{key}_file", str(error)))
        return msgspec.structs.replace(one, **found) if found else one

    def pool(place: str, one: PoolSettings) -> PoolSettings:
        return msgspec.structs.replace(one, sticky=anew(f"{place}.sticky", one.sticky))

    acme = settings.acme
    settings = msgspec.structs.replace(
        settings,
        admin=anew("admin", settings.admin),
        relay=anew("relay", settings.relay),
        acme=acme and msgspec.structs.replace(acme, eab=anew("acme.eab", acme.eab)),
        defaults=pool("defaults", settings.defaults),
        services={name: pool(f"services.{name}", one) for name, one in settings.services.items()},
    )
    if complaints:
        raise ConfigError(complaints)
    return with_token_anew(settings)


def _whole_file(name: str, message: str) -> ConfigError:
    return ConfigError([Complaint(name, None, "", message)])


def _settings(
    given: Given, directory: FilePath, report: Report, shared: SharedText | None
) -> Settings:
    """Settings made of a file, and of what it shares with others; after all rules are asked
    ConfigError if one of them complained."""
    file = build(File, given)
    place = given.get("admin") or Given(("admin",))
    admin = with_secrets(file.admin, place, directory, report)
    acme = check_acme(given.get("acme"), file.acme, directory, report)
    reader = FilterReader(given.get("filters"), directory, report)
    listeners = check_listeners(
        given.get("listeners"), file.listeners, file.admin.bind, acme, directory, report
    )
    if (places := given.get("listeners")) is not None:
        listeners = tuple(map(reader.resolved, listeners, places))
    bounds, place = file.routes_from_instances, given.get("routes_from_instances")
    check_instance_routes(place, bounds, report)
    registry = check_registries(
        given.get("registry"),
        file.registry,
        given.get("registries"),
        file.registries,
        directory,
        report,
    )
    check_acme_storage(acme, registry, report)
    settings = Settings(
        listeners=listeners,
        admin=msgspec.structs.replace(admin, tls=resolve_tls(admin.tls, directory)),
        workers=file.workers or cpus.usable(),
        user=file.user,
        watch=file.watch,
        log=file.log,
        access_log=resolve_access_log(file.access_log, directory, report),
        tracing=file.tracing,
        acme=acme,
        registry=registry,
        routes_from_instances=bounds and reader.resolved(bounds, place),
        shutdown=file.shutdown,
        config=file.config,
        fleet=check_fleet(file.fleet, directory, report),
        relay=check_relay(
            given.get("relay"),
            file.relay,
            registry,
            [file.admin.bind, *(one.bind for one in listeners)],
            directory,
            report,
        ),
        plugins=file.plugins,
    )
    complaints: list[Complaint] = []
    if file.config is None:
        settings = _serving(settings, given, directory, reader, report)
    else:
        check_config(given, file.config, settings.registry, report)
        if shared is not None:
            try:
                theirs, remarks = read_shared(shared, file.config, file.plugins)
                reader = FilterReader(theirs.get("filters"), directory, remarks, reader.named)
                settings = _serving(settings, theirs, directory, reader, remarks)
                complaints += remarks.error().complaints
            except ConfigError as error:
                complaints += error.complaints
        else:
            # Who may call is under the key. Without routes there is no request, but there are
            # connections, and routes that instances bring.
            nobody = PoolSettings(callers=CallersSettings())
            settings = msgspec.structs.replace(settings, shared_known=False, defaults=nobody)
    if complaints := [*report.error().complaints, *complaints]:
        raise ConfigError(complaints)
    return settings


def _serving(
    settings: Settings, given: Given, directory: FilePath, reader: FilterReader, report: Report
) -> Settings:
    """The settings with services and routes, which `given` has, and the rules over them."""
    served = build(Served, given)
    prefix = getattr(settings.registry.options, "prefix", "")

    def inherited(given: Given, service: str, defaults: PoolSettings) -> PoolSettings:
        own = reader.resolved(inherit(given, service, defaults, report), given)
        sticky = with_secret(own.sticky, given, directory, prefix, report)
        return msgspec.structs.replace(own, sticky=sticky)

    defaults = inherited(given.get("defaults") or Given(("defaults",)), "", PoolSettings())
    own: Mapping[str, Given] = given.get("services") or {}
    services = {name: inherited(section, name, defaults) for name, section in own.items()}
    static = static_instances(own, report)
    derived = derived_services(own, report)
    for name, source in derived.items():
        if source in static:
            static[name] = renamed(static[source], name)
    routes = tuple(map(reader.resolved, served.routes, given.get("routes") or ()))
    names = [one.name for one in settings.listeners]
    needed = any(one.mode_tcp is None for one in settings.listeners)
    check_routes(given.get("routes"), routes, names, report, needed)
    settings = msgspec.structs.replace(
        settings,
        routes=routes,
        defaults=finished(defaults, directory),
        services={name: finished(service, directory) for name, service in services.items()},
        static=static,
        derived={name: source for name, source in derived.items() if name not in static},
    )
    return with_dashboard(settings, given.get("routes"), settings.config is not None, report)
