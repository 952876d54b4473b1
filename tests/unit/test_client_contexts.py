"""TLS contexts for instances: made once, however many connections wait for one."""

from __future__ import annotations

import asyncio

import pytest

from proxy.engine.tls.client import ClientContexts
from proxy.errors import Refused
from proxy.settings.upstream_tls import UpstreamTls
from tests.support.tls_far_end import authority

POLICY = UpstreamTls(mode="on", ca="ca")


async def test_a_crowd_gets_one_context_and_who_gives_up_takes_it_from_nobody() -> None:
    contexts = ClientContexts(asyncio.get_running_loop())
    contexts.use({"ca": authority()[0]})
    crowd = [asyncio.create_task(contexts.get(POLICY)) for _ in range(50)]
    await asyncio.sleep(0)
    crowd.pop().cancel()
    found = await asyncio.gather(*crowd)
    assert len(set(map(id, found))) == 1
    contexts.use({"ca": authority()[0]})
    assert await contexts.get(POLICY) is not found[0]


async def test_a_file_that_is_not_there_yet_is_asked_for_again() -> None:
    contexts = ClientContexts(asyncio.get_running_loop())
    with pytest.raises(Refused):
        await contexts.get(POLICY)
    contexts.use({"ca": authority()[0]})
    assert await contexts.get(POLICY)
