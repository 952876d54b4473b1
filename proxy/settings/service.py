"""`defaults:` and `services:`, how each service is balanced, checked and protected."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Final, Literal

import msgspec

from balancers.base import Balancer
from proxy import catalog
from proxy.membership import Instance
from proxy.settings.addresses import ENDPOINT, NAME
from proxy.settings.balancer import BalancerSpec, inherit_balancer
from proxy.settings.callers import CallersSettings, check_callers
from proxy.settings.choosing import SubsetSettings, ZoneSettings, check_subset
from proxy.settings.complaints import Report
from proxy.settings.declare import Given, Off, Short, overlay
from proxy.settings.filters import FilterSpec
from proxy.settings.health_check import HealthCheckSettings, inherit_check
from proxy.settings.hedge import HedgeSettings
from proxy.settings.instances import InstanceEntry, instances_of
from proxy.settings.keys import SOURCE
from proxy.settings.mirror import MirrorSettings
from proxy.settings.protocol import PROTOCOL, check_protocol
from proxy.settings.read import (
    DURATION,
    POSITIVE,
    SHARE,
    SWITCH,
    TEXT,
    UNLIMITED,
    Read,
    choice,
    duration,
    integer,
    number,
    parse_switch,
)
from proxy.settings.route_values import METHOD
from proxy.settings.sticky import StickySettings, check_sticky
from proxy.settings.upstream_tls import UpstreamTls, checked_upstream_tls, resolved_upstream_tls

GRPC_REASONS: Final = {"grpc_unavailable": 14, "grpc_resource_exhausted": 8}  # ≤ 1 KiB
"""Reasons to call once more, and the status of gRPC that each is."""
RETRY_REASONS: Final = (
    "connect", "reset", "first_byte", "502", "503", "504", *GRPC_REASONS,
)  # fmt: skip


def _parse_lenience(text: str) -> bool | None:
    return None if text == "auto" else parse_switch(text)


_LENIENCE: Final = Read(
    _parse_lenience,
    "boolean",
    "auto, true or false",
    literal=True,
    json={"anyOf": [{"const": "auto"}, {"type": "boolean"}]},
)


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one service on the side of its instances, in seconds; 0 = no limit."""

    connect: Annotated[
        float,
        UNLIMITED,
        "How long connecting to an instance may take; then 504 or another attempt. 0 = no limit,"
        " as for all of these.",
    ] = 3.0
    first_byte: Annotated[
        float, UNLIMITED, "How long an instance may take to begin its answer; then 504."
    ] = 60.0
    idle: Annotated[float, UNLIMITED, "Longest gap between two pieces of an answer's body."] = 60.0
    total: Annotated[
        float,
        UNLIMITED,
        "From the request's head to the end of the answer, further attempts included.",
    ] = 0.0
    tunnel_idle: Annotated[
        float, UNLIMITED, "How long a tunnel (WebSocket and other upgrades) may be silent."
    ] = 3600.0
    queue: Annotated[float, UNLIMITED, "How long a request may wait for an instance with room."] = (
        3.0
    )


