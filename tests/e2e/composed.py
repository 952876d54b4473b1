"""`Composed`: a file of Compose, replayed. Each container is process 1 of namespaces of its own,
with the words, volumes, user, network, names, order and time to stop that the file says.

What is not replayed is what images are made of: all have the file system of this machine, and one
that is built has Fairlead (`own_root.py`).
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import yaml

from proxy.embedded_etcd import etcd_binary
from tests.e2e.etcd_server import BINARY
from tests.e2e.own_root import BIN, in_own_root
from tests.e2e.programs import REPOSITORY, output
from tests.support.processes import AwaitedProcess, children, eventually

IMAGE = (REPOSITORY / "deploy/Dockerfile").read_text("utf-8")
PATH = f"PATH={BIN}:/usr/local/bin:/usr/bin:/bin"
GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL where the file says nothing."""


def said_by_image(word: str) -> str:
    """What the last instruction of that name in the image's file says."""
    return re.findall(rf"^{word} (.*)", IMAGE, re.MULTILINE)[-1]


def _inside(container: AwaitedProcess) -> bool:
    """Whether its command has begun, in the place of the script that made its root, and that in
    the place of `unshare`."""
    for pid in children(container.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        return words != b"" and not words.startswith((b"unshare\0", b"/bin/sh\0-c"))
    return container.returncode is not None


class Composed:
    """Owns the containers and their networks."""

    def __init__(self, file: Path) -> None:
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", file.read_text("utf-8"))
        self._services: Mapping[str, Any] = yaml.safe_load(text)["services"]
        self._directory = file.parent
        self._stack = AsyncExitStack()
        self._networks: dict[str, int] = {}
        """Who has a network of its own → a process in it."""
        self._containers: dict[str, AwaitedProcess] = {}
        self.ended: list[str] = []
        """In the order of their ends."""

    async def __aenter__(self) -> Self:
        """Start all, each after those that it depends on."""
        try:
            await self._connect()
            for name in self._order():
                self._containers[name] = await self._container(name)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _order(self) -> list[str]:
        order: list[str] = []
        while len(order) < len(self._services):
            for name, service in self._services.items():
                if name not in order and {*service.get("depends_on", ())} <= {*order}:
                    order.append(name)
        return order

    # -- networks

    def _network_of(self, name: str) -> str:
        return str(self._services[name].get("network_mode", name)).removeprefix("service:")

    async def _connect(self) -> None:
        """Networks for all that have one, on a bridge."""
        bridge = await self._network("bridge")
        await self._ip(bridge, "link add bridge type bridge")
        await self._ip(bridge, "link set bridge up")
        names = sorted({self._network_of(name) for name in self._services})
        hosts = ["127.0.0.1 localhost"]
        for number, name in enumerate(names, 2):
            pid = self._networks[name] = await self._network(name)
            await self._ip(bridge, f"link add port{number} type veth peer name eth0 netns {pid}")
            await self._ip(bridge, f"link set port{number} master bridge up")
            await self._ip(pid, f"addr add 10.0.0.{number}/24 dev eth0")
            await self._ip(pid, "link set eth0 up")
            hosts.append(f"10.0.0.{number} {name}")
        (self._directory / "hosts").write_text("\n".join(hosts) + "\n")

    async def _network(self, name: str) -> int:
        hold = "ip link set lo up && echo up && exec sleep infinity"
        command = ["unshare", "--net", "--kill-child", "/bin/sh", "-c", hold]
        holder = AwaitedProcess(command, self._directory / f"{name}-network.log")
        holder.launch()
        self._stack.push_async_callback(holder.kill)
        await eventually(lambda: holder.log() == "up\n", what=holder.log)
        return holder.pid

    async def _ip(self, network: int, words: str) -> None:
        await output("nsenter", f"--target={network}", "--net", "ip", *words.split())

    # -- containers

    async def _container(self, name: str) -> AwaitedProcess:
        service = self._services[name]
        binds = {"/etc/hosts": self._directory / "hosts"}
        binds["/usr/local/bin/etcd"] = BINARY or etcd_binary()
        read_only = []
        for volume in service.get("volumes", ()):
            here, there, *mode = volume.split(":")
            binds[there] = (self._directory / here).resolve()
            read_only += [f"mount -o remount,bind,ro {there}"] * (mode == ["ro"])
        words = service["command"]
        user = service.get("user", "0")
        if "build" in service:
            words = [*json.loads(said_by_image("ENTRYPOINT")), *words]
        root = self._directory / f"{name}-root"
        root.mkdir()
        network = self._networks[self._network_of(name)]
        container = AwaitedProcess(
            [
                *("nsenter", f"--target={network}", "--net"),
                *("unshare", "--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child"),
                *in_own_root(root, binds, "\n".join(read_only)),
                *("setpriv", f"--reuid={user}", "--clear-groups", "--inh-caps=-all"),
                *("env", "-i", PATH, "HOME=/", *words),
            ],
            self._directory / f"{name}.log",
        )
        container.launch()
        self._stack.push_async_callback(container.kill)
        await eventually(lambda: _inside(container), what=container.log)
        return container

    def _first(self, name: str) -> int:
        """Process 1 of a container, by its number outside."""
        (pid,) = children(self._containers[name].pid)
        return pid

    async def run(self, name: str, *words: str, **options: Any) -> str:
        """What a command in a container writes, as by `exec`; `options`: of `output`."""
        enter = ("nsenter", f"--target={self._first(name)}", "--mount", "--pid", "--net", "--wd=/")
        return (await output(*enter, "env", "-i", PATH, *words, **options)).decode()

    def log(self, name: str = "") -> str:
        """What one of them wrote, or all."""
        names = [name] if name else self._containers
        return "".join(self._containers[one].log() for one in names)

    async def down(self) -> dict[str, int]:
        """Stop all, each after those that depend on it; their exit codes, -9 for one that had to
        be killed."""
        ends: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as stopping:
            for name in reversed(self._order()):
                first = [
                    ends[one] for one in ends if name in self._services[one].get("depends_on", ())
                ]
                ends[name] = stopping.create_task(self._stop(name, first))
        return {name: one.returncode or 0 for name, one in self._containers.items()}

    async def _stop(self, name: str, dependents: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*dependents)
        service, container = self._services[name], self._containers[name]
        number = signal.SIGTERM
        if "build" in service:
            number = signal.Signals[said_by_image("STOPSIGNAL")]
        grace = float(str(service.get("stop_grace_period", GRACE)).removesuffix("s"))
        await output("kill", f"-{number}", str(self._first(name)))
        try:
            await container.wait(grace)
        except AssertionError:
            await container.kill()
        self.ended.append(name)
