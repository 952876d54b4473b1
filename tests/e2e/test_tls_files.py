"""A proxy of which everything speaks TLS, and whose files are renewed while it runs."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.tls.contexts import ServerPolicy, server_context
from tests.e2e import certificates
from tests.e2e.origin import Origin
from tests.e2e.programs import need, output
from tests.e2e.running import RunningProxy
from tests.e2e.secure import NAME, SecureClient, SecureProxy
from tests.support.certificates import Authority, Made
from tests.support.processes import eventually, free_port

PAGE = (Path(__file__).parents[2] / "docs" / "tls.md").read_text("utf-8")
AUTHORITY = Authority()
INSTANCE = AUTHORITY.issue("users.internal")
OURS = AUTHORITY.issue("proxy.internal", number=1)
RENEWED = AUTHORITY.issue("proxy.internal", number=2)


@asynccontextmanager
async def instance() -> AsyncIterator[tuple[int, set[bytes]]]:
    """Its port, and the certificates that it was shown: it serves nobody without one."""
    shown: set[bytes] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.add(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    context = server_context([INSTANCE], ServerPolicy(client_ca=AUTHORITY.ca))
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1], shown


def put(directory: Path, made: Made) -> None:
    (directory / "ours.pem").write_bytes(made.cert)
    (directory / "ours.key").write_bytes(made.key)


def der(made: Made) -> bytes:
    end = "-----END CERTIFICATE-----\n"
    return ssl.PEM_cert_to_DER_cert(made.cert.decode().partition(end)[0] + end)


def service(port: int, name: str) -> dict[str, Any]:
    return {
        "instances": [{"id": "one", "address": "127.0.0.1", "port": port}],
        "health_check": {"type": "http", "interval": "200ms", "fall": 1},
        "tls": {"ca": "ca.pem", "cert": "ours.pem", "key": "ours.key", "server_name": name},
    }


async def test_requests_and_checks_show_and_verify_the_same(tmp_path: Path) -> None:
    put(tmp_path, OURS)
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.ca)
    async with instance() as (port, shown):
        names = {"good": "users.internal", "bad": "others.internal"}
        config = {
            "services": {name: service(port, proven) for name, proven in names.items()},
            "routes": [{"path_prefix": f"/{name}", "service": name} for name in names],
        }
        async with RunningProxy(config, tmp_path) as proxy:
            await eventually(lambda: der(OURS) in shown, 10, "a check")

            async def is_found_out() -> bool:
                _, document = await proxy.get("/api/v1/services/bad")
                return "its certificate" in document["instances"][0]["reason"]

            await eventually(is_found_out, 10, "the wrong certificate in a check")
            async with aiohttp.ClientSession(proxy.url) as session:
                for path, status in (("/good", 204), ("/bad", 502)):
                    async with session.get(path) as answered:
                        assert answered.status == status
                put(tmp_path, RENEWED)
                await eventually(lambda: der(RENEWED) in shown, 20, "the new one in a check")
                async with session.get("/good") as answered:
                    assert answered.status == 204


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_ends_with_the_authority_of_its_client(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    old, new = (certificates.Authority(tmp_path, name) for name in ("old", "new"))
    believed = tmp_path / "clients.pem"
    believed.write_bytes(old.ca.read_bytes())
    async with Origin() as origin:
        config = {
            "services": {"s": {"instances": [origin.instance]}},
            "routes": [{"path_prefix": "/{service}"}],
        }
        async with SecureProxy(config, tmp_path, tls={"client_ca": str(believed)}) as proxy:
            former, present = (
                proxy.authority.client(
                    *authority.issue("partner", stem=authority.ca.stem + "-client"),
                    minimum_version=version,
                    maximum_version=version,
                )
                for authority in (old, new)
            )
            session = None
            for resumed in (False, True):
                async with await proxy.secure(context=former, session=session) as client:
                    assert (await client.ask("GET", "/s/x", host=NAME)).status == 200
                    assert client.tls.session_reused is resumed
                    session = client.tls.session
            (tmp_path / "next.pem").write_bytes(new.ca.read_bytes())
            os.replace(tmp_path / "next.pem", believed)

            async def is_refused() -> bool:
                try:
                    async with await proxy.secure(context=former, session=session) as client:
                        await client.ask("GET", "/s/x", host=NAME)
                except (ssl.SSLError, ConnectionError):
                    return True
                return False

            await eventually(is_refused, 20, "that the session is worth nothing")
            async with await proxy.secure(context=present) as client:
                assert (await client.ask("GET", "/s/x", host=NAME)).status == 200


async def test_an_authority_of_ones_own_is_made_as_the_page_says(tmp_path: Path) -> None:
    recipe = PAGE.partition("### With an authority of your own")[2].split("```")[1]
    certs = tmp_path / "certs"
    certs.mkdir()
    await output(need("bash"), "-ec", f"cd {tmp_path}\n{recipe}")
    await output(
        need("openssl"), "verify", "-x509_strict", "-CAfile", str(tmp_path / "ca.crt"),
        str(certs / "www.pem"),
    )  # fmt: skip
    port = free_port()
    tls = {"certificates": [{"directory": "certs"}], "client_ca": "ca.crt"}
    listener = {"name": "https", "bind": f"127.0.0.1:{port}", "tls": tls}
    config = {"listeners": [listener], "routes": [{"path": "/", "respond": {"status": 204}}]}
    context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    context.load_cert_chain(certs / "www.pem", certs / "www.key")
    async with (
        RunningProxy(config, tmp_path),
        await SecureClient.connect_to(port, context, "a.apps.internal") as client,
    ):
        assert (await client.ask("GET", "/", host="www.internal")).status == 204
