"""A proxy among others: what all of them drain, and who is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

import proxy
from proxy.control.fleet_share import Rate
from proxy.control.pools import PoolRegistry
from proxy.control.reactions import id_in
from proxy.control.shared_config import proxy_id
from proxy.control.statistics import Reported
from proxy.control.supervisor import Supervisor
from proxy.fleet import marks
from proxy.fleet.config import digest
from proxy.fleet.shares import ejected_by_most
from proxy.registry.base import RegistryError
from proxy.registry.etcd.wire import KeyValue
from proxy.settings.file import Settings
from proxy.settings.fleet import etcd_of
from proxy.settings.registry import RegistryOptions
from proxy.waiting import ended

if TYPE_CHECKING:
    from proxy.fleet.store import Store

log = structlog.get_logger()

CALL_LIMIT = 4.0
"""Seconds for what an operator asks of etcd: less than the command line waits."""
PAUSE = 10.0
"""Seconds until everything begins again after an error of ours."""
EJECTED = 50
"""Ejected instances that are told to the fleet: with more the trouble is this proxy's own."""
LOOK_EVERY = 1.0
"""Seconds between two looks at whether marks have run out, or their instances have gone."""


class NoFleet(Exception):
    """A fleet cannot be asked. The text is one line for people."""


class Fleet:
    """Owns the marks as they are obeyed here, and the tasks that follow them and keep this proxy on
    the list."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._source: tuple[RegistryOptions, str] | None = None
        self._task: asyncio.Task[None] | None = None
        self._held: Mapping[bytes, KeyValue] = {}
        self._absences = marks.Absences()
        self.marks: marks.Marks = {}
        self.error = ""
        self._rate = Rate()

    def follow(self) -> None:
        """Go by the settings that are in force."""
        source = _source(self._supervisor.settings)
        if source == self._source:
            return
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._source = source
        if source is None:
            self._obey({})
            self._supervisor.share.leave()
        else:
            self._task = self._supervisor.own(self._run(source), "fleet")

    def leave(self) -> None:
        """Be on the list no more: a successor of the same id takes over."""
        if self._task is not None:
            self._task.cancel()

    async def mark(self, service: str, id_: str, on: bool, by: str) -> None:
        """Have an instance drained by all proxies, or no more. NoFleet."""
        from proxy.registry.etcd.gateway import delete_op, put_op

        key = marks.key_of(service, id_)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        value = msgspec.json.encode(marks.Mark(by, at))
        write = put_op(key, value, 0) if on else delete_op(key)
        await self._call(lambda store: store.call(lambda gateway: gateway.txn((), [write])))

    async def document(self) -> dict[str, Any]:
        """`GET /api/v1/fleet`. NoFleet."""
        from proxy.fleet.presence import listed

        proxies = await self._call(listed)
        return {
            "id": proxy_id(self._supervisor.settings),
            "proxies": proxies,
            "ejected_by_most": ejected_by_most(proxies),
            "share": self._supervisor.share.value,
            "marks": [
                {"service": service, "instance": id_, "by": one.by, "at": one.at,
                 "until": one.until}
                for (service, id_), one in sorted(self.marks.items())
            ],
            "error": self.error,
        }  # fmt: skip

    async def _call(self, work: Any) -> Any:
        if self._source is None:
            raise NoFleet("this proxy has neither `config` nor `fleet` in its file")
        store = _store(self._source[0])
        try:
            async with asyncio.timeout(CALL_LIMIT):
                return await work(store)
        except (RegistryError, TimeoutError) as error:
            raise NoFleet(f"etcd: {error or f'no answer within {CALL_LIMIT:g} s'}") from None
        finally:
            await store.close()

    # ------------------------------------------------------------------------- private

    async def _run(self, source: tuple[RegistryOptions, str]) -> None:
        while True:
            await self._live(source)
            await asyncio.sleep(PAUSE)

    async def _live(self, source: tuple[RegistryOptions, str]) -> None:
        """Returns when something has failed that must not."""
        from proxy.fleet.presence import Presence, listed
        from proxy.registry.etcd.gateway import prefix_end

        follower, writer = _store(source[0]), _store(source[0])
        presence = Presence(writer, source[1], self._said)
        start = marks.PREFIX.encode()
        tasks = [
            asyncio.create_task(work)
            for work in (
                follower.follow(start, prefix_end(start), self._take, self._state),
                presence.run(),
                self._supervisor.share.run(
                    source[1], lambda: self._supervisor.settings, lambda: listed(writer)
                ),
                self._look(writer),
            )
        ]
        try:
            await asyncio.gather(*tasks)
        except Exception as error:
            # A bug here must not end a proxy that serves.
            log.exception("fleet_failed")
            self.error = f"{type(error).__name__}: {error}"
        finally:
            await ended(*tasks)
            try:
                async with asyncio.timeout(CALL_LIMIT):
                    await presence.end()
            except (RegistryError, TimeoutError) as error:
                log.info("fleet_presence_left_to_its_lease", error=str(error))
            await follower.close()
            await writer.close()

    async def _look(self, store: Store) -> None:
        from proxy.fleet.versions import Refused, Writes, write
        from proxy.registry.etcd.gateway import delete_op, revision_is

        supervisor = self._supervisor
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self._obey(marks.read(self._held, datetime.now(UTC)))
            if not (supervisor.pools.complete and supervisor.registry.connected):
                continue
            pools, now = supervisor.pools, time.monotonic()

            def is_there(service: str, id_: str, pools: PoolRegistry = pools) -> bool:
                return pools.named(service, id_) is not None

            for whom in self._absences.due(self.marks, is_there, now):
                key = marks.key_of(*whom)
                writes = Writes([revision_is(key, self.marks[whom].revision)], [delete_op(key)])
                try:
                    await write(store, writes)
                    log.info("mark_removed", instance="/".join(whom), reason="away for an hour")
                except (RegistryError, Refused) as error:
                    log.warning("mark_not_removed", instance="/".join(whom), error=str(error))

    def _take(self, held: Mapping[bytes, KeyValue]) -> None:
        self._held = dict(held)
        self._obey(marks.read(held, datetime.now(UTC)))

    def _state(self, error: str) -> None:
        if error and not self.error:
            log.warning("fleet_lost", error=error, effect="marks that are known are obeyed")
        self.error = error

    def _obey(self, now: marks.Marks) -> None:
        for whom in {*self.marks, *now}:
            if (mark := now.get(whom)) != self.marks.get(whom):
                self._supervisor.by_hand.mark(*whom, None if mark is None else mark.by)
        self.marks = now

    def _said(self) -> dict[str, Any]:
        supervisor = self._supervisor
        shared = supervisor.shared
        good = shared.good
        missing = supervisor.missing()
        processes = list(supervisor.crew.current())
        return {
            "admin": supervisor.settings.admin.advertise,
            "version": proxy.__version__,
            "config": None
            if good is None
            else {"revision": good.revision, "hash": digest(good.text), "canary": shared.canary,
                  "good": good == shared.newest},
            "ready": not missing,
            "missing": missing,
            "ejected": [
                f"{service}/{id_in(key)}"
                for service, one in supervisor.pools.overrides.items()
                for key in one.ejected
            ][:EJECTED],
            "load": {
                "requests": self._rate.at(
                    time.monotonic(), lambda: _requests(life.stats for life in processes)
                ),
                "connections": sum(life.stats.last.client_connections for life in processes),
                "tunnels": sum(life.stats.last.tunnels for life in processes),
            },
        }  # fmt: skip


def _requests(workers: Iterable[Reported]) -> int:
    services = (one for worker in workers for one in worker.services.values())
    return sum(sum(one.requests.values()) for one in services)


def _source(settings: Settings) -> tuple[RegistryOptions, str] | None:
    """The etcd of the fleet, and the id there; None if this proxy is in none."""
    if settings.config is None and settings.fleet is None:
        return None
    name = "" if settings.config is None else settings.config.registry
    registry = etcd_of(settings.registry, name)
    return None if registry is None else (registry.options, proxy_id(settings))


def _store(options: RegistryOptions) -> Store:
    from proxy.fleet.store import Store
    from proxy.registry.etcd.options import Options

    assert isinstance(options, Options)
    return Store(options)
