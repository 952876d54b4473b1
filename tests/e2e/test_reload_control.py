"""Reloads of what the control process has: the registry, the log, the admin server, ACME."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.certificates import Authority
from tests.e2e.discovering import DiscoveringProxy
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Call, Origin, origins
from tests.e2e.raw_http import Client, ask, request
from tests.e2e.redeploying import CountingLoad
from tests.e2e.reloading import name, reload, rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

EJECTION = {"defaults": {"ejection": {"base": "5m", "consecutive_failures": 2}}}


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


async def register(etcd: EtcdServer, prefix: str = "/services/", **ports: int) -> None:
    """`users/NAME` at a port of this machine, for each."""
    async with EtcdClient(etcd.url) as client:
        for id_, port in ports.items():
            record = json.dumps({"address": "127.0.0.1", "port": port})
            await client.put(f"{prefix}users/{id_}", record)


async def hangs_up(call: Call) -> None:
    call.abort()


def registry(*endpoints: str, **more: Any) -> dict[str, Any]:
    return {"registry": {"type": "etcd", "endpoints": list(endpoints), **more}}


class Site(DiscoveringProxy):
    """A proxy all of whose requests go to the service `users`."""

    def __init__(self, directory: Path, *endpoints: str, **more: Any) -> None:
        super().__init__(directory, *endpoints)
        self.config |= {"routes": [{"service": "users"}], **more}
        rewrite(self, {})

    async def statuses(self) -> dict[str, str]:
        """Instance → status."""
        document = await self.document("/api/v1/services/users")
        return {row["id"]: row["status"] for row in document["instances"]}


def static(*instances: Origin) -> dict[str, Any]:
    """Instances in the file."""
    return {
        "workers": 2,
        "services": {"users": {"instances": [one.instance for one in instances]}},
        "routes": [{"service": "users"}],
    }


@asynccontextmanager
async def alone(directory: Path) -> AsyncIterator[RunningProxy]:
    """A proxy with one instance, which stands in its file."""
    async with (
        origins("one", script=name) as (one,),
        RunningProxy(static(one), directory) as proxy,
    ):
        yield proxy


async def takes(proxy: RunningProxy, changed: dict[str, Any], *options: str) -> str:
    """Change the file, have it taken; what was printed."""
    rewrite(proxy, changed)
    code, said = await reload(proxy, *options)
    assert code == 0, said
    assert "needs a restart" not in said
    return said


async def test_another_registry_takes_over_under_load_and_what_is_known_stays(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    names = ("both", "old", "new", "drained", "bad")
    async with origins(*names, script=name) as all_, EtcdServer() as other:
        port = {one.name: one.port for one in all_}
        kept = {"both": port["both"], "drained": port["drained"], "bad": port["bad"]}
        all_[4].script = hangs_up
        await register(etcd, old=port["old"], **kept)
        await register(other, new=port["new"], **kept)
        async with Site(tmp_path, etcd.url, **EJECTION) as proxy:
            async with CountingLoad(proxy.port, clients=8, pace=0.01) as load:

                async def known() -> bool:
                    return (await proxy.statuses())["bad"] == "ejected"

                await eventually(known, 20, "the ejection")
                member = "/api/v1/services/users/instances/drained"
                drained = await ask(proxy.admin_port, "POST", f"{member}/drain", host="localhost")
                assert drained.status == 200
                said = await takes(proxy, registry(other.url))
                assert f"registry.endpoints: [{etcd.url}] → [{other.url}]" in said
                await load.shows("new", more_than=20, within=20)
                since = load.answers["both"]
                await load.shows("both", more_than=since + 20, within=20)
                after = await proxy.statuses()
            assert load.failures == []
            assert after == {
                "both": "ready", "new": "ready", "drained": "draining", "bad": "ejected"
            }  # fmt: skip
            metrics = await proxy.metrics()
            assert [
                value for key, value in metrics.items() if key[0] == "fairlead_ejections_total"
            ] == [1.0]
            assert (await proxy.registry())["endpoint"] == other.url


async def test_a_registry_that_does_not_answer_changes_nothing_and_can_be_taken_back(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", "b", script=name) as (one, two):
        await register(etcd, a=one.port)
        async with Site(tmp_path, etcd.url) as proxy:
            async with CountingLoad(proxy.port, clients=4, pace=0.01) as load:
                nowhere = f"http://127.0.0.1:{free_port()}"
                await takes(proxy, registry(nowhere))
                document = await proxy.registry()
                assert not document["connected"]
                assert await proxy.metric("fairlead_registry_up") == 0.0
                assert await proxy.readyz() == 200
                since = load.answers["a"]
                await load.shows("a", more_than=since + 20, within=20)
                await takes(proxy, {})
                await eventually(proxy.connected, 20, "the old registry")
                await register(etcd, b=two.port)
                await load.shows("b", more_than=20, within=20)
            assert load.failures == []


async def test_another_prefix_is_taken_and_one_where_nobody_is_is_doubted(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", "b", script=name) as (one, two):
        await register(etcd, a=one.port)
        await register(etcd, "/others/", b=two.port)
        async with Site(tmp_path, etcd.url) as proxy:
            async with CountingLoad(proxy.port, clients=4, pace=0.01) as load:
                await takes(proxy, registry(etcd.url, prefix="/otters/"))
                await eventually(lambda: proxy.events("registry_empty"), 20, "the doubt")
                assert await proxy.statuses() == {"a": "ready"}
                await takes(proxy, registry(etcd.url, prefix="/others/"))
                await load.shows("b", more_than=20, within=20)
            assert load.failures == []
            assert await proxy.statuses() == {"b": "ready"}


async def test_a_registry_goes_and_another_one_comes_with_all_that_can_be_around_it(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", "b", script=name) as (one, two):
        await register(etcd, a=one.port)
        snapshot = str(tmp_path / "pools.json")
        async with Site(tmp_path, etcd.url) as proxy:
            async with CountingLoad(proxy.port, clients=4, pace=0.01) as load:
                await load.shows("a", more_than=5, within=20)
                services = {"users": {"instances": [two.instance]}}
                await takes(proxy, {"registry": {"type": "static"}, "services": services})
                await load.shows("b", more_than=20, within=20)
                around = {"snapshot": snapshot, "mass_loss_guard": {}, "backups": [
                    {"type": "etcd", "endpoints": [f"http://127.0.0.1:{free_port()}"]}
                ]}  # fmt: skip
                await takes(proxy, registry(etcd.url, **around))
                since = load.answers["a"]
                await load.shows("a", more_than=since + 20, within=20)
                await eventually(Path(snapshot).exists, 10, "the snapshot")
                assert len((await proxy.registry())["sources"]) == 2
                # The same file, which the next provider writes then.
                await takes(proxy, registry(etcd.url, snapshot=snapshot, check_interval="5s"))
                replaced = lambda: len(proxy.events("registry_replaced")) == 3  # noqa: E731
                await eventually(replaced, 10, "the next provider")
                os.unlink(snapshot)
                await register(etcd, a=two.port)
                await eventually(Path(snapshot).exists, 10, "the snapshot of the next one")
            assert load.failures == []


async def test_many_other_registries_and_admin_servers_leave_no_descriptor(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", "b", script=name) as (one, two):
        await register(etcd, a=one.port)
        await register(etcd, "/others/", b=two.port)
        prefixes = {"b": "/others/", "a": "/services/"}
        async with Site(tmp_path, etcd.url) as proxy:
            ports = [free_port(), proxy.admin_port]

            async def turn() -> None:
                for id_, prefix in prefixes.items():
                    before, proxy.admin_port = proxy.admin_port, ports[id_ == "a"]
                    admin = {"admin": {"bind": f"127.0.0.1:{proxy.admin_port}"}}
                    rewrite(proxy, {**registry(etcd.url, prefix=prefix), **admin})
                    answer = await ask(before, "POST", "/api/v1/reload", host="localhost")
                    assert answer.status == 200, answer.body
                    await eventually(partial(_is, proxy, id_, "ready"), 10, id_)

            async def descriptors() -> float:
                return await proxy.metric("process_open_fds", "control") or 0.0

            await turn()
            first = await descriptors()
            for _ in range(10):
                await turn()

            async def no_more() -> bool:
                return await descriptors() <= first

            await eventually(no_more, 10, "as many as before")


async def test_networks_that_are_allowed_are_so_in_all_processes(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with Site(tmp_path, etcd.url) as proxy:
        await register(etcd, a=proxy.admin_port)
        await eventually(lambda: _is(proxy, "a", "unhealthy"), 10, "the refusal")
        await takes(proxy, registry(etcd.url, allow=["127.0.0.0/8"]))
        assert (await ask(proxy.port, "GET", "/healthz", host="localhost")).status == 200
        await takes(proxy, {})
        assert await proxy.statuses() == {"a": "unhealthy"}


async def _is(proxy: Site, id_: str, status: str) -> bool:
    return await proxy.statuses() == {id_: status}


async def test_options_that_cannot_be_used_are_refused_and_nothing_is_touched(
    tmp_path: Path, etcd: EtcdServer
) -> None:
    async with origins("a", script=name) as (one,):
        await register(etcd, a=one.port)
        async with Site(tmp_path, etcd.url) as proxy:
            tls = {"ca": str(tmp_path / "none.pem")}
            rewrite(proxy, registry(etcd.url.replace("http", "https"), tls=tls))
            code, said = await reload(proxy)
            assert code == 2
            assert "registry.tls.ca" in said
            assert await proxy.connected()
            assert (await proxy.registry())["endpoint"] == etcd.url


# ------------------------------------------------------------------------------ the admin server


async def test_the_admin_server_moves_and_answers_who_asked_for_it(tmp_path: Path) -> None:
    async with alone(tmp_path) as proxy:
        async with CountingLoad(proxy.port, clients=4, pace=0.01) as load:
            async with await Client.connect(proxy.admin_port) as idle:
                assert (await idle.ask("GET", "/healthz")).status == 200
                before, proxy.admin_port = proxy.admin_port, free_port()
                rewrite(proxy, {"admin": {"bind": f"127.0.0.1:{proxy.admin_port}"}})
                answer = await ask(before, "POST", "/api/v1/reload", host="localhost")
                assert (answer.status, json.loads(answer.body)["result"]) == (200, "changed")
                assert await idle.is_closed()
            assert {row["ready"] for row in await proxy.workers()} == {True}
            with pytest.raises(ConnectionRefusedError):
                await Client.connect(before)
            since = load.answers["one"]
            await load.shows("one", more_than=since + 20, within=20)
        assert load.failures == []


async def test_the_admin_server_takes_the_same_port_of_another_address(tmp_path: Path) -> None:
    async with alone(tmp_path) as proxy:
        for host in ("0.0.0.0", "127.0.0.1", "localhost"):
            bind = {"bind": f"{host}:{proxy.admin_port}", "token": "t"}
            await takes(proxy, {"admin": bind}, "--token", "t")
            assert await proxy.readyz() == 200


async def test_an_admin_address_that_cannot_be_had_refuses_the_whole_reload(tmp_path: Path) -> None:
    async with alone(tmp_path) as proxy:
        access_log = {"access_log": {"path": str(tmp_path / "access.log")}}
        with socket.create_server(("127.0.0.1", 0)) as taken:
            where = f"127.0.0.1:{taken.getsockname()[1]}"
            rewrite(proxy, {"admin": {"bind": where}, **access_log})
            code, said = await reload(proxy)
            why = f"admin: cannot listen on {where}: the address is in use by another process"
            assert (code, why in said) == (2, True), said
        # What was refused is not in force in part: it is still a change.
        assert "access_log: added" in await takes(proxy, access_log)


async def test_tokens_and_hosts_of_the_admin_server_are_those_of_the_file(tmp_path: Path) -> None:
    async with alone(tmp_path) as proxy:
        rules = {**proxy.config["admin"], "token": "t", "hosts": ["x.example"]}
        async with await Client.connect(proxy.admin_port) as listening:
            await listening.send(request("GET", "/api/v1/events", host="localhost"))
            await listening.read_head()
            await takes(proxy, {"admin": rules})
            assert (await ask(proxy.admin_port, "GET", "/metrics", host="x.example")).status == 401
            known = [("Authorization", "Bearer t")]
            answer = await ask(proxy.admin_port, "GET", "/metrics", known, host="x.example")
            assert answer.status == 200
            # A stream does not go on under the rules from before.
            await listening.rest()
        await takes(proxy, {}, "--token", "t")
        assert (await ask(proxy.admin_port, "GET", "/", host="localhost")).status == 200


async def test_the_admin_server_turns_to_tls_on_its_address_and_back(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("127.0.0.1")
    async with alone(tmp_path) as proxy:
        tls = {"cert": str(cert), "key": str(key)}
        secure = {"admin": {**proxy.config["admin"], "tls": tls}}
        await takes(proxy, secure)
        first = await certificate(proxy.admin_port, authority.client())
        # After a reload of something else renewals are noticed all the same.
        rewrite(proxy, {**secure, "log": {"level": "debug"}})
        proxy.signal(signal.SIGHUP)
        await eventually(lambda: proxy.log().count('"config_reloaded"') == 2, 10, "it")
        authority.issue("127.0.0.1")

        async def renewed() -> bool:
            return await certificate(proxy.admin_port, authority.client()) != first

        await eventually(renewed, 20, "the new certificate")
        rewrite(proxy, {})
        proxy.signal(signal.SIGHUP)
        await eventually(lambda: _ready(proxy), 10, "plain again")


async def certificate(port: int, context: ssl.SSLContext) -> bytes:
    """The one that is shown to a client."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.close()
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    return tls.getpeercert(binary_form=True) or b""


