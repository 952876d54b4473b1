"""The relay: what this proxy's registry says, told to other proxies in answers without an end.

A follower costs what its connection holds, since what has changed is kept once for all of them. One
that does not read as fast as the registry changes is cut, and begins again with the whole list.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from time import monotonic

import structlog
from aiohttp import web

from proxy import catalog
from proxy.control.admin_connections import Connection, Door
from proxy.control.admin_tls import Files, SecureSite
from proxy.control.registry_watch import Own
from proxy.control.sockets import BindError, descriptors, listen_alone
from proxy.messages import BACKLOG
from proxy.registry.base import Provider
from proxy.registry.relay.frames import ALIVE, BEAT, PATH
from proxy.registry.relay.history import History
from proxy.settings.file import Settings
from proxy.settings.fleet import etcd_of
from proxy.settings.registry import RegistryOptions
from proxy.settings.relay import RelaySettings

log = structlog.get_logger()

FOLLOWERS = 2_000
"""Connections: each has some 12 KB of memory, at most 200 KB where it is slow, and a line a second
for 0.2 ms of the processor, so all take 0.4 of a core while nothing changes. Where there are more
proxies there are more relays."""
DESCRIPTORS = 4
"""At most one part in so many of the process's descriptors is for followers."""
WRITE_LIMIT = 10.0
"""Seconds for a follower to take what was sent to it; then it is cut."""
WRITE = 128 * 1024
"""Bytes that are written at a time, of many small changes."""
STALE = 8.0
"""Seconds since the registry last answered, after which nothing is told: it is asked every four."""
LOOK = 0.1
"""Seconds between two looks at when the registry last answered, however many followers ask."""
PAUSE = 0.5
"""Seconds between attempts to listen, as the predecessor of an upgrade goes away."""
FINISH = 0.5
"""Seconds for answers when the relay ends; streams have no end of their own."""

Build = Callable[[RegistryOptions], Provider]
Wanted = tuple[RelaySettings, RegistryOptions]


