"""Each line of docs/troubleshooting.md: its words are said when things are as it tells, and not
when they are well, here or in the test that stands behind it (`tests/unit/test_errors.py` looks
whether there is one)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.running import RunningProxy
from tests.e2e.test_cli import fairlead
from tests.support.processes import eventually, free_port

PAGE = (Path(__file__).parents[2] / "docs/troubleshooting.md").read_text("utf-8")
WORDS = [
    found[1]
    for line in PAGE.splitlines()
    if (found := re.match(r"\| `([^`]+)`", line)) and not line.endswith("`) |")
]
TRIED = {
    "no route for": ("GET /nowhere", "GET /well"),
    "no service is called": ("GET /t/ghost", "GET /t/well"),
    "more requests per": ("GET /few again", "GET /few"),
    "has no usable instance": ("GET /none", "GET /well"),
    "is busy, and so is the queue": ("GET /busy", "GET /well"),
    "Connection refused": ("GET /dead", "GET /well"),
    "did not answer within": ("GET /slow", "GET /well"),
    "idle_timeout": ("access log /stops", "access log /well"),
    '"first_byte_ms"': ("access log /late", "log"),
    '"attempts":2': ("access log /either", "access log /well"),
    "QUEUE": ("services: waits", "services: well"),
    "no connection from 1 worker": ("instances dead", "instances well"),
    "fairlead_worker_lag_seconds": ("lag of a worker that was stopped", "log"),
    "not picked": ("explain /busy", "explain /well"),
    "drained by the operator": ("instances busy, drained", "instances busy"),
    "a random pick": ("explain /hashed", "explain /hashed, with the key"),
    "PANIC": ("services: ill", "services: well"),
    "FALLBACK": ("services: spare", "services: well"),
    "is registered no more, and finishes": ("instances gone, unregistered", "instances gone"),
    "comes first": ("explain http://other.example/dead", "explain /well"),
    "RECORD REFUSED": ("services: broken", "services: well"),
    "odd        ": ("registry", "registry, with good records"),
    "connected  no": ("registry of nobody", "registry"),
    "never answered": ("registry of nobody", "registry"),
    "in the registry": ("instances ill", "instances well"),
    "refused to registered instances": ("instances here", "instances well"),
    "file": ("services: well", "services: ill"),
    "is the proxy running?": ("services where nobody listens", "services"),
    "asks for a token": ("services without a token", "services"),
    "this server is not called": ("admin by another name", "admin by its name"),
    "answered 404: no instance": ("drain dead/ghost", "drain busy/a"),
    "the configuration from before serves on": ("reload of a bad file", "reload"),
    "is not a known key": ("reload of a bad file", "reload"),
    "spans_not_exported": ("log", "log without tracing"),
}
"""Words → what was said in their situation, and nothing else; and what is said in one that differs
by the cause alone, or else where all is well."""

SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LOGGED_IN = {"Authorization": "Bearer t"}
RECORDS = """
broken: [{{id: a, address: 10.0.0.1{port}}}]
odd: [{{id: a, address: 10.0.0.1, port: 80{metadata}}}]
ill: [{{id: a, address: 10.0.0.1, port: 80, health: {{status: starting}}}}]
here: [{{id: a, address: 169.254.169.254, port: 80}}]
{gone}: [{{id: a, address: 127.0.0.1, port: {silent}}}]
"""


def records(silent: int, *, good: bool) -> str:
    """A list with a record that cannot be read and one that is odd; or, `good`, without these, and
    without `gone`."""
    port, metadata = (", port: 80", "") if good else ("", ", metadata: 7")
    gone = "other" if good else "gone"
    return RECORDS.format(silent=silent, port=port, metadata=metadata, gone=gone)


def config(
    directory: Path, admin_port: int, well: int, silent: int, stops: int, nobody: int
) -> Any:
    def at(*ports: int, **more: Any) -> dict[str, Any]:
        named = zip("abc", ports, strict=False)
        return {
            "instances": [{"id": id_, "address": "127.0.0.1", "port": port} for id_, port in named],
            **more,
        }

    limit = {"requests": 1, "per": "60s", "key": "host"}
    services = {
        "well": at(well),
        "late": at(well),
        "dead": at(nobody),
        "slow": at(silent, timeouts={"first_byte": "200ms"}),
        "stops": at(stops, timeouts={"idle": "200ms"}),
        "none": {},
        "busy": at(silent, max_inflight=1),
        "waits": at(silent, max_inflight=1, queue={"size": 9}, timeouts={"queue": "60s"}),
        "few": at(nobody, rate_limit=limit),
        "either": at(nobody, stops, timeouts={"idle": "200ms"}),
        "hashed": at(nobody, balancer={"type": "consistent_hash", "key": "header:X-User"}),
        "spare": {"fallback_instances": at(nobody)["instances"]},
        "gone": {},
    }
    return {
        "admin": {"bind": f"127.0.0.1:{admin_port}", "token": "t"},
        "registry": {"type": "file", "path": str(directory), "interval": "100ms"},
        "services": services,
        "routes": [
            *({"path_prefix": f"/{name}", "service": name} for name in services),
            {"path_prefix": "/t/{service}"},
            {"path_prefix": "/", "host": "other.example", "service": "dead"},
        ],
        "access_log": {"path": str(directory.parent / "access.log")},
        "tracing": {"endpoint": f"http://127.0.0.1:{nobody}/v1/traces"},
        "workers": 1,
    }


class Situations:
    """Owns what was said, by the situation in which it was."""

    def __init__(self, proxy: RunningProxy, directory: Path) -> None:
        self.heard: dict[str, str] = {}
        self._proxy, self._directory = proxy, directory

    async def said(self, *arguments: str, of: str = "", admin: str = "", token: str = "t") -> str:
        """What a command prints. `of`: the situation, if the command does not tell."""
        environ = {"FAIRLEAD_ADMIN_TOKEN": token}
        where = ("--admin", admin or self._proxy.admin)
        _, output, errors = await fairlead(*arguments, *where, cwd=self._directory, environ=environ)
        self.heard[of or " ".join(arguments)] = output + errors
        return output

    async def services(self) -> None:
        """What `fairlead services` says, and of it what it says of each."""
        for line in (await self.said("services")).splitlines():
            self.heard[f"services: {line.split()[0]}"] = line

    async def fetch(
        self, client: aiohttp.ClientSession, path: str, of: str = "", url: str = "", **more: Any
    ) -> None:
        """What is answered."""
        try:
            async with client.get((url or self._proxy.url) + path, **more) as answer:
                self.heard[of or f"GET {path}"] = await answer.text()
        except aiohttp.ClientPayloadError:
            pass  # It was cut.

    def lines(self, text: str) -> None:
        """Lines of the access log, by their targets."""
        for line in text.splitlines():
            target = json.loads(line)["target"]
            self.heard[f"access log {target}"] = self.heard.get(f"access log {target}", "") + line


async def test_words_of_the_page_are_said_in_the_situations_that_it_tells(tmp_path: Path) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi")
        await hold(reader, writer)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.read(4096)):
            await asyncio.sleep(0.5 * (b" /late " in head))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        writer.close()

    directory = tmp_path / "records"
    directory.mkdir()
    async with AsyncExitStack() as stack:
        ports = []
        for serve in (answer, hold, stop):
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            stack.callback(server.close)
            ports.append(server.sockets[0].getsockname()[1])
        _, silent, _ = ports
        port, nobody = free_port(), free_port()
        list_file = directory / "x.yaml"
        list_file.write_text(records(silent, good=False))
        proxy = RunningProxy(config(directory, port, *ports, nobody), tmp_path)
        proxy.admin_port = port
        await stack.enter_async_context(proxy)
        client = await stack.enter_async_context(
            aiohttp.ClientSession(headers={"traceparent": SPAN})
        )
        all_ = Situations(proxy, tmp_path)
        held: list[asyncio.Task[None]] = []

        async def hold_one(service: str, field: str = "inflight") -> None:
            """A request that stays: `field`: what tells that it does."""
            held.append(asyncio.create_task(all_.fetch(client, f"/{service}", f"held {service}")))

            async def is_taken() -> bool:
                _, document = await proxy.get(f"/api/v1/services/{service}", LOGGED_IN)
                of = document["limits"] if field == "waiting" else document["instances"][0]
                return bool(of[field])

            await eventually(is_taken, 10, f"a request of {service} with {field}")

        for path in ("/well", "/t/well", "/nowhere", "/t/ghost", "/none", "/dead", "/slow"):
            await all_.fetch(client, path)
        for path in ("/stops", "/late", "/few"):
            await all_.fetch(client, path)
        await all_.fetch(client, "/few", "GET /few again")
        for _ in range(2):  # One of them begins where nobody listens.
            await all_.fetch(client, "/either")
        for service in ("busy", "waits", "gone"):
            await hold_one(service)
        await hold_one("waits", "waiting")
        await all_.fetch(client, "/busy")
        await all_.services()
        await all_.said("services", of="services without a token", token="")
        await all_.said(
            "services", of="services where nobody listens", admin=f"http://127.0.0.1:{nobody}"
        )
        for of, host in (
            ("admin by another name", "another.example"), ("admin by its name", "localhost"),
        ):  # fmt: skip
            headers = {**LOGGED_IN, "Host": host}
            await all_.fetch(client, "/api/v1/services", of, proxy.admin, headers=headers)
        for service in ("well", "dead", "busy", "ill", "here", "gone", "either"):
            await all_.said("instances", service)
        await all_.said("registry")
        await all_.said("drain", "dead/ghost")
        await all_.said("drain", "busy/a")
        await all_.said("instances", "busy", of="instances busy, drained")
        for url in ("/well", "/busy", "/hashed", "http://other.example/dead"):
            await all_.said("explain", url)
        keyed = ("explain", "/hashed", "--header", "X-User: ann")
        await all_.said(*keyed, of="explain /hashed, with the key")

        list_file.write_text(records(silent, good=True))

        async def has_left() -> bool:
            _, document = await proxy.get("/api/v1/services/gone", LOGGED_IN)
            return [one["status"] for one in document["instances"]] == ["left"]

        await eventually(has_left, 20, "the instance that left")
        await all_.said("instances", "gone", of="instances gone, unregistered")
        await all_.said("registry", of="registry, with good records")
        await all_.said("reload")
        proxy.file.write_text("routes: [{path_prefix: nope}]\nnosuch: 1\n")
        await all_.said("reload", of="reload of a bad file")
        _, document = await proxy.get("/api/v1/workers", LOGGED_IN)
        worker = document["workers"][0]["pid"]

        async def late() -> bool:
            """The worker was stopped for as long as a report is due."""
            os.kill(worker, signal.SIGSTOP)
            await asyncio.sleep(1.5)
            os.kill(worker, signal.SIGCONT)
            for _ in range(20):  # Until the report after that is there, and not yet the next one.
                _, page = await proxy.get("/metrics", LOGGED_IN)
                (line,) = re.findall(r"fairlead_worker_lag_seconds{.*} .*", page)
                if float(line.split()[-1]) > 0.1:
                    all_.heard["lag of a worker that was stopped"] = line
                    return True
                await asyncio.sleep(0.1)
            return False

        await eventually(late, 30, "a lag that is told")
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        log = tmp_path / "access.log"

        async def logged() -> bool:
            return "spans_not_exported" in proxy.log() and "idle_timeout" in log.read_text()

        await eventually(logged, 20, "lines about spans and requests")
        all_.lines(log.read_text())
        all_.heard["log"] = proxy.log()
        await _without_a_registry(all_, stack, tmp_path)
    heard = all_.heard
    assert {*WORDS} == TRIED.keys()
    for words, (situation, well) in TRIED.items():
        assert words in heard[situation], (words, situation)
        assert words not in heard[well], (words, well)
    _causes_show_where_the_page_says(heard)


def _causes_show_where_the_page_says(heard: dict[str, str]) -> None:
    """What to do about it leads to the cause."""
    late = json.loads(heard["access log /late"])
    assert late["first_byte_ms"] > late["duration_ms"] / 2
    assert "connect_refused" in heard["instances either"]  # Who failed first.
    assert "registry_record_refused" in heard["log"]
    assert "broken/a" in heard["registry"]
    assert "first_byte_timeout" in heard["access log /slow"]
    assert "busy/a: drained" in heard["drain busy/a"]
    assert "->" in heard["explain http://other.example/dead"]
    assert "routes.0.path_prefix" in heard["reload of a bad file"]


async def _without_a_registry(all_: Situations, stack: AsyncExitStack, directory: Path) -> None:
    """A registry that never answers."""
    registry = {"type": "http", "endpoints": [f"http://127.0.0.1:{free_port()}/x"]}
    routes = [{"path_prefix": "/{service}"}]
    proxy = RunningProxy({"registry": registry, "routes": routes}, directory)
    proxy.launch()
    stack.push_async_callback(proxy.kill)
    stack.push_async_callback(proxy.stop)

    async def lost() -> bool:
        told = await all_.said("registry", of="registry of nobody", admin=proxy.admin)
        return "connected  no" in told and "never answered" in told

    await eventually(lost, 20, "a registry that does not answer")
    all_.heard["log without tracing"] = proxy.log()
