"""Registries under drill: what can be done to each, and a provider that is watched meanwhile. The
registries are in `drilled_stores.py`, `drilled_consul.py`, `drilled_beats.py` and
`drilled_lists.py`, all of them in `every_registry.py`, the drills in `test_registry_drills.py`."""

from __future__ import annotations

import asyncio
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, Self

import msgspec

from proxy.catalog import PROVIDERS, load, registry_options
from proxy.membership import Instance, Membership
from proxy.registry.base import Provider
from proxy.registry.followed import Timing
from proxy.settings.registry import RegistryOptions
from proxy.statuses import RegistryStatus
from tests.support.processes import Started, eventually

SERVICE = "users"
TIMING = Timing(probe=0.4, probe_limit=1.0, catch_up=0.3, recheck=0.5, hold=1.5, backoff_limit=0.3)
"""Shorter than in earnest, in the same proportions."""
SLOW = msgspec.structs.replace(TIMING, hold=12.0)
"""For servers that take seconds to hear of everybody after a start, on a busy machine ten."""


class Owner(Protocol):
    """Who has registered something that is bound to it."""

    async def renew(self) -> None:
        """Say that it is alive, also after an outage."""

    async def leave(self) -> None:
        """End without a word."""


ROWS: Mapping[str, str] = {
    "down": "down at the start",
    "restart": "killed, and back with its data",
    "owners": "down for three lives of a lease; some owners come back",
    "expiry": "most leases end together, and the instances answer",
    "wiped": "back without its data",
    "leader": "its leader dies, then the majority",
    "rights": "rights to read are taken away",
    "silence": "connections live, nobody answers",
    "empty": "an answer names nobody",
    "partial": "an answer names a part",
    "lag": "an answer is older than one before",
    "garbage": "an answer is something else",
    "cut": "an answer ends in the middle",
    "huge": "an answer has 16 MiB",
    "burst": "300 instances come at once",
    "purpose": "instances drain, move to another port, leave",
}
"""What happens to a registry, for each of which there is a drill."""

LIES = ("empty", "partial", "garbage", "cut", "huge")
"""Rows that `Drilled.lie` makes."""


def rows(reason: str, *names: str) -> dict[str, str]:
    """These rows cannot be drilled, for this reason."""
    return dict.fromkeys(names, reason)


TRUTHFUL = rows("a real one tells the truth", *LIES, "lag")
UNLED = rows("there is no leader", "leader")
UNORDERED = rows("nothing tells an older answer from a newer one", "lag")
ONE = rows("one server: see THREE", "leader")
THREE = ("etcd", "consul", "zookeeper")
"""Types of which three servers are drilled, each in a test of its own."""


class Drilled(Started, ABC):
    """Owns one registry, real or scripted. All instances are of `SERVICE`."""

    server: Any
    """The one that is harmed; its own end throws the data away."""
    type: ClassVar[str]
    asked: ClassVar[bool] = False
    """Whether the registry is asked for everything, and so can only lack somebody."""
    at_once: ClassVar[bool] = True
    """Whether its first answer after a start names all that it knows then."""
    tells_purpose: ClassVar[bool] = True
    """Whether it says of those who left that they did so on purpose."""
    missing: ClassVar[str] = ""
    """The program that is not on this machine."""
    lacks: ClassVar[Mapping[str, str]] = {}
    """Row of `ROWS` → why there is no such drill for it."""
    drained: ClassVar[str] = "draining"
    """Word of an instance that is taken out without being deregistered; "" = there is none."""
    timing: ClassVar[Timing] = TIMING
    real: ClassVar[bool] = False
    address = "10.0.0.1"
    """Of all instances, where they may share one."""
    port = other_port = 8080
    """Of all instances of which nothing else is said."""
    ttl: ClassVar[float] = 0.0
    """Seconds that bound registrations outlive their owner."""

    def options(self) -> RegistryOptions:
        """Keys of the provider."""
        options: RegistryOptions = registry_options(self.type)(endpoints=(self.server.url,))
        return options

    def writing(self) -> RegistryOptions:
        """Keys of a registrar."""
        return self.options()

    async def start(self) -> None:
        """On the same address and data as before, if there was a before."""
        await self.server.start()

    async def kill(self) -> None:
        """At once; again is no error."""
        await self.server.kill()

    def wipe(self) -> None:
        """Throw the data away. The server must not run."""
        self.server.wipe()

    def pause(self) -> None:
        """Connections stay, nobody answers."""
        self.server.pause()

    def resume(self) -> None:
        """Answer again."""
        self.server.resume()

    def record(self, port: int, status: str = "healthy") -> str:
        """An instance as a registrar of ours writes it."""
        health = {"status": status}
        return json.dumps({"address": self.address, "port": port, "health": health})

    async def register(self, *ids: str, port: int = 0, status: str = "healthy") -> None:
        """Register, or state again."""
        await self._register(ids, port or self.port, status)

    @abstractmethod
    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None: ...

    @abstractmethod
    async def deregister(self, id_: str) -> None:
        """On purpose."""

    async def take_rights(self) -> None:
        """Whoever asks may not see the instances any more."""
        raise NotImplementedError

    async def give_rights(self) -> None:
        """Undo that."""
        raise NotImplementedError

    async def register_bound(self, id_: str, port: int = 0) -> Owner:
        """Register under a lease or session, which lives as long as it is renewed."""
        return await self._register_bound(id_, port or self.port)

    async def _register_bound(self, id_: str, port: int) -> Owner:
        raise NotImplementedError

    async def lie(self, kind: str) -> None:
        """Answer with something that is not the truth: `empty`, `partial`, `garbage`, `cut` in the
        middle, `huge`; or "" = the truth again."""
        raise NotImplementedError

    async def go_back(self) -> None:
        """Answer as a member does that lags behind what was told already."""
        raise NotImplementedError

    def provider(self) -> Provider:
        kind = load(PROVIDERS, self.type)
        built: Provider = kind(self.options(), timing=self.timing, rng=random.Random(7))
        return built

    def watched(self) -> Watched:
        return Watched(self.provider())

    async def __aexit__(self, *exc: object) -> None:
        self.resume()
        await self.kill()
        await self.server.__aexit__()


