"""Spans on their way to a collector: OTLP over HTTP."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping

import aiohttp
import structlog

from proxy.control.otlp import request
from proxy.control.scrape import Exemplar
from proxy.messages import DURATION_BOUNDS, UNROUTED, Spans
from proxy.settings.process import TracingSettings
from proxy.spans import SERVER, Span, spans_of

log = structlog.get_logger()

WAITING = 8192
"""Spans that wait; more are dropped, and counted. Some 1 KiB each."""
BATCH = 512
"""Spans in one request: what the SDKs of OpenTelemetry send."""
PAUSE = 1.0
"""Seconds between two requests, unless a whole batch waits."""
LIMIT = 10.0
"""Seconds for a request: the default of OTLP."""
EXEMPLARS = 8192
"""Requests that histograms may show, for 500 busy services; the oldest goes first. Some 2 MiB."""
SAY_AGAIN = 60.0
"""Seconds between two lines of the log about a collector that takes nothing."""


class Exporter:
    """Owns the spans that were not sent yet, and the connection to the collector."""

    def __init__(self, settings: Callable[[], TracingSettings | None]) -> None:
        """`settings`: those in force."""
        self._settings = settings
        self._waiting: deque[Span] = deque()
        self._news = asyncio.Event()
        self._say_at = 0.0
        self.counts: Counter[str] = Counter(exported=0, dropped=0)
        """`exported | dropped` → spans; traces that a worker dropped count as one."""
        self.exemplars: dict[tuple[str, str], Exemplar] = {}
        """Service and upper bound of a bucket → the latest request in it that is traced."""

    def take(self, message: Spans) -> None:
        """Take the traces of a worker."""
        spans = [one for traced in message.traced for one in spans_of(traced, message.offset)]
        room = WAITING - len(self._waiting)
        self._waiting += spans[:room]
        self.counts["dropped"] += message.dropped + max(0, len(spans) - room)
        self._news.set()
        for span in spans:
            if span.kind == SERVER:
                self._remember(span)

    def _remember(self, span: Span) -> None:
        seconds = (span.ended - span.began) / 1e9
        place = bisect_left(DURATION_BOUNDS, seconds)
        bound = repr(DURATION_BOUNDS[place]) if place < len(DURATION_BOUNDS) else "+Inf"
        key = str(span.attributes.get("fairlead.service", UNROUTED)), bound
        self.exemplars.pop(key, None)
        if len(self.exemplars) >= EXEMPLARS:
            del self.exemplars[next(iter(self.exemplars))]
        self.exemplars[key] = Exemplar(span.trace_id, seconds, span.ended / 1e9)

    def samples(self) -> Iterable[tuple[str, Mapping[str, str], float]]:
        """Samples of metrics: name, labels, value."""
        for result, count in self.counts.items():
            yield "fairlead_spans_total", {"result": result}, count

    async def run(self) -> None:
        """Send spans as they come, for ever."""
        timeout = aiohttp.ClientTimeout(total=LIMIT)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._news.wait()
                if len(self._waiting) < BATCH:
                    await asyncio.sleep(PAUSE)
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if not self._waiting:
                    self._news.clear()
                if batch:
                    error = await self._send(session, batch)
                    self.counts["dropped" if error else "exported"] += len(batch)
                    if error:
                        self._say(error)

    async def _send(self, session: aiohttp.ClientSession, batch: list[Span]) -> str:
        """Send a batch; the reason if it was not taken."""
        settings = self._settings()
        if settings is None:
            return "tracing is off"
        kind, body = request(batch, settings.service_name, settings.encoding)
        headers = {**settings.headers, "Content-Type": kind}
        try:
            async with session.post(
                settings.endpoint, data=body, headers=headers, allow_redirects=False
            ) as answer:
                await answer.read()
                return "" if answer.status < 300 else f"status {answer.status}"
        except TimeoutError:
            return f"no answer within {LIMIT:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return str(error) or type(error).__name__

    def _say(self, error: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._say_at:
            self._say_at = now + SAY_AGAIN
            log.warning("spans_not_exported", error=error, dropped=self.counts["dropped"])
