"""Files of filters: read when the filter opens, and again when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from proxy import files
from proxy.filters.base import Context
from proxy.settings.complaints import Report
from proxy.settings.tree import Path as Place

_log = structlog.get_logger()
T = TypeVar("T")

LARGEST: Final = 1024 * 1024
"""Bytes: 10,000 users, or a page with its pictures in it."""
INTERVAL: Final = 2.0
"""Seconds between two looks, as for `watch`."""


def content_of(path: str) -> bytes:
    """The whole content of a file. Raises `OSError`, and `ValueError` if it is too large."""
    content = files.read(path, LARGEST)
    if len(content) > LARGEST:
        raise ValueError(f"is larger than {LARGEST} bytes")
    return content


def resolved_file(
    name: str,
    place: Place,
    directory: Path,
    report: Report,
    parse: Callable[[bytes], object] = bytes,
) -> str:
    """The path of a file that the configuration names, after a complaint if it cannot be read, or
    `parse` raises a `ValueError` about it."""
    path = str(directory / name)
    problem = ""
    try:
        parse(content_of(path))
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except ValueError as error:
        problem = str(error)
    if problem:
        report.complain(place, f'"{path}" {problem}; allowed: a file that can be read')
    return path


class WatchedFile(Generic[T]):
    """Owns the last good value of a file, and the looks at it."""

    def __init__(self, path: str, parse: Callable[[bytes], T]) -> None:
        """`parse` makes the value of the content, or raises `ValueError`."""
        self._path = path
        self._parse = parse
        self._content: bytes | None = None  # ≤ LARGEST
        self.value: T | None = None
        """None as long as the file was never good."""
        self._problem = ""
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None

    def open(self, context: Context) -> None:
        """Read it, and look at it from here on."""
        try:
            self._take(content_of(self._path))
        except (OSError, ValueError) as error:
            self._complain(error)
        self._wait(context)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._look is not None:
            self._look.cancel()

    def _wait(self, context: Context) -> None:
        self._timer = context.loop.call_later(INTERVAL, self._begin, context)

    def _begin(self, context: Context) -> None:
        self._look = context.loop.create_task(self._look_again(context))

    async def _look_again(self, context: Context) -> None:
        try:
            self._take(await context.in_thread(lambda: content_of(self._path)))
        except (OSError, ValueError) as error:
            self._complain(error)
        self._wait(context)

    def _take(self, content: bytes) -> None:
        if content == self._content and not self._problem:
            return
        self.value = self._parse(content)
        self._content = content
        if self._problem:
            _log.info("filter_file_usable_again", file=self._path)
        self._problem = ""

    def _complain(self, error: Exception) -> None:
        problem = str(error)
        if problem != self._problem:
            _log.warning("filter_file_unusable", file=self._path, problem=problem)
        self._problem = problem
