"""Certificates are renewed under load, and nobody notices but by the certificate.

The files are looked at every five seconds, so each of these takes most of a minute. Handshakes go
on all the time; what is waited for is what `GET /api/v1/certificates` says, never a time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.e2e.origin import Origin
from tests.e2e.secure import NAME, SecureClient, SecureProxy
from tests.support.processes import eventually

HANDSHAKES = 10_000
LOOK = 20.0
"""Seconds in which files are looked at even where everybody has to wait: four times five."""


class Handshaking:
    """Owns threads that shake hands and part again, until they are stopped."""

    def __init__(self, port: int, context: ssl.SSLContext, threads: int = 3) -> None:
        self.seen: Counter[bytes] = Counter()
        """Certificate, as DER → handshakes."""
        self.failures: list[Exception] = []
        self._address = ("127.0.0.1", port)
        self._context = context
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with (
                    socket.create_connection(self._address, 20) as tcp,
                    self._context.wrap_socket(
                        tcp, server_hostname=NAME, suppress_ragged_eofs=False
                    ) as tls,
                ):
                    shown = tls.getpeercert(binary_form=True)
                    tls.unwrap()  # With the end of the other side: it has shaken hands, too.
            except OSError as error:
                self.failures.append(error)
            else:
                self.seen[shown or b""] += 1


class Renewing:
    """The files of a proxy's certificate, and what the proxy makes of them."""

    def __init__(self, proxy: SecureProxy) -> None:
        self.proxy = proxy
        self.current = self._der(proxy.cert)
        self._numbers = count()

    def make(self) -> tuple[Path, Path]:
        """A new pair, beside the files."""
        return self.proxy.authority.issue(NAME, "127.0.0.1", stem=f"next-{next(self._numbers)}")

    async def renew_by_halves(self, handshaking: Handshaking) -> None:
        """The certificate, a while in which it is there without its key, and the key."""
        cert, key = self.make()
        new = self._der(cert)
        generation = (await self.told())["generation"]
        os.replace(cert, self.proxy.cert)
        await eventually(self.problem, LOOK, "that the pair does not fit")
        assert await self.shown() == self.current
        assert new not in handshaking.seen
        os.replace(key, self.proxy.key)
        await self.in_effect(generation + 1)
        assert await self.shown() == new
        self.current = new

    async def renew_at_once(self, times: int) -> None:
        """Several times in a row: what is there in the end counts."""
        generation = (await self.told())["generation"]
        for _ in range(times):
            cert, key = self.make()
            new = self._der(cert)
            os.replace(cert, self.proxy.cert)
            os.replace(key, self.proxy.key)

        async def is_new() -> bool:
            return await self.shown() == new

        await eventually(is_new, LOOK, "the last certificate")
        # A look in between may have found another one.
        await self.in_effect(generation + 1)
        self.current = new

    async def renew_each_second(self, over: asyncio.Task[object]) -> int:
        """A new pair each second, the certificate a moment before its key, until something else is
        over; how many."""
        for number in count():
            if over.done():
                return number
            for new, old in zip(self.make(), (self.proxy.cert, self.proxy.key), strict=True):
                os.replace(new, old)
                await asyncio.sleep(0.05)
            await asyncio.wait([over], timeout=0.95)
        raise AssertionError

    async def renew_unwatched(self) -> None:
        """Once, with no connection of ours that would hold what was before."""
        generation = (await self.told())["generation"]
        cert, key = self.make()
        self.current = self._der(cert)
        os.replace(cert, self.proxy.cert)
        os.replace(key, self.proxy.key)
        await self.in_effect(generation + 1)

    async def break_and_mend(self) -> None:
        """A certificate that is none, and the old one again."""
        good = self.proxy.cert.read_bytes()
        self.proxy.cert.write_bytes(good[:100])
        await eventually(self.problem, LOOK, "that the certificate is none")
        assert await self.shown() == self.current
        self.proxy.cert.write_bytes(good)

        async def mended() -> bool:
            return not await self.problem()

        await eventually(mended, LOOK, "that it is one")

    async def told(self) -> dict[str, Any]:
        """What the admin server says of the listener."""
        status, body = await self.proxy.get("/api/v1/certificates")
        assert status == 200
        [listener] = body["listeners"]
        found: dict[str, Any] = listener
        return found

    async def contexts(self) -> set[int]:
        """How many generations a worker had when the last one came into effect."""
        return set((await self.told())["contexts"].values())

    async def problem(self) -> str:
        """What is wrong with the files."""
        [certificate] = (await self.told())["certificates"]
        problem: str = certificate["problem"]
        return problem

    async def idle(self) -> bool:
        """No worker has a connection of a client."""
        return not any(row["client_connections"] for row in await self.proxy.workers())

    async def in_effect(self, generation: int) -> None:
        """Wait until all workers have it, or a later one."""

        async def by_all() -> bool:
            return min((await self.told())["workers"].values()) >= generation

        await eventually(by_all, LOOK, f"generation {generation} in all workers")

    async def shown(self) -> bytes:
        """The certificate that a new connection gets."""
        async with await self.proxy.secure() as client:
            return client.tls.getpeercert(binary_form=True) or b""

    @staticmethod
    def _der(cert: Path) -> bytes:
        return ssl.PEM_cert_to_DER_cert(cert.read_text())


