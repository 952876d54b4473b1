"""A constant stream of requests through the proxy, and the instances that answer them.

    async with Fleet() as fleet, Traffic(proxy.port, "/users/1") as traffic:
        answered = await client.put("/services/users/a", fleet.record("a"))
        assert await traffic.shows("a", since=answered) < 1.0

`Traffic` keeps every request it ever made: when it began, when it ended, what came back, which
instance answered and which worker forwarded it. So what a test says about a change is said about
all requests, not about a probe, and separately for each worker.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise, repeat
from time import monotonic
from typing import Any, NamedTuple, Self

from tests.support.load import Client, Load

WAIT = 60.0
"""Seconds a test may wait for traffic to show something, on a machine that others use, too."""

_REQUEST_ID = re.compile(rb"\r\nx-request-id: *([0-9a-f]+)-", re.IGNORECASE)


class Fleet:
    """Owns the instances of a test: one listening port for each name.

    An instance answers every GET with its own name and the random part of the request id that
    the proxy made: that part is the worker's. It goes on answering when it is not registered any
    more, so a request that should not have come is seen as such, and not as a failure.
    """

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        # Plain sockets: with a transport for each, accepting is most of what a burst costs.
        self._sockets: set[socket.socket] = set()
        self._of: dict[str, set[socket.socket]] = {}

    async def add(self, *names: str, port: int = 0) -> None:
        """Start instances of these names; one may be given its port."""
        for name in names:
            listening = socket.create_server(("127.0.0.1", port))
            listening.setblocking(False)
            self.ports[name] = listening.getsockname()[1]
            self._sockets.add(listening)
            self._of[name] = {listening}
            self._loop.add_reader(listening, self._accept, listening, name.encode())

    async def remove(self, name: str) -> None:
        """It is gone, as if its process had been killed."""
        for each in self._of.pop(name, set()):
            if each in self._sockets:
                self._close(each)

    def record(self, name: str, **fields: Any) -> str:
        """Its registry record."""
        return json.dumps({"address": "127.0.0.1", "port": self.ports[name], **fields})

    def records(self, service: str, names: Iterable[str]) -> dict[str, str]:
        """Key and record of each."""
        return {f"/services/{service}/{name}": self.record(name) for name in names}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for each in list(self._sockets):
            self._close(each)

    def _accept(self, listening: socket.socket, name: bytes) -> None:
        try:
            connection, _ = listening.accept()
        except OSError:
            return  # The proxy has given it up.
        connection.setblocking(False)
        self._sockets.add(connection)
        self._of[name.decode()].add(connection)
        self._loop.add_reader(connection, self._answer, connection, name)

    def _answer(self, connection: socket.socket, name: bytes) -> None:
        try:
            request = connection.recv(1 << 16)
            if request:
                # The head comes in one piece, and there is no body.
                assert request.endswith(b"\r\n\r\n"), request
                found = _REQUEST_ID.search(request)
                body = name + b" " + (found[1] if found else b"-")
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close(connection)

    def _close(self, one: socket.socket) -> None:
        self._loop.remove_reader(one)
        self._sockets.discard(one)
        for sockets in self._of.values():
            sockets.discard(one)
        one.close()


class Sample(NamedTuple):
    """One request. Times are `time.monotonic()`."""

    began: float
    ended: float
    status: int
    """0 when there was no complete answer."""
    instance: str
    """Who answered; what went wrong, if it was nobody."""
    worker: str


class Absence(NamedTuple):
    """After `after` and until `until` no request may begin that this instance answers."""

    instance: str
    after: float
    until: float


class Traffic(Load):
    """Owns the record of all requests of clients that each send the next one `pace` seconds after
    an answer. The proxy may close a connection in between, but it must take the next request.

    Entered once both of two workers have answered: there are more clients than asked for if the
    kernel gives all to one of them.
    """

    def __init__(self, port: int, target: str, *, clients: int = 16, pace: float = 0.02) -> None:
        request = f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
        super().__init__(port, repeat(request), clients=clients, pace=pace)
        self.samples: list[Sample] = []
        self._gone: dict[str, float] = {}
        self._absences: list[Absence] = []

    # ------------------------------------------------------------------ what was seen

    @property
    def failed(self) -> list[Sample]:
        """Requests that were not answered 200."""
        return [sample for sample in self.samples if sample.status != 200]

    @property
    def workers(self) -> set[str]:
        """Workers that forwarded any."""
        return {sample.worker for sample in self.samples if sample.worker}

    def since(self, moment: float) -> list[Sample]:
        """Requests that began later, in the order in which they ended."""
        return [s for s in self.samples[self._position(moment) :] if s.began >= moment]

    async def until(self, condition: Callable[[], Any], what: str, limit: float = WAIT) -> None:
        """Wait until the traffic fulfils the condition. AssertionError saying what was seen."""
        began = monotonic()
        while not condition():
            if monotonic() - began > limit:
                seen = Counter(
                    (sample.status, sample.instance, sample.worker) for sample in self.since(began)
                )
                raise AssertionError(f"not within {limit:g} s: {what}; seen: {dict(seen)}")
            await asyncio.sleep(0.005)

    async def shows(self, *instances: str, since: float, limit: float = WAIT) -> float:
        """Wait until each of the instances has answered in each worker. Seconds from `since` to
        the last such first answer."""
        for instance in instances:
            gone = self._gone.pop(instance, None)
            if gone is not None:
                # The write that brings it back was under way before its answer came.
                self._absences.append(Absence(instance, gone, since - 0.5))
        wanted = {(instance, worker) for instance in instances for worker in self.workers}
        first: dict[tuple[str, str], float] = {}
        at = self._position(since)

        def all_seen() -> bool:
            nonlocal at
            for sample in self.samples[at:]:
                first.setdefault((sample.instance, sample.worker), sample.ended)
            at = len(self.samples)
            return wanted <= first.keys()

        await self.until(all_seen, f"{_few(instances)} in both workers", limit)
        return max(0.0, max(first[each] for each in wanted) - since)

    async def round_robin(self, size: int, *, since: float) -> list[set[str]]:
        """Who answered the first `size` requests of each worker that began after `since`. As many
        more as there are clients are taken, since they do not end in the order in which they
        were picked for."""
        size += len(self.clients)

        def rounds() -> dict[str, list[str]]:
            by_worker: dict[str, list[str]] = {worker: [] for worker in self.workers}
            for sample in sorted(self.since(since)):
                if sample.worker:
                    by_worker[sample.worker].append(sample.instance)
            return by_worker

        await self.until(
            lambda: (
                len(self.samples) - self._position(since) > 2 * size
                and all(len(row) >= size for row in rounds().values())
            ),
            f"{size} requests in each worker",
        )
        return [set(row[:size]) for row in rounds().values()]

    async def loses(
        self, *instances: str, since: float, rounds: int = 20, limit: float = WAIT
    ) -> float:
        """Wait until none of the instances has answered any of the last `rounds` requests of each
        worker. Seconds from `since` to the beginning of the last request that one of them
        answered. From then on they must stay away until `shows` names them: that is checked over
        all requests at the end."""
        workers = self.workers
        lost = set(instances)

        def last_seen() -> float:
            return max((s.began for s in self.since(since) if s.instance in lost), default=since)

        def quiet() -> bool:
            rest = Counter(sample.worker for sample in self.since(last_seen()))
            return all(rest[worker] > rounds for worker in workers)

        await self.until(quiet, f"no answer from {_few(instances)}", limit)
        last = last_seen()
        self._gone |= dict.fromkeys(instances, last)
        return max(0.0, last - since)

    def flows(self, within: float) -> None:
        """Every request was answered 200, and there was no gap longer than `within` seconds in
        which none was answered: a starved test makes gaps of two, a request that waits for the
        registry one of five."""
        assert not self.failed, self.failed[:5]
        ends = [sample.ended for sample in self.samples]
        gap = max(later - earlier for earlier, later in pairwise(ends))
        assert gap < within, f"no answer for {gap:.3f} s"

    def _position(self, moment: float) -> int:
        """Of the first sample that ended later."""
        at = len(self.samples)
        while at and self.samples[at - 1].ended >= moment:
            at -= 1
        return at

    def check_absences(self) -> None:
        """Nobody answered who was to be gone."""
        absences = [
            *self._absences,
            *(Absence(instance, after, monotonic()) for instance, after in self._gone.items()),
        ]
        by_instance: dict[str, list[Absence]] = {}
        for absence in absences:
            by_instance.setdefault(absence.instance, []).append(absence)
        late = [
            (sample, absence)
            for sample in self.samples
            for absence in by_instance.get(sample.instance, ())
            if absence.after < sample.began < absence.until
        ]
        assert not late, late[:5]

    # ------------------------------------------------------------------ as a load

    def on_answer(self, client: Client) -> None:
        if client.status == 200:
            instance, _, worker = client.body.decode().partition(" ")
        else:
            instance, worker = json.loads(client.body)["detail"], ""
        self.samples.append(Sample(client.began, client.ended, client.status, instance, worker))

    def on_failure(self, client: Client, error: BaseException) -> None:
        self.samples.append(Sample(client.began, monotonic(), 0, repr(error), ""))

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            while len(self.workers) < 2:
                # The kernel may have given all connections to the same worker.
                assert len(self.clients) < 100, self.failed[:5]
                began = monotonic()
                await self.until(
                    lambda began=began: len(self.since(began)) > len(self.clients), "answers"
                )
                if len(self.workers) < 2:
                    self.add()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await super().__aexit__(kind, error, trace)
        if error is None:
            self.check_absences()


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
