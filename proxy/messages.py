"""Messages between the control process and its workers.

Frozen: whoever needs a different value builds a new object and swaps it in by one assignment, so
a reader never sees half an update. The structs are the wire format of the channel (msgpack through
msgspec). Durations are seconds (float), sizes are bytes (int).
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from proxy.settings.access_log import AccessLogSettings
from proxy.settings.filters import FilterSpec
from proxy.settings.listener import ListenerSettings
from proxy.settings.process import LogSettings, TracingSettings
from proxy.settings.route import RouteSpec
from proxy.settings.service import ServiceSettings
from proxy.spans import Traced

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
    local: bool = False
    """Stands in the local file: its address may lead anywhere, which a registry's may not."""
    server_name: str | None = None
    """Name that the instance must prove under TLS; None: it is spoken to without."""
    protocol: str = "h1"
    """Spoken to it: `h1`, `h2c`, or `h2`, which is under TLS."""
    tier: int = 0
    """Priority, the lowest first."""
    nearby: bool = True
    """In the preferred zone, or there is none."""
    share: float = 1.0
    """Of its whole weight, while it is in slow start. `weight` has it in it, unless the balancer
    hashes."""


class PoolSnapshot(msgspec.Struct, frozen=True):
    """One service's pool at one moment. The worker swaps it in by one assignment."""

    service: str
    generation: int
    nodes: tuple[PoolNode, ...]
    panic: bool = False
    """Too few instances are ready: health is ignored and all that are not drained are served."""
    published: tuple[str, ...] = ()
    """`RouteSpec.published` of template routes that lead to the service."""


