"""Hooks of users in threads and in the loop: what one of them does harms no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from proxy.errors import DENIED, FILTER_TIMEOUT, Refused
from proxy.filters import Filter
from proxy.filters.guarded import MOST_THREADS, GuardedHooks
from proxy.filters.watch import Held, NoLooks, Watch
from tests.unit.test_filter_watch import Later


class Message:
    """What hooks are called with, as far as they change content."""

    def __init__(self) -> None:
        self.changes: list[Any] = []


def hooks_of(one: Filter) -> GuardedHooks:
    one.name = "own"
    return GuardedHooks(one, Watch(NoLooks()), Later())


def blocks(*_: Any) -> None:
    """What a hook looks like that is interrupted at once, and has waited."""
    raise Held


class InThreads(Filter):
    threads = True


@pytest_asyncio.fixture
async def forever() -> AsyncIterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


class Waits(InThreads):
    async def on_request(self, request: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(ConnectionError())
        try:
            await future
        except ConnectionError:
            return "mended"


@pytest.mark.asyncio
async def test_a_coroutine_behind_a_thread_may_mend_what_it_waited_for() -> None:
    one = Waits()
    assert await hooks_of(one).around(one.on_request)(Message()) == "mended"


class Refuses(InThreads):
    async def on_request(self, request: Any) -> Any:
        await asyncio.sleep(0)
        raise Refused(DENIED, "no")


@pytest.mark.asyncio
async def test_a_coroutine_behind_a_thread_may_refuse() -> None:
    one = Refuses()
    with pytest.raises(Refused) as refused:
        await hooks_of(one).around(one.on_request)(Message())
    assert refused.value.fault is DENIED


class Two(Filter):
    def on_request(self, request: Any) -> Any:
        return threading.current_thread() is threading.main_thread()

    def on_response(self, request: Any, response: Any) -> Any:
        return threading.current_thread() is threading.main_thread()


@pytest.mark.asyncio
async def test_one_hook_that_waited_moves_no_other() -> None:
    one = Two()
    hooks = hooks_of(one)
    hooks.waited = True
    with pytest.raises(Refused):
        hooks.call("on_request", True, blocks)
    assert await hooks.around(one.on_request)(Message()) is False
    assert hooks.around(one.on_response)(Message(), Message()) is True


@pytest.mark.asyncio
async def test_a_change_that_blocks_takes_no_hook_out_of_its_threads() -> None:
    one = Two()
    hooks = hooks_of(one)
    hooks.waited = True
    with pytest.raises(Refused):
        hooks.call("on_request", True, blocks)
    with pytest.raises(Refused):
        hooks.call("transform", False, blocks)
    assert await hooks.around(one.on_request)(Message()) is False


class Hangs(InThreads):
    def __init__(self, forever: threading.Event) -> None:
        self.forever = forever
        self.begun = threading.Barrier(MOST_THREADS + 1)

    def on_request(self, request: Any) -> Any:
        if request is None:
            self.begun.wait()
            self.forever.wait()


@pytest.mark.asyncio
async def test_threads_that_were_given_up_take_no_turns(forever: threading.Event) -> None:
    one = Hangs(forever)
    hook = hooks_of(one).around(one.on_request)
    hanging = [asyncio.ensure_future(hook(None)) for _ in range(MOST_THREADS)]
    await asyncio.to_thread(one.begun.wait)
    for each in hanging:
        each.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert await hook(Message()) is None


class Exits(Filter):
    def on_request(self, request: Any) -> Any:
        raise SystemExit(3)


class ExitsInThreads(Exits):
    threads = True


class ExitsLater(Filter):
    async def on_request(self, request: Any) -> Any:
        raise SystemExit(3)


@pytest.mark.asyncio
@pytest.mark.parametrize("one", [Exits(), ExitsInThreads(), ExitsLater()])
async def test_a_hook_that_would_end_the_process_fails(one: Filter) -> None:
    hook = hooks_of(one).around(one.on_request)
    with pytest.raises(RuntimeError, match=r"sys.exit\(3\)"):
        await hook(Message())


class Cancelled(Filter):
    """Whose hook has asked a task for its result, which was cancelled."""

    def on_request(self, *_: Any) -> Any:
        raise asyncio.CancelledError


class CancelledInThreads(Cancelled):
    threads = True


@pytest.mark.asyncio
@pytest.mark.parametrize("one", [Cancelled(), CancelledInThreads()])
async def test_a_hook_that_does_not_wait_cannot_be_cancelled_but_fails(one: Filter) -> None:
    hook = hooks_of(one).around(one.on_request)
    with pytest.raises(RuntimeError, match="CancelledError"):
        await hook(Message())


def test_a_change_of_content_cannot_be_cancelled_but_fails() -> None:
    one, message = Filter(), Message()
    hooks_of(one).around(lambda request: request.changes.append(Cancelled().on_request))(message)
    [change] = message.changes
    with pytest.raises(RuntimeError, match="CancelledError"):
        change(b"", True)


class Changes(Filter):
    def on_request(self, request: Any) -> Any:
        request.changes.append(blocks)


def test_changes_of_others_are_called_as_they_are() -> None:
    one, message = Changes(), Message()
    message.changes.append(blocks)
    hooks_of(one).around(one.on_request)(message)
    others, own = message.changes
    assert others is blocks
    with pytest.raises(Refused):
        own(b"", True)


def test_a_change_may_block_when_its_filter_is_gone() -> None:
    one, message = Changes(), Message()
    hooks = hooks_of(one)
    hooks.around(one.on_request)(message)
    hooks.close()
    with pytest.raises(Refused) as refused:
        message.changes[0](b"", True)
    assert refused.value.fault is FILTER_TIMEOUT
