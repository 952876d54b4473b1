"""Sums of what the workers count.

Workers report whole counters since their own start, so the sum over the live ones and over
those that died ("retired") never goes back when one is replaced.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from proxy.control.recent import PERIOD, Recent, Window, add_latency, errors_of
from proxy.latency import add_between
from proxy.messages import (
    APPLY_BOUNDS,
    DURATION_BOUNDS,
    KEPT_SERVICES,
    NodeStats,
    PolicyState,
    ServiceStats,
    WorkerStats,
)

Name = TypeVar("Name", str, int)
Number = TypeVar("Number", int, float)


@dataclass(slots=True)
class ServiceTotal:
    """A service over several workers; the fields are those of `messages.ServiceStats`."""

    requests: dict[str, int] = field(default_factory=dict)
    duration_buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS) + 1))
    duration_sum: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    limited: dict[str, int] = field(default_factory=dict)
    breaker_opened: int = 0
    tunnels_closed: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    hedges: dict[str, int] = field(default_factory=dict)
    callers: dict[str, int] = field(default_factory=dict)
    caller_seconds: dict[str, float] = field(default_factory=dict)
    mirrored: dict[str, int] = field(default_factory=dict)

    def add(self, counted: ServiceStats | ServiceTotal) -> None:
        """Add one worker's counts, or another sum."""
        for position, count in enumerate(counted.duration_buckets):
            self.duration_buckets[position] += count
        self.duration_sum += counted.duration_sum
        self.breaker_opened += counted.breaker_opened
        self.tunnels_closed += counted.tunnels_closed
        for name in _COUNTS:
            _add(getattr(self, name), getattr(counted, name))


_COUNTS: Final = (
    *("requests", "faults", "retries", "limited", "calls", "hedges", "callers", "caller_seconds"),
    "mirrored",
)


_NO_ANSWERS: dict[int, int] = {}  # ≤ 0


@dataclass(slots=True)
class NodeTotal:
    """One instance over several workers."""

    picks: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    unreachable: int = 0
    """Live workers that cannot connect to it."""
    on_probation: int = 0
    """Live workers that have yet to see it answer after an ejection."""
    answers: int = 0
    """Answers whose latency is known."""
    seconds: float = 0.0
    """Sum of what they took."""
    failure: str = ""
    """Outcome of the last attempt, in any worker, that spoke against it."""
    failed_at: float = 0.0

    @property
    def failures(self) -> int:
        """Attempts that did not bring an answer."""
        return errors_of(self.outcomes)


@dataclass(frozen=True, slots=True)
class Sums:
    """Counts of workers that are neither of a service nor of an instance; the fields are those of
    `messages.WorkerStats`."""

    access_log_dropped: int = 0
    log_dropped: int = 0
    underscored: int = 0
    name_failures: int = 0
    handshakes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    http2_closed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    filters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def plus(self, live: Sequence[WorkerStats]) -> Sums:
        """With those of some workers."""

        def over(name: str) -> Any:
            counts = [getattr(one, name) for one in (self, *live)]
            return sum(counts) if isinstance(counts[0], int) else _by_name(counts)

        return Sums(*(over(one.name) for one in fields(Sums)))


_NOTHING: Final = WorkerStats(0, 0, 0, {}, [])


@dataclass(slots=True)
class Reported:
    """Owns what one worker has counted, as far as it told: each message has what is new."""

    last: WorkerStats = _NOTHING
    """The last message: what is no counter of a service or an instance is there whole."""
    services: dict[str, ServiceStats] = field(default_factory=dict)
    nodes: dict[tuple[str, str], NodeStats] = field(default_factory=dict)
    """By service and node key."""
    states: dict[str, PolicyState] = field(default_factory=dict)
    recent_services: Window[str, ServiceStats] = field(default_factory=Window)
    recent_nodes: Window[tuple[str, str], NodeStats] = field(default_factory=Window)
    _periods: tuple[float, float] | None = None
    """When the window began, and the period that runs."""
    _told_at: float = 0.0

    @property
    def span(self) -> float:
        """Seconds that the window has, as of the last message."""
        begun = self._told_at if self._periods is None else self._periods[0]
        return max(1.0, self._told_at - begun)  # A report is of a second.

    def take(self, message: WorkerStats, now: float = 0.0) -> None:
        """Take over one message, of this moment. An instance that left and came back counts from 0
        again."""
        self._told_at = now
        if self._periods is None:
            self._periods = now, now
        elif now >= self._periods[1] + PERIOD:
            self._periods = self._periods[1], now
            self.recent_services.turn()
            self.recent_nodes.turn()
        self.last = message
        for name, counts in message.services.items():
            self.recent_services.change(name, self.services.get(name))
            self.services[name] = counts
        self.states.update(message.states)
        for node in message.nodes:
            of = node.service, node.key
            known = self.nodes.get(of)
            if known is None or known.picks > node.picks:
                self.recent_nodes.forget(of)
                known = None
            self.recent_nodes.change(of, known)
            self.nodes[of] = node

    def forget(self, known: Container[tuple[str, str]], services: Container[str]) -> None:
        """Drop the instances that are not in `known`, (service, node key): nobody shows them; and
        services that are not in `services`, but for as many of them as a worker keeps."""
        for node in [node for node in self.nodes if node not in known]:
            del self.nodes[node]
            self.recent_nodes.forget(node)
        gone = [name for name in self.services if name and name not in services]
        for name in gone[: max(0, len(gone) - KEPT_SERVICES)]:
            del self.services[name]
            self.recent_services.forget(name)
            self.states.pop(name, None)


