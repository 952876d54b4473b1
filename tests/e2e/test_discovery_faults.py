"""Everything that happens to etcd, while requests flow through the real proxy.

Each scenario asserts the same: no request fails, and the view that the admin API shows equals the
store within ten seconds of its return. Most of a scenario is waiting (an outage, a back-off, a
token's life), so they all run at the same time, some at once, and each test waits for its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from proxy.embedded_etcd import EtcdFailed
from tests.e2e.discovering import DiscoveringProxy
from tests.e2e.etcd_server import EtcdClient, EtcdCluster, EtcdServer
from tests.e2e.tcp_fault import TcpFault
from tests.e2e.traffic import Fleet, Traffic
from tests.support.processes import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.drill]

OUTAGE = 5.0
RECOVERY = 10.0
"""Seconds from the registry's return until the view equals it."""
AT_ONCE = 4
"""Scenarios that run at the same time: more make a machine of two cores the thing under test."""

SERVED = ("a", "b", "c")
Figures = dict[str, str]


class Site(NamedTuple):
    """A proxy on a registry with the service `users`, under traffic."""

    client: EtcdClient
    fleet: Fleet
    proxy: DiscoveringProxy
    traffic: Traffic
    figures: Figures

    def key(self, instance: str) -> str:
        return f"/services/users/{instance}"

    def note(self, what: str, seconds: float) -> None:
        self.figures[what] = f"{seconds:.2f} s"

    async def notices(self) -> None:
        """The registry is known to be away."""

        async def down() -> bool:
            return await self.proxy.metric("fairlead_registry_up") == 0

        await eventually(down, RECOVERY, "fairlead_registry_up is 0", every=0.1)

    async def changes(self) -> float:
        """`d` comes and `c` goes. The moment of etcd's answer to the second."""
        await self.client.put(self.key("d"), self.fleet.record("d"))
        await self.client.delete(self.key("c"))
        return monotonic()

    async def recovers(self, returned: float, changed: float | None = None) -> None:
        """The changes show, and everything is as in the store again, in time. `changed`: when
        they were made, if that was after the return."""
        since = returned if changed is None else changed
        limit = returned + RECOVERY
        shown, gone, _ = await asyncio.gather(
            self.traffic.shows("d", since=since, limit=limit - monotonic()),
            self.traffic.loses("c", since=since, limit=limit - monotonic()),
            self.proxy.follows(self.client, within=limit - monotonic()),
        )
        self.note("view equals the store after", monotonic() - returned)
        self.note("registration seen after", shown)
        self.note("deletion seen after", gone)
        up, ready = ("fairlead_registry_up",), ("service_instances", "users", "ready")

        async def settled() -> bool:
            metrics = await self.proxy.metrics()
            return metrics[up] == 1 and metrics[ready] == 3

        await eventually(settled, limit - monotonic(), "registry up, three instances ready")

    async def resyncs(self) -> dict[str, float]:
        """`fairlead_registry_resyncs_total` by reason."""
        return {
            name[1]: value
            for name, value in (await self.proxy.metrics()).items()
            if name[0] == "fairlead_registry_resyncs_total"
        }

    def unharmed(self) -> None:
        """Not one request failed or waited."""
        self.traffic.flows(within=OUTAGE - 1)
        self.figures["requests"] = str(len(self.traffic.samples))


@contextlib.asynccontextmanager
async def site(
    directory: Path,
    figures: Figures,
    client: EtcdClient,
    *endpoints: str,
    registry: Mapping[str, Any] | None = None,
) -> AsyncIterator[Site]:
    async with Fleet() as fleet:
        await fleet.add(*SERVED, "d", "in-file")
        file_instance = {"id": "in-file", "address": "127.0.0.1", "port": fleet.ports["in-file"]}
        await client.put_all(fleet.records("users", SERVED))
        async with (
            DiscoveringProxy(
                directory,
                *endpoints,
                registry=registry,
                services={"legacy": {"instances": [file_instance]}},
            ) as proxy,
            Traffic(proxy.port, "/users/1", pace=0.04) as traffic,
        ):
            await traffic.shows(*SERVED, since=0.0)
            yield Site(client, fleet, proxy, traffic, figures)


async def passed(moment: float, seconds: float) -> None:
    await eventually(lambda: monotonic() - moment > seconds, seconds + 5, "time passes")


