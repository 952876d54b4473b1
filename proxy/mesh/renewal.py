"""Leaves are renewed by the side-cars that have them: one asks with the leaf that it has, and gets
one for the same service.

    side-car ─ mTLS, POST /renew, a request for a new key ─▶ `fairlead ca serve`
             ◀─ leaf and roots ─
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import web

from proxy import files
from proxy.mesh.authority import LARGEST, Authority, Issued, keep, life_of, new_request
from proxy.tls.contexts import ServerPolicy, client_context, server_context
from proxy.tls.identity import service_of

log = structlog.get_logger()

OWN: Final = "ca"
"""The service that the authority is: nobody gets a leaf for it by renewal but itself."""
LEFT: Final = 1 / 3
"""Share of a life that is left when it is renewed: two more days of a week for somebody to look."""
PAUSE: Final = 10.0
LONGEST_PAUSE: Final = 600.0
"""Seconds after a failure, doubled up to that."""
LIMIT: Final = 15.0
"""Seconds for one renewal."""
LOOK: Final = 3600.0
"""Seconds after which the roots that clients are believed by are read again."""
CONNECTIONS: Final = 256
"""Of side-cars at a time; each asks once in hours."""


def due(begin: float, end: float, now: float) -> float:
    """Seconds until a certificate that is valid from `begin` to `end` is to be renewed."""
    return max(0.0, end - (end - begin) * LEFT - now)


def pause(failures: int) -> float:
    """Seconds after a failure that so many came before: a week of them in a row is no number of
    seconds that could still be doubled."""
    return min(PAUSE * 2.0 ** min(failures, 10), LONGEST_PAUSE)


class Renewal:
    """Owns the task that renews the files in a side-car's directory."""

    def __init__(self, directory: Path, url: str, domain: str) -> None:
        self._directory = directory
        self._url = url.rstrip("/")
        self._domain = domain
        self._failures = 0

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            try:
                cert = await asyncio.to_thread(self._read, "tls.crt")
                # A tenth earlier for some, so that a fleet does not come all at once.
                wait = due(*life_of(cert), time.time()) * random.uniform(0.9, 1.0)
                if wait == 0:
                    await self._renew()
                    self._failures = 0
                    # Not at once: by a clock that is ahead of the authority's, each new one is due.
                    wait = PAUSE
            except (OSError, ValueError) as error:
                wait = pause(self._failures)
                self._failures += 1
                reason = str(error) or type(error).__name__
                log.error("identity_not_renewed", url=self._url, error=reason, again_in=wait)
            await asyncio.sleep(wait)

    async def _renew(self) -> None:
        key, request = new_request()
        context = await asyncio.to_thread(self._context)
        async with asyncio.timeout(LIMIT):
            body = await self._ask(context, request)
        issued = msgspec.json.decode(body, type=Issued)
        await asyncio.to_thread(keep, self._directory, key, issued)
        end = life_of(issued.chain.encode())[1]
        log.info("identity_renewed", directory=str(self._directory), until=end)

    async def _ask(self, context: ssl.SSLContext, request: bytes) -> bytes:
        """The content of the answer. ValueError for any but 200."""
        parts = urlsplit(self._url)
        name = f"{OWN}.{self._domain}"
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port or 443, ssl=context, server_hostname=name, limit=LARGEST
        )
        try:
            peer = writer.get_extra_info("peercert") or {}
            if service_of(peer, self._domain) != OWN:
                raise ValueError(f"{self._url} is not the authority of {self._domain}")
            head = f"POST /renew HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n"
            writer.write(f"{head}Content-Length: {len(request)}\r\n\r\n".encode() + request)
            answer = b""
            while len(answer) < LARGEST and (piece := await reader.read(LARGEST)):
                answer += piece
        finally:
            writer.close()
        said, _, body = answer.partition(b"\r\n\r\n")
        status = said.partition(b"\r\n")[0].decode("latin-1")
        if " 200 " not in status:
            raise ValueError(f"{status}: {body[:200].decode('utf-8', 'replace')}")
        return body

    def _context(self) -> ssl.SSLContext:
        ca, cert, key = (self._read(one) for one in ("ca.crt", "tls.crt", "tls.key"))
        context = client_context(ca, cert, key, min_version="1.3")
        context.check_hostname = False  # It is a service, and that is asked for above.
        return context

    def _read(self, name: str) -> bytes:
        return files.read(str(self._directory / name), LARGEST)


class RenewalServer:
    """Owns the server that renews leaves for whoever shows one."""

    def __init__(self, directory: Path, look: float = LOOK) -> None:
        """`look`: see `LOOK`. ValueError for a directory without an authority."""
        self._directory = directory
        self._look = look
        self._domain = Authority(directory).domain
        self._context: tuple[str, float, ssl.SSLContext] | None = None

    async def serve(self, host: str, port: int, stop: asyncio.Event) -> None:
        """Until told to stop. OSError when it cannot listen."""
        application = web.Application(client_max_size=LARGEST)
        application.router.add_post("/renew", self._renew)
        runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await runner.setup()
        site: web.TCPSite | None = None
        try:
            while not stop.is_set():
                try:
                    context, wait = await asyncio.to_thread(self._prove)
                except (OSError, ValueError) as error:
                    if site is None:
                        raise
                    # As while a root is replaced. The leaf that is shown is good for hours.
                    log.error("authority_not_read", error=str(error), again_in=PAUSE)
                    wait = PAUSE
                else:
                    if site is not None:
                        await site.stop()
                    site = web.TCPSite(
                        *(runner, host, port),
                        ssl_context=context,
                        backlog=CONNECTIONS,
                        reuse_address=True,
                    )
                    await site.start()
                    log.info("authority_serving", address=f"{host}:{port}", domain=self._domain)
                try:
                    async with asyncio.timeout(wait):
                        await stop.wait()
                except TimeoutError:
                    pass
        finally:
            await runner.cleanup()

    def _prove(self) -> tuple[ssl.SSLContext, float]:
        """A context with a leaf of our own, and seconds until another one is needed."""
        authority = Authority(self._directory)
        key, request = new_request()
        issued = authority.sign(request, OWN)
        cert = issued.chain.encode()
        policy = ServerPolicy(
            min_version="1.3",
            client_ca=issued.roots.encode(),
            tickets=False,
            alpn=("http/1.1",),
        )
        context = server_context([_Pair(cert, key)], policy)
        return context, min(due(*life_of(cert), time.time()), self._look)

    async def _renew(self, request: web.Request) -> web.Response:
        peer = request.get_extra_info("peercert") or {}
        service = service_of(peer, self._domain)
        if not service or service == OWN:
            log.warning("renewal_refused", remote=request.remote, service=service)
            raise web.HTTPForbidden(text=f"the certificate names no service of {self._domain}")
        asked = await request.read()
        try:
            issued = await asyncio.to_thread(self._sign, asked, service)
        except ValueError as error:
            log.warning("renewal_refused", remote=request.remote, service=service, error=str(error))
            raise web.HTTPBadRequest(text=str(error)) from None
        log.info("renewed", service=service, remote=request.remote)
        return web.Response(body=msgspec.json.encode(issued), content_type="application/json")

    def _sign(self, asked: bytes, service: str) -> Issued:
        return Authority(self._directory).sign(asked, service)


class _Pair(msgspec.Struct, frozen=True):
    cert: bytes
    key: bytes
