"""Pages whose commands are run: what a reader types, and what the page says comes of it.

A block `console` is typed into a shell: `$ ` begins a command, `> ` continues it, and the lines
below are what it prints, all of it; `...` stands for any lines, `…` within a line for any text. A
block with `title="NAME"` is the file NAME. A block `console` with a title is not run: it is for
another place, and what it brings is there already. Questions are asked again until the answer is
as shown, as a reader would do.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]+)"')
QUESTION = re.compile(r"(curl (?!.*-X)|fairlead (services|instances|explain|registry)|for |grep )")
PATIENCE = 30.0
"""Seconds until a question must be answered as shown; the reader's own machine needs one or two."""
LIMIT = 60.0
"""Seconds for any other command."""
MARK = "--8<-- done"


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words behind that, its text and its line in the page."""

    language: str
    words: str
    text: str
    line: int

    @property
    def title(self) -> str:
        title = TITLE.search(self.words)
        return title[1] if title else ""


def blocks(page: str) -> Iterator[Block]:
    for found in BLOCK.finditer(page):
        line = page.count("\n", 0, found.start()) + 1
        yield Block(found[1], found[2].strip(), found[3], line)


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a `console` block with what it prints."""
    for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = step.splitlines()
        more = 1
        while more < len(lines) and lines[more].startswith("> "):
            more += 1
        command = "\n".join([lines[0], *(line[2:] for line in lines[1:more])])
        yield command, "".join(f"{line}\n" for line in lines[more:] if line)


def as_shown(shown: str, printed: str) -> bool:
    """Is this what the page shows? How much space there is, and empty lines, count for nothing."""
    pattern = "".join(
        r"(?:.*\n)*?"
        if line == "..."
        else ".*".join(r"\s+".join(map(re.escape, part.split(" "))) for part in line.split("…"))
        + r"\n"
        for line in shown.splitlines()
    )
    lines = "".join(f"{line.strip()}\n" for line in printed.splitlines() if line.strip())
    return re.fullmatch(pattern, lines) is not None


class Reader:
    """Owns a shell in a directory of its own, and all that is started from it."""

    def __init__(
        self, directory: Path, environ: Mapping[str, str], instead: Mapping[str, str]
    ) -> None:
        """`instead`: ports of the page, and those that are used in their place."""
        self._directory = directory
        self._environ = {**os.environ, **environ}
        self._instead = instead
        self._shell: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        self._shell = await asyncio.create_subprocess_exec(
            "bash",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self._directory,
            env=self._environ,
            start_new_session=True,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._shell.pid, number)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._shell.wait(), 10)

    async def follow(self, page: str) -> None:
        """Do what a page (its text) says from its first line to its last. AssertionError with the
        line at the first thing that is not as it says."""
        for block in blocks(self._translated(page)):
            if block.title and block.language != "console":
                (self._directory / block.title).write_text(block.text)
            elif block.language == "console" and not block.title:
                for command, shown in steps(block.text):
                    printed = await self._answer(command, shown)
                    assert as_shown(shown, printed), (
                        f"line {block.line}: $ {command}\nprinted:\n{printed}\n"
                        f"the page says:\n{shown}"
                    )

    async def _answer(self, command: str, shown: str) -> str:
        """What it prints, once that is as shown or cannot be waited for any longer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            printed = await self._type(command)
            over = time.monotonic() > deadline or not QUESTION.match(command)
            if over or as_shown(shown, printed):
                return printed
            await asyncio.sleep(0.1)

    async def _type(self, command: str) -> str:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\necho; echo '{MARK}'\n".encode())
        printed = ""
        async with asyncio.timeout(LIMIT):
            while not printed.endswith(f"{MARK}\n"):
                line = await self._shell.stdout.readline()
                assert line, f"the shell ended at: {command}\n{printed}"
                printed += line.decode()
        return printed.removesuffix(f"{MARK}\n")

    def _translated(self, text: str) -> str:
        for port, other in self._instead.items():
            text = re.sub(rf"\b{port}\b", other, text)
        return text