@pytest.fixture
async def renewing(tmp_path: Path) -> AsyncIterator[Renewing]:
    async with Origin() as origin:
        config = {
            "workers": 2,
            "services": {"s": {"instances": [origin.instance]}},
            "routes": [{"path_prefix": "/{service}"}],
        }
        async with SecureProxy(config, tmp_path, timeouts={"idle": "10m"}) as proxy:
            yield Renewing(proxy)


async def _kept(renewing: Renewing) -> list[SecureClient]:
    """Connections to both workers, which hold the generation of now."""
    clients: list[SecureClient] = []
    workers = set()
    while len(workers) < 2:
        client = await renewing.proxy.secure()
        clients.append(client)
        answer = await client.ask("GET", "/s/x", host=NAME)
        workers.add((answer["X-Request-ID"] or "").partition("-")[0])
    return clients


async def _ask(clients: list[SecureClient], stop: asyncio.Event) -> int:
    """Requests over connections that are kept, all answered."""
    asked = 0
    while not stop.is_set():
        for client in clients:
            assert (await client.ask("GET", "/s/x", host=NAME)).status == 200
            asked += 1
        await asyncio.sleep(0.01)
    return asked


@pytest.mark.drill
async def test_a_renewal_fails_no_handshake_and_ends_no_connection(
    renewing: Renewing, record_property: Callable[[str, object], None]
) -> None:
    proxy = renewing.proxy
    kept = await _kept(renewing)
    stop = asyncio.Event()
    asking = asyncio.create_task(_ask(kept, stop))
    with ExitStack() as stack:
        handshaking = stack.enter_context(Handshaking(proxy.https, proxy.authority.client()))
        await renewing.renew_by_halves(handshaking)
        await renewing.break_and_mend()
        await renewing.renew_at_once(5)
        await renewing.renew_by_halves(handshaking)
        alive = await renewing.contexts()
        stop.set()
        asked = await asking
    done = handshaking.seen.total()
    record_property("drill", f"renewal: {done} handshakes, {asked} requests on old connections")
    assert not handshaking.failures, handshaking.failures[:5]
    assert len(handshaking.seen) >= 3
    assert min(alive) > 1  # Those of `kept` are held by them.
    await _are_freed(renewing, kept)
    assert (await proxy.handshakes()).keys() == {"full"}
    assert "Traceback" not in proxy.log()


@pytest.mark.drill
@pytest.mark.timeout(700)
async def test_files_that_are_renewed_each_second_fail_no_handshake(
    renewing: Renewing, record_property: Callable[[str, object], None]
) -> None:
    proxy = renewing.proxy
    kept = await _kept(renewing)
    with Handshaking(proxy.https, proxy.authority.client()) as handshaking:
        enough = asyncio.create_task(
            eventually(lambda: handshaking.seen.total() >= HANDSHAKES, 600, "handshakes")
        )
        renewed = await renewing.renew_each_second(enough)
        await enough
    done, shown = handshaking.seen.total(), len(handshaking.seen)
    record_property("drill", f"{renewed} renewals: {done} handshakes, {shown} certificates")
    assert not handshaking.failures, handshaking.failures[:5]
    assert shown >= 3
    for client in kept:
        assert (await client.ask("GET", "/s/x", host=NAME)).status == 200
    await _are_freed(renewing, kept)
    assert (await proxy.handshakes()).keys() == {"full"}
    assert "Traceback" not in proxy.log()


async def _are_freed(renewing: Renewing, kept: list[SecureClient]) -> None:
    """Generations end with the connections that began under them."""
    for client in kept:
        await client.close()
    await eventually(renewing.idle, what="that the workers know of no connection")
    await renewing.renew_unwatched()
    assert await renewing.contexts() == {1}
