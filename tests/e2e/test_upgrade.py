"""Upgrades in place: the control process and all workers are replaced on the same sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.changing import Crowd, command
from tests.e2e.origin import Origin, origins
from tests.e2e.redeploying import CountingLoad
from tests.e2e.reloading import rewrite
from tests.e2e.running import RunningProxy
from tests.e2e.secure import NAME, SecureProxy
from tests.support.processes import alive, children, eventually


def config(*instances: Origin, **more: Any) -> dict[str, Any]:
    return {
        "workers": 2,
        "services": {"users": {"instances": [one.instance for one in instances]}},
        "routes": [{"path_prefix": "/", "service": "users"}],
        **more,
    }


async def counted(proxy: RunningProxy) -> float:
    """Requests that were ever counted."""
    _, text = await proxy.get("/metrics")
    name = "fairlead_requests_total{"
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def alone(proxy: RunningProxy) -> int:
    """Wait until there is one control process; its id."""
    await eventually(lambda: len(children(proxy.pid)) == 1, 15, "one control process")
    return proxy.control


async def test_an_upgrade_loses_nobody_and_lets_finish_what_is_under_way(tmp_path: Path) -> None:
    async with origins("one") as (one,), RunningProxy(config(one), tmp_path) as proxy:
        old = proxy.control
        async with Crowd(proxy.port, one) as crowd:
            before = await counted(proxy)
            code, said = await command(proxy, "upgrade")
            assert code == 0, said
            await crowd.served()
            assert proxy.control != old
            assert await proxy.readyz() == 200
            assert await counted(proxy) >= before + 100
            # Whoever has the slow request, or the WebSocket, is still there.
            assert alive(old)
            await crowd.socket_echoes()
            await crowd.slow_ends()
            await crowd.socket.close()
            await eventually(lambda: not alive(old), 15, "the old one is gone")
        assert crowd.failures == []
        total = crowd.answers + crowd.fresh.answers + 1
        await eventually(lambda: _at_least(proxy, total), 5, "all counts")


async def _at_least(proxy: RunningProxy, total: float) -> bool:
    return await counted(proxy) >= total


@pytest.mark.drill
async def test_twenty_upgrades_under_load_refuse_nobody_and_leave_nothing(tmp_path: Path) -> None:
    async with origins("one") as (one,), RunningProxy(config(one), tmp_path) as proxy:
        files = set(os.listdir(tmp_path))
        async with Crowd(proxy.port, one) as crowd:
            await crowd.slow_ends()
            await crowd.socket.close()
            first = await alone(proxy)
            told, before = await counted(proxy), (descriptors(proxy.pid), descriptors(first))
            for round_ in range(20):
                if round_ % 2:
                    assert (await command(proxy, "upgrade"))[0] == 0
                else:
                    last = proxy.control
                    proxy.signal(signal.SIGUSR2)
                    await eventually(
                        lambda last=last: children(proxy.pid)[-1] != last, 15, "a successor"
                    )
                    await eventually(lambda: len(children(proxy.pid)) == 1, 15, "it serves")
                await crowd.served(20)
                now = await counted(proxy)
                assert now >= told
                told = now
            last = await alone(proxy)
            after = (descriptors(proxy.pid), descriptors(last))
        assert crowd.failures == []
        assert after <= (before[0], before[1] + 2)
        assert set(os.listdir(tmp_path)) == files
        assert not alive(first)
        assert len(children(last)) == 2


async def test_state_is_taken_over(tmp_path: Path) -> None:
    service = {"ejection": {"consecutive_failures": 2, "base": "300s"}}
    async with origins("one", "two", "three", script=_by_name) as all_:
        settings = config(*all_)
        settings["services"]["users"] |= service
        async with RunningProxy(settings, tmp_path) as proxy, CountingLoad(proxy.port) as load:
            assert (await command(proxy, "drain", "users/one"))[0] == 0
            await eventually(lambda: _status(proxy, "two", "ejected"), 15, "an ejection")
            assert (await command(proxy, "upgrade"))[0] == 0
            assert await _status(proxy, "two", "ejected")
            assert await _status(proxy, "one", "draining")
            assert (await command(proxy, "undrain", "users/one"))[0] == 0
            await load.shows("one", more_than=20, within=15)


async def _by_name(call: Any) -> None:
    await call.reply(call.origin.name.encode(), 503 if call.origin.name == "two" else 200)


async def _status(proxy: RunningProxy, id_: str, status: str) -> bool:
    _, document = await proxy.get("/api/v1/services/users")
    return any(one["id"] == id_ and one["status"] == status for one in document["instances"])


async def test_a_unix_socket_and_the_sessions_of_tls_are_taken_over(tmp_path: Path) -> None:
    async with origins("one") as (one,):
        path = tmp_path / "socket"
        more = {"unix": {"tls": None, "bind": f"unix:{path}"}}
        async with SecureProxy(config(one), tmp_path, listeners=more) as proxy:
            context = proxy.authority.client()
            async with await proxy.secure(context=context) as client:
                assert (await client.ask("GET", "/", host=NAME)).status == 200
                session = client.tls.session
            for _ in range(2):
                last = proxy.control
                proxy.signal(signal.SIGUSR2)
                await eventually(lambda last=last: not alive(last), 15, "the old one is gone")
                async with await proxy.secure(context=context, session=session) as client:
                    assert (await client.ask("GET", "/", host=NAME)).status == 200
                    assert client.tls.session_reused
                connector = aiohttp.UnixConnector(str(path))
                async with aiohttp.ClientSession(connector=connector) as local:
                    assert (await local.get("http://h/")).status == 200
        assert not path.exists()


@pytest.mark.parametrize(
    "how", ["a bad file", "a bad environment", "a large environment", "a program that hangs"]
)
async def test_a_successor_that_cannot_serve_leaves_the_one_that_does(
    how: str, tmp_path: Path
) -> None:
    async with origins("one") as (one,), RunningProxy(config(one), tmp_path) as proxy:
        old = proxy.control
        words: tuple[str, ...] = ()
        good = proxy.file.read_text()
        if how == "a bad file":
            proxy.file.write_text("workers: many\n")
        elif how == "a bad environment":
            words = ("--env-file", str(tmp_path / "env"))
            (tmp_path / "env").write_text("no variable\n")
        elif how == "a large environment":
            words = ("--env-file", str(tmp_path / "env"))
            (tmp_path / "env").write_text(f"A={'x' * 200_000}\n")  # Linux takes 128 KiB for one.
        else:
            # It is killed for the parent, as it is after the time that it has.
            proxy.file.unlink()
            os.mkfifo(proxy.file)
        async with Crowd(proxy.port, one) as crowd:
            asked = asyncio.create_task(command(proxy, "upgrade", *words))
            if how == "a program that hangs":
                new = await eventually(
                    lambda: [pid for pid in children(proxy.pid) if pid != old], 15, "a successor"
                )
                os.kill(new[0], signal.SIGKILL)
            code, said = await asked
            assert code == 1
            expected = {
                "a bad file": "workers",
                "a bad environment": "line 1",
                "a large environment": os.strerror(errno.E2BIG),
            }
            assert expected.get(how, "SIGKILL") in said
            await crowd.served()
            assert proxy.control == old
        assert crowd.failures == []
        if how == "a program that hangs":
            proxy.file.unlink()
        proxy.file.write_text(good)
        assert (await command(proxy, "upgrade"))[0] == 0
        assert proxy.control != old


async def test_a_control_process_that_is_killed_is_replaced_and_nobody_is_refused(
    tmp_path: Path,
) -> None:
    async with origins("one") as (one,), RunningProxy(config(one), tmp_path) as proxy:
        old, workers = proxy.control, await proxy.worker_pids()
        async with Crowd(proxy.port, one) as crowd:
            os.kill(old, signal.SIGKILL)
            await eventually(lambda: not any(map(alive, workers)), 15, "the old workers are gone")
            await eventually(lambda: _is_ready(proxy), 15, "another one")
            await crowd.served()
        # The slow request and the WebSocket were under way in what was killed.
        assert crowd.failures == []


async def test_a_control_process_that_is_loading_survives_all_signals_but_those_to_stop(
    tmp_path: Path,
) -> None:
    async with origins("one") as (one,), RunningProxy(config(one), tmp_path) as proxy:
        old = proxy.control
        os.kill(old, signal.SIGKILL)
        await eventually(lambda: [pid for pid in children(proxy.pid) if pid != old], 10, "a start")
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            proxy.signal(number)
        await eventually(lambda: _is_ready(proxy), 15, "a proxy")


async def test_a_directory_that_is_removed_is_not_needed(tmp_path: Path) -> None:
    there = tmp_path / "release"
    there.mkdir()
    started_by = ("/bin/sh", "-c", f'cd {there}; exec "$@"', "sh")
    async with (
        origins("one") as (one,),
        RunningProxy(config(one), tmp_path, started_by=started_by) as proxy,
    ):
        there.rmdir()
        assert (await command(proxy, "upgrade")) == (0, "upgraded\n")
        old = await alone(proxy)
        os.kill(old, signal.SIGKILL)
        await eventually(lambda: children(proxy.pid)[-1:] > [old], 15, "another one")
        await eventually(lambda: _is_ready(proxy), 15, "a proxy")


async def test_the_file_of_a_socket_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with (
        origins("one") as (one,),
        RunningProxy(
            config(one, listeners=[{"name": "unix", "bind": f"unix:{path}"}]), tmp_path
        ) as proxy,
    ):
        path.chmod(0o731)  # As its directory may have it, by its group or an ACL.
        assert (await command(proxy, "upgrade"))[0] == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o731


async def test_the_file_of_a_listener_that_is_no_more_goes_with_the_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with origins("one") as (one,), RunningProxy(config(one), tmp_path) as proxy:
        web = proxy.config["listeners"]
        rewrite(proxy, {"listeners": [*web, {"name": "unix", "bind": f"unix:{path}"}]})
        assert (await command(proxy, "upgrade"))[0] == 0
        assert path.exists()
        rewrite(proxy, {"workers": "none"})
        assert (await command(proxy, "upgrade"))[0] == 1
        assert path.exists()
        rewrite(proxy, {})
        assert (await command(proxy, "upgrade"))[0] == 0
        await eventually(lambda: not path.exists(), 10, "its end")


async def _is_ready(proxy: RunningProxy) -> bool:
    return await proxy.readyz() == 200


STEPS = ("upgrading", "state_taken_over", "listening", "worker_started", "worker_accepting",
         "ready", "retiring", "retired")  # fmt: skip
"""Lines of the log, in the order in which an upgrade writes them."""


@pytest.mark.drill
@pytest.mark.parametrize("victim", ["the one that serves", "its successor"])
async def test_a_kill_at_any_step_loses_nobody(victim: str, tmp_path: Path) -> None:
    """Both are control processes: what is in flight is with their workers, which finish it."""
    async with origins("one") as (one,), RunningProxy(config(one), tmp_path) as proxy:
        async with Crowd(proxy.port, one) as crowd:
            await crowd.slow_ends()
            await crowd.socket.close()
            for step in STEPS:
                old = await alone(proxy)
                log, line = len(proxy.log()), f'"event": "{step}"'
                proxy.signal(signal.SIGUSR2)
                await eventually(
                    lambda log=log, line=line: line in proxy.log()[log:], 15, step, every=0.01
                )
                for pid in children(proxy.pid):
                    if (pid == old) == (victim == "the one that serves"):
                        os.kill(pid, signal.SIGKILL)
                await eventually(lambda: _is_ready(proxy), 20, f"a proxy after {step}")
                await crowd.served(20)
        assert crowd.failures == []
        await alone(proxy)
        assert (await command(proxy, "upgrade"))[0] == 0
