"""A program that speaks no HTTP, behind its side-car and before those of others, with real etcd;
and whoever tries to get round them."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.beside import DOMAIN, Beside
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.support.processes import eventually, free_port

GREETING = b"220 ready\n"

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Program:
    """Owns a server that greets, and gives each line back in capitals until there are no more."""

    def __init__(self) -> None:
        self.connections = 0
        self.heard = b""

    async def __aenter__(self) -> Program:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=1 << 23)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.write(GREETING)
        try:
            while line := await reader.readline():
                self.heard += line
                writer.write(line.upper())
            writer.write(b"bye\n")
        except ConnectionError:
            pass
        finally:
            writer.close()


async def talk(port: int, said: bytes = b"select 1\n", tls: ssl.SSLContext | None = None) -> bytes:
    """All that is heard on a connection on which this is said, and then that it was all."""
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    except OSError:
        return b""
    try:
        async with asyncio.timeout(10):
            writer.write(said)
            if tls is None:
                writer.write_eof()
                return await reader.read()
            return await reader.readline() + await reader.readline()
    except OSError:
        return b""
    finally:
        writer.close()


@dataclass
class Mesh:
    directory: Path
    authority: Authority
    etcd: EtcdServer
    program: Program
    db: Beside
    """Beside the program; `web` may call it, and `batch` by GET alone."""
    web: Beside
    others: dict[str, Beside]
    ports: dict[str, int]
    """Where each has `db` on its own machine, and `web` a service `bank`, too."""

    async def claim(self, name: str, port: int) -> None:
        """Have the registry say that an instance of a service is on this port."""
        record = {"address": "127.0.0.1", "port": port, "metadata": {"scheme": "http"}}
        async with EtcdClient(self.etcd.url) as client:
            await client.put(f"/services/{name}/false", json.dumps(record))

        async def led_there() -> bool:
            status, text = await self.web.ask_admin(f"/api/v1/services/{name}")
            return status == 200 and [one["port"] for one in json.loads(text)["instances"]] == [
                port
            ]

        await eventually(led_there, 10.0, self.web.log)

    async def metric(self, side: Beside, line: str) -> bool:
        return line in (await side.ask_admin("/metrics"))[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    directory = tmp_path_factory.mktemp("mesh")
    authority = Authority(directory, "mesh")
    async with AsyncExitStack() as stack:
        etcd = await stack.enter_async_context(EtcdServer())
        program = await stack.enter_async_context(Program())
        file = directory / "callers.yaml"
        allow = ["web", {"service": "batch", "methods": ["GET"]}]
        file.write_text(
            json.dumps(
                {
                    "registry": {"type": "etcd", "endpoints": [etcd.url]},
                    "services": {"db": {"callers": {"allow": allow}}},
                    "routes": [{"path": "/", "respond": 204}],
                }
            )
        )
        ports = {name: free_port() for name in ("web", "batch", "other", "bank")}
        db = Beside(
            *("db", program.port, directory, authority, etcd.url),
            *("--protocol", "tcp", "-c", str(file), "--check", "exec:true"),
        )
        callers = {
            name: Beside(
                *(name, program.port, directory, authority, etcd.url, "--check", "exec:true"),
                *("--tcp", f"db=127.0.0.1:{ports[name]}"),
                *(("--tcp", f"bank=127.0.0.1:{ports['bank']}") if name == "web" else ()),
                *(("--to", "db,bank") if name == "web" else ()),
            )
            for name in ("web", "batch", "other")
        }
        for side in (db, *callers.values()):
            side.launch()
            stack.push_async_callback(side.stop)
        for side in (db, *callers.values()):
            await eventually(side._there, 90.0, side.log)
        for side in callers.values():
            await side.knows("db")
        web = callers.pop("web")
        yield Mesh(directory, authority, etcd, program, db, web, callers, ports)


async def test_bytes_go_through_both(mesh: Mesh) -> None:
    assert await talk(mesh.ports["web"]) == GREETING + b"SELECT 1\nbye\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.ports["web"], limit=1 << 23)
    assert await reader.readline() == GREETING
    for _ in range(3):
        writer.write(b"y" * 3_000_000 + b"\n")
        assert len(await reader.readline()) == 3_000_001
    writer.close()


async def test_callers_are_counted(mesh: Mesh) -> None:
    await talk(mesh.ports["web"])
    await talk(mesh.ports["other"])
    name = 'fairlead_caller_requests_total{service="db:inbound",caller='
    for caller, code in (("web", "200"), ("other", "400")):
        await eventually(lambda c=caller, n=code: mesh.metric(mesh.db, f'{name}"{c}",code="{n}"}}'))


@pytest.mark.parametrize("caller", ["other", "batch"])
async def test_a_caller_that_is_not_allowed_hears_nothing(mesh: Mesh, caller: str) -> None:
    """One may not call at all, and the other by a method, which a connection has not."""
    before = mesh.program.connections
    assert await talk(mesh.ports[caller]) == b""
    assert mesh.program.connections == before


@pytest.mark.parametrize("who", ["nobody", "foreign", "another", "star", "two", "expired"])
async def test_a_client_that_has_not_proved_to_be_a_caller_hears_nothing(
    mesh: Mesh, who: str, tmp_path: Path
) -> None:
    web, authority = f"web.{DOMAIN}", mesh.authority
    shown = {
        "nobody": lambda: (),
        "foreign": lambda: Authority(tmp_path, "foreign").issue(web),
        "another": lambda: authority.issue(f"other.{DOMAIN}"),
        "star": lambda: authority.issue(f"*.{DOMAIN}"),
        "two": lambda: authority.issue(web, f"db.{DOMAIN}"),
        "expired": lambda: authority.issue(web, days=-1, stem="expired"),
    }[who]()
    before = mesh.program.connections
    assert await talk(mesh.db.inbound, tls=authority.client(*shown, check_hostname=False)) == b""
    assert mesh.program.connections == before
    right = authority.client(*authority.issue(web), check_hostname=False)
    assert await talk(mesh.db.inbound, tls=right) == GREETING + b"SELECT 1\n"


async def test_clear_text_on_the_inbound_port_hears_nothing(mesh: Mesh) -> None:
    before = mesh.program.connections
    for said in (b"select 1\n", b"GET / HTTP/1.1\r\nHost: db\r\n\r\n"):
        assert GREETING not in await talk(mesh.db.inbound, said)
    assert mesh.program.connections == before


async def test_a_record_that_leads_elsewhere_is_not_believed(mesh: Mesh) -> None:
    """To another service's inbound port; to a program that speaks in clear text; to one that has
    a certificate of an authority of its own."""
    foreign = Authority(mesh.directory, "local").server(f"bank.{DOMAIN}", stem="local")
    heard = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.read())
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0, ssl=foreign) as impostor:
        taken: int = impostor.sockets[0].getsockname()[1]
        for port in (mesh.db.inbound, taken, mesh.program.port):
            await mesh.claim("bank", port)
            assert await talk(mesh.ports["bank"], b"secret\n") == b""
    assert b"secret" not in mesh.program.heard
    assert heard in ([], [b""])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tcp", "db=0.0.0.0:1"), "--tcp: 0.0.0.0 is not this machine alone"),
        (("--tcp", "db=127.0.0.1:1", "--to", "bank"), "--tcp: db is not among --to: bank"),
        (
            ("--tcp", "db=127.0.0.1:1", "--tcp", "bank=127.0.0.1:1"),
            "--tcp: 127.0.0.1:1 is used twice",
        ),
        (("--tcp", "db"), "'db' is not of the form"),
    ],
)
async def test_wrong_words_are_refused(mesh: Mesh, words: tuple[str, ...], said: str) -> None:
    side = Beside("web", 1, mesh.directory, mesh.authority, mesh.etcd.url, *words)
    side.launch()
    assert await side.wait(60.0) == 2
    assert said in side.log()
