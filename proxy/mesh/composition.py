"""Words of a command line → the `Settings` of a proxy that does it.

    others ─ mTLS ─▶ inbound ─▶ the program, on loopback
    the program ─▶ outbound, on loopback ─ mTLS ─▶ others' inbound

A file gives the rest: the registry, and how services are balanced, tried again and protected. What
is for whoever provides a service (`callers`, limits, filters) holds on the way in, and the other
settings on the way out.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from proxy.membership import Instance
from proxy.settings.addresses import BIND, HOST_NAME, NAME, is_loopback, split_bind
from proxy.settings.callers import ANYBODY, Caller, CallersSettings
from proxy.settings.file import Settings
from proxy.settings.listener import ListenerLimits, ListenerSettings, collide
from proxy.settings.listener_tls import Certificate, ListenerTls
from proxy.settings.registry import RegistryOptions
from proxy.settings.route import RouteSpec
from proxy.settings.route_values import FIRST_LABEL
from proxy.settings.service import (
    EjectionSettings,
    Keepalive,
    PoolSettings,
    RetrySettings,
)
from proxy.settings.tree import Scalar
from proxy.settings.upstream_tls import UpstreamTls

INBOUND: Final = "inbound"
OUTBOUND: Final = "outbound"
TCP: Final = "tcp"

AGE: Final = 3600.0
"""Seconds that a connection between side-cars may live: one that began under a certificate that has
expired since, or an authority that is not believed any more, does not go on for ever."""

_LABEL: Final = re.compile("[a-z0-9_-]+")

IDLE: Final = 60.0
"""Seconds that an idle connection to another side-car is kept, whose listener keeps it for 75."""


class MeshOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Words of the command line."""

    service: str
    port: int
    """The program's, on loopback."""
    protocol: str = "h1"
    """Spoken by the program: `h1`, `h2c`, `grpc`, or `tcp` for anything."""
    inbound: str = "0.0.0.0:18443"
    outbound: str = "127.0.0.1:15001"
    admin: str = "127.0.0.1:15000"
    tcp: tuple[tuple[str, str], ...] = ()
    """Where services of `tcp` are for the program: their name, and an address of its own."""
    to: tuple[str, ...] = ()
    """Services that the program may reach; none = any."""
    callers: tuple[str, ...] | None = None
    """Services that may call it; None = as the file says."""
    trust_domain: str = "mesh.local"
    identity: Path
    renew_from: str | None = None
    """An authority that renews the identity; None = somebody else does."""
    registry: RegistryOptions | None = None
    """Where others are looked up; None = as the file says."""

    @property
    def address(self) -> str:
        """The address that others reach it at; empty = any of this machine."""
        host, _ = split_bind(self.inbound)
        return "" if ip_address(host).is_unspecified else host

    @property
    def inbound_port(self) -> int:
        """The port that is registered."""
        return split_bind(self.inbound)[1]


def checked(options: MeshOptions) -> MeshOptions:
    """The options, if they make sense. ValueError says which does not."""
    for name in ("inbound", "outbound", "admin"):
        _read(BIND, name, getattr(options, name))
    _read(HOST_NAME, "trust-domain", options.trust_domain)
    for one in options.callers or ():  # ≤ words
        if one != ANYBODY:
            _read(NAME, "callers", one)
    for one in options.to:  # ≤ words
        if not _LABEL.fullmatch(one) and one not in dict(options.tcp):
            allowed = "lower case without dots, or a service of --tcp"
            raise ValueError(f"--to: {one} is the first label of no Host; allowed: {allowed}")
    _check_local("outbound", options.outbound, options)
    binds = [options.inbound, options.outbound, options.admin]
    for service, bind in options.tcp:  # ≤ words
        _read(NAME, "tcp", service)
        _read(BIND, "tcp", bind)
        _check_local("tcp", bind, options)
        if options.to and service not in options.to:
            raise ValueError(f"--tcp: {service} is not among --to: {', '.join(options.to)}")
        if any(collide(bind, other) for other in binds):
            raise ValueError(f"--tcp: {bind} is used twice; allowed: an address for each service")
        binds.append(bind)
    if options.inbound.startswith("unix:") or not _is_address(options.inbound):
        raise ValueError(f"--inbound: {options.inbound} is no IP address with a port")
    if options.inbound_port == 0:
        raise ValueError("--inbound: port 0 cannot be registered; allowed: 1 to 65535")
    if options.renew_from is not None and not options.renew_from.startswith("https://"):
        raise ValueError(f"--renew-from: {options.renew_from}; allowed: https://HOST:PORT")
    for file in ("tls.crt", "tls.key", "ca.crt"):
        path = options.identity / file
        if not os.access(path, os.R_OK) or not path.is_file():
            raise ValueError(f"--identity: {path} is missing, or not ours to read")
    return replace(options, trust_domain=options.trust_domain.lower())


