"""Instances are replaced, fail and slow down under load, and clients notice nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import Call, Origin, echo
from tests.e2e.redeploying import CountingLoad, Instances
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually

pytestmark = pytest.mark.drill

ROUNDS = 3


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["notice", "killed"])
async def test_a_rolling_redeploy(etcd: EtcdServer, tmp_path: Path, number: signal.Signals) -> None:
    config = {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "routes": [{"service": "users"}],
        "workers": 2,
    }
    instances = Instances(etcd.url, ttl=2)
    try:
        await asyncio.gather(*(instances.start(f"i{n}-0") for n in range(4)))
        async with RunningProxy(config, tmp_path) as proxy, CountingLoad(proxy.port) as load:
            for turn in range(1, ROUNDS + 1):
                for n in range(4):
                    # The new one is up before the old one goes, as deployments do it.
                    name = f"i{n}-{turn}"
                    await instances.start(name)
                    await eventually(lambda name=name: load.answers[name] > 0, 10, "traffic")
                    await instances.stop(f"i{n}-{turn - 1}", number)
            await eventually(lambda: load.total >= 20_000, 60, "20,000 requests")
    finally:
        await instances.close()
    assert load.failures == []
    assert load.total >= 20_000


async def test_two_of_four_killed_at_once(etcd: EtcdServer, tmp_path: Path) -> None:
    """They stay registered for as long as their lease, and nobody notices: with two retries a
    request may meet both of them in the millisecond before they are known to be gone."""
    config = {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "defaults": {"retry": {"max_retries": 2}},
        "routes": [{"service": "users"}],
        "workers": 2,
    }
    instances = Instances(etcd.url, ttl=10)
    try:
        await asyncio.gather(*(instances.start(f"i{n}") for n in range(4)))
        async with RunningProxy(config, tmp_path) as proxy, CountingLoad(proxy.port) as load:
            for n in range(4):
                await load.shows(f"i{n}", more_than=20, within=10)
            await asyncio.gather(*(instances.stop(f"i{n}", signal.SIGKILL) for n in range(2)))
            total = load.total
            await eventually(lambda: load.total >= total + 5000, 60, "5,000 more requests")
    finally:
        await instances.close()
    assert load.failures == []


async def busy(call: Call) -> None:
    await call.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")


async def silent(call: Call) -> None:
    await asyncio.sleep(30)


async def resetting(call: Call) -> None:
    call.abort()


async def garbage(call: Call) -> None:
    await call.write(b"\x00\x01 this is no HTTP\r\n\r\n")


def static(*origins: Origin, **settings: Any) -> dict[str, Any]:
    instances = [origin.instance for origin in origins]
    return {
        "services": {"s": {"instances": instances, **settings}},
        "routes": [{"service": "s"}],
        "workers": 2,
    }


@pytest.mark.parametrize("script", [busy, silent, resetting, garbage])
async def test_one_of_four_that_fails(tmp_path: Path, script: Any) -> None:
    """At most one in a hundred fails after the first two seconds, and it is back in use within its
    ejection time after it recovers."""
    # Repeated is what is by default, so a 503 and a silence reach the client: it is ejection, and
    # that whoever comes back gets one request at first, that keeps them rare.
    settings = {"timeouts": {"first_byte": "300ms"}, "ejection": {"base": "2s"}}
    async with Origin("a") as a, Origin("b") as b, Origin("c") as c, Origin("bad") as bad:
        bad.script = script
        config = static(a, b, c, bad, **settings)
        async with RunningProxy(config, tmp_path) as proxy, CountingLoad(proxy.port) as load:
            await asyncio.sleep(2)  # "After the first two seconds": the time is the subject.
            failed, total = len(load.failures), load.total
            await eventually(lambda: load.total >= total + 2000, 30, "2,000 more requests")
            assert len(load.failures) - failed <= 0.01 * (load.total - total)
            bad.script = echo
            calls = len(bad.calls)
            # It may have been ejected four times by now, for 8 s the last time.
            await eventually(
                lambda: len(bad.calls) > calls + 20, 15, "traffic to the one that recovered"
            )


async def test_one_of_four_that_is_slow_gets_little(tmp_path: Path) -> None:
    async def slow(call: Call) -> None:
        await asyncio.sleep(0.4)
        await echo(call)

    async def quick(call: Call) -> None:
        await asyncio.sleep(0.002)
        await echo(call)

    async with Origin("a") as a, Origin("b") as b, Origin("c") as c, Origin("bad") as sick:
        sick.script = slow
        for origin in (a, b, c):
            origin.script = quick
        config = static(a, b, c, sick, balancer="least_connections")
        async with RunningProxy(config, tmp_path) as proxy, CountingLoad(proxy.port) as load:
            await eventually(lambda: load.total >= 3000, 40, "3,000 requests")
        assert load.failures == []
        assert len(sick.calls) <= 0.1 * load.total


async def test_a_retry_storm_is_impossible(tmp_path: Path) -> None:
    async with Origin("a") as a, Origin("b") as b:
        a.script = b.script = busy
        retry = {"max_retries": 3, "on": ["connect", "reset", "503"]}
        async with RunningProxy(static(a, b, retry=retry), tmp_path) as proxy:
            async with CountingLoad(proxy.port) as load:
                await eventually(lambda: load.total >= 2000, 40, "2,000 requests")
            requests = load.total
            assert load.answers == {}
            attempts = len(a.calls) + len(b.calls)
        # Three on top for each of the two workers.
        assert attempts <= 1.2 * requests + 2 * 3
