"""State that a successor takes over from the control process that it replaces.

    successor                                    the one that serves
    Ask ────────────────────────────────────────▶
      ◀──────────────────────────────────────── State     it is loaded, and has no workers yet
    ready ─▶ parent ─▶ retire ──────────────────▶ stops accepting
      ◀──────────────────────────────────────── State, Counts     what has changed meanwhile
      ◀──────────────────────────────────────── Counts    when its last request is over

The two may be of different versions. So the state is sent in parts, each by its name: a part that
is not known, or reads differently, is left out, and the log names it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from proxy.channel import Channel
from proxy.control.ejections import Ejection
from proxy.control.supervisor import Supervisor
from proxy.membership import Instance, Membership
from proxy.settings.fleet import SharedText

log = structlog.get_logger()

ASK_LIMIT = 10.0
"""Seconds for the one that serves to send its state; without it the successor starts as if it were
the first."""

CLOSE_LIMIT = 2.0
"""Seconds for the last counts to be read."""

COUNTS_LIMIT = 3.0
"""Seconds for the first counts, before which the successor shows none: they would go back."""


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Send the state."""


class State(msgspec.Struct, frozen=True, tag=True):
    """The state, part by part."""

    parts: dict[str, bytes]
    """Name → msgpack of the type that `PARTS` says."""


class Counts(msgspec.Struct, frozen=True, tag=True):
    """The page of metrics as it stands."""

    page: bytes


PARTS: Mapping[str, Any] = {
    "membership": Membership,
    "drained": list[tuple[str, str]],
    "weights": list[tuple[Instance, int]],
    "ejections": list[Ejection],
    "unhealthy": dict[str, dict[str, str]],
    "tripped": list[str],
    "ticket_secret": tuple[bytes, float],
    "rate_limits": bytes,
    "shared_config": SharedText,
    "claims": list[tuple[str, str, str]],
}
"""Parts of the state: pools as the registry says they are; (service, id) that the operator drains;
instances as they were registered, with the weight that the operator gave them; ejections; service →
key of an instance → what its checks say; services whose circuit breaker is not closed; the secret
of TLS tickets, and since when; the table of the rate limits; the shared configuration in force;
who wants which route, the first to come first."""


def read(state: State) -> dict[str, Any]:
    """The parts that can be read."""
    found = {}
    for name, encoded in state.parts.items():
        try:
            found[name] = msgspec.msgpack.decode(encoded, type=PARTS[name])
        except (KeyError, msgspec.MsgspecError) as error:
            log.warning("state_part_not_taken_over", part=name, error=str(error))
    return found


def collect(supervisor: Supervisor, now: float) -> State:
    """The state of a control process; `now`: monotonic seconds, which are the same for all
    processes of a machine."""
    pools = supervisor.pools
    overrides = pools.overrides
    totals = supervisor.collector.totals()
    parts: dict[str, Any] = {
        "drained": [(name, id_) for name, one in overrides.items() for id_ in one.drained],
        "weights": [pair for one in overrides.values() for pair in one.weights.values()],
        "ejections": supervisor.outliers.kept(),
        "unhealthy": {name: one.unhealthy for name, one in overrides.items() if one.unhealthy},
        "tripped": [name for name in pools.by_service if _is_tripped(totals.states(name))],
        "ticket_secret": supervisor.certificates.secret,
        "claims": supervisor.brought.claims.order(),
        "rate_limits": bytes(supervisor.board.buckets),
    }
    if pools.complete:
        parts["membership"] = Membership(services=pools.listed, revision=pools.revision)
    if supervisor.shared.good is not None:
        parts["shared_config"] = supervisor.shared.good
    return State({name: msgspec.msgpack.encode(part) for name, part in parts.items()})


def _is_tripped(states: Any) -> bool:
    """Whether the breaker is open, or trying, in half of the workers at least."""
    return bool(states) and 2 * sum(one.breaker in ("open", "trying") for one in states) >= len(
        states
    )


