"""Being process 1: what a kernel expects of it, and nothing else.

In a container the side-car may be the first process. The kernel then hands it every orphan, to
be reaped, and gives it no default action for signals. Both are at odds with an event loop whose
library waits for its own children, so process 1 splits first: it stays behind to reap and to
pass signals on, and its child becomes the side-car.
"""

from __future__ import annotations

import os
import signal

FORWARDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT),
)


def split_if_first() -> int | None:
    """When this is process 1: fork, stay behind, and return the side-car's exit code once it
    has ended; the kernel then kills what is left in the container. None: go on, in the child
    or because this is any other process. Call it before there are threads."""
    if os.getpid() != 1:
        return None
    # Blocked from before the fork on, so that a signal in between waits instead of getting lost.
    watched = {*FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        # A group of its own: Ctrl-C at a terminal then comes once, by us, and not twice.
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    return _tend(child, watched)


def _tend(child: int, watched: set[signal.Signals]) -> int:
    while True:
        number = signal.sigwait(watched)
        if number != signal.SIGCHLD:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                pass  # Its end is the next thing we hear of.
            continue
        code = _reap(child)
        if code is not None:
            return code


def _reap(child: int) -> int | None:
    """Reap whoever is dead; the exit code of `child` when it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = exit_code(os.waitstatus_to_exitcode(status))


def exit_code(code: int) -> int:
    """As shells say it: 128 + n for a process that was killed by signal n."""
    return 128 - code if code < 0 else code
