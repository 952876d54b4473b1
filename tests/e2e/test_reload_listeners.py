"""Listeners and workers that come, go and change in a running proxy: nobody is lost."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.changing import Crowd, Transfers, command
from tests.e2e.origin import Gate, Origin, origins
from tests.e2e.raw_http import Client, request
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

Listener = dict[str, Any]


def at(name: str, port: int, **more: Any) -> Listener:
    return {"name": name, "bind": f"127.0.0.1:{port}", **more}


class Changing:
    """Owns a proxy that serves one origin, and changes it."""

    def __init__(self, proxy: RunningProxy, origin: Origin) -> None:
        self.proxy = proxy
        self.origin = origin
        self.web = at("web", proxy.port)

    async def reload(self, **changed: Any) -> tuple[int, str]:
        """What `fairlead reload` returns and says when these keys have changed."""
        self.proxy.config.update(changed)
        self.proxy.file.write_text(json.dumps(self.proxy.config))
        return await command(self.proxy, "reload")

    async def becomes(self, *listeners: Listener, **changed: Any) -> None:
        """Change it to these listeners."""
        self.proxy.config.update(listeners=listeners or (self.web,), **changed)
        self.proxy.file.write_text(json.dumps(self.proxy.config))
        said = await self.post("reload")
        assert said["result"] == "changed", said

    async def post(self, what: str) -> dict[str, Any]:
        """Tell the admin server to do so; its answer."""
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.proxy.admin}/api/v1/{what}") as answer,
        ):
            said: dict[str, Any] = await answer.json()
            return said

    def descriptors(self) -> list[int]:
        """How many the control process and each worker have."""
        pids = (self.proxy.pid, self.proxy.control, *self.proxy.children())
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    def memory(self) -> int:
        """Resident KiB of all processes."""
        pids = (self.proxy.pid, self.proxy.control, *self.proxy.children())
        text = "".join(Path(f"/proc/{pid}/status").read_text() for pid in pids)
        return sum(map(int, re.findall(r"VmRSS:\s+(\d+) kB", text)))


@asynccontextmanager
async def changing(directory: Path, **more: Any) -> AsyncIterator[Changing]:
    async with origins("one") as (one,):
        config = {
            "workers": 2,
            "services": {"users": {"instances": [one.instance]}},
            "routes": [{"path_prefix": "/", "service": "users"}],
            **more,
        }
        async with RunningProxy(config, directory) as proxy:
            yield Changing(proxy, one)


async def served(port: int) -> bool:
    async with await Client.connect(port) as client:
        return (await client.ask("GET", "/")).status == 200


async def refused(port: int) -> bool:
    """Nobody listens any more."""
    try:
        client = await Client.connect(port)
    except ConnectionRefusedError:
        return True
    await client.close()
    return False


async def all_is_well(crowd: Crowd) -> None:
    """Nobody was lost or sent away, and all go on."""
    await crowd.served()
    await crowd.socket_echoes()
    assert crowd.failures == []
    assert crowd.sent_away == 0


async def test_listeners_come_and_go_beside_one_that_is_in_use(tmp_path: Path) -> None:
    async with changing(tmp_path) as on, Crowd(on.proxy.port, on.origin) as crowd:
        port = free_port()
        await on.becomes(on.web, at("more", port))
        assert await served(port)
        async with await Client.connect(port) as idle, await Client.connect(port) as busy:
            assert (await idle.ask("GET", "/")).status == 200
            await busy.send(request("GET", "/slow"))
            await eventually(
                lambda: sum(call.tail == "slow" for call in on.origin.calls) == 2, 5, "the request"
            )
            await on.becomes()
            assert await refused(port)
            assert await idle.is_closed()
            await all_is_well(crowd)
            await crowd.slow_ends()
            answer = await busy.answer()
            assert (answer.status, answer.closes) == (200, True)
            assert await busy.is_closed()
        await all_is_well(crowd)
    assert crowd.failures == []


async def test_remains_of_a_listener_are_cut_after_the_grace(tmp_path: Path) -> None:
    port = free_port()
    grace = {"delay": "0s", "grace": "300ms"}
    async with changing(tmp_path, shutdown=grace) as on:
        await on.becomes(on.web, at("more", port))
        async with Crowd(port, on.origin, kept=0, fresh=0) as left:
            await on.becomes()
            assert await left.slow.is_closed()
            assert await left.socket.is_closed()
        cut = '"event": "connections_cut_of_listener"'
        await eventually(lambda: cut in on.proxy.log(), 5, "the line")
        assert await served(on.proxy.port)


async def test_an_address_changes_and_its_connections_stay(tmp_path: Path) -> None:
    new = free_port()
    async with changing(tmp_path) as on, Crowd(on.proxy.port, on.origin, fresh=0) as crowd:
        await on.becomes(at("web", new))
        assert await served(new)
        assert await refused(on.proxy.port)
        await all_is_well(crowd)
        await crowd.slow_ends()


async def test_listeners_swap_their_addresses_and_take_other_names(tmp_path: Path) -> None:
    here, there = free_port(), free_port()
    plain, narrow = {"limits": {"fields": 128}}, {"limits": {"fields": 9}}
    fields = [(f"X-{n}", "1") for n in range(9)]

    async def takes(port: int) -> int:
        async with await Client.connect(port) as client:
            return (await client.ask("GET", "/", fields)).status

    async with changing(tmp_path) as on:
        await on.becomes(on.web, at("a", here, **plain), at("b", there, **narrow))
        assert [await takes(here), await takes(there)] == [200, 431]
        async with Crowd(here, on.origin) as crowd:
            await on.becomes(on.web, at("a", there, **plain), at("b", here, **plain))
            await all_is_well(crowd)
            await on.becomes(on.web, at("a", there, **narrow), at("c", here, **plain))
            assert [await takes(here), await takes(there)] == [200, 431]
            await all_is_well(crowd)
            await crowd.slow_ends()


async def test_connections_of_a_listener_stay_when_it_is_renamed_and_go_with_it(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with changing(tmp_path) as on:
        await on.becomes(on.web, at("a", port))
        async with Crowd(port, on.origin, kept=0, fresh=0) as crowd:
            await on.becomes(on.web, at("b", port))
            await all_is_well(crowd)
            await on.becomes()
            assert await refused(port)
            await crowd.slow_ends()
            assert await crowd.slow.is_closed()


async def test_an_address_that_cannot_be_had_refuses_all_of_it(tmp_path: Path) -> None:
    new, taken = free_port(), free_port()
    async with changing(tmp_path) as on, Crowd(on.proxy.port, on.origin) as crowd:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", taken)
        async with server:
            code, said = await on.reload(listeners=[at("web", new), at("more", taken)], workers=3)
        assert code == 2
        assert f"listener more: cannot listen on 127.0.0.1:{taken}: the address is in use" in said
        assert await refused(new)
        assert len(await on.proxy.workers()) == 2
        await all_is_well(crowd)


async def test_the_file_of_a_unix_socket_comes_changes_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with changing(tmp_path) as on:
        for mode in (0o600, 0o666):
            unix = {"name": "file", "bind": f"unix:{path}", "mode": f"{mode:04o}"}
            await on.becomes(on.web, unix)
            assert stat.S_IMODE(path.stat().st_mode) == mode
            client = Client(*await asyncio.open_unix_connection(str(path)))
            async with client:
                assert (await client.ask("GET", "/")).status == 200
        await on.becomes()
        assert not path.exists()


@pytest.mark.parametrize("numbers", [(4, 1, 3), (1, 2)], ids=str)
async def test_workers_become_more_and_fewer(tmp_path: Path, numbers: Sequence[int]) -> None:
    async with changing(tmp_path) as on, Crowd(on.proxy.port, on.origin) as crowd:
        for number in numbers:
            await on.becomes(workers=number)
            await crowd.served()
            rows = [row for row in await on.proxy.workers() if row["state"] == "accepting"]
            assert [row["index"] for row in rows] == list(range(number))
            assert await on.proxy.readyz() == 200
        await crowd.socket_echoes()
        await crowd.slow_ends()
        await crowd.socket.close()
        await eventually(lambda: len(on.proxy.children()) == number, 10, "the others are gone")
    assert crowd.failures == []
    assert '"worker_died"' not in on.proxy.log()


async def test_a_limit_is_shared_by_the_workers_that_there_are(tmp_path: Path) -> None:
    limited = {"limits": {"connections": 4}}
    async with changing(tmp_path, workers=1) as on:
        await on.becomes({**on.web, **limited}, workers=2)
        on.origin.script = gate = Gate()
        clients = [await Client.connect(on.proxy.port) for _ in range(24)]
        for client in clients:
            await client.send(request("GET", "/"))
        # Of 24 connections either worker has two, but for one run in half a million.
        await eventually(lambda: on.origin.in_flight == 4, 10, "as many as there may be")
        gate.open()
        for client in clients:
            await client.close()


async def test_a_stop_in_the_middle_of_a_change_lets_finish_what_is_under_way(
    tmp_path: Path,
) -> None:
    async with changing(tmp_path) as on, Crowd(on.proxy.port, on.origin, kept=0, fresh=0) as crowd:
        changed = {**on.proxy.config, "workers": 4, "listeners": [on.web, at("more", free_port())]}
        on.proxy.file.write_text(json.dumps(changed))
        on.proxy.signal(signal.SIGHUP)
        await eventually(lambda: len(on.proxy.children()) == 4, 10, "new workers")
        on.proxy.signal(signal.SIGTERM)
        await eventually(lambda: refused(on.proxy.port), 10, "the end of accepting")
        await crowd.socket_echoes()
        await crowd.slow_ends()
        await crowd.socket.close()
        assert await on.proxy.wait() == 0
    assert '"worker_died"' not in on.proxy.log()
    assert "the proxy is stopping" in on.proxy.log()


async def test_one_proxy_takes_the_place_of_another_on_a_shared_address(tmp_path: Path) -> None:
    port = free_port()
    shared = {"listeners": [at("web", port, share=True)]}
    async with changing(tmp_path, **shared) as first:
        config = {**first.proxy.config, "admin": {"bind": f"127.0.0.1:{free_port()}"}}
        second = RunningProxy(config, tmp_path)
        second.admin_port = int(config["admin"]["bind"].rpartition(":")[2])
        async with Crowd(port, first.origin, fresh=16) as crowd, second:
            await crowd.served()
            first.proxy.signal(signal.SIGTERM)
            await crowd.slow_ends()
            await crowd.socket.close()
            assert await first.proxy.wait() == 0
            await crowd.served()
            crowd.stopping = crowd.fresh.stopping = True
        assert crowd.failures == []


KINDS = ("add and remove", "rebind", "rename", "workers", "restart", "keys")


def keys(on: Changing, directory: Path, odd: int) -> dict[str, Any]:
    """A value of its own, in every other turn, for a key of each kind that is no socket's."""
    service = {
        "instances": [on.origin.instance],
        "balancer": ("round_robin", "least_connections")[odd],
        "health_check": {"type": "tcp", "interval": ("1s", "2s")[odd]},
        "max_inflight": (0, 500)[odd],
        "circuit_breaker": {"min_requests": (1000, 2000)[odd]},
        "timeouts": {"connect": ("1s", "2s")[odd]},
    }
    routes = [{"path_prefix": "/", "service": "users"}]
    return {
        "services": {"users": service, **({"more": {}} if odd else {})},
        "routes": [*([{"path_prefix": "/more", "service": "more"}] * odd), *routes],
        "defaults": {"retry": {"max_retries": 1 + odd}},
        "log": {"level": ("info", "warning")[odd]},
        "access_log": {"path": str(directory / f"access-{odd}")},
        "admin": {**on.proxy.config["admin"], "hosts": [f"h{odd}"]},
        "registry": {
            "type": "etcd",
            "endpoints": ["http://127.0.0.1:1"],
            "prefix": f"/{odd}/",
            "allow": [f"10.{odd}.0.0/16"],
        },
        "shutdown": {"delay": "0s", "grace": ("10s", "11s")[odd]},
        "listeners": [
            at("web", on.proxy.port, limits={"fields": 100 + odd}, request_id_header=f"X-{odd}")
        ],
    }


