"""The proxies of a fleet, each under `/fairlead/proxies/ID` for as long as its lease lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from proxy.fleet.store import Store
from proxy.registry.etcd.gateway import Gateway, prefix_end, put_op, range_op, revision_is
from proxy.registry.etcd.wire import EtcdError, KeyValue, LeaseNotFound

log = structlog.get_logger()

PREFIX = "/fairlead/proxies/"

TTL = 15
"""Seconds after which a proxy that says nothing is not there."""
EVERY = 3.0
"""Seconds between two signs of life: four may be lost."""
LONGEST_PROBLEM = 200
"""Characters of what is wrong with a statement, which may quote it."""
LOOK_EVERY = 0.5
"""Seconds between two looks at whether there is news, which is not to wait for those."""
WRITE_EVERY = 15.0
"""Seconds between two statements that differ in the load alone: a thousand proxies write 70 times a
second at most."""


class Config(msgspec.Struct, frozen=True):
    """The shared text that a proxy has in force."""

    revision: int = 0
    hash: str = ""
    canary: bool = False
    good: bool = True
    """Whether it is the newest that is meant for that proxy."""


class Load(msgspec.Struct, frozen=True):
    """How much a proxy has to do."""

    requests: float = 0.0
    """In a second."""
    connections: int = 0
    tunnels: int = 0


class Said(msgspec.Struct, frozen=True):
    """Statement of a proxy about itself, as others read it."""

    admin: str = ""
    version: str = ""
    config: Config | None = None
    ready: bool = False
    missing: tuple[str, ...] = ()
    ejected: tuple[str, ...] = ()
    load: Load = Load()


class Presence:
    """Owns the lease of this proxy and what stands under it."""

    def __init__(self, store: Store, id_: str, tell: Callable[[], Mapping[str, Any]]) -> None:
        """`tell` says what is to stand there; `load` in it may be late."""
        self._store = store
        self._id = id_
        self._key = f"{PREFIX}{id_}".encode()
        self._tell = tell
        self._lease = 0
        self._said: dict[str, Any] = {}
        self._said_at = 0.0
        self._problem = ""

    async def run(self) -> None:
        """Be there until cancelled."""
        while True:
            problem, again = "", EVERY
            try:
                await self._store.call(self._say)
            except EtcdError as error:
                problem, again = str(error), self._store.delay(error)
                if isinstance(error, LeaseNotFound):
                    self._lease = 0
            except _Taken as error:
                problem = str(error)
            if problem and problem != self._problem:
                log.warning("fleet_presence_lost", id=self._id, error=problem)
            elif self._problem and not problem:
                log.info("fleet_presence", id=self._id)
            self._problem = problem
            while again > 0:
                await asyncio.sleep(min(again, LOOK_EVERY))
                again -= LOOK_EVERY
                if not problem and _lasting(self._tell()) != _lasting(self._said):
                    break

    async def end(self) -> None:
        """Be there no more."""
        if self._lease:
            await self._store.call(lambda gateway: gateway.revoke(self._lease))

    async def _say(self, gateway: Gateway) -> None:
        if self._lease and (await gateway.keep_alive(self._lease)).ttl <= 0:
            self._lease = 0
        if not self._lease:
            self._lease = (await gateway.grant(TTL)).id
            self._said = {}
        said, now = dict(self._tell()), asyncio.get_running_loop().time()
        first = not self._said
        due = now - self._said_at >= WRITE_EVERY
        if not due and _lasting(said) == _lasting(self._said):
            return
        put = put_op(self._key, msgspec.json.encode(said), self._lease)
        # Another proxy of this id is not to be overwritten; our own lease says that it is us.
        compare = [
            revision_is(self._key, 0)
            if first
            else {"key": self._key, "target": "LEASE", "result": "EQUAL", "lease": self._lease}
        ]
        reply = await gateway.txn(compare, [put], [range_op(self._key)])
        if not reply.succeeded:
            self._said = {}
            if any(page.kvs for page in reply.ranges):
                raise _Taken("another proxy has this id, or had it a moment ago")
            return
        self._said, self._said_at = said, now


def _lasting(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """A statement without the load, which is another one each time."""
    return {**said, "load": None}


class _Taken(Exception):
    """The key is there, under a lease of somebody else."""


async def listed(store: Store) -> list[dict[str, Any]]:
    """The proxies that are there, by id. EtcdError."""
    return read(await store.read(PREFIX.encode(), prefix_end(PREFIX.encode())))


def read(held: Mapping[bytes, KeyValue]) -> list[dict[str, Any]]:
    """Statements of proxies, by id. One that no proxy could make is of one that is not ready, so
    that no reader stumbles over whoever may write there."""
    found = []
    for key in sorted(held):
        try:
            said = msgspec.json.decode(held[key].value, type=Said)
        except (ValueError, RecursionError) as error:
            said = Said(missing=(f"what it says cannot be read: {error}"[:LONGEST_PROBLEM],))
        id_ = key.decode(errors="replace").removeprefix(PREFIX)
        found.append({**msgspec.to_builtins(said), "id": id_})
    return found
