"""The words everything shares: instances, pools, settings, and the messages between processes.

All of it is frozen. Whoever needs a different value builds a new object and swaps it in by
one assignment, so a reader never sees half an update. The structs double as the wire format
of the channel between the control process and its workers (msgpack through msgspec), which
is why this module imports nothing of the project: a worker loads it without loading the
configuration schema, the registry client or the admin server.

Durations are seconds (float), sizes are bytes (int), everywhere behind `config.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

# ---------------------------------------------------------------------------- registry side


class Instance(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One registered instance, as the registry states it. Nothing measured is in here."""

    service: str
    id: str
    address: str
    port: int
    weight: int = 1
    """`metadata.weight` as a positive integer, else 1; 0 = drained by weight."""
    version: str = ""
    metadata: dict[str, str] = {}
    health: str = "healthy"
    """`healthy` is served, `draining` finishes what is in flight, anything else is not served."""
    health_message: str = ""

    @property
    def key(self) -> str:
        """The identity that live numbers hang on: the same id on a new endpoint is a new node."""
        return f"{self.id}@{self.address}:{self.port}"


class Departure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One registration that ended."""

    service: str
    id: str
    health: str = "healthy"
    """The last statement; one that was draining had announced that it goes."""
    lease: int = 0
    """What it hung on, which may have ended as well; 0 = nothing, so it was deleted."""
    revision: int = 0
    """When; 0 = not known, because it was found missing and not seen to go."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Who is registered, whole, at one revision. Providers yield these, never deltas.

    A service whose instances did not change since the provider's previous membership is the
    identical tuple object, so a reader finds what changed by `is`, without comparing members.
    """

    services: Mapping[str, tuple[Instance, ...]]
    revision: int = 0
    departures: tuple[Departure, ...] = ()
    """What ended since the provider's previous membership, as far as it can tell how."""


class InvalidRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registry value that could not be read. It harms no other key."""

    key: str
    reason: str
    kept: bool
    """True when the key's last good value is still served."""
    service: str = ""
    """The service that the key names; "" = it names none."""


class OddRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registry value that is used, although something in it was not understood."""

    key: str
    reason: str
    service: str


class RegistrySource(msgspec.Struct, frozen=True, kw_only=True):
    """One of several registries, in the order in which they are preferred."""

    provider: str
    endpoints: tuple[str, ...] = ()
    active: bool = False
    """Its instances are served."""
    alive: bool | None = None
    """What the last check said; None = not checked yet."""


class HeldInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is served although the registry does not name it any more."""

    service: str
    id: str
    why: str
    age: float
    """Seconds since the registry last named it."""


class SnapshotStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The file with the last known pools."""

    path: str
    in_use: bool = False
    """What is served comes from it, because no registry has answered since the start."""
    age: float | None = None
    """Seconds since what it holds was true; None = nothing written or read yet."""
    error: str | None = None


class RegistryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says of itself; read by the admin API and the metrics."""

    provider: str
    connected: bool
    endpoint: str | None = None
    revision: int = 0
    age: float | None = None
    """Seconds since the registry last answered anything; None = never."""
    instances: int = 0
    invalid: tuple[InvalidRecord, ...] = ()
    odd: tuple[OddRecord, ...] = ()
    resyncs: Mapping[str, int] = {}
    """Full lists after the first, by reason."""
    differences: int = 0
    """Differences that periodic reconciliation found. Should stay 0."""
    last_error: str | None = None
    sources: tuple[RegistrySource, ...] = ()
    """Empty without backups."""
    switches: int = 0
    """From one source to another."""
    held: tuple[HeldInstance, ...] = ()
    held_total: int = 0
    """Times an instance was held."""
    snapshot: SnapshotStatus | None = None


# -------------------------------------------------------------------------------- pools

Status = Literal["ready", "unhealthy", "ejected", "draining"]


