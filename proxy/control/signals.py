"""Signals of a control process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import structlog

log = structlog.get_logger()


class Signals:
    """Owns the signal handlers while the control process runs."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.on_reopen: Callable[[], None] | None = None
        """Called on SIGUSR1, if `has_log()`."""
        self.has_log: Callable[[], bool] = lambda: False
        self.on_reload: Callable[[], None] | None = None
        """Called on SIGHUP."""

    def __enter__(self) -> Signals:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.add_signal_handler(signal.SIGUSR2, self._not_available)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            loop.remove_signal_handler(number)
        loop.remove_signal_handler(signal.SIGUSR1)

    def _stop(self, number: signal.Signals) -> None:
        log.info("signal", signal=number.name)
        (self.second if self.first.is_set() else self.first).set()

    def reload(self) -> None:
        """Read the file again, if there is one by now."""
        if self.on_reload is None:
            log.warning("signal_ignored", signal="SIGHUP", reason="there is no file to read yet")
        else:
            log.info("signal", signal="SIGHUP")
            self.on_reload()

    def _reopen(self) -> None:
        if self.on_reopen is None or not self.has_log():
            log.info("signal_ignored", signal="SIGUSR1", reason="there is no access log")
        else:
            log.info("signal", signal="SIGUSR1")
            self.on_reopen()

    def _not_available(self) -> None:
        # The default action would end the process, and with it all connections.
        log.warning("signal_ignored", signal="SIGUSR2", reason="the parent process takes it")
