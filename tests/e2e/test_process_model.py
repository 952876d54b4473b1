"""The process model, seen from outside: real processes, real signals, real sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy import cpus
from tests.e2e.origin import Gate, origins
from tests.e2e.raw_http import Client, request
from tests.e2e.running import RunningProxy
from tests.support.processes import alive, children, eventually, free_port


@pytest.fixture
async def instance() -> AsyncIterator[int]:
    """Port of an instance: /slow answers when `gate` is opened by /open, the rest at once."""
    gate = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/slow"):
            await gate.wait()
        if request.path.endswith("/open"):
            gate.set()
        return web.json_response({"path": request.path})

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield port
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that opens a connection for each request, as a crowd of clients would."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        yield client


def config(port: int, **more: Any) -> dict[str, Any]:
    instances = [{"id": "one", "address": "127.0.0.1", "port": port}]
    return {
        "services": {"users": {"instances": instances}},
        "routes": [{"path_prefix": "/users", "service": "users"}],
        **more,
    }


async def fetch(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        await answer.read()
        return answer.status


@pytest.mark.parametrize(("setting", "count"), [(1, 1), (2, 2), ("auto", None)])
async def test_the_configured_number_of_workers_runs(
    instance: int, session: aiohttp.ClientSession, tmp_path: Path, setting: Any, count: int | None
) -> None:
    async with RunningProxy(config(instance, workers=setting), tmp_path) as proxy:
        pids = await proxy.worker_pids()
        assert len(pids) == (count or cpus.usable())
        assert len(set(pids)) == len(pids)
        assert await fetch(session, proxy.url + "/users/1") == 200
    assert not any(map(alive, pids))


async def test_a_killed_worker_is_replaced_and_no_request_fails(
    instance: int, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with RunningProxy(config(instance, workers=2), tmp_path) as proxy:
        victim, other = await proxy.worker_pids()
        os.kill(victim, signal.SIGKILL)
        # The kernel still puts connections into the dead worker's queue.
        statuses = await asyncio.gather(
            *(fetch(session, proxy.url + "/users/1") for _ in range(30))
        )
        assert statuses == [200] * 30

        async def replaced() -> bool:
            pids = await proxy.worker_pids()
            return len(pids) == 2 and victim not in pids and await proxy.readyz() == 200

        await eventually(replaced, 10, "the replacement")
        started = [line for line in proxy.log().splitlines() if "worker_started" in line]
        assert len(started) == 3
        rows = {row["pid"]: row for row in await proxy.workers()}
        assert other in rows
        assert [row["last_exit"] for row in rows.values()].count("signal SIGKILL") == 1
        assert proxy.children() == sorted(rows)


async def test_a_worker_that_dies_while_there_are_no_descriptors_is_replaced_later(
    instance: int, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with RunningProxy(config(instance, workers=2), tmp_path) as proxy:
        victim, other = await proxy.worker_pids()
        limits = resource.prlimit(proxy.control, resource.RLIMIT_NOFILE)
        resource.prlimit(proxy.control, resource.RLIMIT_NOFILE, (3, limits[1]))
        os.kill(victim, signal.SIGKILL)
        await eventually(
            lambda: proxy.log().count('"worker_not_started"') >= 3 or proxy.returncode is not None,
            10,
            "some attempts",
        )
        assert alive(other)
        resource.prlimit(proxy.control, resource.RLIMIT_NOFILE, limits)
        await eventually(lambda: _is_ready(proxy), 10, "the replacement")
        assert len(await proxy.worker_pids()) == 2
        assert await fetch(session, proxy.url + "/users/1") == 200


async def _is_ready(proxy: RunningProxy) -> bool:
    return await proxy.readyz() == 200


async def test_no_worker_outlives_the_control_process(instance: int, tmp_path: Path) -> None:
    proxy = RunningProxy(config(instance, workers=2), tmp_path)
    await proxy.start()
    pids = await proxy.worker_pids()
    await proxy.kill()
    await eventually(lambda: not any(map(alive, pids)), 5, "the workers' exit")


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM], ids=["upgrade", "stop"])
async def test_no_process_that_finishes_outlives_the_one_that_was_started(
    number: signal.Signals, tmp_path: Path
) -> None:
    grace = {"shutdown": {"delay": "0s", "grace": "60s"}}
    async with origins("one", script=Gate()) as (one,):
        services = {"users": {"instances": [one.instance]}}
        settings = config(1, **grace, services=services)
        async with (
            RunningProxy(settings, tmp_path) as proxy,
            await Client.connect(proxy.port) as client,
        ):
            await client.send(request("GET", "/users/"))
            await eventually(lambda: one.in_flight, 10, "the request")
            log = '"retiring"' if number == signal.SIGUSR2 else '"stopping"'
            proxy.signal(number)
            await eventually(lambda: log in proxy.log(), 15, log)
            family = [one for each in children(proxy.pid) for one in (each, *children(each))]
            await proxy.kill()
            await eventually(lambda: not any(map(alive, family)), 5, "their end")


async def test_a_graceful_stop_answers_what_was_asked(
    instance: int, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    shutdown = {"delay": "1s", "grace": "10s"}
    proxy = RunningProxy(config(instance, shutdown=shutdown), tmp_path)
    async with proxy:
        slow = asyncio.create_task(fetch(session, proxy.url + "/users/slow"))

        async def in_flight() -> bool:
            _, body = await proxy.get("/api/v1/services/users")
            return bool(body["instances"][0]["inflight"])

        await eventually(in_flight, 5, "the request in flight")
        proxy.signal(signal.SIGTERM)
        await eventually(lambda: _not_ready(proxy), 1, "readiness gone")
        status, body = await proxy.get("/readyz")
        assert (status, body["missing"]) == (503, ["stopping"])
        # Accepting goes on for the delay: whoever balances over proxies needs to notice first.
        assert await fetch(session, proxy.url + "/users/1") == 200
        assert (await proxy.get("/healthz"))[0] == 200

        async def refused() -> bool:
            try:
                await fetch(session, proxy.url + "/users/1")
            except aiohttp.ClientConnectionError:
                return True
            return False

        await eventually(refused, 5, "connections refused")
        assert proxy.returncode is None
        assert await fetch(session, f"http://127.0.0.1:{instance}/open") == 200
        assert await slow == 200
        assert await proxy.wait() == 0


async def _not_ready(proxy: RunningProxy) -> bool:
    return await proxy.readyz() == 503


async def test_a_stop_in_the_middle_of_the_start(instance: int, tmp_path: Path) -> None:
    proxy = RunningProxy(config(instance, workers=2), tmp_path)
    proxy.launch()
    await eventually(lambda: '"listening"' in proxy.log(), 15, "the first sign of life")
    assert await proxy.stop(5) == 0
    assert "Traceback" not in proxy.log()


async def test_requests_that_do_not_finish_are_cut_after_the_grace(
    instance: int, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    shutdown = {"delay": "0s", "grace": "500ms"}
    async with RunningProxy(config(instance, shutdown=shutdown), tmp_path) as proxy:
        slow = asyncio.create_task(fetch(session, proxy.url + "/users/slow"))
        await eventually(lambda: _inflight(proxy), 5, "the request in flight")
        # It is never answered, so only the grace can end it.
        assert await proxy.stop() == 0
        with pytest.raises(aiohttp.ClientError):
            await slow


async def _inflight(proxy: RunningProxy) -> int:
    _, body = await proxy.get("/api/v1/services/users")
    count: int = body["instances"][0]["inflight"]
    return count


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_stops_at_once(
    instance: int, session: aiohttp.ClientSession, tmp_path: Path, number: signal.Signals
) -> None:
    shutdown = {"delay": "0s", "grace": "60s"}
    async with RunningProxy(config(instance, shutdown=shutdown), tmp_path) as proxy:
        pids = await proxy.worker_pids()
        slow = asyncio.create_task(fetch(session, proxy.url + "/users/slow"))
        await eventually(lambda: _inflight(proxy), 5, "the request in flight")
        proxy.signal(number)
        await eventually(lambda: '"stopping"' in proxy.log(), 5, "the stop")
        proxy.signal(number)
        assert await proxy.wait(5) == 0
        assert not any(map(alive, pids))
        with pytest.raises(aiohttp.ClientError):
            await slow


def _logged(proxy: RunningProxy, word: str) -> bool:
    return word in proxy.log()


async def test_a_port_in_use_by_another_proxy_is_one_clear_line(
    instance: int, tmp_path: Path
) -> None:
    async with RunningProxy(config(instance), tmp_path) as first:
        listeners = [{"name": "front", "bind": f"127.0.0.1:{first.port}"}]
        second = RunningProxy(config(instance, listeners=listeners), tmp_path)
        second.launch()
        assert await second.wait() == 1
        [said] = _plain(second.log()).splitlines()
        assert said.startswith("Error: listener front: ")
        assert f"127.0.0.1:{first.port}: " in said
        assert "in use" in said


async def test_an_admin_port_in_use_is_one_clear_line(instance: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        proxy = RunningProxy(config(instance, admin={"bind": bind}), tmp_path)
        proxy.launch()
        assert await proxy.wait() == 1
        [said] = _plain(proxy.log()).splitlines()
        assert said.startswith("Error: admin: ")
        assert f"{bind}: " in said
        assert "in use" in said


async def test_an_address_this_machine_does_not_have(instance: int, tmp_path: Path) -> None:
    listeners = [{"name": "web", "bind": "192.0.2.1:8080"}]
    proxy = RunningProxy(config(instance, listeners=listeners), tmp_path)
    proxy.launch()
    assert await proxy.wait() == 1
    assert "192.0.2.1:8080: this machine has no such address" in _plain(proxy.log())


def _plain(log: str) -> str:
    """What is written for people: everything but the JSON lines."""
    return "\n".join(line for line in log.splitlines() if not line.startswith("{"))


async def test_connections_wait_for_a_busy_worker(instance: int, tmp_path: Path) -> None:
    """The kernel holds as many as the control process asked for: a worker that starts to accept
    must not shorten the queue."""
    async with RunningProxy(config(instance, workers=1), tmp_path) as proxy:
        (worker,) = await proxy.worker_pids()
        os.kill(worker, signal.SIGSTOP)
        waiting = []
        try:
            for _ in range(400):
                client = socket.socket()
                client.settimeout(0.9)  # A connection that is not queued is tried again after 1 s.
                waiting.append(client)
                client.connect(("127.0.0.1", proxy.port))
        finally:
            os.kill(worker, signal.SIGCONT)
        for client in waiting:
            client.close()


async def test_a_unix_listener(instance: int, tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    # What a killed proxy leaves behind.
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    listeners = [
        {"name": "web", "bind": f"unix:{path}", "mode": "0620", "owner": f":{os.getgid()}"}
    ]
    async with RunningProxy(config(instance, listeners=listeners, workers=2), tmp_path) as proxy:
        assert stat.S_IMODE(path.stat().st_mode) == 0o620
        connector = aiohttp.UnixConnector(str(path), force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(10):
                assert await fetch(session, "http://localhost/users/1") == 200
        second = RunningProxy(config(instance, listeners=listeners), tmp_path)
        second.launch()
        assert await second.wait() == 1
        assert "in use" in _plain(second.log())
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert await proxy.stop() == 0
    assert not path.exists()


async def test_a_file_in_the_place_of_a_socket_is_left_alone(instance: int, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    listeners = [{"name": "web", "bind": f"unix:{path}"}]
    proxy = RunningProxy(config(instance, listeners=listeners), tmp_path)
    proxy.launch()
    assert await proxy.wait() == 1
    assert f"unix:{path}: " in _plain(proxy.log())
    assert path.read_text() == "data"
