"""`RunningProxy`: the real `fairlead run` as a process of its own, for end-to-end tests.

    async with RunningProxy({"routes": [...]}, tmp_path) as proxy:
        async with session.get(proxy.url + "/users/1") as answer: ...
        os.kill((await proxy.worker_pids())[0], signal.SIGKILL)

The configuration is that of `proxy.yaml` as a dict; listeners, admin address, workers (1),
registry (static) and a short `shutdown` are filled in where the test does not say. Nothing
here sleeps for a fixed time: `eventually` waits for a condition with a deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp


def _ports() -> Iterator[int]:
    """Ports below the kernel's ephemeral range, each once in a long while: those of one test
    process are nobody else's, so that nothing takes one between the look and the use."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (32_000 - 15_000) // workers
    start = random.randrange(size)
    for step in itertools.count(start):
        yield 15_000 + number * size + step % size


_PORTS: Final = _ports()


def free_port() -> int:
    """A loopback TCP port nobody listens on, from below the kernel's ephemeral range: no
    outgoing connection of another test can take it in the meantime."""
    for port in itertools.islice(_PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port found")


async def listens(port: int) -> bool:
    """Somebody accepts connections on a loopback port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def eventually(
    condition: Callable[[], Awaitable[Any] | Any], within: float, what: str, every: float = 0.02
) -> Any:
    """The first true value of `condition()`, which may be a coroutine function. AssertionError
    naming `what` when there is none `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}")
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


class RunningProxy:
    """Owns one `fairlead run` process, its configuration file and its log file."""

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: Path,
        *,
        environ: Mapping[str, str] | None = None,
        open_files: int | None = None,
        stderr: int | None = None,
        started_by: Sequence[str] = (),
    ) -> None:
        """`directory` takes the files (pytest's `tmp_path`); `environ` is added to this
        process's environment; `open_files` is the limit on descriptors, soft and hard; `stderr`
        is what it logs to in place of the file, -1 = it begins with 0, 1 and 2 closed;
        `started_by` is a command that is given ours."""
        self.port = free_port()
        self.admin_port = free_port()
        self.config: dict[str, Any] = {
            "listeners": [{"name": "web", "bind": f"127.0.0.1:{self.port}"}],
            "admin": {"bind": f"127.0.0.1:{self.admin_port}"},
            "workers": 1,
            "registry": {"type": "static"},
            "shutdown": {"delay": "0s", "grace": "10s"},
            **config,
        }
        self.file = directory / f"proxy-{self.port}.yaml"
        # JSON is YAML, so no YAML writer is needed.
        self.file.write_text(json.dumps(self.config, indent=1))
        self.log_file = directory / f"proxy-{self.port}.log"
        self._command = [sys.executable, "-m", "proxy", "run", "-c", str(self.file)]
        if open_files is not None:
            limited = f'ulimit -n {open_files}; exec "$@"'
            self._command = ["/bin/sh", "-c", limited, "sh", *self._command]
        if stderr == -1:
            stderr = None
            self._command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *self._command]
        self._command = [*started_by, *self._command]
        self._environ = {**os.environ, **(environ or {})}
        self._stderr = stderr
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL of the default listener, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        """Base URL of the admin server, without a slash at the end."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        """Process id of the control process."""
        return self._started().pid

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def returncode(self) -> int | None:
        """Exit code, -N for signal N, None while it runs."""
        return self._started().poll()

    def log(self) -> str:
        """What it wrote on standard error so far."""
        return self.log_file.read_text() if self.log_file.exists() else ""

    def launch(self) -> None:
        """Start the process and return at once."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if self._stderr is None else self._stderr,
                env=self._environ,
            )

    async def start(self, within: float = 30.0) -> Self:
        """Start it and wait until /readyz answers 200. AssertionError with the log if it
        exits before, or does not become ready `within` seconds."""
        self.launch()
        try:
            await eventually(self._ready_or_gone, within, "ready")
        except AssertionError as late:
            await self.kill()
            raise AssertionError(f"{late}\n{self.log()}") from None
        if self.returncode is not None:
            raise AssertionError(f"exited with {self.returncode}\n{self.log()}")
        return self

    async def _ready_or_gone(self) -> bool:
        return self.returncode is not None or await self.readyz() == 200

    async def readyz(self) -> int | None:
        """Status of /readyz; None when the admin server does not answer."""
        try:
            status, _ = await self.get("/readyz")
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        return status

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """GET on the admin server: status and body, decoded if it is JSON."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self.admin + path, headers=headers) as answer,
        ):
            if answer.content_type.endswith("json"):
                return answer.status, await answer.json(content_type=None)
            return answer.status, await answer.text()

    async def workers(self) -> list[dict[str, Any]]:
        """The rows of /api/v1/workers."""
        status, body = await self.get("/api/v1/workers")
        assert status == 200, body
        rows: list[dict[str, Any]] = body["workers"]
        return rows

    async def worker_pids(self) -> list[int]:
        """Process ids of the workers, by index; those being replaced are left out."""
        return [row["pid"] for row in await self.workers() if row["pid"] is not None]

    def children(self) -> list[int]:
        """Process ids of its children in ascending order, zombies included."""
        return children(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the control process."""
        self._started().send_signal(number)

    async def wait(self, within: float = 15.0) -> int:
        """Its exit code, once it is gone."""
        process = self._started()
        await eventually(lambda: process.poll() is not None, within, "the proxy's exit")
        assert process.returncode is not None
        return process.returncode

    async def stop(self, within: float = 15.0) -> int:
        """SIGTERM, and its exit code."""
        if self.returncode is None:
            self.signal(signal.SIGTERM)
        return await self.wait(within)

    async def kill(self) -> None:
        """SIGKILL the control process, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await self.wait()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if self._process is not None:
                await self.stop()
        finally:
            await self.kill()
            if error is not None:
                sys.stderr.write(self.log())
