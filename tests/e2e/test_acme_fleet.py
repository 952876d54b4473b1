"""Two proxies that have certificates from a real ACME server together, through a real etcd."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.pebble import Pebble
from tests.e2e.test_acme import NAME, Site
from tests.support.processes import eventually, free_port

pytestmark = pytest.mark.timeout(180)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _plain(text: str) -> bytes:
    return base64.b64decode(text)


class Member(Site):
    """A proxy of the fleet."""

    def __init__(
        self, directory: Path, pebble: Pebble, etcd: EtcdServer, plain: int, key: Path
    ) -> None:
        directory.mkdir()
        self.plain = plain
        super().__init__(directory, pebble, plain, free_port(), NAME)
        storage = {"path": str(directory / "acme"), "key_file": str(key)}
        more: dict[str, Any] = {
            "registry": {"type": "etcd", "endpoints": [etcd.url]},
            "fleet": {"id": directory.name},
            "acme": {**self.config["acme"], "storage": storage, "challenges": ["http-01"]},
        }
        self.change(more)

    def change(self, more: dict[str, Any]) -> None:
        self.config = {**self.config, **more}
        self.file.write_text(json.dumps(self.config))


class Elsewhere:
    """Owns the port at which names lead here, behind which is always the proxy that does not
    order: it has to answer for the other."""

    def __init__(self, etcd: EtcdServer, place: str) -> None:
        self.port = free_port()
        self.proxies: dict[str, Member] = {}
        self._etcd = etcd
        self._place = place

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def holder(self) -> str:
        async with EtcdClient(self._etcd.url) as client:
            found = await client.call("/kv/range", {"key": _b64(self._place + "lock")})
        return _plain(found["kvs"][0]["value"]).decode() if found.get("kvs") else ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        holder = await self.holder()
        [other] = [one for id_, one in self.proxies.items() if id_ != holder]
        back, forth = await asyncio.open_connection("127.0.0.1", other.plain)
        forth.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        writer.write(await back.read())
        writer.close()
        forth.close()


async def test_one_proxy_orders_and_the_other_answers_and_both_serve(tmp_path: Path) -> None:
    key = tmp_path / "fleet.key"
    key.write_text("k" * 40)
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        elsewhere = Elsewhere(etcd, "")
        async with elsewhere, Pebble(tmp_path, http=elsewhere.port) as pebble:
            place = elsewhere._place = f"/fairlead/acme/127.0.0.1-{pebble.port}-dir/"
            pebble.dns.says(NAME, "127.0.0.1")
            # Somebody who may write, but has no key, was here before.
            for name in (f"certificates/{NAME}", "challenges", f"standing/{NAME}"):
                await client.put(place + name, "-----BEGIN CERTIFICATE-----")
            await client.put(place + "certificates/../../../etc/x", "x")
            # Nobody orders before both are there.
            await client.put(place + "lock", "the test")
            members = [Member(tmp_path / id_, pebble, etcd, free_port(), key) for id_ in "ab"]
            elsewhere.proxies = dict(zip("ab", members, strict=True))
            try:
                for member in members:
                    await member.start()

                async def listed() -> bool:
                    _, document = await members[0].get("/api/v1/fleet")
                    return [row["ready"] for row in document["proxies"]] == [True, True]

                await eventually(listed, 30, "both on the list")
                await client.delete(place + "lock")
                served = [(await member.served())[1] for member in members]
                assert served[0] == served[1]
                issued = [member.log().count('"acme_issued"') for member in members]
                taken = [member.log().count('"acme_taken_over"') for member in members]
                assert sorted(issued) == [0, 1]
                assert sorted(taken) == [0, 1]
                assert not any('"acme_failed"' in member.log() for member in members)

                # Nothing in etcd can be read without the key.
                stored = await client.call(
                    "/kv/range", {"key": _b64(place), "range_end": _b64(place[:-1] + "0")}
                )
                assert not any(b"PRIVATE KEY" in _plain(kv["value"]) for kv in stored["kvs"])

                # What a stranger writes over it changes nothing.
                before = [member.log().count("does not open") for member in members]
                await client.put(place + f"certificates/{NAME}", "garbage")

                def refused() -> bool:
                    now = [member.log().count("does not open") for member in members]
                    return all(one < other for one, other in zip(before, now, strict=True))

                await eventually(refused, 20, "a word")
                assert [(await member.served())[1] for member in members] == served
            finally:
                for member in members:
                    await member.kill()
