"""The access log of a worker: one line for each request that ends, gathered and written together.

    AccessRecorder ─▶ AccessLog.done ─▶ Lines.line ─▶ … up to 0.1 s or 256 KiB … ─▶ LineFile.put

Only a worker that has an access log has requests recorded: where there is none, nothing is counted
and nothing asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from io import BytesIO

import structlog

from proxy.engine.access_fields import lines_of
from proxy.engine.access_lines import LONGEST, Entry
from proxy.engine.line_file import LineFile
from proxy.engine.line_socket import LineSocket
from proxy.engine.recorder import Recorder
from proxy.engine.request_state import RequestState
from proxy.engine.services import Services
from proxy.errors import CLIENT_GONE, Fault
from proxy.http.forwarding import ClientFacts
from proxy.settings.access_log import AccessLogSettings, to_daemon

_log = structlog.get_logger()

GATHER = 0.1
"""Seconds that a line waits for others: who looks at the log does not notice, and a write for each
request would cost more than all the rest of it."""
_entry = tuple.__new__
"""`Entry(…)` at a third of its cost."""
BATCH = 256 * 1024
"""Bytes that are not gathered any longer: enough that waking the thread costs little for each."""
_ROOM = bytes(BATCH + LONGEST)
"""Initial content of a buffer, so that it need not grow."""
SAY_AGAIN = 10.0
"""Seconds between two log lines about lines that were dropped."""


def always(status: int, fault: str) -> bool:
    """A request that is logged whatever the sample: it was answered 5xx, or its answer was cut
    off, and not by the client."""
    return status >= 500 or (0 < status < 400 and fault not in ("", CLIENT_GONE.code))


class AccessLog:
    """Owns the lines that are not handed to the file yet."""

    def __init__(
        self,
        settings: AccessLogSettings,
        loop: asyncio.AbstractEventLoop,
        random: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`random`: numbers from 0 up to 1; `wall`: Unix time."""
        self.settings = settings
        self._lines = lines_of(settings)
        self._file = LineSocket(path) if to_daemon(path := settings.path) else LineFile(path)
        self._sample = settings.sample
        self._loop = loop
        self._random = random
        self._wall = wall
        self._gathered = BytesIO(_ROOM)  # ≤ BATCH + LONGEST + 1 KiB
        """Lines are copied into it and forgotten at once: a list of them would have each in a
        place of its own, to be found and freed by the thread."""
        self._size = 0
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._said = 0
        self._say_at = 0.0

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._file.dropped

    def done(self, state: RequestState, recorder: AccessRecorder, outcome: str, now: float) -> None:
        """A request is over."""
        status = state.status
        fault = "" if outcome == "ok" or outcome.isdigit() else outcome
        if self._sample < 1.0 and self._leave_out(status, fault):
            return
        seconds = now - state.began
        received, sent = recorder.received, recorder.sent
        if state.tunnel is not None:
            from_client, from_instance = state.tunnel.passed
            received += from_client
            sent += from_instance
        match = state.match
        facts = state.client.facts
        answered_at = recorder.answered_at
        self._add(
            self._lines.line(
                _entry(
                    Entry,
                    (
                        self._wall() - seconds,
                        facts.client(state.request.fields),
                        facts.trusted,
                        state.request,
                        status,
                        received,
                        sent,
                        seconds,
                        answered_at - state.began if answered_at else -1.0,
                        -1 if match is None else match.position,
                        state.pool.service if state.routed else None,
                        state.last,
                        state.attempts,
                        fault,
                        state.request_id,
                        state.grpc_status,
                        state.trace_id,
                    ),
                ),
                state,
            )
        )

    def refused(self, fault: Fault, facts: ClientFacts, size: int, request_id: bytes) -> None:
        """Bytes that never became a request were answered, with so many bytes of content."""
        if self._sample < 1.0 and self._leave_out(fault.status, fault.code):
            return
        self._add(
            self._lines.line(
                Entry(
                    began=self._wall(),
                    client=facts.address,
                    trusted=facts.trusted,
                    request=None,
                    status=fault.status,
                    received=0,
                    sent=size,
                    seconds=0.0,
                    first_byte=-1.0,
                    route=-1,
                    service=None,
                    node=None,
                    attempts=0,
                    fault=fault.code,
                    request_id=request_id,
                )
            )
        )

    def _leave_out(self, status: int, fault: str) -> bool:
        return self._random() >= self._sample and not always(status, fault)

    def _add(self, line: bytes) -> None:
        self._gathered.write(line)
        self._size += len(line)
        self._count += 1
        if self._size >= BATCH:
            self._hand_over()
        elif self._timer is None:
            self._timer = self._loop.call_later(GATHER, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._hand_over()

    def _hand_over(self) -> None:
        if self._count:
            if self._size >= BATCH:
                self._file.put(self._gathered.getbuffer()[: self._size], self._count)
                self._gathered = BytesIO(_ROOM)
            else:
                # A copy: while the disk stands still, one line would keep the room of a thousand.
                with self._gathered.getbuffer() as buffer:
                    lines = bytes(buffer[: self._size])
                self._file.put(memoryview(lines), self._count)
                self._gathered.seek(0)
            self._size = self._count = 0

    def reopen(self) -> None:
        """The file was moved away: finish it, and begin a new one of its name."""
        self._hand_over()
        self._file.reopen()

    def report(self, now: float) -> None:
        """Say that lines were dropped, now and then."""
        dropped = self.dropped
        if dropped > self._said and now >= self._say_at:
            _log.warning(
                "access_log_lines_dropped",
                path=self.settings.path,
                count=dropped - self._said,
                error=self._file.error,
            )
            self._said = dropped
            self._say_at = now + SAY_AGAIN

    def close(self, patience: float = 0.0) -> None:
        """Write what there is; wait for that so many seconds at most."""
        self._hand_over()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._file.close(patience)


class AccessRecorder(Recorder):
    """Counts what passes by of one request, whose end is a line of the access log."""

    __slots__ = ("_logs", "answered_at", "received", "sent")

    def __init__(self, logs: AccessLogs) -> None:
        self._logs = logs
        self.sent = 0
        """Bytes of content to the client."""
        self.received = 0
        """Bytes of content from the client."""
        self.answered_at = 0.0
        """When the head of the answer was here; 0 = it is not."""

    def on_request_body(self, pieces: list[bytes]) -> None:
        """See `Recorder`."""
        self.received += sum(map(len, pieces))

    def on_answer(self, now: float, pieces: list[bytes]) -> None:
        """See `Recorder`."""
        self.answered_at = now
        self.sent = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))

    def on_body(self, pieces: list[bytes]) -> None:
        """See `Recorder`."""
        self.sent += sum(map(len, pieces))

    def on_reserve(self) -> None:
        """See `Recorder`."""
        self.sent = 0
        self.answered_at = 0.0

    def on_own_answer(self, size: int) -> None:
        """See `Recorder`."""
        self.sent = size
        self.answered_at = 0.0

    def on_finished(self, state: RequestState, outcome: str, now: float) -> None:
        """See `Recorder`."""
        log = self._logs.current
        if log is not None:
            log.done(state, self, outcome, now)


