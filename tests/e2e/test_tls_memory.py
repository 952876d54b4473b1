"""What connections with TLS hold: some KiB when idle, and hardly more behind a download."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bench.processes import private_dirty
from tests.e2e.origin import Call, Origin
from tests.e2e.secure import NAME, SecureClient, SecureProxy

MIB = 1 << 20
WARM = 20
"""Connections that come and go before anything is counted."""
AT_A_TIME = 10


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[SecureProxy]:
    async def answer(call: Call) -> None:
        await call.reply(bytes(MIB) if call.tail == "large" else b"page")

    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin(script=answer))
        config = {
            "workers": 1,
            "services": {"s": {"instances": [origin.instance]}},
            "routes": [{"path_prefix": "/{service}"}],
        }
        more = {"timeouts": {"idle": "10m"}, "limits": {"handshakes": 100}}
        yield await stack.enter_async_context(SecureProxy(config, tmp_path, **more))


async def _open(proxy: SecureProxy, path: str, count: int) -> list[SecureClient]:
    """Connections that have had an answer, and stay."""
    room = asyncio.Semaphore(AT_A_TIME)
    context = proxy.authority.client()

    async def one() -> SecureClient:
        async with room:
            client = await proxy.secure(context=context)
            assert (await client.ask("GET", path, host=NAME)).status == 200
            return client

    return await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.drill
@pytest.mark.parametrize(
    ("path", "count", "most"), [("/s/page", 500, 24.0), ("/s/large", 200, 48.0)]
)
async def test_connections_hold_little(
    proxy: SecureProxy,
    path: str,
    count: int,
    most: float,
    record_property: Callable[[str, object], None],
) -> None:
    """nginx holds 15 KiB. What goes into a memory BIO at once it would keep: 250 KiB."""
    for client in await _open(proxy, path, WARM):
        await client.close()
    [worker] = await proxy.worker_pids()
    before = private_dirty([worker])
    clients = await _open(proxy, path, count)
    each = (private_dirty([worker]) - before) / 1024 / count
    record_property("drill", f"{each:.1f} KiB held by a connection with TLS behind {path}")
    for client in clients:
        await client.close()
    assert each <= most
