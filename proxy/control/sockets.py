"""Listening sockets: made by the control process, used by the workers.

One socket per worker and TCP listener, all bound to the same address with SO_REUSEPORT, so
that the kernel spreads connections and workers never contend for one accept queue. The
control process keeps every socket open: when a worker dies, the connections in its queue wait
for its replacement instead of being reset. A unix listener has one socket that all workers
share, because a path can be bound only once. So do they share the sockets of workers that a
reload has taken away: one that were closed would reset who waits in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from proxy.messages import BACKLOG

LOCK_LIMIT = 1.0
"""Seconds for another proxy that is about to listen in the same directory, which takes it some
microseconds. Beyond it somebody else holds the lock, which must keep nobody from starting."""


class BindError(Exception):
    """An address cannot be listened on. The text is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a path, or a host and a port."""

    text: str
    """As in the configuration."""
    host: str = ""
    port: int = 0
    path: str | None = None


def parse_bind(text: str) -> Address:
    """`host:port`, `[v6]:port` or `unix:/path`. BindError on anything else."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise BindError(f"{text}: a path must follow unix:")
        return Address(text, path=path)
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BindError(f"{text}: not host:port, [v6]:port or unix:/path")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BindError(f"{text}: a v6 address stands in brackets, as [::1]:8080")
    return Address(text, host=host, port=int(port))


@dataclass(slots=True)
class Listening:
    """The sockets of one listener. `sockets[i]` belongs to worker i; a unix listener, and one that
    the service manager listens for, has one."""

    name: str
    bind: str
    """As in the configuration."""
    address: str
    """Address that clients connect to, with the real port where 0 was asked for."""
    sockets: tuple[socket.socket, ...]
    path: str | None = None
    inode: tuple[int, int] = field(default=(0, 0))
    """Device and inode of the socket file that this process made."""
    mode: int | None = None
    owner: tuple[int, int] | None = None
    passed: bool = False
    """The socket is the service manager's."""

    @property
    def single(self) -> bool:
        """All workers accept from one socket."""
        return self.path is not None or self.passed

    def of(self, index: int, workers: int) -> list[socket.socket]:
        """Sockets that a worker accepts from: its own, and those that all share."""
        if self.single:
            return list(self.sockets)
        return [sock for n, sock in enumerate(self.sockets) if n == index or n >= workers]

    def begin(self) -> None:
        """Let connections come. BindError when they cannot."""
        try:
            for sock in self.sockets:
                sock.listen(BACKLOG)
        except OSError as error:
            raise BindError(f"{self.bind}: {error.strerror or error}") from error

    def widened(self, count: int) -> Listening:
        """With `count` sockets at least; those that are new are not listened on. BindError."""
        sockets = list(self.sockets)
        try:
            while not self.single and len(sockets) < count:
                sock = _tcp_socket(sockets[0].family)
                sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind(sockets[0].getsockname())
        except OSError as error:
            for sock in sockets[len(self.sockets) :]:
                sock.close()
            raise BindError(f"{self.bind}: {_reason(error, parse_bind(self.bind))}") from error
        return replace(self, sockets=tuple(sockets))

    def permit(self, before: Listening) -> None:
        """Give the socket file its mode and owner, where those `before` were others. BindError."""
        if self.path is None or inode_of(self.path) != self.inode:
            return
        try:
            if self.owner != before.owner:
                _give(self.path, self.owner or (os.geteuid(), os.getegid()))
            if self.mode != before.mode:
                os.chmod(self.path, _usual_mode() if self.mode is None else self.mode)
        except OSError as error:
            raise BindError(f"{self.bind}: {error.strerror or error}") from error

    def leave(self) -> None:
        """Close our sockets, where another process goes on listening."""
        self.path = None
        self.close()

    def close(self) -> None:
        """Close the sockets, and remove the socket file if it is still ours."""
        for sock in self.sockets:
            sock.close()
        if self.path is not None:
            remove(self.path, self.inode)


def reserve(
    name: str,
    bind: str,
    count: int,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
    *,
    alone: bool = True,
) -> Listening:
    """Sockets of one listener for `count` workers, to `begin` with, non-blocking, not inherited by
    children unless passed on. `mode` and `owner` (user and group id, -1 = ours) are for a unix
    socket's file. `alone`: nobody may listen on the address already, this process included.
    BindError when the address cannot be had."""
    address = parse_bind(bind)
    try:
        if address.path is not None:
            return _listen_unix(name, address, mode, owner)
        return _bind_tcp(name, address, count, alone)
    except OSError as error:
        raise BindError(f"{bind}: {_reason(error, address)}") from error


def listen(
    name: str,
    bind: str,
    count: int,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
) -> Listening:
    """Sockets as of `reserve`, listening already."""
    listening = reserve(name, bind, count, mode, owner)
    listening.begin()
    return listening


