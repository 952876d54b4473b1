"""Processes and ports of tests and benchmarks: started, waited for, and ended by process id.

Nothing here sleeps for a fixed time: `eventually` waits for a condition with a deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

_FIRST, _LAST, _BLOCK = 15_000, 32_000, 100
"""Below the kernel's ephemeral range: no outgoing connection takes one."""


class _Ports:
    """Owns blocks of ports that no other process of this machine gives out while this one lives,
    be they in use or not: a server that is away for a while finds its port again."""

    def __init__(self) -> None:
        self._claimed: set[int] = set()  # ≤ blocks that there are
        self._rising = self._each()

    def _each(self) -> Iterator[int]:
        """The ports of one block after the other; of all that can be had, again and again."""
        blocks = [*range(_FIRST, _LAST, _BLOCK)]
        random.shuffle(blocks)
        for block in itertools.cycle(blocks):
            if self.ours(block):
                yield from range(block, block + _BLOCK)
            elif not self._claimed and block == blocks[-1]:
                return

    def ours(self, port: int) -> bool:
        """Whether the block of a port is claimed, as it is from now on if nobody else has it. The
        claim is a name of a socket: it ends with the process, however that ends."""
        block = port - port % _BLOCK
        if block not in self._claimed:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
                try:
                    claim.bind(f"\0fairlead-test-ports-{block}")
                except OSError:
                    return False
                claim.detach()
            self._claimed.add(block)
        return True

    def free(self, beside: int) -> int:
        """See `free_port`."""
        for port in itertools.islice(self._rising, 200 + beside):
            if port + beside >= _LAST or not self.ours(port + beside):
                continue
            with socket.socket() as probe, socket.socket() as other:
                try:
                    probe.bind(("127.0.0.1", port))
                    if beside:
                        other.bind(("127.0.0.1", port + beside))
                except OSError:
                    continue
                return port
        raise RuntimeError("no free port found")


PORTS: Final = _Ports()


def free_port(beside: int = 0) -> int:
    """A loopback TCP port that nobody listens on, nor on that which is `beside` more, and that no
    other test process is given."""
    return PORTS.free(beside)


async def listens(port: int) -> bool:
    """Somebody accepts connections on a loopback port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def eventually(
    condition: Callable[[], Awaitable[Any] | Any],
    within: float = 10.0,
    what: str | Callable[[], object] = "",
    every: float = 0.02,
) -> Any:
    """The first true value of `condition()`, which may be a coroutine function. AssertionError
    with `what`, or what that says by then, when there is none `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s: {what() if callable(what) else what}")
        await asyncio.sleep(every)


def waited_for_cpu(pids: Iterable[int]) -> float:
    """Seconds in which a process could have run and another one did, since it began; of the one
    that had to wait longest, since they wait at the same time."""
    return max(_scheduled(pid)[1] for pid in pids)


class Slowdown:
    """How many times longer than on an idle machine these processes have taken for what they did
    since this was made. Where time is what a test is about, its limits are multiplied by that."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._before = {pid: _scheduled(pid) for pid in pids}

    @property
    def factor(self) -> float:
        """That of the process which is held up most; at least 1."""
        factors = [1.0]
        for pid, (ran, waited) in self._before.items():
            now = _scheduled(pid)
            if now[0] > ran:
                factors.append(1.0 + (now[1] - waited) / (now[0] - ran))
        return max(factors)


def _scheduled(pid: int) -> tuple[float, float]:
    """Seconds in which a process had a CPU, and in which it waited for one."""
    fields = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(fields[0]) / 1e9, int(fields[1]) / 1e9


def alive(pid: int) -> bool:
    """Is there such a process, zombies not counted?"""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def children(pid: int) -> list[int]:
    """Process ids of a process's children in ascending order, zombies included."""
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


class Process:
    """Owns one process, once launched, and the file with all that it prints."""

    def __init__(
        self,
        command: Sequence[str],
        log_file: Path,
        environ: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        """`environ` is added to this process's environment; `directory` is where it works."""
        self.log_file = log_file
        self._command = list(command)
        self._environ = {**os.environ, **(environ or {})}
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, **options: Any) -> None:
        """Start the process and return at once; `options` are those of `Popen`."""
        with self.log_file.open("ab") as log:
            ours = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": self._environ}
            self._process = subprocess.Popen(
                self._command, cwd=self._directory, **{**ours, **options}
            )

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """Exit code, -N for signal N, None while it runs."""
        return self._started().poll()

    def log(self) -> str:
        """What it printed so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    async def logs(self, text: str, times: int = 1) -> None:
        """Wait until it has printed the text so often: its log has a thread of its own, which on a
        busy machine is later than what the log tells of."""
        await eventually(lambda: self.log().count(text) >= times, 10, lambda: (text, self.log()))

    def signal(self, number: signal.Signals) -> None:
        self._started().send_signal(number)

    def pause(self) -> None:
        """SIGSTOP: connections stay, the kernel accepts more, nobody answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT, if it still runs."""
        if self.returncode is None:
            self.signal(signal.SIGCONT)


class AwaitedProcess(Process):
    """A process that is waited for by a test's event loop."""

    async def wait(self, within: float = 15.0) -> int:
        """Its exit code, once it is gone. AssertionError with its log when that takes longer."""
        process = self._started()
        await eventually(
            lambda: process.poll() is not None,
            within,
            lambda: f"the exit of {self._command}\n{self.log()}",
        )
        return process.returncode

    async def stop(self, within: float = 15.0, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, unless it is gone, and its exit code."""
        if self.returncode is None:
            self.signal(number)
        return await self.wait(within)

    async def kill(self) -> None:
        """SIGKILL it, if it was started and still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await self.wait()


class Started:
    """What `async with` starts, and ends even if the start fails."""

    async def start(self) -> None:
        """On the same address and data as before, if there was a before."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        raise NotImplementedError


class OwnServer(Started):
    """Owns one server's process, and a directory with its throw-away data."""

    def __init__(self, name: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"fairlead-test-{name}-"))
        self._command: list[str]
        self._process: AwaitedProcess | None = None

    async def start(self) -> None:
        self.launch()
        await self.serves()

    def launch(self) -> None:
        """As `start`, without waiting for it."""
        self._process = AwaitedProcess(self._command, self.directory / "log")
        self._process.launch(start_new_session=True)

    async def serves(self) -> None:
        """Wait until it does."""
        raise NotImplementedError

    async def kill(self) -> None:
        if self._process is not None:
            self.resume()
            await self._process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay, the kernel accepts more, nobody answers."""
        assert self._process is not None
        self._process.pause()

    def resume(self) -> None:
        if self._process is not None:
            self._process.resume()

    def wipe(self) -> None:
        """Throw the data away. The server must not run."""
        shutil.rmtree(self.directory / "data")

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
