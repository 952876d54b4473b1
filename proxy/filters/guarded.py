"""Filters of users, so that one whose hook blocks harms its own request alone.

A hook that holds the loop for longer than the filter's `block_limit` is interrupted
(`watch.py`) and its request answered: `filter_timeout`. From then on the others are spared:
a hook that had waited, for a server or a file, is called in threads; one that had computed, which
would hold up a thread's neighbours as well, and what cannot go elsewhere (steps of coroutines,
changes of content) stays, on a leash a sixteenth as long.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from proxy.errors import FILTER_TIMEOUT, Refused
from proxy.filters.base import Filter
from proxy.filters.message import Change
from proxy.filters.watch import SHORTEST, Held, Watch, interrupt, spare
from proxy.threads import in_thread

_log = structlog.get_logger()

MOST_THREADS: Final = 32
"""Hooks of one filter in threads at a time; further ones wait for their turn, within their time
limit. As many as Python's own pools have at most."""
SHORTER: Final = 16
"""Part of its limit for which a filter may hold the loop that has blocked before: some hundredths
of a second, a hundred times what a hook takes that does not block."""

Hook = Callable[..., Any]


class GuardedHooks:
    """Owns how the hooks of one filter are called."""

    def __init__(self, one: Filter, watch: Watch) -> None:
        self._filter = one
        self._watch = watch
        self.leash = max(one.block_limit, SHORTEST)
        """See `Watched`."""
        self.waited = False
        """See `Watched`."""
        self._in_threads = one.threads
        self._turns = asyncio.Semaphore(MOST_THREADS)
        watch.add(self)

    def close(self) -> None:
        """No hook will begin."""
        self._watch.remove(self)

    def around(self, hook: Hook) -> Hook:
        """A hook in the place of one of the filter's."""

        def guarded(*messages: Any) -> Any:
            if self._in_threads:
                return self._elsewhere(hook, messages)
            result = self.call(hook.__name__, True, hook, *messages)
            self.take_changes(messages)
            return self._stepwise(hook, result, messages)

        return guarded

    def _stepwise(self, hook: Hook, result: Any, messages: tuple[Any, ...]) -> Any:
        if isinstance(result, Coroutine):
            return _Steps(self, hook.__name__, result, messages)
        return result

    def take_changes(self, messages: tuple[Any, ...]) -> None:
        """Guard what a hook has said to be done to content."""
        for message in messages:  # ≤ 2
            changes: list[Change] = getattr(message, "changes", [])
            for at, change in enumerate(changes):  # ≤ 256
                if not isinstance(change, _Guarded):
                    changes[at] = _Guarded(self, change)

    def call(self, name: str, movable: bool, hook: Hook, *arguments: Any) -> Any:
        """Call a hook in the loop's thread; `movable`: in another one it would do as well. Raises
        `Refused` if it blocks, and what the hook does."""
        watch = self._watch
        try:
            watch.begin(self)
            try:
                return hook(*arguments)
            finally:
                watch.end()
        except Held as held:
            watch.end()
            self._restrain(name, movable, held)
            raise Refused(
                FILTER_TIMEOUT, f"the filter {self._filter.name} has blocked its worker"
            ) from None

    def _restrain(self, name: str, movable: bool, held: Held) -> None:
        """Have the next calls hold up nobody, or nearly."""
        limit = self.leash
        self._in_threads = movable and self.waited
        if not self._in_threads:
            shorter = max(self._filter.block_limit / SHORTER, SHORTEST)
            if shorter < limit:
                self.leash = shorter
                self._watch.look_oftener()
        _log.error(
            "filter_blocked",
            filter=self._filter.name,
            hook=name,
            at=_place(held),
            limit=limit,
            waited=self.waited,
            from_now_on="threads" if self._in_threads else f"interrupted after {self.leash:g} s",
        )

    async def _elsewhere(self, hook: Hook, messages: tuple[Any, ...]) -> Any:
        """Call a hook in a thread; a coroutine that it returns goes on here."""
        await self._turns.acquire()
        loop, turns = asyncio.get_running_loop(), self._turns
        call = _ThreadedCall(hook, messages, lambda: loop.call_soon_threadsafe(turns.release))
        try:
            result = await in_thread(call, f"filter {self._filter.name}")
        except asyncio.CancelledError:
            call.interrupt()
            raise
        except OSError:
            if not call.begun:
                turns.release()  # No thread was to be had.
            raise
        self.take_changes(messages)
        result = self._stepwise(hook, result, messages)
        return await result if isinstance(result, Coroutine) else result


class _Guarded:
    """A change of content that may block."""

    __slots__ = ("_change", "_hooks")

    def __init__(self, hooks: GuardedHooks, change: Change) -> None:
        self._hooks, self._change = hooks, change

    def __call__(self, data: bytes, last: bool) -> bytes:
        """See `Change`."""
        changed: bytes = self._hooks.call("transform", False, self._change, data, last)
        return changed


class _Steps(Coroutine[Any, Any, Any]):
    """A hook that waits, each of whose steps may block."""

    __slots__ = ("_coroutine", "_hooks", "_messages", "_name")

    def __init__(
        self,
        hooks: GuardedHooks,
        name: str,
        coroutine: Coroutine[Any, Any, Any],
        messages: tuple[Any, ...],
    ) -> None:
        self._hooks, self._name = hooks, name
        self._coroutine, self._messages = coroutine, messages

    def send(self, value: Any) -> Any:
        """See `Coroutine`."""
        return self._step(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        """See `Coroutine`."""
        return self._step(self._coroutine.throw, *error)

    def _step(self, step: Hook, *arguments: Any) -> Any:
        try:
            return self._hooks.call(self._name, False, step, *arguments)
        finally:
            self._hooks.take_changes(self._messages)

    def close(self) -> None:
        """See `Coroutine`."""
        self._coroutine.close()

    def __await__(self) -> Any:
        """Wait for it from another coroutine."""
        value = None
        while True:  # ≤ request
            try:
                value = yield self.send(value)
            except StopIteration as end:
                return end.value
            except BaseException as error:
                value = yield self.throw(error)


class _ThreadedCall:
    """Owns one call in a thread, which somebody may give up."""

    def __init__(self, hook: Hook, messages: tuple[Any, ...], ended: Callable[[], Any]) -> None:
        """`ended` is called in the thread, when that has nothing more to do."""
        self._hook, self._messages, self._ended = hook, messages, ended
        self._lock = threading.Lock()
        self._thread = 0
        self._interrupted = False
        self.begun = False

    def __call__(self) -> Any:
        """Call the hook; None if it was interrupted."""
        self.begun = True
        self._thread = threading.get_ident()
        try:
            try:
                return self._hook(*self._messages)
            finally:
                self._end()
        except Held:
            self._end()
            return None
        finally:
            self._ended()

    def _end(self) -> None:
        with self._lock:
            self._thread = 0
            if self._interrupted:
                spare()

    def interrupt(self) -> None:
        """End the hook if it computes: there is nobody to wait for it."""
        with self._lock:
            if self._thread:
                self._interrupted = True
                interrupt(self._thread)


def _place(held: Held) -> str:
    """Where in the hook it was: the file and the line."""
    trace = held.__traceback__
    inner = None if trace is None else trace.tb_next
    if inner is None:
        return ""
    return f"{inner.tb_frame.f_code.co_filename}:{inner.tb_lineno}"