@dataclass(slots=True)
class Retired:
    """The sums of what dead workers had counted. Never modified: who reads it may take time."""

    services: dict[str, ServiceTotal] = field(default_factory=dict)
    nodes: dict[tuple[str, str], NodeTotal] = field(default_factory=dict)
    sums: Sums = Sums()

    def plus(self, dead: Reported, known: Container[tuple[str, str]]) -> Retired:
        """With those of one more worker. Instances that are not in `known`, (service, node
        key), are dropped: nobody shows them."""
        both = Totals(self, (dead,))
        nodes: dict[tuple[str, str], NodeTotal] = {}
        for of in {**self.nodes, **dead.nodes}:
            if of in known and (total := both.node(*of)) is not None:
                total.unreachable = total.on_probation = (
                    0  # What it found is nobody's business now.
                )
                nodes[of] = total
        return Retired(
            services={name: both.service(name) for name in both.services},
            nodes=nodes,
            sums=both.sums,
        )


class Totals:
    """The sums over dead and live workers, added up as they are asked for: of thousands of
    instances most questions concern a few, and those that concern all take their time."""

    def __init__(self, retired: Retired, live: Iterable[Reported] = ()) -> None:
        self._reports = tuple(live)
        self._parts: Sequence[Reported | Retired] = (retired, *self._reports)
        self._retired = retired

    @property
    def services(self) -> Iterable[str]:
        """Names of all services with counts, those without a pool included."""
        return dict.fromkeys(name for part in self._parts for name in part.services)

    @property
    def sums(self) -> Sums:
        """Of all of them."""
        return self._retired.sums.plus([one.last for one in self._reports])

    @property
    def names_outdated(self) -> float:
        """Of the live worker where it is longest."""
        return max((one.last.names_outdated for one in self._reports), default=0.0)

    def service(self, name: str) -> ServiceTotal:
        """The sum of one service; zeros for one that nobody counted for."""
        total = ServiceTotal()
        for part in self._parts:
            counted = part.services.get(name)
            if counted is not None:
                total.add(counted)
        return total

    def states(self, service: str) -> list[PolicyState]:
        """Where the limits of a service stand, in each live worker that told of it."""
        return [one.states[service] for one in self._reports if service in one.states]

    def node(self, service: str, key: str, late: list[int] | None = None) -> NodeTotal | None:
        """The sum of one instance; None if no worker has told of it. To `late` its answers of late
        are added, by place of `proxy/latency.py`.

        A scrape asks for twenty thousand at a time, which is why this calls so little."""
        of = service, key
        picks = unreachable = on_probation = answers = 0
        seconds = failed_at = 0.0
        failure = ""
        outcomes: dict[str, int] | None = None
        dead = self._retired.nodes.get(of)
        if dead is not None:
            picks, answers, seconds = dead.picks, dead.answers, dead.seconds
            outcomes = dead.outcomes.copy()
            failure, failed_at = dead.failure, dead.failed_at
        for part in self._reports:
            told = part.nodes.get(of)
            if told is None:
                continue
            picks += told.picks
            unreachable += told.unreachable
            on_probation += told.on_probation
            seconds += told.seconds
            if told.failed_at > failed_at:
                failure, failed_at = told.failure, told.failed_at
            if outcomes is None:
                outcomes = told.outcomes.copy()
            else:
                for name, count in told.outcomes.items():
                    outcomes[name] = outcomes[name] + count if name in outcomes else count
            before = told if late is None else part.recent_nodes.begin(of, told)
            if late is None or before is told:
                answers += sum(told.latency.values())
            else:
                was = _NO_ANSWERS if before is None else before.latency
                answers += add_between(late, was, told.latency)
        if outcomes is None:
            return None
        return NodeTotal(
            picks, outcomes, unreachable, on_probation, answers, seconds, failure, failed_at
        )

    def recent_node(self, service: str, key: str) -> Recent:
        """The counts of an instance of late."""
        recent = Recent()
        for part in self._reports:
            now = part.nodes.get((service, key))
            if now is not None:
                before = part.recent_nodes.begin((service, key), now)
                if before is not now:
                    recent.add_node(before, now, part.span)
        return recent

    def recent_services(self, names: Container[str]) -> dict[str, Recent]:
        """The counts of these services of late, of those that have any."""
        found: dict[str, Recent] = {}
        for part in self._reports:
            for name in part.recent_services.changed():
                if name in names and (now := part.services.get(name)) is not None:
                    before = part.recent_services.begin(name, now)
                    found.setdefault(name, Recent()).add_service(before, now, part.span)
            for of in part.recent_nodes.changed():
                if of[0] in names and (told := part.nodes.get(of)) is not None:
                    recent = found.setdefault(of[0], Recent())
                    add_latency(recent.latency, part.recent_nodes.begin(of, told), told)
        return found


@dataclass(slots=True)
class Applies:
    """Owns how long changes of the pools held the loop of one worker, over all its processes."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(APPLY_BOUNDS) + 1))
    """One count per bound of `APPLY_BOUNDS`, then +Inf; not cumulative."""
    seconds: float = 0.0
    """Sum."""
    worst: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one message that was applied."""
        self.buckets[bisect_left(APPLY_BOUNDS, seconds)] += 1
        self.seconds += seconds
        self.worst = max(self.worst, seconds)


def _by_name(parts: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for part in parts:
        for name, counts in part.items():
            _add(total.setdefault(name, {}), counts)
    return total


def _add(into: dict[Name, Number], counts: Mapping[Name, Number]) -> None:
    if not into:
        into.update(counts)
        return
    for name, count in counts.items():
        into[name] = into[name] + count if name in into else count