class Keepalive(msgspec.Struct, frozen=True, kw_only=True):
    """Idle connections to one instance. 4 s is below every common server's own idle limit."""

    idle: Annotated[
        float,
        POSITIVE,
        "How long an idle connection to an instance is kept. Keep this below the instance's own"
        " limit.",
    ] = 4.0
    max_idle: Annotated[
        int,
        integer(0, 10_000, "0 = no idle connections"),
        "Most connections to one instance that each worker keeps idle for longer than ten seconds,"
        " 0 to 10000; 0 closes each after its request.",
    ] = 64
    max_requests: Annotated[
        int, integer(1, 1_000_000_000), "Requests on one connection before it is closed."
    ] = 1000
    streams: Annotated[
        int,
        integer(1, 1_000_000),
        "Only HTTP/2: most requests at a time on one connection; the instance may allow fewer.",
    ] = 100
    ping: Annotated[
        float,
        duration(zero="0 = never"),
        "Only HTTP/2: how long an instance may be silent while it has requests, until it is asked"
        " whether it is there, and has 10 s to say so; 0 = never. While it says nothing else it is"
        " asked again every 310 s at most.",
    ] = 30.0


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Further attempts on other instances."""

    max_retries: Annotated[
        int,
        integer(0, 5, "0 = off"),
        "Attempts beyond the first, 0 to 5; 0 = `off`. A failed connect is tried again for any"
        " method; a reused connection that closed before an answer only where no harm can come of"
        " it.",
    ] = 1
    on: Annotated[
        tuple[str, ...],
        choice(RETRY_REASONS, "a reason to retry"),
        "Further reasons: `connect`, `reset`, `first_byte`, `502`, `503`, `504`, and for"
        " [calls](grpc.md#once-more) `grpc_unavailable`, `grpc_resource_exhausted`.",
    ] = ("connect", "reset")
    budget: Annotated[
        float,
        SHARE,
        "Retries per request, on the average of the last ten seconds, and three on top.",
    ] = 0.2
    methods: Annotated[
        tuple[str, ...], METHOD, "Methods that may be repeated for those reasons."
    ] = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")


class EjectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Taking out instances that fail in live traffic.

    Workers count failures in a row and report a `Suspect`; the control process decides.
    """

    enabled: bool = True
    consecutive_failures: Annotated[
        int, integer(1, 1000), "Failures in a row that eject an instance."
    ] = 5
    base: Annotated[
        float,
        POSITIVE,
        "How long the first ejection lasts; the n-th in a row lasts n times as long. For each such"
        " time spent in service, n falls by one.",
    ] = 10.0
    max: Annotated[float, POSITIVE, "How long an ejection lasts at most."] = 300.0
    max_share: Annotated[
        float,
        SHARE,
        "Largest share of a pool that may be ejected, rounded down, but one instance at least; 0 ="
        " none. The last one that is ready is never ejected.",
    ] = 0.5


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Answering 503 at once while a service fails."""

    failure_ratio: Annotated[float, SHARE, "Share of failures that opens it."] = 0.5
    min_requests: Annotated[
        int, integer(1, 1_000_000), "Requests in the window before it may open."
    ] = 20
    window: Annotated[float, POSITIVE, "Time over which failures are counted."] = 10.0
    open: Annotated[
        float, POSITIVE, "How long it stays open before it lets trial requests through."
    ] = 10.0


class AdaptiveSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A limit on the requests that wait for their answers, by how long these take."""

    target: Annotated[
        float,
        number(0.1, 1),
        "How fast answers are to be, as a share of the speed without load: at 0.9 they take a ninth"
        " longer.",
    ] = 0.9


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that wait for an instance with room, for `timeouts.queue` at most."""

    size: Annotated[
        int, integer(0, 1_000_000), "Requests that may wait for an instance with room."
    ] = 0
    """In each worker; 0 = nobody waits."""


class RateLimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A token bucket for each key."""

    requests: Annotated[int, integer(1, 1_000_000_000), "Requests in the time `per`."]
    per: Annotated[float, POSITIVE, "The time in which so many requests are allowed."] = 1.0
    burst: Annotated[
        int | None,
        integer(1, 1_000_000_000),
        "Requests that may come at once; without it as many as `requests`.",
    ] = None
    key: Annotated[str, SOURCE, "What tells clients apart; as `balancer.key`."] = "client_ip"
    scope: Annotated[
        str,
        choice(("proxy", "fleet"), "a scope"),
        "`proxy`, or `fleet`: all proxies of the [fleet](fleet.md#rate-limits-of-the-whole-fleet)"
        " together, each with its share.",
    ] = "proxy"


class GrpcSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Treatment of calls of gRPC."""

    max_timeout: Annotated[
        float,
        UNLIMITED,
        "Longest `grpc-timeout` of a client, and the limit of calls that come without; as"
        " `timeouts.total`, which holds for calls, too. 0 = no limit.",
    ] = 0.0
    stream_idle: Annotated[
        float,
        UNLIMITED,
        "How long a call may be silent, the instance or the client; in place of"
        " `timeouts.first_byte`, `timeouts.idle` and the listener's `timeouts.body`. 0 = no limit.",
    ] = 300.0
    web: Annotated[
        bool, SWITCH, "Translate [gRPC-Web](grpc.md#grpc-web), which browsers speak, to gRPC."
    ] = False


class DrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Treatment of tunnels to an instance that is drained or left."""

    tunnels: Annotated[
        str,
        choice(("keep", "close"), "a way to treat tunnels"),
        "What becomes of tunnels to an instance that is drained or leaves: `keep` or `close`.",
    ] = "keep"
    close_after: Annotated[float, POSITIVE, "When they are closed, give or take half of it."] = (
        300.0
    )


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one service that a worker needs to serve it."""

    balancer: Annotated[
        BalancerSpec, Short("type"), "How an instance is picked for each request."
    ] = BalancerSpec()
    timeouts: Annotated[Timeouts, "Limits on the side of the instances."] = Timeouts()
    keepalive: Annotated[Keepalive, "Idle connections to instances."] = Keepalive()
    retry: Annotated[
        RetrySettings,
        Off(off={"max_retries": 0}),
        "Further attempts on other instances. `off` = never.",
    ] = RetrySettings()
    ejection: Annotated[
        EjectionSettings,
        Off(off={"enabled": False}, on={"enabled": True}),
        "Taking instances out for a while that fail in live traffic. `off` = never.",
    ] = EjectionSettings()
    circuit_breaker: Annotated[
        BreakerSettings | None, Off(), "Answering 503 at once while a service fails."
    ] = None
    adaptive_concurrency: Annotated[
        AdaptiveSettings | None,
        Off(),
        "Answering 503 at once to more requests than the service can work on without becoming slow;"
        " measured in each worker.",
    ] = None
    hedge: Annotated[
        HedgeSettings | None,
        Off(),
        "[A second attempt](resilience.md#hedges) beside the first, of a GET, HEAD or OPTIONS that"
        " waits for longer than others; the first answer counts.",
    ] = None
    callers: Annotated[
        CallersSettings | None,
        Off(),
        "[Which services may call](mesh.md#who-may-call): refused is who does not prove, on a"
        " listener with `tls.trust_domain`, to be one of them.",
    ] = None
    send_proxy_protocol: Annotated[
        Literal["off", "v1", "v2"],
        choice(("off", "v1", "v2"), "a version of the PROXY protocol"),
        "Tell instances whose connection it is, in front of its first byte. Such connections carry"
        " one request, or one client's tunnel, of HTTP/1.1 or TCP.",
    ] = "off"
    max_inflight: Annotated[
        int,
        integer(0, 1_000_000, "0 = no limit"),
        "Most requests in flight to one instance, in all workers together; 0 = no limit.",
    ] = 0
    queue: Annotated[QueueSettings, "Requests that wait for an instance with room."] = (
        QueueSettings()
    )
    rate_limit: Annotated[RateLimitSettings | None, Off(), "A limit on requests per client."] = None
    drain: Annotated[DrainSettings, "What becomes of tunnels when an instance leaves."] = (
        DrainSettings()
    )
    grpc: Annotated[GrpcSettings, "Calls of [gRPC](grpc.md)."] = GrpcSettings()
    filters: Annotated[
        tuple[FilterSpec, ...],
        Short("name"),
        "[Filters](filters.md) of its requests, behind those of the route; replaces the list of"
        " `defaults`.",
    ] = ()
    tls: Annotated[
        UpstreamTls,
        Off(off={"mode": "off"}, on={"mode": "on"}, words={"auto": {"mode": "auto"}}),
        "[TLS to instances](tls.md#to-instances): `auto`, to those whose `metadata.scheme` is"
        " `https`, verified; a mapping, to all of them, whatever a registry says; `off`, to none.",
    ] = UpstreamTls()
    sticky: Annotated[
        StickySettings | None,
        Off(),
        "[Clients stay](balancers.md#sticky-clients) with one instance, by a cookie of the proxy's."
        " Not for balancers that hash.",
    ] = None
    mirror: Annotated[
        MirrorSettings | None, Off(), "[Copies of requests](operations.md#mirrors)."
    ] = None
    zone: Annotated[
        ZoneSettings | None, Off(), "[Instances nearby](balancers.md#zones-and-tiers) first."
    ] = None
    priority_key: Annotated[
        str,
        TEXT,
        "The key in the metadata of instances that names their"
        " [tier](balancers.md#zones-and-tiers), a whole number: lower ones first. Without it all"
        " are in one.",
    ] = ""
    protocol: Annotated[
        str,
        PROTOCOL,
        "Spoken to instances that say nothing else in `metadata.protocol`: `h1` (HTTP/1.1), `h2c`"
        " (HTTP/2 in clear text), `h2` (HTTP/2 over TLS, whatever `metadata.scheme` says if `tls`"
        " is `auto`), `grpc` (`h2` to those that get TLS, else `h2c`).",
    ] = "h1"
    lenient_answers: Annotated[
        bool | None,
        _LENIENCE,
        "Accept from old servers heads whose lines end in a bare LF, and a Content-Length that is"
        " said several times with the same value. `auto` does so where nothing can hide in it, and"
        " closes the connection then.",
    ] = None


class PoolSettings(ServiceSettings, frozen=True, kw_only=True):
    """All settings that a service inherits: those above, and what decides which of its instances
    are ready and with which weight, of which workers see only the outcome."""

    health_check: Annotated[
        HealthCheckSettings | None, Off(), "Active checks of every instance."
    ] = None
    subset: Annotated[
        SubsetSettings | None, Off(), "Only some of the instances, by their metadata."
    ] = None
    panic_threshold: Annotated[
        float,
        SHARE,
        "Share of ready instances under which health is ignored; 0 = only when none is ready.",
    ] = 0.0
    slow_start: Annotated[
        float,
        DURATION,
        "How long an instance that is new, or back in use, takes to get its full weight.",
    ] = 0.0
    fallback_instances: Annotated[
        tuple[InstanceEntry, ...],
        "Used while discovery has no instance at all, healthy or not; mappings as in `instances`.",
    ] = ()
    fallback: tuple[Instance, ...] = ()
    """The same as instances of the service, which is what remains of them."""


class Service(PoolSettings, frozen=True, kw_only=True):
    """One entry of `services:`."""

    instances: Annotated[
        tuple[InstanceEntry, ...] | None,
        "Fixed instances. A service that has this key is never looked up in the registry. Not in"
        " `defaults`.",
    ] = None
    source: Annotated[
        str,
        NAME,
        "Another service, whose instances this one has under settings of its own; what is measured"
        " of them (requests in flight, ejections) is its own, too.",
    ] = msgspec.field(name="from", default="")
    url: Annotated[
        str,
        ENDPOINT,
        "The only instance, as `http://host:port`, or `https://` for TLS. The service may be just"
        " this, instead of a mapping.",
    ] = ""


def for_worker(settings: ServiceSettings) -> ServiceSettings:
    """The part of a service's settings that a worker is told."""
    fields = ServiceSettings.__struct_fields__
    return ServiceSettings(**{name: getattr(settings, name) for name in fields})


