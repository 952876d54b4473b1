"""`fairlead demo`: a registry, sample services and the proxy on one machine, nothing left behind.

The proxy is the real one, with the `proxy.yaml` of the current directory. Things start from
the registry up and stop the other way round, so the proxy drains while there is still somebody
to answer. Everything that runs belongs to this process and ends with it, even if it is killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec
import uvloop

from proxy import log as log_setup
from proxy.admin_client import believing_only, url_of
from proxy.control.launch import describe_exit, module_command
from proxy.control.openings import StartError
from proxy.control.process import raise_file_limit, serve
from proxy.control.signals import Signals
from proxy.control.sockets import BindError, listen_alone, parse_bind
from proxy.embedded_etcd import EmbeddedEtcd, EtcdFailed
from proxy.settings.file import Settings
from proxy.settings.load import load, parse
from proxy.settings.process import AdminSettings, LogSettings, ShutdownSettings
from proxy.settings.route import RouteSpec

SAMPLES: Mapping[str, Sequence[int]] = {"users": (1, 1), "orders": (1, 1), "catalog": (3, 1)}
"""Service → weight of each of its instances. Each instance is a process, so that one can be
killed to see what happens."""

READY_LIMIT = 60.0
"""Seconds until everything must be there; it takes two or three on an idle machine."""

STOP_LIMIT = 5.0
"""Seconds a sample service has to deregister before it is killed."""

BUILT_IN = """\
listeners: [{bind: "127.0.0.1:8080"}]
registry: {type: etcd, endpoints: ["${FAIRLEAD_ETCD:-http://127.0.0.1:2379}"]}
routes:
  - {host: users.example.com, service: users}
  - {path_prefix: /orders, strip_prefix: true, service: orders}
  - {path_prefix: "/svc/{service}", strip_prefix: true}