async def _ready(proxy: RunningProxy) -> bool:
    return await proxy.readyz() == 200


# ---------------------------------------------------------------------------------------- the log


async def test_the_log_is_another_one_in_every_process_and_in_those_to_come(tmp_path: Path) -> None:
    async with alone(tmp_path) as proxy:
        before = len(proxy.log())
        await takes(proxy, {"log": {"level": "debug", "format": "console"}})
        for index in (0, 1):
            line = re.compile(rf"\[debug +\] pools_applied .*worker={index}\b")

            async def said(line: re.Pattern[str] = line) -> bool:
                await move(proxy)
                return line.search(proxy.log()[before:]) is not None

            await eventually(said, 10, "a line of each worker")
        os.kill((await proxy.worker_pids())[1], signal.SIGKILL)
        died = re.compile(r"\[error +\] worker_died ")
        await eventually(lambda: died.search(proxy.log()[before:]), 10, "a line of this process")
        await eventually(lambda: _ready(proxy), 10, "the next one")
        assert '"worker": 1' not in proxy.log()[before:]
        await takes(proxy, {"log": {"level": "error"}})
        quiet = len(proxy.log())
        await move(proxy)
        await takes(proxy, {"log": {"level": "info"}})
        events = [json.loads(line)["event"] for line in proxy.log()[quiet:].splitlines()]
        assert events == ["config_reloaded"]


async def move(proxy: RunningProxy) -> None:
    """Something that each worker has a line for at the level `debug`."""
    for what in ("drain", "undrain"):
        path = f"/api/v1/services/users/instances/{await only(proxy)}/{what}"
        assert (await ask(proxy.admin_port, "POST", path, host="localhost")).status == 200


async def only(proxy: RunningProxy) -> str:
    """The id of the only instance."""
    _, document = await proxy.get("/api/v1/services/users")
    id_: str = document["instances"][0]["id"]
    return id_


# ----------------------------------------------------------------------------------------- ACME


async def test_a_storage_of_certificates_that_cannot_be_had_refuses_the_reload(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as proxy:
        (tmp_path / "acme").mkdir()
        place = tmp_path / "acme" / "127.0.0.1-1-dir"
        place.write_text("no directory")
        acme = {"directory": "https://127.0.0.1:1/dir", "domains": ["x.test"]}
        rewrite(proxy, {"acme": acme})
        code, said = await reload(proxy)
        assert (code, f"acme: {place}" in said) == (2, True), said
        place.unlink()
        assert "acme: added" in await takes(proxy, {"acme": acme})
