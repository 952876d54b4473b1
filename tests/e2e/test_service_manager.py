"""The dialogue with a service manager, which here is a socket that takes what it is told."""

from __future__ import annotations

import os
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.origin import origins
from tests.e2e.programs import REPOSITORY, need, output
from tests.e2e.raw_http import Client, request
from tests.e2e.reloading import name, reload, rewrite
from tests.e2e.running import RunningProxy
from tests.support.processes import eventually, free_port

UNITS = REPOSITORY / "deploy" / "systemd"
CONFIG: dict[str, Any] = {"workers": 2, "routes": [{"service": "none"}]}


class Manager:
    """Owns the socket, and what came."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)
        self._told: list[str] = []

    def environ(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address, **more}

    def told(self) -> list[str]:
        """All messages so far."""
        while True:
            try:
                self._told.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return self._told

    def states(self) -> list[str]:
        """First lines of those that are about the state of the service."""
        lines = [message.partition("\n")[0] for message in self.told()]
        return [line for line in lines if not line.startswith(("STATUS=", "WATCHDOG="))]


@contextmanager
def manager(address: str) -> Iterator[Manager]:
    one = Manager(address)
    with one.socket:
        yield one


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
async def test_a_life_from_start_to_stop(tmp_path: Path, abstract: bool) -> None:
    address = f"@fairlead-{uuid.uuid4()}" if abstract else str(tmp_path / "notify")
    with manager(address) as told:
        async with RunningProxy(CONFIG, tmp_path, environ=told.environ()) as proxy:
            await eventually(lambda: told.states() == ["READY=1"], 10, told.told)
            assert "READY=1\nSTATUS=serving" in told.told()
            rewrite(proxy, {"routes": [{"service": "another"}]})
            proxy.signal(signal.SIGHUP)
            await eventually(lambda: len(told.states()) == 3, 10, told.told)
            began, over = told.told()[-2:]
            assert began.startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert over == "READY=1\nSTATUS=serving; reloaded, keys changed: 1"
            rewrite(proxy, {"x": 1})
            assert (await reload(proxy))[0] == 2
            await eventually(lambda: len(told.states()) == 5, 10, told.told)
            began, over = told.told()[-2:]
            assert began.startswith("RELOADING=1\nMONOTONIC_USEC=")
            assert over.startswith(f"READY=1\nSTATUS=reload refused: {proxy.file}:1: x: ")
            rewrite(proxy, {})
            await reload(proxy, "--dry-run")
        assert told.states()[5:] == ["STOPPING=1"]


async def test_a_start_is_over_although_the_registry_does_not_answer(tmp_path: Path) -> None:
    nowhere = {"type": "etcd", "endpoints": [f"http://127.0.0.1:{free_port()}"]}
    with manager(str(tmp_path / "notify")) as told:
        proxy = RunningProxy({**CONFIG, "registry": nowhere}, tmp_path, environ=told.environ())
        proxy.launch()
        try:
            await eventually(lambda: told.states() == ["READY=1"], 30, told.told)
            assert "no full set of instances is known yet" in told.told()[-1]
        finally:
            await proxy.stop()


async def test_a_stop_is_told_of_when_it_begins(tmp_path: Path) -> None:
    async with origins("one", script=name) as (one,):
        services = {"none": {"instances": [one.instance]}}
        with manager(str(tmp_path / "notify")) as told:
            async with (
                RunningProxy(
                    {**CONFIG, "services": services}, tmp_path, environ=told.environ()
                ) as proxy,
                await Client.connect(proxy.port) as client,
            ):
                await client.send(request("POST", "/", [("Content-Length", "1")]))
                await eventually(lambda: one.in_flight, 10, "the request")
                proxy.signal(signal.SIGTERM)
                await eventually(lambda: told.states()[-1] == "STOPPING=1", 10, told.told)
                await client.send(b"x")
                assert (await client.answer()).body == b"one"


@pytest.mark.drill
async def test_no_sign_of_life_is_given_while_a_worker_is_silent(tmp_path: Path) -> None:
    with manager(str(tmp_path / "notify")) as told:
        environ = told.environ(WATCHDOG_USEC="1000000")
        async with RunningProxy(CONFIG, tmp_path, environ=environ) as proxy:
            await eventually(lambda: told.told().count("WATCHDOG=1") > 3, 20, told.told)
            victim = (await proxy.worker_pids())[1]
            os.kill(victim, signal.SIGSTOP)
            await eventually(lambda: '"worker_silent"' in proxy.log(), 30, "the silence")
            signs = told.told().count("WATCHDOG=1")

            async def silent_for_long() -> bool:
                return (await proxy.workers())[1]["silent"] >= 8

            await eventually(silent_for_long, 30, "more of it")
            assert told.told().count("WATCHDOG=1") == signs
            os.kill(victim, signal.SIGCONT)
            await eventually(lambda: told.told().count("WATCHDOG=1") > signs + 1, 20, told.told)


async def test_a_service_manager_that_is_gone_is_no_obstacle(tmp_path: Path) -> None:
    gone = {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "200000"}
    async with RunningProxy(CONFIG, tmp_path, environ=gone) as proxy:
        await reload(proxy)
    assert proxy.log().count("cannot notify the service manager") == 1


@pytest.mark.parametrize("unit", sorted(UNITS.iterdir()), ids=lambda unit: unit.name)
async def test_units_are_accepted_by_systemd(tmp_path: Path, unit: Path) -> None:
    for one in UNITS.iterdir():
        # The program need not be installed where tests run.
        text = one.read_text().replace("/opt/fairlead/bin/fairlead", sys.executable)
        (tmp_path / one.name).write_text(text)
    command = [need("systemd-analyze"), "verify", str(tmp_path / unit.name)]
    assert await output("/bin/sh", "-c", 'exec "$@" 2>&1', "sh", *command) == b""