async def killed(directory: Path, figures: Figures) -> None:
    """SIGKILL, five seconds of nothing, and back with the same data on the same port."""
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        async with site(directory, figures, client, etcd.url) as at:
            assert await at.proxy.metric("fairlead_registry_up") == 1
            await etcd.kill()
            killed_at = monotonic()
            await at.notices()
            at.note("outage noticed after", monotonic() - killed_at)
            # Nobody needs the registry for what stands in the file.
            assert (await at.proxy.ask("/legacy/1"))[0] == 200
            assert await at.proxy.readyz() == 200, "an outage must not take the proxy out"
            await passed(killed_at, OUTAGE)
            age = await at.proxy.metric("fairlead_registry_age_seconds")
            assert age is not None
            assert age > OUTAGE - 0.5
            await etcd.start()
            returned = monotonic()
            await at.recovers(returned, await at.changes())
            assert await at.resyncs() == {}, "a mere disconnect needs no new list"
            age = await at.proxy.metric("fairlead_registry_age_seconds")
            assert age is not None
            assert age < OUTAGE
        at.unharmed()


async def stopped(directory: Path, figures: Figures) -> None:
    """SIGSTOP: connections live, nobody answers; five seconds later it goes on."""
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        async with site(directory, figures, client, etcd.url) as at:
            etcd.pause()
            await passed(monotonic(), OUTAGE)
            etcd.resume()
            returned = monotonic()
            await at.recovers(returned, await at.changes())
            assert await at.resyncs() == {}
        at.unharmed()


async def compacted(directory: Path, figures: Figures) -> None:
    """The way to etcd is cut; meanwhile things change and the history of it is thrown away."""
    async with (
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        TcpFault(etcd.client_port) as fault,
    ):
        async with site(directory, figures, client, fault.url) as at:
            await fault.refuse()
            await at.notices()
            await at.changes()
            await client.compact(await client.revision())
            await client.put(at.key("b"), at.fleet.record("b", metadata={"weight": "3"}))
            await fault.accept()
            await at.recovers(monotonic())
            assert await at.resyncs() == {"compacted": 1}
        at.unharmed()


async def wiped(directory: Path, figures: Figures) -> None:
    """Stopped, data thrown away, started empty; all but one service instance register again.

    The rule: what an emptied store lacks is kept for four seconds, the time in which registrars
    notice that their leases are gone, and only then believed.
    """
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        async with site(directory, figures, client, etcd.url) as at:
            # Some history, so that the empty store is behind.
            await client.put_all(at.fleet.records("users", SERVED))
            await etcd.stop()
            etcd.wipe()
            await etcd.start()
            returned = monotonic()
            await client.put_all(at.fleet.records("users", ["a", "b"]))
            await at.recovers(returned, await at.changes())
            assert await at.resyncs() == {"store_went_back": 1}
            [replaced] = at.proxy.events("registry_store_replaced")
            assert replaced["held"] >= 1
        at.unharmed()


async def emptied(directory: Path, figures: Figures) -> None:
    """Wiped, and nobody registers again: believed after the four seconds, not before."""
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        async with site(directory, figures, client, etcd.url) as at:
            await client.put_all(at.fleet.records("users", SERVED))
            await etcd.stop()
            etcd.wipe()
            await etcd.start()
            returned = monotonic()

            async def relisted() -> bool:
                return bool(await at.resyncs())

            await eventually(relisted, RECOVERY, "the wipe noticed", every=0.05)
            noticed = monotonic()
            assert at.traffic.failed == []
            await at.traffic.until(lambda: at.traffic.failed, "the empty store believed")
            first = at.traffic.failed[0]
            at.note("empty store noticed after", noticed - returned)
            at.note("believed after", first.began - returned)
            # Four seconds from the list on; `noticed` is some polls later than that.
            assert first.began - noticed > 3.0
            assert first.began - returned < RECOVERY
            assert {sample.status for sample in at.traffic.failed} == {503}
            await at.proxy.follows(client, within=returned + RECOVERY - monotonic())
            assert await at.proxy.view() == {}

            await client.put_all(at.fleet.records("users", SERVED))
            shown = await at.traffic.shows(*SERVED, since=monotonic())
            at.note("registrations seen after", shown)
            last = at.traffic.failed[-1]
        assert at.traffic.failed[-1] == last


async def outgrown(directory: Path, figures: Figures) -> None:
    """Wiped while the proxy is cut off, and what others write there takes the empty store past
    the revision that the proxy knows: nothing seems to have gone back."""
    async with (
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        TcpFault(etcd.client_port) as fault,
    ):
        async with site(directory, figures, client, fault.url) as at:
            await fault.refuse()
            await at.notices()
            before = await client.revision()
            await etcd.stop()
            etcd.wipe()
            await etcd.start()
            while await client.put("/elsewhere", "x") < before + 5:
                pass
            await fault.accept()
            returned = monotonic()
            await eventually(at.proxy.connected, RECOVERY, "connected")
            # Only now the services notice.
            await client.put_all(at.fleet.records("users", ["a", "b"]))
            await at.recovers(returned, await at.changes())
            assert await at.resyncs() == {"store_went_back": 1}
        at.unharmed()


