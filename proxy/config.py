"""proxy.yaml → `Settings`, or every complaint about the file at once.

    text ─ yaml_lines ─▶ tree ─ config_schema ─▶ sections ─ rules here ─▶ Settings

A complaint about one place must not hide those about others: what the schema refuses is cut
out of the tree, the rest is read again, and the rules that relate several settings run over
everything that is sound. Only the control process and the commands import this module;
workers get their part ready-made over the channel.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from balancers.base import Balancer
from proxy import catalog, config_schema, cpus, yaml_lines
from proxy.config_schema import did_you_mean, shown
from proxy.model import (
    AccessLogSettings,
    AdminSettings,
    BalancerSpec,
    BreakerSettings,
    FailoverSettings,
    HealthCheckSettings,
    Instance,
    ListenerLimits,
    ListenerSettings,
    ListenerTimeouts,
    LogSettings,
    MassLossSettings,
    PoolSettings,
    RateLimitSettings,
    RegistrySettings,
    RegistryTls,
    RouteSpec,
    ServiceSettings,
    Settings,
    ShutdownSettings,
)
from proxy.yaml_lines import Document, Path, Scalar

MAX_FILE = 1024 * 1024
"""Bytes; room for 15,000 static instances. PyYAML needs a second for that much, and some ten
without libyaml; nobody waits longer for a start."""

NOT_BUILT: Mapping[str, tuple[object, str]] = {
    # Key → (the value that changes nothing and is therefore accepted, how it is written).
    # `service.` stands for `defaults.` and `services.*.`; a key below a listed one is covered
    # by it. Whoever builds a feature removes its line here and its mark in
    # docs/configuration.md.
    "listeners.*.tls": (None, "off"),
}

DEFAULT_KEY = "client_ip"
"""What a balancer that hashes hashes when the file does not say."""

S = TypeVar("S", bound=msgspec.Struct)


class Complaint(msgspec.Struct, frozen=True):
    """One thing that is wrong, and where. `str()` is the line that `fairlead check` prints."""

    file: str
    line: int | None
    """None = the file as a whole."""
    path: str
    """`services.users.timeouts.connect`, `routes.0.host`; "" = the file as a whole."""
    message: str
    """What is wrong; what is allowed."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(Exception):
    """The configuration cannot be used. `complaints` holds all there are, in file order."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("\n".join(map(str, self.complaints)))


def load(path: FilePath, environ: Mapping[str, str]) -> Settings:
    """Read and check a file. Raises `ConfigError`, for an unreadable file too."""
    name = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise _whole_file(name, "there is no such file; allowed: a YAML file") from None
    except IsADirectoryError:
        raise _whole_file(name, "is a directory; allowed: a YAML file") from None
    except OSError as error:
        raise _whole_file(
            name, f"cannot be read ({error.strerror}); allowed: a YAML file"
        ) from None
    if len(content) > MAX_FILE:
        raise _whole_file(name, f"is too large; allowed: {MAX_FILE} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not text: the byte 0x{content[error.start]:02x} is not UTF-8; allowed: UTF-8"
        raise ConfigError([Complaint(name, line, "", message)]) from None
    return parse(text, name, environ)


def parse(text: str, file_name: str, environ: Mapping[str, str]) -> Settings:
    """Check the text of a file. `file_name` appears in complaints, and names of other files
    are relative to its directory. Raises `ConfigError`."""
    document = yaml_lines.read(text, environ)
    report = _Report(file_name, document)
    if document.root is None or (isinstance(document.root, Scalar) and document.root.empty):
        if not report.complaints:
            raise _whole_file(file_name, "is empty; allowed: at least one route under routes:")
        raise report.error()
    if not isinstance(document.root, dict):
        report.complain((), f"is {shown(document.root)} at the top; allowed: a mapping")
        raise report.error()
    file, positions = _sound_part(document, report)
    settings = _Rules(report, positions, FilePath(file_name).parent).settings(file)
    if report.complaints:
        raise report.error()
    return settings


def _whole_file(name: str, message: str) -> ConfigError:
    return ConfigError([Complaint(name, None, "", message)])


class _Report:
    """Owns the complaints about one file."""

    def __init__(self, file_name: str, document: Document) -> None:
        self.complaints: list[Complaint] = []
        self._file = file_name
        self._lines = document.lines
        self._suspect: set[Path] = set()
        self._around: set[Path] = set()
        """The suspect places, and everything that holds one of them."""
        self.misspelt: set[Path] = set()
        """Mappings with unknown keys: what seems to be missing from them may be one of those."""
        for problem in document.problems:
            self._add(problem.line, problem.path, problem.message)

    def complain(self, path: Path, message: str) -> None:
        """About a place that is in the file, or a key that is missing from one that is."""
        place = path
        while place and place not in self._lines:
            place = place[:-1]
        self._add(self._lines.get(place, 1), path, message)

    def exists(self, path: Path) -> bool:
        return path in self._lines

    def sound(self, *paths: Path) -> bool:
        """No complaint yet about any of these places, what is around or what is in them."""
        return not any(
            path in self._around or any(path[:n] in self._suspect for n in range(1, len(path)))
            for path in paths
        )

    def error(self) -> ConfigError:
        return ConfigError(
            sorted(self.complaints, key=lambda complaint: (complaint.line or 0, complaint.path))
        )

    def _add(self, line: int | None, path: Path, message: str) -> None:
        dotted = ".".join(map(str, path))
        self.complaints.append(Complaint(self._file, line, dotted, message))
        if path:
            self._suspect.add(path)
            self._around.update(path[:n] for n in range(1, len(path) + 1))


# ------------------------------------------------------------------------ by the schema

Positions = Mapping[Path, Sequence[int]]
"""List → where the items that are left stand in the file, when some had to be cut out."""


def _sound_part(document: Document, report: _Report) -> tuple[config_schema.File, Positions]:
    """The file as far as the schema accepts it. Complains about the rest."""
    cut = set(document.broken)
    while True:
        positions: dict[Path, list[int]] = {}
        tree = _without(document.root, (), cut, positions)
        try:
            return config_schema.File.model_validate(tree), positions
        except ValidationError as error:
            before = len(cut)
            for details in error.errors(include_url=False):
                if details["type"] == "missing":
                    *location, key = details["loc"]
                    place = _place(location, positions, document)
                    # A key that stands in the file is missing only because it was cut out.
                    if not report.exists((*place, str(key))):
                        report.complain((*place, str(key)), _missing(place, str(key)))
                else:
                    place = _place(details["loc"], positions, document)
                    report.complain(place, _plain_words(details, place))
                    if details["type"] == "extra_forbidden":
                        report.misspelt.add(place[:-1])
                cut.add(place)
            if len(cut) == before:
                raise  # Cannot happen; better a traceback than a loop without end.


def _without(value: object, path: Path, cut: set[Path], positions: dict[Path, list[int]]) -> object:
    """A copy of the tree without the places in `cut`."""
    if isinstance(value, dict):
        return {
            key: _without(item, (*path, key), cut, positions)
            for key, item in value.items()
            if (*path, key) not in cut
        }
    if isinstance(value, list):
        kept = [n for n in range(len(value)) if (*path, n) not in cut]
        if len(kept) < len(value):
            positions[path] = kept
        return [_without(value[n], (*path, n), cut, positions) for n in kept]
    return value


def _place(location: Sequence[str | int], positions: Positions, document: Document) -> Path:
    """A location in pydantic's sense → the nearest place that stands in the file."""
    path: Path = ()
    for step in location:
        if isinstance(step, int):
            step = positions.get(path, range(step + 1))[step]
        if (*path, step) not in document.lines:
            break
        path = (*path, step)
    return path


