"""`fairlead sidecar`: a proxy and a registration beside a program.

    the proxy accepts ─▶ start the command ─▶ register, check ─┬─ it ends: deregister
                                                               └─ SIGTERM: drain, deregister,
                                                                  stop the command
                                                                            └▶ stop the proxy

The program finds its way to others from its first line to its last: the proxy is the first to come
and the last to go.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from proxy import log as log_setup
from proxy.control.forked import EarlyWorker, ForkedFirst
from proxy.control.launch import Launch, ProcessLaunch
from proxy.control.process import fill_standard_descriptors, raise_file_limit, serve
from proxy.control.signals import Signals
from proxy.mesh.composition import MeshOptions, composed
from proxy.register.sidecar import Sidecar, SidecarSettings
from proxy.settings.file import Settings

if TYPE_CHECKING:
    from proxy.mesh.renewal import Renewal

log = structlog.get_logger()


class MeshSidecar(Sidecar):
    """Owns the proxy beside the registration, and the order in which they end."""

    def __init__(
        self,
        settings: SidecarSettings,
        proxy: Settings,
        file: Path | None,
        shape: Callable[[Settings], Settings],
        renewal: Renewal | None = None,
        early: EarlyWorker | None = None,
    ) -> None:
        """`file`: where the settings of the proxy come from, and are read again; `shape`: what is
        made of them then; `early`: is to be the worker."""
        self._early = early
        self._renewal = renewal
        super().__init__(settings)
        self._proxy_settings = proxy
        self._file = file
        self._shape = shape
        self._signals = Signals()
        """Of the proxy; ours are told to it."""
        self._accepting = asyncio.Event()
        self._proxy: asyncio.Task[int] | None = None

    async def run(self) -> int:
        """See `Sidecar.run`; StartError when the proxy cannot start. 1 if it failed."""
        self._proxy = asyncio.create_task(
            serve(
                self._proxy_settings,
                self._signals,
                self._file,
                shape=self._shape,
                notify=self._on_notice,
                around=self._around,
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

    def _around(self, launch: ProcessLaunch) -> Launch:
        return launch if self._early is None else ForkedFirst(self._early, launch)

    def _on_notice(self, text: str) -> None:
        if text.startswith("READY=1"):
            self._accepting.set()

    def _on_proxy_end(self, _: object) -> None:
        if not self._signals.first.is_set():
            log.error("sidecar_proxy_ended", effect="the command is stopped")
            self._accepting.set()
            self._leave.set()
            self._stop.set()

    async def _prepare(self) -> None:
        """See `Sidecar`."""
        await self._first(self._accepting)

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
        if self._signals.on_reload is None:
            return False
        self._signals.on_reload()
        return True


def run(
    settings: SidecarSettings,
    base: Settings,
    file: Path | None,
    options: MeshOptions,
    early: EarlyWorker | None = None,
) -> int:
    """Run a side-car to its end; the exit code. `base`: the settings of the file, or defaults;
    `early`: is to be the worker. StartError when it cannot start."""
    fill_standard_descriptors()
    log_setup.set_up(base.log)
    raise_file_limit()

    def shape(read: Settings) -> Settings:
        return composed(read, options)

    async def main() -> int:
        renewal = None
        if options.renew_from is not None:
            from proxy.mesh.renewal import Renewal  # Loads what writes certificates.

            renewal = Renewal(options.identity, options.renew_from, options.trust_domain)
        return await MeshSidecar(settings, shape(base), file, shape, renewal, early).run()

    # asyncio's own loop: no data goes through this process, and uvloop knows no process groups.
    return asyncio.run(main())
