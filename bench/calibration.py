"""A fixed piece of work that the cost of a request is expressed in.

One unit is what a data plane in Python spends its time on, in about the same mixture: llhttp
parses a head and calls back for each field, objects with slots come and go, methods call
methods, dicts are asked, bytes are cut and joined. It uses nothing of this project, so that
nothing done to the project can change it. Changing it makes every stored figure meaningless:
don't, or record them all anew.
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time_ns

import httptools

HEAD = (
    b"GET /small HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    b"Accept: application/json, text/plain, */*\r\nAccept-Language: en-GB,en;q=0.7,de;q=0.3\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nCache-Control: no-cache\r\nPragma: no-cache\r\n"
    b"Cookie: session=4f2c9a60f1b84f0fb2f2c7d3a9e1d0c4; theme=dark; consent=1\r\n\r\n"
)


class _Fields:
    """What the parser calls back."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))


class _Turn:
    """A short-lived object that passes through a few methods and gives back what it took."""

    __slots__ = ("began", "cost", "desk", "kept", "key", "parts")

    def __init__(self, desk: _Desk, data: bytes) -> None:
        self.desk = desk
        self.began = thread_time_ns
        self.key = data[:16]
        self.kept: list[bytes] = []
        self.parts = data
        self.cost = 0

    def start(self) -> int:
        name, _, _rest = self.parts.partition(b"\r\n")
        if name.startswith(b"GET "):
            self.cost = self._find(name)
        return self._finish()

    def _find(self, name: bytes) -> int:
        end = self.parts.find(b"\r\n\r\n")
        self.kept.append(self.parts[:end])
        self.kept.append(b"X-Unit: %d\r\n" % len(name))
        return self.desk.take(self.key)

    def _finish(self) -> int:
        whole = b"\r\n".join((self.parts[:4], *self.kept))
        self.desk.release(self.key, self.cost)
        return len(whole)


class _Desk:
    """Counts what is taken."""

    def __init__(self) -> None:
        self.counts: dict[bytes, int] = {}
        self.total = 0

    def take(self, key: bytes) -> int:
        try:
            self.counts[key] += 1
        except KeyError:
            self.counts[key] = 1
        self.total += 1
        return self.total

    def release(self, key: bytes, cost: int) -> None:
        self.counts[key] -= 1
        if cost > self.total:
            raise AssertionError("more was given back than taken")


class _Past:
    """Keeps the latest thousand or two of what it is given, as a memory of field blocks does: a
    few megabytes that pass through the processor's caches again and again."""

    SIZE = 1024

    def __init__(self) -> None:
        self._young: dict[bytes, _Fields] = {}
        self._old: dict[bytes, _Fields] = {}
        self._number = 0

    def keep(self, found: _Fields) -> None:
        """Under a key that nothing was kept under before."""
        self._number += 1
        key = b"%032x" % self._number + HEAD
        if key in self._young or key in self._old:
            raise AssertionError("every key is new")
        if len(self._young) >= self.SIZE:
            self._old = self._young
            self._young = {}
        self._young[key] = found


def units(*, wide: bool) -> Callable[[int], None]:
    """A function that does so many units of work. `wide`: with a working set that is larger than
    the caches near a core, for workloads that have one; what others do to those caches then
    slows both alike."""
    desk = _Desk()
    past = _Past() if wide else None

    def run(count: int) -> None:
        for _ in range(count):
            found = _Fields()
            httptools.HttpRequestParser(found).feed_data(HEAD)
            for _ in range(6):
                _Turn(desk, HEAD).start()
            if len(found.fields) != 8:
                raise AssertionError("the head has eight fields")
            if past is not None:
                past.keep(found)

    return run
