"""The `http` check: a GET, judged by the status of its answer."""

from __future__ import annotations

import re
from typing import ClassVar

import aiohttp

import proxy
from proxy.health.base import Check, Endpoint

MAX_BODY = 64 * 1024
"""Bytes of an answer that are read, so that the instance sees its answer taken; a health page
beyond that is cut off, and its status counts all the same."""

_RANGE = re.compile(r"\s*([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?\s*\Z")


class HttpCheck(Check):
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
        https: bool = False,
    ) -> None:
        """`expect`: statuses and ranges, `200-299,304`. `host`: the Host field; "" = the
        endpoint. `https`: the certificate is not verified, since a probe goes to an address
        that no certificate names, and sends no secret."""
        super().__init__(timeout=timeout)
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ValueError(f"path: {path!r} is not an absolute path in visible ASCII")
        self._path = path
        self._expected = parse_statuses(expect)
        self._headers = {"User-Agent": f"fairlead-check/{proxy.__version__}"}
        if host:
            self._headers["Host"] = host
        self._scheme = "https" if https else "http"
        self._session: aiohttp.ClientSession | None = None

    async def _ask(self, endpoint: Endpoint) -> tuple[bool, str]:
        url = f"{self._scheme}://{endpoint}{self._path}"
        async with self._shared().get(url, allow_redirects=False) as answer:
            await answer.content.read(MAX_BODY)
        reason = f"HTTP {answer.status}"
        return answer.status in self._expected, reason

    def _shared(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=False),
                timeout=aiohttp.ClientTimeout(total=None),  # `probe` holds the limit
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


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
