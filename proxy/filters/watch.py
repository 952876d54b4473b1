"""Hooks that hold the loop: found by looking again and again, and interrupted where they are.

Nothing is asked of a hook but a note when it begins and when it ends (`Watch.begin`, `Watch.end`).
In a process of ours the looks are signals of a timer of the system: it needs no lock of the
interpreter, so that a regular expression which goes astray is found as well, and a call of the
system is broken off (PEP 475). In a program of somebody else's, whose signals are its own, they are
those of a thread. Whoever looks compares the number of the call, so that no other code is ever hit.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

LOOKS: Final = 4
"""Looks in the time that a hook may hold the loop. Looks, not seconds: a process that was stopped
for a minute, or that got no CPU, has not looked meanwhile."""
SHORTEST: Final = 0.05
"""Seconds: a shorter limit is this one. A collection of garbage, or another process on the CPU,
takes some hundredths."""

LEVELS: Final = 16
"""Times in a row that a hook is interrupted which has swallowed it once: as many loops that catch
all may lie in each other. CPython keeps twice as many calls for later."""
INSISTS: Final = sys.version_info[:2] != (3, 12)
"""Whether this interpreter can interrupt again and again. CPython 3.12 runs calls for later until
there is none, those included that they add, and so never gets out of one that comes too early."""
WAITING: Final = 0.1
"""Part of the time that a hook may compute which is said to wait. Little, since one that computes
gets no more than that of a busy machine's CPU."""


class Held(BaseException):
    """A hook has held the loop for too long. No `Exception`: what the hook does about errors, such
    as asking again, is not meant."""


def interrupt(thread: int) -> None:
    """Have `Held` raised in a thread, at its next instruction in Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Held))


class _Again:
    """Owns the further interruptions of a hook that has swallowed one. Each happens where Python
    looks next for calls that are pending: behind the handler that has swallowed the last, or in
    it, and so out of reach of its `try`. Where no hook runs any more they come to nothing."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __bool__(self) -> bool:
        if self._watch.running:
            if sys._getframe(1).f_globals.get("__name__") not in _OURS:
                raise Held
            self.add()  # It is being interrupted, or ends just now.
        return False

    def add(self) -> None:
        """Have one more happen in the main thread."""
        ctypes.pythonapi.Py_AddPendingCall(_IS_TRUE, ctypes.py_object(self))


_IS_TRUE: Final = ctypes.cast(ctypes.pythonapi.PyObject_IsTrue, ctypes.c_void_p)
"""A function of C that calls Python, and says that it has raised as pending calls do."""
_OURS: Final = (__name__, "proxy.filters.guarded")
"""Where a hook begins and ends."""


def spare() -> None:
    """Let what `interrupt` has not achieved yet in this thread happen here, and nowhere else. To
    take it back leaves CPython 3.11 looking for it for ever: each call costs more, and one that is
    traced never ends."""
    try:
        for _ in range(8):  # ≤ 8
            pass  # At the end of each round Python looks.
    except Held:
        pass


class Watched(Protocol):
    """A hook's filter, as far as whoever looks is concerned."""

    leash: float
    """Seconds for which a hook of it may hold the loop."""
    waited: bool
    """The last one that was interrupted had waited for something, rather than computed."""


class Looks(Protocol):
    """A clock that has `Watch` look again and again."""

    @property
    def lock(self) -> threading.Lock | None:
        """Held while somebody looks; None: whoever looks is the thread that is looked at."""

    def begin(self, period: float, look: Callable[[], bool]) -> None:
        """Look every `period` seconds; True from `look`: interrupt what runs."""

    def rest(self) -> bool:
        """Look no more until `begin`, since nothing runs. False: it goes on."""

    def stop(self) -> None:
        """Look no more until `begin`; nothing runs, or will."""

    def spare(self) -> None:
        """Have an interruption that has not come through do no harm."""

    def cpu(self) -> float:
        """Seconds that the thread which is looked at has computed."""


class NoLooks:
    """No clock, for tests."""

    lock = None

    def begin(self, period: float, look: Callable[[], bool]) -> None:
        """See `Looks`."""

    def rest(self) -> bool:
        """See `Looks`."""
        return True

    def stop(self) -> None:
        """See `Looks`."""

    def spare(self) -> None:
        """See `Looks`."""

    def cpu(self) -> float:
        """See `Looks`."""
        return 0.0


