"""A file system whose server does not answer, as one over a network whose other end is gone.

Root only, and only where the kernel has FUSE. Everything that is asked of it hangs until `close`;
a signal that ends the process ends the waiting, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_LOOKUP, _GETATTR, _INIT, _OPENDIR, _INTERRUPT = 1, 3, 26, 27, 36  # From linux/fuse.h.
_ROOT = struct.pack("<QII 6Q10I", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 512, 0)
_MNT_DETACH = 2


def can_mount() -> bool:
    return os.geteuid() == 0 and Path("/dev/fuse").exists()


class MuteFiles:
    """Owns the file system over a directory, and the thread that speaks with the kernel.

    `tells_names`: it answers what there is (nothing), and only the opening of a new file hangs.
    `refuses`: it answers, but that nobody may ask.
    """

    def __init__(
        self, directory: Path, *, tells_names: bool = False, refuses: bool = False
    ) -> None:
        self.asked = threading.Event()
        """Somebody waits."""
        self._directory = os.fsencode(directory)
        self._tells_names = tells_names
        self._refuses = refuses
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._stop, self._stopped = os.pipe()
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % self._fd
        if self._libc.mount(b"mute", self._directory, b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "cannot mount")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self._stop not in select.select([self._fd, self._stop], [], [])[0]:
            request = os.read(self._fd, 1 << 17)
            _, opcode, unique = struct.unpack_from("<IIQ", request)
            if opcode == _INIT:
                self._answer(unique, 0, struct.pack("<IIIIHHII", 7, 23, 0, 0, 0, 0, 4096, 1))
            elif self._tells_names and opcode == _LOOKUP:
                self._answer(unique, -2)
            elif self._tells_names and opcode == _GETATTR:
                self._answer(unique, 0, _ROOT)
            elif self._tells_names and opcode == _OPENDIR:
                self._answer(unique, 0, bytes(16))
            elif opcode == _INTERRUPT:
                (interrupted,) = struct.unpack_from("<Q", request, 40)
                self._answer(interrupted, -4)
            elif self._refuses:
                self._answer(unique, -errno.EACCES)
            else:
                self.asked.set()

    def _answer(self, unique: int, error: int, content: bytes = b"") -> None:
        try:
            os.write(self._fd, struct.pack("<IiQ", 16 + len(content), error, unique) + content)
        except FileNotFoundError:
            pass  # Who asked is gone.

    def close(self) -> None:
        """Whoever waits gets an error, and what was there before is there again."""
        os.close(self._stopped)
        self._thread.join()
        self._libc.umount2(self._directory, _MNT_DETACH)
        os.close(self._fd)
        os.close(self._stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()
