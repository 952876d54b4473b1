"""Ends, through the real proxy: of the proxy, asked to stop, and of a worker, killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.origin import Call, Gate, Origin, echo
from tests.e2e.raw_http import Client, Ended, ask, request
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as running:
        yield running


def config(origin: Origin, **more: Any) -> dict[str, Any]:
    return {
        "services": {"files": {"instances": [origin.instance]}},
        "routes": [{"path_prefix": "/", "service": "files"}],
        **more,
    }


async def refused(port: int) -> bool:
    """Nobody listens any more."""
    try:
        client = await Client.connect(port)
    except ConnectionRefusedError:
        return True
    await client.close()
    return False


async def test_an_answer_under_way_is_completed_and_then_the_proxy_is_gone(
    origin: Origin, tmp_path: Path
) -> None:
    gate = asyncio.Event()

    async def in_two_halves(call: Call) -> None:
        await call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await gate.wait()
        await call.write(b"other")

    origin.script = in_two_halves
    async with RunningProxy(config(origin, workers=2), tmp_path) as proxy:  # noqa: SIM117
        async with await Client.connect(proxy.port) as busy:
            await busy.send(request("GET", "/"))
            head = await busy.read_head()
            # Nothing was known of a stop when this went out.
            assert head.get("Connection") is None
            assert await busy.exactly(5) == b"first"
            proxy.signal(signal.SIGTERM)
            await eventually(lambda: refused(proxy.port), 5, "connections refused")
            assert proxy.returncode is None
            gate.set()
            assert await busy.exactly(5) == b"other"
            # The client would go on using its connection; the proxy does not wait for that.
            assert await busy.is_closed()
            await busy.close()
            assert await proxy.wait() == 0
    assert "connections_cut_at_stop" not in proxy.log()


async def test_idle_connections_are_closed_and_what_was_asked_is_answered(
    origin: Origin, tmp_path: Path
) -> None:
    gate = Gate()
    async with RunningProxy(config(origin), tmp_path) as proxy:  # noqa: SIM117
        async with (
            await Client.connect(proxy.port) as idle,
            await Client.connect(proxy.port) as pipelining,
        ):
            assert (await idle.ask("GET", "/")).status == 200
            origin.script = gate
            await pipelining.send(request("GET", "/") * 3)
            await eventually(lambda: origin.in_flight, 5, "the first request")
            proxy.signal(signal.SIGTERM)
            assert await idle.is_closed()
            await idle.close()
            gate.open()
            answers = [await pipelining.answer()]
            assert answers[0].status == 200
            # It says that it closes; what was behind that request was not taken.
            assert answers[0].closes
            assert await pipelining.is_closed()
            await pipelining.close()
            assert await proxy.wait() == 0
    assert len(origin.calls) == 2


async def test_a_killed_worker_takes_along_only_what_it_held(
    origin: Origin, tmp_path: Path
) -> None:
    """Clients that open a connection for each request, under load, while one of two workers is
    killed: what began after that succeeds, all of it, and so does what the other one holds."""
    gate = Gate()

    async def hold_or_echo(call: Call) -> None:
        await (gate if call.tail == "hold" else echo)(call)

    async def held(port: int) -> bool:
        try:
            return (await ask(port, "GET", "/hold")).status == 200
        except (ConnectionError, Ended):
            return False

    failed: list[float] = []
    served = 0
    over = False

    async def client(port: int) -> None:
        nonlocal served
        while not over:
            began = time.monotonic()
            try:
                answer = await ask(port, "PUT", "/", body=b"x")
            except (ConnectionError, Ended, asyncio.IncompleteReadError):
                failed.append(began)
            else:
                assert (answer.status, answer.body) == (200, b"x")
                served += 1

    origin.script = hold_or_echo
    async with RunningProxy(config(origin, workers=2), tmp_path) as proxy:
        victim, other = await proxy.worker_pids()
        async with asyncio.TaskGroup() as group:
            for _ in range(16):
                group.create_task(client(proxy.port))
            holding = [group.create_task(held(proxy.port)) for _ in range(24)]
            try:
                await eventually(lambda: served > 100, 10, "load")
                assert not any(task.done() for task in holding)
                os.kill(victim, signal.SIGKILL)
                killed = time.monotonic()

                async def replaced() -> bool:
                    pids = await proxy.worker_pids()
                    return len(pids) == 2 and victim not in pids

                await eventually(replaced, 5, "another worker")
                started_in = time.monotonic() - killed
                lost = sum(task.done() for task in holding)
                before = served
                await eventually(lambda: served > before + 200, 10, "load after the kill")
            finally:
                over = True
                gate.open()
        print(f"replaced in {started_in:.3f} s, {len(failed)} failed, {served} served")  # noqa: T201
        assert started_in < 1
        # Of 24 connections either worker has some, but for one run in 8 million.
        assert 0 < lost < 24
        assert sum(task.result() for task in holding) == 24 - lost
        # No later than it takes a signal to end a process on another processor.
        assert [began for began in failed if began > killed + 0.02] == []
        assert len(failed) <= 16
        assert other in await proxy.worker_pids()
        # The new one does its part.
        assert await proxy.readyz() == 200
