"""Messages with descriptors between the parent process and a control process: JSON objects over a
`SOCK_SEQPACKET` socket pair, which keeps their borders. Both ends of it are processes of this
program, but maybe of two versions of it: what one does not know, it does not look at.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
from array import array
from collections.abc import Sequence
from typing import Any

LARGEST = 64 * 1024
"""Bytes of a message."""

DESCRIPTORS = 128
"""Descriptors in a message at most; Linux allows 253 (SCM_MAX_FD)."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends, non-blocking."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def send(
    end: socket.socket,
    message: dict[str, Any],
    descriptors: Sequence[int] = (),
    limit: float = 0.0,
) -> None:
    """Send a message whole. OSError when the peer is gone, or does not read for `limit` seconds:
    the system holds some hundreds of messages for it."""
    content = json.dumps(message).encode()
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))]
    what = [content], ancillary if descriptors else [], socket.MSG_NOSIGNAL
    try:
        end.sendmsg(*what)
    except BlockingIOError:
        if not limit:
            raise
        waiting = select.poll()
        waiting.register(end, select.POLLOUT)
        waiting.poll(limit * 1000)
        end.sendmsg(*what)


def receive(end: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and the descriptors that came with it, not inherited by children; None at
    the end. BlockingIOError when there is none yet; other OSErrors are the end, too."""
    room = socket.CMSG_SPACE(DESCRIPTORS * array("i").itemsize)
    content, ancillary, _, _ = end.recvmsg(LARGEST, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array("i")
    for level, kind, some in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(some[: len(some) - len(some) % descriptors.itemsize])
    if not content:
        close(descriptors)
        return None
    try:
        message = json.loads(content)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        close(descriptors)
        return {}, []
    return message, list(descriptors)


def readable(ends: Sequence[socket.socket], limit: float | None) -> list[socket.socket]:
    """Ends from which can be read, or that have ended, once there are some; none after `limit`
    seconds."""
    # Not `select`, which takes no numbers from 1,024 on.
    by_number = {end.fileno(): end for end in ends}
    waiting = select.poll()
    for number in by_number:
        waiting.register(number, select.POLLIN)
    found = waiting.poll(None if limit is None else math.ceil(limit * 1000))
    return [by_number[number] for number, _ in found]


def close(descriptors: Sequence[int]) -> None:
    """Close what nobody has use for."""
    for descriptor in descriptors:
        os.close(descriptor)
