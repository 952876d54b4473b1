"""The supervisor with real processes that follow a script: good, mute, crashing, deaf."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.control import status
from proxy.control.events import Listener
from proxy.control.launch import ProcessLaunch
from proxy.control.listeners import Listeners
from proxy.control.pools import PoolRegistry
from proxy.control.slots import Slots
from proxy.control.sockets import listen
from proxy.control.supervisor import Supervisor
from proxy.engine.load import ROWS, SLOTS, Board
from proxy.membership import Instance, Membership
from proxy.messages import WorkerConfig
from proxy.registry.base import Provider
from proxy.settings.file import Settings
from proxy.settings.listener import ListenerSettings
from proxy.settings.registry import Registry
from proxy.settings.service import PoolSettings
from proxy.statuses import RegistryStatus
from tests.support.processes import Slowdown, alive, eventually, free_port

ROOT = Path(__file__).parents[2]


class HandFed(Provider):
    """A provider that yields what the test puts in."""

    name = "hand-fed"

    def __init__(self) -> None:
        self.memberships: asyncio.Queue[Membership | Exception] = asyncio.Queue()
        self.closed = 0

    async def watch(self) -> AsyncIterator[Membership]:
        while True:
            given = await self.memberships.get()
            if isinstance(given, Exception):
                raise given
            yield given

    def status(self) -> RegistryStatus:
        return RegistryStatus(provider=self.name, connected=True)

    async def close(self) -> None:
        self.closed += 1


def kinds(listener: Listener) -> list[str]:
    """What a listener heard since it was last asked."""
    return [event.split(b"\n")[1].removeprefix(b"event: ").decode() for event in listener.take()[0]]


def membership(**services: int) -> Membership:
    """`users=2`: a service `users` of two instances."""
    return Membership(
        services={
            service: tuple(
                Instance(service=service, id=f"i{n}", address="10.0.0.1", port=n)
                for n in range(1, count + 1)
            )
            for service, count in services.items()
        }
    )


class Stage:
    """A supervisor, its provider, and the address its workers listen on."""

    def __init__(self, supervisor: Supervisor, provider: HandFed, address: str) -> None:
        self.supervisor = supervisor
        self.provider = provider
        self.host, _, port = address.rpartition(":")
        self.port = int(port)

    async def ask(self) -> dict[str, object]:
        """What one worker answers to a connection."""
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(self.host, self.port)
            body = await reader.read()
            writer.close()
            await writer.wait_closed()
        answer: dict[str, object] = json.loads(body)
        return answer

    def pids(self) -> list[int]:
        return [worker.current.pid for worker in self.supervisor.workers if worker.current]

    async def ready(self) -> None:
        await eventually(lambda: not self.supervisor.missing(), 15, "ready")


@asynccontextmanager
async def stage(
    script: str, workers: int = 1, pools: dict[str, PoolSettings] | None = None
) -> AsyncIterator[Stage]:
    settings = Settings(workers=workers)
    board = Board.create(ROWS)
    listeners = Listeners()
    listeners.current = [listen("web", "127.0.0.1:0", workers)]
    provider = HandFed()
    supervisor = Supervisor(
        settings,
        WorkerConfig(),
        PoolRegistry({}, Slots(SLOTS, board.idle), 0.0, settings=pools),
        board,
        ProcessLaunch(
            program=[sys.executable, str(ROOT / "tests/e2e/scripted_worker.py")],
            board=board.fd,
            environ=lambda: {"WORKER_SCRIPT": script, "PYTHONPATH": str(ROOT)},
        ),
        listeners,
        lambda registry: provider,
    )
    await supervisor.start_workers()
    supervisor.start()
    try:
        yield Stage(supervisor, provider, listeners.current[0].address)
    finally:
        await supervisor.kill()
        await supervisor.close()
        listeners.close()
        board.close()


async def test_a_worker_learns_the_first_set_and_each_change() -> None:
    async with stage("good") as on:
        on.provider.memberships.put_nowait(membership(users=1, orders=1))
        await on.ready()
        first = await on.ask()
        assert first["services"] == {"users": ["i1@10.0.0.1:1"], "orders": ["i1@10.0.0.1:1"]}
        on.provider.memberships.put_nowait(membership(users=2))

        async def changed() -> bool:
            return (await on.ask())["services"] == {
                "users": ["i1@10.0.0.1:1", "i2@10.0.0.1:2"],
                "orders": [],
            }

        await eventually(changed, 5, "the change in the worker")


async def test_an_ejection_reaches_all_workers_at_once_and_ends() -> None:
    async with stage("suspect", workers=2) as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        with on.supervisor.events.listen() as listener:
            lives = [worker.current for worker in on.supervisor.workers]
            slowdown = Slowdown([os.getpid(), *(life.pid for life in lives if life is not None)])
            on.provider.memberships.put_nowait(membership(users=2))
            told: dict[object, dict[str, object]] = {}

            async def both_told() -> bool:
                answer = await on.ask()
                if answer["ejected_at"]:
                    told[answer["index"]] = answer
                return len(told) == 2

            await eventually(both_told, 10, "the ejection in both workers")
            suspected = told[0]["suspected_at"]
            late = max(float(str(one["ejected_at"])) for one in told.values())
            assert late - float(str(suspected)) < 0.05 * slowdown.factor
            pool = on.supervisor.pools.by_service["users"]
            assert [member.status for member in pool.members] == ["ejected", "ready"]
            assert "connect_refused" in pool.members[0].reason
            assert on.supervisor.outliers.ejections.totals == {("users", "i1@10.0.0.1:1"): 1}
            assert kinds(listener) == ["pools", "ejected", "pools"]


async def test_an_unready_proxy_says_what_is_missing() -> None:
    async with stage("good") as on:
        await eventually(lambda: on.pids(), 10, "a worker that waits")
        assert on.supervisor.missing() == [
            "no full set of instances is known yet",
            "worker 0 does not accept connections yet",
        ]
        on.provider.memberships.put_nowait(Membership(services={}))
        await on.ready()


async def test_without_a_first_set_workers_accept_after_a_while() -> None:
    last_resort = Instance(service="users", id="z", address="10.0.0.1", port=9)
    pools = {"users": PoolSettings(fallback=(last_resort,))}
    async with stage("good", pools=pools) as on:
        with on.supervisor.events.listen() as listener:
            answer = await on.ask()
            assert "Accept" in answer["messages"]  # type: ignore[operator]
            assert answer["services"] == {"users": ["z@10.0.0.1:9"]}
            [missing] = on.supervisor.missing()
            assert "worker" not in missing
            assert kinds(listener) == ["fallback_began"]


async def test_a_killed_worker_is_replaced_and_no_connection_is_refused() -> None:
    async with stage("good", workers=2) as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        for _ in range(6):
            await on.ask()
        before = await on.supervisor.collector.collect()
        served = before.service("users").requests["GET 200"]
        assert served == 6
        on.supervisor.board.row(0)[5] = 3
        victim = on.pids()[0]
        os.kill(victim, signal.SIGKILL)
        # Half of these land in the dead worker's queue and wait for its replacement.
        answers = await asyncio.gather(*(on.ask() for _ in range(20)))
        assert all(answer["pid"] != victim for answer in answers)
        await on.ready()
        assert victim not in on.pids()
        assert on.supervisor.workers[0].restarts == 1
        assert on.supervisor.workers[0].last_exit == "signal SIGKILL"
        assert on.supervisor.board.idle(5)
        after = await on.supervisor.collector.collect()
        assert after.service("users").requests["GET 200"] == served + 20


async def test_a_challenge_is_not_told_of_before_all_workers_know_it() -> None:
    async with stage("good", workers=2) as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        assert await on.supervisor.orders.publish(({"a": "b"}, {}))
        victim = on.pids()[0]
        os.kill(victim, signal.SIGSTOP)
        assert not await on.supervisor.orders.publish(({"c": "d"}, {}), 0.3)
        waiting = asyncio.create_task(on.supervisor.orders.publish(({"e": "f"}, {})))
        os.kill(victim, signal.SIGCONT)
        assert await waiting
        # One that starts later knows it before it accepts.
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: on.supervisor.workers[0].restarts, 5, "the death")
        await on.ready()

        async def learnt() -> object:
            answer = await on.ask()
            return answer["index"] == 0 and answer["messages"]

        messages = await eventually(learnt, 10, "an answer of it")
        assert messages[:2] == ["Configure", "Rows"]
        assert messages.index("AcmeChallenges") < messages.index("Pools")


async def test_counters_of_an_instance_that_left_are_not_kept_for_ever() -> None:
    async with stage("good") as on:
        on.provider.memberships.put_nowait(membership(users=2))
        await on.ready()
        await on.ask()
        await on.supervisor.collector.collect()
        on.provider.memberships.put_nowait(membership(users=1))
        await eventually(
            lambda: len(on.supervisor.pools.by_service["users"].members) == 1, 5, "gone"
        )
        os.kill(on.pids()[0], signal.SIGKILL)
        await eventually(lambda: on.supervisor.workers[0].restarts == 1, 5, "the restart")
        assert set(on.supervisor.collector.retired.nodes) <= {("users", "i1@10.0.0.1:1")}


async def test_a_crash_loop_slows_down_but_does_not_end() -> None:
    async with stage("crash") as on:
        worker = on.supervisor.workers[0]
        await eventually(lambda: worker.restarts >= 4, 15, "restarts")
        assert worker.last_exit == "exit status 3"
        assert "worker 0" in " ".join(on.supervisor.missing())


async def test_a_silent_worker_is_killed_and_replaced() -> None:
    async with stage("mute") as on:
        worker = on.supervisor.workers[0]
        life = await eventually(lambda: worker.current, 5, "the worker")
        await eventually(lambda: life.state == "waiting", 10, "its hello")
        life.silent_ticks = 0
        with capture_logs() as lines:
            for _ in range(29):
                worker.tick()
        assert [(line["event"], line["silent"]) for line in lines] == [("worker_silent", 5)]
        assert status.worker(worker, life, 0.0)["silent"] == 29
        worker.tick()
        assert worker.current is life
        worker.tick()
        await eventually(lambda: worker.current not in (None, life), 5, "the replacement")
        assert worker.last_exit == "signal SIGKILL"


async def test_a_worker_that_does_not_drain_is_killed_after_its_grace() -> None:
    async with stage("deaf") as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        pid = on.pids()[0]
        assert await on.supervisor.drain(0.1) is False
        assert not alive(pid)


async def test_a_drained_worker_is_not_replaced() -> None:
    async with stage("good") as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        assert await on.supervisor.drain(5.0) is True
        assert on.supervisor.workers[0].current is None
        assert on.supervisor.workers[0].restarts == 0
        assert on.supervisor.missing()[0] == "stopping"


async def test_a_provider_that_fails_is_built_anew_and_the_pools_stay() -> None:
    async with stage("good") as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        on.provider.memberships.put_nowait(RuntimeError("a bug"))
        await eventually(lambda: on.provider.closed == 1, 5, "the provider's end")
        assert not on.supervisor.missing()
        on.provider.memberships.put_nowait(membership(users=2))
        await eventually(
            lambda: len(on.supervisor.pools.by_service["users"].members) == 2,
            5,
            "the next provider",
        )


async def test_a_provider_that_cannot_be_closed_or_built_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.control.registry_watch.PROVIDER_PAUSE", 0.01)
    async with stage("good") as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        builds = 0

        def build(registry: Registry) -> HandFed:
            nonlocal builds
            builds += 1
            if builds < 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return on.provider

        async def close() -> None:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as broken:
            broken.setattr(on.supervisor.watch._served, "_build", build)
            broken.setattr(on.provider, "close", close)
            on.provider.memberships.put_nowait(RuntimeError("a bug"))
            await eventually(lambda: builds == 3, 5, "the third attempt")
        on.provider.memberships.put_nowait(membership(users=2))
        await eventually(
            lambda: len(on.supervisor.pools.by_service["users"].members) == 2,
            5,
            "the next provider",
        )


@pytest.mark.parametrize("script", ["good", "mute", "deaf"])
async def test_no_worker_outlives_kill(script: str) -> None:
    async with stage(script, workers=2) as on:
        await eventually(lambda: len(on.pids()) == 2, 10, "both workers")
        pids = on.pids()
        await on.supervisor.kill()
        assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("script", "reason"),
    [("barren", "the successor has ended: exit status 3"), ("slow", "not accepted within 1 s")],
)
async def test_a_successor_that_does_not_come_leaves_the_worker_as_it_is(
    script: str, reason: str
) -> None:
    async with stage(script, workers=2) as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        before = on.pids()
        said = await on.supervisor.crew.restart(1.0, limit=1.0)
        assert said.startswith("worker 0: ")
        assert reason in said
        assert on.pids() == before
        await eventually(lambda: len(on.supervisor.board.alive) == 2, 5, "its row is free")
        assert (await on.ask())["pid"] in before
        on.provider.memberships.put_nowait(membership(users=2))
        await eventually(lambda: on.supervisor.missing() == [], 5, "all is well")


async def test_listeners_of_a_configuration_that_a_worker_refuses_are_taken_back() -> None:
    async with stage("refuses", workers=2) as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        supervisor, before = on.supervisor, on.supervisor.crew.listeners.current
        port = free_port()
        web = ListenerSettings(name="web", bind="127.0.0.1:0")
        more = ListenerSettings(name="more", bind=f"127.0.0.1:{port}")
        settings = Settings(workers=3, listeners=(web, more))
        listening = supervisor.crew.listeners.prepare(settings.listeners, 3)
        error = await supervisor.reconfigure(
            settings,
            WorkerConfig(generation=1),
            supervisor.certificates,
            listening,
            take=lambda: pytest.fail("taken"),
        )
        assert error == "not this one"
        assert supervisor.crew.listeners.current == before
        assert supervisor.config == WorkerConfig(generation=2)
        assert len(supervisor.workers) == len(on.pids()) == 2
        assert all(one.held == one.open for one in supervisor.crew.current())
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert (await on.ask())["pid"] in on.pids()


async def test_two_restarts_are_made_one_after_the_other_and_leave_nothing_behind() -> None:
    async with stage("good", workers=2) as on:
        on.provider.memberships.put_nowait(membership(users=1))
        await on.ready()
        before = on.pids()
        both = (on.supervisor.restart_workers(), on.supervisor.restart_workers())
        assert await asyncio.gather(*both) == ["", ""]
        assert not {*on.pids()} & {*before}
        assert all(worker.restarts == 0 for worker in on.supervisor.workers)
        await eventually(lambda: len(on.supervisor.board.alive) == 2, 5, "the rows are free")
        assert on.supervisor.missing() == []
