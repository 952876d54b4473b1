"""Sessions of TLS over several workers: a ticket of one is good at all."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.e2e.origin import Origin
from tests.e2e.secure import NAME, SecureProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = 4
CONNECTIONS = 200


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecureProxy]:
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin())
        config = {
            "workers": WORKERS,
            "services": {"s": {"instances": [origin.instance]}},
            "routes": [{"path_prefix": "/{service}"}],
        }
        proxy = SecureProxy(config, tmp_path_factory.mktemp("proxy"))
        yield await stack.enter_async_context(proxy)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_one_session_is_resumed_by_all_workers(
    proxy: SecureProxy,
    version: ssl.TLSVersion,
    record_property: Callable[[str, object], None],
) -> None:
    context = proxy.authority.client(minimum_version=version, maximum_version=version)
    async with await proxy.secure(context=context) as client:
        assert (await client.ask("GET", "/s/x", host=NAME)).status == 200
        assert client.tls.version() == version.name.replace("v1_", "v1.")
        session = client.tls.session
    resumed: Counter[str] = Counter()
    full: Counter[str] = Counter()
    for _ in range(CONNECTIONS):
        async with await proxy.secure(context=context, session=session) as client:
            answer = await client.ask("GET", "/s/x", host=NAME)
            worker = (answer["X-Request-ID"] or "").partition("-")[0]
            (resumed if client.tls.session_reused else full)[worker] += 1
    record_property("drill", f"resumed: {resumed.total()} of {CONNECTIONS}, {version.name}")
    assert len(resumed) == WORKERS, (resumed, full)
    assert resumed.total() >= 0.99 * CONNECTIONS, (resumed, full)
