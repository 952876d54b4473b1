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


class Instance(msgspec.Struct, frozen=True, kw_only=True):
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


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """Who is registered, whole, at one revision. Providers yield these, never deltas.

    A service whose instances did not change since the provider's previous membership is the
    identical tuple object, so a reader finds what changed by `is`, without comparing members.
    """

    services: Mapping[str, tuple[Instance, ...]]
    revision: int = 0


class InvalidRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A registry value that could not be read. It harms no other key."""

    key: str
    reason: str
    kept: bool
    """True when the key's last good value is still served."""


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
    resyncs: Mapping[str, int] = {}
    """Full lists after the first, by reason."""
    differences: int = 0
    """Differences that periodic reconciliation found. Should stay 0."""
    last_error: str | None = None


# -------------------------------------------------------------------------------- pools

Status = Literal["ready", "unhealthy", "ejected", "draining"]


class PoolNode(msgspec.Struct, frozen=True, array_like=True):
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


class Keepalive(msgspec.Struct, frozen=True, kw_only=True):
    """Idle connections to one instance. 4 s is below every common server's own idle limit."""

    idle: float = 4.0
    max_idle: int = 64
    max_requests: int = 1000


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a worker needs to know to serve one service."""

    balancer: BalancerSpec = BalancerSpec()
    timeouts: Timeouts = Timeouts()
    keepalive: Keepalive = Keepalive()
    max_retries: int = 1
    """Attempts beyond the first; 0 = never retry."""


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
    trusted_proxies: tuple[str, ...] = ()
    limits: ListenerLimits = ListenerLimits()
    timeouts: ListenerTimeouts = ListenerTimeouts()


class ListenerSocket(msgspec.Struct, frozen=True, kw_only=True):
    """A listening socket handed to a worker at its start; `fd` is its number in the worker."""

    name: str
    fd: int


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the configuration that concerns a worker."""

    generation: int = 0
    listeners: tuple[ListenerSettings, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    defaults: ServiceSettings = ServiceSettings()
    services: dict[str, ServiceSettings] = {}
    via_token: str = ""
    """Random for each running proxy: a request that carries it came back to us."""


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
    registry: RegistrySettings = RegistrySettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    routes: tuple[RouteSpec, ...] = ()
    defaults: ServiceSettings = ServiceSettings()
    services: dict[str, ServiceSettings] = {}
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


class Accept(msgspec.Struct, frozen=True, tag=True):
    """Start accepting, full set known or not (the control process has waited long enough)."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Stop accepting, finish what is in flight for at most `grace` seconds, exit."""

    grace: float


class Collect(msgspec.Struct, frozen=True, tag=True):
    """Report statistics now, with this number."""

    number: int


ToWorker = Configure | Pools | Accept | Drain | Collect


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker is up and waits for its configuration."""

    pid: int


class Applied(msgspec.Struct, frozen=True, tag=True):
    """The `Pools` message with this number is in effect."""

    seq: int


class Accepting(msgspec.Struct, frozen=True, tag=True):
    """The worker accepts connections on all its listeners."""


class ServiceStats(msgspec.Struct, frozen=True, array_like=True):
    """Counters of one service in one worker since the worker's start."""

    requests: dict[str, int]
    """`"GET 200"` → count."""
    duration_buckets: list[int]
    """One count per bound of `DURATION_BOUNDS`, then +Inf; not cumulative."""
    duration_sum: float
    errors: dict[str, int]
    """RFC 9209 error type → answers the proxy made itself."""
    retries: dict[str, int]


class NodeStats(msgspec.Struct, frozen=True, array_like=True):
    """Counters of one instance in one worker since it first met the instance."""

    service: str
    key: str
    picks: int
    outcomes: dict[str, int]
    """`ok` or an RFC 9209 error type → attempts."""


class WorkerStats(msgspec.Struct, frozen=True, tag=True):
    """Pushed every second and on `Collect`; the control process sums over workers."""

    number: int
    client_connections: int
    tunnels: int
    services: dict[str, ServiceStats]
    nodes: list[NodeStats]


FromWorker = Hello | Applied | Accepting | WorkerStats

DURATION_BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds in seconds of `fairlead_request_duration_seconds`: a proxy adds tens of
microseconds, so the scale starts where instances do, at one millisecond, and ends at the
default first-byte limit."""

UNROUTED = ""
"""Service label for requests that met no route."""
