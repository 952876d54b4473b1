"""`fairlead sidecar`: a proxy and a registration beside a program.

    the proxy accepts ─▶ start the command ─▶ register, check ─┬─ it ends: deregister
                                                               └─ SIGTERM: drain, deregister,
                                                                  take no more calls,
                                                                  stop the command
                                                                            └▶ stop the proxy

The program finds its way to others from its first line to its last: the proxy is the first to come
and the last to go.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from msgspec.structs import replace

from proxy import log as log_setup
from proxy.control.process import raise_file_limit, serve
from proxy.control.signals import Signals
from proxy.lean import load_aiohttp
from proxy.mesh import heap
from proxy.mesh.composition import INBOUND, MeshOptions, composed
from proxy.register.sidecar import GROUP_POLL, Sidecar, SidecarSettings
from proxy.settings.file import Settings
from proxy.waiting import ended

if TYPE_CHECKING:
    from proxy.control.supervisor import Supervisor
    from proxy.control.thread import ThreadLaunch
    from proxy.mesh.renewal import Renewal

log = structlog.get_logger()

SETTLED = 2.0
"""Seconds after which what a start has taken for a while is free: by then the registry and the
admin API are loaded, and the record is written."""

LAST_CALLS = 1.2
"""Seconds for which a connection that is idle when its listener goes, and whoever waits to be
accepted, may still ask: `LAST_CALL` and `LAST_ACCEPTS` of the engine."""

LAST_ANSWERS = 5.0
"""Seconds for what is under way before the command is stopped, which may let it finish as well."""


class MeshSidecar(Sidecar):
    """Owns the proxy beside the registration, and the order in which they end."""

    def __init__(
        self,
        settings: SidecarSettings,
        proxy: Settings,
        file: Path | None,
        shape: Callable[[Settings], Settings],
        renewal: Renewal | None = None,
    ) -> None:
        """`file`: where the settings of the proxy come from, and are read again; `shape`: what is
        made of them then."""
        self._renewal = renewal
        load_aiohttp()  # Before the registration does.
        super().__init__(settings)
        self._proxy_settings = proxy
        self._file = file
        self._shape = shape
        self._signals = Signals()
        """Of the proxy; ours are told to it."""
        self._accepting = asyncio.Event()
        self._proxy: asyncio.Task[int] | None = None
        self._supervisor: Supervisor | None = None
        self._left = False

    async def run(self) -> int:
        """See `Sidecar.run`; StartError when the proxy cannot start. 1 if it failed."""
        self._proxy = asyncio.create_task(
            serve(
                self._proxy_settings,
                self._signals,
                self._file,
                shape=self._shaped,
                notify=self._on_notice,
                launch=_launch(),
                on_up=self._on_up,
            )
        )
        self._proxy.add_done_callback(self._on_proxy_end)
        renewing = None
        if self._renewal is not None:
            renewing = asyncio.create_task(self._renewal.run(), name="renewal of the identity")
        try:
            code = await super().run()
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
            self._signals.first.set()
            failed = await self._proxy
        return code or failed

    def _on_up(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def _shaped(self, read: Settings) -> Settings:
        settings = self._shape(read)
        return without_inbound(settings) if self._left else settings

    def _on_notice(self, text: str) -> None:
        if text.startswith("READY=1"):
            self._accepting.set()
            asyncio.get_running_loop().call_later(SETTLED, heap.trim)

    def _on_proxy_end(self, _: object) -> None:
        if not self._signals.first.is_set():
            log.error("sidecar_proxy_ended", effect="the command is stopped")
            self._accepting.set()
            self._leave.set()
            self._stop.set()

    async def _prepare(self) -> None:
        """See `Sidecar`."""
        await self._first(self._accepting)

    async def _serve(self) -> None:
        """See `Sidecar`. Who has not heard that this instance left calls on: better it finds nobody
        and asks another than that it finds a proxy whose program has ended."""
        await super()._serve()
        closing = asyncio.create_task(self._close_inbound(), name="end of the inbound listener")
        cut_short = asyncio.create_task(self._first(self._hurry))
        limit = LAST_CALLS + LAST_ANSWERS
        try:
            await asyncio.wait(
                (closing, cut_short), timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
            if closing.done():
                closing.result()
        finally:
            await ended(closing, cut_short)

    async def _close_inbound(self) -> None:
        """Take no more calls, and wait for those that are under way."""
        supervisor = self._supervisor
        if supervisor is None or self._signals.first.is_set():
            return
        self._left = True
        async with supervisor.turn:
            settings = without_inbound(supervisor.settings)
            generation = supervisor.config.generation + 1
            error = await supervisor.reconfigure(
                settings,
                replace(supervisor.config, generation=generation, listeners=settings.listeners),
                supervisor.certificates,
                [one for one in supervisor.crew.listeners.current if one.name != INBOUND],
                lambda: None,
            )
        if error:
            log.warning("inbound_not_closed", error=error)
            return
        log.info("inbound_closed")
        await asyncio.sleep(LAST_CALLS)
        program = f"{self._settings.record.service}:{INBOUND}"
        slots = [one.slot for one in supervisor.pools.by_service[program].members]
        # The board is memory that workers write to: nobody tells of it.
        while not all(map(supervisor.board.idle, slots)):  # noqa: ASYNC110
            await asyncio.sleep(GROUP_POLL)

    def _asked_to_stop(self, number: int) -> None:
        if self._hurry.is_set():
            self._signals.second.set()
        super()._asked_to_stop(number)

    def _pass_on(self, number: int) -> None:
        """See `Sidecar`; without a command SIGUSR1 is to deregister and go on, for whoever stops
        the program first and us last."""
        if number == signal.SIGUSR1 and self._command is None:
            log.info("leaving", signal="SIGUSR1")
            self._leave.set()
        else:
            super()._pass_on(number)

    def _reload(self) -> bool:
        """See `Sidecar`."""
        if self._file is None:
            return False
        self._signals.reload()
        return True


def without_inbound(settings: Settings) -> Settings:
    """The settings of a side-car that has left."""
    kept = tuple(one for one in settings.listeners if one.name != INBOUND)
    return replace(settings, listeners=kept)


def _launch() -> type[ThreadLaunch] | None:
    """A worker in a thread; where this process was given a seed for hashes, which clients may know
    as well, in a process."""
    if os.environ.get("PYTHONHASHSEED", "random") != "random":
        return None
    from proxy.control.thread import ThreadLaunch

    return ThreadLaunch


def run(settings: SidecarSettings, base: Settings, file: Path | None, options: MeshOptions) -> int:
    """Run a side-car to its end; the exit code. `base`: the settings of the file, or defaults.
    StartError when it cannot start."""
    log_setup.set_up(base.log)
    raise_file_limit()

    def shape(read: Settings) -> Settings:
        return composed(read, options)

    async def main() -> int:
        renewal = None
        if options.renew_from is not None:
            from proxy.mesh.renewal import Renewal  # Loads what writes certificates.

            renewal = Renewal(options.identity, options.renew_from, options.trust_domain)
        return await MeshSidecar(settings, shape(base), file, shape, renewal).run()

    # asyncio's own loop: no data goes through this one, and uvloop knows no process groups.
    return asyncio.run(main())
