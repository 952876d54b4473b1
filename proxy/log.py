"""Set-up of the log: structured events on standard error, as JSON lines or for people.

Everything of ours logs through `structlog.get_logger()`; what libraries log through the
standard library goes through the same rendering, so that the stream can be parsed whole.
Nobody waits for whoever takes the log, and no failure to write it is a failure of anything else.
A worker takes its settings from the environment that the control process gave it
(`environment`), because it logs before it has read its first message.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Mapping
from functools import cache
from threading import RLock
from types import TracebackType
from typing import Any, Protocol, TextIO

import msgspec
import structlog

from proxy.engine.line_file import STDERR, LineFile
from proxy.settings.process import LogSettings

LEVEL_VARIABLE = "FAIRLEAD_LOG_LEVEL"
FORMAT_VARIABLE = "FAIRLEAD_LOG_FORMAT"

LAST_LINES = 0.5
"""Seconds a process that ends has for its last lines, when nobody takes them."""

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Novelties:
    """Owns which texts have been named in the log: each is new once, and when there are as many as
    may be, none is any more. For what strangers can make up at will."""

    def __init__(self, most: int, longest: int) -> None:
        """`longest`: characters, beyond which texts that begin alike count as the same."""
        self.full = False
        """No further one is new."""
        self._known: set[str] = set()  # ≤ 128 KiB
        self._most = most
        self._longest = longest

    def take(self, text: str) -> str:
        """The text, cut to the longest that is named, if it is new; else nothing."""
        text = text[: self._longest]
        if self.full or text in self._known:
            return ""
        self._known.add(text)
        self.full = len(self._known) >= self._most
        return text


def set_up(settings: LogSettings, *, stream: TextIO | None = None, **bound: Any) -> None:
    """Configure the log of this process. `bound` are key/values on each of its lines, for
    example `worker=2`. May be called again: the later call wins. `stream` None = standard error,
    written to by a thread; the first line after some were lost says in `log_lines_lost` how many
    that are since the process began."""
    thread = None if stream is not None else _standard_error()
    out: _Stream = thread or stream or _Nowhere()
    level = _LEVELS[settings.level]

    def bind(_logger: Any, _method: str, event: Any) -> Any:
        for name, value in bound.items():  # ≤ 8
            event.setdefault(name, value)
        if thread is not None and (lost := thread.newly_lost()):
            event["log_lines_lost"] = lost
        return event

    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        bind,
    ]
    renderer: list[Any]
    if settings.format == "json":
        renderer = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        renderer = [structlog.dev.ConsoleRenderer(colors=out.isatty())]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # Not cached: a logger made at import time must follow a later `set_up`.
        cache_logger_on_first_use=False,
        # One write call per line, so that lines of several processes do not interleave.
        logger_factory=structlog.WriteLoggerFactory(file=out),  # type: ignore[arg-type]
    )
    handler: logging.Handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    if thread is not None:
        sys.excepthook = _on_crash
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries report requests and retries at `info`; that is noise in a proxy's log.
    root.setLevel(max(level, logging.WARNING) if level > logging.DEBUG else level)


def _on_crash(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
    """Log the error that ends the process as a line as well: written otherwise, it would keep a
    process that nobody reads, with all its sockets, from ever ending."""
    structlog.get_logger().error("crashed", error=kind.__name__, exc_info=error)


class _Stream(Protocol):
    """A file as structlog and the standard library need it."""

    def write(self, text: str, /) -> object: ...
    def flush(self) -> object: ...
    def isatty(self) -> bool: ...


class _Threaded:
    """Owns the thread that writes to standard error. That may be a pipe whose reader has stopped
    or is gone, or a full disk: a request must not wait for it, or fail with it."""

    def __init__(self) -> None:
        self._file = LineFile(STDERR)
        # One that the same thread may take again: what is collected as garbage, at any moment, may
        # have something to say, as asyncio's tasks and aiohttp's connections do.
        self._lock = RLock()
        self._told = 0
        atexit.register(self._file.close, LAST_LINES)

    def write(self, text: str) -> None:
        """Whole lines."""
        with self._lock:
            lines = memoryview(text.encode(errors="backslashreplace"))
            self._file.put(lines, text.count("\n"))

    def flush(self) -> None:
        """The thread does so all the time."""

    def isatty(self) -> bool:
        """Are they for people?"""
        return os.isatty(2)

    @property
    def lost(self) -> int:
        """Lines lost since the process began."""
        return self._file.dropped

    def newly_lost(self) -> int:
        """`lost`, if there are more than at the last call; else 0."""
        lost = self.lost
        if lost == self._told:
            return 0
        self._told = lost
        return lost


class _Nowhere:
    """Standard error was closed before this process began, and its number may be that of
    something else by now."""

    def write(self, text: str) -> None: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


@cache  # ≤ 1 KiB
def _standard_error() -> _Threaded | None:
    """One thread for the process, however often the log is set up."""
    return None if sys.stderr is None else _Threaded()


def lost() -> int:
    """Lines that this process could not write, since it began."""
    if not _standard_error.cache_info().currsize:
        return 0  # Nothing is set up, and asking must not do it.
    thread = _standard_error()
    return 0 if thread is None else thread.lost


def environment(settings: LogSettings) -> dict[str, str]:
    """The variables that give a child process these settings."""
    return {LEVEL_VARIABLE: settings.level, FORMAT_VARIABLE: settings.format}


def from_environment(environ: Mapping[str, str]) -> LogSettings:
    """Settings that `environment` wrote; the defaults where a variable is absent or holds no value
    we know."""
    default = LogSettings()
    given = {
        "level": environ.get(LEVEL_VARIABLE, default.level),
        "format": environ.get(FORMAT_VARIABLE, default.format),
    }
    try:
        return msgspec.convert(given, LogSettings)
    except msgspec.ValidationError:
        # A log with the defaults is worth more than a worker that does not start.
        return default
