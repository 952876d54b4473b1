"""Relays and their followers: real etcd, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import msgspec
import pytest

from proxy.registry.relay.frames import PATH, Frame, digest_of
from proxy.registry.relay.options import Options
from proxy.registry.relay.provider import RelayProvider
from tests.e2e.certificates import Authority
from tests.e2e.drilled import TIMING, Watched
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import origins
from tests.e2e.relay_in_front import RelayInFront
from tests.e2e.reloading import name
from tests.e2e.running import RunningProxy
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import eventually, free_port

RECORD = json.dumps({"address": "10.0.0.1", "port": 8080})


async def register(etcd: EtcdServer, *ids: str) -> None:
    async with EtcdClient(etcd.url) as client:
        await client.put_all({f"/services/users/{id_}": RECORD for id_ in ids})


class InOrder(Random):
    """Chance that leaves the first relay the first."""

    def shuffle(self, x: Any) -> None:
        """Change nothing."""


@asynccontextmanager
async def following(*urls: str, **options: Any) -> AsyncIterator[Watched]:
    provider = RelayProvider(Options(endpoints=urls, **options), timing=TIMING, rng=InOrder(7))
    async with Watched(provider) as seen:
        yield seen


async def test_a_follower_of_a_relay_that_stalls_goes_on_at_another_without_a_list() -> None:
    async with EtcdServer() as etcd, RelayInFront(etcd.url) as one, RelayInFront(etcd.url) as two:
        await register(etcd, "a", "b")
        async with TcpFault(one.port) as way, following(way.url) as alone:
            await alone.has("a", "b")
            way.freeze()
            await alone.loses_it()
            way.thaw()
            await alone.connects()
            assert alone.status.resyncs == {}
        async with TcpFault(one.port) as way, following(way.url, two.url) as seen:
            await seen.has("a", "b")
            await seen.connects()
            followed = seen.status.endpoint
            await (one if followed == way.url else two).kill()
            await register(etcd, "a", "b", "c")
            await seen.has("a", "b", "c")
            await eventually(
                lambda: seen.status.endpoint not in (None, followed), 20.0, lambda: seen.status
            )
            assert seen.status.resyncs == {}
            assert all({"a", "b"} <= ids for ids in seen.since(0))


async def test_a_follower_of_a_relay_that_is_restarted_is_told_what_changed_and_no_more() -> None:
    async with EtcdServer() as etcd, RelayInFront(etcd.url) as relay:
        ids = [f"i{number:03}" for number in range(200)]
        await register(etcd, *ids)
        async with TcpFault(relay.port) as way, following(way.url) as seen:
            await seen.has(*ids)
            await relay.kill()
            await seen.loses_it()
            moved = json.dumps({"address": "10.0.0.2", "port": 8080})
            async with EtcdClient(etcd.url) as client:
                await client.put("/services/users/i001", moved)
                await client.put("/services/users/new", RECORD)
                await client.delete("/services/users/i000")
            before, known = way.brought, len(seen.memberships)
            relay.start()
            await seen.has(*ids[1:], "new")
            assert seen.memberships[-1].services["users"][0].address == "10.0.0.2"
            await seen.connects()
            assert seen.status.resyncs == {}
            assert way.brought - before < 4_000 < 200 * len(RECORD), "bytes"
            assert {*ids[1:]} <= set.intersection(*seen.since(known)), "nobody else was ever away"


async def test_a_follower_does_not_go_back_with_a_relay_of_an_older_store() -> None:
    """But when nobody has the newer one any more, the older one is the truth."""
    async with EtcdServer() as etcd, EtcdServer() as old, AsyncExitStack() as stack:
        relay = await stack.enter_async_context(RelayInFront(etcd.url))
        other = await stack.enter_async_context(RelayInFront(old.url))
        await register(old, "x")
        await register(etcd, "a", "b")
        await register(etcd, "a", "b")
        async with following(relay.url) as first:
            await first.has("a", "b")
        async with following(relay.url, other.url) as seen:
            await eventually(lambda: seen.memberships, 20.0, lambda: seen.status)
            assert seen.ids() == {"a", "b"}
            await relay.kill()
            await seen.loses_it()
            assert "older than" in await eventually(
                lambda: "older than" in str(seen.status.last_error) and seen.status.last_error
            )
            assert seen.ids() == {"a", "b"}
            relay.start()
            await seen.connects()
            assert len(seen.memberships) == 1
            await relay.kill()
            await seen.has("x")
            assert {"a", "b", "x"} in seen.since(0), "what is not believed at once is retained"


async def test_a_follower_that_does_not_read_is_cut_and_costs_no_memory() -> None:
    async with EtcdServer() as etcd, RelayInFront(etcd.url, write_limit=0.5) as relay:
        big = {"address": "10.0.0.1", "port": 1, "metadata": {"text": "x" * 30_000}}
        async with EtcdClient(etcd.url) as client:
            for start in range(0, 400, 20):
                await client.put_all(
                    {
                        f"/services/users/{number}": json.dumps(big)
                        for number in range(start, start + 20)
                    }
                )
        async with following(relay.url) as seen:
            await eventually(lambda: len(seen.ids()) == 400, 20.0, lambda: seen.status)
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port, limit=1024)
            writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert await reader.readuntil(b"\r\n\r\n")
            await eventually(lambda: relay.cut("slow") == 1, 20.0, relay.samples)
            writer.transport.abort()
            await register(etcd, "more")
            await eventually(lambda: "more" in seen.ids(), 20.0, lambda: seen.status)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/memberships HTTP/1.1\r\nHost: x\r\n\r\n", b"401"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n", b"404"),
        (b"DELETE /v1/alive HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n", b"404"),
        (b"GET /v1/alive HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n", b"200"),
    ],
)
async def test_a_relay_tells_nobody_who_has_no_token(sent: bytes, status: bytes) -> None:
    async with EtcdServer() as etcd, RelayInFront(etcd.url, token="secret") as relay:
        async with following(relay.url, token="secret") as seen:
            await seen.connects()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(sent)
        assert (await reader.readline()).split()[1] == status
        writer.close()


def frame(put: tuple[str, ...] = (), digest: str = "", **more: Any) -> bytes:
    """A line of somebody who says he is a relay. Without a digest, one that is true."""
    records = [("users", id_, RECORD.encode()) for id_ in put]
    told = [(service, id_, msgspec.Raw(record)) for service, id_, record in records]
    fields = {"cluster": "c", "revision": 9, "digest": digest or str(digest_of(records)), **more}
    return msgspec.json.encode(Frame(put=tuple(told), **fields)) + b"\n"


LIES = {
    "no JSON": b"<html>\n",
    "no UTF-8": b'{"cluster": "\xff"}\n',
    "no end": b'{"x": ' + b"[" * 5000 + b"\n",
    "a change that is none": frame(("x",), digest="0" * 32),
    "parts that are none": frame(("x",), digest="0" * 32, parts=(1, 2)),
    "parts of nobody": frame(("x",), digest="0" * 32, parts=(-1, 10**12)),
    "a list that is another": frame(("x",), digest="0" * 32, full=True),
    "a list without an end": frame(("x",), full=True, more=True),
    "a line without end": b"x" * (17 * 2**20),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_follower_of_a_relay_that_lies_keeps_what_it_knows(lie: str) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The truth to who asks first, lies to all others."""
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.write(frame(("a", "b"), full=True) if asked == 1 else LIES[lie])
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with following(url) as seen:
            await seen.has("a", "b")
            await eventually(lambda: asked > 3, 20.0, lambda: seen.status)
            assert not seen.status.connected
            assert seen.ids() == {"a", "b"}, seen.status


