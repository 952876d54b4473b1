"""`fairlead ca` as commands and as a server, and a side-car whose leaf it renews."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from proxy.cli import main
from proxy.mesh import authority as authority_of_the_mesh
from proxy.mesh.renewal import RenewalServer
from tests.e2e.beside import Beside
from tests.e2e.certificates import Authority
from tests.e2e.etcd_server import EtcdServer
from tests.e2e.origin import Origin
from tests.support.processes import AwaitedProcess, eventually, free_port, listens


def ran(*words: str) -> str:
    result = CliRunner().invoke(main, ["ca", *words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[tuple[Path, int]]:
    """The directory of an authority, and the port of its server."""
    directory, port = tmp_path / "ca", free_port()
    ran("init", str(directory), "--trust-domain", "mesh.local")
    command = [sys.executable, "-m", "proxy", "ca", "serve", str(directory)]
    server = AwaitedProcess([*command, "--bind", f"127.0.0.1:{port}"], tmp_path / "ca.log")
    server.launch()
    try:
        await eventually(lambda: listens(port), 20.0, server.log)
        yield directory, port
        assert await server.stop() == 0
    finally:
        await server.kill()


async def test_a_sidecar_has_its_leaf_renewed(authority: tuple[Path, int], tmp_path: Path) -> None:
    directory, port = authority
    async with EtcdServer() as etcd, Origin("users") as program:
        side = Beside(
            *("users", program.instance["port"], tmp_path, Authority(tmp_path), etcd.url),
            *("--renew-from", f"https://127.0.0.1:{port}", "--drain-wait", "300ms"),
        )
        ran("issue", str(directory), "users", "--out", str(side.identity), "--life", "25s")
        short = (side.identity / "tls.crt").read_bytes()
        async with side:
            await eventually(lambda: "identity_renewed" in side.log(), what=side.log)
            assert (side.identity / "tls.crt").read_bytes() != short

            async def used() -> bool:
                _, text = await side.ask_admin("/api/v1/certificates")
                (one,) = json.loads(text)["listeners"][0]["certificates"]
                begin, end = (
                    datetime.fromisoformat(one[key]) for key in ("not_before", "not_after")
                )
                return end - begin > timedelta(hours=20)

            await eventually(used, 15.0, side.log)


@pytest.mark.parametrize("who", ["nobody", "foreign", "itself"])
async def test_a_client_that_is_no_service_gets_no_leaf(
    authority: tuple[Path, int], tmp_path: Path, who: str
) -> None:
    directory, port = authority
    context = ssl.create_default_context(cafile=directory / "ca.crt")
    context.check_hostname = False
    if who == "foreign":
        context.load_cert_chain(*Authority(tmp_path).issue("users.mesh.local"))
    elif who == "itself":
        authority_of_the_mesh.Authority(directory).issue("ca", tmp_path / "own")
        context.load_cert_chain(tmp_path / "own" / "tls.crt", tmp_path / "own" / "tls.key")
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"https://127.0.0.1:{port}/renew", data=b"", ssl=context) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, ssl.SSLError):
        status = 0
    assert status == (403 if who == "itself" else 0)


async def test_an_authority_that_cannot_be_read_for_a_moment_goes_on_serving(
    tmp_path: Path,
) -> None:
    directory, port, stop = tmp_path / "ca", free_port(), asyncio.Event()
    ran("init", str(directory))
    server = RenewalServer(directory, look=0.1)
    with capture_logs() as logs:
        serving = asyncio.create_task(server.serve("127.0.0.1", port, stop))
        await eventually(lambda: listens(port))
        (directory / "issuing.key").rename(directory / "away")
        await eventually(lambda: any(one["event"] == "authority_not_read" for one in logs))
    assert await listens(port)
    stop.set()
    await serving


@pytest.mark.parametrize("name", ["ca", "CA"])
def test_a_leaf_with_the_name_of_the_authority_is_not_issued(tmp_path: Path, name: str) -> None:
    ran("init", str(tmp_path / "ca"))
    words = ["ca", "issue", str(tmp_path / "ca"), name, "--out", str(tmp_path / "own")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "the authority's own name" in result.output
    assert not (tmp_path / "own").exists()