class PoolChange(msgspec.Struct, frozen=True):
    """The way from one snapshot of a service's pool to the next: `panic` and `published` are as
    they were, the order of the nodes may be another."""

    service: str
    before: int
    """Generation that the worker has."""
    generation: int
    nodes: tuple[PoolNode, ...] = ()
    """Nodes that are new, or read differently."""
    gone: tuple[str, ...] = ()
    """Keys of those that are not in the pool any more."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the configuration that concerns a worker."""

    generation: int = 0
    listeners: tuple[ListenerSettings, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    instance_filters: tuple[FilterSpec, ...] = ()
    """Of routes that instances bring."""
    defaults: ServiceSettings = ServiceSettings()
    services: dict[str, ServiceSettings] = {}
    workers: int = 1
    """Processes that share the limits of a listener."""
    via_token: str = ""
    """Random for each running proxy: a request that carries it came back to us."""
    access_log: AccessLogSettings | None = None
    tracing: TracingSettings | None = None
    log: LogSettings | None = None
    """None: the log stays as it is."""
    admin_port: int = 0
    """Port of the admin listener, to which no registry may lead."""
    allow: tuple[str, ...] = ()
    """`registry.allow`."""
    plugins: tuple[str, ...] = ()
    """Modules to import, or classes of them."""
    tripped: tuple[str, ...] = ()
    """Services whose circuit breaker was not closed in the processes before."""


# -------------------------------------------------------------------------------- messages
#
# Control process → worker. Each is one frame on the channel (`control/channel.py`).


class Configure(msgspec.Struct, frozen=True, tag=True):
    """First message after the hello, and again at each reload."""

    config: WorkerConfig
    sockets: dict[int, str] = {}
    """Number of each listening socket → listener whose connections come by it. Descriptors of those
    that are new were sent beside the channel before. Of others nothing changes until `Release`."""
    lasting: tuple[int, ...] = ()
    """Numbers of those that somebody listens on when the proxy has ended: the service manager."""


class CertificatePair(msgspec.Struct, frozen=True):
    """A certificate with its chain, and its key."""

    cert: bytes
    """PEM, the certificate itself first."""
    key: bytes
    """PEM, not encrypted."""
    names: tuple[str, ...]
    """DNS names, in lower case and their xn-- form, `*.example.com` for a wildcard, and IP
    addresses, of the certificate's subjectAltName."""
    kind: str
    """Type of the key: `ec`, `rsa`, `ed25519` or `ed448`."""


class ListenerCertificates(msgspec.Struct, frozen=True, tag=True):
    """Certificates of a TLS listener for new connections, from here on. Sent for each such listener
    after `Configure` and before `Pools`, and again when something changes; those of all listeners,
    and the files of `UpstreamFiles`, have `MAX_CERTIFICATES` bytes at most."""

    listener: str
    generation: int
    pairs: tuple[CertificatePair, ...]
    """The first is the default."""
    client_ca: bytes = b""
    """PEM; empty = none."""
    ticket_keys: bytes = b""
    """80 bytes; empty = each worker has its own."""
    session_context: bytes = b""
    """Up to 32 bytes; a session is resumed only where they are the same."""


class UpstreamFiles(msgspec.Struct, frozen=True, tag=True):
    """The files that `tls:` of services name, by their names; sent before `Pools` if there are any,
    and again when one of them changes."""

    generation: int
    contents: dict[str, bytes]


CertificateMessage = ListenerCertificates | UpstreamFiles


class AcmeChallenges(msgspec.Struct, frozen=True, tag=True):
    """Answer servers that speak ACME so from here on, and no more as was sent before. Sent before
    `Pools` if there was one, and at each change."""

    number: int
    tokens: dict[str, str]
    """Token of http-01 → key authorization."""
    certificates: dict[str, CertificatePair]
    """Name → certificate that answers tls-alpn-01."""


class Pools(msgspec.Struct, frozen=True, tag=True):
    """Changed pools, and services that are gone. `complete`: the first full set is now known."""

    seq: int
    snapshots: tuple[PoolSnapshot, ...] = ()
    """Pools that the worker does not know, and those of which most is different."""
    changes: tuple[PoolChange, ...] = ()
    removed: tuple[str, ...] = ()
    complete: bool = False
    revision: int = 0
    """Of the registry: with this message the worker has everything up to it."""


class Accept(msgspec.Struct, frozen=True, tag=True):
    """Start accepting, full set known or not (the control process has waited long enough)."""


class Open(msgspec.Struct, frozen=True, tag=True):
    """Accept from all sockets, if you accept at all. Sent behind a `Configure` that brought new
    ones, and the certificates for them."""


class Release(msgspec.Struct, frozen=True, tag=True):
    """Accept no more from these sockets."""

    sockets: tuple[int, ...]
    last: bool = False
    """The sockets end, for all workers: clients that wait in them are accepted first. Connections
    of a listener that is gone have `grace` seconds to finish."""
    grace: float = 0.0


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Say `Connection: close` from now on; stop accepting after `delay` seconds; finish what is in
    flight for at most `grace` seconds after that; exit."""

    grace: float
    delay: float = 0.0
    shared: bool = False
    """Other workers go on accepting from the same sockets, which are left as they are."""


class BroughtRoutes(msgspec.Struct, frozen=True, tag=True):
    """Routes that instances bring, all of them. Sent before `Pools`, and at each change."""

    routes: tuple[tuple[str | None, str | None, str], ...]
    """Host, path prefix, service."""


class FleetShare(msgspec.Struct, frozen=True, tag=True):
    """The part of the rate limits of a whole fleet that is this proxy's. Sent before `Pools`, and
    at each change."""

    share: float


class Rows(msgspec.Struct, frozen=True, tag=True):
    """Rows of the board in which workers count. Sent before `Pools`, and at each change, to the
    others before a new worker is started."""

    alive: tuple[int, ...]


class Collect(msgspec.Struct, frozen=True, tag=True):
    """Report statistics now, with this number."""

    number: int


class ReopenAccessLog(msgspec.Struct, frozen=True, tag=True):
    """The file of the access log was moved away: go on in a new one."""


ToWorker = (
    Configure
    | ListenerCertificates
    | UpstreamFiles
    | AcmeChallenges
    | Pools
    | Accept
    | Open
    | Release
    | Drain
    | BroughtRoutes
    | FleetShare
    | Rows
    | Collect
    | ReopenAccessLog
)

MAX_CERTIFICATES: Final = 32 * 1024 * 1024
"""Bytes of PEM of all listeners together: 6,000 certificates with their chains, and half of what
the channel takes for a peer that does not read."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """A worker is up and waits for its configuration."""

    pid: int


class Applied(msgspec.Struct, frozen=True, tag=True):
    """The `Pools` message with this number is in effect."""

    seq: int
    seconds: float = 0.0
    """How long it held the worker's loop, decoding included."""


class Configured(msgspec.Struct, frozen=True, tag=True):
    """The configuration of this generation is in effect, or is not, and the one before it stays."""

    generation: int
    error: str = ""
    """Empty = in effect."""


class Accepting(msgspec.Struct, frozen=True, tag=True):
    """The worker accepts connections from these sockets, which are all it has. Told again whenever
    that changes."""

    sockets: tuple[int, ...] = ()


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
    calls: dict[str, int] = {}
    """Status of gRPC → calls of gRPC."""
    hedges: dict[str, int] = {}
    """`won`, `lost` or `failed` → hedges."""
    callers: dict[str, int] = {}
    """`"web 200"`: a service that has proved to be one, and the hundreds of a status → its
    requests."""
    caller_seconds: dict[str, float] = {}
    """Service → what its requests took in all."""
    mirrored: dict[str, int] = {}
    """`sent`, `failed` or `dropped` → copies of requests."""


class PolicyState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where the limits of one service stand in one worker."""

    breaker: str = ""
    """`closed | open | trying`; "" = there is none."""
    waiting: int = 0
    """Requests in the queue."""


OUTRUN = "outrun"
"""Outcome of an attempt that nobody waits for any more, since a hedge or what it was beside was
quicker: it speaks neither for its instance nor against it."""
NO_ERRORS = ("ok", OUTRUN)
"""Outcomes that are no errors."""


class NodeStats(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Counters of one instance in one worker since it first met the instance."""

    service: str
    key: str
    picks: int
    outcomes: dict[str, int]
    """`ok`, `OUTRUN`, the code of a fault, or a status that speaks against the instance →
    attempts."""
    unreachable: bool = False
    """The worker cannot connect to it at present."""
    on_probation: bool = False
    """Whether the node is back from an ejection, and the worker has yet to see it answer."""
    latency: dict[int, int] = {}
    """Place of `proxy/latency.py` → answers that took so long, from the request to their head."""
    seconds: float = 0.0
    """Sum of these times."""
    failure: str = ""
    """Outcome of the last attempt that spoke against the instance; "" = there was none."""
    failed_at: float = 0.0
    """When that was, on the clock that all processes of a machine share."""


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
    name_failures: int = 0
    """Questions for instances' names that brought no address."""
    names_outdated: float = 0.0
    """Seconds by which the oldest answer that had to be used on is past its time."""
    more: bool = False
    """The rest follows, in messages of the same number."""
    states: dict[str, PolicyState] = {}
    """By service; of a service that was never told of, `PolicyState()`."""
    handshakes: dict[str, dict[str, int]] = {}
    """Listener → result → TLS handshakes of clients."""
    http2_closed: dict[str, dict[str, int]] = {}
    """Listener → reason → connections of HTTP/2 that ended for what a client did."""
    filters: dict[str, dict[str, int]] = {}
    """Filter → fault, or status → requests that went no further."""
    lag: float = 0.0
    """Seconds by which the worker's loop was late for this report, which is due each second."""
    http2: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Sessions with clients and requests on them, sessions with instances and requests on them."""


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


class FieldDropped(msgspec.Struct, frozen=True, tag=True):
    """A client sent a field whose name has a `_`, which was left out. Told once for each name, of
    `FIELDS_NAMED` names at most."""

    name: str
    """In lower case, cut at `LONGEST_FIELD_NAMED` characters."""


class CertificatesApplied(msgspec.Struct, frozen=True, tag=True):
    """A generation of a listener's certificates is in effect, or is not, and the one before it
    stays."""

    listener: str
    generation: int
    error: str = ""
    """Empty = in effect."""
    contexts: int = 0
    """OpenSSL contexts that the worker has for the listener, of older generations, too."""


class Spans(msgspec.Struct, frozen=True, tag=True):
    """Traced requests that are over, and the number of those that were dropped. `offset`: from the
    clock of these to Unix time."""

    traced: list[Traced]
    dropped: int = 0
    offset: float = 0.0


class AcmeApplied(msgspec.Struct, frozen=True, tag=True):
    """The `AcmeChallenges` with this number are answered."""

    number: int


FromWorker = (
    Hello
    | Applied
    | Accepting
    | WorkerStats
    | Suspect
    | BreakerTurned
    | FieldDropped
    | CertificatesApplied
    | AcmeApplied
    | Spans
    | Configured
)

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

KEPT_SERVICES: Final = 1000
"""Services without a pool whose counts are kept. Names come and go for ever where each branch of a
program is deployed under its own."""
UNROUTED = ""
"""Service label for requests that met no route."""