async def rewritten(directory: Path, figures: Figures) -> None:
    """Wiped while the proxy is cut off, and filled again such that at the revision that the proxy
    knows, and after it, everything looks as if it had gone on: only an older record differs."""
    async with (
        EtcdServer() as etcd,
        EtcdClient(etcd.url) as client,
        TcpFault(etcd.client_port) as fault,
    ):
        async with site(directory, figures, client, fault.url) as at:
            last = at.fleet.records("users", ["b"])
            await client.put_all(last)
            await at.proxy.follows(client)
            await fault.refuse()
            await at.notices()
            await etcd.stop()
            etcd.wipe()
            await etcd.start()
            # `c` is on another port now.
            await client.put_all(
                at.fleet.records("users", ["a", "b"]) | {at.key("c"): at.fleet.record("d")}
            )
            await client.put_all(last)
            await client.put("/services/orders/a", at.fleet.record("a"))
            await fault.accept()
            returned = monotonic()
            moved = await at.traffic.shows("d", since=returned)
            at.note("the other port seen after", moved)
            await at.proxy.follows(client, within=returned + RECOVERY - monotonic())
            await at.traffic.loses("c", since=returned)
        at.unharmed()


async def cluster(directory: Path, figures: Figures) -> None:
    """Three members, all known to the proxy; the one that it watches is killed."""
    async with EtcdCluster() as members, EtcdClient(members.urls[0]) as first:
        async with site(directory, figures, first, *members.urls) as at:
            async with asyncio.timeout(30):
                while True:
                    # None while the proxy moves from one to another, as on a busy machine it may.
                    endpoint = (await at.proxy.registry())["endpoint"]
                    if endpoint is not None:
                        break
                    await asyncio.sleep(0.05)
            watched = members.at(endpoint)
            other = members.others(watched)[0]
            async with EtcdClient(other.url) as client:
                await watched.kill()
                killed_at = monotonic()
                # If it was the leader, writes are lost until there is another one; etcd says so
                # after seven seconds only.
                await eventually(
                    lambda: landed(client.put(at.key("d"), at.fleet.record("d"))),
                    RECOVERY,
                    "another leader",
                )
                written = monotonic()
                at.note("writable again after", written - killed_at)
                await client.delete(at.key("c"))
                shown = await at.traffic.shows("d", since=written, limit=5)
                gone = await at.traffic.loses("c", since=written, limit=5)
                at.note("registration seen after", shown)
                at.note("deletion seen after", gone)
                await at.proxy.follows(client, within=RECOVERY)

                async def moved() -> bool:
                    document = await at.proxy.registry()
                    return bool(document["connected"]) and document["endpoint"] != watched.url

                await eventually(moved, RECOVERY, "another member is watched")
                assert await at.resyncs() == {}
        at.unharmed()


async def landed(write: Awaitable[Any]) -> bool:
    """Did it succeed within half a second? It may be repeated."""
    try:
        await asyncio.wait_for(write, 0.5)
    except (EtcdFailed, TimeoutError):
        return False
    return True


async def unreachable_at_start(directory: Path, figures: Figures) -> None:
    """Nothing listens where etcd should be; it comes up later."""
    etcd = EtcdServer()
    proxy = DiscoveringProxy(directory, etcd.url, services={"orders": {}})
    proxy.launch()
    launched = monotonic()
    try:

        async def answers() -> bool:
            return await proxy.readyz() == 503

        await eventually(answers, proxy.START, "the admin server answers")
        status, body = await proxy.get("/readyz")
        assert status == 503
        assert body["ready"] is False
        assert body["missing"]

        # Named in the file or found by a template: nobody can know yet who there is.
        for path in ("/orders/1", "/users/1"):
            status, content_type, body = await proxy.ask(path)
            assert (status, content_type) == (503, "application/problem+json"), body
            assert body["error"] == "destination_unavailable"
        figures["first answer after"] = f"{monotonic() - launched:.2f} s"
        assert await proxy.readyz() == 503
        assert await proxy.metric("fairlead_registry_up") == 0
        assert await proxy.metric("fairlead_registry_age_seconds") is None
        [lost] = proxy.events("registry_lost")
        assert (lost["level"], lost["endpoint"]) == ("warning", etcd.url)
        assert "Connect" in lost["error"]
        [told] = proxy.events("registry_not_reached")
        assert (told["level"], told["endpoints"]) == ("warning", [etcd.url])
        assert "Traceback" not in proxy.log()

        async with etcd, EtcdClient(etcd.url) as client, Fleet() as fleet:
            returned = monotonic()
            await fleet.add("a")
            await client.put_all(fleet.records("users", ["a"]))

            async def ready() -> bool:
                return await proxy.readyz() == 200

            await eventually(ready, RECOVERY, "ready")
            figures["ready after etcd's start"] = f"{monotonic() - returned:.2f} s"
            await proxy.follows(client, within=returned + RECOVERY - monotonic())
            assert (await proxy.ask("/users/1"))[0] == 200
            # Now it is known that there is no such service.
            assert (await proxy.ask("/nobody/1"))[0] == 404
            assert await proxy.metric("fairlead_registry_up") == 1
            assert [row["restarts"] for row in await proxy.workers()] == [0, 0]
    finally:
        code = await proxy.stop()
    assert code == 0


