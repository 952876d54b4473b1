"""Listening sockets: made by the control process, used by the workers.

One socket per worker and TCP listener, all bound to the same address with SO_REUSEPORT, so
that the kernel spreads connections and workers never contend for one accept queue. The
control process keeps every socket open: when a worker dies, the connections in its queue wait
for its replacement instead of being reset. A unix listener has one socket that all workers
share, because a path can be bound only once.
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

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
    """The sockets of one listener. `sockets[i]` belongs to worker i modulo their number, of which
    there is one for each at least; for a unix listener it is the same object for each."""

    name: str
    address: str
    """Address that clients connect to, with the real port where 0 was asked for."""
    sockets: tuple[socket.socket, ...]
    path: str | None = None
    inode: tuple[int, int] = field(default=(0, 0))
    """Device and inode of the socket file that this process made."""

    def leave(self) -> None:
        """Close our sockets, where another process goes on listening."""
        self.path = None
        self.close()

    def close(self) -> None:
        """Close the sockets, and remove the socket file if it is still ours."""
        for sock in self.sockets:
            sock.close()
        if self.path is not None and _inode(self.path) == self.inode:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


@dataclass(slots=True)
class Held:
    """Sockets that listen already: a predecessor's, or the service manager's."""

    kind: str
    """`listener`, `admin`, or `passed` by the service manager."""
    name: str
    bind: str
    """As in the configuration that they were made for."""
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
        return bool(sock.getsockname()[:2] == _resolve(address)[1][:2])
    except OSError:
        return False


def adopt(held: Held, name: str, count: int) -> Listening:
    """A listener of what listens already, with a socket per worker at least where a predecessor
    made one for each; those of the service manager, and unix sockets, are for all. OSError when
    there is no further socket to be had."""
    sockets = held.sockets
    for sock in sockets:
        sock.setblocking(False)
        sock.listen(BACKLOG)
    where = sockets[0].getsockname()
    if sockets[0].family == socket.AF_UNIX:
        path = os.fsdecode(where)
        ours = held.kind != "passed"  # The file of another one's socket is its own to remove.
        inode = _inode(path) if ours else (-1, -1)
        return Listening(name, f"unix:{path}", (sockets[0],) * count, path, inode)
    if held.kind == "passed":
        return Listening(name, _shown(where), (sockets[0],) * count)
    made = [_neighbour(sockets[0].family, where) for _ in range(count - len(sockets))]
    for sock in made:
        sock.listen(BACKLOG)
    return Listening(name, _shown(where), (*sockets, *made))


def _neighbour(family: int, where: tuple[str, int]) -> socket.socket:
    """One more socket at an address, bound and not yet listening."""
    sock = _tcp_socket(socket.AddressFamily(family))
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _shown(where: tuple[str, int]) -> str:
    host, port = where[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(
    name: str,
    bind: str,
    count: int,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
) -> Listening:
    """Sockets of one listener for `count` workers, listening already, non-blocking, not
    inherited by children unless passed on. `mode` and `owner` (user and group id, -1 = ours) are
    for a unix socket's file. BindError when the address cannot be had."""
    address = parse_bind(bind)
    try:
        if address.path is not None:
            return _listen_unix(name, address.path, count, mode, owner)
        return _listen_tcp(name, address, count)
    except OSError as error:
        raise BindError(f"{bind}: {_reason(error, address)}") from error


def listen_alone(bind: str, beside: socket.socket | None = None) -> socket.socket:
    """One TCP socket that shares its address with nobody (the admin server's). `beside`: the one in
    use, which is the answer if the address is its own, and does not take the port of others."""
    address = parse_bind(bind)
    if address.path is not None:
        raise BindError(f"{bind}: a host and a port are needed here")
    try:
        family, where = _resolve(address)
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


def close_all(listening: Iterable[Listening]) -> None:
    """Close every listener's sockets."""
    for one in listening:
        one.close()


def _reason(error: OSError, address: Address) -> str:
    if isinstance(error, socket.gaierror):
        # Its numbers are not those of errno.
        return f"cannot resolve the host name: {error.strerror}"
    match error.errno:
        case errno.EADDRINUSE:
            return "the address is in use by another process"
        case errno.EACCES if address.path is None:
            return "permission denied (ports below 1024 need root or CAP_NET_BIND_SERVICE)"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
    return error.strerror or str(error)


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int]]:
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


def _listen_tcp(name: str, address: Address, count: int) -> Listening:
    family, where = _resolve(address)
    # SO_REUSEPORT would let a second proxy of the same user share the port without a word,
    # and each would get half of the requests. A socket without it conflicts as one expects.
    # Two proxies that start in the same millisecond can still pass both; their admin port,
    # which is never shared, stops one of them.
    with _tcp_socket(family) as probe:
        probe.bind(where)
        if where[1] == 0:
            where = (where[0], probe.getsockname()[1], *where[2:])
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(_neighbour(family, where))
        # Listening only when all are bound, so that the kernel hands a connection to one of
        # the final set.
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return Listening(name, _shown(sockets[0].getsockname()), tuple(sockets))


def _listen_unix(
    name: str, path: str, count: int, mode: int | None, owner: tuple[int, int] | None
) -> Listening:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with _sole_starter(path):
            _remove_stale(path)
            _bind_unix(sock, path, mode)
            inode = _inode(path)
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
    return Listening(name, f"unix:{path}", (sock,) * count, path, inode)


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


def _inode(path: str) -> tuple[int, int]:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
