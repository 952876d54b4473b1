"""One etcd endpoint over its JSON gateway: unary calls and the watch stream.

The only file that imports `etcd3`. Of etcd3-py it uses the transport (addresses, paths,
headers, the POST itself) and nothing above it; `docs/decisions/0001-etcd-client.md` says why,
and what it would take to leave.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from proxy.registry.base import Refused
from proxy.registry.etcd.options import Options
from proxy.registry.etcd.wire import (
    AuthReply,
    BadCredentials,
    BadTlsFiles,
    EtcdError,
    FrameReader,
    LeaseReply,
    RangeReply,
    TokenRefused,
    TxnReply,
    Unreachable,
    WatchFrame,
    decode_auth,
    decode_kept,
    decode_lease,
    decode_range,
    decode_txn,
    error_from,
    error_named,
)
from proxy.registry.named import MemberNames
from proxy.registry.rest import DIAL_LIMIT, Secret, tls_context

CALL_LIMIT = 5.0
"""Seconds for a unary call. etcd gives up on its own requests after 7 s or so; whoever waits
for that long here is better served by the next member."""
CREATED_LIMIT = 3.0
"""Seconds from asking for a watch to its `created` frame."""
PAGE = 1000
"""Keys per page of a list: about 12 ms of decoding, then other tasks get their turn."""

_WITH_LEADER = {"Grpc-Metadata-hasleader": "true"}
"""Without it, a member that lost its leader keeps a watch open and silent."""


class _Unused(ModuleType):
    """A library that etcd3-py names when it is loaded, and needs for what is not used here."""

    __path__ = []  # noqa: RUF012

    def __getattr__(self, name: str) -> type[OSError]:
        if name.startswith("__"):
            raise AttributeError(name)
        return OSError  # Where an exception is wanted, for one.


_OLDER: Final = "etcd3.swaggerdefs.v3_2_x"
_UNUSED: Final = ("requests", "requests.exceptions", "semantic_version", _OLDER)
"""`requests` is for its synchronous client, the second for versions of servers that it asks for,
the last describes calls of older ones: 5 MB and a tenth of a second."""


def _load() -> tuple[Any, Any]:
    """Load etcd3-py's asynchronous client and its base. In our own processes without `_UNUSED`; in
    a program of somebody else's a thread may ask for those at the same moment. What is not whole
    is forgotten then: whoever imports etcd3-py gets all of it."""
    apart = "proxy.cli" in sys.modules and not {"etcd3", *_UNUSED} & sys.modules.keys()
    if apart:
        sys.modules |= {name: _Unused(name) for name in _UNUSED}
    try:
        from etcd3 import AioClient
        from etcd3.baseclient import BaseClient
    finally:
        if apart:
            for name in [*sys.modules]:
                if name in _UNUSED or name.partition(".")[0] == "etcd3":
                    del sys.modules[name]
    return AioClient, BaseClient


AioClient: Any
BaseClient: Any
AioClient, BaseClient = _load()


class _Transport(AioClient):  # type: ignore[misc]
    """etcd3-py's asynchronous client without its start-up and without its session.

    Its own constructor asks the server for its version (blocking, and fatal when the server
    is down) and builds a session that checks no host names, so the base class's is called.
    """

    def __init__(
        self,
        protocol: str,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        names: MemberNames,
    ) -> None:
        BaseClient.__init__(self, host=host, port=port, protocol=protocol)
        self.session = aiohttp.ClientSession(
            # No limit on connections: each watch holds one for ever, and unary calls must
            # never wait in line behind watches. Callers bound themselves.
            connector=aiohttp.TCPConnector(
                limit=0,
                ssl=True if tls is None else tls,
                resolver=names,
                use_dns_cache=False,  # It has its own.
            ),
            # A redirect or an environment's proxy would lead somewhere that is not etcd.
            trust_env=False,
        )

    def _retrieve_version(self) -> None:
        """Asked nobody: only the path prefix depends on the version."""

    def _verify_version(self) -> None:
        """Skip the check of the version: there is nothing to verify."""

    def _get_prefix(self) -> None:
        self.api_prefix = "/v3"  # of every server since 3.4


class Watch:
    """Owns one watch stream, from its `created` frame on. Iterate it for the frames.

    It ends only by EtcdError; a `canceled` frame is handed over as it came, since whether to
    list again or to reopen is the reader's decision.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._reader = FrameReader()
        self._ready: Iterator[WatchFrame] = iter(())

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> WatchFrame:
        while True:
            for frame in self._ready:
                return frame
            try:
                piece = await self._response.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise Unreachable(f"/watch: {error or type(error).__name__}") from error
            self._ready = self._reader.feed(piece) if piece else self._reader.end()

    async def created(self) -> None:
        """Take the first frame. It stays in the stream unless it refuses the token, since it
        may be a cancellation that the reader has to understand."""
        first = await anext(self)
        if first.canceled:
            refusal = error_named(first.cancel_reason)
            if isinstance(refusal, TokenRefused):
                raise refusal
        self._ready = chain((first,), self._ready)

    def close(self) -> None:
        self._response.close()


