"""The proxy inside an asyncio program ([docs/embedding.md](../docs/embedding.md)).

    async with Proxy({"routes": [{"path_prefix": "/", "service": "app"}]}) as proxy:
        print(proxy.addresses["web"])

What `fairlead run` does in its control process happens in the program's loop, with its one worker
as well, or with worker processes beside it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from msgspec.structs import replace

from proxy.control.inside import InsideLaunch
from proxy.control.openings import StartError
from proxy.control.process import Host, serve
from proxy.control.signals import Signals
from proxy.settings.file import Settings
from proxy.settings.load import load, parse

if TYPE_CHECKING:
    from aiohttp import web

    from proxy.control.admin import Admin
    from proxy.control.supervisor import Supervisor

START_LIMIT = 30.0
"""Seconds for all workers to accept: that takes half of one, and five more while no registry
answers."""

Given = Settings | Mapping[str, Any] | str | os.PathLike[str]


class Proxy:
    """Owns a proxy from the beginning of its `async with` to the end, where it stops gently: with
    `shutdown` of its settings."""

    def __init__(self, settings: Given, *, workers: int = 0) -> None:
        """`settings`: a file's name; or what such a file would hold, as a mapping, in which the
        admin server is on a free port of loopback unless it says otherwise; or `Settings`.
        `workers`: processes beside this one; 0 = one worker in this very loop. ConfigError with
        every complaint."""
        found = _settings(settings)
        self._settings = replace(found, workers=workers or 1, user="")
        self._inside = workers == 0
        self._signals: Signals
        self._life: asyncio.Task[int] | None = None
        self._admin: Admin | None = None
        self._supervisor: Supervisor | None = None

    async def __aenter__(self) -> Self:
        """Return when it accepts connections. StartError when it cannot, for a port that is taken,
        say; RuntimeError when it was started before."""
        if self._life is not None:
            raise RuntimeError("this proxy was started before: make another one")
        up = asyncio.Event()

        def on_up(supervisor: Supervisor, admin: Admin) -> None:
            self._supervisor, self._admin = supervisor, admin
            up.set()

        self._signals = Signals()
        launch = InsideLaunch if self._inside else None
        life = serve(self._settings, self._signals, host=Host(on_up), launch=launch)
        self._life = asyncio.create_task(life)
        try:
            await self._first(up.wait())
            assert self._supervisor is not None
            await self._first(self._supervisor.collector.until(self._accepts, START_LIMIT))
            if not self._accepts():
                raise StartError("; ".join(self._supervisor.missing()))
        except BaseException:
            await self._stop(at_once=True)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()

    def _accepts(self) -> bool:
        assert self._supervisor is not None
        slots = self._supervisor.workers
        return all(one.current is not None and one.current.accepting for one in slots)

    async def _first(self, waiting: Any) -> None:
        """Wait for this, unless the proxy ends before: that raises what it ended by."""
        assert self._life is not None
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait((task, self._life), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
        if self._life.done():
            raise StartError(f"ended with {self._life.result()}")

    async def _stop(self, at_once: bool = False) -> None:
        life = self._life
        assert life is not None
        self._signals.first.set()
        if at_once:
            self._signals.second.set()
        try:
            await asyncio.wait([life])
        except asyncio.CancelledError:
            self._signals.second.set()
            await asyncio.wait([life])
            raise
        if not at_once and not life.cancelled() and life.exception() is not None:
            life.result()

    async def failed(self) -> None:
        """Return when the proxy has ended by itself, for an error that the log has."""
        assert self._life is not None
        await asyncio.wait([self._life])

    @property
    def addresses(self) -> dict[str, str]:
        """Name of each listener → where it listens: `host:port`, `[v6]:port` or `unix:/path`, with
        the real port where 0 was asked for."""
        assert self._supervisor is not None, "the proxy has not started"
        return {one.name: one.address for one in self._supervisor.crew.listeners.current}

    @property
    def admin_address(self) -> str:
        """Where the admin server listens."""
        assert self._admin is not None, "the proxy has not started"
        host, port = self._admin.sock.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def admin_app(self, *, may_change: bool = False) -> web.Application:
        """The admin API and the dashboard, to be added to an application of the program's, with
        `add_subapp`: who may ask is for that to decide. `may_change`: drains, reloads and the like
        without a token; with `admin.token` set that is asked for in either case."""
        from proxy.control.admin_app import admin_app  # Half of aiohttp, which few need.

        assert self._admin is not None, "the proxy has not started"
        return admin_app(self._admin, may_change)


def _settings(given: Given) -> Settings:
    if isinstance(given, Settings):
        return given
    if isinstance(given, Mapping):
        whole = {"admin": {"bind": "127.0.0.1:0"}, **given}
        # JSON is YAML, so that complaints name places as they do for a file.
        return parse(msgspec.json.encode(whole).decode(), "settings", os.environ)
    return load(Path(given), os.environ)