# --------------------------------------------------------------------------------- rules


def inherit(given: Given, service: str, inherited: PoolSettings, report: Report) -> PoolSettings:
    """The settings of one service, or of `defaults` (`service` is empty)."""
    settings = msgspec.structs.replace(
        overlay(inherited, given),
        balancer=inherit_balancer(given, inherited.balancer, report),
        fallback=_fallback(given, service, inherited, report),
        fallback_instances=(),
    )
    check = given.get("health_check")
    if check is not None and settings.health_check is not None:
        own = inherit_check(check, settings.health_check, inherited.health_check, report)
        settings = msgspec.structs.replace(settings, health_check=own)
    if isinstance(subset := given.get("subset"), Given) and settings.subset is not None:
        check_subset(subset, settings.subset, report)
    if isinstance(callers := given.get("callers"), Given):
        check_callers(callers, report)
    if settings.sticky is not None:
        keyed = settings.balancer.type if is_keyed(settings) else ""
        check_sticky(given, settings.sticky, keyed, report)
    if isinstance(tls := given.get("tls"), Given):
        checked_upstream_tls(settings.tls, tls, report)
    check_protocol(settings.protocol, settings.tls, given, report)
    if given.get("hedge") is not None and (settings.sticky or not settings.retry.max_retries):
        other = "sticky" if settings.sticky else "retry: off"
        report.complain(
            given.at("hedge"),
            f"asks a second instance, which {other} forbids; allowed: hedge: off, or the other",
        )
    if settings.send_proxy_protocol != "off" and settings.protocol != "h1":
        report.complain(
            given.at("protocol" if "protocol" in given else "send_proxy_protocol"),
            "has no meaning beside send_proxy_protocol, since many clients share its connections;"
            " allowed: h1, or send_proxy_protocol: off",
        )
    return settings


def is_keyed(settings: ServiceSettings) -> bool:
    """The balancer looks at a key of the request."""
    balancer: type[Balancer] = catalog.plug_in("balancers", settings.balancer.type)
    return balancer.uses_key


def finished(settings: PoolSettings, directory: FilePath) -> PoolSettings:
    """The settings with the names of their files resolved."""
    settings = msgspec.structs.replace(settings, tls=resolved_upstream_tls(settings.tls, directory))
    if settings.send_proxy_protocol != "off":
        alone = msgspec.structs.replace(settings.keepalive, max_idle=0)
        settings = msgspec.structs.replace(settings, keepalive=alone)
    return settings


def _fallback(
    given: Given, service: str, inherited: PoolSettings, report: Report
) -> tuple[Instance, ...]:
    entries = given.get("fallback_instances")
    if entries is not None:
        return instances_of(entries, service, report)
    return tuple(msgspec.structs.replace(one, service=service) for one in inherited.fallback)