class AccessLogs:
    """Owns the access log that is in use, which a configuration may replace during a request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, random: Callable[[], float]) -> None:
        """`random`: numbers from 0 up to 1."""
        self._loop = loop
        self._random = random
        self.current: AccessLog | None = None
        self._dropped = 0
        """Lines of those before."""

    def configure(self, settings: AccessLogSettings | None) -> None:
        """Begin another log, unless it is the same."""
        if self.current is not None and self.current.settings == settings:
            return
        self.close()
        if settings is not None:
            self.current = AccessLog(settings, self._loop, self._random)

    def use(self, settings: AccessLogSettings | None, services: Services) -> None:
        """Log requests from now on as the settings say."""
        self.configure(settings)
        services.new_recorder = None if settings is None else self.recorder
        services.on_refused = None if settings is None else self.refused

    def recorder(self) -> AccessRecorder:
        """A new recorder of one request."""
        return AccessRecorder(self)

    def refused(self, fault: Fault, facts: ClientFacts, size: int, request_id: bytes) -> None:
        """Bytes that never became a request were answered, with so many bytes of content."""
        if self.current is not None:
            self.current.refused(fault, facts, size, request_id)

    def reopen(self) -> None:
        """The file was moved away."""
        if self.current is not None:
            self.current.reopen()

    def report(self, now: float) -> None:
        """Say that lines were dropped, now and then."""
        if self.current is not None:
            self.current.report(now)

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._dropped + (0 if self.current is None else self.current.dropped)

    def close(self, patience: float = 0.0) -> None:
        """Write what there is; wait for that so many seconds at most."""
        if self.current is not None:
            self.current.close(patience)
            self._dropped += self.current.dropped
            self.current = None
