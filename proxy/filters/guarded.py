"""Filters of users, so that one whose hook blocks harms its own request alone.

A hook that holds the loop for longer than the filter's `block_limit` is interrupted
(`watch.py`) and its request answered: `filter_timeout`. From then on the others are spared:
a hook that had waited, for a server or a file, is called in threads, and no other hook of its
filter; one that had computed, which would hold up a thread's neighbours as well, and what cannot go
elsewhere (steps of coroutines, changes of content) stays, on a leash a sixteenth as long, until a
minute has passed without another interruption.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from proxy.errors import FILTER_TIMEOUT, Refused
from proxy.filters.base import Filter
from proxy.filters.content import Change
from proxy.filters.watch import SHORTEST, Held, Watch, interrupt, spare
from proxy.threads import in_thread

_log = structlog.get_logger()

MOST_THREADS: Final = 32
"""Hooks of one filter in threads at a time; further ones wait for their turn, within their time
limit. As many as Python's own pools have at most."""
MOST_LEFT: Final = 256
"""Hooks of one filter that were given up and still hold a thread, beside those: a call of the
system in a thread cannot be broken off. With more of them, they keep their turns."""
SHORTER: Final = 16
"""Part of its limit for which a filter may hold the loop that has blocked before: some hundredths
of a second, a hundred times what a hook takes that does not block."""
FORGIVEN: Final = 60.0
"""Seconds without another interruption after which it has its whole limit again: one that goes
astray now and then holds up its worker for a fiftieth of the time, and is not punished for ever."""
_ENDS: Final = (asyncio.CancelledError, GeneratorExit)
"""Ends of coroutines from outside: out of another hook they would end whoever calls it."""

Hook = Callable[..., Any]
Later = Callable[[float, Callable[[], None]], asyncio.TimerHandle]
"""Calls a function after so many seconds: `call_later` of an event loop."""


class GuardedHooks:
    """Owns how the hooks of one filter are called."""

    def __init__(self, one: Filter, watch: Watch, later: Later) -> None:
        self._filter = one
        self._watch = watch
        self._later = later
        self._forgiving: asyncio.TimerHandle | None = None
        self.leash = max(one.block_limit, SHORTEST)
        """See `Watched`."""
        self.waited = False
        """See `Watched`."""
        self._moved: set[str] = set()  # ≤ 8
        """Names of the hooks that have waited."""
        self._turns = asyncio.Semaphore(MOST_THREADS)
        self._left = 0
        watch.add(self)

    def close(self) -> None:
        """No hook will begin."""
        self._watch.remove(self)
        if self._forgiving is not None:
            self._forgiving.cancel()

    def around(self, hook: Hook) -> Hook:
        """A hook in the place of one of the filter's."""

        name = hook.__name__

        def guarded(*messages: Any) -> Any:
            taken = _Changes(self, messages)
            if self._filter.threads or name in self._moved:
                return self._elsewhere(name, hook, messages, taken)
            result = self.call(name, True, hook, *messages)
            taken.guard()
            return self._stepwise(name, result, taken)

        return guarded

    def _stepwise(self, name: str, result: Any, taken: _Changes) -> Any:
        return _Steps(self, name, result, taken) if isinstance(result, Coroutine) else result

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
        except (SystemExit, *_ENDS) as end:
            if isinstance(end, _ENDS) and isinstance(getattr(hook, "__self__", None), Coroutine):
                raise  # A step of one that waits: it was cancelled, or closed.
            raise exited(end) from end
        except Held as held:
            watch.end()
            self._restrain(name, movable, held)
            raise Refused(
                FILTER_TIMEOUT, f"the filter {self._filter.name} has blocked its worker"
            ) from None

    def _restrain(self, name: str, movable: bool, held: Held) -> None:
        """Have the next calls hold up nobody, or nearly."""
        limit = self.leash
        moves = movable and self.waited
        if moves:
            self._moved.add(name)
        else:
            self._keep_to(self._filter.block_limit / SHORTER)
            if self._forgiving is not None:
                self._forgiving.cancel()
            self._forgiving = self._later(FORGIVEN, self._forgive)
        _log.error(
            "filter_blocked",
            filter=self._filter.name,
            hook=name,
            at=_place(held),
            limit=limit,
            waited=self.waited,
            from_now_on="threads" if moves else f"interrupted after {self.leash:g} s",
        )

    def _forgive(self) -> None:
        self._keep_to(self._filter.block_limit)
        _log.info("filter_forgiven", filter=self._filter.name, limit=self.leash)

    def _keep_to(self, leash: float) -> None:
        self.leash = max(leash, SHORTEST)
        self._watch.adapt()

    async def _elsewhere(
        self, name: str, hook: Hook, messages: tuple[Any, ...], taken: _Changes
    ) -> Any:
        """Call a hook in a thread; a coroutine that it returns goes on here."""
        await self._turns.acquire()
        loop = asyncio.get_running_loop()
        call = _ThreadedCall(hook, messages, lambda: loop.call_soon_threadsafe(self._ended, call))
        try:
            result = await in_thread(call, f"filter {self._filter.name}")
        except asyncio.CancelledError:
            call.interrupt()
            if not call.ended and self._left < MOST_LEFT:
                call.left = True
                self._left += 1
                self._turns.release()
            raise
        except OSError:
            if not call.begun:
                self._turns.release()  # No thread was to be had.
            raise
        taken.guard()
        result = self._stepwise(name, result, taken)
        return await result if isinstance(result, Coroutine) else result

    def _ended(self, call: _ThreadedCall) -> None:
        call.ended = True
        if call.left:
            self._left -= 1
        else:
            self._turns.release()


