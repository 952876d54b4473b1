"""The etcd provider against real servers, with everything done to them that happens to etcd.

Each outage asserts the same two things: the membership never loses an instance that is still
registered, and it equals the store within ten seconds of the store's return.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
from structlog.testing import capture_logs

from proxy.embedded_etcd import EmbeddedEtcd
from proxy.membership import Instance, Membership
from proxy.registry.etcd.options import Options as EtcdOptions
from proxy.registry.etcd.provider import EtcdProvider
from proxy.registry.followed import Timing
from proxy.settings.registry import RegistryTls
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import BINARY, EtcdClient, EtcdCluster, EtcdServer
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import eventually


def record(port: int = 8080, **fields: Any) -> str:
    return json.dumps({"address": "10.0.0.1", "port": port, **fields})


def fleet(service: str, size: int, port: int = 8080) -> dict[str, str]:
    return {f"/services/{service}/{service}-{n}": record(port + n) for n in range(size)}


class Observed:
    """Owns a provider while it is watched, and remembers every membership it yielded."""

    def __init__(self, *urls: str, timing: Timing | None = None, **settings: Any) -> None:
        self.provider = EtcdProvider(
            EtcdOptions(endpoints=urls, **settings),
            timing=timing,
            rng=random.Random(7),
        )
        self.memberships: list[Membership] = []
        self._task: asyncio.Task[None] | None = None

    async def _watch(self) -> None:
        async for membership in self.provider.watch():
            self.memberships.append(membership)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        await self.provider.close()
        await self._task

    @property
    def now(self) -> Membership:
        return self.memberships[-1]

    @property
    def connected(self) -> bool:
        return self.provider.status().connected

    def registered(self, membership: Membership | None = None) -> set[str]:
        services = (membership or self.now).services
        return {f"/services/{s}/{i.id}" for s, members in services.items() for i in members}

    def one(self, service: str) -> Instance:
        (instance,) = self.now.services[service]
        return instance

    def equals(self, store: Mapping[str, str | bytes]) -> bool:
        """Keys and ports, which is what differs in these tests."""
        if not self.memberships:
            return False
        seen = {
            f"/services/{service}/{instance.id}": instance.port
            for service, members in self.now.services.items()
            for instance in members
        }
        return seen == {key: json.loads(value)["port"] for key, value in store.items()}

    async def follows(self, client: EtcdClient, within: float = 10.0) -> None:
        """The view equals what is in the store at this moment."""
        store = await client.get_all("/services/")
        await eventually(
            lambda: self.equals(store), within=within, what=lambda: self.provider.status()
        )

    async def comes_up(self) -> None:
        await eventually(lambda: self.connected, what=self.provider.status)

    async def goes_down(self) -> None:
        await eventually(lambda: not self.connected, what=self.provider.status)

    async def complains(self, words: str) -> None:
        await eventually(
            lambda: words in (self.provider.status().last_error or ""),
            what=self.provider.status,
        )

    def never_without(self, keys: set[str], since: int) -> bool:
        """No membership from the one with number `since` on lacks any of `keys`."""
        return all(keys <= self.registered(membership) for membership in self.memberships[since:])


# ------------------------------------------------------------------------------ following


async def test_the_view_follows_bursts_updates_deletes_and_leases() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 3))
        async with Observed(etcd.url) as seen:
            await seen.follows(client)

            burst = fleet("burst", 500)
            await asyncio.gather(*(client.put(key, value) for key, value in burst.items()))
            await seen.follows(client)
            assert len(seen.memberships) < 150, "bursts are not coalesced"

            await client.put("/services/users/users-1", record(9999))
            await client.delete("/services/users/users-2")
            await client.delete("/services/burst/", prefix=True)
            await seen.follows(client)
            assert seen.registered() == {"/services/users/users-0", "/services/users/users-1"}

            # A lease that is not kept alive takes its keys along.
            lease = await client.grant(1)
            await client.put("/services/users/leased", record(), lease)
            await eventually(lambda: "/services/users/leased" in seen.registered())
            await eventually(lambda: "/services/users/leased" not in seen.registered())

            assert seen.provider.status().resyncs == {}


async def test_health_and_bad_values_touch_only_their_own_service() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("other", 3) | {"/services/users/a": record(weight=1)})
        async with Observed(etcd.url) as seen:
            await seen.follows(client)
            other = seen.now.services["other"]

            def has_health(status: str) -> bool:
                return seen.one("users").health == status

            for status in ("draining", "unhealthy", "healthy"):
                await client.put("/services/users/a", record(health={"status": status}))
                await eventually(partial(has_health, status))

            await client.put("/services/users/a", "{ not json")
            await client.put("/services/users/b", record(port=70000))
            await client.put("/services/users/c/d", record())
            await client.put("/services/after/a", record())
            await eventually(lambda: "after" in seen.now.services)
            assert [i.id for i in seen.now.services["users"]] == ["a"]
            assert seen.one("users").health == "healthy"
            assert seen.now.services["other"] is other
            invalid = {bad.key: bad.kept for bad in seen.provider.status().invalid}
            assert invalid == {
                "/services/users/a": True,
                "/services/users/b": False,
                "/services/users/c/d": False,
            }

            await client.put("/services/users/a", record(port=1))
            await client.delete("/services/users/b")
            await client.delete("/services/users/c/d")
            await eventually(lambda: not seen.provider.status().invalid)
            await eventually(lambda: seen.one("users").port == 1)


async def test_five_thousand_instances_are_listed_in_pages() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        for n in range(5):
            await client.put_all(fleet(f"service{n}", 1000))
        async with Observed(etcd.url) as seen:
            await seen.follows(client)
            assert len(seen.memberships) == 1
            assert seen.provider.status().instances == 5000


def plain_names() -> bool:
    """Whether the etcd under test calls its options as etcd does from 3.6 on."""
    if BINARY is None:
        return False
    told = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
    version = told.split()[2].split(".")
    return (int(version[0]), int(version[1])) >= (3, 6)


async def test_progress_notifications_move_the_resume_point() -> None:
    prefix = "" if plain_names() else "experimental-"
    options = (f"--{prefix}watch-progress-notify-interval=300ms",)
    async with EtcdServer(options=options) as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 1))
        async with Observed(etcd.url) as seen:
            await seen.follows(client)
            for _ in range(5):
                revision = await client.put("/elsewhere", "x")
            await eventually(lambda: seen.provider.status().revision == revision)
            await client.compact(revision)
            await etcd.kill()
            await seen.goes_down()
            await etcd.start()
            await seen.comes_up()
            assert seen.provider.status().resyncs == {}


async def test_reconciliation_finds_nothing_while_the_store_changes() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 20))
        timing = Timing(reconcile=0.05, probe=0.05)
        async with Observed(etcd.url, timing=timing) as seen:
            await seen.comes_up()
            for n in range(150):
                await client.put(f"/services/users/users-{n % 20}", record(n + 1))
                await client.delete(f"/services/users/users-{(n * 7) % 20}")
            await seen.follows(client)
            assert seen.provider.status().differences == 0
            assert seen.provider.status().resyncs == {}


# -------------------------------------------------------------------------------- outages


async def test_a_provider_starts_without_a_registry_and_says_so_once() -> None:
    etcd = EtcdServer()
    with capture_logs() as logs:
        async with Observed(etcd.url, timing=Timing(backoff_limit=0.5)) as seen:
            await eventually(lambda: len(logs) > 5)
            assert seen.memberships == []
            assert seen.provider.status().age is None
            async with etcd, EtcdClient(etcd.url) as client:
                await client.put_all(fleet("users", 2))
                await seen.follows(client)
                await seen.comes_up()
                told = [line["event"] for line in logs if line["log_level"] != "debug"]
    assert told == ["registry_lost", "registry_connected"]


async def test_killed_for_five_seconds_and_restarted() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 4))
        async with Observed(etcd.url) as seen:
            await seen.follows(client)
            await seen.comes_up()
            since = len(seen.memberships) - 1
            await etcd.kill()
            down_at = time.monotonic()
            await eventually(lambda: time.monotonic() > down_at + 5)
            assert not seen.connected
            age = seen.provider.status().age
            assert age is not None
            assert age > 4
            await etcd.start()
            await client.put_all(fleet("users", 6))
            await seen.follows(client)
            assert seen.never_without(set(fleet("users", 4)), since)
            assert seen.provider.status().resyncs == {}, "a mere disconnect needs no list"


async def test_stopped_member_is_noticed_although_its_connections_live() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 4))
        async with Observed(etcd.url) as seen:
            await seen.comes_up()
            since = len(seen.memberships) - 1
            etcd.pause()
            await seen.goes_down()
            etcd.resume()
            await client.put_all(fleet("users", 6))
            await seen.follows(client)
            assert seen.never_without(set(fleet("users", 4)), since)


async def test_black_hole_between_proxy_and_registry() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 4))
        timing = Timing(probe=0.5, probe_limit=0.5)
        async with TcpFault(etcd.client_port) as fault, Observed(fault.url, timing=timing) as seen:
            await seen.comes_up()
            since = len(seen.memberships) - 1
            fault.freeze()
            await client.put_all(fleet("users", 6))
            await seen.goes_down()
            fault.thaw()
            await seen.follows(client)
            assert seen.never_without(set(fleet("users", 4)), since)


async def test_stream_cut_in_the_middle_of_a_frame() -> None:
    async with (
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        TcpFault(etcd.client_port) as fault,
        Observed(fault.url) as seen,
    ):
        await seen.comes_up()
        for n, cut in enumerate((1, 100, 5_000, 10_000)):
            await client.put_all(fleet("users", 30, port=1000 * n + 1))
            await seen.follows(client)
            fault.cut_after = cut
            await client.put_all(fleet("users", 60, port=1000 * n + 501))
            await seen.follows(client)
            await eventually(lambda: fault.cut_after is None)
        assert seen.provider.status().resyncs == {}


async def test_compacted_while_cut_off() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 6))
        async with TcpFault(etcd.client_port) as fault, Observed(fault.url) as seen:
            await seen.comes_up()
            since = len(seen.memberships)
            await fault.refuse()
            await seen.goes_down()
            await client.put_all(fleet("orders", 3))
            await client.delete("/services/users/users-5")
            await client.put("/services/users/users-0", record(1))
            await client.compact(await client.revision())
            await client.put("/services/users/users-1", record(2))
            await fault.accept()
            await seen.follows(client)
            assert seen.provider.status().resyncs == {"compacted": 1}
            assert seen.never_without(set(fleet("users", 5)), since)


# ------------------------------------------------------------------- a store that went back


async def test_wiped_store_never_empties_the_pools() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        users = fleet("users", 5)
        for key, value in users.items():
            await client.put(key, value)
        async with Observed(etcd.url) as seen:
            await seen.comes_up()
            since = len(seen.memberships) - 1
            await rebuild(etcd)
            await eventually(lambda: "store_went_back" in seen.provider.status().resyncs)
            assert seen.registered() == set(users)
            # All but one register again.
            del users["/services/users/users-2"]
            await client.put_all(users)
            assert "/services/users/users-2" in seen.registered()
            await seen.follows(client)
            assert seen.never_without(set(users), since)


async def test_wiped_store_that_stays_empty_is_believed_in_the_end() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 5))
        await client.put_all(fleet("orders", 5))
        async with Observed(etcd.url, timing=Timing(hold=1.0)) as seen:
            await seen.comes_up()
            await rebuild(etcd)
            await seen.follows(client)
            assert seen.now.services == {}


async def test_another_history_at_the_same_revision() -> None:
    async with (
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        TcpFault(etcd.client_port) as fault,
        Observed(fault.url) as seen,
    ):
        await client.put_all(fleet("users", 5))
        await seen.follows(client)
        await seen.comes_up()
        await fault.refuse()
        before = await client.revision()
        await rebuild(etcd)
        await client.put_all(fleet("users", 5, port=100))
        assert await client.revision() == before
        await fault.accept()
        await seen.follows(client)
        assert seen.provider.status().resyncs == {"store_went_back": 1}


async def test_another_history_that_got_further_is_found_by_reconciliation() -> None:
    """The worst case: what the watch resumes with looks like a continuation, and the newest
    key and the count agree as well. Only a full comparison can tell."""
    async with (
        EtcdServer() as etcd,
        TcpFault(etcd.client_port) as fault,
        EtcdClient(etcd.url) as client,
        Observed(fault.url, timing=Timing(reconcile=5.0, probe=0.5, backoff_limit=0.5)) as seen,
    ):
        await client.put("/services/users/a", record(1))
        await client.put("/services/users/b", record(2))
        await seen.follows(client)
        await seen.comes_up()
        await fault.refuse()
        await rebuild(etcd)
        await client.put("/services/users/a", record(7))
        await client.put("/services/users/b", record(2))
        await client.put("/services/users/b", record(3))
        await fault.accept()
        await seen.follows(client)
        assert seen.provider.status().resyncs == {"reconcile": 1}
        assert seen.provider.status().differences == 1


async def rebuild(etcd: EtcdServer) -> None:
    """The same server with nothing in it."""
    await etcd.kill()
    etcd.wipe()
    await etcd.start()


# -------------------------------------------------------------------------------- clusters


async def test_watched_member_killed() -> None:
    async with EtcdCluster() as cluster, Observed(*cluster.urls) as seen:
        await seen.comes_up()
        member = cluster.at(seen.provider.status().endpoint)
        survivor = cluster.others(member)[0]
        async with EtcdClient(survivor.url) as client:
            await client.put_all(fleet("users", 5))
            await seen.follows(client)
            since = len(seen.memberships) - 1
            await member.kill()
            await seen.goes_down()
            await seen.comes_up()
            await client.put_all(fleet("users", 7))
            await seen.follows(client)
            assert seen.never_without(set(fleet("users", 5)), since)
            assert cluster.at(seen.provider.status().endpoint) is not member


async def test_watched_member_cut_off_from_its_quorum() -> None:
    async with EtcdCluster() as cluster, Observed(*cluster.urls) as seen:
        await seen.comes_up()
        member = cluster.at(seen.provider.status().endpoint)
        other = cluster.others(member)[0]
        async with EtcdClient(other.url) as client:
            await client.put_all(fleet("users", 5))
            await seen.follows(client)
            since = len(seen.memberships) - 1
            await cluster.partition(member)
            await seen.goes_down()
            await seen.comes_up()
            assert cluster.at(seen.provider.status().endpoint) is not member
            await client.put_all(fleet("users", 7))
            await seen.follows(client)
            await cluster.heal(member)
            await client.put_all(fleet("users", 9))
            await seen.follows(client)
            assert seen.never_without(set(fleet("users", 5)), since)
            assert seen.provider.status().resyncs == {}


# ------------------------------------------------------------------- who may, and to whom


async def test_token_expires() -> None:
    options = ("--auth-token-ttl=1", "--bcrypt-cost=4")
    async with EtcdServer(options=options) as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 5))
        await client.enable_auth("proxy", "secret", "/services/")
        user: dict[str, Any] = {"username": "proxy", "password": "secret"}
        async with TcpFault(etcd.client_port) as fault, Observed(fault.url, **user) as seen:
            await seen.comes_up()
            since = len(seen.memberships) - 1
            # Longer than the token lives, with no probe in between to keep it fresh.
            await fault.refuse()
            await seen.goes_down()
            cut_at = time.monotonic()
            await eventually(lambda: time.monotonic() > cut_at + 2.5)
            await fault.accept()
            await seen.comes_up()
            await client.login("root", "root")
            await client.put_all(fleet("users", 6))
            await seen.follows(client)
            assert seen.never_without(set(fleet("users", 5)), since)
            assert seen.provider.status().resyncs == {}


async def test_refused_logins_and_permissions_say_so() -> None:
    options = ("--bcrypt-cost=4",)
    async with EtcdServer(options=options) as etcd, EtcdClient(etcd.url) as client:
        await client.enable_auth("proxy", "secret", "/services/")

        async with (
            Observed(etcd.url) as nobody,
            Observed(etcd.url, username="proxy", password="wrong") as stranger,
            Observed(etcd.url, username="proxy", password="secret", prefix="/x/") as curious,
        ):
            await nobody.complains("user name is empty")
            await stranger.complains("invalid user ID or password")
            await curious.complains("permission denied")
            assert nobody.memberships == stranger.memberships == curious.memberships == []


async def test_a_user_for_a_registry_without_authentication() -> None:
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        await client.put_all(fleet("users", 2))
        async with Observed(etcd.url, username="proxy", password="secret") as seen:
            await seen.follows(client)


async def test_tls_checks_the_authority_and_the_host_name(tmp_path: Any) -> None:
    authority = Authority(tmp_path)
    stranger = Authority(tmp_path, "stranger")
    os.mkfifo(tmp_path / "pipe")
    files = authority.issue("127.0.0.1")
    context = ssl.create_default_context(cafile=str(authority.ca))
    async with EtcdServer(tls_files=files, tls=context) as etcd:
        by_name = f"https://localhost:{etcd.client_port}"
        trusted = RegistryTls(ca=str(authority.ca))
        async with (
            EtcdClient(etcd.url, context) as client,
            Observed(etcd.url, tls=trusted) as seen,
            Observed(by_name, tls=trusted) as misnamed,
            Observed(etcd.url, tls=RegistryTls(ca=str(stranger.ca))) as untrusted,
            Observed(etcd.url, tls=RegistryTls(ca="/nowhere/ca.pem")) as missing,
            Observed(etcd.url, tls=RegistryTls(ca=str(tmp_path / "pipe"))) as waiting,
        ):
            await client.put_all(fleet("users", 2))
            await seen.follows(client)
            for refused, words in (
                (misnamed, "Hostname mismatch"),
                (untrusted, "CERTIFICATE_VERIFY_FAILED"),
                (missing, "/nowhere/ca.pem"),
                (waiting, "named pipe"),
            ):
                await refused.complains(words)
                assert refused.memberships == []


async def test_gateway_switched_off_is_named() -> None:
    async with (
        EtcdServer(options=("--enable-grpc-gateway=false",)) as etcd,
        Observed(etcd.url) as seen,
    ):
        await seen.complains("enable-grpc-gateway")
        assert seen.memberships == []


# ------------------------------------------------------------------------ the embedded one


async def test_embedded_server_leaves_nothing_behind() -> None:
    embedded = EmbeddedEtcd()
    async with embedded, EtcdClient(embedded.url) as client:
        directory = embedded.directory
        assert directory is not None
        assert directory.exists()
        assert embedded.pid > 0
        await client.put("/services/a/b", record())
        assert set(await client.get_all("/services/")) == {"/services/a/b"}
    assert not directory.exists()
    await embedded.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
async def test_embedded_server_does_not_outlive_its_parent() -> None:
    script = """
import asyncio
from proxy.embedded_etcd import EmbeddedEtcd

async def main():
    async with EmbeddedEtcd() as etcd:
        print(etcd.pid, etcd.directory, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(30):
        pid, directory = (await parent.stdout.readline()).decode().split()
    try:
        os.kill(int(pid), 0)
        parent.kill()
        await parent.wait()
        await eventually(lambda: not runs(int(pid)))
    finally:
        shutil.rmtree(directory)


def runs(pid: int) -> bool:
    """A zombie that nobody collects (no init in a container) does not count."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
