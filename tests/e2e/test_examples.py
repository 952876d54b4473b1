"""The programs under examples/, run as a reader would run them, with real etcd."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.etcd_server import EtcdClient, EtcdServer
from tests.e2e.running import RunningProxy
from tests.support.processes import AwaitedProcess, eventually, free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


class Example(AwaitedProcess):
    """Owns one example's process, which registers itself or, with a `check`, has a side-car."""

    def __init__(
        self, service: str, directory: Path, etcd: str, command: Sequence[str], check: str = ""
    ) -> None:
        self.port = free_port()
        if check:
            command = [
                *(sys.executable, "-m", "proxy", "register"),
                *("--service", service, "--port", str(self.port), "--endpoints", etcd),
                *("--check", check.format(port=self.port), "--drain-wait", "100ms"),
                *("--", *command),
            ]
        environ = {"PORT": str(self.port), "ETCD": etcd, "DRAIN_WAIT": "0.1"}
        environ["PYTHON"] = sys.executable
        super().__init__(command, directory / f"{service}.log", environ, EXAMPLES.parent)


def missing(*modules: str) -> bool:
    return any(find_spec(module) is None for module in modules)


def examples(directory: Path, etcd: str) -> dict[str, Example]:
    """Those that this machine can run, by service."""

    def add(service: str, program: str, script: str, check: str = "") -> None:
        command = [program, str(EXAMPLES / script)]
        found[service] = Example(service, directory, etcd, command, check)

    found: dict[str, Example] = {}
    add("hello-aiohttp", sys.executable, "aiohttp_service.py")
    add("hello-shell", "sh", "shell_service.sh", "tcp://127.0.0.1:{port}")
    if not missing("fastapi", "uvicorn"):
        add("hello-fastapi", sys.executable, "fastapi_service.py")
    if shutil.which("node"):
        add("hello-node", "node", "node_service.js", "http://127.0.0.1:{port}/health")
    return found


ANSWERS = {
    "hello-aiohttp": "hello from aiohttp",
    "hello-fastapi": '{"hello":"from FastAPI"}',
    "hello-node": "hello from Node",
    "hello-shell": "hello from a shell script",
}


def test_every_example_has_its_test() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".js", ".sh")}
    named = {service.removeprefix("hello-") + "_service" for service in ANSWERS}
    named.add("embedded")  # `test_embedding.py` has that.
    assert {Path(name).stem for name in files} == named


@pytest.mark.timeout(90)
async def test_each_registers_is_served_and_leaves(tmp_path: Path) -> None:
    """All of them at once, through the real proxy, by the names they registered under."""
    async with EtcdServer() as etcd, EtcdClient(etcd.url) as client:
        running = examples(tmp_path, etcd.url)
        assert {"hello-aiohttp", "hello-shell"} <= set(running)
        config = {
            "registry": {"type": "etcd", "endpoints": [etcd.url]},
            "routes": [{"path_prefix": "/{service}", "strip_prefix": True}],
        }
        try:
            for example in running.values():
                example.launch()
            async with (
                RunningProxy(config, tmp_path) as proxy,
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            ):

                async def answer(service: str) -> str | None:
                    async with session.get(f"{proxy.url}/{service}/") as reply:
                        return await reply.text() if reply.status == 200 else None

                for service in running:
                    text = await eventually(
                        lambda service=service: answer(service),  # type: ignore[misc]
                        30,
                        f"{service} answers through the proxy",
                    )
                    assert text.strip() == ANSWERS[service]
                records = await eventually(
                    lambda: _healthy(client, len(running)), 10, "all are registered as healthy"
                )
                assert {service: record["port"] for service, record in records.items()} == {
                    service: example.port for service, example in running.items()
                }
                for example in running.values():
                    example.signal(signal.SIGTERM)
                codes = {service: await example.wait() for service, example in running.items()}
                # uvicorn ends by the signal it was sent, once it has shut down.
                assert {code for name, code in codes.items() if name != "hello-fastapi"} == {0}
                assert codes.get("hello-fastapi", 0) in (0, -signal.SIGTERM)
                assert await _records(client) == {}
        except BaseException:
            _show_logs(tmp_path)
            raise
        finally:
            for example in running.values():
                await example.kill()


def _show_logs(directory: Path) -> None:
    for log in directory.glob("hello-*.log"):
        sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')}\n")


async def _healthy(client: EtcdClient, number: int) -> dict[str, dict[str, Any]] | None:
    records = await _records(client)
    statuses = [record["health"]["status"] for record in records.values()]
    return records if statuses == ["healthy"] * number else None


async def _records(client: EtcdClient) -> dict[str, dict[str, Any]]:
    """By service; each has one instance."""
    values = await client.get_all("/services/")
    return {key.split("/")[2]: json.loads(value) for key, value in values.items()}
