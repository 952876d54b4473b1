"""The sockets that a start needs: made, or taken over from whoever listened before."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace

from proxy.control.held_sockets import Held, adopt, find_held
from proxy.control.listeners import Listeners
from proxy.control.sockets import BindError
from proxy.control.successors import Unusable, bind_admin
from proxy.settings.file import Settings


class StartError(Exception):
    """The proxy cannot start. The text is one line for the operator."""


def open_listeners(settings: Settings, held: list[Held], opened: ExitStack) -> Listeners:
    """The listening sockets. `held`: what listens already; what is of use is taken out."""
    listeners = Listeners()
    opened.callback(listeners.close)
    try:
        adopted = [
            adopt(found, one)
            for one in settings.listeners
            if (found := find_held(held, "listener", one.name, one.bind)) is not None
        ]
        listeners.current = adopted
        listeners.current = listeners.prepare(settings.listeners, settings.workers)
        listeners.begin(())
        for one in adopted:
            one.permit(replace(one, mode=None, owner=None))
    except BindError as error:
        raise StartError(str(error)) from error
    return listeners


def open_admin(settings: Settings, held: list[Held], opened: ExitStack) -> socket.socket:
    """The admin server's socket. `held`: as for `open_listeners`."""
    found = find_held(held, "admin", "admin", settings.admin.bind)
    try:
        sock = bind_admin(settings.admin.bind) if found is None else found.sockets[0]
    except Unusable as error:
        raise StartError(str(error)) from error
    opened.callback(sock.close)
    return sock
