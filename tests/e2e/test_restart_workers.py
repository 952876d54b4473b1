"""Workers that are replaced one after the other: nobody who uses the proxy notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.e2e.changing import Crowd, command
from tests.e2e.origin import Origin, origins
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually


def config(*instances: Origin, **more: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "services": {"users": {"instances": [one.instance for one in instances]}},
        "routes": [{"path_prefix": "/", "service": "users"}],
        **more,
    }


async def requests_told(proxy: RunningProxy) -> float:
    _, text = await proxy.get("/metrics")
    name = "fairlead_requests_total{"
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def test_restarted_workers_lose_nobody_and_let_finish_what_is_under_way(
    tmp_path: Path,
) -> None:
    async with origins("one") as (one,), RunningProxy(config(one), tmp_path) as proxy:
        before = await proxy.worker_pids()
        async with Crowd(proxy.port, one) as crowd:
            counted = await requests_told(proxy)
            code, said = await command(proxy, "restart-workers")
            assert code == 0, said
            await crowd.served()
            rows = await proxy.workers()
            current = [row for row in rows if row["state"] == "accepting"]
            assert [row["index"] for row in current] == [0, 1]
            assert not {row["pid"] for row in current} & {*before}
            # Whoever has the slow request, or the WebSocket, is still there.
            leaving = [row for row in rows if row["state"] == "draining"]
            assert leaving
            assert {row["pid"] for row in leaving} <= {*before}
            assert await requests_told(proxy) >= counted + 200
            service = (await proxy.get("/api/v1/services/users"))[1]
            assert service["instances"][0]["inflight"] >= 2
            await crowd.socket_echoes()
            await crowd.slow_ends()
            await crowd.socket.close()
            await eventually(lambda: _gone(before), 10, "the old ones are gone")
        assert crowd.failures == []
        assert crowd.sent_away <= 8
        answers = crowd.answers + crowd.fresh.answers
        await eventually(lambda: _told(proxy, answers), 10, "all requests are counted")
        assert await proxy.readyz() == 200
    assert '"worker_died"' not in proxy.log()


async def _told(proxy: RunningProxy, requests: int) -> bool:
    return await requests_told(proxy) >= requests


def _gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_a_worker_that_finishes_counts_its_requests_and_tunnels_are_cut_after_the_grace(
    tmp_path: Path,
) -> None:
    more = {"workers": 1, "shutdown": {"delay": "0s", "grace": "1s"}}
    async with origins("one") as (one,), RunningProxy(config(one, **more), tmp_path) as proxy:
        async with Crowd(proxy.port, one) as crowd:
            before = await proxy.worker_pids()
            assert (await command(proxy, "restart-workers"))[0] == 0
            assert await crowd.socket.is_closed()
            assert await crowd.slow.is_closed()
            await eventually(lambda: _gone(before), 10, "the old one is gone")
        assert crowd.failures == []
        service = (await proxy.get("/api/v1/services/users"))[1]
        assert service["instances"][0]["inflight"] == 0
