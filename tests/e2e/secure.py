"""TLS by hand, for the client's end of an end-to-end test.

    async with await SecureClient.connect_to(port, authority.client()) as client:
        assert (await client.ask("GET", "/")).status == 200
        client.half_close()
        assert await client.said_end()

What asyncio's own TLS hides is what such tests are about: whether an end was said (close_notify),
an end in one direction, bytes in front of the handshake, the session.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.certificates import Authority
from tests.e2e.raw_http import LARGEST_HEAD, PATIENCE, Client
from tests.e2e.running import RunningProxy
from tests.support.processes import free_port

NAME = "www.example.com"


class Cut(ConnectionError):
    """The connection ended, and the peer had not said that it would."""


class SecureClient(Client):
    """Owns one client connection with TLS. Every step fails after `PATIENCE` seconds."""

    def __init__(
        self, tcp: Client, context: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None
    ) -> None:
        super().__init__(asyncio.StreamReader(limit=LARGEST_HEAD), tcp.writer)
        self.tcp = tcp
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=name, session=session
        )
        self._pump: asyncio.Task[None] | None = None

    @classmethod
    async def connect_to(
        cls,
        port: int,
        context: ssl.SSLContext,
        name: str | None = NAME,
        *,
        session: ssl.SSLSession | None = None,
        before: bytes = b"",
    ) -> Self:
        """Connect to a loopback port and shake hands. `before`: sent in front of that. Raises what
        OpenSSL does; `Cut` when the connection ends."""
        client = cls(await Client.connect(port), context, name, session)
        try:
            if before:
                await client.tcp.send(before)
            async with asyncio.timeout(PATIENCE):
                await client._shake()
        except BaseException:
            await client.tcp.close()
            raise
        client._pump = asyncio.create_task(client._receive())
        return client

    async def _shake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass
            finally:
                await self._flush()
            data = await self.tcp.reader.read(1 << 16)
            if not data:
                raise Cut("in the handshake")
            self._incoming.write(data)

    async def _receive(self) -> None:
        """Move what comes into `reader`, with the way it ends."""
        try:
            while True:
                try:
                    piece = self.tls.read(1 << 18)
                except ssl.SSLWantReadError:
                    await self._flush()
                    if data := await self.tcp.reader.read(1 << 18):
                        self._incoming.write(data)
                    else:
                        self._incoming.write_eof()
                    continue
                except ssl.SSLZeroReturnError:
                    piece = b""
                except ssl.SSLEOFError:
                    raise Cut("no close_notify") from None
                if not piece:
                    self.reader.feed_eof()
                    return
                self.reader.feed_data(piece)
        except OSError as error:  # of which ssl.SSLError is one
            self.reader.set_exception(error)

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self.tcp.send(data)

    async def send(self, data: bytes) -> None:
        """Send bytes under TLS."""
        view = memoryview(data)
        for start in range(0, len(view), 1 << 18):
            self.tls.write(view[start : start + (1 << 18)])
            await self._flush()

    def half_close(self) -> None:
        """Say that no more comes, under TLS and below it."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # The peer has not said it yet.
        self.writer.write(self._outgoing.read())
        self.writer.write_eof()

    async def close(self) -> None:
        """See `Client`."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        await self.tcp.close()

    async def said_end(self) -> bool:
        """True once the proxy has said its end, False if it was gone without; Violation if it says
        more."""
        try:
            return await self.is_closed() and self.reader.exception() is None
        finally:
            # Asked for, or asyncio would say that nobody did.
            self.reader.exception()


class SecureProxy(RunningProxy):
    """Owns a proxy with a listener `https`, which has a certificate for `NAME` and 127.0.0.1, and
    one `web` beside it, without TLS."""

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: Path,
        *,
        tls: Mapping[str, Any] | None = None,
        listeners: Mapping[str, Mapping[str, Any]] | None = None,
        environ: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        """`tls`: more of the listener's; `listeners`: others with the same, by name, and what they
        have; `tls` None = without. `more`: of `https`."""
        self.authority = Authority(directory)
        cert, key = self.authority.issue(NAME, "127.0.0.1")
        own = {"certificates": [{"cert": str(cert), "key": str(key)}], **(tls or {})}
        self.ports = {name: free_port() for name in ("web", "https", *(listeners or {}))}
        of: dict[str, dict[str, Any]] = {"web": {}, "https": {"tls": own, **more}}
        for name, one in (listeners or {}).items():
            of[name] = {**one}
            if one.get("tls", {}) is not None:
                of[name]["tls"] = {**own, **one.get("tls", {})}
            else:
                del of[name]["tls"]
        found = [
            {"name": name, "bind": f"127.0.0.1:{port}", **of[name]}
            for name, port in self.ports.items()
        ]
        super().__init__({"listeners": found, **config}, directory, environ=environ)
        self.port = self.ports["web"]
        self.cert, self.key = cert, key

    @property
    def https(self) -> int:
        """Port of the listener with TLS."""
        return self.ports["https"]

    async def secure(self, listener: str = "https", **options: Any) -> SecureClient:
        """A client of a listener that believes its authority. `options`: of `connect_to`."""
        context = options.pop("context", None) or self.authority.client()
        return await SecureClient.connect_to(self.ports[listener], context, **options)

    async def handshakes(self, listener: str = "https") -> dict[str, int]:
        """Result → handshakes of a listener's clients, as scraped."""
        _, text = await self.get("/metrics")
        return {
            sample.labels["result"]: int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "fairlead_tls_handshakes_total"
            and sample.labels["listener"] == listener
        }
