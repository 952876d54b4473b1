"""The admin server's connections under TLS: certificates, and what a handshake may hold."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from click.testing import CliRunner

from proxy.cli import main
from proxy.control.admin_connections import Connection, Door
from proxy.control.admin_tls import SecureSite
from proxy.control.certificates import Certificates, ListenerFiles
from proxy.settings.load import load
from tests.support.certificates import Authority, Made
from tests.support.processes import eventually, free_port

AUTHORITY = Authority()
FIRST = AUTHORITY.issue("admin.example")
RENEWED = AUTHORITY.issue("admin.example", number=1)
OTHER = Authority("other").issue("client.example")
END = "-----END CERTIFICATE-----\n"


class Served:
    """An admin server with nothing behind it."""

    def __init__(self, files: ListenerFiles, door: Door, sock: socket.socket) -> None:
        self.files = files
        self.door = door
        self.address = sock.getsockname()

    def plain(self) -> socket.socket:
        """A connection on which nothing is said."""
        return socket.create_connection(self.address)

    async def ask(
        self, made: Made | None = None, directory: Path = Path(), ca: bytes = AUTHORITY.ca
    ) -> tuple[bytes, bytes]:
        """The certificate of the server, and its answer to a client that shows `made`."""
        context = ssl.create_default_context(cadata=ca.decode())
        if made is not None:
            (directory / "client.pem").write_bytes(made.cert + made.key)
            context.load_cert_chain(directory / "client.pem")
        reader, writer = await asyncio.open_connection(
            *self.address, ssl=context, server_hostname="admin.example"
        )
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        try:
            return shown, await reader.read()
        finally:
            writer.transport.abort()


def configure(directory: Path, made: Made = FIRST, **admin: Any) -> Path:
    """A proxy.yaml with `admin.tls`, and its files."""
    (directory / "admin.pem").write_bytes(made.cert)
    (directory / "admin.key").write_bytes(made.key)
    (directory / "ca.pem").write_bytes(AUTHORITY.ca)
    tls = {"cert": "admin.pem", "key": "admin.key", **admin.pop("tls", {})}
    file = directory / "proxy.yaml"
    text = {"admin": {"tls": tls, **admin}, "routes": [{"service": "s"}]}
    file.write_text(yaml.safe_dump(text))
    return file


async def handle(request: web.BaseRequest) -> web.StreamResponse:
    connection = request.protocol
    assert isinstance(connection, Connection)
    with connection.serving(request):
        response = web.json_response({"services": []})
        await response.prepare(request)
        await response.write_eof()
    return response


@asynccontextmanager
async def served(file: Path, most: int = 10, limit: float = 10.0) -> AsyncIterator[Served]:
    certificates = Certificates(load(file, {}))
    await certificates.start()
    assert certificates.admin is not None
    assert certificates.messages == []  # They are no workers' business.
    door = Door(handle, most)
    runner = web.ServerRunner(door, shutdown_timeout=0.1)
    await runner.setup()
    port = certificates._settings.admin.bind.rpartition(":")[2]
    with socket.create_server(("127.0.0.1", int(port))) as sock:
        site = SecureSite(door, sock, lambda: certificates.admin, limit)
        site.start()
        watching = asyncio.create_task(
            certificates.run(lambda message: None, lambda what, **_: None, pause=0.01)
        )
        try:
            yield Served(certificates.admin, door, sock)
        finally:
            watching.cancel()
            await site.close()
            await runner.cleanup()
    assert not door.guests


async def test_a_renewed_certificate_is_for_new_connections(tmp_path: Path) -> None:
    file = configure(tmp_path, bind="127.0.0.1:0")
    async with served(file) as server:
        shown, answer = await server.ask()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert shown == ssl.PEM_cert_to_DER_cert(FIRST.cert.decode().partition(END)[0] + END)
        configure(tmp_path, RENEWED, bind="127.0.0.1:0")
        message = server.files.message
        await eventually(lambda: server.files.message is not message, 10, "the new certificate")
        renewed, answer = await server.ask()
        assert renewed != shown
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(("made", "served_"), [(None, False), (OTHER, False), (RENEWED, True)])
async def test_clients_show_a_certificate_where_they_must(
    tmp_path: Path, made: Made | None, served_: bool
) -> None:
    file = configure(tmp_path, bind="127.0.0.1:0", tls={"client_ca": "ca.pem"})
    async with served(file) as server:
        if served_:
            assert (await server.ask(made, tmp_path))[1].startswith(b"HTTP/1.1 200 OK\r\n")
            return
        try:
            assert (await server.ask(made, tmp_path))[1] == b""
        except (ssl.SSLError, ConnectionError):
            pass  # The certificate is refused when the client believes to be through.
        await eventually(lambda: server.door.closed["no_handshake"] == 1, 10, "the count")


async def test_a_handshake_holds_a_connection_so_long_and_no_longer(tmp_path: Path) -> None:
    async with served(configure(tmp_path, bind="127.0.0.1:0"), limit=0.2) as server:
        with server.plain() as silent:
            await eventually(lambda: len(server.door.guests) == 1, 10, "a guest")
            await eventually(lambda: not server.door.guests, 10, "its end")
            assert server.door.closed["no_handshake"] == 1
            assert silent.recv(1) == b""


async def test_a_handshake_counts_as_a_connection_and_makes_room(tmp_path: Path) -> None:
    async with served(configure(tmp_path, bind="127.0.0.1:0"), most=2) as server:
        with server.plain() as first, server.plain():
            await eventually(lambda: len(server.door.guests) == 2, 10, "guests")
            _, answer = await server.ask()
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert server.door.closed["made_room"] == 1
            await asyncio.to_thread(first.recv, 1)


@pytest.mark.parametrize(("said", "counted"), [(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1), (b"", 0)])
async def test_a_peer_that_speaks_no_tls_is_gone(tmp_path: Path, said: bytes, counted: int) -> None:
    async with served(configure(tmp_path, bind="127.0.0.1:0")) as server:
        with server.plain() as plain:
            await eventually(lambda: len(server.door.guests) == 1, 10, "a guest")
            plain.sendall(said)
            plain.shutdown(socket.SHUT_WR)
            await eventually(lambda: not server.door.guests, 10, "its end")
        assert server.door.closed["no_handshake"] == counted


# ------------------------------------------------------------------------------ commands


async def said(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `fairlead`, asked from a thread."""
    run: Callable[..., Any] = CliRunner().invoke
    result = await asyncio.to_thread(run, main, arguments, catch_exceptions=False)
    return result.exit_code, result.output


