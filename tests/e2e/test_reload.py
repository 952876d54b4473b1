"""Reloads of a running proxy: what changes, what stays, and what is refused."""

from __future__ import annotations

import json
import os
import signal
from itertools import repeat
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.changing import CLOSE
from tests.e2e.origin import Gate, Origin, origins
from tests.e2e.raw_http import Client, Fields, request
from tests.e2e.redeploying import CountingLoad
from tests.e2e.reloading import name, reload, rewrite
from tests.e2e.running import RunningProxy
from tests.e2e.secure import NAME, SecureProxy
from tests.support import load
from tests.support.processes import eventually


def config(*instances: Origin, **more: Any) -> dict[str, Any]:
    service = {"instances": [one.instance for one in instances], **more.pop("service", {})}
    return {
        "workers": 2,
        "services": {"users": service},
        "routes": [{"path_prefix": "/", "service": "users"}],
        **more,
    }


async def test_instances_change_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    async with origins("one", "two", script=name) as (one, two):
        async with (
            RunningProxy(config(one), tmp_path) as proxy,
            CountingLoad(proxy.port) as load,
        ):
            await load.shows("one", more_than=20, within=20)
            for round_ in range(5):
                new = (two, one)[round_ % 2]
                rewrite(proxy, config(new))
                code, said = await reload(proxy)
                assert code == 0, said
                assert "static.users" in said
                since = load.answers[new.name]
                await load.shows(new.name, more_than=since + 20, within=20)
        assert load.failures == []


async def test_a_request_in_flight_and_an_idle_connection_are_not_touched(tmp_path: Path) -> None:
    async with origins("one", script=name) as (one,), RunningProxy(config(one), tmp_path) as proxy:
        async with (
            await Client.connect(proxy.port) as idle,
            await Client.connect(proxy.port) as busy,
        ):
            assert (await idle.ask("GET", "/")).status == 200
            one.script = gate = Gate()
            await busy.send(request("GET", "/slow"))
            await eventually(lambda: one.calls and one.calls[-1].target == "/slow", 5, "it")
            more = {"limits": {"fields": 9}}
            listeners = [{**proxy.config["listeners"][0], **more}]
            rewrite(proxy, config(one, service={"max_inflight": 7}, listeners=listeners))
            code, said = await reload(proxy)
            assert code == 0
            assert "listeners.web.limits.fields: 128 → 9" in said
            assert "services.users.max_inflight: 0 → 7" in said
            gate.open()
            assert (await busy.answer()).status == 200
            assert (await idle.ask("GET", "/")).status == 200
        async with await Client.connect(proxy.port) as fresh:
            fields = [(f"X-{n}", "1") for n in range(9)]
            assert (await fresh.ask("GET", "/", fields)).status == 431


async def test_a_bad_file_is_refused_with_its_lines_and_the_old_one_serves_on(
    tmp_path: Path,
) -> None:
    async with origins("one", script=name) as (one,), RunningProxy(config(one), tmp_path) as proxy:
        rewrite(proxy, {"routes": [{"path_prefix": "no slash", "service": "users"}], "x": 1})
        code, said = await reload(proxy)
        assert code == 2
        assert "routes.0.path_prefix" in said
        assert f"{proxy.file}:1: x: " in said
        async with await Client.connect(proxy.port) as client:
            assert (await client.ask("GET", "/")).status == 200
        await proxy.logs('"event": "config_not_reloaded"')


async def test_a_dry_run_says_and_does_nothing(tmp_path: Path) -> None:
    async with origins("one", script=name) as (one,), RunningProxy(config(one), tmp_path) as proxy:
        rewrite(proxy, {"routes": [{"path_prefix": "/x", "service": "users"}], "workers": 3})
        code, said = await reload(proxy, "--dry-run")
        assert code == 0
        assert "routes.0.path_prefix: / → /x" in said
        assert "workers: 2 → 3" in said
        async with await Client.connect(proxy.port) as client:
            assert (await client.ask("GET", "/")).status == 200