def _missing(place: Path, key: str) -> str:
    section = config_schema.section_at(place)
    read = config_schema.reader(section.model_fields[key]) if section is not None else None
    return f"is missing; allowed: {read.allowed}" if read is not None else "is missing"


def _plain_words(details: Mapping[str, Any], place: Path) -> str:
    kind, value = details["type"], details["input"]
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind == "extra_forbidden":
        section = config_schema.section_at(place[:-1])
        known = sorted(section.model_fields) if section is not None else []
        return f"is not a known key{did_you_mean(str(place[-1]), known)}; allowed: " + ", ".join(
            known
        )
    expected = "a list" if kind == "list_type" else "a mapping"
    if isinstance(value, Scalar) and value.empty:
        return f"is empty; allowed: {expected}, or leave the key out"
    return f"is {shown(value)}; allowed: {expected}"


# ------------------------------------------------------------------------- by the rules


class _Rules:
    """Turns checked sections into settings, and checks what no section can see alone."""

    def __init__(self, report: _Report, positions: Positions, directory: FilePath) -> None:
        self._report = report
        self._positions = positions
        self._directory = directory

    def settings(self, file: config_schema.File) -> Settings:
        self._refuse_what_is_not_built(file)
        listeners = self._listeners(file)
        defaults = self._service(("defaults",), file.defaults, ServiceSettings())
        services = {
            name: self._service(("services", name), service, defaults)
            for name, service in file.services.items()
        }
        pool_defaults = self._pool(("defaults",), "", file.defaults, PoolSettings(), defaults)
        pools = {
            name: self._pool(("services", name), name, service, pool_defaults, services[name])
            for name, service in file.services.items()
        }
        return Settings(
            listeners=listeners,
            admin=_overlay(AdminSettings(), file.admin),
            workers=file.workers or cpus.usable(),
            log=_overlay(LogSettings(), file.log),
            access_log=self._access_log(file.access_log),
            registry=self._registry(("registry",), file.registry),
            backups=self._backups(file.registry),
            failover=_overlay(FailoverSettings(), file.registry),
            snapshot=self._snapshot(file.registry),
            mass_loss_guard=_optional(MassLossSettings(), None, file.registry, "mass_loss_guard"),
            shutdown=_overlay(ShutdownSettings(), file.shutdown),
            routes=self._routes(file.routes),
            defaults=defaults,
            services=services,
            pool_defaults=_steady(pool_defaults, defaults),
            pools={name: _steady(pool, services[name]) for name, pool in pools.items()},
            static=self._static(file.services),
        )

    def _items(self, path: Path, items: Sequence[S | Any]) -> Iterator[tuple[Path, Any]]:
        """The items of a list with the places where they stand in the file."""
        for n, item in zip(self._positions.get(path, range(len(items))), items, strict=True):
            yield (*path, n), item

    # -- not in this version

    def _refuse_what_is_not_built(self, file: config_schema.File) -> None:
        for path, pattern, value in self._given(file, (), ()):
            harmless, written = NOT_BUILT.get(".".join(pattern), (value, ""))
            if value != harmless or type(value) is not type(harmless):
                allowed = "leave it out" + (f", or write {written}" if written else "")
                self._report.complain(path, f"is not available in this version; allowed: {allowed}")

    def _given(
        self, section: BaseModel, path: Path, pattern: tuple[str, ...]
    ) -> Iterator[tuple[Path, tuple[str, ...], object]]:
        """Every key that stands in the file: its place, its name in `NOT_BUILT`, its value."""
        for name in section.model_fields_set & type(section).model_fields.keys():
            yield from self._below(getattr(section, name), (*path, name), (*pattern, name))

    def _below(
        self, value: object, path: Path, pattern: tuple[str, ...]
    ) -> Iterator[tuple[Path, tuple[str, ...], object]]:
        if pattern == ("defaults",) or pattern == ("services", "*"):
            pattern = ("service",)
        yield path, pattern, value
        if isinstance(value, BaseModel):
            yield from self._given(value, path, pattern)
        elif isinstance(value, list):
            for place, item in self._items(path, value):
                yield from self._below(item, place, (*pattern, "*"))
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from self._below(item, (*path, key), (*pattern, "*"))

    # -- listeners and admin

    def _listeners(self, file: config_schema.File) -> tuple[ListenerSettings, ...]:
        report = self._report
        if not file.listeners and report.sound(("listeners",)):
            report.complain(("listeners",), "is empty; allowed: at least one listener")
        names: dict[str, Path] = {}
        binds = [(file.admin.bind, "admin.bind")] if report.sound(("admin", "bind")) else []
        listeners: list[ListenerSettings] = []
        for path, listener in self._items(("listeners",), file.listeners):
            if report.sound((*path, "name")):
                first = names.setdefault(listener.name, path)
                if first != path:
                    report.complain(
                        (*path, "name"),
                        f'"{listener.name}" is already the name of {_dotted(first)}; allowed:'
                        " a different name for each listener",
                    )
            if report.sound((*path, "bind")):
                self._free((*path, "bind"), listener.bind, binds)
                if not listener.bind.startswith("unix:"):
                    self._refuse_file_settings(path, listener)
            limits = _overlay(ListenerLimits(), listener.limits)
            if limits.target > limits.head and report.sound(
                (*path, "limits", "target"), (*path, "limits", "head")
            ):
                report.complain(
                    (*path, "limits", "target"),
                    f"is larger than the head that holds it; allowed: up to {limits.head} bytes,"
                    " or a larger limits.head",
                )
            listeners.append(
                ListenerSettings(
                    name=listener.name,
                    bind=listener.bind,
                    mode=listener.mode,
                    owner=listener.owner,
                    trusted_proxies=tuple(listener.trusted_proxies),
                    proxy_protocol=listener.proxy_protocol,
                    forwarded=listener.forwarded,
                    client_close="abort" if listener.client_close == "abort" else "half_close",
                    limits=limits,
                    timeouts=_overlay(ListenerTimeouts(), listener.timeouts),
                )
            )
        return tuple(listeners)

    def _refuse_file_settings(self, path: Path, listener: config_schema.Listener) -> None:
        for key in ("mode", "owner"):
            if getattr(listener, key) is not None:
                self._report.complain(
                    (*path, key),
                    f'is for the file of a Unix socket, and "{listener.bind}" is none; allowed:'
                    " leave it out, or a bind such as unix:/run/fairlead.sock",
                )

    def _free(self, path: Path, bind: str, taken: list[tuple[str, str]]) -> None:
        """Complain when `bind` cannot be had because another one of this file has it."""
        for other, owner in taken:
            if _collide(bind, other):
                where = f'"{bind}" is' if bind == other else f'"{bind}" is part of "{other}",'
                self._report.complain(
                    path, f"{where} already used by {owner}; allowed: another port or address"
                )
                return
        taken.append((bind, _dotted(path)))

    # -- registry

    def _backups(self, registry: config_schema.Registry) -> tuple[RegistrySettings, ...]:
        path: Path = ("registry", "backups")
        backups: list[RegistrySettings] = []
        seen = {_where(registry): "registry"}
        for place, backup in self._items(path, registry.backups):
            if self._report.sound((*place, "type")) and backup.type == "static":
                self._report.complain(
                    (*place, "type"),
                    '"static" is no registry that could be up when another one is down; allowed:'
                    " another type",
                )
                continue
            where = _where(backup)
            if seen.setdefault(where, _dotted(place)) != _dotted(place):
                self._report.complain(place, f"is the same as {seen[where]}; allowed: another one")
            backups.append(self._registry(place, backup))
        return tuple(backups)

    def _snapshot(self, registry: config_schema.Registry) -> str | None:
        """The name of the file; its directory must be there already, or nothing is ever
        remembered and nobody notices before the day it is needed."""
        if registry.snapshot is None:
            return None
        return self._file(("registry", "snapshot"), registry.snapshot)

    def _access_log(self, section: config_schema.AccessLog | None) -> AccessLogSettings | None:
        if section is None:
            return None
        settings = _overlay(AccessLogSettings(), section)
        if settings.path == "-":
            return settings
        path = self._file(("access_log", "path"), settings.path)
        return msgspec.structs.replace(settings, path=path)

    def _file(self, path: Path, name: str) -> str:
        """The name of a file that is made when it is not there."""
        file = self._directory / name
        if file.is_dir():
            self._report.complain(path, f'"{file}" is a directory; allowed: a file')
        elif not file.parent.is_dir():
            self._report.complain(
                path, f'"{file.parent}" is no directory; allowed: a file in one that exists'
            )
        return str(file)

    def _registry(self, path: Path, registry: config_schema.OneRegistry) -> RegistrySettings:
        report = self._report
        if registry.type == "static":
            for key in (
                *("endpoints", "username", "password", "tls"),
                *("backups", "snapshot", "mass_loss_guard"),
            ):
                if getattr(registry, key, None) and report.sound((*path, key), (*path, "type")):
                    report.complain(
                        (*path, key),
                        "has no meaning for type static, which looks nothing up; allowed: leave it"
                        " out, or another type",
                    )
        elif not registry.endpoints and report.sound((*path, "endpoints"), (*path, "type")):
            missing = "is empty" if report.exists((*path, "endpoints")) else "is missing"
            report.complain(
                (*path, "endpoints"),
                f"{missing}; allowed for type {registry.type}: at least one http://host:port",
            )
        seen: dict[str, Path] = {}
        for place, endpoint in self._items((*path, "endpoints"), registry.endpoints):
            if seen.setdefault(endpoint, place) != place:
                report.complain(
                    place, f'"{endpoint}" stands here a second time; allowed: each one once'
                )
        if registry.password and not registry.username and report.sound((*path, "username")):
            report.complain(
                (*path, "password"), "has no username; allowed: both of them, or neither"
            )
        return RegistrySettings(
            type=registry.type,
            endpoints=tuple(registry.endpoints),
            prefix=registry.prefix,
            username=registry.username,
            password=registry.password,
            tls=self._registry_tls((*path, "tls"), registry),
        )

    def _registry_tls(self, path: Path, registry: config_schema.OneRegistry) -> RegistryTls | None:
        tls = registry.tls
        if tls is None:
            return None
        for one, other in (("cert", "key"), ("key", "cert")):
            if getattr(tls, one) and not getattr(tls, other) and self._report.sound((*path, other)):
                self._report.complain(
                    (*path, one), f"needs {other} beside it; allowed: both of them, or neither"
                )
        return RegistryTls(
            ca=self._pem((*path, "ca"), tls.ca),
            cert=self._pem((*path, "cert"), tls.cert),
            key=self._pem((*path, "key"), tls.key),
        )

    def _pem(self, path: Path, name: str | None) -> str | None:
        if name is None:
            return None
        file = self._directory / name
        problem = ""
        try:
            with file.open("rb") as stream:
                if b"-----BEGIN " not in stream.read(MAX_FILE):
                    problem = "holds no PEM block"
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
        if problem:
            self._report.complain(path, f'"{file}" {problem}; allowed: a readable PEM file')
        return str(file)

    # -- services

    def _service(
        self, path: Path, own: config_schema.Defaults, inherited: ServiceSettings
    ) -> ServiceSettings:
        retry = inherited.retry
        if "retry" in own.model_fields_set:
            if own.retry is None:
                retry = msgspec.structs.replace(retry, max_retries=0)
            else:
                retry = _overlay(retry, own.retry)
        ejection = inherited.ejection
        if "ejection" in own.model_fields_set:
            if own.ejection is not None:
                ejection = _overlay(ejection, own.ejection)
            ejection = msgspec.structs.replace(ejection, enabled=own.ejection is not None)
        balancer = inherited.balancer
        if "balancer" in own.model_fields_set:
            balancer = self._balancer((*path, "balancer"), own.balancer, balancer)
        return ServiceSettings(
            balancer=balancer,
            timeouts=_overlay(inherited.timeouts, own.timeouts),
            keepalive=_overlay(inherited.keepalive, own.keepalive),
            retry=retry,
            ejection=ejection,
            breaker=_optional(BreakerSettings(), inherited.breaker, own, "circuit_breaker"),
            max_inflight=(
                own.max_inflight
                if "max_inflight" in own.model_fields_set
                else inherited.max_inflight
            ),
            queue=_overlay(inherited.queue, own.queue),
            rate_limit=self._rate_limit(inherited.rate_limit, own),
            drain=_overlay(inherited.drain, own.drain),
        )

    def _pool(
        self,
        path: Path,
        name: str,
        own: config_schema.Defaults,
        inherited: PoolSettings,
        settings: ServiceSettings,
    ) -> PoolSettings:
        check = _optional(HealthCheckSettings(), inherited.health_check, own, "health_check")
        if check is not None and own.health_check is not None:
            self._health_check((*path, "health_check"), check, own.health_check)
        given = own.model_fields_set
        if own.slow_start and "slow_start" in given and name and _keyed(settings):
            self._report.complain(
                (*path, "slow_start"),
                f"has no meaning for {settings.balancer.type}, whose weights say which keys an"
                " instance gets; allowed: 0, or another balancer",
            )
        fallback = inherited.fallback
        if name and "fallback_instances" not in given:
            fallback = tuple(msgspec.structs.replace(one, service=name) for one in fallback)
        elif "fallback_instances" in given:
            place = (*path, "fallback_instances")
            fallback = self._instances(place, name, own.fallback_instances)
        return PoolSettings(
            health_check=check,
            panic_threshold=(
                own.panic_threshold if "panic_threshold" in given else inherited.panic_threshold
            ),
            slow_start=own.slow_start if "slow_start" in given else inherited.slow_start,
            fallback=fallback,
        )

    def _health_check(
        self, path: Path, check: HealthCheckSettings, own: config_schema.HealthCheck
    ) -> None:
        """What the keys of one check mean together."""
        report = self._report
        if not report.sound((*path, "type")):
            return
        for key, type_ in (("path", "http"), ("expect", "http"), ("command", "exec")):
            if key in own.model_fields_set and check.type != type_ and report.sound((*path, key)):
                report.complain(
                    (*path, key),
                    f"has no meaning for type {check.type}; allowed: only for {type_}",
                )
        if check.type == "exec" and not check.command and report.sound((*path, "command")):
            report.complain(
                (*path, "command"), "is missing; allowed for type exec: a line for the shell"
            )

    def _rate_limit(
        self, inherited: RateLimitSettings | None, own: config_schema.Defaults
    ) -> RateLimitSettings | None:
        if "rate_limit" not in own.model_fields_set:
            return inherited
        if own.rate_limit is None:
            return None
        base = inherited or RateLimitSettings(requests=own.rate_limit.requests)
        return _overlay(base, own.rate_limit)

    def _balancer(
        self, path: Path, own: config_schema.Balancer, inherited: BalancerSpec
    ) -> BalancerSpec:
        """A different type inherits nothing: its parameters mean something else."""
        same = "type" not in own.model_fields_set or own.type == inherited.type
        base = inherited if same else BalancerSpec(type=own.type)
        if not self._report.sound((*path, "type")):
            return base
        balancer: type[Balancer] = catalog.load(catalog.BALANCERS, base.type)
        key = own.key or base.key or (DEFAULT_KEY if balancer.uses_key else "")
        if own.key and not balancer.uses_key:
            keyed = [
                name for name in catalog.BALANCERS if catalog.load(catalog.BALANCERS, name).uses_key
            ]
            self._report.complain(
                (*path, "key"),
                f"has no meaning for {base.type}; allowed: only for {', '.join(keyed)}",
            )
        parameters = balancer_parameters(base.type)
        params = dict(base.params)
        for name, value in (own.model_extra or {}).items():
            if name not in parameters:
                known = ["type", *(["key"] if balancer.uses_key else []), *parameters]
                self._report.complain(
                    (*path, name),
                    f"is not a known key{did_you_mean(name, known)}; allowed for {base.type}: "
                    + ", ".join(known),
                )
                continue
            try:
                params[name] = parameters[name].reader(value)
            except ValueError as error:
                self._report.complain((*path, name), str(error))
        return BalancerSpec(type=base.type, key=key, params=params)

    def _static(
        self, services: Mapping[str, config_schema.Service]
    ) -> dict[str, tuple[Instance, ...]]:
        static: dict[str, tuple[Instance, ...]] = {}
        for name, service in services.items():
            path: Path = ("services", name)
            try:
                config_schema.parse_name(name)
            except ValueError as error:
                self._report.complain(
                    path, f"{error}; allowed: {config_schema.NAMES}, as in a registry key"
                )
            if service.instances is None:
                continue
            path = (*path, "instances")
            if not service.instances and self._report.sound(path):
                self._report.complain(
                    path,
                    "is empty; allowed: at least one instance, or leave it out to look the"
                    " service up in the registry",
                )
            static[name] = self._instances(path, name, service.instances)
        return static

    def _instances(
        self, path: Path, service: str, sections: Sequence[config_schema.Instance]
    ) -> tuple[Instance, ...]:
        seen: dict[str, Path] = {}
        instances: list[Instance] = []
        for place, section in self._items(path, sections):
            host = f"[{section.address}]" if ":" in section.address else section.address
            id = section.id or f"{host}:{section.port}"
            if seen.setdefault(id, place) != place and self._report.sound((*place, "id")):
                self._report.complain(
                    (*place, "id") if section.id else place,
                    f'"{id}" is already the id of {_dotted(seen[id])}; allowed: a different id'
                    " for each instance",
                )
            instances.append(
                Instance(
                    service=service,
                    id=id,
                    address=section.address,
                    port=section.port,
                    weight=self._weight(place, section),
                    version=section.version,
                    metadata=dict(section.metadata),
                )
            )
        return tuple(instances)

    def _weight(self, path: Path, section: config_schema.Instance) -> int:
        text = section.metadata.get("weight")
        if text is None:
            return section.weight
        place = (*path, "metadata", "weight")
        if "weight" in section.model_fields_set:
            self._report.complain(place, "says the same as weight; allowed: one of the two")
            return section.weight
        try:
            return config_schema.WEIGHT(Scalar(text))
        except ValueError as error:
            self._report.complain(place, str(error))
            return section.weight

    # -- routes

    def _routes(self, sections: Sequence[config_schema.Route]) -> tuple[RouteSpec, ...]:
        report = self._report
        if not sections and report.sound(("routes",)):
            missing = "is empty" if report.exists(("routes",)) else "is missing"
            report.complain(("routes",), f"{missing}; allowed: at least one route")
        routes: list[RouteSpec] = []
        earlier: dict[tuple[str | None, str | None], list[tuple[Path, RouteSpec]]] = {}
        for path, section in self._items(("routes",), sections):
            route = RouteSpec(
                host=section.host,
                path_prefix=section.path_prefix,
                methods=tuple(section.methods),
                headers=dict(section.headers),
                strip_prefix=section.strip_prefix,
                rewrite_prefix=section.rewrite_prefix,
                set_host=section.set_host,
                service=section.service,
            )
            self._route(path, route)
            conditions = [(*path, key) for key in ("host", "path_prefix", "methods", "headers")]
            if report.sound(*conditions) and path not in report.misspelt:
                # Only those with the same host and prefix: between others the more specific
                # one goes first, wherever it stands in the file.
                peers = earlier.setdefault((route.host, route.path_prefix), [])
                for place, other in peers:
                    if _shadows(other, route):
                        report.complain(
                            path,
                            f"can never match, because {_dotted(place)} takes all its requests;"
                            " allowed: move it up, or give it other conditions",
                        )
                        break
                peers.append((path, route))
            routes.append(route)
        return tuple(routes)

    def _route(self, path: Path, route: RouteSpec) -> None:
        """What the keys of one route mean together."""
        report = self._report
        host, prefix, service = (*path, "host"), (*path, "path_prefix"), (*path, "service")
        templates = [
            place
            for place, text in ((host, route.host), (prefix, route.path_prefix))
            if text is not None and "{service}" in text
        ]
        if report.sound(host, prefix, service):
            if len(templates) == 2:
                report.complain(
                    prefix, "holds {service}, and so does host; allowed: in one of them"
                )
            elif templates and route.service is not None:
                report.complain(
                    service, "stands beside a {service} template; allowed: one of the two"
                )
            elif not templates and route.service is None and path not in report.misspelt:
                report.complain(
                    path, "leads nowhere; allowed: a service, or {service} in host or path_prefix"
                )
        strip, rewrite = (*path, "strip_prefix"), (*path, "rewrite_prefix")
        if report.sound(strip, rewrite):
            if route.strip_prefix and route.rewrite_prefix is not None:
                report.complain(
                    rewrite, "stands beside strip_prefix: true; allowed: one of the two"
                )
            elif route.path_prefix is None and report.sound(prefix):
                for place, given in (
                    (strip, route.strip_prefix),
                    (rewrite, route.rewrite_prefix is not None),
                ):
                    if given:
                        report.complain(place, "has no prefix to act on; allowed: with path_prefix")
        names: dict[str, str] = {}
        for name in route.headers:
            place = (*path, "headers", name)
            try:
                config_schema.parse_field_name(name)
            except ValueError as error:
                report.complain(place, f'"{name}" {error}; allowed: a name such as X-Beta')
                continue
            if names.setdefault(name.lower(), name) != name:
                report.complain(
                    place,
                    f'"{name}" is the same field as "{names[name.lower()]}"; allowed: each one'
                    " once",
                )


