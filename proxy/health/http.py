"""The `http` check: a GET, judged by the status of its answer."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import ClassVar

import proxy
from proxy.health.base import Endpoint
from proxy.health.connect import ConnectingCheck, connect

MAX_HEAD = 64 * 1024
"""Bytes of the head of an answer."""
MAX_BODY = 64 * 1024
"""Bytes of an answer that are read at most, so that the instance sees its answer taken; a health
page beyond that is cut off, and its status counts all the same."""
MAX_INTERIM = 10
"""1xx answers before the one that counts."""

_STATUS = re.compile(rb"HTTP/1\.[01] +([1-9]\d\d)(?: [^\r\n]*)?\r?\n")
_EMPTY = re.compile(rb"\ncontent-length:[ \t]*0+[ \t]*\r?\n", re.IGNORECASE)

_RANGE = re.compile(r"\s*([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?\s*\Z")


class HttpCheck(ConnectingCheck):
    """Good when the status is one of `expect`. Redirects are answers, not followed.

    Each probe makes a new connection: a kept one would go on proving that an instance which
    accepts no more had once accepted.
    """

    name: ClassVar[str] = "http"

    def __init__(
        self,
        *,
        timeout: float = 1.0,
        path: str = "/health",
        expect: str = "200-299",
        host: str = "",
        port: int = 0,
        https: bool = False,
    ) -> None:
        """`expect`: statuses and ranges, `200-299,304`. `host`: the Host field; "" = the
        endpoint. `port`: another one of the instance, for its management; 0 = the endpoint's.
        `https`: the certificate of an endpoint without a `server_name` is not verified: a service
        that asks itself goes to an address that no certificate names, and sends no secret."""
        super().__init__(timeout=timeout, host=host, port=port)
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ValueError(f"path: {path!r} is not an absolute path in visible ASCII")
        self._expected = parse_statuses(expect)
        self._path = path
        self._tls: ssl.SSLContext | None = None
        if https:
            # It takes a while to load, which most checks do not need.
            from proxy.tls.contexts import client_context

            self._tls = client_context(verify=False)

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        endpoint = self._place(endpoint)
        tls = self._tls
        if endpoint.server_name is not None and self.context is not None:
            tls = await self.context()
        reader, writer = await connect(
            self._lookups,
            endpoint,
            destinations=self.destinations,
            tls=tls,
            limit=MAX_HEAD,
        )
        try:
            writer.write(self._request(endpoint, 80 if tls is None else 443))
            status = await _answer(reader)
        finally:
            if tls is None:
                writer.close()
            else:
                writer.transport.abort()  # Nobody waits for the other side's farewell.
        return status in self._expected, f"HTTP {status}"

    def _request(self, endpoint: Endpoint, default: int) -> bytes:
        shown = str(endpoint)
        host = self._host or shown.removesuffix(f":{default}")
        return (
            f"GET {self._path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n"
            f"User-Agent: fairlead-check/{proxy.__version__}\r\nConnection: close\r\n\r\n"
        ).encode("ascii", "replace")


async def _answer(reader: asyncio.StreamReader) -> int:
    """The status of the answer; the beginning of its body, if it has one, is there. ValueError
    when it is no answer."""
    for _ in range(MAX_INTERIM):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            what = "in the middle of an answer" if error.partial else "without an answer"
            raise ValueError(f"connection closed {what}") from None
        except asyncio.LimitOverrunError:
            raise ValueError(f"no end of the answer's head within {MAX_HEAD} bytes") from None
        match = _STATUS.match(head)
        if match is None:
            raise ValueError("the answer is not HTTP/1.1")
        status = int(match[1])
        if status >= 200 or status == 101:
            if status not in (101, 204, 304) and _EMPTY.search(head) is None:
                await reader.read(MAX_BODY)
            return status
    raise ValueError(f"more than {MAX_INTERIM} interim answers")


def parse_statuses(text: str) -> frozenset[int]:
    """`200-299,304` → the statuses. ValueError says what is wrong with which part."""
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.match(part)
        if match is None:
            raise ValueError(f"expect: {part!r} is not a status or a range such as 200-299")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise ValueError(f"expect: {part!r} ends before it begins")
        found.update(range(low, high + 1))
    return frozenset(found)
