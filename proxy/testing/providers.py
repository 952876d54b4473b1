"""The contract of registries: what every provider owes its reader, as far as that can be told
without the registry.

    class TestCmdb(ProviderContract):
        @pytest.fixture
        def provider(self) -> Provider:
            return CmdbProvider(Options(url="http://127.0.0.1:1"))
"""

from __future__ import annotations

import asyncio

import pytest

from proxy.membership import Membership
from proxy.registry.base import Provider
from proxy.testing.waiting import eventually


class ProviderContract:
    """Laws of every provider. Nothing is to listen where `provider` looks."""

    @pytest.fixture
    def provider(self) -> Provider:
        """Built outside any event loop, as the control process does."""
        raise NotImplementedError

    def test_a_provider_bears_one_name(self, provider: Provider) -> None:
        assert isinstance(provider, Provider)
        assert provider.status().provider == provider.name

    def test_status_before_the_first_contact(self, provider: Provider) -> None:
        status = provider.status()
        assert status.instances == 0
        assert status.revision == 0
        assert status.invalid == ()
        assert dict(status.resyncs) == {}
        assert status.connected == (status.age is not None)

    @pytest.mark.asyncio
    async def test_a_provider_yields_nothing_that_it_does_not_know(
        self, provider: Provider
    ) -> None:
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

    @pytest.mark.asyncio
    async def test_close_ends_the_watch_and_every_task(self, provider: Provider) -> None:
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

    @pytest.mark.asyncio
    async def test_cancelling_the_reader_ends_every_task(self, provider: Provider) -> None:
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

    @pytest.mark.asyncio
    async def test_close_before_the_watch(self, provider: Provider) -> None:
        await provider.close()
        async with asyncio.timeout(5):
            async for membership in provider.watch():
                assert membership.services == {}
                break
        await provider.close()
        assert provider.status().instances == 0