"""
"""Used where there is no proxy.yaml, as after `pip install` outside of a checkout."""


def run(file: Path | None, port: int | None, admin_port: int | None) -> int:
    """Run the demo until Ctrl-C; the exit code. `file` None = the built-in configuration.
    StartError, or ConfigError, when it cannot start."""
    raise_file_limit()
    return uvloop.run(_run(file, port, admin_port))


async def _run(file: Path | None, port: int | None, admin_port: int | None) -> int:
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(Signals())
        # Before anything is started, so that a mistake costs no time; the address of the
        # registry does not matter yet.
        settings = _settings(file, "http://127.0.0.1:2379", port, admin_port)
        log_setup.set_up(settings.log)
        _probe(settings)
        click.echo("starting etcd, the sample services and the proxy ...")
        try:
            etcd = await stack.enter_async_context(EmbeddedEtcd())
        except EtcdFailed as error:
            raise StartError(str(error)) from error
        settings = _settings(file, etcd.url, port, admin_port)
        if etcd.url not in settings.registry.options.addresses:
            raise StartError(
                f"{file}: registry.endpoints: must hold ${{FAIRLEAD_ETCD}}, which stands for the"
                " demo's own etcd"
            )
        samples = await stack.enter_async_context(Samples(etcd.url))
        announcing = asyncio.create_task(_announce(settings, etcd.url, samples))
        try:
            code = await serve(settings, signals)
            click.echo("stopping ...")
            return code
        finally:
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)


def _settings(file: Path | None, etcd: str, port: int | None, admin_port: int | None) -> Settings:
    """The file's settings with what the demo changes: ports if asked, a quiet log, and a stop
    without delay, since nobody balances over this proxy."""
    environ = {**os.environ, "FAIRLEAD_ETCD": etcd}
    settings = parse(BUILT_IN, "(built in)", environ) if file is None else load(file, environ)
    first, *others = settings.listeners
    if port is not None:
        first = msgspec.structs.replace(first, bind=_with_port(first.bind, port))
    admin = settings.admin
    if admin_port is not None:
        admin = msgspec.structs.replace(admin, bind=_with_port(admin.bind, admin_port))
    return msgspec.structs.replace(
        settings,
        listeners=(first, *others),
        admin=admin,
        log=LogSettings(level="warning", format="console"),
        shutdown=ShutdownSettings(delay=0.0, grace=settings.shutdown.grace),
    )


def _with_port(bind: str, port: int) -> str:
    if parse_bind(bind).path is not None:
        raise StartError(f"{bind}: a unix listener has no port to change")
    return f"{bind.rpartition(':')[0]}:{port}"


def _probe(settings: Settings) -> None:
    """Are the addresses free? StartError with the way out if not."""
    wanted = [(f"listener {one.name}", one.bind, "--port") for one in settings.listeners]
    wanted.append(("admin", settings.admin.bind, "--admin-port"))
    for name, bind, option in wanted:
        try:
            if parse_bind(bind).path is None:
                listen_alone(bind).close()
        except BindError as error:
            raise StartError(f"{name}: {error}; {option} N chooses another port") from error


class Samples:
    """Owns the processes of the sample services."""

    def __init__(self, etcd: str) -> None:
        self._etcd = etcd
        self._processes: dict[str, Process] = {}
        self._watching: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def pids(self) -> dict[str, int]:
        """Instance id → process id."""
        return {name: process.pid for name, process in self._processes.items()}

    async def __aenter__(self) -> Samples:
        try:
            for service, weights in SAMPLES.items():
                for number, weight in enumerate(weights, start=1):
                    await self._start(service, f"{service}-{number}", weight)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self, service: str, instance: str, weight: int) -> None:
        process = await asyncio.create_subprocess_exec(
            *module_command("proxy.demo_service"),
            *("--service", service, "--id", instance, "--etcd", self._etcd),
            *("--weight", str(weight)),
            # The pipe is the life line: the instance ends when this process does.
            stdin=subprocess.PIPE,
            # Ctrl-C is for the demo, which stops the instances after the proxy.
            start_new_session=True,
        )
        self._processes[instance] = process
        self._watching.append(asyncio.create_task(self._watch(instance, process)))

    async def _watch(self, instance: str, process: Process) -> None:
        returncode = await process.wait()
        if not self._stopping:
            click.echo(f"{instance} is gone: {describe_exit(returncode)}")

    async def stop(self) -> None:
        """End all instances, those that hang by force."""
        self._stopping = True
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            _signal(process.terminate)
        if self._watching:
            await asyncio.wait(self._watching, timeout=STOP_LIMIT)
        for process in running:
            if process.returncode is None:
                _signal(process.kill)
        await asyncio.gather(*self._watching, return_exceptions=True)


def _signal(send: Any) -> None:
    try:
        send()
    except ProcessLookupError:
        pass


# --------------------------------------------------------------------------- what to try


async def _announce(settings: Settings, etcd: str, samples: Samples) -> None:
    """Print what to try once every sample service is known, or what is missing."""
    admin = url_of(settings.admin.bind, secure=settings.admin.tls is not None)
    missing = await _wait_until_known(admin, settings.admin)
    if missing:
        click.echo(f"after {READY_LIMIT:g} s still missing: {', '.join(missing)}")
    click.echo(_page(settings, admin, etcd, samples.pids))


async def _wait_until_known(admin: str, settings: AdminSettings) -> list[str]:
    """Services that do not have all their instances ready in time; [] = all well."""
    headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
    tls = settings.tls
    context = tls and believing_only(tls.cert, tls.key, shows=tls.client_ca is not None)
    limit = aiohttp.ClientTimeout(total=2.0)
    deadline = time.monotonic() + READY_LIMIT
    missing = list(SAMPLES)
    connector = aiohttp.TCPConnector(ssl=context or True)
    async with aiohttp.ClientSession(
        timeout=limit, headers=headers, connector=connector
    ) as session:
        while missing and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
            try:
                async with session.get(f"{admin}/readyz") as answer:
                    if answer.status != 200:
                        continue
                async with session.get(f"{admin}/api/v1/services") as answer:
                    rows = (await answer.json())["services"]
            except (aiohttp.ClientError, OSError, TimeoutError):
                continue
            ready = {row["name"]: row["ready"] for row in rows}
            missing = [name for name, of in SAMPLES.items() if ready.get(name, 0) < len(of)]
    return missing


def _page(settings: Settings, admin: str, etcd: str, pids: Mapping[str, int]) -> str:
    lines = ["", "Fairlead is running. Try, as often as you like:", ""]
    lines += [f"  {example}" for example in examples(settings)]
    lines += ["", "What the proxy knows:", ""]
    fairlead = _command()
    lines += [f"  {fairlead} {words} --admin {admin}" for words in ("services", "instances users")]
    lines += [f"  curl {admin}/api/v1/{path}" for path in ("services/users", "registry", "workers")]
    lines += [f"  curl {admin}/metrics", "", f"The dashboard is at {admin}/ .", ""]
    first = next(iter(pids.items()), None)
    if first is not None:
        lines += [f"Kill an instance and go on asking:  kill -9 {first[1]}   ({first[0]})"]
    lines += [f"The registry is etcd at {etcd}.", "", "Ctrl-C stops everything.", ""]
    return "\n".join(lines)


def _command() -> str:
    """How this command is started from the shell that started the demo."""
    if shutil.which("fairlead"):
        return "fairlead"
    beside = Path(sys.executable).with_name("fairlead")
    return os.path.relpath(beside) if beside.exists() else f"{sys.executable} -m proxy"


def examples(settings: Settings) -> list[str]:
    """A curl command for each route that leads to a sample service."""
    bind = next((one.bind for one in settings.listeners if not one.bind.startswith("unix:")), None)
    if bind is None:
        return []
    return [
        command
        for number, route in enumerate(settings.routes)
        if (command := _example(route, url_of(bind), number)) is not None
    ]


def _example(route: RouteSpec, url: str, number: int) -> str | None:
    """A command for a route; None if it leads to no sample service."""
    templated = list(SAMPLES)[number % len(SAMPLES)]
    service = route.service or templated
    if service not in SAMPLES:
        return None
    return " ".join(_words(route, url, service))


def _words(route: RouteSpec, url: str, service: str) -> Iterator[str]:
    yield "curl"
    if route.methods and "GET" not in route.methods:
        yield f"-X {route.methods[0]}"
    if route.host is not None:
        host = route.host.replace("{service}", service).replace("*", "www")
        yield f"-H 'Host: {host}'"
    for name, value in route.headers.items():
        yield f"-H '{name}: {value}'"
    prefix = (route.path_prefix or "").replace("{service}", service).rstrip("/")
    yield f"{url}{prefix}/hello"
