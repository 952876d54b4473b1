"""Starting processes of ours: how they are run, with which descriptors and environment."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol


def describe_exit(returncode: int) -> str:
    """`exit status 1` or `signal SIGKILL`."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"


def module_command(module: str, search: Iterable[str] | None = None) -> tuple[str, ...]:
    """How to run a module of ours: the same interpreter, finding the same packages. `search`:
    this process's import path, if it is not `sys.path`."""
    # `-m` puts the current directory first on the import path. That must be so in the child
    # exactly if it was so here (`python -m proxy` in a checkout); the installed command may be
    # started in any directory, even one with another `proxy` package in it.
    path = sys.path if search is None else search
    try:
        here = os.path.realpath(os.curdir)
        safe = [] if here in map(os.path.realpath, path) else ["-P"]
    except FileNotFoundError:
        safe = ["-P"]  # It has been removed, as that of a release that was replaced.
    return (sys.executable, *safe, "-m", module)


ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(1024 * 1024),
}
"""Bytes, for glibc's malloc. Bodies go through a worker in pieces of up to 256 KiB. With the
defaults each piece that is freed goes back to the kernel, and the next one is faulted in page by
page: a third of the cost of a download. Whoever has set these variables keeps their own."""


class Running(Protocol):
    """A process, as far as it is of interest; `asyncio.subprocess.Process` is one."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    async def wait(self) -> int: ...

    def kill(self) -> None: ...


class Launch(Protocol):
    """A function that starts a worker process."""

    async def __call__(
        self, index: int, row: int, channel: socket.socket, descriptors: socket.socket
    ) -> Running: ...


class ProcessLaunch:
    """Starts worker processes; the descriptors it passes on belong to others."""

    def __init__(
        self,
        *,
        program: Sequence[str],
        board: int,
        environ: Callable[[], Mapping[str, str]],
    ) -> None:
        """`board`: descriptor of the in-flight board; `environ`: added to this process's
        environment, at each start anew."""
        self._program = tuple(program)
        self.board = board
        self.environ = environ

    async def __call__(
        self, index: int, row: int, channel: socket.socket, descriptors: socket.socket
    ) -> Process:
        """Start worker `index` with its row of the board and its ends of the channel and of the
        pair beside it. OSError when there is no process to be had."""
        inherited = {"channel": channel.fileno(), "descriptors": descriptors.fileno()}
        numbers = {"index": index, "row": row, "board": self.board, **inherited}
        arguments = [word for name, n in numbers.items() for word in (f"--{name}", str(n))]
        return await asyncio.create_subprocess_exec(
            *self._program,
            *arguments,
            stdin=DEVNULL,
            pass_fds=[self.board, *inherited.values()],
            env=environment_of_workers(os.environ, self.environ()),
            # Ctrl-C in a terminal goes to the whole foreground group. A worker must not see
            # it: the control process alone decides in which order things stop.
            start_new_session=True,
        )


def environment_of_workers(own: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """`own`: this process's environment. Whatever it says, strings are hashed under a seed that is
    drawn at the start: with a fixed one, as some images set it, clients could choose field names
    that all fall into one place of a dict."""
    return {**ALLOCATOR, **own, **added, "PYTHONHASHSEED": "random"}
