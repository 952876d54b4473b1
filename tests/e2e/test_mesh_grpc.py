"""Calls of gRPC, of every kind, through two side-cars."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.beside import Beside
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdServer
from tests.support.processes import free_port

client = pytest.importorskip("grpclib.client")
from grpclib.const import Cardinality, Handler, Status  # noqa: E402
from grpclib.encoding.base import CodecBase  # noqa: E402
from grpclib.exceptions import GRPCError  # noqa: E402
from grpclib.server import Server  # noqa: E402


class Raw(CodecBase):  # type: ignore[misc]
    __content_subtype__ = "raw"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        return data


class Greeter:
    """A service that gives back what it hears."""

    async def echo(self, stream: Any) -> None:
        await stream.send_message(await stream.recv_message())

    async def each(self, stream: Any) -> None:
        async for message in stream:
            await stream.send_message(message.upper())

    async def fail(self, stream: Any) -> None:
        await stream.recv_message()
        raise GRPCError(Status.NOT_FOUND, "nobody")

    def __mapping__(self) -> dict[str, Handler]:
        one, many = Cardinality.UNARY_UNARY, Cardinality.STREAM_STREAM
        kinds = {"Echo": (self.echo, one), "Each": (self.each, many), "Fail": (self.fail, one)}
        return {
            f"/t.T/{name}": Handler(method, kind, bytes, bytes)
            for name, (method, kind) in kinds.items()
        }


@pytest.fixture
async def greeter() -> AsyncIterator[int]:
    """The port of the program."""
    server, port = Server([Greeter()], codec=Raw()), free_port()
    await server.start("127.0.0.1", port)
    yield port
    server.close()
    await server.wait_closed()


async def test_calls_of_every_kind_go_through_both(greeter: int, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "mesh")
    async with EtcdServer() as etcd:
        program = Beside(
            *("greeter", greeter, tmp_path, authority, etcd.url),
            *("--protocol", "grpc", "--callers", "web"),
        )
        sides = [
            Beside(name, greeter, tmp_path, authority, etcd.url, "--check", "exec:true")
            for name in ("web", "other")
        ]
        async with program, sides[0] as web, sides[1] as other:
            for side in sides:
                await side.knows("greeter")
            async with client.Channel("127.0.0.1", web.outbound, codec=Raw()) as channel:
                channel._authority = "greeter"

                def method(kind: Any, name: str) -> Any:
                    return kind(channel, f"/t.T/{name}", bytes, bytes)

                large = b"x" * 1_000_000
                assert await method(client.UnaryUnaryMethod, "Echo")(large) == large
                async with method(client.StreamStreamMethod, "Each").open() as stream:
                    for word in (b"one", b"two"):
                        await stream.send_message(word)
                        assert await stream.recv_message() == word.upper()
                    await stream.end()
                    assert await stream.recv_message() is None
                with pytest.raises(GRPCError) as failed:
                    await method(client.UnaryUnaryMethod, "Fail")(b"")
                assert (failed.value.status, failed.value.message) == (Status.NOT_FOUND, "nobody")
            async with client.Channel("127.0.0.1", other.outbound, codec=Raw()) as channel:
                channel._authority = "greeter"
                with pytest.raises(GRPCError) as failed:
                    await client.UnaryUnaryMethod(channel, "/t.T/Echo", bytes, bytes)(b"")
                assert failed.value.status is Status.PERMISSION_DENIED
                assert "other is not among them" in (failed.value.message or "")
