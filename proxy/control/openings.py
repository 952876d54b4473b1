"""The sockets that a start needs: made, or taken over from whoever listened before."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

import structlog

from proxy.control.parent_link import ParentLink
from proxy.control.sockets import (
    BindError,
    Held,
    Listening,
    adopt,
    find_held,
    listen,
)
from proxy.control.successors import Unusable, bind_admin
from proxy.settings.file import Settings

log = structlog.get_logger()


class StartError(Exception):
    """The proxy cannot start. The text is one line for the operator."""


def open_listeners(settings: Settings, held: list[Held], opened: ExitStack) -> list[Listening]:
    """`held`: what listens already; what is of use is taken out."""
    result = []
    for listener in settings.listeners:
        try:
            found = find_held(held, "listener", listener.name, listener.bind)
            if found is not None:
                one = adopt(found, listener.name, settings.workers)
            else:
                one = listen(
                    listener.name, listener.bind, settings.workers, listener.mode, listener.owner
                )
        except BindError as error:
            raise StartError(f"listener {listener.name}: cannot listen on {error}") from error
        except OSError as error:
            raise StartError(f"listener {listener.name}: {error.strerror}") from error
        # The file of a unix socket is the predecessor's until it has given up its place.
        opened.callback(one.close)
        log.info("listening", listener=one.name, address=one.address)
        result.append(one)
    return result


def hold(
    parent: ParentLink,
    settings: Settings,
    listening: Sequence[Listening],
    admin: socket.socket,
) -> None:
    """Let the parent hold what we listen on, and let go of what we do not."""
    for settings_, one in zip(settings.listeners, listening, strict=True):
        parent.hold("listener", one.name, settings_.bind, one.sockets)
    parent.hold("admin", "admin", settings.admin.bind, [admin])
    for left in parent.held:
        if left.kind == "passed":
            log.warning("socket_not_used", name=left.name, reason="no listener is called so")
        for sock in left.sockets:
            sock.close()
    parent.held.clear()


def open_admin(settings: Settings, held: list[Held], opened: ExitStack) -> socket.socket:
    """The admin server's socket. `held`: as for `open_listeners`."""
    found = find_held(held, "admin", "admin", settings.admin.bind)
    try:
        sock = bind_admin(settings.admin.bind) if found is None else found.sockets[0]
    except Unusable as error:
        raise StartError(str(error)) from error
    opened.callback(sock.close)
    return sock