async def test_a_hang_up_reloads_and_a_worker_that_dies_begins_with_the_new_file(
    tmp_path: Path,
) -> None:
    async with (
        origins("one", "two", script=name) as (one, two),
        RunningProxy(config(one), tmp_path) as proxy,
    ):
        rewrite(proxy, config(two))
        proxy.signal(signal.SIGHUP)
        await eventually(lambda: '"event": "config_reloaded"' in proxy.log(), 5, "the reload")
        for pid in await proxy.worker_pids():
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: proxy.log().count('"worker_died"') == 2, 5, "the deaths")
        await eventually(lambda: _ready(proxy), 10, "the new ones")
        for _ in range(4):
            async with await Client.connect(proxy.port) as client:
                assert (await client.ask("GET", "/")).body == b"two"


async def test_a_file_that_is_watched_is_taken_when_it_changes_and_a_bad_one_is_told_of_once(
    tmp_path: Path,
) -> None:
    async with (
        origins("one", "two", script=name) as (one, two),
        RunningProxy(config(one, watch=True), tmp_path) as proxy,
    ):
        rewrite(proxy, {"nonsense": 1})
        refused = '"event": "config_not_reloaded"'
        await eventually(lambda: refused in proxy.log(), 10, "the complaint")
        new = tmp_path / "new"
        new.write_text(json.dumps({**proxy.config, **config(two)}))
        new.rename(proxy.file)
        await eventually(lambda: '"event": "config_reloaded"' in proxy.log(), 10, "the reload")
        assert proxy.log().count(refused) == 1
        async with await Client.connect(proxy.port) as client:
            assert (await client.ask("GET", "/")).body == b"two"


async def _ready(proxy: RunningProxy) -> bool:
    return await proxy.readyz() == 200


@pytest.mark.drill
async def test_fifty_changes_of_tls_fail_no_handshake_and_end_no_connection(tmp_path: Path) -> None:
    async with origins("one", script=name) as (one,), SecureProxy(config(one), tmp_path) as proxy:
        pairs = [(str(proxy.cert), str(proxy.key))]
        cert, key = proxy.authority.issue(NAME, "127.0.0.1", kind="rsa", stem="other")
        pairs.append((str(cert), str(key)))
        web, https = proxy.config["listeners"]
        async with Secure(proxy) as kept, Secure(proxy, CLOSE) as fresh:
            for turn in range(50):
                tls = {
                    "certificates": [dict(zip(("cert", "key"), pairs[turn % 2], strict=True))],
                    "min_version": ("1.2", "1.3")[turn % 2],
                    "tickets": bool(turn % 2),
                }
                rewrite(proxy, {"listeners": [web, {**https, "tls": tls}]})
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(f"{proxy.admin}/api/v1/reload") as answer,
                ):
                    assert (await answer.json())["result"] in ("changed", "unchanged")
            before = kept.answers, fresh.answers
            await eventually(lambda: kept.answers > before[0] + 50, 20, "answers")
            await eventually(lambda: fresh.answers > before[1] + 50, 20, "handshakes")
        assert kept.failures == fresh.failures == []
        assert kept.closed == 0


class Secure(load.Load):
    """Owns clients that speak TLS; of those with `CLOSE` each request has a handshake."""

    def __init__(self, proxy: SecureProxy, fields: Fields = ()) -> None:
        asked = repeat(request("GET", "/", fields, host=NAME))
        super().__init__(proxy.https, asked, clients=4, pace=0.001)
        self.tls, self.name = proxy.authority.client(), NAME
        self.answers = self.closed = 0
        self.failures: list[str] = []

    def on_answer(self, client: load.Client) -> None:
        self.answers += client.status == 200

    def on_failure(self, client: load.Client, error: BaseException) -> None:
        self.failures.append(repr(error))

    def on_close(self, client: load.Client) -> None:
        self.closed += 1
