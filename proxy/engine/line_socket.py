"""Lines for a log daemon: syslog (RFC 5424) or systemd's journal.

The thread of a `LineFile` sends them. A daemon that is away, or does not keep up, costs lines,
which are counted, and nothing else. Over UDP and sockets of datagrams a line is a message; over a
stream its length stands in front of it (RFC 6587 §3.4.1), so that nothing in it is taken for its
end.
"""

from __future__ import annotations

import os
import re
import select
import socket
from time import gmtime, monotonic, strftime, time
from typing import Any, Final

import msgspec
import structlog

from proxy.engine.line_file import PATIENCE, TRY_AGAIN, LineFile
from proxy.settings.access_log import Daemon, daemon_of

_log = structlog.get_logger()

_PRIORITY: Final = 23 * 8 + 6
"""Facility local7 as nginx has it, and "informational"."""
_ODD: Final = re.compile(rb"[^!-~]")
_IDENTIFIER: Final = b"fairlead"


def syslog_message(line: bytes, now: float, host: bytes, pid: int) -> bytes:
    """A line as a message of RFC 5424. `now`: Unix time."""
    moment = strftime("%Y-%m-%dT%H:%M:%S", gmtime(now)).encode() + b".%03dZ" % (now % 1 * 1000)
    return b"<%d>1 %b %b %b %d access - %b" % (_PRIORITY, moment, host, _IDENTIFIER, pid, line)


def journal_entry(line: bytes) -> bytes:
    """A line as an entry of the journal. What stands in a line of JSON are fields of their own, so
    that `journalctl FAIRLEAD_STATUS=502` finds it."""
    fields = [b"MESSAGE=" + line, b"PRIORITY=6", b"SYSLOG_IDENTIFIER=" + _IDENTIFIER]
    if line.startswith(b"{"):
        for name, value in msgspec.json.decode(line).items():  # ≤ thread
            if value is not None:
                text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
                # Only the form with lengths could hold an end of a line.
                text = text.replace("\n", " ")
                fields.append(f"FAIRLEAD_{name.upper()}={text}".encode("utf-8", "replace"))
    return b"\n".join(fields) + b"\n"


class LineSocket(LineFile):
    """Owns the socket to a daemon, besides what a `LineFile` owns."""

    def __init__(self, path: str) -> None:
        """`path`: as in the configuration; see `daemon_of`."""
        self._daemon: Daemon = daemon_of(path)
        self._socket: socket.socket | None = None
        self._host = _ODD.sub(b"-", socket.gethostname().encode())[:255] or b"-"
        self._said = False
        """The log has it that the daemon cannot be reached."""
        super().__init__(path)

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _reopen(self) -> None:
        self._end()
        self._retry_at = 0.0

    def _open(self) -> bool:
        if self._socket is not None and self._daemon.stream and _ended(self._socket):
            self._end()
        if self._socket is not None:
            return True
        now = monotonic()
        if now < self._retry_at:
            return False
        try:
            self._socket = self._connect()
        except OSError as error:
            self._fail(error)
            if not self._said:
                _log.error("access_log_not_opened", path=self._path, error=self.error)
            self._said = True
            return False
        if self._said:
            _log.info("access_log_reopened", path=self._path)
        self._said = False
        return True

    def _connect(self) -> socket.socket:
        daemon = self._daemon
        if daemon.host and daemon.stream:
            return socket.create_connection((daemon.host, daemon.port), PATIENCE)
        kind = socket.SOCK_STREAM if daemon.stream else socket.SOCK_DGRAM
        family: socket.AddressFamily = socket.AF_UNIX
        address: Any = daemon.path
        if daemon.host:
            found = socket.getaddrinfo(daemon.host, daemon.port, type=kind)
            family, address = found[0][0], found[0][4]
        opened = socket.socket(family, kind)
        try:
            opened.settimeout(PATIENCE)
            opened.connect(address)
        except OSError:
            opened.close()
            raise
        return opened

    def _fail(self, error: OSError) -> None:
        self._retry_at = monotonic() + TRY_AGAIN
        self.error = error.strerror or str(error)
        self._end()

    def _write(self, lines: memoryview, count: int) -> None:
        messages = [self._message(line) for line in bytes(lines).splitlines()]
        if self._daemon.stream:
            # What the peer had of it when it failed is not known: it all counts as lost.
            framed = [b"%d %b" % (len(message), message) for message in messages]
            messages = [b"".join(framed)]
        for at, message in enumerate(messages):  # ≤ thread
            if not self._open() or not self._send(message):
                self._lost += count - at
                return

    def _message(self, line: bytes) -> bytes:
        if self._daemon.journal:
            return journal_entry(line)
        return syslog_message(line, time(), self._host, os.getpid())

    def _send(self, message: bytes) -> bool:
        assert self._socket is not None
        try:
            self._socket.sendall(message)
        except OSError as error:
            self._fail(error)
            return False
        return True


def _ended(connection: socket.socket) -> bool:
    """Whether the daemon has closed: nothing else comes from one."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
