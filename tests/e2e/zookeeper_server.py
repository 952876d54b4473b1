"""A real ZooKeeper of Debian's packages that tests may kill, freeze and wipe, and its clients.
Where there is none the tests that need it are skipped."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from struct import pack
from typing import Final, Self, cast

from proxy.registry.base import RegistryError
from proxy.registry.zookeeper import wire
from proxy.registry.zookeeper.link import Link
from proxy.registry.zookeeper.options import Options
from proxy.registry.zookeeper.wire import NO_NODE, NODE_EXISTS, Failed, Op
from tests.support.processes import OwnServer, eventually, free_port

JARS: Final = [
    Path("/usr/share/java", f"{name}.jar")
    for name in ("zookeeper", "zookeeper-jute", "slf4j-api", "slf4j-nop", "netty-all")
]
SET_ACL: Final = 7


def missing() -> str:
    """The first thing that is not on this machine; "" = nothing."""
    if shutil.which("java") is None:
        return "java"
    return next((str(jar) for jar in JARS[:3] if not jar.exists()), "")


class ZooKeeperServer(OwnServer):
    """Owns one server and its throw-away data.

    `async with ZooKeeperServer() as server:` gives one that answers at `server.url`.
    """

    def __init__(self, number: int = 0, peers: Sequence[tuple[int, int]] = ()) -> None:
        """Of an ensemble the one with this number, from 1 on; `peers`: two ports of each."""
        super().__init__("zookeeper")
        self.port = free_port()
        self.url = f"127.0.0.1:{self.port}"
        self.mode = ""
        """Role in the ensemble when last asked: leader, follower or standalone."""
        config = {
            "tickTime": 500,
            "minSessionTimeout": 1000,
            "dataDir": self.directory / "data",
            "clientPort": self.port,
            "clientPortAddress": "127.0.0.1",
            "admin.enableServer": "false",
            "maxClientCnxns": 0,
            "4lw.commands.whitelist": "srvr",
        }
        if peers:
            (self.directory / "data").mkdir()
            (self.directory / "data" / "myid").write_text(str(number))
            config |= {"initLimit": 10, "syncLimit": 4}
            config |= {f"server.{n}": f"127.0.0.1:{a}:{b}" for n, (a, b) in enumerate(peers, 1)}
        file = self.directory / "zoo.cfg"
        file.write_text("".join(f"{key}={value}\n" for key, value in config.items()))
        self._command = [
            *("java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
            *("-Dzookeeper.fsync.warningthresholdms=60000", "-Dzookeeper.forceSync=no"),
            *("-cp", ":".join(map(str, JARS))),
            *("org.apache.zookeeper.server.quorum.QuorumPeerMain", str(file)),
        ]

    async def serves(self) -> None:
        assert self._process is not None
        await eventually(self._serves, 30.0, self._process.log, every=0.05)

    def _serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as asking:
                asking.sendall(b"srvr")
                return self._mode(asking.recv(4096)) != ""
        except OSError:
            return False

    def _mode(self, said: bytes) -> str:
        self.mode = said.partition(b"Mode: ")[2].partition(b"\n")[0].decode()
        return self.mode

    def client(self, timeout: float = 10.0) -> ZooKeeperClient:
        return ZooKeeperClient(self.url, timeout)


class ZooKeeperEnsemble:
    """Owns three servers. `async with` starts them, and waits for a leader."""

    def __init__(self) -> None:
        peers = [(free_port(), free_port()) for _ in range(3)]
        self.servers = [ZooKeeperServer(number, peers) for number in (1, 2, 3)]

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(server.url for server in self.servers)

    async def __aenter__(self) -> Self:
        try:
            for server in self.servers:
                server.launch()
            for server in self.servers:
                await server.serves()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in self.servers:
            await server.__aexit__()


class ZooKeeperClient:
    """Owns a session, of `timeout` seconds, which ends with `async with`."""

    def __init__(self, url: str, timeout: float) -> None:
        self.link = Link(url, Options(), timeout=timeout)

    async def put(
        self,
        path: str,
        value: bytes = b"",
        *,
        ephemeral: bool = False,
        rights: tuple[wire.Right, ...] = wire.ANYBODY,
    ) -> None:
        """Write a node, made with those above it if need be."""
        try:
            await self.link.call(Op.SET_DATA, wire.write(path, value, -1), path)
        except Failed as error:
            if error.code != NO_NODE:
                raise
            parts = path.split("/")
            for depth in range(2, len(parts)):
                await self._create("/".join(parts[:depth]), b"", wire.ANYBODY, 0)
            await self._create(path, value, rights, wire.EPHEMERAL if ephemeral else 0)

    async def _create(
        self, path: str, value: bytes, rights: tuple[wire.Right, ...], flags: int
    ) -> None:
        try:
            await self.link.call(Op.CREATE, wire.create(path, value, rights, flags), path)
        except Failed as error:
            if error.code != NODE_EXISTS:
                raise

    async def permit(self, path: str, permissions: int) -> None:
        """Anybody has these permissions: 1 is to read, 31 is all."""
        acl = wire.text("world") + wire.text("anyone")
        body = wire.text(path) + pack(">ii", 1, permissions) + acl + pack(">i", -1)
        await self.link.call(cast(Op, SET_ACL), body, path)

    def creation(self, path: str, value: bytes) -> bytes:
        """Body of a request that makes a node, for many at a time."""
        return wire.create(path, value, wire.ANYBODY, 0)

    async def delete(self, path: str) -> None:
        await self.link.call(Op.DELETE, wire.delete(path, -1), path)

    async def __aenter__(self) -> Self:
        await self.link.connect(0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self.link.close_session()
        except RegistryError:
            pass
        await self.link.disconnect()
