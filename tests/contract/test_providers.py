"""What every registry provider owes its reader, run over the catalogue.

No registry runs here: these are the promises that hold without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.catalog import PROVIDERS, load, registry_options
from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.settings.registry import RemoteOptions
from tests.support.processes import eventually, free_port

EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "dns": {"servers": (f"127.0.0.1:{free_port()}",), "services": {"users": "users.internal:80"}},
    "file": {"path": "{directory}/instances.yaml"},
    "docker": {"endpoints": ("unix:/nowhere/docker.sock",)},
    "kubernetes": {"endpoints": ("http://127.0.0.1:1",)},
    "static": {},
}
"""Keys of those that are not reached by URLs, for a registry that is not there. "{directory}" in a
text is an empty directory."""


@pytest.fixture(params=sorted(PROVIDERS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def provider(name: str, tmp_path: Path) -> Provider:
    """Built outside any event loop, as the control process does, for a registry that is down."""
    kind = registry_options(name)
    if issubclass(kind, RemoteOptions):
        example: Mapping[str, Any] = {"endpoints": (f"http://127.0.0.1:{free_port()}",)}
    else:
        example = EXAMPLES[name]
    keys = {
        key: value.format(directory=tmp_path) if isinstance(value, str) else value
        for key, value in example.items()
    }
    built: Provider = load(PROVIDERS, name)(kind(**keys))
    return built


def test_a_provider_bears_its_catalogue_name(name: str, provider: Provider) -> None:
    assert isinstance(provider, Provider)
    assert provider.name == name
    assert provider.status().provider == name


def test_status_before_the_first_contact(provider: Provider) -> None:
    status = provider.status()
    assert status.instances == 0
    assert status.revision == 0
    assert status.invalid == ()
    assert dict(status.resyncs) == {}
    assert status.connected == (status.age is not None)


async def test_a_provider_yields_nothing_that_it_does_not_know(provider: Provider) -> None:
    """An empty membership is a statement. Who is not connected cannot make it."""
    memberships: list[Membership] = []

    async def read() -> None:
        async for membership in provider.watch():
            memberships.append(membership)

    reader = asyncio.create_task(read())
    await eventually(lambda: bool(memberships) or provider.status().last_error is not None)
    assert bool(memberships) == provider.status().connected
    await provider.close()
    async with asyncio.timeout(5):
        await reader


async def test_close_ends_the_watch_and_every_task(provider: Provider) -> None:
    before = asyncio.all_tasks()
    watch = provider.watch()
    first = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0)
    await provider.close()
    await provider.close()
    async with asyncio.timeout(5):
        await first
        assert [left async for left in watch] == []
    assert asyncio.all_tasks() == before


async def test_cancelling_the_reader_ends_every_task(provider: Provider) -> None:
    before = asyncio.all_tasks()

    async def read() -> None:
        async for _ in provider.watch():
            pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await provider.close()
    assert asyncio.all_tasks() == before


async def test_close_before_the_watch(provider: Provider) -> None:
    await provider.close()
    async with asyncio.timeout(5):
        async for membership in provider.watch():
            assert membership.services == {}
            break
    await provider.close()
    assert provider.status().instances == 0
