"""One run for all who ask at the same time, and none that is older than a question."""

from __future__ import annotations

import asyncio

import pytest

from proxy.control.shared import Shared


class Work:
    """Runs that end when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.gates: list[asyncio.Future[int]] = []

    async def __call__(self) -> int:
        self.begun += 1
        gate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        return await gate


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_that_ask_at_once_share_a_run_and_those_during_it_the_next() -> None:
    work = Work()
    shared = Shared(work)
    first = [asyncio.create_task(shared.get()) for _ in range(5)]
    await settle()
    assert work.begun == 1
    second = [asyncio.create_task(shared.get()) for _ in range(5)]
    await settle()
    assert work.begun == 1
    work.gates[0].set_result(1)
    assert await asyncio.gather(*first) == [1] * 5
    await settle()
    assert work.begun == 2
    work.gates[1].set_result(2)
    assert await asyncio.gather(*second) == [2] * 5
    third = asyncio.create_task(shared.get())
    await settle()
    work.gates[2].set_result(3)
    assert await third == 3


async def test_a_caller_that_leaves_takes_nothing_from_the_others() -> None:
    work = Work()
    shared = Shared(work)
    leaves, stays = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
    await settle()
    leaves.cancel()
    await settle()
    work.gates[0].set_result(1)
    assert await stays == 1


async def test_a_run_that_fails_fails_for_all_of_it_and_not_for_the_next() -> None:
    work = Work()
    shared = Shared(work)
    asked = [asyncio.create_task(shared.get()) for _ in range(2)]
    await settle()
    work.gates[0].set_exception(RuntimeError("no"))
    for one in asked:
        with pytest.raises(RuntimeError):
            await one
    again = asyncio.create_task(shared.get())
    await settle()
    work.gates[1].set_result(1)
    assert await again == 1


async def test_runs_begin_at_a_pace() -> None:
    work = Work()
    shared = Shared(work, pace=3600.0)
    first = asyncio.create_task(shared.get())
    await settle()
    work.gates[0].set_result(1)
    assert await first == 1
    second = asyncio.create_task(shared.get())
    await settle()
    assert work.begun == 1
    await shared.close()
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_closing_ends_what_is_under_way_and_what_waits() -> None:
    work = Work()
    shared = Shared(work)
    asked = [asyncio.create_task(shared.get())]
    await settle()
    asked.append(asyncio.create_task(shared.get()))
    await settle()
    await shared.close()
    for one in asked:
        with pytest.raises(asyncio.CancelledError):
            await one
    assert work.begun == 1
