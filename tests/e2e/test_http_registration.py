"""Registration over HTTP through the real proxy into a real etcd."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.control.registrations import CONFIRM, MAX_REGISTRATIONS, Refusal, Registrations
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.static.options import Options as StaticOptions
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.origin import Origin
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

KEY = "/services/users/users-1"
PATH = "/api/v1/services/users/instances/users-1"


@pytest.fixture
async def etcd() -> AsyncIterator[EtcdServer]:
    async with EtcdServer() as server:
        yield server


def config(etcd: EtcdServer, **more: Any) -> dict[str, Any]:
    return {
        "registry": {"type": "etcd", "endpoints": [etcd.url]},
        "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
        **more,
    }


async def call(
    proxy: RunningProxy, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, Any]:
    """Status and document of an admin request."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, proxy.admin + path, data=data, headers=headers) as answer,
    ):
        text = await answer.read()
        return answer.status, json.loads(text) if text else None


async def served(proxy: RunningProxy) -> int:
    """Status of a request to the service."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(proxy.url + "/users/x", timeout=aiohttp.ClientTimeout(total=5)) as answer,
    ):
        return answer.status


async def stored(etcd: EtcdServer) -> dict[str, Any]:
    """Key → record."""
    async with EtcdClient(etcd.url) as client:
        return {key: json.loads(value) for key, value in (await client.get_all("/serv")).items()}


async def test_a_registration_from_put_to_delete(etcd: EtcdServer, tmp_path: Path) -> None:
    async with Origin() as origin, RunningProxy(config(etcd), tmp_path) as proxy:
        record: dict[str, Any] = {
            "address": "127.0.0.1",
            "port": origin.port,
            "version": "1.4.0",
            "metadata": {"weight": 2, "zone": "eu-1"},
            "name": "ignored",
        }
        status, body = await call(proxy, "PUT", PATH, record)
        assert (status, body["state"], body["ttl"]) == (201, "registered", 30.0)
        assert (body["service"], body["id"]) == ("users", "users-1")
        assert 29 < body["expires_in"] <= 30

        written = (await stored(etcd))[KEY]
        assert written.pop("register_time").endswith("Z")
        assert written.pop("health")["status"] == "healthy"
        assert written == {
            "id": "users-1",
            "name": "users",
            "version": "1.4.0",
            "address": "127.0.0.1",
            "port": origin.port,
            "metadata": {"weight": "2", "zone": "eu-1"},
        }

        async def answers(wanted: int) -> bool:
            return await served(proxy) == wanted

        await eventually(lambda: answers(200), 2, "served")
        assert (await call(proxy, "POST", PATH + "/heartbeat"))[0] == 200
        _, body = await call(proxy, "GET", "/api/v1/registrations")
        assert [row["id"] for row in body["registrations"]] == ["users-1"]

        # The same again is a heartbeat; another record is written in place, and back again.
        async with EtcdClient(etcd.url) as client:
            before = await client.revision()
            assert (await call(proxy, "PUT", PATH, record | {"ttl": 20}))[0] == 200
            assert await client.revision() == before
            for health, wanted in (({"status": "draining"}, 503), (None, 200)):
                status, body = await call(proxy, "PUT", PATH, record | {"health": health})
                assert (status, body["state"]) == (200, "registered")
                await eventually(lambda wanted=wanted: answers(wanted), 2, f"answer {wanted}")
            assert await client.revision() == before + 2

        assert await call(proxy, "DELETE", PATH) == (204, None)
        assert await stored(etcd) == {}
        for method, path in (("DELETE", PATH), ("POST", PATH + "/heartbeat")):
            status, body = await call(proxy, method, path)
            assert (status, "users/users-1" in body["detail"]) == (404, True)


async def test_an_instance_that_falls_silent_is_deregistered(etcd: EtcdServer) -> None:
    registrations = Registrations(EtcdOptions(endpoints=(etcd.url,)))
    one, two = ("users", "users-1"), ("users", "users-2")
    try:
        await registrations.put(one, b'{"address": "127.0.0.1", "port": 80, "ttl": "4s"}')
        await registrations.put(two, b'{"address": "127.0.0.1", "port": 80, "ttl": 60}')
        beaten = began = time.monotonic()
        while beaten - began < 5.0:
            assert registrations.heartbeat(one)["state"] == "registered"
            assert len(await stored(etcd)) == 2
            beaten = time.monotonic()
        registrations.heartbeat(one)

        async def gone() -> bool:
            return list(await stored(etcd)) == ["/services/users/users-2"]

        await eventually(gone, 10, "the end of users-1 alone")
        assert time.monotonic() - beaten > 4.0
        with pytest.raises(Refusal) as refused:
            registrations.heartbeat(one)
        assert refused.value.status == 404
        assert registrations.expired == 1
    finally:
        await registrations.close()


async def test_refused_registrations_say_why(etcd: EtcdServer, tmp_path: Path) -> None:
    instance = {"id": "a", "address": "127.0.0.1", "port": 80}
    admin_port = free_port()
    proxy = RunningProxy(
        config(
            etcd,
            services={"legacy": {"instances": [instance]}},
            admin={"bind": f"127.0.0.1:{admin_port}", "token": "s3cret"},
        ),
        tmp_path,
    )
    proxy.admin_port = admin_port
    token = {"Authorization": "Bearer s3cret"}
    async with proxy:
        for method, path in (("PUT", PATH), ("DELETE", PATH), ("POST", PATH + "/heartbeat")):
            assert (await call(proxy, method, path, instance))[0] == 401
        status, body = await call(proxy, "PUT", PATH, {"port": "80", "ttl": 0}, **token)
        assert (status, body["status"]) == (400, 400)
        assert [error["pointer"] for error in body["errors"]] == ["/address", "/port", "/ttl"]
        assert body["errors"][1]["detail"] == '"80": must be a whole number from 1 to 65535'
        status, body = await call(proxy, "PUT", PATH.replace("users-1", "a%2Fb"), instance, **token)
        assert (status, [error["pointer"] for error in body["errors"]]) == (400, ["instance"])
        status, body = await call(proxy, "PUT", PATH, b"{" + b" " * 20_000, **token)
        assert status == 413
        status, body = await call(
            proxy, "PUT", PATH.replace("users/", "legacy/"), instance, **token
        )
        assert (status, "'legacy'" in body["detail"]) == (409, True)
        assert await stored(etcd) == {}


async def test_a_static_registry_takes_none(tmp_path: Path) -> None:
    async with RunningProxy({"routes": [{"path_prefix": "/", "service": "x"}]}, tmp_path) as proxy:
        status, _ = await call(proxy, "PUT", PATH, {"address": "127.0.0.1", "port": 80})
        assert status == 501


async def test_an_outage_of_etcd(etcd: EtcdServer, tmp_path: Path) -> None:
    """Registrations are taken while etcd is down, and kept by heartbeats."""
    record = {"address": "127.0.0.1", "port": 80, "ttl": 10}
    other = PATH.replace("users-1", "users-2")
    async with RunningProxy(config(etcd), tmp_path) as proxy:
        assert (await call(proxy, "PUT", PATH, record))[0] == 201
        await etcd.kill()
        status, body = await call(proxy, "PUT", other, record)
        assert (status, body["state"]) == (202, "pending")
        assert (await call(proxy, "POST", PATH + "/heartbeat"))[0] == 200
        etcd.wipe()  # The lease, and every key, is lost as well.
        await etcd.start()

        async def registered() -> bool:
            for path in (PATH, other):
                status, body = await call(proxy, "POST", path + "/heartbeat")
                if status != 200 or body["state"] != "registered":
                    return False
            return len(await stored(etcd)) == 2

        # The keep-alive of a 30 s lease is due every 10 s.
        await eventually(registered, 12, "both registered again")


async def test_a_restart_deregisters_nobody(etcd: EtcdServer, tmp_path: Path) -> None:
    record = {"address": "127.0.0.1", "port": 80, "ttl": 5}
    proxy = RunningProxy(config(etcd), tmp_path)
    async with proxy:
        assert (await call(proxy, "PUT", PATH, record))[0] == 201
        assert await proxy.stop() == 0
        assert KEY in await stored(etcd)
        await proxy.start()
        # It knows the instance from etcd, and nothing of its heartbeats.
        assert (await call(proxy, "POST", PATH + "/heartbeat"))[0] == 404
        _, body = await call(proxy, "GET", "/api/v1/services/users")
        assert [row["id"] for row in body["instances"]] == ["users-1"]
        assert (await call(proxy, "PUT", PATH, record | {"port": 81}))[0] == 201
        assert (await stored(etcd))[KEY]["port"] == 81
        await proxy.kill()
        assert KEY in await stored(etcd)


async def test_the_last_to_be_told_has_the_instance(etcd: EtcdServer) -> None:
    """Two proxies, as two owners of registrations: a service moves from one to the other."""
    settings = EtcdOptions(endpoints=(etcd.url,))
    # One keeper serves all registrars of a process with the same settings: make them differ.
    other = EtcdOptions(endpoints=(etcd.url, etcd.url))
    old, new = Registrations(settings), Registrations(other)
    name = ("users", "users-1")
    try:
        created, document = await old.put(name, b'{"address": "10.0.0.1", "port": 80, "ttl": 2}')
        assert (created, document["state"]) == (True, "registered")
        created, document = await new.put(name, b'{"address": "10.0.0.1", "port": 81}')
        assert (created, document["state"]) == (True, "registered")
        await eventually(lambda: not old.documents(), 5, "the end at the first")
        assert old.expired == 1
        assert (await stored(etcd))[KEY]["port"] == 81
        # And back again.
        _, document = await old.put(name, b'{"address": "10.0.0.1", "port": 82}')
        assert document["state"] == "registered"
        assert (await stored(etcd))[KEY]["port"] == 82
    finally:
        await old.close()
        await new.close()


async def test_leaving_and_returning_at_once(etcd: EtcdServer) -> None:
    registrations = Registrations(EtcdOptions(endpoints=(etcd.url,)))
    name = ("users", "users-1")
    body = b'{"address": "10.0.0.1", "port": 80}'
    try:
        await registrations.put(name, body)
        for _ in range(5):
            _, (created, _) = await asyncio.gather(
                registrations.delete(name), registrations.put(name, body)
            )
            assert created
        await eventually(
            lambda: registrations.heartbeat(name)["state"] == "registered", 5, "registered"
        )
        assert list(await stored(etcd)) == [KEY]
        # Two at once are one registration.
        await registrations.delete(name)
        both = await asyncio.gather(registrations.put(name, body), registrations.put(name, body))
        assert sorted(created for created, _ in both) == [False, True]
        assert len(registrations.documents()) == 1
    finally:
        await registrations.close()


async def test_the_number_of_registrations_has_a_bound() -> None:
    dead = EtcdOptions(endpoints=(f"http://127.0.0.1:{free_port()}",))
    registrations = Registrations(dead)
    body = b'{"address": "10.0.0.1", "port": 80}'
    try:
        began = time.monotonic()
        put = [registrations.put(("users", f"u{n}"), body) for n in range(MAX_REGISTRATIONS)]
        answers = await asyncio.gather(*put)
        assert time.monotonic() - began < CONFIRM + 5
        assert {document["state"] for _, document in answers} == {"pending"}
        with pytest.raises(Refusal, match=str(MAX_REGISTRATIONS)) as refused:
            await registrations.put(("users", "one-more"), body)
        assert refused.value.status == 503
        await registrations.delete(("users", "u0"))
        assert len(registrations.documents()) == MAX_REGISTRATIONS - 1
    finally:
        await registrations.close()


async def test_registrations_go_along_to_another_registry(etcd: EtcdServer) -> None:
    registrations = Registrations(EtcdOptions(endpoints=(etcd.url,)))
    name = ("users", "users-1")
    try:
        async with EtcdServer() as other:
            await registrations.put(name, b'{"address": "10.0.0.1", "port": 80}')
            await registrations.follow(EtcdOptions(endpoints=(other.url,)))
            await eventually(
                lambda: registrations.heartbeat(name)["state"] == "registered", 5, "registered"
            )
            assert list(await stored(other)) == [KEY]
            assert list(await stored(etcd)) == [KEY]  # Its lease runs out.
        await registrations.follow(StaticOptions())
        with pytest.raises(Refusal) as unknown:
            registrations.heartbeat(name)
        assert unknown.value.status == 404
        assert registrations.documents() == []
    finally:
        await registrations.close()
