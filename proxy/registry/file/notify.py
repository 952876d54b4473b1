"""Linux's inotify, which Python does not offer: who waits for a change need not look for it."""

from __future__ import annotations

import asyncio
import ctypes
import os
from typing import Final

_CHANGES: Final = 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
"""IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE. Not IN_MODIFY: a log
in the same directory is written to all the time."""
_EVENTS: Final = 64 * 1024
"""Bytes that are read at a time; what they say does not matter."""


class Notify:
    """Owns a descriptor of inotify, and the event that is set when it has something to say. Made in
    an event loop. OSError where there is none to be had."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._read)

    def watch(self, directory: str) -> None:
        """Hear of changes in a directory, also if it is another one by that name now. May block,
        and be called in a thread. Where it cannot be watched nothing is heard."""
        self._library.inotify_add_watch(self._descriptor, os.fsencode(directory), _CHANGES)

    def close(self) -> None:
        """Hear nothing more. Safe to call more than once."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        os.read(self._descriptor, _EVENTS)
        self.changed.set()
