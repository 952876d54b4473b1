"""What scripted registries have in common: a server on a port that stays the same, which can be
down, silent, or say what no real one can be made to say."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from aiohttp import web

from tests.support.processes import free_port


class ScriptedRegistry(ABC):
    """Owns an HTTP server. `async with` starts it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lies: dict[str, bytes] = {}
        """Beginning of a path → the body that is answered with status 200 instead of the truth; the
        fields are the true ones."""
        self.cut = False
        """Answers end in the middle."""
        self.asked: list[str] = []
        """Paths with their queries."""
        self.socket: Path | None = None
        """Path to listen on instead of the port."""
        self.tls: ssl.SSLContext | None = None
        """Serve under TLS, at `https:`."""
        self.speaks = asyncio.Event()
        """Set while requests are answered."""
        self.speaks.set()
        self._grew = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    @abstractmethod
    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Tell the truth."""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        if self.socket is not None:
            await web.UnixSite(self._runner, self.socket).start()
        else:
            site = web.TCPSite(
                self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self.tls
            )
            await site.start()

    async def kill(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def pause(self) -> None:
        """Take requests and say nothing, not even to those that wait."""
        self.speaks.clear()

    def resume(self) -> None:
        self.speaks.set()

    async def told(self) -> None:
        """Wake those who wait for something to change."""
        async with self._grew:
            self._grew.notify_all()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        response = await self.answer(request)
        await self.speaks.wait()
        for beginning, body in self.lies.items():
            if request.path.startswith(beginning) and isinstance(response, web.Response):
                response.body = body
        if self.cut and isinstance(response, web.Response):
            whole = response.body
            assert isinstance(whole, bytes)
            partial = web.StreamResponse(headers=response.headers)
            partial.content_length = len(whole) + 1
            await partial.prepare(request)
            await partial.write(whole[: len(whole) // 2])
            assert request.transport is not None
            request.transport.close()
            return partial
        return response

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.resume()
        await self.kill()
