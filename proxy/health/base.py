"""`Check`: the seam for health checks, shared by the proxy and by the services themselves.

A check asks one question about one endpoint and gives a verdict. It remembers nothing between
probes: how many verdicts make a change is decided in `thresholds.py`, and when to ask by whoever
asks. One check serves any number of endpoints, at the same time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec

if TYPE_CHECKING:
    from proxy.destinations import Destinations

MAX_MESSAGE = 200
"""Characters of a verdict's message. It is written into the registry and shown in tables; a
stack trace belongs into the log of the one who failed."""

HELD_UP = 0.25
"""Seconds by which a limit may be noticed late and still speak against the endpoint. This process
was stopped, or had no CPU, for longer than that: the answer may be there and not have been read."""

_NO_DESCRIPTOR = frozenset((errno.EMFILE, errno.ENFILE))


class Endpoint(NamedTuple):
    """Where to ask: a host name or address (IPv6 without brackets) and a port."""

    address: str
    port: int
    local: bool = False
    """Stands in the local file, and may lead anywhere; what a registry names may not."""
    server_name: str | None = None
    """Name that it must prove under TLS; None: it is spoken to without."""
    preface: bytes = b""
    """Goes in front of the connection's first byte, in clear text."""
    trust_domain: str = ""
    """Where its certificate must name the service of `server_name`; empty = it is a host's."""

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


class Verdict(msgspec.Struct, frozen=True):
    """The result of one probe."""

    ok: bool
    message: str
    """For people; at most `MAX_MESSAGE` printable characters."""
    seconds: float = 0.0
    """How long the probe took."""
    asked: bool = True
    """False: there was no descriptor to ask with, or this process was held up while it waited,
    which says nothing of the endpoint."""


class Check(ABC):
    """One kind of question. Built outside an event loop, before anything is connected.

    Further parameters of a kind are keyword-only arguments with defaults, annotated `str`,
    `int`, `float` or `bool`. ValueError from the constructor names a parameter that is wrong.
    """

    name: ClassVar[str]
    holds_the_loop: ClassVar[bool] = False
    """Beginning a probe takes milliseconds in which nothing else happens: one in a turn of the
    loop is enough."""
    alpn: ClassVar[str] = "http/1.1"
    """Protocol that is asked for under TLS."""
    destinations: Destinations | None = None
    """Where an endpoint may not lead unless it is `local`; set by whoever checks instances that
    others have registered."""
    context: Callable[[], Awaitable[ssl.SSLContext]] | None = None
    """How TLS is spoken with endpoints that have a `server_name`; set by whoever has such."""

    def __init__(self, *, timeout: float = 1.0) -> None:
        """`timeout`: seconds for a probe, everything included."""
        if not timeout > 0:
            raise ValueError(f"timeout: {timeout!r} is not a positive number of seconds")
        self.timeout = timeout

    async def probe(self, endpoint: Endpoint) -> Verdict:
        """Ask, within `timeout`. Whatever goes wrong is a verdict; only cancellation is raised."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        asked = True
        late = 0.0

        def at_limit() -> None:
            nonlocal late
            late = loop.time() - start - self.timeout

        # Not read when all is over, because ending what was begun takes time, too.
        limit = loop.call_later(self.timeout, at_limit)
        try:
            async with asyncio.timeout(self.timeout):
                ok, message = await self._ask(endpoint)
        except TimeoutError:
            ok, message = False, f"no answer within {self.timeout:g} s"
            if late > HELD_UP:
                asked = False
                message += f", but this process was held up for {late:.1f} s"
        except Exception as error:
            ok, message = False, in_words(error)
            asked = not (isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR)
        finally:
            limit.cancel()
        return Verdict(ok, printable(message), loop.time() - start, asked)

    @abstractmethod
    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        """Good or not, and a word why. Any exception counts as not; the limit is the caller's,
        who cancels: leave nothing behind then."""

    async def close(self) -> None:
        """Release what probes share. Safe to call more than once; probes may follow."""


def checked_port(port: int) -> int:
    """`port`, if it is one, or 0. ValueError for all others."""
    if not 0 <= port <= 65535:
        raise ValueError(f"port: {port} is no port")
    return port


def in_words(error: Exception) -> str:
    """The reason of an error, without addresses and class names where the system has words for
    it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS: {str(error.reason or error).lower().replace('_', ' ')}"
    if isinstance(error, OSError) and error.errno:
        # Resolvers count downwards, and bring their own words.
        words = os.strerror(error.errno) if error.errno > 0 else error.strerror
        if words:
            return words
    return str(error) or type(error).__name__


def printable(text: str) -> str:
    """One line, without control characters, no longer than a message may be."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else "�" for char in line)[:MAX_MESSAGE]
