"""Giving up root, once the sockets that need it are bound: `user`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import structlog

from proxy.control.openings import StartError
from proxy.control.sockets import parse_bind
from proxy.privileges import become
from proxy.settings.file import Settings
from proxy.settings.user import run_as

log = structlog.get_logger()

Ids = tuple[int, int, tuple[int, ...]]
"""User, group and further groups."""


def give_up_root(settings: Settings) -> Ids | None:
    """Be the user of the settings from here on; the ids, for the parent, which is to be the same
    one. None: there is none, or this process is not root. StartError."""
    name = settings.user
    if not name or os.geteuid() != 0:
        return None
    try:
        whom = run_as(name)
        become(whom.user, whom.group, whom.groups)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StartError(f"user: cannot run as {name}: {reason}") from None
    if not os.access(sys.executable, os.X_OK):
        raise StartError(f"user: {name} may not run {sys.executable}, which workers are")
    log.info("root_given_up", user=name, uid=whom.user, gid=whom.group)
    for key, path in _written(settings):
        if not os.access(path, os.W_OK | os.X_OK):
            log.warning("not_writable", key=key, path=str(path), user=name)
    return whom.user, whom.group, whom.groups


def _written(settings: Settings) -> Iterator[tuple[str, Path]]:
    """Directories in which files are made or removed while the proxy runs, by the key that names
    them. That of the access log, which is opened next, is not among them."""
    if settings.registry.snapshot is not None:
        yield "registry.snapshot", Path(settings.registry.snapshot).parent
    if settings.acme is not None:
        storage = Path(settings.acme.storage.path)
        yield "acme.storage.path", storage if storage.exists() else storage.parent
    for listener in settings.listeners:
        if (path := parse_bind(listener.bind).path) is not None:
            yield f"listeners.{listener.name}.bind", Path(path).parent
