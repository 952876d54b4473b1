"""The channel between the control process and a worker: framed messages over a socket pair.

A frame is a 4-byte big-endian length and that many bytes of msgpack, one of the tagged unions
`ToWorker` and `FromWorker` of `messages.py`. Both sides use the same class; only the union they
read differs. It lives above `control/` and `engine/` so that neither imports the other.

The channel is also the life line: when either process dies, however it dies, the kernel
closes its end, and the other side learns it through `on_closed`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Generic, TypeVar, cast

import msgspec

MAX_FRAME = 64 * 1024 * 1024
"""Bytes. A pool node takes about 100, so this is more than half a million instances in one
message. Its purpose is that a corrupt length is an error and not an allocation of 4 GiB."""

MAX_UNSENT = MAX_FRAME + 1024 * 1024
"""Bytes that may wait for a peer that does not read: the largest frame must always fit, and a
few small ones behind it. More than that means that the peer hangs."""

AT_ONCE = 64
"""Messages handed over in one turn of the loop. They are small, but a read may hold thousands, and
a worker has clients to serve in between."""

_LENGTH = 4

Received = TypeVar("Received")


_NUMBER = struct.Struct(">I")

AT_A_TIME = 250
"""Descriptors in one datagram; the kernel takes 253."""


def send_sockets(to: socket.socket, sockets: Mapping[int, socket.socket]) -> None:
    """Give sockets with their numbers away, over one end of a pair of datagram sockets beside the
    channel. The message that names them comes after them, so that reading them never waits.
    OSError when the other end does not read."""
    items = list(sockets.items())
    for start in range(0, len(items), AT_A_TIME):  # ≤ 256
        part = items[start : start + AT_A_TIME]
        numbers = b"".join(_NUMBER.pack(number) for number, _ in part)
        socket.send_fds(to, [numbers], [sock.fileno() for _, sock in part])


def receive_sockets(sent: socket.socket) -> dict[int, socket.socket]:
    """Sockets of one datagram, by their numbers. OSError when there is none, or no descriptor for
    one of them."""
    numbers, descriptors, _, _ = socket.recv_fds(sent, AT_A_TIME * _NUMBER.size, AT_A_TIME)
    found = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in found:  # ≤ AT_A_TIME
        sock.set_inheritable(False)
    if len(found) * _NUMBER.size != len(numbers):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return dict(zip((number for (number,) in _NUMBER.iter_unpack(numbers)), found, strict=True))


class ChannelError(Exception):
    """The peer broke the framing, sent what is no message, or does not read."""


class Framing:
    """Cuts a byte stream into frames. No I/O.

    Owns the bytes of the frame that has not ended yet.
    """

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()  # ≤ MAX_FRAME + 256 KiB

    def feed(self, chunk: bytes | bytearray | memoryview, most: int | None = None) -> list[bytes]:
        """The payloads that `chunk` completes, in order, or the first `most`; the others with the
        next call. ChannelError when a length is over the limit; nothing may be fed after that."""
        buffer = self._buffer
        buffer += chunk
        frames: list[bytes] = []
        start = 0
        while len(buffer) - start >= _LENGTH and len(frames) != most:  # ≤ AT_ONCE + 1
            length = int.from_bytes(buffer[start : start + _LENGTH], "big")
            if length > self._max_frame:
                raise ChannelError(f"frame of {length} bytes, at most {self._max_frame} allowed")
            end = start + _LENGTH + length
            if len(buffer) < end:
                break
            frames.append(bytes(buffer[start + _LENGTH : end]))
            start = end
        if start:
            # Once per chunk and not per frame, so that a chunk of many frames costs one move.
            del buffer[:start]
        return frames

    @property
    def pending(self) -> int:
        """Bytes held of a frame that has not ended; not 0 at the end of the stream means that
        the stream was cut inside a frame."""
        return len(self._buffer)


def frame(payload: bytes, max_frame: int = MAX_FRAME) -> bytes:
    """`payload` with its length in front. ChannelError when it is over the limit."""
    if len(payload) > max_frame:
        raise ChannelError(f"message of {len(payload)} bytes, at most {max_frame} allowed")
    return len(payload).to_bytes(_LENGTH, "big") + payload


class Channel(asyncio.Protocol, Generic[Received]):
    """One end of the channel.

    Owns its transport. `on_message` is called for each message in order; `on_closed` exactly
    once, with the reason, or None when either side closed it between two frames. No message
    is delivered after `on_closed`.
    """

    def __init__(
        self,
        receives: Any,
        on_message: Callable[[Received], None],
        on_closed: Callable[[Exception | None], None],
        *,
        max_frame: int = MAX_FRAME,
        max_unsent: int = MAX_UNSENT,
    ) -> None:
        """`receives`: the union this side reads, `messages.ToWorker` or `messages.FromWorker`."""
        self._decoder: msgspec.msgpack.Decoder[Received] = msgspec.msgpack.Decoder(receives)
        self._encoder = msgspec.msgpack.Encoder()
        self._framing = Framing(max_frame)
        self._max_frame = max_frame
        self._max_unsent = max_unsent
        self._on_message = on_message
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._failure: Exception | None = None
        self._closing = False
        self.began = 0.0
        """When the message that is being handed over began to be decoded (`perf_counter`)."""

    async def open(self, sock: socket.socket) -> None:
        """Take over one end of a socket pair and start reading."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=sock)

    @property
    def closed(self) -> bool:
        return self._closing or self._transport is None

    def send(self, message: msgspec.Struct) -> None:
        """Queue one message. On a closed channel it is dropped, because `on_closed` tells the
        owner already. A peer that does not read is given up: `on_closed` says so."""
        if self._closing or self._transport is None:
            return
        self._transport.write(frame(self._encoder.encode(message), self._max_frame))
        unsent = self._transport.get_write_buffer_size()
        if unsent > self._max_unsent:
            self._fail(ChannelError(f"the peer does not read: {unsent} bytes wait"))

    def close(self) -> None:
        """Close after what was sent is out."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._closing = True
        if self._transport is not None:
            # Not close(): that would wait for a peer that may never read again.
            self._transport.abort()

    # ------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not registered as such

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._framing.feed(data, AT_ONCE)
        except ChannelError as error:
            self._fail(error)
            return
        for payload in frames:  # ≤ AT_ONCE
            if self._closing:
                return
            self.began = perf_counter()
            try:
                message = self._decoder.decode(payload)
            except msgspec.MsgspecError as error:
                self._fail(ChannelError(f"not a message: {error}"))
                return
            self._on_message(message)
        if len(frames) == AT_ONCE and not self._closing and self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None and not self._closing:
            self._transport.resume_reading()  # It is paused again if there are yet more.
            self.data_received(b"")

    def eof_received(self) -> None:
        """The peer is gone; returning None closes this end too."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        failure = self._failure or exc
        if failure is None and self._framing.pending:
            failure = ChannelError("the stream ended inside a frame")
        self._on_closed(failure)
