"""Three real servers of Consul, of which the leader dies, and then one more."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from proxy.registry.consul.options import Options
from proxy.registry.consul.provider import ConsulProvider
from tests.e2e.consul_server import ConsulServer, missing
from tests.e2e.drill_traffic import Instances, Served
from tests.e2e.drilled import SERVICE, TIMING

pytestmark = [
    pytest.mark.drill,
    pytest.mark.skipif(bool(missing()), reason=f"there is no {missing()} on this machine"),
]


async def test_servers_that_lose_their_leader_and_their_quorum_lose_no_instance() -> None:
    servers: list[ConsulServer] = []
    for name in ("n1", "n2", "n3"):
        servers.append(ConsulServer(name=name, of=3, join=servers))
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_exit(server)
            server.launch()
        for server in servers:
            await server.serves()
        raft = await servers[0].get("/v1/status/leader")
        [leader] = [server for server in servers if raft.endswith(f":{server.raft}")]
        one, two = [server for server in servers if server is not leader]
        instances = await stack.enter_async_context(Instances())
        there = {"port": instances.ports[0], "Address": "127.0.0.1"}
        # Instances are of an agent's node, so theirs is one that lives.
        await one.register(SERVICE, "a", **there)
        await one.register(SERVICE, "b", **there)
        options = Options(endpoints=tuple(server.url for server in servers))
        async with Served(ConsulProvider(options, timing=TIMING)) as seen:
            await seen.has("a", "b")
            both = len(seen.memberships) - 1
            await leader.kill()
            await one.serves()
            await seen.connects()
            await one.register(SERVICE, "c", **there)
            await seen.has("a", "b", "c")
            await two.kill()
            await seen.loses_it()
            await two.start()
            await seen.connects()
            await one.deregister("a")
            await seen.has("b", "c")
            assert all("b" in ids for ids in seen.since(both))
