"""Streams to instances of HTTP/2: who waits for one, and the connections that are made for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

import structlog

from proxy.engine.deadlines import NEVER, Alarm
from proxy.engine.http1.client import UpstreamConnection
from proxy.engine.http1.keepalive import KeptConnection, Upstreams
from proxy.engine.http2.client import InstanceSession
from proxy.engine.http2.client_connection import Lines
from proxy.engine.http2.shared import shared_stream
from proxy.engine.node import Node
from proxy.engine.streams import UpstreamStream
from proxy.engine.upstream.dialler import Dialler
from proxy.engine.upstream.raw import SessionOpening
from proxy.errors import CONNECT_TIMEOUT, STREAM_REFUSED, Fault
from proxy.proxy_header import Ends
from proxy.settings.service import ServiceSettings

_log = structlog.get_logger()

_TURN: Final = 16
"""Requests that go out in one turn of the loop, or fail: a session may have room for a hundred."""

Dial = Callable[[Node, ServiceSettings, Dialler, float, type[KeptConnection]], object]


class Sharing(Lines):
    """Owns a line for each instance for whose streams somebody waits."""

    def __init__(self, upstreams: Upstreams, dial: Dial) -> None:
        """`dial`: see `Connector.dial`."""
        self.upstreams = upstreams
        self.dial = dial
        self._lines: dict[Node, NodeLine] = {}  # ≤ 1 KiB + 400 B per instance

    def ask(
        self, node: Node, settings: ServiceSettings, waiter: Dialler, at_most: float = inf
    ) -> None:
        """Let `waiter` have a stream to `node`, or hear after `timeouts.connect` or `at_most`
        seconds at the latest that there is none; perhaps before this returns."""
        line = self._lines.get(node)
        if line is None:
            line = self._lines[node] = NodeLine(self, node)
            node.awaited = True
        line.join(settings, waiter, min(settings.timeouts.connect or inf, at_most))

    def on_room(self, node: Node) -> None:
        """See `Lines`."""
        line = self._lines.get(node)
        if line is not None:
            line.serve()

    def on_no_session(self, node: Node, fault: Fault, detail: str) -> None:
        """See `Lines`."""
        line = self._lines.get(node)
        if line is not None:
            line.fail_all(fault, detail)

    def forget(self, line: NodeLine) -> None:
        """Drop a line in which nobody waits any more."""
        if self._lines.get(line.node) is line:
            del self._lines[line.node]
            line.node.awaited = False


class _Waiting:
    """A request, or a try, that waits."""

    __slots__ = ("limit", "settings", "waiter")

    def __init__(self, settings: ServiceSettings, waiter: Dialler, limit: float) -> None:
        """`limit`: when its patience ends."""
        self.settings = settings
        self.waiter = waiter
        self.limit = limit


class NodeLine:
    """Owns who waits for a stream to one instance, in order, and the one connection at a time that
    is made for them: a crowd that comes to a new instance needs one, not one each."""

    def __init__(self, sharing: Sharing, node: Node) -> None:
        self._sharing = sharing
        self.node = node
        self._deadlines = sharing.upstreams.deadlines
        self._waiting: deque[_Waiting] = deque()  # ≤ 1 KiB + 200 B per request
        self._alarm = Alarm(self._on_alarm)
        self._dialling: ServiceSettings | None = None
        """Settings of the service as they were when the connection was begun that is being made."""
        self._arranged = False
        """The next turn of the loop gives streams to more of them."""

    def join(self, settings: ServiceSettings, waiter: Dialler, limit: float) -> None:
        """Let an attempt wait for a connection, for `limit` seconds at most."""
        until = self._deadlines.now() + limit
        self._waiting.append(_Waiting(settings, waiter, until))
        if until < self._alarm.deadline:
            self._deadlines.arm(self._alarm, until)
        if len(self._waiting) == 1:
            self.serve()  # Where others wait there is no room, or they are being served.

    def serve(self) -> None:
        """Give streams to those who have waited the longest, as far as there are any: one where
        more of that is arranged, for the one that has ended."""
        waiting, node = self._waiting, self.node
        for _ in range(min(1 if self._arranged else _TURN, len(waiting))):  # ≤ _TURN + requests
            stream = shared_stream(node.shared)
            if stream is None:
                break
            if not waiting:
                stream.park(self._deadlines.now())
                break
            waiting.popleft().waiter.on_connected(node, stream)
        else:
            if waiting:
                if not self._arranged:
                    self._arranged = True
                    self._sharing.upstreams.soon(self._serve_on)
                return
        self._dial_or_leave()

    def _serve_on(self) -> None:
        self._arranged = False
        self.serve()

    def _dial_or_leave(self) -> None:
        """Make the session that is missing for those who still wait, unless it is on its way."""
        if self._dialling is not None:
            return
        if not self._waiting:
            self._deadlines.forget(self._alarm)
            self._sharing.forget(self)
        elif self._deadlines.now() < self.node.calm_until:
            self.fail_all(STREAM_REFUSED, f"{self.node.id} has asked for calm")
        elif not self.node.http2:
            waiting, self._waiting = self._waiting, deque()
            self._dial_each(waiting)
            self._dial_or_leave()
        elif all(session.settled for session in self.node.shared):
            self._dialling = self._waiting[0].settings
            self._sharing.dial(self.node, self._dialling, self, inf, SessionOpening)

    def _dial_each(self, waiting: deque[_Waiting]) -> None:
        """The instance speaks HTTP/1.1 by now, and takes a connection for each who waited: some in
        each turn of the loop."""
        for _ in range(min(_TURN, len(waiting))):  # ≤ _TURN
            one = waiting.popleft()
            left = max(0.0, one.limit - self._deadlines.now())
            self._sharing.dial(self.node, one.settings, one.waiter, left, UpstreamConnection)
        if waiting:
            self._sharing.upstreams.soon(self._dial_each, waiting)

    # -- the connection that is made

    def ends(self) -> Ends | None:
        """See `Dialler`: many clients share it."""
        return None

    def on_connected(self, node: Node, connection: UpstreamStream) -> None:
        """See `Dialler`."""
        settings, self._dialling = self._dialling, None
        assert settings is not None
        assert isinstance(connection, KeptConnection)
        if connection.outdated:
            connection.close()
            self._dial_or_leave()
            return
        transport, said = connection.hand_over()
        InstanceSession(node, settings, self._sharing.upstreams, self._sharing).begin(
            transport, said
        )
        self.serve()

    def on_connect_failed(self, node: Node, fault: Fault, detail: str) -> None:
        """See `Dialler`."""
        self._dialling = None
        self.fail_all(fault, detail)

    def on_dial_raised(self, node: Node, error: Exception) -> None:
        """See `Dialler`."""
        self._dialling = None
        waiting, self._waiting = self._waiting, deque()
        self._dial_or_leave()
        for one in waiting:  # ≤ requests
            try:
                one.waiter.on_dial_raised(node, error)
            except Exception as failure:
                _log.error("dialling_failed_inside", exc_info=failure)

    def fail_all(self, fault: Fault, detail: str) -> None:
        """There is no session: all who wait have waited in vain."""
        waiting, self._waiting = self._waiting, deque()
        self._fail_soon(waiting, fault, detail)
        self._dial_or_leave()

    def _fail(self, waiting: deque[_Waiting], fault: Fault, detail: str) -> None:
        """Tell those who waited, some in each turn of the loop."""
        for _ in range(min(_TURN, len(waiting))):  # ≤ _TURN
            waiting.popleft().waiter.on_connect_failed(self.node, fault, detail)
        if waiting:
            self._fail_soon(waiting, fault, detail)

    def _fail_soon(self, waiting: deque[_Waiting], fault: Fault, detail: str) -> None:
        # Never at once: whoever asks has not yet noted that it does.
        self._sharing.upstreams.soon(self._fail, waiting, fault, detail)

    def _on_alarm(self, now: float) -> None:
        """Let those go who have waited for long enough."""
        left: deque[_Waiting] = deque()
        over: deque[_Waiting] = deque()
        first = NEVER
        for one in self._waiting:  # ≤ requests
            if one.limit <= now:
                over.append(one)
            else:
                left.append(one)
                first = min(first, one.limit)
        self._waiting = left
        self._deadlines.arm(self._alarm, first)
        self._fail_soon(over, CONNECT_TIMEOUT, f"{self.node.id}: no room for a stream in time")
        self._dial_or_leave()