def exited(end: BaseException) -> RuntimeError:
    """A hook that would end the process, or what calls it, has failed."""
    if isinstance(end, SystemExit):
        return RuntimeError(f"the hook has called sys.exit({end.code!r})")
    return RuntimeError(f"the hook has raised {type(end).__name__}")


class _Changes:
    """Owns which changes of content a hook has added, as opposed to those before it."""

    __slots__ = ("_guards", "_hooks", "_messages")

    def __init__(self, hooks: GuardedHooks, messages: tuple[Any, ...]) -> None:
        self._hooks, self._messages = hooks, messages
        self._guards = [len(getattr(one, "changes", ())) for one in messages]  # ≤ 2

    def guard(self) -> None:
        """Guard what has been added."""
        for number, message in enumerate(self._messages):  # ≤ 2
            changes: list[Change] = getattr(message, "changes", [])
            for at in range(self._guards[number], len(changes)):  # ≤ 256
                changes[at] = _Guarded(self._hooks, changes[at])
            self._guards[number] = len(changes)


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

    __slots__ = ("_coroutine", "_hooks", "_name", "_taken")

    def __init__(
        self,
        hooks: GuardedHooks,
        name: str,
        coroutine: Coroutine[Any, Any, Any],
        taken: _Changes,
    ) -> None:
        self._hooks, self._name = hooks, name
        self._coroutine, self._taken = coroutine, taken

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
            self._taken.guard()

    def close(self) -> None:
        """See `Coroutine`."""
        self._coroutine.close()

    def __await__(self) -> Any:
        """Wait for it from another coroutine."""
        step: Callable[[Any], Any] = self.send
        argument: Any = None
        while True:  # ≤ request
            try:
                awaited = step(argument)
            except StopIteration as end:
                return end.value
            try:
                step, argument = self.send, (yield awaited)
            except BaseException as error:
                step, argument = self.throw, error


class _ThreadedCall:
    """Owns one call in a thread, which somebody may give up."""

    def __init__(self, hook: Hook, messages: tuple[Any, ...], ended: Callable[[], Any]) -> None:
        """`ended` is called in the thread, when that has nothing more to do."""
        self._hook, self._messages, self._ended = hook, messages, ended
        self._lock = threading.Lock()
        self._thread = 0
        self._interrupted = False
        self.begun = self.ended = False
        self.left = False
        """Given up, and its turn with it."""

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
        except (SystemExit, *_ENDS) as end:
            raise exited(end) from end
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