def listen_alone(bind: str, beside: socket.socket | None = None) -> socket.socket:
    """Listen on a TCP socket that shares its address with nobody (the admin server's).
    `beside`: the one in use, which is the answer if the address is its own, and does not take the
    port of others."""
    address = parse_bind(bind)
    if address.path is not None:
        raise BindError(f"{bind}: a host and a port are needed here")
    try:
        family, where = resolve(address)
        if beside is not None and beside.getsockname()[:2] == where[:2]:
            return beside
        sock = _tcp_socket(family)
        try:
            # From 127.0.0.1 to 0.0.0.0 with the same port, say.
            for one in () if beside is None else (beside, sock):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(where)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise BindError(f"{bind}: {_reason(error, address)}") from error
    return sock


def descriptors() -> int:
    """Descriptors that this process may have; a large number where there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def _reason(error: OSError, address: Address) -> str:
    if isinstance(error, socket.gaierror):
        # Its numbers are not those of errno.
        return f"cannot resolve the host name: {error.strerror}"
    match error.errno:
        case errno.EADDRINUSE:
            return "the address is in use by another process"
        case errno.EACCES if address.path is None:
            return "permission denied (ports below 1024: root at first, or CAP_NET_BIND_SERVICE)"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
    return error.strerror or str(error)


def resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Where to bind. OSError when the host has no address."""
    found = socket.getaddrinfo(
        address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # One listener is one address. A name with both kinds (localhost) means the v4 one, which
    # is what its users type.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    family, _, _, _, where = found[0]
    return family, where  # type: ignore[return-value]  # AF_INET6 has two more items


def _tcp_socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    # Connections of a previous run in TIME_WAIT must not keep the port.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        # [::]:80 does not take the v4 port too: whoever wants both writes both.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _bind_tcp(name: str, address: Address, count: int, alone: bool) -> Listening:
    family, where = resolve(address)
    # SO_REUSEPORT would let a second proxy of the same user share the port without a word,
    # and each would get half of the requests. A socket without it conflicts as one expects.
    # Two proxies that start in the same millisecond can still pass both; their admin port,
    # which is never shared, stops one of them.
    if alone:
        with _tcp_socket(family) as probe:
            probe.bind(where)
    first = _tcp_socket(family)
    try:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(where)
    except OSError:
        first.close()
        raise
    shown = shown_address(first)
    try:
        # Listening only when all are bound, so that the kernel hands a connection to one of
        # the final set.
        return Listening(name, address.text, shown, (first,)).widened(count)
    except BindError:
        first.close()
        raise


def shown_address(sock: socket.socket) -> str:
    """`host:port`, `[v6]:port` or `unix:/path`, with the real port."""
    where = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(where)}"
    return f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"


def _listen_unix(
    name: str, address: Address, mode: int | None, owner: tuple[int, int] | None
) -> Listening:
    path = str(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with _sole_starter(path):
            _remove_stale(path)
            _bind_unix(sock, path, mode)
            inode = inode_of(path)
            try:
                if owner is not None:
                    _give(path, owner)
                # Only now can anybody connect.
                sock.listen(BACKLOG)
            except OSError:
                os.unlink(path)
                raise
    except OSError:
        sock.close()
        raise
    return Listening(name, address.text, address.text, (sock,), path, inode, mode, owner)


@contextlib.contextmanager
def _sole_starter(path: str) -> Iterator[None]:
    """Until the end no other proxy looks for stale socket files there: it would take ours, which
    nobody can connect to yet, for one, or remove ours in place of the one that we replaced."""
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # What is wrong with the directory, if anything is, the bind will say.
        return
    try:
        deadline = time.monotonic() + LOCK_LIMIT
        while time.monotonic() < deadline:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break  # A file system without locks.
        yield
    finally:
        os.close(directory)


def _bind_unix(sock: socket.socket, path: str, mode: int | None) -> None:
    """The file comes into being with its mode. Changed afterwards, by its name, it could be
    another file by then."""
    if mode is None:
        sock.bind(path)
        return
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
    finally:
        os.umask(before)


def _usual_mode() -> int:
    """The mode of a socket file as the umask has it."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o777 & ~mask


def _give(path: str, owner: tuple[int, int]) -> None:
    try:
        os.chown(path, *owner, follow_symlinks=False)
    except PermissionError:
        to = ":".join(str(id_) if id_ >= 0 else "" for id_ in owner)
        raise OSError(
            errno.EPERM,
            f"may not give it to {to} (root may give to anybody, others to their groups)",
        ) from None


def _remove_stale(path: str) -> None:
    """Remove the socket file of a process that is gone. Anything else there is an error."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A live listener with a full queue would block; it answers EAGAIN instead.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def remove(path: str, inode: tuple[int, int]) -> None:
    """Remove a socket file, if it is still the one with that device and inode."""
    if inode_of(path) == inode:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def inode_of(path: str) -> tuple[int, int]:
    """Device and inode; zeros if there is no such file."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
