"""`Program`: somebody else's client or server as a process of its own, for end-to-end tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.e2e.running import eventually

REPOSITORY = Path(__file__).parents[2]
NODE = Path(__file__).parent / "node"
"""Where the scripts for Node are."""


def need(program: str) -> str:
    """The path of an executable; skips the test where there is none."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


async def output(*command: str, within: float = 30, stdin: bytes | None = None) -> bytes:
    """What a command wrote on standard output. AssertionError with its standard error when it
    fails or takes longer than `within` seconds; it is killed then."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(stdin), within)
    except TimeoutError:
        process.kill()
        out, error = await process.communicate()
        raise AssertionError(f"{command} took more than {within} s: {out!r} {error!r}") from None
    assert process.returncode == 0, (command, process.returncode, out, error)
    return out


class Program:
    """Owns one server process that listens on a loopback port."""

    def __init__(
        self, command: Sequence[str], port: int, log: Path, environ: Mapping[str, str]
    ) -> None:
        self.port = port
        self._command = command
        self._log = log
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start the process and return at once."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environ},
                cwd=REPOSITORY,
            )

    async def __aenter__(self) -> Self:
        self.launch()
        try:
            await eventually(self._listening_or_gone, 20, f"{self._command} listens")
            if self._gone():
                raise AssertionError(self._log.read_text())
        except BaseException:
            await self.stop()
            raise
        return self

    def _gone(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    async def _listening_or_gone(self) -> bool:
        if self._gone():
            return True
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.transport.abort()
        return True

    async def stop(self) -> None:
        """End it, gently if it lets us."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            await eventually(lambda: process.poll() is not None, 5, "the exit")
        except AssertionError:
            process.kill()
            await asyncio.to_thread(process.wait, 5)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.stop()
        if error is not None:
            sys.stderr.write(self._log.read_text())