@pytest.mark.parametrize("tls", [{}, {"client_ca": "ca.pem"}])
async def test_commands_believe_the_certificate_that_the_file_names(
    tmp_path: Path, tls: dict[str, str]
) -> None:
    file = str(configure(tmp_path, bind=f"127.0.0.1:{free_port()}", tls=tls))
    async with served(Path(file)) as server:
        assert (await said("services", "-c", file, "--json"))[0] == 0
        configure(tmp_path, RENEWED, bind=f"127.0.0.1:{server.address[1]}", tls=tls)
        message = server.files.message
        await eventually(lambda: server.files.message is not message, 10, "the new certificate")
        assert (await said("services", "-c", file, "--json"))[0] == 0
        (tmp_path / "other").mkdir()
        other = configure(tmp_path / "other", OTHER, bind=f"127.0.0.1:{server.address[1]}")
        code, output = await said("services", "-c", str(other))
        assert code == 1
        assert "its certificate: " in output


async def test_commands_believe_authorities_that_they_are_told(tmp_path: Path) -> None:
    made = AUTHORITY.issue("127.0.0.1")
    async with served(configure(tmp_path, made, bind="127.0.0.1:0")) as server:
        url = f"https://127.0.0.1:{server.address[1]}"
        code, output = await said("services", "--admin", url)
        assert (code, "its certificate: " in output) == (1, True)
        ca = str(tmp_path / "ca.pem")
        assert (await said("services", "--json", "--admin", url, "--admin-ca", ca))[0] == 0
        code, output = await said("services", "--admin", url, "--admin-ca", str(tmp_path / "no"))
        assert (code, "No such file" in output) == (2, True)
