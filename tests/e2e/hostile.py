"""Peers that mean harm, as a process of its own: `python -m tests.e2e.hostile KIND PORT SECONDS`.

Each kind is cheap for whoever does it and looks for work, memory or descriptors that it could
cost the proxy. The kinds of `CLIENTS` speak to the proxy; `instance 0` is an instance that answers
each path of `INSTANCES` in a way no honest one does, and prints its port. What comes back is read
and thrown away; `tests/e2e/test_hostile_peers.py` measures how others are served meanwhile.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import cycle
from time import monotonic, sleep

GET = b"GET /good HTTP/1.1\r\nHost: drill\r\n\r\n"
POST = b"POST /evil/sink HTTP/1.1\r\nHost: drill\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = 1 << 16


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def _pour(port: int, until: float, first: bytes, more: bytes, read: bool = True) -> None:
    """Send `first`, then `more` again and again, as fast as it is taken; anew when it is closed."""
    while monotonic() < until:
        with _connect(port) as sock:
            sock.setblocking(False)
            # What was taken in part is continued where it stopped: the stream stays what it says.
            pending = memoryview(first + more)
            whole = memoryview(more)
            while monotonic() < until:
                readable, writable, _ = select.select([sock] if read else [], [sock], [], 0.05)
                try:
                    if readable and not sock.recv(PIECE):
                        break
                    if writable:
                        pending = pending[sock.send(pending) :] or whole
                except BlockingIOError:
                    continue
                except OSError:
                    break


def _heads(port: int, until: float, heads: Iterator[bytes]) -> None:
    """One head after the other, each after the answer to the one before."""
    while monotonic() < until:
        with _connect(port) as sock:
            for head in heads:
                if monotonic() > until:
                    return
                try:
                    sock.sendall(head)
                    if not sock.recv(PIECE):
                        break
                except OSError:
                    break


def _numbered(shape: Callable[[int], bytes]) -> Iterator[bytes]:
    number = 0
    while True:
        yield shape(number)
        number += 1


def _field(name: bytes, value: bytes) -> bytes:
    return b"GET /good HTTP/1.1\r\nHost: drill\r\n%b: %b\r\n\r\n" % (name, value)


def _many_fields(number: int) -> bytes:
    fields = b"".join(b"x%d-%d: %d\r\n" % (number, place, number) for place in range(100))
    return b"GET /good HTTP/1.1\r\nHost: drill\r\n" + fields + b"\r\n"


def _byte_by_byte(port: int, until: float) -> None:
    """A hundred clients that dribble a head which never ends."""
    socks = [_connect(port) for _ in range(100)]
    head = cycle(GET[:-4] + b"\r\nX: " + b"a" * 20_000)
    for byte in head:
        for sock in socks:
            try:
                sock.send(bytes((byte,)))
            except OSError:
                pass
        if monotonic() > until:
            break
    for sock in socks:
        sock.close()


def _connect_and_leave(port: int, until: float, reset: bool) -> None:
    """Ask, and be gone before the answer."""
    while monotonic() < until:
        sock = _connect(port)
        sock.sendall(b"GET /evil/silent HTTP/1.1\r\nHost: drill\r\n\r\n")
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def _idle_crowd(port: int, until: float) -> None:
    """Five hundred connections that ask nothing."""
    socks = [_connect(port) for _ in range(500)]
    sleep(max(0.0, until - monotonic()))
    for sock in socks:
        sock.close()


def _ask(path: bytes) -> Callable[[int, float], None]:
    """Ask the hostile instance for `path`, over and over, and read what comes."""
    request = b"GET /evil/%b HTTP/1.1\r\nHost: drill\r\n\r\n" % path

    def run(port: int, until: float) -> None:
        while monotonic() < until:
            with _connect(port) as sock:
                sock.settimeout(0.2)
                sock.sendall(request)
                try:
                    while monotonic() < until and sock.recv(PIECE):
                        pass
                except OSError:
                    continue

    return run


def _hello() -> bytes:
    """What a client of TLS says first."""
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="h").do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def _silent_crowds(port: int, until: float, words: bytes) -> None:
    """Two hundred connections at once that say this and no more; and again."""
    while monotonic() < until:
        socks = [_connect(port) for _ in range(200)]
        for sock in socks:
            sock.sendall(words)
        sleep(0.2)
        for sock in socks:
            sock.close()


Kind = Callable[[int, float], None]

CLIENTS: dict[str, Kind] = {
    "an upload in chunks of one byte": lambda p, u: _pour(p, u, POST, b"1\r\nx\r\n" * 20_000),
    "an upload in chunks with long extensions": lambda p, u: _pour(
        p, u, POST, (b"1;" + b"e" * 200 + b"\r\nx\r\n") * 400
    ),
    "small requests pipelined without end": lambda p, u: _pour(p, u, b"", GET * 500),
    "pipelined, and no answer is read": lambda p, u: _pour(p, u, b"", GET * 500, read=False),
    "empty lines without end": lambda p, u: _pour(p, u, b"", b"\r\n" * 30_000),
    "a head that comes byte by byte, from a hundred clients": _byte_by_byte,
    "heads with thousands of Connection members": lambda p, u: _heads(
        p, u, _numbered(lambda n: _field(b"Connection", b"keep-alive,%d," % n + b"b," * 15_000))
    ),
    "heads of a hundred fields that nobody sent before": lambda p, u: _heads(
        p, u, _numbered(_many_fields)
    ),
    "field names of 30 KB that nobody used before": lambda p, u: _heads(
        p, u, _numbered(lambda n: _field((b"n%d" % n).ljust(30_000, b"n"), b"x"))
    ),
    "cookies of 30 KB": lambda p, u: _heads(
        p, u, _numbered(lambda n: _field(b"Cookie", b"a=%d;" % n + b";=" * 14_000))
    ),
    "targets full of escapes": lambda p, u: _heads(
        p, u, _numbered(lambda n: GET.replace(b"/good", b"/good/%d" % n + b"%2e/" * 1_900))
    ),
    "a TLS hello on the clear port": lambda p, u: _heads(
        p, u, _numbered(lambda n: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500)
    ),
    "requests whose client is gone at once (FIN)": lambda p, u: _connect_and_leave(p, u, False),
    "requests whose client is gone at once (RST)": lambda p, u: _connect_and_leave(p, u, True),
    "five hundred idle connections": _idle_crowd,
    "an instance that sends 103 without end": _ask(b"interim"),
    "an answer in chunks of one byte": _ask(b"chunks"),
    "an answer in segments of one byte": _ask(b"dribble"),
    "answers with a head of 60 KB and 4,000 fields": _ask(b"fields"),
    "answers with thousands of Connection members": _ask(b"members"),
    "answers that are not HTTP": _ask(b"garbage"),
}
"""What a client does, or makes the hostile instance do, until a time of the monotonic clock."""
TLS_CLIENTS: dict[str, Kind] = {
    "two hundred that say nothing": lambda p, u: _silent_crowds(p, u, b""),
    "two hundred halves of a hello": lambda p, u: _silent_crowds(p, u, _hello()[:200]),
    "two hundred hellos and nothing more": lambda p, u: _silent_crowds(p, u, _hello()),
}
"""The same of what is done to a listener with TLS."""


# -- the instance


def _say(sock: socket.socket, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        sock.sendall(piece)


def _fields(shape: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + shape + b"\r\nok"


_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 500
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_NAMES = b"".join(b"%c%c%c:\r\n" % (97 + n // 676, 97 + n // 26 % 26, 97 + n % 26)
                  for n in range(4_000))  # fmt: skip

INSTANCES: dict[bytes, Callable[[socket.socket], None]] = {
    b"interim": lambda sock: _say(sock, cycle((_HINTS,))),
    b"chunks": lambda sock: _say(sock, iter((_CHUNKED, *((b"1\r\nx\r\n" * 20_000,) * 1_000)))),
    b"dribble": lambda sock: _say(
        sock, iter((b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", *((b"x",) * 99_999)))
    ),
    b"fields": lambda sock: sock.sendall(_fields(_NAMES)),
    b"members": lambda sock: sock.sendall(_fields(b"Connection: " + b"b," * 15_000 + b"c\r\n")),
    b"garbage": lambda sock: sock.sendall(b"\0" * 30_000),
    b"silent": lambda sock: _swallow(sock),
    b"sink": lambda sock: _swallow(sock),
}


def _swallow(sock: socket.socket) -> None:
    while sock.recv(PIECE):
        pass


def _serve(sock: socket.socket) -> None:
    with sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = b""
            while b"\r\n\r\n" not in head:
                piece = sock.recv(PIECE)
                if not piece:
                    return
                head += piece
            path = head.split(b" ", 2)[1].rpartition(b"/")[2]
            INSTANCES[path](sock)
        except OSError:
            pass  # The proxy has had enough of it.


def _listen() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        while True:
            accepted, _ = listening.accept()
            threading.Thread(target=_serve, args=(accepted,), daemon=True).start()


def main() -> None:
    """See the module."""
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "instance":
        _listen()
    (CLIENTS | TLS_CLIENTS)[kind](port, monotonic() + float(sys.argv[3]))


if __name__ == "__main__":
    main()
