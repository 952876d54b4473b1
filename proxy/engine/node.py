"""One instance as a worker knows it: what the snapshot says of it, and what was measured here."""

from __future__ import annotations

from collections.abc import Callable

from proxy.engine.http2.shared import SharedSession
from proxy.engine.streams import UpstreamStream
from proxy.engine.upstream.turns import Turns
from proxy.latency import new_histogram
from proxy.messages import PoolNode, Status
from proxy.names.cache import Name


class Node:
    """Owns the live numbers and the idle connections of one instance in this worker."""

    __slots__ = (
        "address",
        "admitted",
        "answers",
        "awaited",
        "calm_until",
        "count_answer",
        "failed_at",
        "failing",
        "failure",
        "http2",
        "id",
        "idle",
        "impaired",
        "in_flight",
        "key",
        "load",
        "local",
        "name",
        "next_probe",
        "on_probation",
        "outcomes",
        "picks",
        "place",
        "port",
        "present",
        "probes",
        "reported",
        "server_name",
        "session",
        "share",
        "shared",
        "slot",
        "stated",
        "status",
        "turns",
        "unreachable",
        "usable",
        "weight",
    )  # fmt: skip

    def __init__(self, spec: PoolNode) -> None:
        self.key = spec.key
        self.id = spec.id
        self.address = spec.address
        self.port = spec.port
        self.local = spec.local
        """Whether the instance stands in the local file, and may lead anywhere."""
        self.server_name = spec.server_name
        """Name that the instance must prove under TLS; None: it is spoken to without."""
        self.http2 = spec.protocol != "h1"
        """Version of HTTP that the instance speaks: 2, or 1.1."""
        self.session: tuple[object, object] | None = None
        """Latest TLS session, and the context that it is for."""
        self.name: Name | None = None
        """Addresses known for the node, once it was dialled."""
        self.slot = spec.slot
        self.stated = spec.weight
        """Weight as the control process says; `weight` is another one in a pool that is divided."""
        self.weight = spec.weight
        self.share = spec.share
        """See `PoolNode`."""
        self.place = (spec.tier, not spec.nearby)
        """See `tiers.py`."""
        self.status: Status = spec.status
        self.admitted = False
        """The control process says that it may be used."""
        self.usable = False
        """The balancer chooses among these: who is admitted and, as far as known, reachable."""
        self.present = True
        """Part of the current snapshot; idle connections of a node that left are closed."""
        self.in_flight = 0
        """Requests and tunnels of this worker."""
        self.load = 0
        """Requests and tunnels of all workers, the others' as of the last look."""
        self.unreachable = False
        """Whether the instance could not be connected to: see `Unreachable`."""
        self.on_probation = False
        """The node is back from an ejection and has not answered since: it gets one request at a
        time, and goes again if that fails. A crowd would find out no more, and lose more."""
        self.probes = 0
        """Of those requests, how many are under way."""
        self.next_probe = 0.0
        """When there may be one more of them although the one before has not ended."""
        self.impaired = False
        """Unreachable or on probation, so that `selection` must look at a pick again."""
        self.failing = 0
        """Attempts that failed since the last one that did not."""
        self.failure = ""
        """How the last one ended that spoke against the instance; "" = there was none."""
        self.failed_at = 0.0
        self.idle: list[UpstreamStream] = []  # ≤ 1 KiB + 16 B per connection
        self.shared: list[SharedSession] = []  # ≤ 1 KiB + 16 B per connection
        """Sessions of HTTP/2 that take further streams."""
        self.turns: Turns | None = None
        """Connections being made to it, once it was dialled."""
        self.awaited = False
        """Requests wait for a stream to it; who comes now waits behind them."""
        self.calm_until = 0.0
        """No new session before: the instance has asked for that."""
        self.picks = 0
        self.reported = -1
        """Picks when its counts were last told; -1 = something was or may be new since then
        although there was no pick."""
        self.outcomes: dict[str, int] = {}  # ≤ 8 KiB
        """Attempts that ended, by `ok`, the fault's code, or the status that speaks against it."""
        histogram = new_histogram()
        self.count_answer: Callable[[float], None] = histogram.count
        """To be called with the seconds from a request to the head of its answer. Kept bound: so a
        call costs half of one that looks for the method."""
        self.answers: Callable[[], tuple[dict[int, int], float]] = histogram.told  # ≤ 2 KiB
        """Place of `proxy/latency.py` → answers, and the seconds that all of them took."""

    def reassess(self) -> None:
        """To be called when `unreachable` or `on_probation` has changed."""
        self.impaired = self.unreachable or self.on_probation
        self.reported = -1

    def is_probed(self, now: float) -> bool:
        """A request finds out whether the node, which is on probation, is well, and has not done
        so for long."""
        return self.probes > 0 and now < self.next_probe

    def __repr__(self) -> str:
        return f"<Node {self.key} {self.status} load={self.load} idle={len(self.idle)}>"