def _keyed(settings: ServiceSettings) -> bool:
    balancer: type[Balancer] = catalog.load(catalog.BALANCERS, settings.balancer.type)
    return balancer.uses_key


def _steady(pool: PoolSettings, settings: ServiceSettings) -> PoolSettings:
    """Without the slow start that a service inherited whose weights must not change."""
    return msgspec.structs.replace(pool, slow_start=0.0) if _keyed(settings) else pool


def _where(registry: config_schema.OneRegistry) -> tuple[object, ...]:
    """What makes two registries the same one."""
    return (registry.type, frozenset(registry.endpoints), registry.prefix)


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _overlay(base: S, section: BaseModel) -> S:
    """`base` with the keys that stand in the file in place of its own."""
    known = type(base).__struct_fields__
    given = {name: getattr(section, name) for name in section.model_fields_set if name in known}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return msgspec.structs.replace(base, **(given | lists))


def _optional(default: S, inherited: S | None, own: BaseModel, key: str) -> S | None:
    """A mechanism that is off (None) unless a mapping, even an empty one, switches it on."""
    if key not in own.model_fields_set:
        return inherited
    section = getattr(own, key)
    return None if section is None else _overlay(inherited or default, section)


def _collide(one: str, other: str) -> bool:
    """Both binds cannot be had at once: the same, or one address is all addresses."""
    if one.startswith("unix:") or other.startswith("unix:"):
        return one == other
    (host, port), (other_host, other_port) = map(config_schema.split_bind, (one, other))
    if port != other_port or port == 0:  # 0 lets the system choose, each time differently
        return False
    if host == other_host:
        return True
    wildcard = {"0.0.0.0": ":" not in other_host, "::": ":" in other_host}
    other_wildcard = {"0.0.0.0": ":" not in host, "::": ":" in host}
    return wildcard.get(host, False) or other_wildcard.get(other_host, False)


def _shadows(earlier: RouteSpec, later: RouteSpec) -> bool:
    """Whatever `later` matches, `earlier` matches too. Both have the same host and prefix."""
    fields = {name.lower(): value for name, value in later.headers.items()}
    if any(fields.get(name.lower()) != value for name, value in earlier.headers.items()):
        return False
    return not earlier.methods or (bool(later.methods) and {*later.methods} <= {*earlier.methods})


class Parameter(NamedTuple):
    """One parameter of a balancer."""

    reader: config_schema.Read[int | float]
    default: int | float


def balancer_parameters(name: str) -> dict[str, Parameter]:
    """The keyword-only arguments of a balancer's constructor, bounded by its `limits`."""
    balancer: type[Balancer] = catalog.load(catalog.BALANCERS, name)
    parameters: dict[str, Parameter] = {}
    for argument, declared in inspect.signature(balancer.__init__).parameters.items():
        if declared.kind is inspect.Parameter.KEYWORD_ONLY:
            whole = declared.annotation in (int, "int")
            limits = balancer.limits.get(argument)
            read = config_schema.parameter(whole, declared.default, limits)
            parameters[argument] = Parameter(read, declared.default)
    return parameters
