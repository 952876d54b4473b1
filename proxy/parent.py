"""The parent: the process that was started, which keeps its id for life, and does little else.

It starts the control process, holds the listening sockets for it, passes signals on, reaps, and
talks to the service manager, whose main process it is. So the proxy can be replaced while it runs:
`succession.py` has the decisions.

Nothing is imported here but a part of the standard library, since whatever this process loads is
there twice, and is never replaced.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

from proxy import packets
from proxy.init import FORWARDED, fill_standard_descriptors
from proxy.succession import Parent, complain

LISTEN_FDS_START = 3
"""See sd_listen_fds(3)."""


def tend(arguments: Sequence[str]) -> int:
    """Run `fairlead` with these arguments as the control process, for as long as it takes; the exit
    code. To be called before there are threads."""
    fill_standard_descriptors()
    parent = Parent(lambda fd, environ: _spawn(arguments, fd, environ), os.environ)
    # Before there are descriptors of ours, which could have the numbers of theirs.
    parent.hold_passed(passed_names(os.environ, os.getpid()), LISTEN_FDS_START)
    _raise_file_limit()
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        # Whoever started us may have it ignored, and then children are reaped without a word.
        watched = {*FORWARDED, signal.SIGCHLD}
        for number in watched:
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        parent.start()
        poll(parent, reader)
    assert parent.code is not None
    return parent.code


def _raise_file_limit() -> None:
    """Allow as many open files as the control process has, whose listening sockets are here too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass  # Then they are as many as there were.


def poll(parent: Parent, signals: socket.socket) -> None:
    """Turn until the parent is done. `signals`: numbers of signals arrive there, a byte each."""
    while not parent.over:
        links = parent.links()
        readable = packets.readable([signals, *links], parent.wait())
        numbers = []
        if signals in readable:
            try:
                numbers = list(signals.recv(4096))
            except BlockingIOError:
                pass
        for link in readable:
            if link is not signals and link.fileno() >= 0:
                parent.on_message(links[link])
        for number in numbers:
            if number != signal.SIGCHLD:
                parent.on_signal(number)
        if signal.SIGCHLD in numbers:
            _reap(parent)
        parent.tick()


def _nothing(*_: object) -> None:
    """Handler of signals: their numbers are read from the descriptor."""


def _reap(parent: Parent) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        parent.on_end(pid, os.waitstatus_to_exitcode(status))


def _spawn(arguments: Sequence[str], descriptor: int, environ: Mapping[str, str]) -> int:
    # As `control.launch.module_command`, which would load half of the program.
    try:
        here = os.path.realpath(os.curdir)
        safe = [] if here in map(os.path.realpath, sys.path) else ["-P"]
    except FileNotFoundError:
        safe = ["-P"]
    command = [sys.executable, *safe, "-m", "proxy", *arguments, "--parent", str(descriptor)]
    # Blocked from before the fork on, so that a signal in between waits for the new program.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    try:
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                for number in (*FORWARDED, signal.SIGCHLD):
                    signal.signal(number, signal.SIG_DFL)
                for number in (signal.SIGHUP, signal.SIGUSR1):
                    # It reads file and log anyway when it begins, and must not end by these before.
                    signal.signal(number, signal.SIG_IGN)
                # A group of its own: Ctrl-C at a terminal then comes once, by us, and not twice.
                os.setpgid(0, 0)
                os.set_inheritable(descriptor, True)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                os.execve(command[0], command, own_environ(environ, os.getppid()))
            except BaseException as error:
                reason = f"cannot run {command[0]}: {error}"
                complain(reason)
                packets.send(socket.socket(fileno=descriptor), {"failed": reason})
            finally:
                os._exit(127)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def own_environ(environ: Mapping[str, str], parent: int) -> dict[str, str]:
    """Without what the service manager says to the parent alone: see sd_watchdog_enabled(3)."""
    own = {name: value for name, value in environ.items() if not name.startswith("LISTEN_")}
    meant = own.pop("WATCHDOG_PID", str(parent)) == str(parent)
    if not meant:
        own.pop("WATCHDOG_USEC", None)
    return own


def passed_names(environ: Mapping[str, str], pid: int) -> list[str]:
    """Names of the sockets that the service manager has passed, from descriptor
    `LISTEN_FDS_START` on; see sd_listen_fds_with_names(3)."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdigit():
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    return [names[i] if i < len(names) and names[i] else "unknown" for i in range(int(count))]
