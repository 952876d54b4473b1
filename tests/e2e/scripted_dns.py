"""`ScriptedDns`: a name server on loopback that says what a test tells it to.

    async with ScriptedDns() as dns:
        dns.says("web.test", "127.0.0.1", "::1", ttl=30)
        dns.fails("broken.test", rcode=SERVFAIL)
        dns.silent = True                    # to everybody, or:
        dns.ignores("dead.test")
        assert dns.asked("web.test") == 1
        environ = dns.environ(tmp_path)      # for a process that is to ask it

A name that nothing was said about does not exist. Over UDP and TCP, on the same port.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from tests.support.processes import free_port

A, AAAA = 1, 28
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5


class ScriptedDns:
    """Owns the sockets, the zone, and the list of questions."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self.silent = False
        """Answers nobody."""
        self.over_tcp_only = False
        """UDP answers are truncated."""
        self.delay = 0.0
        self.questions: list[tuple[str, int]] = []
        """(name in lower case, type), as they came; a repeated one counts again."""
        self.over_tcp = 0
        self._zone: dict[str, tuple[list[str], int]] = {}
        self._aliases: dict[str, tuple[str, int]] = {}
        self._rcodes: dict[str, int] = {}
        self._ignored: set[str] = set()
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    def says(self, name: str, *addresses: str, ttl: int = 60) -> None:
        """`name` has these addresses from now on; none: it exists without any."""
        self._forget(name)
        self._zone[name] = (list(addresses), ttl)

    def alias(self, name: str, target: str, ttl: int = 60) -> None:
        """`name` is another name for `target`."""
        self._aliases[name] = (target, ttl)

    def fails(self, name: str, rcode: int = SERVFAIL) -> None:
        """Questions for `name` get this code."""
        self._forget(name)
        self._rcodes[name] = rcode

    def ignores(self, name: str) -> None:
        """Questions for `name` get no answer."""
        self._forget(name)
        self._ignored.add(name)

    def asked(self, name: str, kind: int = A) -> int:
        """How often."""
        return Counter(self.questions)[name, kind]

    @property
    def address(self) -> str:
        """As resolv.conf takes it, too."""
        return f"{self.host}:{self.port}"

    def environ(self, directory: Path, hosts: str = "") -> dict[str, str]:
        """What makes a process of ours ask this server, and read hosts from a file of its own."""
        (directory / "hosts").write_text(hosts)
        return {
            "FAIRLEAD_DNS_SERVERS": self.address,
            "CARES_HOSTS": str(directory / "hosts"),
        }

    def _forget(self, name: str) -> None:
        self._zone.pop(name, None)
        self._rcodes.pop(name, None)
        self._ignored.discard(name)

    async def __aenter__(self) -> Self:
        self.port = free_port()
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: _Udp(self), local_addr=(self.host, self.port)
        )
        self._tcp = await asyncio.start_server(self._serve, self.host, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._udp is not None
        assert self._tcp is not None
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack("!H", await reader.readexactly(2))
                self.over_tcp += 1
                answer = self.answer(await reader.readexactly(size), udp=False)
                if answer is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    def answer(self, question: bytes, *, udp: bool) -> bytes | None:
        """None: say nothing."""
        number, _, _, _, _, _ = struct.unpack("!6H", question[:12])
        name, end = _name_at(question, 12)
        kind, _ = struct.unpack("!2H", question[end : end + 4])
        asked = question[12 : end + 4]
        self.questions.append((name, kind))
        if self.silent or name in self._ignored:
            return None
        if self.over_tcp_only and udp:
            return struct.pack("!6H", number, 0x8380, 1, 0, 0, 0) + asked
        records = b""
        count = 0
        owner = name
        while owner in self._aliases:
            target, ttl = self._aliases[owner]
            records += _record(owner, 5, ttl, _encoded(target))
            count += 1
            owner = target
        rcode = self._rcodes.get(owner, NOERROR if owner in self._zone else NXDOMAIN)
        addresses, ttl = self._zone.get(owner, ([], 0))
        for address in map(ip_address, addresses):
            if (A if address.version == 4 else AAAA) == kind:
                records += _record(owner, kind, ttl, address.packed)
                count += 1
        return struct.pack("!6H", number, 0x8180 | rcode, 1, count, 0, 0) + asked + records


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: ScriptedDns) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        answer = self._server.answer(data, udp=True)
        if answer is None:
            return
        loop = asyncio.get_running_loop()
        loop.call_later(self._server.delay, self._transport.sendto, answer, address)


def silent_socket(host: str = "127.0.0.1") -> socket.socket:
    """Where a name server should be and nobody answers. To be closed by the caller."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


def _name_at(message: bytes, place: int) -> tuple[str, int]:
    labels = []
    while size := message[place]:
        labels.append(message[place + 1 : place + 1 + size].decode("ascii").lower())
        place += 1 + size
    return ".".join(labels), place + 1


def _encoded(name: str) -> bytes:
    labels = name.encode("ascii").split(b".")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _record(name: str, kind: int, ttl: int, data: bytes) -> bytes:
    return _encoded(name) + struct.pack("!2HIH", kind, 1, ttl, len(data)) + data