@pytest.mark.drill
@pytest.mark.parametrize("kind", KINDS)
async def test_fifty_changes_of_a_kind_lose_nobody(
    tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    ports = free_port(), free_port()
    leaves = kind in ("workers", "restart")
    async with (
        changing(tmp_path, workers=1 if kind == "restart" else 2) as on,
        Crowd(on.proxy.port, on.origin) as crowd,
        AsyncExitStack() as stack,
    ):
        transfers = Transfers(on.proxy.port, crowd.failures, events_end=leaves)
        if kind != "restart":  # Each would wait for the grace, until the transfers have ended.
            await stack.enter_async_context(transfers)
        if leaves:
            # Whoever stays with a worker that leaves is cut after the grace.
            await crowd.slow_ends()
            await crowd.socket.close()
        for turn in range(50):
            odd = turn % 2
            match kind:
                case "add and remove":
                    await on.becomes(on.web, *([at("more", ports[0])] * (1 - odd)))
                case "rebind":
                    await on.becomes(on.web, at("more", ports[odd]))
                    assert await served(ports[odd])
                case "rename":
                    await on.becomes(at(("other", "web")[odd], on.proxy.port))
                case "workers":
                    await on.becomes(workers=(3, 1)[odd])
                case "keys":
                    changed = keys(on, tmp_path, odd)
                    await on.becomes(*changed.pop("listeners"), **changed)
                case _:
                    assert (await on.post("restart-workers"))["error"] == ""
            assert crowd.failures == []
        await crowd.served()
        record_property("drill", f"50 x {kind}: {crowd.answers + crowd.fresh.answers} answers")
        if not leaves:
            await all_is_well(crowd)
            await crowd.slow_ends()
    assert crowd.failures == []
    assert kind == "restart" or transfers.done.keys() >= {"_upload", "_download"}


@pytest.mark.drill
async def test_a_hundred_reloads_leave_descriptors_and_memory_as_they_were(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with changing(tmp_path) as on:

        async def some(count: int) -> tuple[list[int], int]:
            for turn in range(count):
                await on.becomes(on.web, at("more", port), workers=2 + turn % 2)
                await on.becomes(workers=2)
            await eventually(lambda: len(on.proxy.children()) == 2, 10, "two workers")
            return on.descriptors(), on.memory()

        descriptors, memory = await some(10)
        _, grown = await some(50)

        def as_before() -> bool:
            """A lookup or a connection of ours may be under way in either look."""
            pairs = zip(on.descriptors(), descriptors, strict=True)
            return all(now <= before for now, before in pairs)

        await eventually(as_before, 10, lambda: f"{descriptors}, {on.descriptors()}")
        assert grown < memory * 1.1