async def test_a_proxy_follows_another_under_tls_and_says_so(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("localhost")
    port = free_port()
    async with (
        origins("one", "two", script=name) as (one, two),
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
    ):
        await client.put("/services/users/one", json.dumps(one.instance))
        route = {"routes": [{"path_prefix": "/", "service": "users"}]}
        relay: Mapping[str, Any] = {
            "bind": f"127.0.0.1:{port}",
            "token": "secret",
            "tls": {"cert": str(cert), "key": str(key)},
        }
        direct = {"registry": {"type": "etcd", "endpoints": [etcd.url]}, "relay": relay, **route}
        registry = {
            "type": "relay",
            "endpoints": [f"https://localhost:{port}"],
            "token": "secret",
            "tls": {"ca": str(authority.ca)},
        }
        async with (
            RunningProxy(direct, tmp_path) as first,
            RunningProxy({"registry": registry, **route}, tmp_path) as second,
            aiohttp.ClientSession() as session,
        ):

            async def answers(text: str) -> bool:
                async with session.get(second.url) as answer:
                    return answer.status == 200 and await answer.text() == text

            await eventually(lambda: answers("one"), 20, "the first instance")
            page = (await first.get("/metrics"))[1]
            assert "fairlead_relay_followers 1.0" in page
            assert "fairlead_relay_up 1.0" in page
            await client.put("/services/users/one", json.dumps(two.instance))
            await eventually(lambda: answers("two"), 20, "the second instance")
            status = (await second.get("/api/v1/registry"))[1]
            assert status["provider"] == "relay"
            assert status["connected"]


async def test_a_relay_waits_for_its_address_and_a_follower_for_the_relay() -> None:
    """As after an upgrade in place, until the predecessor is gone."""
    async with EtcdServer() as etcd:
        await register(etcd, "a")
        predecessor = RelayInFront(etcd.url)
        successor = RelayInFront(etcd.url, port=predecessor.port)
        async with predecessor, following(predecessor.url) as seen:
            await seen.has("a")
            await seen.connects()
            async with successor:
                await predecessor.kill()
                await seen.loses_it()
                await seen.connects()
                # The digest was enough for the other one to go on from.
                assert seen.status.resyncs == {}
                await register(etcd, "a", "b")
                await seen.has("a", "b")
