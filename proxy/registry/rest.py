"""`RestEndpoint`: one endpoint of a registry that is asked over plain HTTP, and the secret that it
is shown."""

from __future__ import annotations

import errno
import os
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import ClassVar

import aiohttp

from proxy import files
from proxy.registry.base import BadReply, Refused, RegistryError
from proxy.registry.named import MemberNames
from proxy.settings.registry import RegistryTls
from proxy.tls.certificates import LARGEST_PEM

DIAL_LIMIT = 2.0
"""Seconds to connect; a member on the same continent answers in a tenth of one."""
LARGEST = 16 * 2**20
"""Bytes of an answer: some 20,000 instances in the words of Consul or Kubernetes. A peer that is
no registry could fill the memory otherwise."""
LARGEST_SECRET = 64 * 1024
"""Bytes of a file with a token; signed ones have 1 to 4 KiB."""


class Secret:
    """Owns a secret from the settings: a text, or a file that is read again once it is another
    one, since who issues tokens replaces them."""

    def __init__(self, text: str, file: str | None = None) -> None:
        self._text = text
        self._file = file
        self._seen: tuple[int, ...] = ()

    def __call__(self) -> str:
        """Return the secret of now; Refused when its file cannot be read."""
        if self._file is None:
            return self._text
        try:
            found = os.stat(self._file)
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen != self._seen:
                text = files.read(self._file, LARGEST_SECRET).decode().strip()
                if len(text) > LARGEST_SECRET or not text.isprintable():
                    raise Refused(f"{self._file}: holds no token, which is one line of text")
                self._text, self._seen = text, seen
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise Refused(f"{self._file}: {reason}") from None
        return self._text

    def bearer(self) -> Mapping[str, str]:
        """Fields of RFC 6750 that show it, if there is one."""
        secret = self()
        return {"Authorization": f"Bearer {secret}"} if secret else {}


class Answered(RegistryError):
    """An answer with a status that is no success. Names of fields are in lower case."""

    answered: ClassVar[bool] = True

    def __init__(
        self, status: int, words: str, headers: Mapping[str, str], body: bytes = b""
    ) -> None:
        super().__init__(words)
        self.status = status
        self.headers = headers
        self.body = body


class Denied(Answered, Refused):
    """The registry does not know who asks (401), or what is asked is not for him (403)."""