async def authenticated(directory: Path, figures: Figures) -> None:
    """A registry with users; the token expires over and over while the proxy runs."""
    options = ("--auth-token-ttl=1", "--bcrypt-cost=4")
    async with EtcdServer(options=options) as etcd, EtcdClient(etcd.url) as client:
        await client.enable_auth("proxy", "secret", "/services/")
        user = {"username": "proxy", "password": "secret"}
        async with site(directory, figures, client, etcd.url, registry=user) as at:
            # The member is asked every four seconds, and each time the token is too old.
            ages = [0.0]

            async def asked_twice() -> bool:
                ages.append((await at.proxy.registry())["age"])
                return sum(later < earlier - 2 for earlier, later in pairwise(ages)) == 2

            await eventually(asked_twice, 2 * RECOVERY, "etcd asked twice", every=0.1)
            await client.login("root", "root")
            changed = await at.changes()
            await at.recovers(changed)
            assert at.proxy.events("registry_lost") == []
            assert await at.resyncs() == {}
        at.unharmed()


async def wrong_password(directory: Path, figures: Figures) -> None:
    """It says so in one line, is not ready, and goes on trying."""
    options = ("--bcrypt-cost=4",)
    user = {"username": "proxy", "password": "wrong-secret"}
    async with EtcdServer(options=options) as etcd, EtcdClient(etcd.url) as client:
        await client.enable_auth("proxy", "secret", "/services/")
        proxy = DiscoveringProxy(directory, etcd.url, registry=user)
        proxy.launch()
        try:
            await eventually(lambda: proxy.events("registry_lost"), proxy.START, "a line of log")
            [line] = proxy.events("registry_lost")
            assert line["level"] == "warning"
            assert "invalid user ID or password" in line["error"]
            status, body = await proxy.get("/readyz")
            assert status == 503
            assert body["missing"]
            assert line["error"] in (await proxy.registry())["last_error"]
            assert "wrong-secret" not in proxy.log()
            assert "Traceback" not in proxy.log()
            assert len(proxy.events("registry_lost")) == 1

            # The operator mends it in etcd; nothing is restarted.
            await client.call("/auth/user/changepw", {"name": "proxy", "password": "wrong-secret"})

            async def ready() -> bool:
                return await proxy.readyz() == 200

            await eventually(ready, RECOVERY, "ready")
        finally:
            code = await proxy.stop()
    assert code == 0


Scenario = Callable[[Path, Figures], Awaitable[None]]
SCENARIOS: tuple[Scenario, ...] = (
    killed,
    emptied,
    authenticated,
    unreachable_at_start,
    wiped,
    cluster,
    stopped,
    compacted,
    wrong_password,
    outgrown,
    rewritten,
)
"""The longest first."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[dict[str, asyncio.Task[Figures]]]:
    """All scenarios, under way."""
    places = asyncio.Semaphore(AT_ONCE)

    async def run(scenario: Scenario) -> Figures:
        figures: Figures = {}
        async with places:
            await scenario(tmp_path_factory.mktemp(scenario.__name__), figures)
        return figures

    tasks = {
        scenario.__name__: asyncio.create_task(run(scenario), name=scenario.__name__)
        for scenario in SCENARIOS
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("name", [scenario.__name__ for scenario in SCENARIOS])
async def test_requests_flow_whatever_happens_to_etcd(
    name: str,
    running: dict[str, asyncio.Task[Figures]],
    record_property: Callable[[str, object], None],
) -> None:
    figures = await asyncio.wait_for(running[name], timeout=100)
    for what, figure in figures.items():
        record_property(what, figure)
