"""Counters of a worker: plain integers, read once a second.

A labelled counter of a metrics library costs microseconds on the hot path; an integer costs
thirty nanoseconds. The control process turns sums of these into Prometheus series.
"""

from __future__ import annotations

from bisect import bisect_left
from math import inf
from typing import Final

from proxy.messages import DURATION_BOUNDS, KEPT_SERVICES, ServiceStats

_FIRST_BOUND: Final = DURATION_BOUNDS[0]
_BOUNDS: Final = list(DURATION_BOUNDS)  # ≤ 1 KiB
"""A list, since what is compiled makes objects of all members of a tuple to hand it over."""
_METHODS: Final = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT")
)


_OTHER: Final = b"OTHER"
KINDS: Final = 256
"""Pairs of a method and a status that are counted apart. Further ones are counted together by the
hundreds of their status, as `OTHER 200`. Real services have a dozen."""

CALLERS: Final = 256
"""Services by which requests are counted apart; those of further ones are counted together, as
`other`."""


class ServiceCounters:
    """Owns the counts of one service in this worker since its start."""

    __slots__ = (
        "_answers", "_buckets", "_sum", "breaker_opened", "caller_seconds", "callers", "calls",
        "changes", "faults", "hedges", "limited", "mirrored", "retries", "told", "tunnels_closed",
    )  # fmt: skip

    def __init__(self) -> None:
        self._answers: dict[tuple[bytes, int], int] = {}  # ≤ 64 KiB
        self._buckets = [0] * (len(DURATION_BOUNDS) + 1)
        self._sum = 0.0
        self.faults: dict[str, int] = {}  # ≤ 16 KiB
        self.retries: dict[str, int] = {}  # ≤ 16 KiB
        self.limited: dict[str, int] = {}  # ≤ 4 KiB
        self.breaker_opened = 0
        self.tunnels_closed = 0
        self.calls: dict[str, int] = {}  # ≤ 4 KiB
        """Status of gRPC, of which there are 17 → calls."""
        self.hedges: dict[str, int] = {}  # ≤ 1 KiB
        """`won`, `lost` or `failed` → hedges."""
        self.callers: dict[tuple[str, int], int] = {}  # ≤ CALLERS * 512
        self.caller_seconds: dict[str, float] = {}  # ≤ CALLERS * 128
        self.mirrored: dict[str, int] = {}  # ≤ 1 KiB
        """`sent`, `failed` or `dropped` → copies of requests."""
        self.changes = 0
        """Grows with every count, so that one look tells whether there is news."""
        self.told = -1
        """`changes` when these were last told to the control process."""

    def answered(self, method: bytes, status: int, seconds: float) -> None:
        """A request is over."""
        self.changes += 1
        key = (method, status)
        try:
            self._answers[key] += 1
        except KeyError:
            self._count_other(method, status)
        # Most instances answer within some milliseconds.
        place = 0 if seconds <= _FIRST_BOUND else bisect_left(_BOUNDS, seconds, 1)
        self._buckets[place] += 1
        self._sum += seconds

    def _count_other(self, method: bytes, status: int) -> None:
        """The first of its kind; or one of a method, or of more statuses, that somebody invents.
        Clients and instances could otherwise make a worker larger, and series, at will."""
        key = (method if method in _METHODS else _OTHER, status)
        if len(self._answers) >= KINDS and key not in self._answers:
            key = (_OTHER, status // 100 * 100)
        self._answers[key] = self._answers.get(key, 0) + 1

    def failed(self, fault: str) -> None:
        """The proxy had to answer itself, or to cut an answer off: the code of the fault."""
        self.changes += 1
        self.faults[fault] = self.faults.get(fault, 0) + 1

    def retried(self, reason: str) -> None:
        """Count one further attempt that was made for `reason`."""
        self.changes += 1
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def rejected(self, limit: str) -> None:
        """A limit refused a request or a retry; `limit`: its key in `proxy.yaml`."""
        self.changes += 1
        self.limited[limit] = self.limited.get(limit, 0) + 1

    def tripped(self) -> None:
        """The circuit breaker opened."""
        self.changes += 1
        self.breaker_opened += 1

    def tunnel_closed(self) -> None:
        """A tunnel was closed because its instance leaves."""
        self.changes += 1
        self.tunnels_closed += 1

    def called(self, status: int) -> None:
        """A call of gRPC is over; `status`: one of the seventeen."""
        self.changes += 1
        word = str(status)
        self.calls[word] = self.calls.get(word, 0) + 1

    def hedged(self, result: str) -> None:
        """A hedge is over, or was the one to wait for: `won`, `lost` or `failed`."""
        self.changes += 1
        self.hedges[result] = self.hedges.get(result, 0) + 1

    def copied(self, result: str) -> None:
        """A copy of a request was `sent`, has `failed` or was `dropped`."""
        self.changes += 1
        self.mirrored[result] = self.mirrored.get(result, 0) + 1

    def over(self, method: bytes, status: int, seconds: float, caller: str) -> None:
        """A request is over, or is a tunnel from here on; `caller`: the service that has proved to
        be its client, empty = none has."""
        self.answered(method, status, seconds)
        if caller:
            self.called_by(caller, status, seconds)

    def called_by(self, caller: str, status: int, seconds: float) -> None:
        """A request of a service that has proved to be one is over. Counted with it, `answered`."""
        if caller not in self.caller_seconds:
            if len(self.caller_seconds) >= CALLERS:
                caller = "other"
            self.caller_seconds.setdefault(caller, 0.0)
        self.caller_seconds[caller] += seconds
        key = (caller, status // 100)
        self.callers[key] = self.callers.get(key, 0) + 1

    def snapshot(self) -> ServiceStats:
        """The counts as a message."""
        return ServiceStats(
            {f"{method.decode()} {status}": n for (method, status), n in self._answers.items()},
            list(self._buckets),
            self._sum,
            dict(self.faults),
            dict(self.retries),
            dict(self.limited),
            self.breaker_opened,
            self.tunnels_closed,
            dict(self.calls),
            dict(self.hedges),
            {f"{caller} {hundreds}00": n for (caller, hundreds), n in self.callers.items()},
            dict(self.caller_seconds),
            dict(self.mirrored),
        )


class WorkerCounters:
    """Owns the counts that belong to no service, and the table of those that do."""

    __slots__ = ("_due", "_gone", "client_connections", "filters", "handshakes", "http2_closed",
                 "http2_sessions", "http2_streams", "lag", "services", "tunnels",
                 "underscored")  # fmt: skip

    def __init__(self) -> None:
        self.client_connections = 0
        self.tunnels = 0
        self.http2_sessions = 0
        """Clients that speak HTTP/2."""
        self.http2_streams = 0
        """Requests of theirs that are under way."""
        self.lag = 0.0
        """Seconds by which the loop was late for the latest report."""
        self._due = inf
        self.underscored = 0
        """Fields of requests that were left out because their name has a `_`."""
        self.services: dict[str, ServiceCounters] = {}  # ≤ KEPT_SERVICES * 400 + 400 B per service
        self.handshakes: dict[str, dict[str, int]] = {}  # ≤ 2 KiB per listener
        """Listener → result → handshakes of clients."""
        self.http2_closed: dict[str, dict[str, int]] = {}  # ≤ 4 KiB per listener
        """Listener → reason → connections of HTTP/2 that ended for what a client did."""
        self.filters: dict[str, dict[str, int]] = {}  # ≤ 16 KiB per route
        """Filter → fault, or status → requests that it answered, refused or failed."""
        self._gone: dict[str, None] = {}  # ≤ KEPT_SERVICES * 400
        """Services in the table that have no pool any more, in the order in which they left."""

    def note_report(self, now: float, interval: float) -> None:
        """A report is made, and the next one is due in so many seconds."""
        self.lag = max(0.0, now - self._due)
        self._due = now + interval

    def handshake(self, listener: str, result: str) -> None:
        """A handshake of a client is over."""
        counts = self.handshakes.setdefault(listener, {})
        counts[result] = counts.get(result, 0) + 1

    def close_http2(self, listener: str, reason: str) -> None:
        """A connection of HTTP/2 ends for what a client did."""
        counts = self.http2_closed.setdefault(listener, {})
        counts[reason] = counts.get(reason, 0) + 1

    def end_at(self, filter_name: str, outcome: str, status: int) -> None:
        """A request is over that went no further than a filter."""
        if outcome == "ok":
            outcome = str(status)
        counts = self.filters.setdefault(filter_name, {})
        counts[outcome] = counts.get(outcome, 0) + 1

    def service(self, name: str) -> ServiceCounters:
        """The counters of a service; they outlive its pool."""
        counters = self.services.get(name)
        if counters is None:
            counters = self.services[name] = ServiceCounters()
        self._gone.pop(name, None)
        return counters

    def gone(self, name: str) -> None:
        """The service has no pool any more. One that comes back counts on from where it was, if it
        is among the last `KEPT_SERVICES`."""
        self._gone[name] = None
        if len(self._gone) > KEPT_SERVICES:
            first = next(iter(self._gone))
            del self._gone[first]
            del self.services[first]
