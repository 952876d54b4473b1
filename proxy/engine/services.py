"""References that requests and connections of a worker share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.engine.challenges import Challenges
from proxy.engine.connections import Connections
from proxy.engine.deadlines import Deadlines
from proxy.engine.fault_log import FaultLog
from proxy.engine.filters import Filters
from proxy.engine.hangups import Hangups
from proxy.engine.pools import Pools
from proxy.engine.recorder import Recorder
from proxy.engine.request_state import RequestState
from proxy.engine.routing import RouteTable
from proxy.engine.sampling import Sampling
from proxy.engine.streams import ClientStream, StreamEvents
from proxy.engine.tap import Tap
from proxy.engine.telemetry import WorkerCounters
from proxy.engine.tls.handshakes import Handshakes
from proxy.engine.upstream.connector import Connector
from proxy.engine.upstream.unreachable import Unreachable
from proxy.errors import Fault
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import RequestHead

NewMirror = Callable[["RequestState", "Services", list[bytes]], Tap | None]
NewExchange = Callable[["Services", ClientStream, RequestHead], StreamEvents]


class Services:
    """References to what a worker owns. A configuration replaces routes, mark, recorder and
    what requests become."""

    __slots__ = (
        "brought", "challenges", "connections", "connector", "counters", "deadlines", "faults",
        "filters", "handshakes", "hangups", "loop", "new_call", "new_exchange", "new_mirror",
        "new_recorder", "new_traced", "now", "on_refused", "on_underscored", "pace", "pools",
        "routes", "sampling", "unreachable", "via_token",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        deadlines: Deadlines,
        handshakes: Handshakes,
        hangups: Hangups,
        pools: Pools,
        connector: Connector,
        unreachable: Unreachable,
        connections: Connections,
        counters: WorkerCounters,
        faults: FaultLog,
        filters: Filters,
        new_exchange: NewExchange,
        new_call: NewExchange,
        on_underscored: Callable[[tuple[bytes, ...]], None],
    ) -> None:
        """`now`: seconds of a monotonic clock; `new_exchange`: what a request becomes, `new_call`:
        what one becomes that may be a call of gRPC, as a POST may; `on_underscored` hears of the
        names of fields that were left out."""
        self.loop = loop
        self.handshakes = handshakes
        self.now = now
        self.deadlines = deadlines
        self.hangups = hangups
        self.pools = pools
        self.connector = connector
        self.pace = connector.pace
        self.unreachable = unreachable
        self.connections = connections
        self.counters = counters
        self.faults = faults
        self.filters = filters
        self.new_exchange = new_exchange
        self.new_call = new_call
        self.new_traced: NewExchange = new_exchange
        """Makes what a request becomes that `sampling` does not leave out."""
        self.sampling: Sampling | None = None
        """Where tracing is on."""
        self.on_underscored = on_underscored
        self.challenges: Challenges | None = None
        """Of servers that speak ACME; None = there are none."""
        self.routes = RouteTable(())  # ≤ 8 KiB + 8 KiB per route
        self.brought: RouteTable | None = None
        """Routes that instances bring, for requests that none of `routes` fits."""
        self.via_token = b""  # ≤ 256 B
        """Mark of this proxy in `Via`."""
        self.new_recorder: Callable[[], Recorder] | None = None
        """Makes who records a request; None = nobody does."""
        self.new_mirror: NewMirror | None = None
        """Makes the copy of a request."""
        self.on_refused: Callable[[Fault, ClientFacts, int, bytes], None] | None = None
        """Hears of bytes that never became a request: fault, client, content sent, request id."""