class PoolNode(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One instance as a worker needs it."""

    key: str
    id: str
    address: str
    port: int
    weight: int
    status: Status
    slot: int
    """Column of the shared in-flight board (`engine/load.py`); 0 = not counted across workers."""


class PoolSnapshot(msgspec.Struct, frozen=True):
    """One service's pool at one moment. The worker swaps it in by one assignment."""

    service: str
    generation: int
    nodes: tuple[PoolNode, ...]
    panic: bool = False
    """No instance is ready: health is ignored and all that are not drained are served."""


# ------------------------------------------------------------------------------- settings


class BalancerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Which balancer, with which parameters, keyed on what of the request."""

    type: str = "round_robin"
    key: str = ""
    """`client_ip | host | path | header:NAME | cookie:NAME | query:NAME`; "" = no key."""
    params: dict[str, int | float] = {}
    """Passed to the balancer's constructor as they are."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one service on the side of its instances; 0 = no limit."""

    connect: float = 3.0
    first_byte: float = 60.0
    idle: float = 60.0
    """Longest gap between two pieces of a response body."""
    total: float = 0.0
    """From the request head to the end of the answer, retries included."""
    tunnel_idle: float = 3600.0
    queue: float = 3.0
    """Longest wait for an instance with room, where `max_inflight` and a queue are set."""


class Keepalive(msgspec.Struct, frozen=True, kw_only=True):
    """Idle connections to one instance. 4 s is below every common server's own idle limit."""

    idle: float = 4.0
    max_idle: int = 64
    max_requests: int = 1000


RetryReason = Literal["connect", "reset", "first_byte", "502", "503", "504"]


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Further attempts on other instances."""

    max_retries: int = 1
    """Attempts beyond the first; 0 = never retry."""
    on: tuple[RetryReason, ...] = ("connect", "reset")
    budget: float = 0.2
    """Retries per request, on the average of the last seconds; a few on top."""
    methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")
    """Methods that may be repeated for a reason other than `connect`."""


class EjectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Taking out instances that fail in live traffic.

    Workers count failures in a row and report a `Suspect`; the control process decides.
    """

    enabled: bool = True
    consecutive_failures: int = 5
    base: float = 10.0
    """The n-th ejection of an instance lasts n times this …"""
    max: float = 300.0
    """… but no longer than this."""
    max_share: float = 0.5
    """Largest share of a pool that may be out at once."""


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Answering 503 at once while a service fails."""

    failure_ratio: float = 0.5
    min_requests: int = 20
    window: float = 10.0
    open: float = 10.0


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that wait for an instance with room; their patience is `timeouts.queue`."""

    size: int = 0
    """In each worker; 0 = nobody waits."""


class RateLimitSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A token bucket for each key."""

    requests: int
    per: float = 1.0
    burst: int | None = None
    """Size of the bucket; None = `requests`."""
    key: str = "client_ip"
    """As `BalancerSpec.key`."""


class DrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of tunnels to an instance that is drained or left."""

    tunnels: Literal["keep", "close"] = "keep"
    close_after: float = 300.0
    """With `close`: seconds until they are closed, spread by ± 50 %."""


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a worker needs to know to serve one service."""

    balancer: BalancerSpec = BalancerSpec()
    timeouts: Timeouts = Timeouts()
    keepalive: Keepalive = Keepalive()
    retry: RetrySettings = RetrySettings()
    ejection: EjectionSettings = EjectionSettings()
    breaker: BreakerSettings | None = None
    max_inflight: int = 0
    """Requests in flight to one instance at most, in all workers together; 0 = no limit."""
    queue: QueueSettings = QueueSettings()
    rate_limit: RateLimitSettings | None = None
    drain: DrainSettings = DrainSettings()


class RouteSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `routes:` as it stands in the file."""

    host: str | None = None
    """Exact, `*.wildcard`, or with `{service}` as one label; None = any host."""
    path_prefix: str | None = None
    """May hold `{service}` as one segment; None = any path."""
    methods: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    """Field name → value it must have, exactly."""
    strip_prefix: bool = False
    rewrite_prefix: str | None = None
    set_host: str | None = None
    service: str | None = None
    """None = taken from `{service}`."""


class ListenerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes a client may send; each answers with its own status when exceeded."""

    head: int = 32 * 1024
    fields: int = 128
    target: int = 8 * 1024
    body: int = 0
    """0 = no limit."""
    connections: int = 0
    """Open at the same time, in all workers together; 0 = as many as there are descriptors."""


class ListenerTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Patience with clients."""

    head: float = 10.0
    body: float = 30.0
    idle: float = 75.0
    linger: float = 2.0


class ListenerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One `listeners:` entry."""

    name: str = "web"
    bind: str = "0.0.0.0:8080"
    """`host:port`, `[v6]:port` or `unix:/path`."""
    mode: int | None = None
    """Permission bits of a Unix socket; None = by the umask."""
    owner: tuple[int, int] | None = None
    """User and group id of a Unix socket; -1 = this process's."""
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False
    """Every connection begins with the PROXY protocol, version 1 or 2."""
    forwarded: bool = False
    """Instances get the `Forwarded` field of RFC 7239 beside X-Forwarded-*."""
    client_close: Literal["abort", "half_close"] = "abort"
    """What a client's FIN before the end of its answer means: it has left, or it only sends no
    more."""
    limits: ListenerLimits = ListenerLimits()
    timeouts: ListenerTimeouts = ListenerTimeouts()


class ListenerSocket(msgspec.Struct, frozen=True, kw_only=True):
    """A listening socket handed to a worker at its start; `fd` is its number in the worker."""

    name: str
    fd: int


class AccessLogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`access_log:`."""

    path: str = "-"
    """`-` = the standard output."""
    format: Literal["json", "common", "combined"] = "json"
    sample: float = 1.0
    """Share of the requests that is logged; those that failed always are."""
    query: bool = True
    """Log the query of targets and referers."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the configuration that concerns a worker."""

    generation: int = 0
    listeners: tuple[ListenerSettings, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    defaults: ServiceSettings = ServiceSettings()
    services: dict[str, ServiceSettings] = {}
    via_token: str = ""
    """Random for each running proxy: a request that carries it came back to us."""
    access_log: AccessLogSettings | None = None


# ------------------------------------------------------- settings of the control process


class RegistryTls(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files for the connection to the registry; host names are always checked."""

    ca: str | None = None
    """None = the system's trust store."""
    cert: str | None = None
    key: str | None = None


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """One registry. What a provider's constructor takes."""

    type: str = "static"
    endpoints: tuple[str, ...] = ()
    """Base URLs, `http://` or `https://`."""
    prefix: str = "/services/"
    username: str = ""
    password: str = ""
    tls: RegistryTls | None = None


class HealthCheckSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the control process checks every instance of a service."""

    type: str = "http"
    """A name in `catalog.CHECKS`."""
    path: str = "/health"
    """`http`: what to ask for."""
    expect: str = "200-299"
    """`http`: status codes that are a success, such as `200-299` or `200,204`."""
    command: str = ""
    """`exec`: a line for the shell; exit code 0 is a success."""
    interval: float = 5.0
    timeout: float = 1.0
    fall: int = 3
    """Failures in a row until an instance is unhealthy."""
    rise: int = 2
    """Successes in a row until it is healthy again."""


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What decides which instances of one service are ready, and with which weight; workers
    see only the outcome."""

    health_check: HealthCheckSettings | None = None
    panic_threshold: float = 0.0
    """Share of ready instances under which health is ignored; 0 = only when none is ready."""
    slow_start: float = 0.0
    """Seconds in which a new instance gets to its full weight; 0 = at once."""
    fallback: tuple[Instance, ...] = ()
    """Used while discovery has no instance at all."""


class MassLossSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`registry.mass_loss_guard`."""

    share: float = 0.5
    window: float = 30.0
    hold: float = 600.0


class FailoverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How registries are checked where there are backups."""

    check_interval: float = 10.0
    check_timeout: float = 5.0


class AdminSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`admin:`."""

    bind: str = "127.0.0.1:9900"
    token: str = ""
    """Bearer token for everything but /healthz and /readyz; "" = open."""


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`log:`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"


class ShutdownSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`shutdown:`. Readiness fails at once, accepting goes on for `delay`, then what is in
    flight has `grace` to finish."""

    delay: float = 1.0
    grace: float = 30.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole of `proxy.yaml`, checked, with defaults filled in and services inherited."""

    listeners: tuple[ListenerSettings, ...] = (ListenerSettings(),)
    admin: AdminSettings = AdminSettings()
    workers: int = 1
    """Resolved: `auto` is the number of CPUs this process may use."""
    log: LogSettings = LogSettings()
    access_log: AccessLogSettings | None = None
    registry: RegistrySettings = RegistrySettings()
    backups: tuple[RegistrySettings, ...] = ()
    """Used in this order while the ones before are down."""
    failover: FailoverSettings = FailoverSettings()
    snapshot: str | None = None
    """File with the last known pools, for a start without any registry."""
    mass_loss_guard: MassLossSettings | None = None
    shutdown: ShutdownSettings = ShutdownSettings()
    routes: tuple[RouteSpec, ...] = ()
    defaults: ServiceSettings = ServiceSettings()
    services: dict[str, ServiceSettings] = {}
    pool_defaults: PoolSettings = PoolSettings()
    pools: dict[str, PoolSettings] = {}
    """For the same services as `services`."""
    static: dict[str, tuple[Instance, ...]] = {}
    """Services whose instances stand in the file: never looked up in the registry."""


# -------------------------------------------------------------------------------- messages
#
# Control process → worker. Each is one frame on the channel (`control/channel.py`).


class Configure(msgspec.Struct, frozen=True, tag=True):
    """First message after the hello, and again at each reload."""

    config: WorkerConfig


class Pools(msgspec.Struct, frozen=True, tag=True):
    """Changed pools, and services that are gone. `complete`: the first full set is now known."""

    seq: int
    snapshots: tuple[PoolSnapshot, ...] = ()
    removed: tuple[str, ...] = ()
    complete: bool = False
    revision: int = 0
    """Of the registry: with this message the worker has everything up to it."""


class Accept(msgspec.Struct, frozen=True, tag=True):
    """Start accepting, full set known or not (the control process has waited long enough)."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Say `Connection: close` from now on; stop accepting after `delay` seconds; finish what is in
    flight for at most `grace` seconds after that; exit."""

    grace: float
    delay: float = 0.0


class Collect(msgspec.Struct, frozen=True, tag=True):
    """Report statistics now, with this number."""

    number: int


class ReopenAccessLog(msgspec.Struct, frozen=True, tag=True):
    """The file of the access log was moved away: go on in a new one."""


ToWorker = Configure | Pools | Accept | Drain | Collect | ReopenAccessLog


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker is up and waits for its configuration."""

    pid: int


class Applied(msgspec.Struct, frozen=True, tag=True):
    """The `Pools` message with this number is in effect."""

    seq: int
    seconds: float = 0.0
    """How long it held the worker's loop, decoding included."""


class Accepting(msgspec.Struct, frozen=True, tag=True):
    """The worker accepts connections on all its listeners."""


class ServiceStats(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Counters of one service in one worker since the worker's start."""

    requests: dict[str, int]
    """`"GET 200"` → count."""
    duration_buckets: list[int]
    """One count per bound of `DURATION_BOUNDS`, then +Inf; not cumulative."""
    duration_sum: float
    faults: dict[str, int]
    """Code of a fault → answers that the proxy made itself, or cut off."""
    retries: dict[str, int]
    limited: dict[str, int] = {}
    """Limit, by its key in `proxy.yaml` → requests, or for `retry.budget` retries, it refused."""
    breaker_opened: int = 0
    """How often the circuit breaker opened."""
    tunnels_closed: int = 0
    """Tunnels that `drain.tunnels: close` closed."""


class PolicyState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where the limits of one service stand in one worker."""

    breaker: str = ""
    """`closed | open | trying`; "" = there is none."""
    waiting: int = 0
    """Requests in the queue."""


class NodeStats(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Counters of one instance in one worker since it first met the instance."""

    service: str
    key: str
    picks: int
    outcomes: dict[str, int]
    """`ok`, the code of a fault, or a status that speaks against the instance → attempts."""
    unreachable: bool = False
    """The worker cannot connect to it at present."""
    unproven: bool = False
    """It is back from an ejection, and the worker has yet to see it answer."""


class WorkerStats(msgspec.Struct, frozen=True, tag=True):
    """Pushed every second and on `Collect`: the counters that are others than when they were
    last told, and at first all. The control process sums over workers."""

    number: int
    client_connections: int
    tunnels: int
    services: dict[str, ServiceStats]
    nodes: list[NodeStats]
    access_log_dropped: int = 0
    """Lines of the access log that could not be written."""
    log_dropped: int = 0
    """Lines of the log that could not be written."""
    underscored: int = 0
    """Fields of requests that were left out because their name has a `_`."""
    more: bool = False
    """The rest follows, in messages of the same number."""
    states: dict[str, PolicyState] = {}
    """By service; of a service that was never told of, `PolicyState()`."""


class Suspect(msgspec.Struct, frozen=True, tag=True):
    """An instance failed `failures` times in a row in this worker, `consecutive_failures` of
    its service's ejection settings at least. Reported when that number is reached, and again
    after as many further failures."""

    service: str
    key: str
    """`Instance.key`."""
    reason: str
    """Code of the fault, or the status, of the last failure."""
    failures: int = 0


class BreakerTurned(msgspec.Struct, frozen=True, tag=True):
    """The circuit breaker of a service is in another state in this worker."""

    service: str
    state: str
    """`closed | open | trying`."""
    worker: int = 0
    """Its index."""


class FieldDropped(msgspec.Struct, frozen=True, tag=True):
    """A client sent a field whose name has a `_`, which was left out. Told once for each name, of
    `FIELDS_NAMED` names at most."""

    name: str
    """In lower case, cut at `LONGEST_FIELD_NAMED` characters."""


FromWorker = Hello | Applied | Accepting | WorkerStats | Suspect | BreakerTurned | FieldDropped

FIELDS_NAMED = 64
"""Names of fields that are told of as left out: an operator finds the program that has one among
these; further ones are a client that invents them, and are only counted."""
LONGEST_FIELD_NAMED = 128

DURATION_BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds in seconds of `fairlead_request_duration_seconds`: a proxy adds tens of
microseconds, so the scale starts where instances do, at one millisecond, and ends at the
default first-byte limit."""

APPLY_BOUNDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
"""Upper bounds in seconds of `fairlead_snapshot_apply_seconds`: around the 5 ms for which a change
of the pools may hold a worker's loop."""

BACKLOG = 4096
"""Connections the kernel holds per socket while a worker is busy or being replaced: what
Linux allows by default (net.core.somaxconn since 5.4); it cuts larger numbers silently."""

UNROUTED = ""
"""Service label for requests that met no route."""
