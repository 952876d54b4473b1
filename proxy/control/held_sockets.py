"""Sockets that listen already when a control process starts: a predecessor's, or the service
manager's."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from proxy.control.sockets import Address, Listening, inode_of, parse_bind, resolve, shown_address
from proxy.settings.listener import ListenerSettings

_DETACH_FILTER = 27
"""SO_DETACH_FILTER, which the module `socket` does not name."""


@dataclass(slots=True)
class Held:
    """Sockets under one name."""

    kind: str
    """`listener`, `admin`, or `passed` by the service manager."""
    name: str
    bind: str
    """Address of the listener, as in the configuration that the sockets were made for."""
    sockets: list[socket.socket] = field(default_factory=list)


def find_held(held: list[Held], kind: str, name: str, bind: str) -> Held | None:
    """Take out of `held` what listens on that address: what a predecessor made for it, under
    whatever name; else what was passed under the name; else what was passed for the address."""
    address = parse_bind(bind)
    ours = [one for one in held if one.kind == kind and one.bind == bind and one.sockets]
    passed = [one for one in held if one.kind == "passed" and one.sockets]
    found = [
        *(one for one in ours if one.name == name),
        *ours,
        *(one for one in passed if one.name == name),
        *(one for one in passed if _is_at(one.sockets[0], address)),
    ]
    if not found:
        return None
    held.remove(found[0])
    return found[0]


def _is_at(sock: socket.socket, address: Address) -> bool:
    if address.path is not None or sock.family == socket.AF_UNIX:
        return bool(sock.getsockname() == address.path)
    try:
        return bool(sock.getsockname()[:2] == resolve(address)[1][:2])
    except OSError:
        return False


def adopt(held: Held, listener: ListenerSettings) -> Listening:
    """The listener of what listens already."""
    for sock in held.sockets:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            _let_in(sock)
    first = held.sockets[0]
    passed = held.kind == "passed"
    made = Listening(
        listener.name,
        listener.bind,
        shown_address(first),
        tuple(held.sockets),
        mode=listener.mode,
        owner=listener.owner,
        passed=passed,
    )
    if first.family == socket.AF_UNIX and not passed:
        # The file of the service manager's socket is its own to remove.
        made.path = str(parse_bind(listener.bind).path)
        made.inode = inode_of(made.path)
    return made


def _let_in(sock: socket.socket) -> None:
    """Take away what keeps connections out, which is there if a predecessor has stopped."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
    except OSError:
        pass  # There is nothing.