class SignalLooks:
    """Owns SIGALRM and the timer of a process, whose main thread is looked at."""

    lock = None

    def begin(self, period: float, look: Callable[[], bool]) -> None:
        """See `Looks`."""

        def on_signal(number: int, frame: Any) -> None:
            if look():
                raise Held

        signal.signal(signal.SIGALRM, on_signal)
        signal.setitimer(signal.ITIMER_REAL, period, period)

    def rest(self) -> bool:
        """See `Looks`."""
        self.stop()
        return True

    def stop(self) -> None:
        """See `Looks`."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def spare(self) -> None:
        """See `Looks`. It is the look itself that interrupts."""

    def cpu(self) -> float:
        """See `Looks`."""
        return time.thread_time()


class ThreadLooks:
    """Owns a thread that looks at the one in which it was begun. A call of the system is not broken
    off: it is interrupted at its end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._thread = 0
        self._sent = False
        self._over = threading.Event()

    def begin(self, period: float, look: Callable[[], bool]) -> None:
        """See `Looks`."""
        self._over.set()
        self._over = threading.Event()
        self._thread = threading.get_ident()
        arguments = period, look, self._over
        threading.Thread(target=self._go_on, args=arguments, name="hooks", daemon=True).start()

    def _go_on(self, period: float, look: Callable[[], bool], over: threading.Event) -> None:
        while not over.wait(period):  # ≤ thread
            with self.lock:
                if look() and not over.is_set():
                    self._sent = True
                    interrupt(self._thread)

    def rest(self) -> bool:
        """See `Looks`. A hook could begin just now."""
        return False

    def stop(self) -> None:
        """See `Looks`."""
        self._over.set()

    def spare(self) -> None:
        """See `Looks`."""
        if self._sent:
            self._sent = False
            spare()

    def cpu(self) -> float:
        """See `Looks`."""
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread))


class Watch:
    """Owns which hook has the loop, and how often it was found there."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._watched: set[Watched] = set()  # ≤ 1 KiB per route
        self._period = 0.0
        self._resting = True
        self._running: Watched | None = None
        self._call = 0
        """Number of the hook's call; goes up."""
        self._seen = 0
        self._found = 0
        """Looks that have found it since the first."""
        self._cpu = 0.0
        self._swallowed = False
        """The hook was interrupted, and goes on."""
        self._again = _Again(self)
        self._insists = INSISTS and threading.current_thread() is threading.main_thread()

    @property
    def running(self) -> bool:
        """A hook has the loop."""
        return self._running is not None

    def add(self, one: Watched) -> None:
        """Hooks of this one begin and end from now on."""
        self._watched.add(one)
        self.adapt()

    def remove(self, one: Watched) -> None:
        """No hook of this one will begin."""
        self._watched.discard(one)
        if not self._watched:
            self._looks.stop()
            self._resting = True

    def adapt(self) -> None:
        """Adapt to a leash that has another length now."""
        if not self._watched:
            return  # A change of content that has outlived its filter has blocked.
        self._period = min(one.leash for one in self._watched) / LOOKS
        if not self._resting:
            self._looks.begin(self._period, self.look)

    def begin(self, one: Watched) -> None:
        """A hook has the loop."""
        self._call += 1
        self._running = one
        if self._resting:
            self._resting = False
            self._looks.begin(self._period, self.look)

    def end(self) -> None:
        """The hook has it no more. May be called twice: what interrupts it may come just now."""
        lock = self._looks.lock
        if lock is None:
            self._running = None
            return
        with lock:
            self._running = None
            self._looks.spare()

    def look(self) -> bool:
        """Look at what has the loop. True: for too long."""
        one, call = self._running, self._call
        if call != self._seen:
            self._seen, self._found, self._cpu = call, 0, self._looks.cpu()
            self._swallowed = False
            return False
        if one is None:
            self._resting = self._looks.rest()
            return False
        self._found += 1
        if self._found * self._period < one.leash:
            return False
        computed = self._looks.cpu() - self._cpu
        one.waited = computed < self._found * self._period * WAITING
        self._found = 0
        if self._swallowed and self._insists:
            for _ in range(LEVELS):  # ≤ LEVELS
                self._again.add()
        self._swallowed = True
        return True
