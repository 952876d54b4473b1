"""A proxy of which everything speaks TLS, and whose files are renewed while it runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from proxy.tls.contexts import ServerPolicy, server_context
from tests.e2e.running import RunningProxy
from tests.support.certificates import Authority, Made
from tests.support.processes import eventually

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
