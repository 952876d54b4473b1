"""Proxies that take their services and routes from a key in etcd."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from proxy.control.shared_config import PATIENCE, SharedConfig
from proxy.settings.fleet import SharedText
from proxy.settings.load import parse
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin, origins
from tests.e2e.reloading import name, rewrite
from tests.e2e.running import RunningProxy
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import eventually, free_port

KEY = "/fairlead/config/main"


def shared(origin: Origin, **more: Any) -> str:
    """A configuration that sends everything to one origin."""
    service = {"instances": [{"address": "127.0.0.1", "port": origin.port}]}
    return json.dumps(
        {"services": {"users": service}, "routes": [{"path_prefix": "/", "service": "users"}]}
        | more
    )


def local(etcd: EtcdServer, directory: Path, **more: Any) -> dict[str, Any]:
    registry = {
        "type": "etcd",
        "endpoints": [etcd.url],
        "snapshot": str(directory / "pools.json"),
    }
    return {"registry": registry, "config": {"key": KEY}, **more}


async def config_of(proxy: RunningProxy) -> dict[str, Any]:
    status, document = await proxy.get("/api/v1/config")
    assert status == 200
    found: dict[str, Any] = document["shared"]
    return found


async def answers(proxy: RunningProxy, text: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(proxy.url) as answer:
        return answer.status == 200 and await answer.text() == text


async def test_a_start_waits_for_the_key_and_the_good_one_is_kept(tmp_path: Path) -> None:
    async with (
        origins("one", "two", script=name) as (one, two),
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
    ):
        proxy = RunningProxy(local(etcd, tmp_path), tmp_path)
        proxy.launch()
        try:
            await eventually(lambda: proxy.log().count("shared_config_unknown"), 20, "a start")
            await eventually(lambda: proxy.readyz(), 20, "an answer")
            assert await proxy.readyz() == 503
            await client.put(KEY, shared(one))
            await eventually(lambda: answers(proxy, "one"), 20, "the key")
            assert await proxy.readyz() == 200

            await client.put(KEY, shared(one, admin={"bind": "0.0.0.0:1"}))

            async def complained() -> bool:
                return bool((await config_of(proxy))["complaints"])

            await eventually(complained, 20, "a complaint")
            document = await config_of(proxy)
            assert document["complaints"][0].startswith(f"etcd:{KEY}:1: admin: ")
            assert document["in_force"]["revision"] < document["newest"]["revision"]
            page = (await proxy.get("/metrics"))[1]
            assert "fairlead_shared_config_good 0.0" in page
            # The file is read all the same, and what was good before serves on.
            rewrite(proxy, {"log": {"level": "debug"}})
            os.kill(proxy.pid, signal.SIGHUP)
            await eventually(
                lambda: "config_reloaded" in proxy.log().rpartition("shared_config_refused")[2],
                20,
                "a reload",
            )
            assert await answers(proxy, "one")
            assert await proxy.stop() == 0

            await etcd.kill()
            async with RunningProxy(local(etcd, tmp_path), tmp_path) as second:
                assert await answers(second, "one")
                assert not (await config_of(second))["followed"]
                await etcd.start()
                await client.put(KEY, shared(two))
                await eventually(lambda: answers(second, "two"), 20, "the key")
        finally:
            await proxy.kill()


async def test_half_an_edit_of_the_file_keeps_no_text_of_the_key_out_of_force(
    tmp_path: Path,
) -> None:
    async with (
        origins("one", "two", script=name) as (one, two),
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
    ):
        await client.put(KEY, shared(one))
        async with RunningProxy(local(etcd, tmp_path), tmp_path) as proxy:
            await eventually(lambda: answers(proxy, "one"), 20, "the key")
            proxy.file.write_text("listeners: [")
            await client.put(KEY, shared(two))
            await eventually(lambda: answers(proxy, "two"), 20, "the key")


async def test_a_start_takes_what_was_kept_whole_for_its_key_and_waits_for_nobody(
    tmp_path: Path,
) -> None:
    def kept(place: str) -> bytes:
        text = SharedText("routes: [{service: a}]", place, 7)
        return msgspec.json.encode(text)

    async with TcpFault(free_port()) as way:
        way.freeze()
        registry = {"type": "etcd", "endpoints": [way.url], "snapshot": str(tmp_path / "kept")}
        local = json.dumps({"registry": registry, "config": {"key": KEY}})
        settings = parse(local, "proxy.yaml", {})
        for content, good in (
            (kept(f"etcd:{KEY}"), True),
            (kept(f"etcd:{KEY}.canary"), True),
            (kept("etcd:/fairlead/config/other"), False),
            (b"\xff", False),
            (b'{"text": "\xff"}', False),
            (b'{"x": ' + b"[" * 5000, False),
            (kept(f"etcd:{KEY}")[:-5], False),
        ):
            (tmp_path / "kept.config").write_bytes(content)
            if not good:
                await way.refuse()
            shared = SharedConfig()
            whole = await shared.begin(
                settings, lambda text: parse(local, "proxy.yaml", {}, text), None
            )
            assert bool(whole.routes) == good
            assert (f"within {PATIENCE:g} s" in shared.error) == good


async def test_a_file_gets_a_key_and_loses_it_again_by_reloads(tmp_path: Path) -> None:
    async with (
        origins("one", "two", script=name) as (one, two),
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
    ):
        config = {**json.loads(shared(one)), **local(etcd, tmp_path), "config": False}
        async with RunningProxy(config, tmp_path) as proxy:
            assert (await proxy.get("/api/v1/config"))[1]["shared"] is None
            alone = {"services": {}, "routes": [], "config": {"key": KEY}}
            with_key = {key: value for key, value in proxy.config.items() if key not in alone}
            proxy.file.write_text(json.dumps({**with_key, "config": {"key": KEY}}))
            os.kill(proxy.pid, signal.SIGHUP)
            await eventually(lambda: "there is no such key" in proxy.log(), 20, "a refusal")
            assert await answers(proxy, "one")
            await client.put(KEY, shared(two))
            os.kill(proxy.pid, signal.SIGHUP)
            await eventually(lambda: answers(proxy, "two"), 20, "the key")
            rewrite(proxy, {})
            os.kill(proxy.pid, signal.SIGHUP)
            await eventually(lambda: answers(proxy, "one"), 20, "the file")


async def test_an_upgrade_keeps_what_is_shared_and_the_place_on_the_list(tmp_path: Path) -> None:
    async with (
        origins("one", script=name) as (one,),
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
    ):
        await client.put(KEY, shared(one))
        config = local(etcd, tmp_path, fleet={"id": "a"})
        async with RunningProxy(config, tmp_path) as proxy:
            await eventually(lambda: client.get_all("/fairlead/proxies/"), 20, "a place")
            leases = await client.call("/lease/leases")
            before = proxy.control
            os.kill(proxy.pid, signal.SIGUSR2)
            await eventually(lambda: proxy.control != before, 20, "a successor")

            async def taken_over() -> bool:
                held = await client.get_all("/fairlead/proxies/")
                return len(held) == 1 and await client.call("/lease/leases") != leases

            await eventually(taken_over, 30, "its place on the list")
            assert await answers(proxy, "one")
            assert (await config_of(proxy))["in_force"]