class Scripted(Drilled):
    """A scripted one: its server says what it is told to."""

    path: ClassVar[str] = "/"
    """Beginning of the paths on which it lies."""
    rights: ClassVar[tuple[str, Any, Any]]
    """Attribute of the server; its value while instances may be seen, and while they may not."""

    async def take_rights(self) -> None:
        name, _, taken = self.rights
        setattr(self.server, name, taken)

    async def give_rights(self) -> None:
        name, given, _ = self.rights
        setattr(self.server, name, given)

    async def lie(self, kind: str) -> None:
        body = self._body(kind)
        self.server.cut = kind == "cut"
        self.server.lies = {} if body is None else {self.path: body}

    def _body(self, kind: str) -> bytes | None:
        if kind in ("empty", "partial"):
            return json.dumps(self.first(("empty", "partial").index(kind))).encode()
        return garbled(kind) if kind in ("garbage", "huge") else None

    def first(self, number: int) -> object:
        """The document of an answer that names so many instances."""
        raise NotImplementedError


class Listed(Drilled):
    """One that is told all instances anew when one of them changes."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def wipe(self) -> None:
        self.known.clear()
        self.write()

    async def _register(self, ids: tuple[str, ...], port: int, status: str) -> None:
        self.known |= {id_: self.entry(id_, port, status) for id_ in ids}
        self.write()

    async def deregister(self, id_: str) -> None:
        del self.known[id_]
        self.write()

    def entry(self, id_: str, port: int, status: str) -> Any:
        """What is told of an instance."""
        return {"id": id_, "address": self.address, "port": port, "health": status}

    @abstractmethod
    def write(self) -> None:
        """Tell of all that are `known`."""


def garbled(kind: str) -> bytes:
    """An answer that is something else, or has 16 MiB."""
    return b"<html>Bad gateway</html>" if kind == "garbage" else b"[" + b" " * 2**24 + b"]"


IDS: dict[str, str] = {}
"""Address → the id that a drill gave to the instance there, where others are not told."""


def id_of(instance: Instance) -> str:
    """The id that a drill gave it, which is a part of the one in registries that make theirs, or
    stands for the address."""
    return IDS.get(instance.address) or instance.id.rpartition("#")[2]


class Watched:
    """Owns a provider while it is watched, and remembers every membership that it yielded."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.memberships: list[Membership] = []
        self._task: asyncio.Task[None] | None = None

    async def _watch(self) -> None:
        async for membership in self.provider.watch():
            self.told(membership)

    def told(self, membership: Membership) -> None:
        """The provider yields this."""
        self.memberships.append(membership)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        await self.provider.close()
        await self._task

    @property
    def status(self) -> RegistryStatus:
        return self.provider.status()

    @property
    def pool(self) -> tuple[Instance, ...]:
        return self.memberships[-1].services.get(SERVICE, ()) if self.memberships else ()

    async def answers(self) -> None:
        """Clients, where there are any, have got answers meanwhile."""

    async def quiet(self) -> None:
        """Have clients stop: from here on there may be nobody to answer them."""

    def ids(self) -> set[str]:
        return set(self.by_id())

    def by_id(self) -> dict[str, Instance]:
        """The pool by the ids of the drills."""
        return {id_of(one): one for one in self.pool}

    async def has(self, *ids: str) -> None:
        """The pool becomes these."""
        await eventually(lambda: self.ids() == set(ids), 15.0, lambda: (self.ids(), self.status))
        await self.answers()

    async def connects(self) -> None:
        await eventually(lambda: self.status.connected, 15.0, lambda: self.status)
        await self.answers()

    async def doubts_it(self) -> None:
        """The registry's answer is not believed, is none, or has nothing that can be read."""

        def doubts() -> bool:
            status = self.status
            return bool(not status.connected or status.resyncs or status.invalid)

        await eventually(doubts, 15.0, lambda: self.status)
        await self.answers()

    async def loses_it(self) -> str:
        """The registry is lost; why."""
        await eventually(lambda: not self.status.connected, 15.0, lambda: self.status)
        error: str = await eventually(lambda: self.status.last_error)
        await self.answers()
        return error

    def since(self, number: int) -> Iterable[set[str]]:
        """Ids in each membership from the one with this number on."""
        return [
            set(map(id_of, membership.services.get(SERVICE, ())))
            for membership in self.memberships[number:]
        ]
