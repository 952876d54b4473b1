"""gRPC in Python: grpcio as a server, grpcio and grpclib as clients.

    python -m tests.e2e.grpc_peer server PORT
    python -m tests.e2e.grpc_peer grpcio|grpclib HOST:PORT SERVICE [CA]

Messages are bytes. The twins of this are `go/grpc/main.go` and `node/grpc_peer.mjs`.

| method of `t.T` | answer |
|---|---|
| `Unary` | the message; fields `x-ask` as `x-seen`, trailer `x-last-bin` |
| `ServerStream` | as many messages as it says, numbered |
| `ClientStream` | the sum of the lengths |
| `Bidi` | each message as it comes |
| `Fail` | NOT_FOUND, by trailers alone |
| `Left` | ms until the deadline |
| `Slow` | none, until the call is cancelled |
| `Cancelled` | how many of the latter there were |

A client prints the name of each thing that was as it should be.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

REASON = "no 100 % ünique thing"
LARGE = bytes(number * 7 & 0xFF for number in range(256)) * (3 << 12)
PIECE = bytes(1000)
NAME = "www.example.com"


def said(name: str, right: bool, *seen: object) -> None:
    if not right:
        raise AssertionError((name, *seen))
    sys.stdout.write(name + "\n")


# -- grpcio


class Methods:
    """Owns the count of calls that were cancelled."""

    def __init__(self) -> None:
        self._cancelled = 0

    def service(self, details: Any) -> Any:
        """The handler of a method."""
        import grpc

        name = details.method.removeprefix("/t.T/")
        kinds = {
            "ServerStream": grpc.unary_stream_rpc_method_handler,
            "ClientStream": grpc.stream_unary_rpc_method_handler,
            "Bidi": grpc.stream_stream_rpc_method_handler,
        }
        return kinds.get(name, grpc.unary_unary_rpc_method_handler)(getattr(self, name))

    def Unary(self, message: bytes, call: Any) -> bytes:
        asked = [value for name, value in call.invocation_metadata() if name == "x-ask"]
        call.send_initial_metadata([("x-seen", ",".join(asked))])
        call.set_trailing_metadata([("x-last-bin", b"\0\xff")])
        return message

    def ServerStream(self, message: bytes, call: Any) -> Iterator[bytes]:
        for number in range(int(message)):
            yield b"%d" % number

    def ClientStream(self, messages: Iterator[bytes], call: Any) -> bytes:
        return b"%d" % sum(map(len, messages))

    def Bidi(self, messages: Iterator[bytes], call: Any) -> Iterator[bytes]:
        yield from messages

    def Fail(self, message: bytes, call: Any) -> bytes:
        import grpc

        call.abort(grpc.StatusCode.NOT_FOUND, REASON)
        raise AssertionError

    def Left(self, message: bytes, call: Any) -> bytes:
        return b"%d" % (call.time_remaining() * 1000)

    def Slow(self, message: bytes, call: Any) -> bytes:
        over = threading.Event()
        call.add_callback(over.set)
        over.wait(20)
        self._cancelled += 1
        return b""

    def Cancelled(self, message: bytes, call: Any) -> bytes:
        return b"%d" % self._cancelled


def server(port: str) -> None:
    import grpc

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
        methods = Methods()

        def service(self, details: Any) -> Any:
            return self.methods.service(details)

    serving = grpc.server(ThreadPoolExecutor(8))
    serving.add_generic_rpc_handlers((Handler(),))
    serving.add_insecure_port(f"127.0.0.1:{port}")
    serving.start()
    serving.wait_for_termination()


def grpcio(address: str, service: str, ca: str | None) -> None:
    import grpc

    if ca is None:
        channel = grpc.insecure_channel(address)
    else:
        with open(ca, "rb") as file:
            trusted = grpc.ssl_channel_credentials(file.read())
        options = [("grpc.ssl_target_name_override", NAME)]
        channel = grpc.secure_channel(address, trusted, options)
    metadata = [("x-service", service)]

    def unary(method: str, message: bytes = b"", **more: Any) -> Any:
        return channel.unary_unary(f"/t.T/{method}")(message, metadata=metadata, **more)

    def cancelled() -> int:
        return int(unary("Cancelled"))

    asking = [*metadata, ("x-ask", "a"), ("x-ask", "b")]
    answer, call = channel.unary_unary("/t.T/Unary").with_call(b"hello", metadata=asking)
    head, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    right = head["x-seen"].replace(" ", "") == "a,b" and last["x-last-bin"] == b"\0\xff"
    said("unary", answer == b"hello" and right, answer, head, last)
    said("large", unary("Unary", LARGE) == LARGE)
    answers = channel.unary_stream("/t.T/ServerStream")(b"100", metadata=metadata)
    said("server stream", [*answers] == [b"%d" % number for number in range(100)])
    total = channel.stream_unary("/t.T/ClientStream")(iter([PIECE] * 100), metadata=metadata)
    said("client stream", total == b"100000", total)
    turn = threading.Semaphore(1)

    def asked() -> Iterator[bytes]:
        for number in range(20):
            turn.acquire()
            yield b"%d" % number

    echoes = []
    for answer in channel.stream_stream("/t.T/Bidi")(asked(), metadata=metadata):
        echoes.append(answer)
        turn.release()
    said("bidi", echoes == [b"%d" % number for number in range(20)], echoes)

    def failure(method: str, **more: Any) -> Any:
        try:
            unary(method, **more)
        except grpc.RpcError as error:
            return error
        raise AssertionError(method)

    failed = failure("Fail")
    right = failed.code() is grpc.StatusCode.NOT_FOUND and failed.details() == REASON
    said("fail", right, failed)
    left = int(unary("Left", timeout=20))
    said("left", 0 < left <= 21000, left)
    before = cancelled()
    late = failure("Slow", timeout=0.3)
    said("deadline", late.code() is grpc.StatusCode.DEADLINE_EXCEEDED, late)
    leaving = None
    while leaving is None or cancelled() < before + 2:  # One may be gone before it is there.
        leaving = channel.unary_unary("/t.T/Slow").future(b"", metadata=metadata)
        time.sleep(0.1)
        leaving.cancel()
    said("cancel", leaving.cancelled())
    channel.close()


# -- grpclib


async def grpclib(address: str, service: str, ca: str | None) -> None:
    from grpclib.client import (
        Channel,
        StreamStreamMethod,
        StreamUnaryMethod,
        UnaryStreamMethod,
        UnaryUnaryMethod,
    )
    from grpclib.config import Configuration
    from grpclib.const import Status
    from grpclib.encoding.base import CodecBase
    from grpclib.exceptions import GRPCError

    class Raw(CodecBase):
        __content_subtype__ = "proto"

        def encode(self, message: Any, message_type: Any) -> bytes:
            return bytes(message)

        def decode(self, data: bytes, message_type: Any) -> bytes:
            return data

    host, _, port = address.rpartition(":")
    secure = None
    if ca is not None:
        secure = ssl.create_default_context(cafile=ca)
        secure.set_alpn_protocols(["h2"])
    config = Configuration(ssl_target_name_override=NAME if secure else None)
    channel = Channel(host, int(port), codec=Raw(), ssl=secure, config=config)
    metadata = [("x-service", service)]

    async def unary(method: str, message: bytes = b"", **more: Any) -> Any:
        called: Any = UnaryUnaryMethod(channel, f"/t.T/{method}", bytes, bytes)
        return await called(message, metadata=metadata, **more)

    async def failure(method: str, **more: Any) -> Any:
        try:
            await unary(method, **more)
        except (GRPCError, TimeoutError) as error:
            return error
        raise AssertionError(method)

    called: Any = UnaryUnaryMethod(channel, "/t.T/Unary", bytes, bytes)
    asking = [*metadata, ("x-ask", "a"), ("x-ask", "b")]
    async with called.open(metadata=asking) as stream:
        await stream.send_message(b"hello", end=True)
        answer = await stream.recv_message()
        await stream.recv_trailing_metadata()
        head, last = stream.initial_metadata, stream.trailing_metadata
    right = head["x-seen"].replace(" ", "") == "a,b" and last["x-last-bin"] == b"\0\xff"
    said("unary", answer == b"hello" and right, answer, head, last)
    said("large", await unary("Unary", LARGE) == LARGE)
    called = UnaryStreamMethod(channel, "/t.T/ServerStream", bytes, bytes)
    answers = await called(b"100", metadata=metadata)
    said("server stream", answers == [b"%d" % number for number in range(100)], answers)
    called = StreamUnaryMethod(channel, "/t.T/ClientStream", bytes, bytes)
    total = await called([PIECE] * 100, metadata=metadata)
    said("client stream", total == b"100000", total)
    called = StreamStreamMethod(channel, "/t.T/Bidi", bytes, bytes)
    async with called.open(metadata=metadata) as stream:
        echoes = []
        for number in range(20):
            await stream.send_message(b"%d" % number)
            echoes.append(await stream.recv_message())
        await stream.end()
        echoes.append(await stream.recv_message())
    said("bidi", echoes == [*(b"%d" % number for number in range(20)), None], echoes)
    failed = await failure("Fail")
    said("fail", failed.status is Status.NOT_FOUND and failed.message == REASON, failed)
    left = int(await unary("Left", timeout=20))
    said("left", 0 < left <= 21000, left)
    before = int(await unary("Cancelled"))
    late = await failure("Slow", timeout=0.3)
    status = getattr(late, "status", None)
    said("deadline", isinstance(late, TimeoutError) or status is Status.DEADLINE_EXCEEDED, late)
    leaving = None
    while leaving is None or int(await unary("Cancelled")) < before + 2:
        leaving = asyncio.create_task(unary("Slow"))
        await asyncio.sleep(0.1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    said("cancel", leaving.cancelled())
    channel.close()


if __name__ == "__main__":
    kind, place, *rest = sys.argv[1:]
    if kind == "server":
        server(place)
    elif kind == "grpcio":
        grpcio(place, rest[0], rest[1] if rest[1:] else None)
    else:
        asyncio.run(grpclib(place, rest[0], rest[1] if rest[1:] else None))