class Answer:
    """An answer with a status of success. Names of fields are in lower case."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body


class RestEndpoint:
    """Owns the connections to one endpoint. Built while the registry is down, and outside an event
    loop: nothing is connected, read or checked before the first call. Calls raise RegistryError
    only; `Denied` for 401 and 403."""

    def __init__(
        self,
        url: str,
        *,
        tls: RegistryTls | None = None,
        fields: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`url`: also `unix:` and the path of a socket; `fields`: of each request, asked each
        time."""
        self.url = url.rstrip("/")
        self._unix = self.url.removeprefix("unix:") if url.startswith("unix:") else None
        self._base = self.url if self._unix is None else "http://localhost"
        self._tls = tls
        self._fields = fields
        self._names = MemberNames()
        self._session: aiohttp.ClientSession | None = None

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, *, timeout: float
    ) -> Answer:
        """The whole answer, within `timeout` seconds."""
        return await self.call("GET", path, query, timeout=timeout)

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes | Mapping[str, str] | None = None,
        *,
        timeout: float,
    ) -> Answer:
        """As `get`, with another method and a body; a mapping is a form."""
        async with self._request(method, path, query, body, timeout) as response:
            return Answer(_fields(response), await _whole(response))

    async def lines(
        self, path: str, query: Mapping[str, str], *, timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        """Lines of an answer as they come, until it ends or `timeout` seconds are over; None = it
        is followed for ever. A line has `LARGEST` bytes at most."""
        async with self._request("GET", path, query, None, timeout) as response:
            rest = b""
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield line
                if len(rest) > LARGEST:
                    raise RegistryError(f"{path}: a line has more than {LARGEST} bytes")

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: bytes | Mapping[str, str] | None,
        timeout: float | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer with status 200 or 204, to be read; what goes wrong is a RegistryError."""
        try:
            if self._session is None:
                self._session = self._connect()
            async with self._session.request(
                method,
                self._base + path,
                params=query,
                data=body,
                headers=self._fields(),
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=DIAL_LIMIT),
                allow_redirects=False,
            ) as response:
                if response.status not in (200, 204):
                    body = await _whole(response)
                    raise refusal(response.status, path, body, _fields(response))
                yield response
        except TimeoutError as error:
            reason = str(error) or f"no answer within {timeout or DIAL_LIMIT:g} s"
            raise RegistryError(_at(path) + reason) from None
        except (aiohttp.ClientError, OSError) as error:
            # A handshake that fails costs the other side as much as one that does not.
            kind = BadReply if isinstance(error, aiohttp.ClientSSLError) else RegistryError
            # Of what it cannot read aiohttp says 400, which nobody has answered.
            words = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
            words = " ".join(words.split()).removeprefix("400, message: ")
            words = words or type(error).__name__
            raise kind(_at(path) + words) from error

    async def disconnect(self) -> None:
        """Close all connections. The next call opens new ones and reads the TLS files again."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _connect(self) -> aiohttp.ClientSession:
        connector: aiohttp.BaseConnector
        if self._unix is not None:
            connector = aiohttp.UnixConnector(self._unix, limit=0)
        else:
            secure = self.url.startswith("https:") and self._tls is not None
            connector = aiohttp.TCPConnector(
                limit=0,  # Streams hold one each, for ever; callers bound themselves.
                ssl=tls_context(self._tls) if secure and self._tls is not None else True,
                resolver=self._names,
                use_dns_cache=False,  # It has its own.
            )
        # An environment's proxy would lead somewhere that is no registry. Registries are near:
        # unpacking would cost more than the bytes.
        return aiohttp.ClientSession(
            connector=connector, trust_env=False, headers={"Accept-Encoding": "identity"}
        )


def _fields(response: aiohttp.ClientResponse) -> Mapping[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    pieces = []
    size = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST:
            raise RegistryError(f"{_at(response.url.path)}the answer has more than {LARGEST} bytes")
    return b"".join(pieces)


def _at(path: str) -> str:
    """The beginning of what is said of an answer; "" where it is that of the endpoint itself."""
    return f"{path}: " if path else ""


def basic(username: str, password: str) -> Mapping[str, str]:
    """Fields of RFC 7617 for a user, if there is one."""
    if not username:
        return {}
    return {"Authorization": "Basic " + b64encode(f"{username}:{password}".encode()).decode()}


def was_reset(error: RegistryError) -> bool:
    """Whether the peer hung up on a request."""
    cause = error.__cause__
    reset = isinstance(cause, OSError) and cause.errno == errno.ECONNRESET
    return reset or isinstance(cause, aiohttp.ServerDisconnectedError)


def was_refused(error: RegistryError) -> bool:
    """Whether nobody listens there."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED


def refusal(status: int, path: str, body: bytes, headers: Mapping[str, str]) -> Answered:
    """An answer that is no success as an error, with the beginning of what it says."""
    said = " ".join(body[:200].decode(errors="replace").split())
    kind = Denied if status in (401, 403) else Answered
    words = f"{_at(path)}status {status}"
    if status in (301, 302, 303, 307, 308) and (place := headers.get("location")):
        words += f", which leads to {place[:200]!r} and is not followed"
    return kind(status, f"{words}: {said}" if said else words, headers, body)


def tls_context(tls: RegistryTls) -> ssl.SSLContext:
    """Context for connections to a registry; host names are checked, whatever else is configured.
    Refused for files that cannot be loaded."""
    # It takes a while to load, which many registries do not need.
    from proxy.tls.contexts import client_context, load_pair, reason

    try:
        context = client_context(None if tls.ca is None else files.read(tls.ca, LARGEST_PEM))
    except OSError as error:  # of which ssl.SSLError is one
        raise Refused(f"registry.tls.ca: cannot load {tls.ca}: {reason(error)}") from None
    if tls.cert:
        try:
            cert, key = (files.read(one, LARGEST_PEM) for one in (tls.cert, tls.key or tls.cert))
            load_pair(context, cert, key)
        except OSError as error:
            raise Refused(
                f"registry.tls: cannot load cert {tls.cert} with key {tls.key}: {reason(error)}"
            ) from None
    return context