def _check_local(name: str, bind: str, options: MeshOptions) -> None:
    host = bind.rpartition(":")[0]
    if not bind.startswith("unix:") and not is_loopback(host.strip("[]")):
        raise ValueError(
            f"--{name}: {host} is not this machine alone, and whoever reaches it speaks as"
            f" {options.service}; allowed: 127.0.0.1:PORT, [::1]:PORT or unix:/PATH"
        )


def _read(kind: object, name: str, text: str) -> None:
    try:
        kind(Scalar(text))  # type: ignore[operator]
    except ValueError as error:
        raise ValueError(f"--{name}: {error}") from None


def _is_address(bind: str) -> bool:
    try:
        return bool(ip_address(split_bind(bind)[0]))
    except ValueError:
        return False


def composed(base: Settings, options: MeshOptions) -> Settings:
    """The settings of the proxy. `base`: those of a file, or defaults."""
    registry = options.registry
    if registry is not None:
        base = replace(base, registry=replace(base.registry, type=registry.type, options=registry))
    cert, key, ca = (str(options.identity / one) for one in ("tls.crt", "tls.key", "ca.crt"))
    domain = options.trust_domain
    mutual = UpstreamTls(
        mode="on", ca=ca, cert=cert, key=key, trust_domain=domain, min_version="1.3"
    )
    own = f"{options.service}:{INBOUND}"
    program = Instance(service=own, id=options.service, address="127.0.0.1", port=options.port)
    services = {name: _out(one, mutual) for name, one in base.services.items()}
    services[own] = _in(base.services.get(options.service, base.defaults), options)
    return replace(
        base,
        listeners=(
            ListenerSettings(
                name=INBOUND,
                bind=options.inbound,
                mode_tcp=own if options.protocol == TCP else None,
                ends_loops=False,  # The program may call its own service, and be who answers.
                limits=ListenerLimits(connection_age=AGE),
                tls=ListenerTls(
                    certificates=(Certificate(cert=cert, key=key),),
                    min_version="1.3",
                    client_ca=ca,
                    trust_domain=domain,
                    tickets=False,  # A session would outlive the certificate that was shown.
                ),
            ),
            ListenerSettings(name=OUTBOUND, bind=options.outbound, ends_loops=False),
            *(
                ListenerSettings(name=f"{OUTBOUND}:{service}", bind=bind, mode_tcp=service)
                for service, bind in options.tcp
            ),
        ),
        admin=replace(base.admin, bind=options.admin),
        workers=1,
        acme=None,
        shutdown=replace(base.shutdown, delay=0.0),  # Nobody is sent here any more by then.
        routes=(
            RouteSpec(listeners=(INBOUND,), service=own),
            RouteSpec(host=FIRST_LABEL, listeners=(OUTBOUND,), services=options.to),
        )
        if base.shared_known  # Else filters and limits of the service are not known, either.
        else (),
        defaults=_out(base.defaults, mutual),
        services=services,
        static={**base.static, own: (program,)},
    )


def _out(settings: PoolSettings, mutual: UpstreamTls) -> PoolSettings:
    """The settings of a service for those who call it."""
    keepalive = settings.keepalive
    if keepalive.idle == Keepalive().idle:
        keepalive = replace(keepalive, idle=IDLE)
    return replace(
        settings, tls=mutual, keepalive=keepalive, callers=None, filters=(), rate_limit=None
    )


def _in(settings: PoolSettings, options: MeshOptions) -> PoolSettings:
    """The settings of the service for the program that provides it."""
    callers = settings.callers
    if options.callers is not None:
        allow = tuple(Caller(service=one.lower()) for one in options.callers)
        callers = CallersSettings(allow=allow)
    return PoolSettings(
        callers=callers,
        rate_limit=settings.rate_limit,
        filters=settings.filters,
        timeouts=settings.timeouts,
        max_inflight=settings.max_inflight,
        queue=settings.queue,
        adaptive_concurrency=settings.adaptive_concurrency,
        grpc=settings.grpc,
        retry=RetrySettings(max_retries=0),
        ejection=EjectionSettings(enabled=False),
        tls=UpstreamTls(mode="off"),
        protocol="h1" if options.protocol == TCP else options.protocol,
    )
