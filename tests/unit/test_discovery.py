"""`Discovery` over a provider that is told what to say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from balancers.base import hash_key
from proxy.discovery import Discovery, Instance, NotReady
from proxy.engine import pool as engine_pool
from proxy.registry.static.options import Options as StaticOptions
from tests.support.manual_provider import ManualProvider, instance
from tests.support.processes import eventually

A, B, C = (instance(name, port=port) for name, port in (("a", 81), ("b", 82), ("c", 83)))
SICK = instance("s", health="unhealthy")
LEAVING = instance("l", health="draining")
ORDER = instance("o", "orders")


@pytest.fixture
def provider() -> ManualProvider:
    return ManualProvider()


@pytest.fixture
async def discovery(provider: ManualProvider) -> AsyncIterator[Discovery]:
    async with asyncio.timeout(10), Discovery(provider) as opened:
        yield opened


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_discovery_knows_nothing_before_the_first_list(
    provider: ManualProvider, discovery: Discovery
) -> None:
    provider.last_error = "http://10.0.0.1:2379: refused"
    for read in (discovery.services, lambda: discovery.instances("users")):
        with pytest.raises(NotReady, match="refused"):
            read()
    with pytest.raises(NotReady, match=r"no answer within 0\.01 s: http://10\.0\.0\.1"):
        await discovery.wait_ready(0.01)
    assert (discovery.ready, discovery.age) == (False, None)


async def test_discovery_lists_who_is_there(provider: ManualProvider, discovery: Discovery) -> None:
    provider.tell(A, B, SICK, LEAVING, instance("z", weight=0), ORDER)
    await discovery.wait_ready()
    assert discovery.services() == ("orders", "users")
    assert [one.id for one in discovery.instances("users")] == ["a", "b", "s", "l", "z"]
    assert discovery.healthy("users") == (A, B)
    assert discovery.instances("ghost") == discovery.healthy("ghost") == ()
    assert discovery.age == 0.0
    assert discovery.status().provider == "manual"


async def test_watch_yields_the_current_and_each_change(
    provider: ManualProvider, discovery: Discovery
) -> None:
    provider.tell(A)
    async with aclosing(discovery.watch("users")) as changes:
        assert await anext(changes) == (A,)
        provider.tell(A, ORDER)  # Another service is no change of this one.
        provider.tell(A, B, ORDER)
        assert await anext(changes) == (A, B)
        provider.tell(ORDER)
        assert await anext(changes) == ()
        provider.tell(B)
        assert await anext(changes) == (B,)


async def test_a_slow_watcher_gets_the_newest(
    provider: ManualProvider, discovery: Discovery
) -> None:
    async with aclosing(discovery.watch("users")) as changes:
        provider.tell(A)
        assert await anext(changes) == (A,)
        for number in range(1000):
            provider.tell(A, instance("n", port=number + 1))
        provider.tell(A, C)
        await eventually(lambda: discovery.instances("users") == (A, C))
        assert await anext(changes) == (A, C)
        provider.tell(B)
        assert await anext(changes) == (B,)


async def test_watch_of_a_service_that_does_not_exist_yet(
    provider: ManualProvider, discovery: Discovery
) -> None:
    provider.tell(ORDER)
    async with aclosing(discovery.watch("users")) as changes:
        assert await anext(changes) == ()
        provider.tell(ORDER, A)
        assert await anext(changes) == (A,)


async def test_close_ends_watches_and_keeps_what_is_known(provider: ManualProvider) -> None:
    before = asyncio.all_tasks()
    discovery = Discovery(provider)
    await discovery.start()
    with pytest.raises(RuntimeError):
        await discovery.start()
    provider.tell(A)
    seen: list[tuple[Instance, ...]] = []
    discovery.on_change("users", lambda service, instances: seen.append(instances))

    async def read() -> list[tuple[Instance, ...]]:
        return [instances async for instances in discovery.watch("users")]

    reader = asyncio.create_task(read())
    await discovery.wait_ready()
    await settle()
    await discovery.close()
    await discovery.close()
    async with asyncio.timeout(5):
        assert await reader == [(A,)]
    assert seen == [(A,)]
    assert discovery.instances("users") == (A,)
    assert provider.closed
    assert asyncio.all_tasks() == before


async def test_callbacks(provider: ManualProvider, discovery: Discovery) -> None:
    provider.tell(A)
    await discovery.wait_ready()
    calls: list[str] = []

    def broken(service: str, instances: tuple[Instance, ...]) -> None:
        calls.append("broken")
        raise RuntimeError("mine")

    async def slow(service: str, instances: tuple[Instance, ...]) -> None:
        await asyncio.sleep(0)
        calls.append(f"{service}: {len(instances)}")

    discovery.on_change("users", broken)
    remove = discovery.on_change("users", slow)
    await settle()
    assert calls == []  # What was known when they registered is no change.
    with capture_logs() as logs:
        provider.tell(A, B)
        await settle()
    assert sorted(calls) == ["broken", "users: 2"]
    assert [(line["event"], line["service"]) for line in logs if line["log_level"] == "error"] == [
        ("discovery_callback_failed", "users")
    ]
    remove()
    remove()
    provider.tell(C)
    await settle()
    assert sorted(calls) == ["broken", "broken", "users: 2"]


async def test_a_callback_may_unregister_itself_and_close(provider: ManualProvider) -> None:
    discovery = Discovery(provider)
    calls: list[tuple[Instance, ...]] = []

    async def once(service: str, instances: tuple[Instance, ...]) -> None:
        remove()
        calls.append(instances)
        await asyncio.sleep(0)  # Unregistering does not cancel the call it is made from.
        calls.append(instances)

    async def last(service: str, instances: tuple[Instance, ...]) -> None:
        if instances == (A, B):
            await discovery.close()

    remove = discovery.on_change("users", once)  # Before the start is early enough.
    discovery.on_change("users", last)
    await discovery.start()
    provider.tell(A)
    await discovery.wait_ready()
    await settle()
    provider.tell(A, B)
    await eventually(lambda: provider.closed)
    assert calls == [(A,), (A,)]


async def test_a_given_provider_that_breaks_leaves_what_is_known(
    provider: ManualProvider, discovery: Discovery
) -> None:
    provider.tell(A)
    await discovery.wait_ready()
    with capture_logs() as logs:
        provider.fail(RuntimeError("a fault"))
        await settle()
    assert [line["event"] for line in logs] == ["provider_failed"]
    assert discovery.instances("users") == (A,)


async def test_metrics(provider: ManualProvider) -> None:
    registry = CollectorRegistry()
    picks = 'algorithm="random",instance="{}",service_name="users"'

    def shown() -> list[str]:
        lines = generate_latest(registry).decode().splitlines()
        return [line for line in lines if not line.startswith("#")]

    async with Discovery(provider, metrics=registry) as discovery:
        provider.tell(A, B, SICK, ORDER)
        await discovery.wait_ready()
        discovery.metrics.selected("users", "random", "a")
        discovery.metrics.selected("users", "random", "a")
        discovery.metrics.selected("users", "random", "b")
        assert shown() == [
            'service_discoveries_total{service_name="orders"} 1.0',
            'service_discoveries_total{service_name="users"} 1.0',
            'service_instances{service_name="users",status="ready"} 2.0',
            'service_instances{service_name="users",status="unhealthy"} 1.0',
            'service_instances{service_name="users",status="draining"} 0.0',
            'service_instances{service_name="orders",status="ready"} 1.0',
            'service_instances{service_name="orders",status="unhealthy"} 0.0',
            'service_instances{service_name="orders",status="draining"} 0.0',
            f"load_balancer_selections_total{{{picks.format('a')}}} 2.0",
            f"load_balancer_selections_total{{{picks.format('b')}}} 1.0",
        ]
        provider.tell(A)  # b and orders are gone, and take their series along.
        await settle()
        assert shown() == [
            'service_discoveries_total{service_name="users"} 2.0',
            'service_instances{service_name="users",status="ready"} 1.0',
            'service_instances{service_name="users",status="unhealthy"} 0.0',
            'service_instances{service_name="users",status="draining"} 0.0',
            f"load_balancer_selections_total{{{picks.format('a')}}} 2.0",
        ]
        second = Discovery(ManualProvider(), metrics=registry)
        with pytest.raises(ValueError, match="service_discoveries"):
            await second.start()
        await second.close()
    assert shown() == []


def test_a_source_is_endpoints_settings_or_a_provider_and_nothing_else() -> None:
    assert Discovery("http://127.0.0.1:1").status().provider == "etcd"
    assert Discovery(["http://127.0.0.1:1", "http://127.0.0.1:2"], prefix="/x/").age is None
    assert Discovery(StaticOptions()).status().provider == "static"
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:1"):
        Discovery("127.0.0.1:1")
    with pytest.raises(TypeError, match="prefix"):
        Discovery(ManualProvider(), prefix="/x/")


async def test_the_static_registry_says_that_nobody_is_there() -> None:
    async with Discovery(StaticOptions()) as discovery:
        await discovery.wait_ready(5)
        assert discovery.services() == ()


def test_importing_it_loads_nothing_of_the_proxy() -> None:
    """A service that looks up others should not pay for a proxy."""
    code = "import sys, proxy.discovery; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = set(done.stdout.split())
    assert "proxy.discovery.session" in loaded
    assert not {name for name in loaded if name.startswith(("proxy.engine", "proxy.settings.load"))}
    assert not loaded & {"httptools", "pydantic", "yaml", "etcd3", "uvloop"}


def test_keys_are_hashed_as_in_the_proxy() -> None:
    assert vars(engine_pool)["hash_key"] is hash_key  # Its values are pinned beside the engine's.
