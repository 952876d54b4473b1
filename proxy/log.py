"""Set-up of the log: structured events on standard error, as JSON lines or for people.

Everything of ours logs through `structlog.get_logger()`; what libraries log through the
standard library goes through the same rendering, so that the stream can be parsed whole.
A worker takes its settings from the environment that the control process gave it
(`environment`), because it logs before it has read its first message.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec
import structlog

from proxy.model import LogSettings

LEVEL_VARIABLE = "FAIRLEAD_LOG_LEVEL"
FORMAT_VARIABLE = "FAIRLEAD_LOG_FORMAT"

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def set_up(settings: LogSettings, *, stream: TextIO | None = None, **bound: Any) -> None:
    """Configure the log of this process. `bound` are key/values on each of its lines, for
    example `worker=2`. May be called again: the later call wins."""
    out = sys.stderr if stream is None else stream
    level = _LEVELS[settings.level]

    def bind(_logger: Any, _method: str, event: Any) -> Any:
        for name, value in bound.items():
            event.setdefault(name, value)
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
        logger_factory=structlog.WriteLoggerFactory(file=out),
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries report requests and retries at `info`; that is noise in a proxy's log.
    root.setLevel(max(level, logging.WARNING) if level > logging.DEBUG else level)


def environment(settings: LogSettings) -> dict[str, str]:
    """The variables that give a child process these settings."""
    return {LEVEL_VARIABLE: settings.level, FORMAT_VARIABLE: settings.format}


def from_environment(environ: Mapping[str, str]) -> LogSettings:
    """What `environment` wrote; the defaults where a variable is absent or
    holds no value we know."""
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
