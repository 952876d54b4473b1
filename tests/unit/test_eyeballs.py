"""Several addresses of one instance: what becomes of connections that are not the first."""

from __future__ import annotations

import asyncio

import pytest

from proxy.names.eyeballs import DELAY, first_of
from tests.support.loop_and_network import SteppedLoop


@pytest.mark.parametrize("late", [False, True])
def test_no_connection_is_forgotten_when_the_caller_is_cancelled(late: bool) -> None:
    loop = SteppedLoop()
    made: list[str] = []
    discarded: list[str] = []

    async def dial(address: str) -> str:
        if address == "first":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                caller.cancel()
                if not late:
                    raise
        made.append(address)
        return address

    caller = loop.create_task(first_of(["first", "second"], dial, discarded.append))
    loop.advance(2 * DELAY)
    kept = [] if caller.cancelled() else [caller.result()[1]]
    assert sorted(kept + discarded) == sorted(made)
    assert "second" in made
    assert not asyncio.all_tasks(loop)