class Relay:
    """Owns what followers are told, the provider of it, and the task that serves them; all of it
    while there is a section `relay`."""

    def __init__(
        self,
        own: Own,
        files: Files,
        build: Build | None = None,
        *,
        stale: float = STALE,
        write_limit: float = WRITE_LIMIT,
    ) -> None:
        """`own` runs work; `files`: of the certificate in force; `build` builds a provider of the
        registry."""
        self._own = own
        self._files = files
        self._build = build or catalog.provider
        self._stale, self._write_limit = stale, write_limit
        self._wanted: Wanted | None = None
        self._task: asyncio.Task[None] | None = None
        self._history = History()
        self._grew = asyncio.Event()
        """Set, and replaced, when there is more to tell."""
        self._provider: Provider | None = None
        self._current, self._look = False, 0.0
        """Whether the registry answers, and until when on our clock that is taken for true."""
        self._door: Door | None = None
        self._followers = 0
        self._cut: Counter[str] = Counter({"slow": 0, "stale": 0, "refused": 0})

    def follow(self, settings: Settings) -> None:
        """Go by these settings, which are in force."""
        registry = None if settings.relay is None else etcd_of(settings.registry)
        wanted = None
        if settings.relay is not None and registry is not None:
            wanted = settings.relay, registry.options
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self.leave()
        if wanted is not None:
            self._task = self._own(self._run(*wanted), "relay")

    def leave(self) -> None:
        """Tell nobody anything any more; followers find another relay, or this proxy's successor at
        the same address."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        if self._wanted is None:
            return
        yield "fairlead_relay_up", {}, float(self._door is not None and self._is_current())
        yield "fairlead_relay_followers", {}, float(self._followers)
        for reason, count in self._cut.items():
            yield "fairlead_relay_cut_total", {"reason": reason}, count

    # -------------------------------------------------------------------------- serving

    async def _run(self, relay: RelaySettings, options: RegistryOptions) -> None:
        told = ""
        while True:
            try:
                await self._relay(relay, options)
            except BindError as error:
                if str(error) != told:  # Not at each attempt.
                    told = str(error)
                    log.warning("relay_not_listening", error=told)
            except Exception:
                # A bug here must not end a proxy that serves.
                log.exception("relay_failed")
            await asyncio.sleep(PAUSE)

    async def _relay(self, relay: RelaySettings, options: RegistryOptions) -> None:
        """Ends only by an exception."""
        sock = listen_alone(relay.bind)
        self._provider = self._build(options)
        self._history = History()
        self._look = 0.0

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            connection = request.protocol
            assert isinstance(connection, Connection)
            with connection.serving(request):
                return await self._answer(relay, connection, request)

        door = Door(answer, min(FOLLOWERS, descriptors() // DESCRIPTORS))
        site, server = None, None
        try:
            if relay.tls is not None:
                site = SecureSite(door, sock, self._files)
                site.start()
            else:
                loop = asyncio.get_running_loop()
                server = await loop.create_server(door, sock=sock, backlog=BACKLOG)
            self._door = door
            log.info("relay_listening", address=relay.bind)
            async for membership in self._provider.watch():
                self._history.take(membership, self._provider.status().cluster)
                self._grew.set()
                self._grew = asyncio.Event()
        finally:
            self._door = None
            if site is not None:
                await site.close()
            if server is not None:
                server.close()
            sock.close()
            for connection in [*door.guests.values()]:
                connection.end()
            await door.shutdown(FINISH)
            await self._provider.close()

    async def _answer(
        self, relay: RelaySettings, connection: Connection, request: web.BaseRequest
    ) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {relay.token}".encode()) and relay.token:
            self._cut["refused"] += 1
            return web.Response(status=401, text="the relay's token is needed")
        if request.method != "GET" or request.path not in (PATH, ALIVE):
            return web.Response(status=404, text=f"GET {PATH} is all there is")
        if not self._is_current():
            return web.Response(status=503, text="the registry does not answer")
        if request.path == ALIVE:
            return web.Response(body=self._history.beat())
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        connection.stream()
        self._followers += 1
        try:
            await response.prepare(request)
            asked = request.query
            reason = await self._tell(response, asked.get("from", ""), asked.get("parts", ""))
            self._cut[reason] += 1
            log.info("relay_follower_cut", peer=request.remote, reason=reason)
        except ConnectionError:
            log.debug("relay_follower_gone", peer=request.remote)
        except TimeoutError:
            self._cut["slow"] += 1
            log.warning("relay_follower_cut", peer=request.remote, reason="slow")
        finally:
            self._followers -= 1
        connection.end()
        return response

    async def _tell(self, response: web.StreamResponse, known: str, parts: str) -> str:
        """Tell a follower of everything after what it knows; the reason to stop."""
        history = self._history
        number = history.after(known) if known else None
        if number is None:
            number = history.next
            for piece in history.lead(parts) if parts else history.whole():
                await self._write(response, piece)
        elif number == history.next:
            await self._write(response, history.beat())
        while self._is_current():
            grew = self._grew
            frames = history.since(number, WRITE)
            if frames is None:
                return "slow"
            if frames:
                number += len(frames)
                await self._write(response, b"".join(frames))
                continue
            try:
                async with asyncio.timeout(BEAT):
                    await grew.wait()
            except TimeoutError:
                await self._write(response, history.beat())
        return "stale"

    async def _write(self, response: web.StreamResponse, piece: bytes) -> None:
        async with asyncio.timeout(self._write_limit):
            await response.write(piece)

    def _is_current(self) -> bool:
        """Whether the registry has told everything, and answered a moment ago."""
        if self._provider is None or not self._history.cluster:
            return False
        now = monotonic()
        if now >= self._look:
            age = self._provider.status().age
            self._current, self._look = age is not None and age < self._stale, now + LOOK
        return self._current
