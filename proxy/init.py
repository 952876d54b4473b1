"""Being process 1, or a subreaper: what a kernel expects of it, and nothing else.

In a container the command may be the first process. The kernel then hands it every orphan, to
be reaped, and gives it no default action for signals. Both are at odds with an event loop whose
library waits for its own children, so process 1 splits first: it stays behind to reap and to
pass signals on, and its child does the work. A subreaper is handed the orphans of its
descendants in the same way (prctl(2)); whatever made this process one may have left it so.
"""

from __future__ import annotations

import os
import signal
import sys

FORWARDED = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT),
)

_PR_SET_PDEATHSIG = 1
_PR_GET_CHILD_SUBREAPER = 37


def fill_standard_descriptors() -> None:
    """Open those of 0, 1 and 2 that were closed before this process began: as /dev/null. Otherwise
    sockets would get the numbers, and children would have those as their standard input, output
    and error."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def split_if_first() -> int | None:
    """When orphans are handed to this process: fork, stay behind, and return the exit code of
    the child once it has ended; the kernel then kills what is left in the container. None: go
    on, in the child or because this is any other process. Call it before there are threads and
    open files."""
    fill_standard_descriptors()
    first = os.getpid()
    if first != 1 and not _is_subreaper():
        return None
    # Whoever started us may have it ignored, and then children are reaped without a word.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Blocked from before the fork on, so that a signal in between waits instead of getting lost.
    watched = {*FORWARDED, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        # A group of its own: Ctrl-C at a terminal then comes once, by us, and not twice.
        os.setpgid(0, 0)
        _end_with(first)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    return _tend(child, watched)


def _is_subreaper() -> bool:
    """Linux only; elsewhere there are none."""
    if sys.platform != "linux":
        return False
    import ctypes  # Takes a millisecond.

    found = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0)
    return found.value != 0


def _end_with(parent: int) -> None:
    """Be killed when `parent` is: it was the one that was started, so killing it means us. With
    process 1 the kernel does so anyway."""
    if parent == 1:
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


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
