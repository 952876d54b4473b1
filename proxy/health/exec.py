"""The `exec` check: a command, judged by its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from typing import ClassVar

from proxy.health.base import Check, Endpoint

MAX_OUTPUT = 4096
"""Bytes of output that are kept, from the end; only the last line is ever shown."""
REAP_LIMIT = 1.0
"""Seconds for a killed command to be gone. SIGKILL takes microseconds unless the kernel itself
waits for a disk, and then nobody can do more than go on."""


class ExecCheck(Check):
    """Good when the command exits with 0; its last line of output is the message.

    The command is a line for `/bin/sh`, as in a Dockerfile's HEALTHCHECK. It finds the endpoint
    in `FAIRLEAD_ADDRESS` and `FAIRLEAD_PORT`. It runs in a session of its own, which is killed
    whole when the time is up, or when the command leaves something behind.
    """

    name: ClassVar[str] = "exec"
    holds_the_loop: ClassVar[bool] = True

    def __init__(self, *, timeout: float = 1.0, command: str = "") -> None:
        super().__init__(timeout=timeout)
        if not command.strip() or "\0" in command:
            raise ValueError(f"command: {command!r} is no command line")
        self._command = command

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        output = _Tail()
        try:
            process = await self._start(endpoint, output.writer)
            try:
                code = await process.wait()
            finally:
                await _end(process)
        finally:
            output.close()
        what = f"exit {code}" if code >= 0 else f"killed by signal {-code}"
        line = output.last_line()
        return code == 0, line if code == 0 and line else f"{what}: {line}" if line else what

    async def _start(self, endpoint: Endpoint, output: int) -> asyncio.subprocess.Process:
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", self._command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={
                    **os.environ,
                    "FAIRLEAD_ADDRESS": endpoint.address,
                    "FAIRLEAD_PORT": str(endpoint.port),
                },
            )
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Cancelled itself, it would end the shell and not what that had started. It takes a
            # few turns of the loop and cannot hang.
            with contextlib.suppress(OSError):
                await _end(await starting)
            raise


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the command's session and see the command reaped."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # All gone; macOS says "not permitted" of a group of zombies.
    try:
        async with asyncio.timeout(REAP_LIMIT):
            await process.wait()
    except TimeoutError:
        pass  # The child watcher goes on waiting.


class _Tail:
    """Owns a pipe and the last bytes that came out of it.

    asyncio's own pipes end with their last writer, which a command may leave behind; this one
    ends when it is closed.
    """

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._bytes = b""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._read)

    def _read(self) -> None:
        try:
            piece = os.read(self._reader, MAX_OUTPUT)
        except BlockingIOError:
            return
        self._bytes = (self._bytes + piece)[-MAX_OUTPUT:]

    def close(self) -> None:
        # What is in the pipe and no more: 64 KiB, so a command that still writes cannot
        # keep us reading.
        os.close(self.writer)
        for _ in range(16):
            self._read()
        self._loop.remove_reader(self._reader)
        os.close(self._reader)

    def last_line(self) -> str:
        lines = self._bytes.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
