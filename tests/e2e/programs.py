"""`Program`: somebody else's client or server as a process of its own, for end-to-end tests."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.processes import AwaitedProcess, eventually, listens

REPOSITORY = Path(__file__).parents[2]
NODE = Path(__file__).parent / "node"
"""Where the scripts for Node are."""


def need(program: str) -> str:
    """The path of an executable; skips the test where there is none."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def built(name: str) -> str:
    """The path of a program of `tests/e2e/go/`; skips the test where there is none."""
    path = REPOSITORY / "build" / "go" / name
    if not path.exists():
        pytest.skip(f"build/go/{name} is not there: .ci/go builds it")
    return str(path)


async def output(
    *command: str,
    within: float = 30,
    stdin: bytes | None = None,
    statuses: Collection[int] = (0,),
) -> bytes:
    """What a command wrote on standard output. AssertionError with its standard error when it
    ends with another status than these, or takes longer than `within` seconds; it is killed
    then."""
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
    assert process.returncode in statuses, (command, process.returncode, out, error)
    return out


class Program(AwaitedProcess):
    """Owns one server process that listens on a loopback port."""

    def __init__(
        self, command: Sequence[str], port: int, log: Path, environ: Mapping[str, str]
    ) -> None:
        super().__init__(command, log, environ, REPOSITORY)
        self.port = port

    async def __aenter__(self) -> Self:
        self.launch()
        try:
            await eventually(self._listening_or_gone, 20, f"{self._command} listens")
            if self.returncode is not None:
                raise AssertionError(self.log())
        except BaseException:
            await self.end()
            raise
        return self

    async def _listening_or_gone(self) -> bool:
        return self.returncode is not None or await listens(self.port)

    async def end(self) -> None:
        """End it, gently if it lets us."""
        try:
            await self.stop(5)
        except AssertionError:
            await self.kill()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.end()
        if error is not None:
            sys.stderr.write(self.log())