def restore(
    supervisor: Supervisor, parts: Mapping[str, Any], now: float, *, first: bool = False
) -> None:
    """Take over the state: `first`, before the workers start, or what has changed since."""
    pools = supervisor.pools
    if first:
        supervisor.brought.claims.restore(parts.get("claims", ()))
    if not pools.complete and (membership := parts.get("membership")) is not None:
        supervisor.take_membership(membership)
    if "drained" in parts:
        drained = {(service, id_) for service, id_ in parts["drained"]}
        before = {(name, id_) for name, one in pools.overrides.items() for id_ in one.drained}
        for service, id_ in drained - before:
            pools.drain(service, id_)
        for service, id_ in before - drained:
            pools.undrain(service, id_)
    supervisor.outliers.restore(parts.get("ejections", ()), now)
    for instance, weight in parts.get("weights", ()):
        pools.weigh(instance.service, instance, weight)
    if first:
        for service, keys in parts.get("unhealthy", {}).items():
            for key, message in keys.items():
                pools.check(service, key, message)
        buckets = parts.get("rate_limits", b"")
        if len(buckets) == len(supervisor.board.buckets):
            supervisor.board.buckets[:] = buckets
    supervisor.apply(pools.settle(now))


class Predecessor:
    """Owns the successor's end of the way to the one that serves."""

    def __init__(self) -> None:
        self._channel: Channel[State | Counts] = Channel(
            State | Counts, self._on_message, lambda error: self._news.set()
        )
        self._news = asyncio.Event()
        self._state: State | None = None
        self.supervisor: Supervisor | None = None
        """Set once it is there to take over what changes in the last moment."""
        self.page = b""
        """Metrics as it told them last."""

    async def ask(self, end: socket.socket) -> dict[str, Any]:
        """The parts of its state; empty when it does not answer."""
        try:
            async with asyncio.timeout(ASK_LIMIT):
                await self._channel.open(end)
                self._channel.send(Ask())
                while self._state is None and not self._channel.closed:
                    self._news.clear()
                    await self._news.wait()
        except (OSError, TimeoutError) as error:
            log.warning("state_not_taken_over", error=str(error) or f"not within {ASK_LIMIT:g} s")
        if self._state is None:
            return {}
        parts = read(self._state)
        log.info("state_taken_over", parts=sorted(parts))
        return parts

    async def counts(self) -> None:
        """Wait until it has told its counts, or is gone."""
        try:
            async with asyncio.timeout(COUNTS_LIMIT):
                while not self.page and not self._channel.closed:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            log.warning("counts_not_taken_over", error=f"not within {COUNTS_LIMIT:g} s")

    def close(self) -> None:
        """Hear no more of it."""
        self._channel.close()

    def _on_message(self, message: State | Counts) -> None:
        if isinstance(message, Counts):
            self.page = message.page
        elif self.supervisor is not None:
            restore(self.supervisor, read(message), time.monotonic())
        else:
            self._state = message
        self._news.set()


class Successor:
    """Owns the serving one's end of the way to a successor, if there is one."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._channel: Channel[Ask] | None = None
        self._gone: asyncio.Future[None] = asyncio.Future()
        self._opening: asyncio.Task[None] | None = None
        self._alone: asyncio.Task[None] | None = None

    def meet(self, end: socket.socket) -> None:
        """Send the state when it is asked for. Of earlier successors, which failed, no more is
        heard."""
        if self._channel is not None:
            self._channel.close()
        gone = self._gone = asyncio.get_running_loop().create_future()

        def on_closed(error: Exception | None) -> None:
            gone.set_result(None)

        self._channel = Channel(Ask, lambda ask: self.tell_state(), on_closed)
        self._opening = asyncio.create_task(self._channel.open(end), name="successor")
        self._alone = asyncio.create_task(self._hold_turn(gone), name="turn of the successor")

    async def _hold_turn(self, gone: asyncio.Future[None]) -> None:
        """Let no reload begin that the successor, which has read the file, would know nothing of,
        and so undo."""
        async with self._supervisor.turn:
            await asyncio.wait([gone])

    def taken_over(self) -> None:
        """The successor serves: whoever waits for the turn hears that this process ends."""
        if self._alone is not None:
            self._alone.cancel()

    def tell_state(self) -> None:
        """Send the state as of now."""
        if self._channel is not None:
            self._channel.send(collect(self._supervisor, time.monotonic()))

    def tell_counts(self, page: bytes) -> None:
        """Send the page of metrics."""
        if self._channel is not None:
            self._channel.send(Counts(page))

    async def close(self) -> None:
        """Close after what was sent is out, if that takes no longer than `CLOSE_LIMIT`."""
        if self._channel is not None and not self._channel.closed:
            self._channel.close()
            await asyncio.wait([self._gone], timeout=CLOSE_LIMIT)