class Gateway:
    """Owns the connections to one endpoint and the token it gave us.

    `url` is `http[s]://host[:port]`, port 2379 when absent; ValueError for anything else.
    Nothing is connected, read or checked before the first call, so it is built while etcd is
    down, and outside an event loop. Calls raise EtcdError only.
    """

    def __init__(self, url: str, options: Options | None = None) -> None:
        options = options or Options()
        try:
            parts = urlsplit(url)
            port = parts.port or 2379
            bad = (
                parts.scheme not in ("http", "https")
                or parts.username is not None
                or parts.path not in ("", "/")
                or parts.query
                or parts.fragment
            )
        except ValueError:  # a port that is none
            bad = True
        if bad or not parts.hostname:
            shown = re.sub(r"//[^/@]*@", "//...@", url)  # it may hold a password
            raise ValueError(f"etcd endpoint {shown!r} is not of the form http[s]://host[:port]")
        self.url = url.rstrip("/")
        self._protocol = parts.scheme
        self._host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._port = port
        self._tls = options.tls
        self._username = options.username
        self._password = Secret(options.password, options.password_file)
        self._token: str | None = None
        self._transport: _Transport | None = None
        self._names = MemberNames()

    def __repr__(self) -> str:
        return f"<Gateway {self.url}>"

    async def range(
        self,
        key: bytes,
        end: bytes,
        *,
        limit: int = 0,
        revision: int = 0,
        newest_first: bool = False,
        timeout: float = CALL_LIMIT,
    ) -> RangeReply:
        """A linearizable read of [key, end): it proves that the member has a leader."""
        body: dict[str, Any] = {"key": key, "range_end": end, "limit": limit, "revision": revision}
        if newest_first:
            body |= {"sort_order": "DESCEND", "sort_target": "MOD"}
        reply: RangeReply = await self._call("/kv/range", body, decode_range, timeout)
        return reply

    async def pages(self, key: bytes, end: bytes) -> AsyncGenerator[RangeReply, None]:
        """Pages of [key, end), all of one revision: that of the first page's header."""
        reply = await self.range(key, end, limit=PAGE)
        revision = reply.header.revision
        yield reply
        while reply.more and reply.kvs:
            after = reply.kvs[-1].key + b"\x00"
            reply = await self.range(after, end, limit=PAGE, revision=revision)
            yield reply

    async def grant(self, ttl: int, *, timeout: float = CALL_LIMIT) -> LeaseReply:
        """A new lease of `ttl` seconds; etcd may make it longer. One whose answer got lost
        holds no key and runs out by itself."""
        reply: LeaseReply = await self._call("/lease/grant", {"TTL": ttl}, decode_lease, timeout)
        return reply

    async def keep_alive(self, lease: int, *, timeout: float = CALL_LIMIT) -> LeaseReply:
        """Renew a lease. A lease that is lost is no error to etcd: its `ttl` is 0."""
        reply: LeaseReply = await self._call(
            "/lease/keepalive", {"ID": lease}, decode_kept, timeout
        )
        return reply

    async def time_to_live(self, lease: int, *, timeout: float = CALL_LIMIT) -> LeaseReply:
        """The rest of a lease's time, and the keys under it; `ttl` is -1 when it is lost."""
        reply: LeaseReply = await self._call(
            "/lease/timetolive", {"ID": lease, "keys": True}, decode_lease, timeout
        )
        return reply

    async def revoke(self, lease: int, *, timeout: float = CALL_LIMIT) -> None:
        """End a lease and with it all its keys. LeaseNotFound when it had ended already."""
        await self._call("/lease/revoke", {"ID": lease}, decode_lease, timeout)

    async def txn(
        self,
        compare: Sequence[Mapping[str, Any]],
        success: Sequence[Mapping[str, Any]],
        failure: Sequence[Mapping[str, Any]] = (),
        *,
        timeout: float = CALL_LIMIT,
    ) -> TxnReply:
        """Do all of `success` if all of `compare` holds, else all of `failure`, at one revision.
        The parts are as etcd's API spells them, with keys and values in bytes (see `revision_is`,
        `put_op`, `delete_op`, `range_op`); etcd takes at most 128 of each. One that
        timed out may have been applied: guard it so that it may be repeated."""
        body = {"compare": compare, "success": success, "failure": failure}
        reply: TxnReply = await self._call("/kv/txn", body, decode_txn, timeout)
        return reply

    @asynccontextmanager
    async def watch(self, key: bytes, end: bytes, start_revision: int) -> AsyncIterator[Watch]:
        """A watch of [key, end) from `start_revision` on, entered once etcd has created it."""
        create = {
            "key": key,
            "range_end": end,
            "start_revision": start_revision,
            "progress_notify": True,
        }
        token = await self._authenticated()
        try:
            watch = await self._open(create)
        except TokenRefused:
            if not self._username:
                raise
            self._forget(token)
            await self._authenticated()
            watch = await self._open(create)
        try:
            yield watch
        finally:
            watch.close()

    async def disconnect(self) -> None:
        """Close all connections. The next call opens new ones and reads the TLS files again,
        so neither a stale connection nor an old certificate outlives a failure."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    # ------------------------------------------------------------------------- private

    async def _call(
        self,
        path: str,
        body: dict[str, Any],
        decode: Callable[[bytes], Any],
        timeout: float,
    ) -> Any:
        token = await self._authenticated()
        try:
            return decode(await self._post(path, body, timeout))
        except TokenRefused:
            if not self._username:
                raise
        # Once: a stale token and a missing permission read the same on 3.5.1, and a refusal
        # of a fresh token is the truth. What was refused was not done, so writes may be
        # repeated as well.
        self._forget(token)
        await self._authenticated()
        return decode(await self._post(path, body, timeout))

    async def _authenticated(self) -> str | None:
        """The token, fetched if there is none; None when there is no user to log in."""
        if self._username and self._token is None:
            try:
                reply: AuthReply = decode_auth(
                    await self._post(
                        "/auth/authenticate",
                        {"name": self._username, "password": self._secret()},
                        CALL_LIMIT,
                    )
                )
            except EtcdError as error:
                # As etcd's own client does: a user in the settings is no reason to fail
                # against a cluster whose authentication is (still) switched off.
                if "authentication is not enabled" not in str(error):
                    raise
                reply = AuthReply()
            self._token = reply.token
        return self._token

    def _secret(self) -> str:
        try:
            return self._password()
        except Refused as error:
            raise BadCredentials(str(error)) from None

    def _forget(self, token: str | None) -> None:
        """Unless another call has fetched a newer one already."""
        if self._token == token:
            self._token = None

    async def _post(self, path: str, body: dict[str, Any], timeout: float) -> bytes:
        try:
            # Rule for all calls: no leader, no answer. Reads are linearizable anyway, but a
            # member cut off from its leader would take a keep-alive's connection and be silent.
            async with self._request(
                path,
                body,
                dict(_WITH_LEADER),
                aiohttp.ClientTimeout(total=timeout, sock_connect=DIAL_LIMIT),
            ) as response:
                reply: bytes = await response.read()
        except TimeoutError as error:
            reason = str(error) or f"no answer within {timeout:g} s"
            raise Unreachable(f"{path}: {reason}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{path}: {error or type(error).__name__}") from error
        if response.status != 200:
            raise _named(path, error_from(response.status, reply))
        return reply

    async def _open(self, create: dict[str, Any]) -> Watch:
        """Ask for a watch and see it created; a refusal may come as a status, as an error
        object, or as a frame that is both `created` and `canceled` (3.5)."""
        response = None
        try:
            async with asyncio.timeout(CREATED_LIMIT):
                response = await self._request(
                    "/watch",
                    {"create_request": create},
                    dict(_WITH_LEADER),
                    aiohttp.ClientTimeout(total=None, sock_connect=DIAL_LIMIT),
                )
                if response.status != 200:
                    raise _named("/watch", error_from(response.status, await response.read()))
                watch = Watch(response)
                await watch.created()
        except BaseException as error:
            if response is not None:
                response.close()
            if isinstance(error, TimeoutError):
                raise Unreachable(f"/watch: not created within {CREATED_LIMIT:g} s") from None
            if isinstance(error, (aiohttp.ClientError, OSError)):
                raise Unreachable(f"/watch: {error or type(error).__name__}") from error
            raise
        return watch

    def _request(
        self,
        path: str,
        body: dict[str, Any],
        headers: dict[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.client._RequestContextManager:
        if self._token:
            headers["Authorization"] = self._token
        transport = self._connect()
        request: aiohttp.client._RequestContextManager = transport.call_rpc(
            path,
            msgspec.json.encode(body),  # bytes become base64, as the gateway wants them
            raw=True,
            timeout=timeout,
            headers=headers,
            allow_redirects=False,
        )
        return request

    def _connect(self) -> _Transport:
        if self._transport is None:
            context = None
            if self._protocol == "https" and self._tls is not None:
                try:
                    context = tls_context(self._tls)
                except Refused as error:
                    raise BadTlsFiles(str(error)) from None
            self._transport = _Transport(
                self._protocol, self._host, self._port, context, self._names
            )
        return self._transport


def _named(path: str, error: EtcdError) -> EtcdError:
    return type(error)(f"{path}: {error}")


def revision_is(key: bytes, revision: int) -> dict[str, Any]:
    """Compare: the key was last written at `revision`; 0 = there is no such key."""
    return {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}


def put_op(key: bytes, value: bytes, lease: int) -> dict[str, Any]:
    return {"request_put": {"key": key, "value": value, "lease": lease}}


def delete_op(key: bytes) -> dict[str, Any]:
    return {"request_delete_range": {"key": key}}


def range_op(key: bytes) -> dict[str, Any]:
    return {"request_range": {"key": key}}


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`; b"\\0" = to the end of the store."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\x00"
