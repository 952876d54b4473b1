"""The interface of filters, and what a worker lends them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

import msgspec

from proxy.engine.resilience.limits import BucketTable
from proxy.filters.message import Edit, Request, Response
from proxy.http.forwarding import ClientFacts
from proxy.http.messages import RequestHead
from proxy.settings.complaints import Report
from proxy.settings.declare import Given

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
_PROOFS: Final = (b"authorization", b"cookie")
TIME_LIMIT: Final = 10.0
"""Seconds that one hook may take: more than people wait for a page, and less than clients do."""
BLOCK_LIMIT: Final = 1.0
"""Seconds that one hook may hold its worker: more than the first import of a library takes, and
less than those who wait behind it put up with."""


class Context:
    """Possessions of a worker that its filters may use."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        buckets: BucketTable,
        claim: Callable[[bytes], None],
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
        wall: Callable[[], float],
        refusal: Callable[[str, int], str] | None = None,
    ) -> None:
        """`refusal`: why nobody may connect to an address and a port, empty = they may; None = to
        any."""
        self.loop = loop
        self.now = now
        """Seconds of a monotonic clock."""
        self.wall = wall
        """Seconds since 1970."""
        self.buckets = buckets
        """The buckets of rate limits, shared by all workers."""
        self._claim = claim
        self._in_thread = in_thread
        self._refusal = refusal

    def claim(self, name: str) -> None:
        """Make of a field one that no client may set, on any route. Not of those by which clients
        prove who they are: without these no filter could tell."""
        lower = name.lower().encode("ascii")
        if lower not in _PROOFS:
            self._claim(lower)

    def connector(self, limit: int) -> aiohttp.TCPConnector:
        """Connections of aiohttp, so many at a time, for a URL of the settings. If a configuration
        that a fleet shares names it, it leads nowhere but where registered instances may."""
        import aiohttp  # An HTTP client, which few filters need.

        return aiohttp.TCPConnector(limit=limit, socket_factory=self._socket)

    def _socket(self, where: tuple[Any, ...]) -> socket.socket:
        """A socket for one address, once a name is resolved."""
        family, kind, protocol, _, address = where
        reason = "" if self._refusal is None else self._refusal(address[0], address[1])
        if reason:
            raise PermissionError(errno.EACCES, reason)
        return socket.socket(family, kind, protocol)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """The result of work that takes long, done beside the loop."""
        result: T = await self._in_thread(work)
        return result


class FilterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one kind of filter, declared as all keys are (`proxy/settings/declare.py`)."""

    def checked(self, given: Given, directory: Path, report: Report) -> Self:
        """Options with the names of their files resolved, after complaints of keys that
        contradict each other."""
        return self


class Filter:
    """A filter: each hook may be a coroutine. One that is not overridden costs nothing.

    A filter is made once for each worker and configuration, from its settings: an instance of
    `options` if it has these, else the keyword arguments of its constructor. `fairlead check`
    makes one, too, so what a filter opens it opens in `open`. A filter whose settings are the same
    after a reload stays.
    """

    options: ClassVar[type[FilterOptions] | None] = None
    short: ClassVar[str] = ""
    """The key that a scalar or a list in place of the settings is short for."""
    meaning: ClassVar[str] = ""
    """Sentence for the table of docs/configuration.md."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules of the extra `fairlead-proxy[auth]` that it imports."""
    name: str = ""
    """By which the file calls it, or the place where it stands; set before it is opened."""
    authenticates: ClassVar[bool] = False
    """Requests get past it only from those who have shown who they are."""
    time_limit: float = TIME_LIMIT
    """Seconds that one hook of it may take, if it waits: then 504 `filter_timeout`."""
    block_limit: float = BLOCK_LIMIT
    """Seconds that one hook of a filter which is not the product's may hold its worker, 0.05 at
    least: then it is interrupted, and its request 504 `filter_timeout`."""
    threads: bool = False
    """Hooks of it that are no coroutines may block, and are called in threads: of a filter which is
    not the product's."""

    request_edit: Edit | None = None
    """See `edits_only`."""

    def edits_only(self, request: RequestHead, facts: ClientFacts) -> bool:
        """Whether the filter does no more to such a request than `request_edit`, and to an
        instance's answer than `response_edit`: then these are done, and no hook is called. Asked of
        the product's own alone."""
        return False

    def response_edit(self, request: RequestHead) -> Edit | None:
        """See `edits_only`."""
        return None

    def open(self, context: Context) -> None:
        """A worker is about to use it."""

    def close(self) -> None:
        """No further request comes to it. Those that are with it may take a minute more."""

    def on_request(self, request: Request) -> Any:
        """Look at a request before it goes on. Returns None: it goes on, with what was changed; or
        the `Response` that ends it here. Raises `Refused` for a fault; whatever else it raises is
        500 `filter_failed`."""

    def on_response(self, request: Request, response: Response) -> Any:
        """Look at the head of an answer before the client gets it: an instance's or the proxy's
        own. Status, fields and content may be changed."""

    def on_end(self, request: Request, outcome: str) -> Any:
        """Look back at a request that is over; `outcome`: `ok`, the code of a fault, or a status
        that speaks against the instance."""
