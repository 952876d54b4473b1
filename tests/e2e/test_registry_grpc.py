"""One connection to a registry over gRPC, against a server on another implementation of HTTP/2."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from proxy.registry.base import Refused, RegistryError
from proxy.registry.grpc import GrpcLink, Leaving
from proxy.settings.registry import RegistryTls
from tests.e2e.certificates import Authority
from tests.support.processes import eventually, free_port
from tests.support.scripted_grpc import GrpcConnection, ScriptedGrpc

Heard = Callable[[GrpcConnection, int, bytes], None]


class Server(ScriptedGrpc):
    """Owns what is done about a message."""

    def __init__(self, then: Heard) -> None:
        super().__init__()
        self.port = free_port()
        self._then = then

    async def heard(self, connection: GrpcConnection, stream: int, message: bytes) -> None:
        self._then(connection, stream, message)


def echo(connection: GrpcConnection, stream: int, message: bytes) -> None:
    connection.send(stream, message, True)


@asynccontextmanager
async def linked(then: Heard, tls: RegistryTls | None = None) -> AsyncIterator[GrpcLink]:
    server = Server(then)
    await server.start(server.port)
    link = GrpcLink("127.0.0.1", server.port, tls)
    try:
        await link.connect()
        yield link
    finally:
        await link.disconnect()
        await server.kill()


async def test_calls_are_answered_whatever_their_number_and_size() -> None:
    async with linked(echo) as link:
        for size in (0, 1, 16_000):
            assert await link.call("/t/T", b"x" * size, 5.0) == b"x" * size
        found = await asyncio.gather(*(link.call("/t/T", b"%d" % n, 5.0) for n in range(50)))
        assert found == [b"%d" % n for n in range(50)]


async def test_long_answers_come_through_the_windows() -> None:
    long = bytes(5 * 2**20)
    async with linked(lambda c, stream, _: c.send(stream, long, True)) as link:
        for _ in range(3):
            assert await link.call("/t/T", b"", 10.0) == long


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ([("grpc-status", "5"), ("grpc-message", "no%20%C3%BC")], RegistryError, "5: no ü"),
        ([("grpc-status", "16")], Refused, "grpc-status 16"),
        ([("other", "1")], RegistryError, "/t/T: 200"),
        ([("grpc-status", "0")], RegistryError, "no message in answer"),
    ],
)
async def test_an_answer_that_is_none_says_why(
    fields: list[tuple[str, str]], kind: type[RegistryError], words: str
) -> None:
    async with linked(lambda c, stream, _: c.end(stream, fields)) as link:
        with pytest.raises(kind, match=words):
            await link.call("/t/T", b"", 5.0)


async def test_a_call_that_is_reset_or_takes_too_long_costs_no_other() -> None:
    def then(connection: GrpcConnection, stream: int, message: bytes) -> None:
        if message == b"reset":
            connection.reset(stream, ErrorCodes.INTERNAL_ERROR)
        elif message != b"never":
            echo(connection, stream, message)

    async with linked(then) as link:
        with pytest.raises(RegistryError, match="internal_error"):
            await link.call("/t/T", b"reset", 5.0)
        with pytest.raises(RegistryError, match=r"within 0\.1 s"):
            await link.call("/t/T", b"never", 0.1)
        assert await link.call("/t/T", b"x", 5.0) == b"x"


async def test_more_than_one_message_in_answer_to_a_call_ends_the_connection() -> None:
    def then(connection: GrpcConnection, stream: int, _: bytes) -> None:
        connection.send(stream, b"one", False)
        connection.send(stream, b"two", True)

    async with linked(then) as link:
        with pytest.raises(RegistryError, match="more than one message"):
            await link.call("/t/T", b"", 5.0)


@pytest.mark.parametrize("prefix", [b"\x01\0\0\0\x01", b"\0\xff\xff\xff\xff"])
async def test_a_message_that_is_compressed_or_endless_ends_the_connection(prefix: bytes) -> None:
    async with linked(lambda c, stream, _: c.raw(stream, prefix + b"x")) as link:
        with pytest.raises(RegistryError, match="compressed or has more than"):
            await link.call("/t/T", b"", 5.0)
        with pytest.raises(RegistryError, match="compressed or has more than"):
            await link.ended()


async def test_a_server_without_room_is_an_error_and_not_waited_for() -> None:
    def then(connection: GrpcConnection, stream: int, message: bytes) -> None:
        connection.announce(SettingCodes.INITIAL_WINDOW_SIZE, 10)
        echo(connection, stream, message)

    async with linked(then) as link:
        assert await link.call("/t/T", b"x" * 20, 5.0) == b"x" * 20

        async def refused() -> bool:
            try:
                await link.call("/t/T", b"x" * 20, 5.0)
            except RegistryError as error:
                return "takes no 25 bytes" in str(error)
            return False

        await eventually(refused)


async def test_a_goodbye_is_told_from_a_loss() -> None:
    async with linked(lambda c, *_: c.leave()) as link:
        with pytest.raises(Leaving):
            await link.call("/t/T", b"", 5.0)
        with pytest.raises(Leaving):
            await link.ended()
    async with linked(lambda c, *_: c.abort()) as link:
        with pytest.raises(RegistryError) as lost:
            await link.call("/t/T", b"", 5.0)
        assert not isinstance(lost.value, Leaving)


async def test_a_stream_lasts_as_long_as_the_connection() -> None:
    def then(connection: GrpcConnection, stream: int, message: bytes) -> None:
        connection.send(stream, message, message == b"end")

    heard: list[bytes] = []
    async with linked(then) as link:
        send = link.stream("/t/S", heard.append)
        for message in (b"a", b"b"):
            send(message)
        await eventually(lambda: heard == [b"a", b"b"])
        send(b"end")
        with pytest.raises(RegistryError, match="the stream ended"):
            await link.ended()


async def test_a_server_of_another_protocol_is_none_of_grpc() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        link = GrpcLink("127.0.0.1", server.sockets[0].getsockname()[1], None)
        await link.connect()
        with pytest.raises(RegistryError, match=r"does not speak HTTP/2|hung up|reset"):
            await link.call("/t/T", b"", 5.0)
        await link.disconnect()


@pytest.mark.parametrize("protocols", [["h2"], []])
async def test_a_server_over_tls_has_to_choose_http2(protocols: list[str], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    context.set_alpn_protocols(protocols)
    server = Server(echo)
    await server.start(server.port, context)
    link = GrpcLink("127.0.0.1", server.port, RegistryTls(ca=str(authority.ca)))
    try:
        if protocols:
            await link.connect()
            assert await link.call("/t/T", b"x", 5.0) == b"x"
        else:
            with pytest.raises(RegistryError, match="no HTTP/2 by ALPN"):
                await link.connect()
    finally:
        await link.disconnect()
        await server.kill()
